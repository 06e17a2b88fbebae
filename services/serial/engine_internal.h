/*
 * What the files of the engine share (engine.h has what it is for).
 *
 *   engine.c         the turn, and what other threads may ask
 *   engine_status.c  how this replica is: told to the others; whether the leader is lost; the level of commands
 *   engine_start.c   from a data directory to a running engine, and back; what the peers and the replica call
 */
#ifndef SERIAL_ENGINE_INTERNAL_H
#define SERIAL_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#include "services/serial/engine.h"
#include "services/serial/failover.h"
#include "services/serial/inbox.h"
#include "services/serial/integrity.h"
#include "services/serial/members.h"
#include "services/serial/replica.h"
#include "services/serial/view.h"

struct engine {
	struct store *store;
	struct state *state;
	struct replica *replica;
	struct inbox *inbox;
	struct view *view;
	struct peers *peers;
	struct integrity *integrity;
	char *data_dir;
	void (*changed)(void *arg, struct state *state, uint64_t revision);
	void (*leader_changed)(void *arg);
	void (*ended)(void *arg, const char *why);
	void *arg;

	uv_loop_t loop;
	uv_async_t wake;
	uv_timer_t timer;
	pthread_t thread;
	atomic_bool stopping;
	atomic_bool reported; /* a peer has lost its leader, or a stream broke */
	atomic_uint level;    /* of the state (level.h) */
	_Atomic uint64_t fresh_ms; /* replica_fresh_ms() */
	atomic_bool announce; /* a peer came up: it wants to hear how we are */
	bool loop_ready, handles_ready, thread_ready;

	/* The thread's own. */
	Kds__V1__ReplicaStatus status;
	bool raising; /* a RaiseLevel of ours is on its way */
	unsigned status_every_ms;
	uint64_t status_due_ms;
	struct failover failover;
	uint64_t failover_due_ms;
	uint64_t leader_id; /* as Raft has it; 0: none. status.leader_id is 0 also when it is lost */
	struct buffer scratch;
	struct members *members;
	uint64_t tick_from_ms; /* UINT64_MAX: it does not take part yet */
	bool first;            /* it stands for election first when the cluster begins */
	unsigned election_ms, heartbeat_ms;
	uint64_t members_due_ms;
	bool has_genesis; /* and the peers know it */
};

/* The thread. */
void *engine_run(void *engine);
void engine_on_wake(uv_async_t *wake);
/* Ends the loop. On its thread, or when it has none. */
void engine_close_handles(struct engine *e);
/* Everything that is still in the inbox when the engine ends. */
void engine_refuse_inbox(struct engine *e);
/* A replica that was added has its first entries now, and with them its place in one cluster for good. */
void engine_learn_genesis(struct engine *e);

/* The leader, when all its streams had broken before this turn's messages were taken: what it sent before is known. 0: it
 * is there, or none is known. */
uint64_t engine_gone_leader(struct engine *e);
/* At the end of a turn: what has changed is told at once, all of it now and then. */
void engine_publish_status(struct engine *e, uint64_t gone, bool changed, uint64_t now);

#endif
