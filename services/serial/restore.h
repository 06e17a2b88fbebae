/*
 * A log that begins with the state of a backup: in a new cluster (`kds-cli backup restore`), or in that of the one
 * replica that is left (recover.h).
 *
 * The file (common/backup/file.h) holds the state and what was decided; it is read once to check all of it, and once to
 * load it, in one transaction with the log's first entries. They hold the file's digest, so replicas that began with
 * other files, or without one, do not talk to each other (genesis.h).
 */
#ifndef SERIAL_RESTORE_H
#define SERIAL_RESTORE_H

#include "services/serial/engine.h"

/*
 * Puts log and state of the store in the place of what it holds. FAILED_PRECONDITION: the file is of another cluster, not
 * prepared, or of a newer version; DATA_LOSS: damaged; then the store is as it was. Blocks for as long as that takes.
 */
enum status_code restore_begin(struct store *store, const char *file, const struct engine_options *options,
			       struct status *st) MUST_CHECK;

/* The log has begun and the configuration names a file: FAILED_PRECONDITION when it began without one. */
enum status_code restore_check(const struct store_genesis *stored, struct status *st) MUST_CHECK;

#endif
