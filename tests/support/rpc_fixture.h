/*
 * An RPC server on loopback for the tests of common/rpc: Health and Serial, with handlers that a test steers.
 * Every failure to set up ends the test.
 */
#ifndef TESTS_RPC_FIXTURE_H
#define TESTS_RPC_FIXTURE_H

#include <pthread.h>

#include "common/rpc/server.h"
#include "serial.pb-c.h"
#include "health.pb-c.h"
#include "tests/support/pki.h"

/* Certificates, made once for all tests of a program. */
struct rpc_pki {
	struct pki *pki;
	struct trust *trust;
	const struct pki_leaf *serial, *admin, *node, *stranger;
};
struct rpc_pki *rpc_pki_new(void);
void rpc_pki_free(struct rpc_pki *p);
struct tls_credentials *rpc_pki_credentials(const struct pki_leaf *leaf);

#define HELD_MAX 64
#define SHOW_RATE 2 /* of Serial.Show; without a limit until a test sets one */

/* What the handlers do, and what they have seen; under `mutex` once the server runs. */
struct served {
	struct rpc_server *server;
	struct listener *listener;
	struct {
		Kds__V1__Health_Service base;
		struct served *served;
	} health;
	struct {
		Kds__V1__Serial_Service base;
		struct served *served;
	} serial;

	pthread_mutex_t mutex;
	pthread_cond_t changed;
	unsigned echoes, shows, checks, routed;
	unsigned unavailable;         /* so many next Serial.Show answer UNAVAILABLE */
	unsigned shows_of_id;         /* Serial.Show with the request id of the first one */
	uint8_t first_id[32];
	size_t first_id_len;
	bool removed;                 /* no replica may forward any more */
	char ask[64];                 /* what Serial.Show names when it answers UNAVAILABLE; "": nothing */
	bool take_routes;             /* the route takes what it is offered, and holds it */
	char trace_id[65];            /* of the last Serial.Show */
	char caller[64];              /* its identity's common name */
	unsigned caller_roles;
	size_t big_answer;            /* Serial.ListCertificates: bytes of its answer */
	struct rpc_call *held[HELD_MAX]; /* Health.Check, Serial.Record and what the route took */
	unsigned n_held;
};

/*
 * Health.Echo: answers at once. Health.Check: anyone; is held. Serial.Show: anyone, a read; Serial.SetMin: admin and ca, routed;
 * Serial.Allocate: anyone; refuses its field "count". Serial.Record: long poll, is held. Serial.ListCertificates:
 * anyone, as large as `big_answer` says.
 */
struct served *served_start(const struct rpc_pki *p, const char *address, const struct rpc_server_limits *limits);
const char *served_address(const struct served *s);
/* Waits until this many are held, at most 20 s. */
void served_wait_held(struct served *s, unsigned n);
/* Answers what is held, oldest first: Health.Check with `name`, the others with an empty message. */
void served_release(struct served *s, const char *name);
/* Connections end; what is held goes on being held. */
void served_close(struct served *s);
/* served_close(), served_release(), and all is freed. */
void served_stop(struct served *s);

#endif
