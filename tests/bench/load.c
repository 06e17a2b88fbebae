/*
 * Loads a service through the project's own channel and prints rate and latencies.
 *
 *   bench-load OPERATION ADDRESS[,ADDRESS...] CLUSTER KDS_NAME CERT KEY CA IN_FLIGHT SECONDS [CSR NODE]
 *
 * OPERATION: echo; allocate (one committed serial a request); show (a linearizable read); sign (a certificate from CSR).
 * One connection; a slot that got its answer asks again at once. Prints one line of key=value pairs, times in microseconds.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ca.pb-c.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/rpc/channel.h"
#include "health.pb-c.h"
#include "serial.pb-c.h"

#define SAMPLES_MAX (8u << 20)

struct operation {
	const char *name;
	const ProtobufCServiceDescriptor *service;
	unsigned method;
	const ProtobufCMessage *input;
	unsigned server;
};

struct slot {
	uint64_t started_us;
};

static struct rpc_channel *channel;
static struct operation operation;
static atomic_bool measuring, stopping;
static atomic_uint running, n_samples, failures;
static uint32_t *samples; /* microseconds */
static pthread_mutex_t first_lock = PTHREAD_MUTEX_INITIALIZER;
static struct status first_failure;

static _Noreturn void die(const char *what, const struct status *st)
{
	fprintf(stderr, "bench-load: %s: %s\n", what, st ? st->message : "see the source's first lines");
	exit(1);
}

static void answered(void *arg, const struct rpc_result *result);

static void ask(struct slot *s)
{
	struct rpc_call_options options = { .done = answered, .arg = s };
	s->started_us = clock_monotonic_us();
	rpc_channel_call(channel, operation.service, operation.method, operation.input, &options);
}

static void note_failure(const struct status *st)
{
	pthread_mutex_lock(&first_lock);
	if (first_failure.code == STATUS_OK)
		first_failure = *st;
	pthread_mutex_unlock(&first_lock);
	atomic_fetch_add(&failures, 1);
}

static void answered(void *arg, const struct rpc_result *result)
{
	struct slot *s = arg;
	if (result->status.code != STATUS_OK) {
		note_failure(&result->status);
	} else if (atomic_load(&measuring)) {
		unsigned i = atomic_fetch_add(&n_samples, 1);
		if (i < SAMPLES_MAX)
			samples[i] = (uint32_t)(clock_monotonic_us() - s->started_us);
	}
	/* A slot whose call failed rests: a dead server must not become a busy loop. */
	if (atomic_load(&stopping) || result->status.code != STATUS_OK)
		atomic_fetch_sub(&running, 1);
	else
		ask(s);
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static void choose(const char *name, char **rest, int n)
{
	static Kds__V1__EchoRequest echo = KDS__V1__ECHO_REQUEST__INIT;
	static Kds__V1__AllocateRequest allocate = KDS__V1__ALLOCATE_REQUEST__INIT;
	static Kds__V1__ShowRequest show = KDS__V1__SHOW_REQUEST__INIT;
	static Kds__V1__SignRequest sign = KDS__V1__SIGN_REQUEST__INIT;
	static uint8_t data[200];
	static struct buffer csr;
	echo.data = (ProtobufCBinaryData){ .data = data, .len = sizeof data };
	allocate.count = 1;
	const struct operation all[] = {
		{ "echo", &kds__v1__health__descriptor, 1, &echo.base, PEER_SERVICES },
		{ "allocate", &kds__v1__serial__descriptor, 0, &allocate.base, PEER_SERIAL },
		{ "show", &kds__v1__serial__descriptor, 3, &show.base, PEER_SERIAL },
		{ "sign", &kds__v1__ca__descriptor, 0, &sign.base, PEER_CA },
	};
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		if (strcmp(all[i].name, name) == 0)
			operation = all[i];
	if (!operation.name)
		die(name, NULL);
	if (strcmp(name, "sign") == 0) {
		struct status st;
		if (n < 2)
			die("sign needs CSR and NODE", NULL);
		if (file_read(rest[0], 1 << 16, &st, &csr) != STATUS_OK)
			die("CSR", &st);
		sign.csr = (ProtobufCBinaryData){ .data = csr.data, .len = csr.len };
		sign.node = rest[1];
	}
}

static void connect_channel(char **argv, unsigned in_flight)
{
	struct status st;
	struct buffer pem = { 0 };
	struct trust *trust;
	struct tls_credentials *credentials;
	if (file_read(argv[7], 1 << 20, &st, &pem) != STATUS_OK)
		die("CA", &st);
	struct slice ca = { pem.data, pem.len };
	if (trust_new(argv[3], argv[4], &ca, &st, &trust) != STATUS_OK)
		die("trust", &st);
	if (tls_credentials_load(argv[5], argv[6], TLS_MINIMUM_1_3, &st, &credentials) != STATUS_OK)
		die("credentials", &st);
	const char *addresses[8];
	size_t n = 0;
	for (char *a = strtok(argv[2], ","); a && n < 8; a = strtok(NULL, ","))
		addresses[n++] = a;
	struct rpc_channel_options options = {
		.addresses = addresses,
		.n_addresses = n,
		.credentials = credentials,
		.trust = trust,
		.expect_roles = operation.server,
		.max_pending = in_flight + 16,
		.limits = CONN_LIMITS_DEFAULT,
	};
	if (rpc_channel_new(&options, &st, &channel) != STATUS_OK)
		die("channel", &st);
	buffer_free(&pem);
}

static void report(unsigned in_flight, double seconds)
{
	unsigned n = atomic_load(&n_samples);
	unsigned kept = n < SAMPLES_MAX ? n : SAMPLES_MAX;
	if (kept == 0)
		die(operation.name, &first_failure);
	qsort(samples, kept, sizeof *samples, by_value);
	printf("rate=%.0f in_flight=%u p50=%u p99=%u max=%u failed=%u\n", (double)n / seconds, in_flight,
	       samples[kept / 2], samples[(size_t)kept * 99 / 100], samples[kept - 1], atomic_load(&failures));
	if (first_failure.code != STATUS_OK)
		fprintf(stderr, "bench-load: first failure: %s: %s\n", status_name(first_failure.code),
			first_failure.message);
}

int main(int argc, char **argv)
{
	if (argc < 10)
		die("usage", NULL);
	unsigned in_flight = (unsigned)atoi(argv[8]);
	double seconds = atof(argv[9]);
	choose(argv[1], argv + 10, argc - 10);
	connect_channel(argv, in_flight);
	struct slot *slots = calloc(in_flight, sizeof *slots);
	samples = malloc(SAMPLES_MAX * sizeof *samples);
	if (!slots || !samples)
		die("out of memory", NULL);
	atomic_store(&running, in_flight);
	for (unsigned i = 0; i < in_flight; i++)
		ask(&slots[i]);
	usleep(1000000); /* connections, elections and caches settle */
	uint64_t start = clock_monotonic_us();
	atomic_store(&measuring, true);
	usleep((useconds_t)(seconds * 1e6));
	atomic_store(&measuring, false);
	double took = (double)(clock_monotonic_us() - start) / 1e6;
	atomic_store(&stopping, true);
	while (atomic_load(&running) > 0)
		usleep(1000);
	report(in_flight, took);
	rpc_channel_free(channel);
	free(slots);
	free(samples);
	return 0;
}
