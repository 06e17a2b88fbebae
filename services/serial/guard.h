/*
 * The file `acknowledged` beside the database (store.h says why): a lower bound of index and term, 64 bytes rewritten
 * in place. Used by store.c alone.
 */
#ifndef SERIAL_GUARD_H
#define SERIAL_GUARD_H

#include <raft.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/status.h"

struct guard {
	int fd; /* -1: not open for writing */
	raft_index index;
	raft_term term;
	uint64_t written_ms; /* clock_monotonic_ms() of the last write */
};

/* Reads DIR/acknowledged; zeroes where there is none, or where a crash left it empty. */
enum status_code guard_read(struct guard *g, const char *dir, struct status *st) MUST_CHECK;
/* Opens it for writing, makes it when there is none. */
enum status_code guard_open(struct guard *g, const char *dir, struct status *st) MUST_CHECK;
void guard_close(struct guard *g);

/* Everything up to index and term is durable in the database. Writes now and then; false: errno says why. */
bool guard_raise(struct guard *g, raft_index index, raft_term term) MUST_CHECK;
/* The log is about to end at `index`: durable when it returns true. */
bool guard_lower(struct guard *g, raft_index index) MUST_CHECK;
/* Writes what guard_raise() put off. */
bool guard_flush(struct guard *g) MUST_CHECK;

#endif
