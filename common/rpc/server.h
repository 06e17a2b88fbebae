/*
 * Serves protobuf-c services: one SP REQ/REP frame in, one out (proto/rpc.proto), answered in any order.
 *
 * A request's way: envelope checked, method found, caller's role checked against the method table, its rate and what
 * it has under way counted (quota.h), route asked (below), payload unpacked into an arena of bounded size and checked
 * (message.h), handler called. What is refused is counted by reason (common/base/tally.h).
 * A handler is a method of the generated service vtable. It gets the `struct rpc_call *` as closure_data, must not
 * block, and answers exactly once, now or later, from any thread: by calling the closure it was given with the
 * answer (packed before it returns), or rpc_call_fail(). The input lives until the answer.
 * Answers after the deadline, or for a connection that is gone, are dropped: that is no error.
 *
 * A second request with an id that still runs on its connection is dropped: stock req0 sends a request again when it
 * waits long.
 */
#ifndef RPC_SERVER_H
#define RPC_SERVER_H

#include <protobuf-c/protobuf-c.h>

#include "common/net/listener.h"
#include "common/rpc/detail.h"

struct rpc_server;
struct rpc_call;

/* Who may call a method. A method of a registered service without a row is refused when it is registered. */
struct rpc_access {
	const char *method;  /* "Show" */
	unsigned allow;      /* bits of enum peer_role; PEER_ANYONE: whoever has a certificate, also without a role */
	unsigned flags;      /* RPC_* below */
	unsigned rate;       /* which of the server's rates it draws from (rpc_server_set_rate()); 0: none */
};
#define RPC_ROUTED 1u    /* offer it to the route first (a write that belongs to the leader) */
#define RPC_LONG_POLL 2u /* waits for news: counts against max_waiting, not against max_calls */
#define RPC_ANONYMOUS 4u /* also for peers without a certificate (their identity is NULL) */
#define RPC_READ 8u      /* changes and grants nothing: replicas pass it on for administrators, too (below) */

/* What one identity may have at once, over all its connections. */
struct rpc_share {
	unsigned calls;
	unsigned waiting; /* long polls */
	size_t bytes;
};

/* One eighth of max_calls, max_waiting and max_request_bytes each is kept for nodes, for services and for
 * administrators (quota.h). */
struct rpc_server_limits {
	unsigned max_calls;            /* being answered, in all; one more: RESOURCE_EXHAUSTED */
	unsigned max_calls_connection; /* of one connection */
	unsigned max_waiting;          /* long polls, in all */
	size_t max_request_bytes;      /* of the requests being answered, as they came or unpacked, in all */
	struct rpc_share node;         /* of it all, for one node with its clients, or one who has no role */
	struct rpc_share service;      /* for one service or administrator */
	size_t max_request;            /* bytes of one request's payload. The same wherever a request may pass */
	size_t max_unpacked;           /* bytes that one request may take unpacked */
	size_t max_answer;             /* packed; a larger one becomes RESOURCE_EXHAUSTED. What fits a frame */
	unsigned default_timeout_ms;   /* for a request that names none */
	unsigned max_timeout_ms;
};
#define RPC_PAYLOAD_MAX ((size_t)(1 << 20) - 1024) /* a frame's, less ENVELOPE_ROOM */
#define RPC_SERVER_LIMITS_DEFAULT ((struct rpc_server_limits){ .max_calls = 16384, .max_calls_connection = 4096, \
	.max_waiting = 8192, .max_request_bytes = 256 << 20, \
	.node = { .calls = 256, .waiting = 32, .bytes = 16 << 20 }, \
	.service = { .calls = 8192, .waiting = 1024, .bytes = 128 << 20 }, \
	.max_request = RPC_PAYLOAD_MAX, .max_unpacked = 8 << 20, .max_answer = RPC_PAYLOAD_MAX, \
	.default_timeout_ms = 30000, .max_timeout_ms = 600000 })

/* `limits` NULL: the defaults. Starts a thread, which answers calls whose deadline passes. */
enum status_code rpc_server_new(const struct rpc_server_limits *limits, struct status *st,
				struct rpc_server **ret_server) MUST_CHECK;
/*
 * From now on new calls are UNAVAILABLE (who called asks another server); returns when the calls at hand are answered,
 * at the latest after `max_ms`. Long polls are not waited for. Blocks. Before the listeners are stopped.
 */
void rpc_server_drain(struct rpc_server *s, unsigned max_ms);
/* After every listener that feeds it was stopped; waits for calls that are not answered yet. NULL is allowed. */
void rpc_server_free(struct rpc_server *s);

/*
 * Before the first listener starts. `service` is borrowed. INTERNAL: a method has no row or no function, or a row no
 * method.
 */
enum status_code rpc_server_add(struct rpc_server *s, ProtobufCService *service, const struct rpc_access *table,
				size_t n, struct status *st) MUST_CHECK;

/*
 * So many calls a second of one identity that is no service and no administrator, and ten seconds' worth of them at once
 * (quota.h); what is above is RESOURCE_EXHAUSTED and told when to come back. `rate` as in rpc_access, 1 to
 * RPC_RATES - 1; 0 a second: no limit, as it is until this is called. Any thread, in force at once.
 */
#define RPC_RATES 4
void rpc_server_set_rate(struct rpc_server *s, unsigned rate, uint32_t per_second);

/*
 * May this peer, which has the role serial, pass calls on in others' names (on_behalf_of)? Asked for each such call; must
 * be quick. Before the first listener; without it nobody may. Whatever the answer, no write (a method without RPC_READ)
 * is taken in an administrator's name: who may do anything speaks for himself. Such a call is UNAVAILABLE: asked for
 * by a replica of an older version, its caller goes on to the next address and comes to the leader.
 */
typedef bool (*rpc_may_forward_fn)(void *arg, const struct identity *peer);
void rpc_server_set_may_forward(struct rpc_server *s, rpc_may_forward_fn may_forward, void *arg);

/*
 * What a request would be told that `peer` (NULL: it has no certificate) makes, in its own name or (on_behalf_of not
 * NULL) passing it on: OK, PERMISSION_DENIED, UNAVAILABLE as above, or UNIMPLEMENTED.
 */
enum status_code rpc_server_judge(const struct rpc_server *s, const char *method, const struct identity *peer,
				  const struct identity *on_behalf_of, struct status *st) MUST_CHECK;
/* The names of all methods, by length, then name. `name` lives as long as the server. */
void rpc_server_each_method(const struct rpc_server *s, void (*visit)(void *arg, const char *name), void *arg);

/*
 * Asked for each RPC_ROUTED method before its payload is unpacked. Returns true when it took the call: then it
 * answers later with rpc_call_relay() or rpc_call_fail(). `payload` is borrowed until the answer.
 */
typedef bool (*rpc_route_fn)(void *arg, struct rpc_call *call, const char *method, struct slice payload);
/* Gives a call that the route took to its handler after all, which answers it; also a second time. Any thread. */
void rpc_call_handle(struct rpc_call *call);
void rpc_server_set_route(struct rpc_server *s, rpc_route_fn route, void *arg);

/* Connection handlers that feed this server; for listener_options.handlers (SP_REP). */
struct conn_handlers rpc_server_handlers(struct rpc_server *s);

/*
 * Calls of one server, for handlers. `call` is what they got as closure_data.
 */
/* Answers with an error. OK is not allowed. */
void rpc_call_fail(struct rpc_call *call, enum status_code code, const char *format, ...) PRINTF_LIKE(3, 4);
void rpc_call_fail_status(struct rpc_call *call, const struct status *st);
/* INVALID_ARGUMENT that names the field ("object.node.name"), also in front of the message. */
void rpc_call_fail_field(struct rpc_call *call, const char *field, const char *format, ...) PRINTF_LIKE(3, 4);
/* Answers with an already packed Response payload, or an error, as another server gave it. */
void rpc_call_relay(struct rpc_call *call, enum status_code code, const char *message, struct slice payload);
/* The same for an error with what it tells programs, as struct rpc_result has it. */
void rpc_call_relay_error(struct rpc_call *call, const struct status *st, const struct rpc_detail *detail);
/* UNAVAILABLE here, but not at `address` ("host:port"), to which a channel goes at once. */
void rpc_call_redirect(struct rpc_call *call, const char *address, const char *format, ...) PRINTF_LIKE(3, 4);

/* The caller: the peer's own identity, or whom a replica forwards for. Borrowed until the answer; never NULL
 * except for a listener that serves anonymous peers. */
const struct identity *rpc_call_identity(const struct rpc_call *call);
/* A replica passed it on: it must not be passed on again. */
bool rpc_call_forwarded(const struct rpc_call *call);
/* May it be passed on in its caller's name? Not an administrator's write. */
bool rpc_call_may_pass_on(const struct rpc_call *call);
/* Monotonic ms (clock.h). */
uint64_t rpc_call_deadline(const struct rpc_call *call);
/* Nobody waits any more: deadline passed or connection gone. A handler with work ahead asks first. Any thread. */
bool rpc_call_expired(const struct rpc_call *call);
/* Empty when the caller sent none. Borrowed until the answer. */
struct slice rpc_call_request_id(const struct rpc_call *call);
const char *rpc_call_trace_id(const struct rpc_call *call);
/* "Serial.Allocate". */
const char *rpc_call_method(const struct rpc_call *call);
/* What the route was offered: of an RPC_ROUTED method, as it came. Borrowed until the answer; empty for others. */
struct slice rpc_call_payload(const struct rpc_call *call);
/* The handler's own, NULL at first. */
void rpc_call_set_data(struct rpc_call *call, void *data);
void *rpc_call_data(const struct rpc_call *call);
/* Bytes that live until the answer; NULL: over max_unpacked. */
void *rpc_call_alloc(struct rpc_call *call, size_t size) MUST_CHECK;
/* The input and the answer hold a secret: wipe both when done. Before the answer. */
void rpc_call_secret(struct rpc_call *call);

struct rpc_server_stats {
	uint64_t calls;    /* answered or dropped */
	uint64_t failed;   /* answered with an error */
	uint64_t shed;     /* refused: too many */
	uint64_t expired;  /* nobody waited for the answer */
	unsigned running;
	unsigned waiting;  /* long polls */
};
void rpc_server_stats(struct rpc_server *s, struct rpc_server_stats *ret_stats);

#endif
