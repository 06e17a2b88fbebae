/*
 * Accepts connections (conn.h), decides who gets one (admission.h), and owns them until they are down.
 */
#ifndef NET_LISTENER_H
#define NET_LISTENER_H

#include "common/net/admission.h"
#include "common/net/conn.h"

struct listener;

struct listener_options {
	const char *address;   /* "host:port"; port 0 lets the system choose */
	enum sp_protocol self; /* SP_REP or SP_PULL */
	struct tls_credentials *credentials;
	struct trust *trust;   /* must outlive the listener */
	bool anonymous;        /* serve peers without a certificate (their identity is NULL) */
	unsigned allow_roles;  /* a peer with none of these is refused in the handshake; 0: any identity */
	struct slot_limits slots; /* how many connections, whose; 0 stands for a default */
	struct conn_limits limits;
	struct conn_handlers handlers;
};

/*
 * Listens and accepts at once; never blocks. FAILED_PRECONDITION: the address is in use or not ours, with what
 * to do. Errors of accept() never end it (EMFILE: it waits and tries again).
 */
enum status_code listener_start(const struct listener_options *options, struct status *st,
				struct listener **ret_listener) MUST_CHECK;

/* Stops accepting, closes every connection and waits until the last `down` has run. Not from a callback. Frees. */
void listener_stop(struct listener *l);

/* New handshakes use these from now on; open connections keep theirs. */
void listener_set_credentials(struct listener *l, struct tls_credentials *credentials);

/* Closes each connection whose identity trust_recheck() refuses. Call after the trust changed. Does not block. */
void listener_recheck(struct listener *l);

/* The bound address, "127.0.0.1:7400". Borrowed. */
const char *listener_address(const struct listener *l);

struct listener_stats {
	uint64_t accepted;
	uint64_t refused;         /* authenticated, and over a limit */
	uint64_t displaced;       /* not authenticated, made room for others */
	uint64_t failed;          /* handshake, identity or hello, these two among them */
	unsigned open;            /* accepted and not yet down */
	unsigned unauthenticated; /* of these */
};
void listener_stats(struct listener *l, struct listener_stats *ret_stats);

#endif
