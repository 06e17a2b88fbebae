// links: service_serial common_rpc common_net common_base kds_proto
/*
 * Three engines in one process, over loopback TLS. How replication behaves under faults is test_replica.c's; here the
 * threads, the streams and the start and stop of a real engine are.
 */
#include "tests/support/support.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "services/serial/engine.h"
#include "tests/support/pki.h"

#define N 3
#define CLUSTER_ID "engine-test"
#define PATIENCE_MS 30000 /* nothing is expected to take so long; a test that waits for it has failed */

struct cluster {
	struct pki *pki;
	struct trust *trust;
	char *dir;
	char dirs[N][512];
	char names[N][16];
	char addresses[N][64], rpc_addresses[N][64];
	struct engine_member members[N];
	struct tls_credentials *credentials[N];
	struct engine *engines[N];
	_Atomic uint64_t revisions[N]; /* told by `changed` */
};

static void pause_ms(unsigned ms)
{
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };
	nanosleep(&t, NULL);
}

/* A new set of ports for each test, so that none waits for the other's. */
static unsigned next_port(void)
{
	static unsigned port = 20000;
	return port++;
}

static void on_changed(void *arg, struct state *state, uint64_t revision)
{
	(void)state;
	atomic_store((_Atomic uint64_t *)arg, revision);
}

static enum status_code start(struct cluster *c, int i, struct status *st)
{
	const struct engine_options o = {
		.id = (uint64_t)i + 1,
		.data_dir = c->dirs[i],
		.peer_listen = c->addresses[i],
		.rpc_address = c->rpc_addresses[i],
		.cluster = PKI_CLUSTER,
		.kds_name = PKI_KDS_NAME,
		.cluster_id = CLUSTER_ID,
		.members = c->members,
		.n_members = N,
		.election_ms = 600,
		.heartbeat_ms = 60,
		.credentials = c->credentials[i],
		.trust = c->trust,
		.changed = on_changed,
		.arg = &c->revisions[i],
	};
	return engine_start(&o, st, &c->engines[i]);
}

static void start_ok(struct cluster *c, int i)
{
	struct status st;
	if (start(c, i, &st) != STATUS_OK)
		fail_msg("engine %d: %s", i + 1, st.message);
}

static void stop(struct cluster *c, int i)
{
	engine_stop(c->engines[i]);
	c->engines[i] = NULL;
}

static struct cluster *cluster_new(void)
{
	struct cluster *c = calloc(1, sizeof *c);
	assert_non_null(c);
	c->pki = pki_new();
	c->dir = support_make_directory();
	const struct slice anchors = pki_ca_pem(c->pki, PKI_INFRASTRUCTURE);
	struct status st;
	assert_int_equal(trust_new(PKI_CLUSTER, PKI_KDS_NAME, &anchors, &st, &c->trust), STATUS_OK);
	for (int i = 0; i < N; i++) {
		snprintf(c->dirs[i], sizeof c->dirs[i], "%s/serial%d", c->dir, i + 1);
		snprintf(c->names[i], sizeof c->names[i], "serial%d", i + 1);
		snprintf(c->addresses[i], sizeof c->addresses[i], "%s.%d:%u", support_net(), i + 1, next_port());
		snprintf(c->rpc_addresses[i], sizeof c->rpc_addresses[i], "%s.%d:7400", support_net(), i + 1);
		c->members[i] = (struct engine_member){ (uint64_t)i + 1, c->names[i], c->addresses[i] };
		const struct pki_leaf *leaf = pki_service(c->pki, "serial", c->names[i]);
		assert_int_equal(tls_credentials_load(leaf->certificate, leaf->key, TLS_MINIMUM_1_3, &st,
						      &c->credentials[i]),
				 STATUS_OK);
	}
	return c;
}

static struct cluster *cluster_start(void)
{
	struct cluster *c = cluster_new();
	for (int i = 0; i < N; i++)
		start_ok(c, i);
	return c;
}

static void cluster_free(struct cluster *c)
{
	for (int i = 0; i < N; i++) {
		engine_stop(c->engines[i]);
		tls_credentials_unref(c->credentials[i]);
	}
	trust_free(c->trust);
	pki_free(c->pki);
	support_remove_directory(c->dir);
	free(c);
}

static int wait_leader(struct cluster *c)
{
	for (int ms = 0; ms < PATIENCE_MS; ms += 5) {
		for (int i = 0; i < N; i++)
			if (c->engines[i] && engine_is_leader(c->engines[i]))
				return i;
		pause_ms(5);
	}
	fail_msg("no leader");
	return -1;
}

/* Calls and their answers. */

struct call {
	pthread_mutex_t mutex;
	pthread_cond_t answered;
	unsigned done; /* how often it was answered: once */
	enum status_code code;
	uint64_t first, last, last_serial; /* of an AllocateResponse; of a SerialStatus */
};

static void call_init(struct call *c)
{
	memset(c, 0, sizeof *c);
	pthread_mutex_init(&c->mutex, NULL);
	pthread_cond_init(&c->answered, NULL);
}

static void answer(struct call *c, enum status_code code)
{
	pthread_mutex_lock(&c->mutex);
	c->done++;
	c->code = code;
	pthread_cond_signal(&c->answered);
	pthread_mutex_unlock(&c->mutex);
}

static void on_done(void *arg, const struct state_result *result)
{
	struct call *c = arg;
	if (result->status.code == STATUS_OK) {
		Kds__V1__AllocateResponse *r =
		    kds__v1__allocate_response__unpack(NULL, result->answer.len, result->answer.data);
		assert_non_null(r);
		c->first = r->first;
		c->last = r->last;
		kds__v1__allocate_response__free_unpacked(r, NULL);
	}
	answer(c, result->status.code);
}

static void on_read(void *arg, struct state *state, const struct status *st)
{
	struct call *c = arg;
	if (state) {
		Kds__V1__SerialStatus serials;
		state_serial_status(state, &serials);
		c->last_serial = serials.last_serial;
	}
	answer(c, st->code);
}

static enum status_code call_wait(struct call *c)
{
	pthread_mutex_lock(&c->mutex);
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_MS / 1000;
	while (c->done == 0)
		if (pthread_cond_timedwait(&c->answered, &c->mutex, &until) != 0)
			fail_msg("no answer");
	enum status_code code = c->code;
	pthread_mutex_unlock(&c->mutex);
	return code;
}

static void propose(struct engine *e, struct call *call)
{
	Kds__V1__AllocateRequest allocate = KDS__V1__ALLOCATE_REQUEST__INIT;
	allocate.count = 10;
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	command.requester = (char *)"ca1";
	command.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	command.allocate = &allocate;
	call_init(call);
	engine_propose(e, &command, on_done, call);
}

static enum status_code allocate(struct engine *e, struct call *call)
{
	propose(e, call);
	return call_wait(call);
}

static enum status_code read_serials(struct engine *e, bool linearizable, struct call *call)
{
	call_init(call);
	engine_read(e, linearizable, on_read, call);
	return call_wait(call);
}

/* Until it succeeds on whoever leads. */
static void allocate_anywhere(struct cluster *c, struct call *call)
{
	for (int tries = 0; tries < 200; tries++) {
		int leader = wait_leader(c);
		if (allocate(c->engines[leader], call) == STATUS_OK)
			return;
		pause_ms(20);
	}
	fail_msg("no proposal was accepted");
}

static void wait_serial(struct engine *e, uint64_t serial)
{
	struct call call;
	for (int ms = 0; ms < PATIENCE_MS; ms += 10) {
		assert_int_equal(read_serials(e, false, &call), STATUS_OK);
		if (call.last_serial == serial)
			return;
		pause_ms(10);
	}
	fail_msg("serial %" PRIu64 " never came", serial);
}

static void test_engine_commits_on_all_three(void **state)
{
	(void)state;
	struct cluster *c = cluster_start();
	struct call call;
	allocate_anywhere(c, &call);
	assert_int_equal(call.first, 1);
	assert_int_equal(call.last, 10);
	allocate_anywhere(c, &call);
	assert_int_equal(call.first, 11);
	for (int i = 0; i < N; i++)
		wait_serial(c->engines[i], 20);
	for (int i = 0; i < N; i++)
		assert_true(atomic_load(&c->revisions[i]) > 0);
	cluster_free(c);
}

static void test_engine_follower_names_the_leader_and_refuses(void **state)
{
	(void)state;
	struct cluster *c = cluster_start();
	struct call call;
	allocate_anywhere(c, &call);
	int leader = wait_leader(c), follower = (leader + 1) % N;
	char address[64] = "";
	uint64_t id = 0;
	for (int ms = 0; ms < PATIENCE_MS && address[0] == '\0'; ms += 10) {
		if (!engine_leader(c->engines[follower], &id, address, sizeof address))
			address[0] = '\0';
		pause_ms(10);
	}
	assert_int_equal(id, leader + 1);
	assert_string_equal(address, c->rpc_addresses[leader]);
	assert_int_equal(allocate(c->engines[follower], &call), STATUS_UNAVAILABLE);
	assert_int_equal(read_serials(c->engines[follower], true, &call), STATUS_UNAVAILABLE);
	assert_int_equal(read_serials(c->engines[follower], false, &call), STATUS_OK);
	cluster_free(c);
}

static void test_engine_linearizable_reads_see_what_was_answered(void **state)
{
	(void)state;
	struct cluster *c = cluster_start();
	struct call call, read;
	allocate_anywhere(c, &call);
	int leader = wait_leader(c);
	for (uint64_t i = 1; i < 50; i++) {
		if (allocate(c->engines[leader], &call) != STATUS_OK ||
		    read_serials(c->engines[leader], true, &read) != STATUS_OK)
			break; /* somebody else leads: nothing was promised */
		assert_int_equal(read.last_serial, call.last);
	}
	cluster_free(c);
}

#define MANY 3000

static void test_engine_many_at_once_are_each_answered_once(void **state)
{
	(void)state;
	struct cluster *c = cluster_start();
	struct call first;
	allocate_anywhere(c, &first);
	int leader = wait_leader(c);
	struct call *calls = calloc(MANY, sizeof *calls), *reads = calloc(MANY, sizeof *reads);
	assert_non_null(calls);
	assert_non_null(reads);
	for (int i = 0; i < MANY; i++) {
		propose(c->engines[leader], &calls[i]);
		call_init(&reads[i]);
		engine_read(c->engines[leader], true, on_read, &reads[i]);
	}
	uint64_t before = first.last;
	for (int i = 0; i < MANY; i++) {
		enum status_code code = call_wait(&calls[i]);
		assert_true(code == STATUS_OK || code == STATUS_UNAVAILABLE);
		if (code == STATUS_OK) {
			assert_true(calls[i].first > before); /* in the order of the proposals */
			before = calls[i].last;
		}
		code = call_wait(&reads[i]);
		assert_true(code == STATUS_OK || code == STATUS_UNAVAILABLE);
		/* At least what was answered before it came; of the others what was committed then. */
		if (code == STATUS_OK)
			assert_true(reads[i].last_serial >= first.last);
	}
	assert_true(before > first.last);
	struct call after;
	call_init(&after);
	engine_read(c->engines[leader], true, on_read, &after);
	if (call_wait(&after) == STATUS_OK)
		assert_true(after.last_serial >= before);
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(calls[i].done, 1);
		assert_int_equal(reads[i].done, 1);
	}
	free(calls);
	free(reads);
	cluster_free(c);
}

static void test_engine_restarted_replica_recovers(void **state)
{
	(void)state;
	struct cluster *c = cluster_start();
	struct call call;
	allocate_anywhere(c, &call);
	int away = wait_leader(c); /* the leader, so that the others elect a new one */
	stop(c, away);
	for (int i = 0; i < 20; i++)
		allocate_anywhere(c, &call);
	start_ok(c, away);
	wait_serial(c->engines[away], call.last);
	/* And all of them at once. */
	for (int i = 0; i < N; i++)
		stop(c, i);
	for (int i = 0; i < N; i++)
		start_ok(c, i);
	uint64_t last = call.last;
	allocate_anywhere(c, &call);
	assert_int_equal(call.first, last + 1);
	for (int i = 0; i < N; i++)
		wait_serial(c->engines[i], call.last);
	cluster_free(c);
}

static void test_engine_without_quorum_answers_unavailable(void **state)
{
	(void)state;
	struct cluster *c = cluster_start();
	struct call call, read;
	allocate_anywhere(c, &call);
	int leader = wait_leader(c);
	for (int i = 0; i < N; i++)
		if (i != leader)
			stop(c, i);
	propose(c->engines[leader], &call);
	call_init(&read);
	engine_read(c->engines[leader], true, on_read, &read);
	assert_int_equal(call_wait(&call), STATUS_UNAVAILABLE);
	assert_int_equal(call_wait(&read), STATUS_UNAVAILABLE);
	for (int ms = 0; ms < PATIENCE_MS && engine_is_leader(c->engines[leader]); ms += 5)
		pause_ms(5); /* published at the end of the turn that answered */
	assert_false(engine_is_leader(c->engines[leader]));
	Kds__V1__ViewResponse *view = engine_view(c->engines[leader]);
	assert_non_null(view);
	assert_false(view->quorum);
	kds__v1__view_response__free_unpacked(view, NULL);
	cluster_free(c);
}

static void test_engine_view_lists_all(void **state)
{
	(void)state;
	struct cluster *c = cluster_start();
	struct call call;
	allocate_anywhere(c, &call);
	for (int i = 0; i < N; i++) {
		Kds__V1__ViewResponse *view = NULL;
		bool good = false;
		for (int ms = 0; ms < PATIENCE_MS && !good; ms += 20) {
			if (view)
				kds__v1__view_response__free_unpacked(view, NULL);
			pause_ms(20);
			view = engine_view(c->engines[i]);
			assert_non_null(view);
			assert_int_equal(view->n_members, N);
			good = view->quorum;
			for (int m = 0; m < N; m++)
				good = good && view->members[m]->reachable && view->members[m]->voter &&
				       view->members[m]->status && view->members[m]->status->last_serial >= call.last;
		}
		assert_true(good);
		assert_int_equal(view->asked_id, i + 1);
		assert_string_equal(view->cluster, PKI_CLUSTER);
		for (int m = 0; m < N; m++) {
			assert_int_equal(view->members[m]->id, m + 1);
			assert_string_equal(view->members[m]->address, c->addresses[m]);
			assert_string_equal(view->members[m]->rpc_address, c->rpc_addresses[m]);
		}
		kds__v1__view_response__free_unpacked(view, NULL);
	}
	cluster_free(c);
}

static void on_transfer(void *arg, const struct status *st, uint64_t leader)
{
	struct call *c = arg;
	c->first = leader;
	answer(c, st->code);
}

static enum status_code transfer(struct engine *e, uint64_t to, struct call *call)
{
	call_init(call);
	engine_transfer(e, to, on_transfer, call);
	return call_wait(call);
}

static void test_engine_hands_over(void **state)
{
	(void)state;
	struct cluster *c = cluster_start();
	struct call call;
	allocate_anywhere(c, &call);
	int leader = wait_leader(c), other = (leader + 1) % N;
	assert_int_equal(transfer(c->engines[other], 0, &call), STATUS_FAILED_PRECONDITION);
	for (int tries = 0; transfer(c->engines[leader], (uint64_t)other + 1, &call) != STATUS_OK; tries++) {
		assert_true(tries < 20); /* a slow machine has elections of its own */
		pause_ms(100);
		leader = wait_leader(c);
	}
	assert_int_equal(call.first, other + 1);
	allocate_anywhere(c, &call);
	cluster_free(c);
}

static void test_engine_stop_answers_what_waits(void **state)
{
	(void)state;
	struct cluster *c = cluster_start();
	struct call call, calls[64];
	allocate_anywhere(c, &call);
	int leader = wait_leader(c);
	for (int i = 0; i < 64; i++)
		propose(c->engines[leader], &calls[i]);
	stop(c, leader);
	for (int i = 0; i < 64; i++)
		assert_int_equal(calls[i].done, 1);
	cluster_free(c);
}

static void test_engine_alone_serves_by_itself(void **state)
{
	(void)state;
	struct cluster *c = cluster_new();
	struct status st;
	struct engine_options o = {
		.id = 1,
		.data_dir = c->dirs[0],
		.peer_listen = c->addresses[0],
		.rpc_address = c->rpc_addresses[0],
		.cluster = PKI_CLUSTER,
		.kds_name = PKI_KDS_NAME,
		.cluster_id = CLUSTER_ID,
		.members = c->members,
		.n_members = 1,
		.election_ms = 600,
		.heartbeat_ms = 60,
		.credentials = c->credentials[0],
		.trust = c->trust,
	};
	struct call call, read;
	for (uint64_t round = 0; round < 3; round++) {
		assert_int_equal(engine_start(&o, &st, &c->engines[0]), STATUS_OK);
		wait_leader(c);
		assert_int_equal(allocate(c->engines[0], &call), STATUS_OK);
		assert_int_equal(call.first, 10 * round + 1);
		assert_int_equal(read_serials(c->engines[0], true, &read), STATUS_OK);
		assert_int_equal(read.last_serial, call.last);
		stop(c, 0);
	}
	cluster_free(c);
}

static void test_engine_refuses_a_changed_configuration(void **state)
{
	(void)state;
	struct cluster *c = cluster_start();
	struct call call;
	allocate_anywhere(c, &call);
	stop(c, 0);
	struct status st;
	c->members[2].id = 9;
	assert_int_equal(start(c, 0, &st), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "replica"));
	c->members[2].id = 3;
	c->members[2].name = "other";
	assert_int_equal(start(c, 0, &st), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "serial3"));
	/* Another address is fine. */
	c->members[2].name = c->names[2];
	c->members[2].address = "127.23.0.9:1";
	start_ok(c, 0);
	cluster_free(c);
}

/* A replica whose certificate names another is not listened to: two of three lead, the third stays outside. */
static void test_engine_takes_a_peer_for_whom_its_certificate_names(void **state)
{
	(void)state;
	struct cluster *c = cluster_start(); /* a cluster begins when all have met */
	struct status st;
	struct call before, call;
	allocate_anywhere(c, &before);
	wait_serial(c->engines[2], before.last);
	stop(c, 2);
	const struct pki_leaf *leaf = pki_service(c->pki, "serial", "stranger");
	tls_credentials_unref(c->credentials[2]);
	assert_int_equal(tls_credentials_load(leaf->certificate, leaf->key, TLS_MINIMUM_1_3, &st, &c->credentials[2]),
			 STATUS_OK);
	start_ok(c, 2);
	allocate_anywhere(c, &call);
	wait_serial(c->engines[0], call.last);
	wait_serial(c->engines[1], call.last);
	assert_int_equal(read_serials(c->engines[2], false, &call), STATUS_OK);
	assert_int_equal(call.last_serial, before.last);
	Kds__V1__ViewResponse *view = engine_view(c->engines[0]);
	assert_non_null(view);
	assert_false(view->members[2]->reachable);
	kds__v1__view_response__free_unpacked(view, NULL);
	cluster_free(c);
}

static bool reaches(struct engine *e, int member)
{
	Kds__V1__ViewResponse *view = engine_view(e);
	assert_non_null(view);
	bool reachable = view->members[member]->reachable;
	kds__v1__view_response__free_unpacked(view, NULL);
	return reachable;
}

static void wait_reaches(struct engine *e, int member, bool reachable)
{
	for (int ms = 0; ms < PATIENCE_MS; ms += 10) {
		if (reaches(e, member) == reachable)
			return;
		pause_ms(10);
	}
	fail_msg("replica %d is%s reachable", member + 1, reachable ? " not" : "");
}

static void test_engine_leaves_a_removed_replica(void **state)
{
	(void)state;
	struct cluster *c = cluster_start();
	struct call call;
	allocate_anywhere(c, &call);
	wait_reaches(c->engines[0], 2, true);
	wait_reaches(c->engines[1], 2, true);
	const char *const removed[] = { "serial3" };
	assert_int_equal(trust_set_removed_services(c->trust, removed, 1, NULL), STATUS_OK);
	for (int i = 0; i < N; i++)
		engine_recheck(c->engines[i]);
	wait_reaches(c->engines[0], 2, false);
	wait_reaches(c->engines[1], 2, false);
	stop(c, 2);
	allocate_anywhere(c, &call);
	cluster_free(c);
}

/* One that no frame between replicas could carry. */
static void test_engine_refuses_a_command_that_is_too_long(void **state)
{
	(void)state;
	struct cluster *c = cluster_start();
	struct call call;
	allocate_anywhere(c, &call);
	size_t size = (size_t)3 << 20;
	char *key = malloc(size + 1);
	assert_non_null(key);
	memset(key, 'x', size);
	key[size] = '\0';
	Kds__V1__DeleteRequest request = KDS__V1__DELETE_REQUEST__INIT;
	request.key = key;
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	command.op_case = KDS__V1__COMMAND__OP_DELETE;
	command.delete_ = &request;
	call_init(&call);
	engine_propose(c->engines[wait_leader(c)], &command, on_done, &call);
	free(key);
	assert_int_equal(call_wait(&call), STATUS_INVALID_ARGUMENT);
	allocate_anywhere(c, &call);
	cluster_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_engine_commits_on_all_three),
		cmocka_unit_test(test_engine_follower_names_the_leader_and_refuses),
		cmocka_unit_test(test_engine_linearizable_reads_see_what_was_answered),
		cmocka_unit_test(test_engine_many_at_once_are_each_answered_once),
		cmocka_unit_test(test_engine_restarted_replica_recovers),
		cmocka_unit_test(test_engine_without_quorum_answers_unavailable),
		cmocka_unit_test(test_engine_view_lists_all),
		cmocka_unit_test(test_engine_hands_over),
		cmocka_unit_test(test_engine_stop_answers_what_waits),
		cmocka_unit_test(test_engine_alone_serves_by_itself),
		cmocka_unit_test(test_engine_refuses_a_changed_configuration),
		cmocka_unit_test(test_engine_leaves_a_removed_replica),
		cmocka_unit_test(test_engine_refuses_a_command_that_is_too_long),
		cmocka_unit_test(test_engine_takes_a_peer_for_whom_its_certificate_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
