/*
 * The file `acknowledged` beside the database (store.h says why): what the newest commit made this replica promise, 128
 * bytes rewritten in place. Used by store.c alone.
 */
#ifndef SERIAL_GUARD_H
#define SERIAL_GUARD_H

#include <raft.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/status.h"

struct guard_mark {
	raft_index index;     /* the log's last */
	raft_term entry_term; /* of that entry; 0: not known */
	raft_term term;       /* this replica's */
	raft_id vote;         /* in that term; 0: none */
};

struct guard {
	int fd; /* -1: not open for writing */
	struct guard_mark mark;
};

/* Reads DIR/acknowledged; zeroes where there is none, or where a crash left it empty. */
enum status_code guard_read(struct guard *g, const char *dir, struct status *st) MUST_CHECK;
/* Opens it for writing, makes it when there is none. */
enum status_code guard_open(struct guard *g, const char *dir, struct status *st) MUST_CHECK;
void guard_close(struct guard *g);

/* All this is durable in the database. Writes, without fsync, what is news; false: errno says why. */
bool guard_raise(struct guard *g, const struct guard_mark *mark) MUST_CHECK;
/* The log is about to end at `index`: durable when it returns true. */
bool guard_lower(struct guard *g, raft_index index) MUST_CHECK;

#endif
