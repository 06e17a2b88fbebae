/*
 * The client's side: one connection at a time to one of several addresses, any number of requests in flight.
 *
 * Connects when first used and again when needed. On UNAVAILABLE (no connection, connection lost, or the server says
 * so) it tries the next address after a growing pause (20 to 500 ms), with the same request id, until the deadline;
 * nothing else is retried. Moving on closes the connection: what else was in flight on it is sent again too.
 * A server that does not answer a call for a third of its timeout, nor Health.Check meanwhile, counts as gone; where there
 * is another address and the call is no long poll, for a tenth. At least 1 s: a server that is slow, but answers
 * Health.Check, is not left.
 * Refused by every address (UNAUTHENTICATED, PERMISSION_DENIED in the handshake) is reported at once.
 * At the deadline a call ends with DEADLINE_EXCEEDED if a server had it, else with UNAVAILABLE and the last reason.
 * A server whose certificate the trust no longer takes (expired, removed) gets no new requests: the channel leaves it.
 * A replica that does not pass a call on (an administrator's write) says who leads. The channel goes there at once, also
 * when the address is not among its own: the other end must have the role that is expected all the same. It follows
 * three such hints in a row; then, or when nobody is there, it goes on as after any UNAVAILABLE.
 * Thread-safe.
 */
#ifndef RPC_CHANNEL_H
#define RPC_CHANNEL_H

#include <protobuf-c/protobuf-c.h>

#include "common/net/conn.h"

struct rpc_channel;

struct rpc_channel_options {
	const char *const *addresses; /* "host:port"; copied */
	size_t n_addresses;
	const char *server_name;      /* SNI, NULL: none */
	struct tls_credentials *credentials;
	struct trust *trust;          /* must outlive the channel */
	unsigned expect_roles;        /* what the server must be */
	unsigned default_timeout_ms;  /* 0: 10 s */
	unsigned max_pending;         /* 0: 8192; one more is RESOURCE_EXHAUSTED */
	struct conn_limits limits;    /* max_frame 0: the defaults; max_output also bounds requests in flight */
};

/* Starts a thread for timers; does not connect yet; never blocks. INVALID_ARGUMENT: no address. */
enum status_code rpc_channel_new(const struct rpc_channel_options *options, struct status *st,
				 struct rpc_channel **ret_channel) MUST_CHECK;
/* Fails what is in flight with CANCELLED, closes, waits for the callbacks. Not from one. NULL is allowed. */
void rpc_channel_free(struct rpc_channel *ch);
/* The next connection uses these. */
void rpc_channel_set_credentials(struct rpc_channel *ch, struct tls_credentials *credentials);
/* Replaces the addresses (copied); an open connection to one that is gone stays until it breaks. */
enum status_code rpc_channel_set_addresses(struct rpc_channel *ch, const char *const *addresses, size_t n,
					   struct status *st) MUST_CHECK;

/* Leaves the server that is connected, for the next address, if there is one; what is in flight is sent again there. For
 * who finds a server lacking in a way that its answers' codes do not say. */
void rpc_channel_leave(struct rpc_channel *ch);

/* Closes the connection, if there is one: what is in flight is sent again on the next, but for no_retry, which ends with
 * UNAVAILABLE. For who knows better than the channel that its server is gone. */
void rpc_channel_drop(struct rpc_channel *ch);

struct rpc_result {
	struct status status;
	bool answered;                    /* a server gave this status; false: none was reached, or none in time */
	const char *field;                /* INVALID_ARGUMENT: which field; "" otherwise */
	uint32_t retry_after_ms;          /* RESOURCE_EXHAUSTED: the server refuses it so long; 0: it does not say */
	const ProtobufCMessage *message;  /* the answer; NULL on failure */
	struct slice payload;             /* the answer, packed; with RPC_RAW the only form */
};

/*
 * Runs once, on one of NNG's threads or the channel's own, never from within the call that made the request (but with
 * no memory at all it does); must not block. Everything in `result` is borrowed until it returns.
 */
typedef void (*rpc_done_fn)(void *arg, const struct rpc_result *result);

/*
 * How one call is made. Zeroed but for `done` it is a plain call. It is copied when the call starts, except the
 * struct itself where it serves as closure_data (below).
 */
struct rpc_call_options {
	rpc_done_fn done;
	void *arg;
	unsigned timeout_ms;          /* 0: the channel's default */
	struct slice request_id;      /* empty: the channel makes one; at most 32 bytes */
	const char *trace_id;         /* NULL: none */
	const struct identity *on_behalf_of; /* replicas only */
	bool no_retry;                /* one try: UNAVAILABLE is reported at once */
	bool long_poll;               /* the answer may take the whole timeout */
	bool secret;                  /* wipe the copies made of request and answer when done */
};

/*
 * Generated stubs: a client of `descriptor` over this channel, owned by the channel (at most 16 descriptors; NULL
 * beyond). A stub wants a closure of its own type, made of rpc_closure, and its closure_data must be a
 * `const struct rpc_call_options *`, which it copies before it returns:
 *
 *     kds__v1__serial__show(rpc_channel_service(ch, &kds__v1__serial__descriptor), &in,
 *                           RPC_CLOSURE(Kds__V1__SerialStatus), &options);
 */
ProtobufCService *rpc_channel_service(struct rpc_channel *ch, const ProtobufCServiceDescriptor *descriptor);
/* Never called: the answer goes to options.done, which learns of failure too. */
void rpc_closure(const ProtobufCMessage *message, void *closure_data);
/* rpc_closure as the closure type of an answer's message type. */
#define RPC_CLOSURE(message_type) ((message_type##_Closure)rpc_closure)

/* The same for a method known only at run time. `input` is packed before it returns. */
void rpc_channel_call(struct rpc_channel *ch, const ProtobufCServiceDescriptor *service, unsigned method,
		      const ProtobufCMessage *input, const struct rpc_call_options *options);
/* For relays: method by name ("Serial.Show"), payload as it came; result.message is NULL. */
void rpc_channel_call_raw(struct rpc_channel *ch, const char *method, struct slice payload,
			  const struct rpc_call_options *options);

/*
 * Blocking calls, for programs: makes the call and waits. On success the answer is the caller's, to be freed with
 * protobuf_c_message_free_unpacked(ret_answer, NULL). `options` may be NULL; its done and arg are ignored.
 * Not from a callback.
 */
enum status_code rpc_channel_wait(struct rpc_channel *ch, const ProtobufCServiceDescriptor *service,
				  const char *method, const ProtobufCMessage *input,
				  const struct rpc_call_options *options, struct status *st,
				  ProtobufCMessage **ret_answer) MUST_CHECK;

#endif
