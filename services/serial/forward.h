/*
 * Sees to it that the leader answers a call, whoever that is by then: passes it on to the leader's RPC port on behalf of its
 * caller, with the same request id, or gives it back where this replica leads itself. While no leader is known, but a
 * majority of the voters is there, calls wait for one; a call whose leader goes is given to the next. Who may have had it
 * twice is known by its request id; a write without one is not repeated.
 *
 * An administrator's write is not passed on (rpc_call_may_pass_on()): its caller is sent to the leader, once one is known.
 *
 * All of it within what is left of the call's deadline, and no longer than `hold_ms` after the first failure: then
 * UNAVAILABLE, and the caller tries another replica. A call that was passed on to us is not passed on again, so none can go
 * round in circles.
 */
#ifndef SERIAL_FORWARD_H
#define SERIAL_FORWARD_H

#include <sys/queue.h>

#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "services/serial/engine.h"

struct forward;

/* One call to be answered; in the call's memory (rpc_call_alloc()), zeroed but for the first part. */
struct forward_task {
	struct rpc_call *call;
	struct slice payload; /* lives until the answer */
	bool repeatable;      /* may be done twice: a read */
	void (*here)(void *arg); /* this replica leads: answers the call, or forward_call() again. Any thread */
	void *arg;

	/* The module's own. */
	struct forward *forward;
	uint64_t give_up_ms;         /* 0: nothing has gone wrong yet */
	uint64_t due_ms;             /* of the next try */
	TAILQ_ENTRY(forward_task) entry;
};

/* Nothing is connected yet. `trust` is borrowed, of the credentials a reference is taken. */
enum status_code forward_new(struct tls_credentials *credentials, struct trust *trust, unsigned hold_ms, struct status *st,
			     struct forward **ret_forward) MUST_CHECK;
/* Starts its thread. Before the first call; `engine` is borrowed until forward_stop(). */
enum status_code forward_start(struct forward *f, struct engine *engine, struct status *st) MUST_CHECK;
/* Answers what is under way and all that comes later with UNAVAILABLE. Blocks. NULL is allowed. */
void forward_stop(struct forward *f);
/* When no more calls can come. NULL is allowed. */
void forward_free(struct forward *f);
void forward_set_credentials(struct forward *f, struct tls_credentials *credentials);
/* Another leads, or nobody. Any thread, never blocks; also before forward_start(). */
void forward_leader_changed(struct forward *f);

/* Answers the call, in the end. Any thread, never blocks. */
void forward_call(struct forward *f, struct forward_task *task);

#endif
