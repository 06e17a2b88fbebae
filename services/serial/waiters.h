/* Who waits for which log entry to be applied, or for which round of confirmations, in their order. One thread. */
#ifndef SERIAL_WAITERS_H
#define SERIAL_WAITERS_H

#include <raft.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/base/status.h"
#include "services/serial/engine.h"

/* Exactly one of the two functions is set. */
struct waiter {
	raft_index index;
	engine_done_fn done; /* a proposal: the result of applying it */
	engine_read_fn read; /* a read that may run once the round is confirmed (replica_reads.c) */
	void *arg;
};

/* Zero-initialised is empty. */
struct waiters {
	struct waiter *ring;
	size_t cap; /* a power of two */
	size_t first, n;
};

/* Makes room for `more`. False: no memory. */
bool waiters_reserve(struct waiters *w, size_t more) MUST_CHECK;
/* Into reserved room; indexes never go down. */
void waiters_add(struct waiters *w, const struct waiter *waiter);
/* Takes the first if its index is at most `index`. */
bool waiters_take(struct waiters *w, raft_index index, struct waiter *ret_waiter);
/* Those behind `index` get `why`, and what they asked is unknown to have happened. */
void waiters_fail(struct waiters *w, raft_index index, const struct status *why);
void waiters_fini(struct waiters *w);

/* Answers one with a failure. */
void waiter_fail(const struct waiter *w, const struct status *why);

#endif
