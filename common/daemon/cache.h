/*
 * Replicated objects on disk, so that a daemon that restarts while no replica answers begins with what it knew.
 * A file of mode 0600, written whole or not at all: magic, SHA-256 of the rest, then frames (u32 big-endian length |
 * bytes): the cluster's id, and each object packed exactly as replicated (keys in it stay sealed).
 */
#ifndef DAEMON_CACHE_H
#define DAEMON_CACHE_H

#include "common/daemon/objects.h"

/* Blocks. Errors as file_write(). */
enum status_code cache_write(const char *path, const char *cluster_id, const struct objects *objects,
			     struct status *st) MUST_CHECK;

/* Puts what the file holds into `objects`. NOT_FOUND: there is none; DATA_LOSS: damaged; FAILED_PRECONDITION: of
 * another cluster. Some objects may be there after a failure. Blocks. */
enum status_code cache_read(const char *path, const char *cluster_id, struct objects *objects,
			    struct status *st) MUST_CHECK;

#endif
