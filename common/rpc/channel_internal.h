/*
 * What the files of the channel share: channel.c (the interface), pending.c (requests and how they end), link.c (the
 * connection, fail-over, timers). For these alone.
 *
 * One mutex guards all of it. Requests that have ended wait in `ended` until channel_unlock() runs their callbacks,
 * with the mutex released.
 */
#ifndef RPC_CHANNEL_INTERNAL_H
#define RPC_CHANNEL_INTERNAL_H

#include <pthread.h>
#include <sys/queue.h>

#include "common/rpc/channel.h"
#include "common/rpc/envelope.h"

TAILQ_HEAD(pending_list, pending);

/* One request until its callback has run. */
struct pending {
	TAILQ_ENTRY(pending) entry; /* of channel.pending or channel.ended */
	uint32_t id;                /* on the wire, without SP_ID_BIT */
	rpc_done_fn done;
	void *arg;
	const ProtobufCMessageDescriptor *output; /* NULL: raw */
	struct buffer wire;                       /* the envelope but its timeout */
	char method[METHOD_MAX + 1];
	unsigned timeout_ms;
	uint64_t started;
	uint64_t deadline;
	uint64_t sent_at;
	struct conn *sent_on; /* the connection it is in flight on; only compared, never followed */
	bool had_it;          /* a server may have it */
	bool turned_down;     /* the last answer was UNAVAILABLE */
	bool no_retry;
	bool long_poll;
	bool secret;
	struct status outcome; /* once it has ended by itself */
};

struct address {
	char *text;
	bool refused; /* the last try ended with UNAUTHENTICATED or PERMISSION_DENIED */
};

#define CHANNEL_SERVICES 16
#define CHANNEL_ASK_MAX 256
struct channel_service {
	ProtobufCService base; /* what stubs get; must come first */
	struct rpc_channel *channel;
};

struct rpc_channel {
	char *server_name;
	struct trust *trust;
	unsigned expect_roles;
	unsigned default_timeout_ms;
	unsigned max_pending;
	struct conn_limits limits;

	pthread_mutex_t mutex;
	pthread_cond_t wake;  /* the timer thread: something is due earlier, or ended, or the end */
	pthread_cond_t quiet; /* a connection has gone, a callback has returned */
	pthread_t timer;
	bool stopping;    /* rpc_channel_free() has begun */
	uint64_t wake_at; /* when the timer thread looks next */

	struct channel_service services[CHANNEL_SERVICES];
	struct tls_credentials *credentials;
	struct address *addresses;
	size_t n_addresses;
	size_t current; /* the address of the connection, or the next to try */
	char detour[CHANNEL_ASK_MAX]; /* instead: one that a replica named, which is none of ours; "": none */
	unsigned hints; /* of that kind, followed in a row */

	struct conn *conn;   /* a reference; NULL: none */
	bool up;
	bool probed;         /* Health.Check was sent since the last frame came */
	uint64_t heard_at;   /* the last frame, or the dialling */
	unsigned open_conns; /* whose `down` has not returned */
	unsigned delivering; /* callbacks that run just now */

	uint64_t retry_at;   /* when to try again; 0: nothing to try */
	unsigned pause_ms;
	uint64_t failed_at;
	struct status reason; /* of the last failure */

	struct pending **slots; /* by id */
	uint32_t slot_mask;
	uint32_t next_id;
	unsigned n_pending;
	size_t pending_bytes;
	struct pending_list pending; /* oldest first */
	struct pending_list ended;
};

/* channel.c */

/* Runs the callbacks of what has ended, without the mutex, and leaves it released. */
void channel_unlock(struct rpc_channel *ch);
/* The timer thread looks at `when`, or earlier. */
void channel_wake_at(struct rpc_channel *ch, uint64_t when);

/* pending.c; with the mutex held but for pending_answer() and pending_finish() */

/* Gives it an id and puts it on the list. RESOURCE_EXHAUSTED: too many. */
enum status_code pending_add(struct rpc_channel *ch, struct pending *p, struct status *st) MUST_CHECK;
/* NULL: none has the id. */
struct pending *pending_find(struct rpc_channel *ch, uint32_t id);
uint32_t pending_next_id(struct rpc_channel *ch);
void pending_remove(struct rpc_channel *ch, struct pending *p);
/* Ends it: off the list, its callback will say so. */
void pending_end(struct rpc_channel *ch, struct pending *p, const struct status *why);
void pending_end_late(struct rpc_channel *ch, struct pending *p);
/* Runs the callback with the answer of a server, and frees it. */
void pending_answer(struct pending *p, const struct response_envelope *response, size_t max_unpacked);
/* Runs the callback with the outcome, and frees it. */
void pending_finish(struct pending *p);
void pending_free(struct pending *p);

/* link.c; with the mutex held */

/* Leaves a server whose certificate has expired or was refused since the handshake: it is to see no further request. */
void link_recheck(struct rpc_channel *ch);
/* Sends it, or sees to it that it will be. */
void link_send(struct rpc_channel *ch, struct pending *p);
/* What the timer thread does: deadlines, silence, the next try. Returns when to look again. */
uint64_t link_tick(struct rpc_channel *ch, uint64_t now);
/* Closes the connection, whose `down` will be that of a stranger. Requests in flight on it must learn of it. */
void link_drop(struct rpc_channel *ch);
/* As rpc_channel_drop(). */
void link_give_up(struct rpc_channel *ch);
/* As rpc_channel_leave(). */
void link_leave(struct rpc_channel *ch);
/* Begins anew with another address, if it was still connecting. */
void link_redial(struct rpc_channel *ch);

#endif
