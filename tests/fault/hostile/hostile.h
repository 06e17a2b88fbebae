/*
 * What the parts of this program share: whom it attacks, and the kinds of peers.
 *
 * main.c runs each kind and looks at what the daemon holds; good.c has the clients that go on asking meanwhile. The
 * kinds: strangers.c (no certificate that counts), keys.c (keys that cost), slots.c (connections that only stay),
 * records.c (TLS cut into pieces, KeyUpdate, SHA-1), frames.c (SP frames), insider.c (requests with a good certificate).
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/support/sp_client.h"

#define LANES 16     /* peers of one kind side by side, unless it says otherwise */
#define LANES_MAX 300
#define SILENT_MAX 300 /* connections held open at once */

/* Kinds of ports, as bits. */
enum port {
	PORT_SERIAL = 1, /* kds-serial's RPC port */
	PORT_PEER = 2,   /* kds-serial's for other replicas: PUSH to PULL, TLS 1.3 alone */
	PORT_CA = 4,
	PORT_KEYDIST = 8,
	PORT_IDLE = 16,  /* kds-serial's RPC port, its idle-timeout 3 s */
	PORT_RPC = PORT_SERIAL | PORT_CA | PORT_KEYDIST,
	PORT_ANY = PORT_RPC | PORT_PEER,
};

struct target {
	enum port port;
	const char *pid;     /* of the daemon */
	const char *address; /* the port that is attacked */
	const char *asks;    /* the daemon's RPC port, where the good clients ask */
	const char *sources; /* "127.1.2": peers come from 127.1.2.150 to .189 */
	const char *ca;
	const char *directory;
	size_t frame_refused; /* a frame of so many bytes is too large for this port */
	unsigned patience;   /* factor on every bound on waiting: sanitizers are slow */
	/* See main.c. */
	gnutls_certificate_credentials_t good, insider, nobody, expired, stranger, below, chain;
};
extern struct target target;

struct kind {
	const char *name;
	unsigned ports;
	/* One of these three. `once`: one peer, of which `lanes` run side by side; false, with a word why, when the daemon did
	 * what it must not. `start`: one peer that stays until the daemon closes it. `all`: does it all, so often; what it saw
	 * goes into `seen`, why it failed to standard error. */
	bool (*once)(unsigned i, const char **why);
	bool (*start)(struct sp_client *c, unsigned i);
	bool (*all)(unsigned count, char *seen, size_t size);
	unsigned lanes;   /* 0: LANES */
	unsigned divisor; /* how often: the count by this; 0: the count */
};

/* Each ends with a kind without a name. */
extern const struct kind strangers[], keys[], slots[], records[], frames[], insiders[];

_Noreturn void die(const char *what);
/* One line to standard error; false, so that it can be returned. */
bool complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- connections ------------------------------------------------------------------------------------------------------- */

/* From the i-th address. */
bool connect_from(struct sp_client *c, unsigned i);
/* SP's hello as the port wants it. */
bool say_hello(struct sp_client *c);
/* As far as a frame can be sent, as the insider. */
bool open_from(struct sp_client *c, unsigned i);
/* The same from anywhere, as the good client (on a peer port as the insider, who alone is let in there). */
bool open_good(struct sp_client *c);

/* Keeps `n` silent connections (slots.c) until the process is ended. */
_Noreturn void hold_for_ever(unsigned n);

/* --- measures ---------------------------------------------------------------------------------------------------------- */

unsigned long now_ms(void);
/* What the daemon has used so far. */
unsigned long cpu_ms(void);
/* Waits, at most 30 s, until it is not busy any more. */
void wait_calm(void);
unsigned rss_kib(void);

/* Runs `once` `count` times in lanes. False: one failed, which was told. */
bool run_lanes(const char *name, bool (*once)(unsigned i, const char **why), unsigned count, unsigned lanes);

/* --- good clients (good.c) --------------------------------------------------------------------------------------------- */

/* Two threads, one that keeps its connection and one that makes a new one for each request. */
void good_start(void);
void good_stop(void);

struct good {
	unsigned long answers, missed, slowest_ms;
};
/* Since it was last asked. */
struct good good_take(void);

#endif
