/*
 * Loads a service through the project's own channel and prints rate and latencies.
 *
 *   bench-load OPERATION ADDRESS[,ADDRESS...] CLUSTER KDS_NAME CERT KEY CA IN_FLIGHT SECONDS [CSR NODE | BATCH TOTAL]
 *
 * OPERATION: echo; allocate (one committed serial a request); show (a linearizable read); sign (a certificate from CSR);
 * record (BATCH records of certificates a request, each one operation; ends earlier when there are TOTAL).
 * One connection; a slot that got its answer asks again at once. Prints one line of key=value pairs (samples.h).
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
#include "tests/bench/load_records.h"
#include "tests/bench/samples.h"

#define WARM_UP_US 1000000

struct operation {
	const char *name;
	const ProtobufCServiceDescriptor *service;
	unsigned method;
	const ProtobufCMessage *input; /* NULL: load_records.h makes them */
	unsigned server;
};

struct slot {
	uint64_t started_us;
	unsigned operations; /* in its request */
};

static struct rpc_channel *channel;
static struct operation operation;
static atomic_bool stopping;
static atomic_uint running, failures;
static pthread_mutex_t first_lock = PTHREAD_MUTEX_INITIALIZER;
static struct status first_failure;

static _Noreturn void die(const char *what, const struct status *st)
{
	fprintf(stderr, "bench-load: %s: %s\n", what, st ? st->message : "see the source's first lines");
	exit(1);
}

static void answered(void *arg, const struct rpc_result *result);

/* False: there is nothing left to ask for. */
static bool ask(struct slot *s)
{
	struct rpc_call_options options = { .done = answered, .arg = s };
	Kds__V1__RecordRequest *record = NULL;
	const ProtobufCMessage *input = operation.input;
	s->operations = 1;
	if (!input) {
		record = load_records_next();
		if (!record)
			return false;
		s->operations = (unsigned)record->n_certificates;
		input = &record->base;
	}
	s->started_us = clock_monotonic_us();
	rpc_channel_call(channel, operation.service, operation.method, input, &options);
	load_records_free(record);
	return true;
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
	bool ok = result->status.code == STATUS_OK;
	if (!ok) {
		note_failure(&result->status);
	} else if (!operation.input && !load_records_ok(result->message)) {
		struct status refused;
		status_set(&refused, STATUS_FAILED_PRECONDITION, "a record was refused");
		note_failure(&refused);
	} else {
		for (unsigned i = 0; i < s->operations; i++)
			samples_add(s->started_us);
	}
	/* A slot whose call failed rests: a dead server must not become a busy loop. */
	if (atomic_load(&stopping) || !ok || !ask(s))
		atomic_fetch_sub(&running, 1);
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
		{ "record", &kds__v1__serial__descriptor, 1, NULL, PEER_SERIAL },
	};
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		if (strcmp(all[i].name, name) == 0)
			operation = all[i];
	if (!operation.name || (!operation.input && n < 2))
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

/* Until all slots rest, or the time is over. */
static void wait_us(uint64_t us)
{
	uint64_t end = clock_monotonic_us() + us;
	while (atomic_load(&running) > 0 && clock_monotonic_us() < end)
		usleep(1000);
}

static void run(unsigned in_flight, double seconds)
{
	struct slot *slots = calloc(in_flight, sizeof *slots);
	if (!slots)
		die("out of memory", NULL);
	atomic_store(&running, in_flight);
	for (unsigned i = 0; i < in_flight; i++)
		if (!ask(&slots[i]))
			atomic_fetch_sub(&running, 1);
	wait_us(WARM_UP_US); /* connections, elections and caches settle */
	samples_start();
	wait_us((uint64_t)(seconds * 1e6));
	samples_stop();
	atomic_store(&stopping, true);
	wait_us(UINT64_MAX / 2);
	free(slots);
}

int main(int argc, char **argv)
{
	if (argc < 10)
		die("usage", NULL);
	unsigned in_flight = (unsigned)atoi(argv[8]);
	choose(argv[1], argv + 10, argc - 10);
	connect_channel(argv, in_flight);
	if (!operation.input)
		load_records_init(channel, (unsigned)atoi(argv[10]), strtoull(argv[11], NULL, 10));
	samples_init();
	run(in_flight, atof(argv[9]));
	bool any = samples_print(in_flight, atomic_load(&failures));
	if (first_failure.code != STATUS_OK)
		fprintf(stderr, "bench-load: first failure: %s: %s\n", status_name(first_failure.code),
			first_failure.message);
	rpc_channel_free(channel);
	if (!any)
		die(argv[1], &first_failure);
	return 0;
}
