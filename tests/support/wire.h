/*
 * A listener that echoes, and connections that note what happens to them: for tests of common/net. Every wait ends the
 * test after 20 s.
 */
#ifndef TESTS_WIRE_H
#define TESTS_WIRE_H

#include <pthread.h>
#include <stdbool.h>

#include "common/net/listener.h"
#include "tests/support/pki.h"

/* What one connection, or all of a listener's together, has seen. */
struct wire_log {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	unsigned ups, frames, downs;
	size_t bytes;              /* of all frames */
	struct buffer last;        /* the last frame */
	struct status why;         /* the last `down` */
	unsigned roles;            /* of the last peer that came up */
	struct conn *conn;         /* the last one that came up, borrowed */
	bool anonymous;            /* the last peer that came up had no identity */
	bool disorder;             /* a frame before `up` or after `down`, a second `down`; on one connection's log alone */
	bool many;                 /* a listener's: order is not looked at */
	/* What to do besides noting; set before use. */
	bool echo;                 /* send frames back */
	bool close_after_frame;    /* conn_close() once a frame was echoed */
	bool close_in_up;
};

struct wire {
	struct pki *pki;
	struct trust *trust;
	struct tls_credentials *server; /* serial1's: 1.2 and 1.3 */
	struct tls_credentials *admin;  /* 1.3 alone */
	struct listener *listener;
	struct wire_log log;            /* of the listener's connections */
	struct listener_options options;
};

/* cmocka's setup and teardown; *state is a struct wire. The teardown fails if anything was left open. */
int wire_set_up(void **state);
int wire_tear_down(void **state);

/* Starts the listener as w->options say: an echo of SP_REP on 127.21.0.1, limits of a test. */
void wire_listen(struct wire *w);
/* PEM files to credentials; the caller drops the reference. */
struct tls_credentials *wire_credentials(const struct pki_leaf *leaf);

void wire_log_init(struct wire_log *log);
void wire_log_fini(struct wire_log *log);
struct conn_handlers wire_handlers(struct wire_log *log);

/* Options to dial the listener as `credentials` (borrowed). */
struct conn_dial wire_dial_options(struct wire *w, struct tls_credentials *credentials, struct wire_log *log);
/* Dials with them; the caller owns the reference. */
struct conn *wire_dial(struct wire *w, struct tls_credentials *credentials, struct wire_log *log);

void wire_wait_up(struct wire_log *log, unsigned n);
void wire_wait_frames(struct wire_log *log, unsigned n);
void wire_wait_down(struct wire_log *log, unsigned n);
/* What it counted so far. */
unsigned wire_ups(struct wire_log *log);
unsigned wire_downs(struct wire_log *log);
/* Until the listener has no more than n connections. */
void wire_wait_open(struct wire *w, unsigned n);
/* `down` came with this code and a message that has this text. */
void wire_expect(struct wire_log *log, enum status_code code, const char *text);

void wire_send(struct conn *c, const void *data, size_t len);

#endif
