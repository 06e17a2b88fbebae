/*
 * The inside of a connection, for common/net alone.
 *
 * conn.c       life and death, the public calls
 * conn_io.c    NNG's callbacks: bytes in, frames out to the handlers, bytes out, the timer
 * conn_tls.c   GnuTLS over the buffers here
 * dial.c       connecting;  listener.c  accepting;  reaper.c  freeing, on a thread of its own
 * admission.c  who gets a connection;  budget.c  what the buffers of all may hold
 *
 * Rules, learnt from NNG 1.5.2 and 1.12:
 * - Every nng_stream_* call on a stream, its close among them, happens under the connection's mutex, and none after the
 *   close: an operation that is queued on a closed stream never calls back.
 * - `busy` counts the operations that will call back. A connection that is not dead has at least one, so the last
 *   callback of a dead one is where it ends: `down` runs, then the reaper frees (nng_aio_stop() blocks, a callback
 *   must not).
 */
#ifndef NET_CONN_INTERNAL_H
#define NET_CONN_INTERNAL_H

#include <nng/nng.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common/base/tally.h"
#include "common/net/admission.h"
#include "common/net/conn.h"

enum conn_state {
	CONN_CONNECTING,
	CONN_HANDSHAKE, /* TLS */
	CONN_HELLO,     /* TLS is up, the peer's SP hello is awaited */
	CONN_UP,
	CONN_CLOSING,   /* what is queued goes out, then our last alert; what comes in is dropped until the peer hangs up */
	CONN_DEAD,      /* the stream is closed; waits for callbacks */
};

/* Ciphertext from the peer; GnuTLS takes all of it before the next read. */
struct conn_input {
	uint8_t *data;
	size_t cap, len, used;
};

struct conn {
	atomic_uint refs;
	pthread_mutex_t mutex; /* guards all below but for what is set once before the first callback */
	enum conn_state state;
	unsigned busy;
	atomic_bool stopped; /* CLOSING or DEAD, readable without the mutex: no more frames for the handlers */

	/* Set once. */
	struct conn_handlers handlers;
	struct conn_limits limits;
	enum sp_protocol self;
	bool server;
	bool anonymous;       /* a server that takes peers without a certificate */
	unsigned roles;       /* the peer must have one of them; 0: any */
	struct trust *trust;
	struct tls_credentials *credentials;
	char *peer;           /* its address, in text */
	struct listener *listener; /* NULL: dialled */
	uint8_t host[16];     /* address_host() of the peer, for the listener */
	nng_stream_dialer *dialer;
	nng_stream *stream;   /* NULL while connecting */
	nng_aio *dialing, *reading, *writing, *timer;
	nng_aio *writing_now; /* calls nobody back */
	gnutls_session_t session;
	_Atomic(void *) data;

	struct identity *identity; /* set in the handshake; looked at from CONN_HELLO on, constant then */
	struct status why;         /* the first reason for the end; OK until there is one */
	bool ending;               /* `why` stands */
	bool was_up;
	bool counted;              /* the reason why it was cut off or refused is in the tally */
	gnutls_alert_description_t alert; /* what verification wants the peer to be told */
	bool last_alert;           /* close_notify or a fatal alert was written: TLS sends no more */
	bool peer_closed;          /* the peer said close_notify: ours is all it waits for */

	/* In. `plain` belongs to the read callback, which hands frames of it out without the mutex. */
	struct conn_input in;
	size_t barren;             /* bytes since the last that held plain text */
	struct buffer plain;
	bool read_pending;         /* a read of the stream is under way */
	bool draining;             /* the stream has hung up; what the system still holds is read */
	/*
	 * The read callback works without the mutex: GnuTLS computes the handshake, or handlers run. Until it is back,
	 * output and the next read wait, and in a handshake the session, `in` and `cipher` are the callback's own; who closes
	 * the connection meanwhile sets its state.
	 */
	bool dispatching;
	bool computing;             /* it is the handshake */
	uint64_t read_ms;          /* the last byte from the peer, monotonic */
	uint64_t heard_ms;         /* the same, or the last frame to it */
	uint64_t frame_since_ms;   /* when the peer began the frame that is not complete; 0: there is none */
	atomic_uint working;       /* conn_set_busy() */

	/* Out: plain text -> cipher (by GnuTLS's push) -> flight, one write of the stream at a time. */
	struct buffer out;
	size_t out_used;
	struct buffer cipher;
	struct buffer flight;
	size_t flight_used;
	uint64_t flight_by_ms;     /* when all of the flight must be with the system */
	bool write_pending;
	bool write_failed;         /* the peer takes no more; reading tells why */

	bool timer_pending;
	uint64_t timer_at_ms;      /* when it will call back */
	uint64_t deadline_ms;      /* when the current state has taken too long; 0: never */

	struct slot slot;          /* accepted: under the listener's lock of slots, but for its account */
	struct budget_account *account; /* NULL: dialled, or not authenticated */
	size_t charged;            /* what the budget knows of the buffers */

	LIST_ENTRY(conn) in_listener; /* under its mutex */
	struct conn *next_dead;    /* in the reaper's queue */
};

/* conn.c. All but conn_new() and conn_destroy() with the mutex held. */

/* One reference, nothing started. Options not set here are the caller's to fill. Fails on no memory. */
enum status_code conn_new(const char *peer, struct tls_credentials *credentials, bool server, struct status *st,
			  struct conn **ret_conn) MUST_CHECK;
/* Frees all but what references may still ask for, then drops the first reference. Blocks. No callback may be due. */
void conn_destroy(struct conn *c);
/* Notes why it ends; only the first reason counts. */
void conn_blame(struct conn *c, enum status_code code, const char *format, ...) PRINTF_LIKE(3, 4);
/* Closes the stream now. */
void conn_kill(struct conn *c);
/* Lets go in good order: what is queued, close_notify, at most CONN_LINGER_MS. */
void conn_finish(struct conn *c);
/* Tells the peer by a fatal alert and lets it read that. */
void conn_refuse(struct conn *c, gnutls_alert_description_t alert);
/* Makes room in a buffer of plain text, which may be secret: what it grows out of is wiped. False: no memory. */
bool conn_reserve(struct buffer *b, size_t more) MUST_CHECK;
/* Drops the first n bytes of one, and wipes where they were. */
void conn_consume(struct buffer *b, size_t n);
/* Small frames leave at once, and a peer whose host is gone is noticed in the end. */
void conn_tune(nng_stream *stream);
/* Counts why it is cut off or refused: the first reason alone, and of accepted connections alone. */
void conn_count(struct conn *c, enum tally why);
/* Tells the budget what the buffers hold by now. False: more than its share; blamed and killed. */
bool conn_account(struct conn *c);
/* Leaves a callback: unlocks; the last one out of a dead connection runs `down` and hands it to the reaper. */
void conn_leave(struct conn *c);
/*
 * Refuses the peer if the trust no longer takes it. Locks by itself, and never waits for a handshake: one that is under
 * way looks at the trust again when it is through.
 */
void conn_recheck(struct conn *c);

/*
 * How long the peer may take to read our last alert and hang up. Were we to hang up first, with input of its unread, that
 * would be a reset, which may overtake the alert.
 */
#define CONN_LINGER_MS 1000

/* conn_io.c. With the mutex held. */

/* The stream is there: handshake. */
void conn_begin(struct conn *c);
void conn_on_read(void *conn);
void conn_on_write(void *conn);
void conn_on_timer(void *conn);
/* Sends what there is to send, unless a write is under way. */
void conn_write_more(struct conn *c);
/* The same for one whose output was held back. Locks by itself. */
void conn_flush(struct conn *c);
/* The current state may last so long from now. */
void conn_set_deadline(struct conn *c, unsigned ms);
/* Bytes accepted and not yet handed to the system. */
size_t conn_output(const struct conn *c);

/* conn_tls.c. With the mutex held. */

enum tls_progress {
	TLS_AGAIN,  /* needs more input */
	TLS_DONE,   /* handshake complete */
	TLS_CLOSED, /* the peer said close_notify */
	TLS_FAILED, /* blamed; conn_refuse() or conn_kill() was called, here or by another thread */
};
enum status_code conn_tls_init(struct conn *c, struct status *st) MUST_CHECK;
/*
 * Takes all that is in `in`, and more than the handshake only when it is done. Lets go of the mutex while GnuTLS computes
 * and verifies, and takes it again: the state may have changed.
 */
enum tls_progress conn_tls_handshake(struct conn *c);
/* Moves all that is in `in` to `plain`. */
enum tls_progress conn_tls_decrypt(struct conn *c);
/* Moves plain text from `out` to `cipher`, at most about `max` bytes. False: blamed and refused. */
bool conn_tls_encrypt(struct conn *c, size_t max);
/* Writes the last alert into `cipher`: close_notify, or a fatal one. */
void conn_tls_bye(struct conn *c);
void conn_tls_alert(struct conn *c, gnutls_alert_description_t alert);

/* listener.c */

/* An accepted connection has answered the peer in the handshake. With the connection's mutex held, as the next. */
void listener_spoke(struct conn *c);
/* The handshake of an accepted connection is done: it is counted by its identity from now on. False: there is no room for
 * it; blamed and refused. */
bool listener_authenticated(struct conn *c) MUST_CHECK;
/* One of its connections is freed. */
void listener_released(struct listener *l, struct conn *c);

/* reaper.c */

/* Starts the process's reaper if it does not run yet. */
enum status_code reaper_start(struct status *st) MUST_CHECK;
/* conn_destroy(), later and elsewhere. */
void reaper_submit(struct conn *c);

#endif
