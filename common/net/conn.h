/*
 * One connection: a TCP stream of NNG's, GnuTLS on top, NNG's SP framing inside.
 * (SP over TCP: https://nanomsg.org/documentation-zeromq.html "sp-tcp-mapping"; frames are u64 length | payload.)
 *
 * Callbacks run on NNG's threads, one at a time for one connection, never with a lock of this module held, so
 * they may call anything here. They must not block: hand crypto and disk to a worker.
 * The order is: up, frame*, down. `down` comes exactly once for every connection that was ever made, also when
 * it never came up; nothing comes after it. A connection lives until its last reference is gone and `down` ran.
 */
#ifndef NET_CONN_H
#define NET_CONN_H

#include "common/base/buffer.h"
#include "common/net/identity.h"
#include "common/net/tls.h"
#include "common/net/trust.h"

/* SP protocol numbers, as each side announces its own. */
enum sp_protocol { SP_REQ = 0x30, SP_REP = 0x31, SP_PUSH = 0x50, SP_PULL = 0x51 };

struct conn;

struct conn_handlers {
	/* Handshake and SP hello are done; the identity is known. May be NULL. */
	void (*up)(void *arg, struct conn *c);
	/* One whole frame; `data` is borrowed until the callback returns. */
	void (*frame)(void *arg, struct conn *c, const uint8_t *data, size_t len);
	/* Gone. `why` tells (OK: closed in good order by either side). May be NULL. */
	void (*down)(void *arg, struct conn *c, const struct status *why);
	void *arg;
};

struct conn_limits {
	size_t max_frame;      /* bytes of one frame's payload; checked before memory is taken */
	size_t max_output;     /* bytes waiting to be sent; one more frame closes the connection */
	unsigned handshake_ms; /* TCP accept or connect to the end of the SP hello */
	unsigned idle_ms;      /* no frame either way for so long, and not busy (conn_set_busy()), closes it; 0: never */
	unsigned frame_ms;     /* an accepted connection whose peer began a frame and has not sent all of it for so long,
				* and a second more for each 64 KiB of it, is closed; 0: never */
	unsigned write_ms;     /* what one write holds, 64 KiB at most, must be with the system in so long, however it
				* gets on; and the system must get on with it in twice that (accepted ones alone);
				* else it is closed */
};
#define CONN_LIMITS_DEFAULT ((struct conn_limits){ .max_frame = 1 << 20, .max_output = 4 << 20, \
	.handshake_ms = 3000, .idle_ms = 0, .frame_ms = 10000, .write_ms = 10000 })

struct conn_dial {
	const char *address;          /* "host:port", "[v6]:port" */
	const char *server_name;      /* for SNI; NULL: none */
	enum sp_protocol self;        /* SP_REQ or SP_PUSH */
	struct tls_credentials *credentials; /* a reference is taken */
	struct trust *trust;          /* must outlive the connection */
	unsigned expect_roles;        /* the server must have one of these; 0: any infrastructure server */
	struct conn_limits limits;
	struct conn_handlers handlers;
};

/*
 * Starts one connection; never blocks. A failure to connect comes through `down`, with UNAVAILABLE (nobody
 * there, timed out), UNAUTHENTICATED (either side refused the other's certificate), or PERMISSION_DENIED
 * (it has not the role). On success the caller owns one reference. Fails itself only on a bad address or no memory;
 * then no callback runs.
 */
enum status_code conn_dial(const struct conn_dial *options, struct status *st, struct conn **ret_conn) MUST_CHECK;

struct conn *conn_ref(struct conn *c);
/* The last reference only frees; it does not close: call conn_close() to be rid of an open connection. */
void conn_unref(struct conn *c);

/*
 * Closes soon: what is queued is still sent, for a second at most; no more frames come; `down` follows (if it has not
 * run). Any thread, any number of times.
 */
void conn_close(struct conn *c);

/*
 * Queues one frame made of `n` parts, which are copied. Thread-safe, never blocks; frames leave in the order of
 * the calls. Frames queued while a callback of any connection runs on this thread, or one of this connection on any,
 * or while the peer does not read, leave together.
 * UNAVAILABLE: it is not up or already down. RESOURCE_EXHAUSTED: over max_output, or over its share of the memory for
 * all connections (budget.h); the connection is being closed.
 */
enum status_code conn_send(struct conn *c, const struct slice *parts, size_t n) MUST_CHECK;

/*
 * What this thread sends between the two waits, for a few connections, and leaves together at the release: for those
 * who answer many at once. They nest; what is done in between must not block.
 */
void conn_hold(void);
void conn_release(void);

/* The owner has work of the peer's in hand (+1), or one less (-1): while there is any, the connection is not idle. Any
 * thread, no lock. */
void conn_set_busy(struct conn *c, int change);

/* From `up` on; borrowed, lives as long as the connection. NULL: a peer without a certificate. */
struct identity *conn_identity(const struct conn *c);
/* "127.0.0.1:4711"; borrowed. */
const char *conn_peer_address(const struct conn *c);

/* One pointer for the owner of the handlers; set it in `up` or right after dialling. */
void conn_set_data(struct conn *c, void *data);
void *conn_data(const struct conn *c);

#endif
