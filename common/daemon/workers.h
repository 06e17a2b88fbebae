/*
 * A pool of threads for work that costs time (signatures, derivations), fed by a bounded queue.
 */
#ifndef DAEMON_WORKERS_H
#define DAEMON_WORKERS_H

#include "common/base/status.h"

struct workers;

/* `threads` 0: one a core. */
enum status_code workers_start(unsigned threads, unsigned max_queued, struct status *st,
			       struct workers **ret_workers) MUST_CHECK;
/* Runs what is queued, then ends the threads. NULL is allowed. */
void workers_stop(struct workers *w);
/* Queues work(arg); never blocks. RESOURCE_EXHAUSTED: the queue is full, nothing was queued. */
enum status_code workers_submit(struct workers *w, void (*work)(void *arg), void *arg, struct status *st) MUST_CHECK;

#endif
