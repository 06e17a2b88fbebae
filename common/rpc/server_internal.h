/* What server.c (methods, limits, deadlines, connections) and call.c (the life of a call) share, for these alone. */
#ifndef RPC_SERVER_INTERNAL_H
#define RPC_SERVER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "common/rpc/envelope.h"
#include "common/rpc/quota.h"
#include "common/rpc/server.h"

LIST_HEAD(call_list, rpc_call);

struct method {
	char name[METHOD_MAX + 1]; /* "Serial.Show" */
	size_t name_len;
	ProtobufCService *service;
	unsigned index;
	const ProtobufCMethodDescriptor *descriptor;
	unsigned allow;
	unsigned flags;
	unsigned rate;
};

/* One connection. Counted: the connection itself (until `down`) and each of its calls. */
struct session {
	struct conn *conn; /* a reference */
	atomic_uint refs;
	/* Under the server's mutex: */
	struct quota_account *account; /* open from `up` to `down` */
	unsigned running;       /* calls that their handlers still hold */
	struct call_list calls; /* those whose caller still waits */
};

/*
 * One call, in an arena of its own. Counted: one reference is the handler's, which the answer gives back, and one the
 * server's lists', while somebody waits for the answer.
 */
struct rpc_call {
	struct rpc_server *server;
	struct session *session;    /* a reference */
	const struct method *method;
	const struct identity *identity;
	struct identity *forwarded; /* the same when it is our own reference */
	struct arena *arena;
	uint64_t deadline;
	size_t request_bytes; /* as the server counts it: the frame, or more once it is unpacked */
	struct slice request_id;
	const char *trace_id;
	struct slice payload; /* of a routed method: in the arena */
	void *data;
	uint8_t header[SP_MAX_WORDS * 4];
	size_t header_len;
	atomic_uint refs;
	atomic_bool expired;
	bool secret;

	/* Under the server's mutex: */
	struct quota_account *account; /* its caller's; open from admission to the answer */
	struct quota_account *through; /* likewise: of the replica that passed it on; NULL: nobody did */
	bool listed; /* somebody waits: it is in the server's list, its connection's and its bucket */
	LIST_ENTRY(rpc_call) in_server;
	LIST_ENTRY(rpc_call) in_session;
	LIST_ENTRY(rpc_call) in_bucket;
	struct rpc_call *taken; /* next of those that were taken off together */
};

struct rpc_server {
	struct rpc_server_limits limits;
	struct method *methods; /* sorted by name; fixed once listeners run */
	size_t n_methods;
	rpc_route_fn route;
	void *route_arg;
	rpc_may_forward_fn may_forward;
	void *may_forward_arg;

	pthread_mutex_t mutex;
	pthread_cond_t wake;  /* the sweeper: an earlier deadline, or the end */
	pthread_cond_t empty; /* the last call was answered, or the last but long polls */
	pthread_t sweeper;
	bool draining; /* takes no new calls */
	bool stopping;
	uint64_t earliest;          /* no listed call's deadline is before */
	struct call_list calls;     /* listed ones */
	struct call_list *buckets;  /* the same by session and header */
	size_t n_buckets;           /* a power of two */
	struct quota *quota;
	struct rpc_server_stats stats;
};

/* call.c */

/* Takes one frame from a connection, from its header on. */
void call_receive(struct rpc_server *s, struct session *session, struct slice frame, size_t header_len);
/* Answers DEADLINE_EXCEEDED for a call that the sweeper took off the lists, and gives its reference back. */
void call_expire(struct rpc_call *call);
void call_unref(struct rpc_call *call);

/* server.c */

const struct method *server_find(const struct rpc_server *s, struct slice name);
/*
 * Puts a call on the lists. OK; RESOURCE_EXHAUSTED: over a limit or a rate (then it says when to come back); UNAVAILABLE:
 * draining; ALREADY_EXISTS: its id still runs on the connection. Takes a reference of its own.
 */
enum status_code server_admit(struct rpc_server *s, struct rpc_call *call, struct status *st,
			      struct rpc_detail *ret_detail) MUST_CHECK;
/* It takes so much unpacked, which may be many times the frame. RESOURCE_EXHAUSTED: over the limit. */
enum status_code server_charge(struct rpc_server *s, struct rpc_call *call, size_t bytes,
			       struct status *st) MUST_CHECK;
/* The handler is done with it. True: somebody still waits, send the answer. The server may be gone afterwards. */
bool server_finish(struct rpc_server *s, struct rpc_call *call, bool failed);
/* Counts a request that was refused before it became a call. */
void server_count_refused(struct rpc_server *s);

void session_unref(struct session *session);

#endif
