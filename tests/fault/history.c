// links: common_rpc common_net common_x509 common_base kds_proto
/*
 * Loads the replicas through the project's own channel and writes down each call's start, end and answer, for
 * check_history.py to decide whether all of them together can be true.
 *
 *   history FILE SECONDS CLIENTS RATE CLUSTER KDS_NAME CA ADMIN_CERT ADMIN_KEY CA_CERT CA_KEY ADDRESS...
 *
 * CLIENTS threads make RATE calls a second together, for SECONDS or until SIGTERM: serial blocks, min_serial,
 * linearizable reads of both, and objects of the configuration that change by compare-and-set. Clients are spread over
 * one channel for each ADDRESS, which never asks another, and one that may ask all. An administrator's writes have channels
 * of their own: a replica sends those on to the leader, where a channel stays, and reads are to ask every replica.
 *
 * A line a call: START END CLIENT OPERATION ARGUMENTS = OUTCOME RESULTS, times in nanoseconds of CLOCK_MONOTONIC:
 *
 *   allocate COUNT = ok FIRST LAST
 *   set-min VALUE = ok MIN | refused
 *   show = ok LAST_SERIAL MIN_SERIAL REVISION
 *   put KEY EXPECTED_REVISION VALUE = ok REVISION | refused       the object has that revision
 *   get KEY = ok REVISION VALUE                                   0 and "-": there is none
 *
 * A write that may or may not have been carried out, now or later, has the outcome "unknown". A read without an answer
 * says nothing and is left out.
 */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/rpc/channel.h"
#include "config.pb-c.h"
#include "serial.pb-c.h"

#define ADDRESSES_MAX 8
#define CLIENTS_MAX 256
#define KEYS 6
#define BLOCK 3 /* serials in a block: one size for all, so that the checker can account for gaps exactly */
#define TIMEOUT_MS 3000
#define GROUP "urn:history:"

struct client {
	unsigned number;
	uint64_t random;
	uint64_t revisions[KEYS]; /* as it saw them last */
	unsigned writes;
	struct rpc_channel *admin, *admin_writes, *ca;
	pthread_t thread;
};

struct identity_channels {
	struct tls_credentials *credentials;
	struct rpc_channel *channels[ADDRESSES_MAX + 1];
};

static const char *const *addresses;
static size_t n_addresses;
static struct trust *trust;
static FILE *file;
static uint64_t pause_ns; /* between two calls of one client */
static atomic_bool stopping;
static atomic_ullong highest_seen, ok, refused, unknown, unread;

static _Noreturn void die(const char *what, const struct status *st)
{
	fprintf(stderr, "history: %s: %s\n", what, st ? st->message : "see the source's first lines");
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t dice(struct client *c, uint64_t n)
{
	c->random ^= c->random << 13;
	c->random ^= c->random >> 7;
	c->random ^= c->random << 17;
	return c->random % n;
}

enum outcome { OK, REFUSED, UNKNOWN };

/* Which answers the state machine gives itself; what else went wrong may have happened before or behind it. */
static enum outcome outcome_of(enum status_code code, const struct status *st)
{
	switch (code) {
	case STATUS_OK:
		return OK;
	case STATUS_ABORTED:
	case STATUS_FAILED_PRECONDITION:
	case STATUS_NOT_FOUND:
	case STATUS_OUT_OF_RANGE:
		return REFUSED;
	case STATUS_INVALID_ARGUMENT:
	case STATUS_PERMISSION_DENIED:
	case STATUS_UNIMPLEMENTED:
	case STATUS_INTERNAL:
	case STATUS_DATA_LOSS:
		die("an answer that no call here may get", st);
	default:
		return UNKNOWN;
	}
}

static void count(enum outcome outcome, bool write)
{
	if (outcome == OK)
		atomic_fetch_add(&ok, 1);
	else if (outcome == REFUSED)
		atomic_fetch_add(&refused, 1);
	else
		atomic_fetch_add(write ? &unknown : &unread, 1);
}

struct call {
	struct rpc_channel *channel;
	const ProtobufCServiceDescriptor *service;
	const char *method;
	const ProtobufCMessage *input;
	bool write;
	uint64_t start;
	ProtobufCMessage *answer; /* when the outcome is OK */
};

static enum outcome make(struct call *call)
{
	struct status st;
	const struct rpc_call_options options = { .timeout_ms = TIMEOUT_MS };
	call->start = now_ns();
	enum status_code code =
	    rpc_channel_wait(call->channel, call->service, call->method, call->input, &options, &st, &call->answer);
	enum outcome outcome = outcome_of(code, &st);
	count(outcome, call->write);
	return outcome;
}

/* What a write without a result had for an answer. */
static const char *word(enum outcome outcome)
{
	return outcome == REFUSED ? "refused" : "unknown";
}

/* Opens the line of a call; the answer follows. stdio's lock makes it one line. */
static void begin_line(const struct client *c, const struct call *call)
{
	uint64_t end = now_ns();
	flockfile(file);
	fprintf(file, "%" PRIu64 " %" PRIu64 " %u ", call->start, end, c->number);
}

static void end_line(struct call *call)
{
	putc_unlocked('\n', file);
	funlockfile(file);
	if (call->answer)
		protobuf_c_message_free_unpacked(call->answer, NULL);
}

static void allocate(struct client *c)
{
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = BLOCK;
	struct call call = { c->ca, &kds__v1__serial__descriptor, "Allocate", &in.base, .write = true };
	enum outcome outcome = make(&call);
	begin_line(c, &call);
	fprintf(file, "allocate %d = ", BLOCK);
	if (outcome == OK) {
		const Kds__V1__AllocateResponse *a = (const Kds__V1__AllocateResponse *)call.answer;
		fprintf(file, "ok %" PRIu64 " %" PRIu64, a->first, a->last);
	} else {
		fputs(word(outcome), file);
	}
	end_line(&call);
}

static bool show(struct client *c)
{
	Kds__V1__ShowRequest in = KDS__V1__SHOW_REQUEST__INIT;
	struct call call = { c->admin, &kds__v1__serial__descriptor, "Show", &in.base, .write = false };
	if (make(&call) != OK)
		return false;
	const Kds__V1__SerialStatus *a = (const Kds__V1__SerialStatus *)call.answer;
	unsigned long long seen = atomic_load(&highest_seen);
	while (seen < a->last_serial && !atomic_compare_exchange_weak(&highest_seen, &seen, a->last_serial))
		;
	begin_line(c, &call);
	fprintf(file, "show = ok %" PRIu64 " %" PRIu64 " %" PRIu64, a->last_serial, a->min_serial, a->revision);
	end_line(&call);
	return true;
}

/* At most what was seen to be handed out, and often less than what others have set. */
static void set_min(struct client *c)
{
	uint64_t seen = atomic_load(&highest_seen), back = dice(c, 300);
	Kds__V1__SetMinRequest in = KDS__V1__SET_MIN_REQUEST__INIT;
	in.value_case = KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL;
	in.min_serial = seen > back ? seen - back : 1;
	struct call call = { c->admin_writes, &kds__v1__serial__descriptor, "SetMin", &in.base, .write = true };
	enum outcome outcome = make(&call);
	begin_line(c, &call);
	fprintf(file, "set-min %" PRIu64 " = ", in.min_serial);
	if (outcome == OK)
		fprintf(file, "ok %" PRIu64, ((const Kds__V1__SerialStatus *)call.answer)->min_serial);
	else
		fputs(word(outcome), file);
	end_line(&call);
}

/* The value of an object: the group of a node. */
static void get(struct client *c, unsigned key)
{
	char name[64];
	snprintf(name, sizeof name, "node/history%u.example.com", key);
	Kds__V1__GetRequest in = KDS__V1__GET_REQUEST__INIT;
	in.key = name;
	struct call call = { c->admin, &kds__v1__config__descriptor, "Get", &in.base, .write = false };
	enum outcome outcome = make(&call);
	if (outcome == UNKNOWN)
		return;
	const Kds__V1__Object *o = (const Kds__V1__Object *)call.answer;
	if (o && (o->value_case != KDS__V1__OBJECT__VALUE_NODE || o->node->n_groups != 1 ||
		  strncmp(o->node->groups[0], GROUP, strlen(GROUP)) != 0))
		die(name, NULL);
	c->revisions[key] = o ? o->revision : 0;
	begin_line(c, &call);
	fprintf(file, "get %u = ok %" PRIu64 " %s", key, c->revisions[key], o ? o->node->groups[0] + strlen(GROUP) : "-");
	end_line(&call);
}

static void put(struct client *c, unsigned key)
{
	char name[64], value[64];
	snprintf(name, sizeof name, "history%u.example.com", key);
	snprintf(value, sizeof value, GROUP "%u-%u", c->number, c->writes++);
	char *groups[] = { value };
	Kds__V1__Node node = KDS__V1__NODE__INIT;
	node.name = name;
	node.groups = groups;
	node.n_groups = 1;
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.value_case = KDS__V1__OBJECT__VALUE_NODE;
	object.node = &node;
	Kds__V1__PutRequest in = KDS__V1__PUT_REQUEST__INIT;
	in.object = &object;
	in.check_revision = true;
	in.expected_revision = c->revisions[key];
	struct call call = { c->admin_writes, &kds__v1__config__descriptor, "Put", &in.base, .write = true };
	enum outcome outcome = make(&call);
	begin_line(c, &call);
	fprintf(file, "put %u %" PRIu64 " %s = ", key, in.expected_revision, value + strlen(GROUP));
	if (outcome == OK) {
		c->revisions[key] = ((const Kds__V1__Object *)call.answer)->revision;
		fprintf(file, "ok %" PRIu64, c->revisions[key]);
	} else {
		fputs(word(outcome), file);
	}
	end_line(&call);
}

static void one_call(struct client *c)
{
	unsigned key = (unsigned)dice(c, KEYS);
	switch (dice(c, 10)) {
	case 0:
		set_min(c);
		break;
	case 1:
	case 2:
		show(c);
		break;
	case 3:
		get(c, key);
		break;
	case 4:
	case 5:
		get(c, key); /* else most writes would be refused */
		put(c, key);
		break;
	case 6:
		put(c, key);
		break;
	default:
		allocate(c);
	}
}

static void *run_client(void *arg)
{
	struct client *c = arg;
	uint64_t due = now_ns() + dice(c, pause_ns);
	while (!atomic_load(&stopping)) {
		uint64_t now = now_ns();
		if (now < due) {
			struct timespec t = { .tv_sec = (time_t)((due - now) / 1000000000u),
					      .tv_nsec = (long)((due - now) % 1000000000u) };
			nanosleep(&t, NULL);
		} else {
			due = now; /* what a fault delayed is not made up for */
		}
		due += pause_ns;
		one_call(c);
	}
	return NULL;
}

static void load_identity(struct identity_channels *i, const char *cert, const char *key)
{
	struct status st;
	if (tls_credentials_load(cert, key, TLS_MINIMUM_1_3, &st, &i->credentials) != STATUS_OK)
		die("credentials", &st);
	for (size_t n = 0; n <= n_addresses; n++) {
		bool all = n == n_addresses;
		const struct rpc_channel_options options = {
			.addresses = all ? addresses : addresses + n,
			.n_addresses = all ? n_addresses : 1,
			.credentials = i->credentials,
			.trust = trust,
			.expect_roles = PEER_SERIAL,
			.limits = CONN_LIMITS_DEFAULT,
		};
		if (rpc_channel_new(&options, &st, &i->channels[n]) != STATUS_OK)
			die("channel", &st);
	}
}

static void free_identity(struct identity_channels *i)
{
	for (size_t n = 0; n <= n_addresses; n++)
		rpc_channel_free(i->channels[n]);
	tls_credentials_unref(i->credentials);
}

static void on_signal(int number)
{
	(void)number;
	atomic_store(&stopping, true);
}

static void make_trust(const char *cluster, const char *kds_name, const char *ca_file)
{
	struct status st;
	struct buffer pem = { 0 };
	if (file_read(ca_file, 1 << 20, &st, &pem) != STATUS_OK)
		die("CA", &st);
	const struct slice ca = { pem.data, pem.len };
	if (trust_new(cluster, kds_name, &ca, &st, &trust) != STATUS_OK)
		die("trust", &st);
	buffer_free(&pem);
}

/* The first line says where the numbers stand; the clients begin behind it. */
static void run(struct client *clients, unsigned n, unsigned seconds)
{
	while (!show(&clients[0]) && !atomic_load(&stopping))
		;
	uint64_t end = now_ns() + seconds * UINT64_C(1000000000);
	for (unsigned i = 0; i < n; i++)
		if (pthread_create(&clients[i].thread, NULL, run_client, &clients[i]) != 0)
			die("no thread", NULL);
	while (!atomic_load(&stopping) && now_ns() < end)
		usleep(20000);
	atomic_store(&stopping, true);
	for (unsigned i = 0; i < n; i++)
		pthread_join(clients[i].thread, NULL);
}

int main(int argc, char **argv)
{
	if (argc < 13 || argc > 12 + ADDRESSES_MAX)
		die("usage", NULL);
	unsigned seconds = (unsigned)atoi(argv[2]), n = (unsigned)atoi(argv[3]), rate = (unsigned)atoi(argv[4]);
	static struct client clients[CLIENTS_MAX];
	static struct identity_channels admin, admin_writes, ca;
	if (n == 0 || n > CLIENTS_MAX || rate == 0)
		die("usage", NULL);
	addresses = (const char *const *)argv + 12;
	n_addresses = (size_t)argc - 12;
	pause_ns = UINT64_C(1000000000) * n / rate;
	signal(SIGTERM, on_signal);
	signal(SIGPIPE, SIG_IGN);
	file = fopen(argv[1], "we");
	if (!file)
		die(argv[1], NULL);
	setvbuf(file, NULL, _IOLBF, 0); /* scripts watch it grow */
	make_trust(argv[5], argv[6], argv[7]);
	load_identity(&admin, argv[8], argv[9]);
	load_identity(&admin_writes, argv[8], argv[9]);
	load_identity(&ca, argv[10], argv[11]);
	for (unsigned i = 0; i < n; i++) {
		size_t channel = i % (n_addresses + 1);
		clients[i] = (struct client){ .number = i,
					      .random = now_ns() * 2654435761u + i * UINT64_C(0x9e3779b97f4a7c15) + 1,
					      .admin = admin.channels[channel],
					      .admin_writes = admin_writes.channels[channel],
					      .ca = ca.channels[channel] };
	}
	run(clients, n, seconds);
	free_identity(&admin);
	free_identity(&admin_writes);
	free_identity(&ca);
	trust_free(trust);
	if (fclose(file) != 0)
		die("write the history", NULL);
	printf("ok=%llu refused=%llu unknown=%llu unread=%llu\n", ok, refused, unknown, unread);
	return 0;
}
