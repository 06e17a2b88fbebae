/*
 * A pool of threads for work that costs time (signatures, derivations), fed by a bounded queue in which those who have
 * work waiting take turns (common/base/turns.h).
 */
#ifndef DAEMON_WORKERS_H
#define DAEMON_WORKERS_H

#include "common/base/status.h"
#include "common/base/turns.h"

struct workers;

struct workers_limits {
	unsigned threads;        /* 0: one a core */
	unsigned max_queued;     /* in all */
	unsigned max_queued_one; /* of one owner */
};

/* One piece of work; kept by the caller until `work` begins. */
struct workers_job {
	struct turns_entry turn; /* turn.whose: whose it is */
	void (*work)(void *arg);
	void *arg;
};

enum status_code workers_start(const struct workers_limits *limits, struct status *st,
			       struct workers **ret_workers) MUST_CHECK;
/* Runs what is queued, then ends the threads. NULL is allowed. */
void workers_stop(struct workers *w);
/* Queues work(arg); never blocks. RESOURCE_EXHAUSTED: the queue is full, or its owner's share of it; nothing was queued. */
enum status_code workers_submit(struct workers *w, struct workers_job *job, struct status *st) MUST_CHECK;

#endif
