// links: common_rpc common_net common_x509 common_base kds_proto
/*
 * Writes through changes of leadership: how long nothing succeeds, what fails, and whether every request had its effect
 * once.
 *
 *     failover_load ADDRESS,ADDRESS,... CLUSTER KDS_NAME CERT KEY CA IN_FLIGHT MODE <commands
 *
 * A client (channel) for each replica begins with that one; each has its part of IN_FLIGHT requests under way, each of
 * which allocates one serial number. MODE "channel": the channels repeat, as they do for every program. MODE "once": a
 * request that fails is repeated once by the client, at another replica, with the same request id; the repetitions
 * behind that one are counted.
 *
 * Commands, a line each, answered on standard output by a line of key=value (times in ms):
 *     signal PID NUMBER   sends the signal, waits until each client has an answer to a request that began after it: first:
 *                         of any client, all: of every client, gap: the longest time without a success
 *     mark                the same without a signal
 *     run MS              goes on for so long
 *     finish              waits for all answers, repeats the newest requests with their ids: `differing` answers, and
 *                         `extra`: serials that were allocated beside one for each request. Must both be 0.
 */
#include <gnutls/crypto.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/rpc/channel.h"
#include "serial.pb-c.h"

#define CLIENTS_MAX 7
#define REPEATED_MAX 20000 /* requests that `finish` makes again */
#define PATIENCE_US (60 * UINT64_C(1000000))
#define ALLOCATE 0 /* Serial's methods */
#define SHOW 3

struct client {
	struct rpc_channel *channel;
	uint64_t marked_us; /* its first success since the mark; 0: none yet */
};

/* One request, repeated until it succeeds. */
struct request {
	struct request *next; /* in `answered`, newest first */
	struct client *client;
	uint8_t id[16];
	uint64_t began_us;
	unsigned failures;
	uint64_t serial; /* the answer */
	bool repeats;    /* made again by `finish`: the answer must be the same */
};

static struct client clients[CLIENTS_MAX];
static unsigned n_clients;
static bool once;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* Under the lock. */
static bool stopping;
static unsigned running;
static struct request *answered;
static uint64_t n_answered, n_failed_once, n_failed_again, n_differing;
static uint64_t mark_us, last_success_us, longest_us;
static struct status last_failure;

static _Noreturn void die(const char *what, const struct status *st)
{
	fprintf(stderr, "failover_load: %s: %s\n", what, st ? st->message : "see the source's first lines");
	_exit(1);
}

static void on_answer(void *arg, const struct rpc_result *result);

static void send(struct request *r)
{
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	const struct rpc_call_options options = {
		.done = on_answer,
		.arg = r,
		.timeout_ms = 10000,
		.request_id = { r->id, sizeof r->id },
		.no_retry = once,
	};
	in.count = 1;
	rpc_channel_call(r->client->channel, &kds__v1__serial__descriptor, ALLOCATE, &in.base, &options);
}

static void begin(struct client *client)
{
	struct request *r = calloc(1, sizeof *r);
	if (!r || gnutls_rnd(GNUTLS_RND_NONCE, r->id, sizeof r->id) < 0)
		die("out of memory", NULL);
	r->client = client;
	r->began_us = clock_monotonic_us();
	send(r);
}

/* With the lock held. */
static void note_success(struct request *r, uint64_t serial)
{
	uint64_t now = clock_monotonic_us();
	if (now - last_success_us > longest_us)
		longest_us = now - last_success_us;
	last_success_us = now;
	if (r->repeats) {
		n_differing += r->serial != serial;
		return;
	}
	r->serial = serial;
	r->next = answered;
	answered = r;
	n_answered++;
	if (mark_us != 0 && r->began_us >= mark_us && r->client->marked_us == 0) {
		r->client->marked_us = now;
		pthread_cond_broadcast(&changed);
	}
}

static void note_failure(struct request *r, const struct status *st)
{
	last_failure = *st;
	n_failed_once += r->failures == 0;
	n_failed_again += r->failures == 1;
	r->failures++;
}

static void on_answer(void *arg, const struct rpc_result *result)
{
	struct request *r = arg;
	struct client *client = r->client;
	bool ok = result->status.code == STATUS_OK;
	pthread_mutex_lock(&lock);
	if (ok)
		note_success(r, ((const Kds__V1__AllocateResponse *)result->message)->first);
	else
		note_failure(r, &result->status);
	bool next = ok && !r->repeats && !stopping;
	if (ok && !next) {
		running--;
		pthread_cond_broadcast(&changed);
	}
	pthread_mutex_unlock(&lock);
	if (!ok) {
		if (r->failures > 1)
			usleep(20000); /* a dead cluster must not become a busy loop */
		rpc_channel_leave(client->channel);
		send(r);
	} else if (next) {
		begin(client);
	}
}

/* Waits until `done`, which is asked with the lock held. */
static void wait_until(bool (*done)(void), const char *what)
{
	uint64_t end = clock_monotonic_us() + PATIENCE_US;
	pthread_mutex_lock(&lock);
	while (!done()) {
		struct timespec t;
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_sec++;
		pthread_cond_timedwait(&changed, &lock, &t);
		if (clock_monotonic_us() > end)
			die(what, &last_failure);
	}
	pthread_mutex_unlock(&lock);
}

static bool all_marked(void)
{
	for (unsigned i = 0; i < n_clients; i++)
		if (clients[i].marked_us == 0)
			return false;
	return true;
}

static bool none_runs(void)
{
	return running == 0;
}

static void do_signal(pid_t pid, int number)
{
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < n_clients; i++)
		clients[i].marked_us = 0;
	mark_us = last_success_us = clock_monotonic_us();
	longest_us = 0;
	pthread_mutex_unlock(&lock);
	if (pid > 0 && kill(pid, number) != 0)
		die("kill", NULL);
	wait_until(all_marked, "no success for a minute");
	uint64_t first = UINT64_MAX, all = 0;
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < n_clients; i++) {
		uint64_t took = clients[i].marked_us - mark_us;
		first = took < first ? took : first;
		all = took > all ? took : all;
	}
	printf("first=%.1f all=%.1f gap=%.1f\n", (double)first / 1e3, (double)all / 1e3, (double)longest_us / 1e3);
	pthread_mutex_unlock(&lock);
}

static uint64_t last_serial(void)
{
	Kds__V1__ShowRequest in = KDS__V1__SHOW_REQUEST__INIT;
	ProtobufCMessage *out = NULL;
	struct status st;
	if (rpc_channel_wait(clients[0].channel, &kds__v1__serial__descriptor, "Show", &in.base, NULL, &st, &out) != STATUS_OK)
		die("Serial.Show", &st);
	uint64_t last = ((const Kds__V1__SerialStatus *)out)->last_serial;
	protobuf_c_message_free_unpacked(out, NULL);
	return last;
}

static void repeat_newest(void)
{
	struct request *r = answered;
	for (unsigned n = 0; r && n < REPEATED_MAX; n++, r = r->next) {
		pthread_mutex_lock(&lock);
		running++;
		pthread_mutex_unlock(&lock);
		r->repeats = true;
		r->client = &clients[n % n_clients]; /* mostly another */
		send(r);
		if (n % 500 == 499)
			wait_until(none_runs, "a repeated request is not answered");
	}
	wait_until(none_runs, "a repeated request is not answered");
}

static void finish(uint64_t before)
{
	pthread_mutex_lock(&lock);
	stopping = true;
	pthread_mutex_unlock(&lock);
	wait_until(none_runs, "a request is not answered");
	uint64_t n = n_answered;
	repeat_newest();
	printf("answered=%" PRIu64 " failed_once=%" PRIu64 " failed_again=%" PRIu64 " differing=%" PRIu64 " extra=%" PRId64 "\n",
	       n, n_failed_once, n_failed_again, n_differing, (int64_t)(last_serial() - before - n));
	if (last_failure.code != STATUS_OK)
		fprintf(stderr, "failover_load: last failure: %s: %s\n", status_name(last_failure.code), last_failure.message);
}

static void connect_clients(char **argv)
{
	struct status st;
	struct buffer pem = { 0 };
	struct trust *trust;
	struct tls_credentials *credentials;
	if (file_read(argv[6], 1 << 20, &st, &pem) != STATUS_OK)
		die("CA", &st);
	if (trust_new(argv[2], argv[3], &(struct slice){ pem.data, pem.len }, &st, &trust) != STATUS_OK)
		die("trust", &st);
	if (tls_credentials_load(argv[4], argv[5], TLS_MINIMUM_1_3, &st, &credentials) != STATUS_OK)
		die("credentials", &st);
	const char *addresses[2 * CLIENTS_MAX];
	for (char *a = strtok(argv[1], ","); a && n_clients < CLIENTS_MAX; a = strtok(NULL, ","))
		addresses[n_clients++] = a;
	for (unsigned i = 0; i < n_clients; i++)
		addresses[n_clients + i] = addresses[i];
	for (unsigned i = 0; i < n_clients; i++) {
		const struct rpc_channel_options options = {
			.addresses = addresses + i,
			.n_addresses = n_clients,
			.credentials = credentials,
			.trust = trust,
			.expect_roles = PEER_SERIAL,
			.limits = CONN_LIMITS_DEFAULT,
		};
		if (rpc_channel_new(&options, &st, &clients[i].channel) != STATUS_OK)
			die("channel", &st);
	}
	buffer_free(&pem);
}

static void obey(const char *line)
{
	int pid = 0, number = 0;
	unsigned ms;
	if (sscanf(line, "signal %d %d", &pid, &number) == 2 || strcmp(line, "mark\n") == 0)
		do_signal(pid, number);
	else if (sscanf(line, "run %u", &ms) == 1)
		usleep(ms * 1000), puts("ran");
	else
		die(line, NULL);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[100];
	if (argc != 9)
		die("usage", NULL);
	once = strcmp(argv[8], "once") == 0;
	connect_clients(argv);
	uint64_t before = last_serial();
	running = (unsigned)atoi(argv[7]);
	last_success_us = clock_monotonic_us();
	for (unsigned i = 0, n = running; i < n; i++)
		begin(&clients[i % n_clients]);
	while (fgets(line, sizeof line, stdin) && strcmp(line, "finish\n") != 0)
		obey(line);
	finish(before);
	return 0;
}
