/*
 * Watches the configuration many times over, as so many daemons would, and says how many answers came.
 *
 *   bench-watch ADDRESS CLUSTER KDS_NAME CERT KEY CA CONNECTIONS WATCHES
 *
 * Each of CONNECTIONS has WATCHES long polls under way; each answer is followed by the next poll. Prints "waiting" when
 * all know the state, then waits for the end of its input and prints one line of key=value pairs.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/net/conn.h"
#include "config.pb-c.h"
#include "rpc.pb-c.h"

#define DIALS 32 /* handshakes at a time: each has 3 s */
#define POLL_MS 60000
#define REQUEST_MAX 256

static atomic_uint n_up, n_errors;
static atomic_ulong n_answers, n_objects;
static atomic_bool over;

static _Noreturn void die(const char *what, const struct status *st)
{
	fprintf(stderr, "bench-watch: %s: %s\n", what, st ? st->message : "see the source's first lines");
	exit(1);
}

/* The n-th watch of a connection has request number n. */
static void ask(struct conn *c, uint32_t number, uint64_t since)
{
	uint8_t payload[REQUEST_MAX], frame[REQUEST_MAX];
	char *prefix = (char *)(uintptr_t)"setting/"; /* only read */
	Kds__V1__WatchRequest in = KDS__V1__WATCH_REQUEST__INIT;
	in.since_revision = since;
	in.prefixes = &prefix;
	in.n_prefixes = 1;
	Kds__V1__Request request = KDS__V1__REQUEST__INIT;
	request.method = (char *)(uintptr_t)"Config.Watch";
	request.payload = (ProtobufCBinaryData){ kds__v1__watch_request__pack(&in, payload), payload };
	request.timeout_ms = POLL_MS;
	size_t len = kds__v1__request__pack(&request, frame + 4);
	for (int i = 0; i < 4; i++)
		frame[i] = (uint8_t)((number | 0x80000000u) >> (24 - 8 * i));
	struct slice part = { frame, len + 4 };
	if (conn_send(c, &part, 1) != STATUS_OK)
		atomic_fetch_add(&n_errors, 1);
}

static void take_answer(struct conn *c, uint32_t number, const Kds__V1__WatchResponse *answer)
{
	atomic_fetch_add(&n_answers, 1);
	atomic_fetch_add(&n_objects, answer->n_objects);
	ask(c, number, answer->revision);
}

static void on_up(void *arg, struct conn *c)
{
	(void)arg;
	(void)c;
	atomic_fetch_add(&n_up, 1);
}

static void on_frame(void *arg, struct conn *c, const uint8_t *data, size_t len)
{
	(void)arg;
	uint32_t number = 0;
	for (size_t i = 0; i < 4 && i < len; i++)
		number = number << 8 | data[i];
	Kds__V1__Response *response = len > 4 ? kds__v1__response__unpack(NULL, len - 4, data + 4) : NULL;
	Kds__V1__WatchResponse *answer = NULL;
	if (response && response->code == KDS__V1__CODE__OK)
		answer = kds__v1__watch_response__unpack(NULL, response->payload.len, response->payload.data);
	if (answer && !atomic_load(&over))
		take_answer(c, number & 0x7fffffffu, answer);
	else if (!answer)
		atomic_fetch_add(&n_errors, 1);
	kds__v1__watch_response__free_unpacked(answer, NULL);
	kds__v1__response__free_unpacked(response, NULL);
}

static void on_down(void *arg, struct conn *c, const struct status *why)
{
	(void)arg;
	(void)c;
	if (atomic_load(&over))
		return;
	if (atomic_fetch_add(&n_errors, 1) == 0)
		fprintf(stderr, "bench-watch: a connection broke: %s\n", why->message);
}

static struct conn_dial dial_options(char **argv)
{
	struct status st;
	struct buffer pem = { 0 };
	struct trust *trust = NULL;
	struct tls_credentials *credentials = NULL;
	if (file_read(argv[6], 1 << 20, &st, &pem) != STATUS_OK)
		die("CA", &st);
	struct slice ca = { pem.data, pem.len };
	if (trust_new(argv[2], argv[3], &ca, &st, &trust) != STATUS_OK)
		die("trust", &st);
	if (tls_credentials_load(argv[4], argv[5], TLS_MINIMUM_1_3, &st, &credentials) != STATUS_OK)
		die("credentials", &st);
	buffer_free(&pem);
	return (struct conn_dial){
		.address = argv[1],
		.self = SP_REQ,
		.credentials = credentials,
		.trust = trust,
		.limits = CONN_LIMITS_DEFAULT,
		.handlers = { .up = on_up, .frame = on_frame, .down = on_down },
	};
}

/* Until a counter has reached n; a minute at most. */
static void wait_for(const char *what, atomic_uint *counter, unsigned n)
{
	for (int i = 0; i < 60000 && atomic_load(counter) < n; i++)
		usleep(1000);
	if (atomic_load(counter) < n) {
		fprintf(stderr, "bench-watch: %u of %u %s\n", atomic_load(counter), n, what);
		exit(1);
	}
}

static void connect_all(const struct conn_dial *options, struct conn **conns, unsigned n)
{
	struct status st;
	for (unsigned i = 0; i < n; i++) {
		if (conn_dial(options, &st, &conns[i]) != STATUS_OK)
			die("connect", &st);
		if (i + 1 >= DIALS)
			wait_for("connections", &n_up, i + 2 - DIALS);
	}
	wait_for("connections", &n_up, n);
}

int main(int argc, char **argv)
{
	if (argc != 9)
		die("usage", NULL);
	unsigned connections = (unsigned)atoi(argv[7]), watches = (unsigned)atoi(argv[8]);
	struct conn_dial options = dial_options(argv);
	struct conn **conns = calloc(connections, sizeof *conns);
	if (!conns)
		die("out of memory", NULL);
	connect_all(&options, conns, connections);
	for (unsigned i = 0; i < connections; i++)
		for (unsigned k = 0; k < watches; k++)
			ask(conns[i], k + 1, 0);
	for (int i = 0; i < 60000 && atomic_load(&n_answers) < (unsigned long)connections * watches; i++)
		usleep(1000);
	printf("waiting\n");
	fflush(stdout);
	unsigned long before = atomic_load(&n_answers), objects = atomic_load(&n_objects);
	while (getchar() != EOF)
		;
	atomic_store(&over, true);
	printf("watchers=%u answers=%lu objects=%lu errors=%u\n", connections * watches, atomic_load(&n_answers) - before,
	       atomic_load(&n_objects) - objects, atomic_load(&n_errors));
	return 0;
}
