// links: service_ca
#include "tests/support/support.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/x509/key.h"
#include "services/ca/issue.h"
#include "tests/unit/fake_channel.h"

#define BLOCK 100
#define KDS_NAME "key.example.com"

/*
 * The replicators, as one thread that answers the fake channel's calls. Everything below is under its lock.
 */
static struct {
	pthread_mutex_t lock;
	pthread_t thread;
	bool stop;
	bool down;            /* answers nothing in time */
	bool hold_records;    /* keeps Record calls waiting */
	unsigned refuse;      /* so many records to come are refused, so: */
	Kds__V1__RecordRefusal refusal;
	Kds__V1__IssuedCertificate known; /* on REPEATED */
	uint8_t known_fingerprint[32];
	struct {
		char requester[64];
		uint64_t requester_serial;
		uint8_t requester_issuer[4], request_id[32], digest[32], fingerprint[32];
		size_t requester_issuer_len, request_id_len, digest_len;
		int64_t not_before, not_after;
		uint64_t serial;
	} last;               /* of the records that were asked for */
	bool caller_refused;  /* by this process's trust */
	uint64_t min_serial;
	uint64_t last_serial, revision;
	uint64_t recorded[4096];
	size_t n_recorded;
	unsigned blocks;
	Kds__V1__Object node; /* as the leader has it; deleted: there is none */
	Kds__V1__Object seen; /* as the follower has it */
	uint64_t seen_revision;
} world = { .lock = PTHREAD_MUTEX_INITIALIZER };

static char *directory;
static struct seal *seal;
static struct authority_draft draft;
static struct buffer csr;
static struct rpc_channel channel;
static struct keeper *keeper;
static struct nodes *nodes;
static struct serials *serials;
static struct settings settings;
static struct issuing *issuing;

static Kds__V1__Object *copy_object(const Kds__V1__Object *o)
{
	uint8_t packed[8192];
	return kds__v1__object__unpack(NULL, kds__v1__object__pack(o, packed), packed);
}

/* The follower, as far as kds-ca's core asks it. */
Kds__V1__Object *follower_get(struct follower *f, const char *key)
{
	(void)f;
	Kds__V1__Object ca = KDS__V1__OBJECT__INIT;
	if (strcmp(key, "ca/default") == 0) {
		ca.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
		ca.certificate_authority = &draft.object;
		return copy_object(&ca);
	}
	pthread_mutex_lock(&world.lock);
	bool there = !world.seen.deleted && strncmp(key, "node/", 5) == 0 && strcmp(key + 5, world.seen.node->name) == 0;
	Kds__V1__Object *copy = there ? copy_object(&world.seen) : NULL;
	pthread_mutex_unlock(&world.lock);
	return copy;
}

uint64_t follower_revision(struct follower *f)
{
	(void)f;
	pthread_mutex_lock(&world.lock);
	uint64_t revision = world.seen_revision;
	pthread_mutex_unlock(&world.lock);
	return revision;
}

/* The trust, as far as kds-ca's core asks it. */
enum status_code trust_recheck(struct trust *t, const struct identity *id, struct status *st)
{
	(void)t;
	pthread_mutex_lock(&world.lock);
	bool refused = world.caller_refused;
	pthread_mutex_unlock(&world.lock);
	return refused ? status_set(st, STATUS_PERMISSION_DENIED, "%s is below min_serial", id->common_name) : STATUS_OK;
}

uint64_t trust_min_serial(struct trust *t)
{
	(void)t;
	pthread_mutex_lock(&world.lock);
	uint64_t min_serial = world.min_serial;
	pthread_mutex_unlock(&world.lock);
	return min_serial;
}

static void answer_allocate(struct fake_call *c)
{
	Kds__V1__AllocateResponse block = KDS__V1__ALLOCATE_RESPONSE__INIT;
	block.first = world.last_serial + 1;
	block.last = world.last_serial += ((Kds__V1__AllocateRequest *)c->input)->count;
	world.blocks++;
	pthread_mutex_unlock(&world.lock);
	fake_call_answer(c, &block.base);
	pthread_mutex_lock(&world.lock);
}

static size_t copy(void *to, size_t size, ProtobufCBinaryData from)
{
	assert_true(from.len <= size);
	if (from.len > 0)
		memcpy(to, from.data, from.len);
	return from.len;
}

static void keep_last(const Kds__V1__IssuedCertificate *c)
{
	memset(&world.last, 0, sizeof world.last);
	snprintf(world.last.requester, sizeof world.last.requester, "%s", c->requester);
	world.last.requester_serial = c->requester_serial;
	world.last.requester_issuer_len = copy(world.last.requester_issuer, 4, c->requester_issuer);
	world.last.request_id_len = copy(world.last.request_id, 32, c->request_id);
	world.last.digest_len = copy(world.last.digest, 32, c->request_digest);
	(void)copy(world.last.fingerprint, 32, c->fingerprint);
	world.last.not_before = c->not_before;
	world.last.not_after = c->not_after;
	world.last.serial = c->serial;
}

static void answer_record(struct fake_call *c)
{
	const Kds__V1__RecordRequest *in = (Kds__V1__RecordRequest *)c->input;
	Kds__V1__RecordResult results[256];
	Kds__V1__RecordResult *list[256];
	for (size_t i = 0; i < in->n_certificates; i++) {
		kds__v1__record_result__init(&results[i]);
		list[i] = &results[i];
		keep_last(in->certificates[i]);
		if (world.refuse > 0) {
			world.refuse--;
			results[i].refusal = world.refusal;
			results[i].known = world.refusal == KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REPEATED ? &world.known : NULL;
			results[i].code = STATUS_FAILED_PRECONDITION;
			results[i].message = "below min_serial";
		} else {
			world.recorded[world.n_recorded++] = in->certificates[i]->serial;
		}
	}
	Kds__V1__RecordResponse out = KDS__V1__RECORD_RESPONSE__INIT;
	out.n_results = in->n_certificates;
	out.results = list;
	out.revision = world.revision;
	pthread_mutex_unlock(&world.lock);
	fake_call_answer(c, &out.base);
	pthread_mutex_lock(&world.lock);
}

static void answer_get(struct fake_call *c)
{
	bool there = !world.node.deleted && strcmp(((Kds__V1__GetRequest *)c->input)->key + 5, world.node.node->name) == 0;
	Kds__V1__Object *copy = there ? copy_object(&world.node) : NULL;
	pthread_mutex_unlock(&world.lock);
	if (copy)
		fake_call_answer(c, &copy->base);
	else
		fake_call_fail(c, STATUS_NOT_FOUND);
	kds__v1__object__free_unpacked(copy, NULL);
	pthread_mutex_lock(&world.lock);
}

static void answer_call(struct fake_call *c)
{
	if (world.down) {
		pthread_mutex_unlock(&world.lock);
		usleep(20000);
		fake_call_fail(c, STATUS_DEADLINE_EXCEEDED);
		pthread_mutex_lock(&world.lock);
	} else if (strcmp(c->method, "Allocate") == 0) {
		answer_allocate(c);
	} else if (strcmp(c->method, "Record") == 0) {
		answer_record(c);
	} else {
		assert_string_equal(c->method, "Get");
		answer_get(c);
	}
}

static void *replicators(void *arg)
{
	struct fake_call *held[64];
	size_t n_held = 0;
	(void)arg;
	pthread_mutex_lock(&world.lock);
	while (!world.stop) {
		pthread_mutex_unlock(&world.lock);
		struct fake_call *c = fake_channel_take(&channel, 5);
		pthread_mutex_lock(&world.lock);
		if (c && world.hold_records && strcmp(c->method, "Record") == 0 && n_held < 64) {
			held[n_held++] = c;
			c = NULL;
		}
		while (!world.hold_records && n_held > 0)
			answer_call(held[--n_held]);
		if (c)
			answer_call(c);
	}
	pthread_mutex_unlock(&world.lock);
	return NULL;
}

#define WITH_WORLD(statement) \
	do { \
		pthread_mutex_lock(&world.lock); \
		statement; \
		pthread_mutex_unlock(&world.lock); \
	} while (0)

static Kds__V1__Node node_a = KDS__V1__NODE__INIT, node_b = KDS__V1__NODE__INIT;
static char *groups_a[] = { "urn:x:a#10s" }, *groups_b[] = { "urn:x:b" };

static Kds__V1__Object object_of(Kds__V1__Node *node, uint64_t revision)
{
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.revision = revision;
	o.value_case = KDS__V1__OBJECT__VALUE_NODE;
	o.node = node;
	return o;
}

static struct identity *caller; /* an administrator; tests may change it */

static int group_set_up(void **state)
{
	(void)state;
	caller = identity_new();
	caller->roles = PEER_ADMIN;
	free(caller->role_name);
	caller->role_name = strdup("alice");
	char path[4096];
	struct status st;
	gnutls_x509_privkey_t key;
	directory = support_make_directory();
	snprintf(path, sizeof path, "%s/ca.seal", directory);
	if (seal_create_file(path, &st) != STATUS_OK || seal_load(path, &st, &seal) != STATUS_OK ||
	    authority_draft_make("default", "cluster.example.com", 1, (int64_t)(clock_unix_ms() / 1000), seal, &st,
				 &draft) != STATUS_OK ||
	    x509_key_generate(&st, &key) != STATUS_OK || x509_request_make(key, "evil", &st, &csr) != STATUS_OK) {
		print_error("%s\n", st.message);
		return -1;
	}
	gnutls_x509_privkey_deinit(key);
	node_a.name = node_b.name = "node1.example.com";
	node_a.groups = groups_a;
	node_b.groups = groups_b;
	node_a.n_groups = node_b.n_groups = 1;
	return 0;
}

static int group_tear_down(void **state)
{
	(void)state;
	identity_unref(caller);
	authority_draft_fini(&draft);
	seal_free(seal);
	buffer_free(&csr);
	support_remove_directory(directory);
	return 0;
}

static void wait_for_authority(void)
{
	struct authority *a = NULL;
	while (keeper_authority(keeper, NULL, &a) != STATUS_OK)
		usleep(1000);
	authority_unref(a);
}

static int set_up(void **state)
{
	(void)state;
	world.stop = world.down = world.hold_records = false;
	world.refuse = 0;
	world.refusal = KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_NONE;
	world.caller_refused = false;
	world.min_serial = 0;
	world.last_serial = 1000;
	world.n_recorded = 0;
	world.blocks = 0;
	world.revision = world.seen_revision = 5;
	world.node = world.seen = object_of(&node_a, 5);
	fake_channel_init(&channel);
	assert_int_equal(pthread_create(&world.thread, NULL, replicators, NULL), 0);
	assert_int_equal(keeper_new("default", seal, NULL, &keeper), STATUS_OK);
	assert_int_equal(keeper_start(keeper, NULL, NULL), STATUS_OK);
	assert_int_equal(nodes_new(&channel, NULL, NULL, &nodes), STATUS_OK);
	assert_int_equal(serials_start(&channel, BLOCK, NULL, &serials), STATUS_OK);
	const struct issuing_options io = { .keeper = keeper, .nodes = nodes, .serials = serials, .channel = &channel,
					    .kds_name = KDS_NAME, .workers = 2,
					    .settings = &settings };
	settings_init(&settings);
	assert_int_equal(settings_set(&settings, "certificate.node.lifetime", "1h", NULL), STATUS_OK);
	assert_int_equal(settings_set(&settings, "certificate.max-lifetime", "2h", NULL), STATUS_OK);
	assert_int_equal(issuing_start(&io, NULL, &issuing), STATUS_OK);
	keeper_synced(keeper);
	wait_for_authority();
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	WITH_WORLD(world.hold_records = false);
	issuing_stop(issuing);
	nodes_free(nodes);
	keeper_stop(keeper);
	serials_stop(serials);
	keeper_free(keeper);
	WITH_WORLD(world.stop = true);
	pthread_join(world.thread, NULL);
	fake_channel_fini(&channel);
	return 0;
}

/* One request and what came of it. */
struct asked {
	atomic_uint answers;
	atomic_bool gone;
	bool healthy; /* the issuing, as the answer came */
	struct status status;
	char field[32];
	char *certificate;
	uint64_t serial;
	int64_t not_before, not_after;
};

static bool asked_expired(void *arg)
{
	struct asked *a = arg;
	return atomic_load(&a->gone);
}

static bool healthy(void)
{
	struct status st;
	return issuing_health(issuing, &st) == STATUS_OK;
}

static void asked_done(void *arg, const struct issue_result *result)
{
	struct asked *a = arg;
	a->status = result->status;
	a->healthy = healthy();
	snprintf(a->field, sizeof a->field, "%s", result->field);
	if (result->status.code == STATUS_OK) {
		a->certificate = strdup(result->certificate);
		a->serial = result->serial;
		a->not_before = result->not_before;
		a->not_after = result->not_after;
	}
	atomic_fetch_add(&a->answers, 1);
}

static struct issue_request request_for(struct asked *a)
{
	*a = (struct asked){ 0 };
	return (struct issue_request){
		.csr = { csr.data, csr.len },
		.node = "node1.example.com",
		.caller = caller,
		.request_id = { "id of this request", 18 },
		.deadline_ms = clock_monotonic_ms() + 20000,
		.expired = asked_expired,
		.done = asked_done,
		.arg = a,
	};
}

static void wait_answer(struct asked *a)
{
	while (atomic_load(&a->answers) == 0)
		usleep(500);
}

static void ask(struct asked *a)
{
	struct issue_request r = request_for(a);
	issuing_submit(issuing, &r);
	wait_answer(a);
}

static void asked_fini(struct asked *a)
{
	free(a->certificate);
	assert_int_equal(atomic_load(&a->answers), 1);
}

static bool is_recorded(uint64_t serial)
{
	bool found = false;
	pthread_mutex_lock(&world.lock);
	for (size_t i = 0; i < world.n_recorded; i++)
		found = found || world.recorded[i] == serial;
	pthread_mutex_unlock(&world.lock);
	return found;
}

static struct x509_info read_certificate(const struct asked *a)
{
	gnutls_x509_crt_t crt;
	struct x509_info info;
	assert_non_null(a->certificate);
	assert_int_equal(x509_import((struct slice){ a->certificate, strlen(a->certificate) }, NULL, &crt), STATUS_OK);
	assert_int_equal(x509_info_read(crt, NULL, &info), STATUS_OK);
	gnutls_x509_crt_deinit(crt);
	return info;
}

static void test_issue_signs_what_the_configuration_says(void **state)
{
	(void)state;
	struct asked a;
	ask(&a);
	assert_int_equal(a.status.code, STATUS_OK);
	struct x509_info info = read_certificate(&a);
	assert_string_equal(info.common_name, "node1.example.com"); /* the request says "evil" */
	assert_int_equal(x509_info_serial(&info), a.serial);
	assert_int_equal(info.not_after, a.not_after);
	assert_int_equal(info.not_before, a.not_before);
	assert_int_equal(a.not_after - a.not_before, 3600 + PROFILE_CLOCK_SKEW_S);
	assert_int_equal(info.usage, X509_USAGE_SERVER | X509_USAGE_CLIENT);
	assert_true(is_recorded(a.serial));
	x509_info_free(&info);
	asked_fini(&a);
}

static void test_issue_answers_nothing_before_the_commit(void **state)
{
	(void)state;
	struct asked a;
	WITH_WORLD(world.hold_records = true);
	struct issue_request r = request_for(&a);
	issuing_submit(issuing, &r);
	usleep(100000);
	assert_int_equal(atomic_load(&a.answers), 0);
	WITH_WORLD(world.hold_records = false);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_OK);
	assert_true(is_recorded(a.serial));
	asked_fini(&a);
}

static void test_issue_takes_another_serial_after_a_refusal(void **state)
{
	(void)state;
	struct asked a;
	WITH_WORLD(world.refuse = 1);
	ask(&a);
	assert_int_equal(a.status.code, STATUS_OK);
	assert_true(a.serial > 1000 + BLOCK); /* of a new block: the old one may be below the minimum as a whole */
	assert_true(is_recorded(a.serial));
	struct x509_info info = read_certificate(&a);
	assert_int_equal(x509_info_serial(&info), a.serial);
	x509_info_free(&info);
	asked_fini(&a);
	WITH_WORLD(world.refuse = 3);
	ask(&a);
	assert_int_equal(a.status.code, STATUS_ABORTED);
	assert_non_null(strstr(a.status.message, "min_serial"));
	asked_fini(&a);
}

/* What is refused for the serial alone costs that serial and no block. */
static void test_issue_keeps_its_block_where_a_serial_is_taken(void **state)
{
	(void)state;
	struct asked a;
	WITH_WORLD(world.refuse = 1; world.refusal = KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_TAKEN);
	ask(&a);
	assert_int_equal(a.status.code, STATUS_OK);
	assert_int_equal(a.serial, 1002);
	asked_fini(&a);
}

static void test_issue_refuses_the_requester_and_burns_no_serials(void **state)
{
	(void)state;
	static const struct {
		Kds__V1__RecordRefusal refusal;
		enum status_code code;
	} table[] = {
		{ KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REQUESTER_BELOW_MIN, STATUS_PERMISSION_DENIED },
		{ KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REQUESTER_UNKNOWN, STATUS_PERMISSION_DENIED },
		{ KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_TOO_MANY, STATUS_RESOURCE_EXHAUSTED },
		{ KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_ID_REUSED, STATUS_INVALID_ARGUMENT },
		{ KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_EXPIRED, STATUS_FAILED_PRECONDITION },
		{ KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_INVALID, STATUS_INTERNAL },
		{ (Kds__V1__RecordRefusal)99, STATUS_INTERNAL },
	};
	struct asked a;
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		WITH_WORLD(world.refuse = 1; world.refusal = table[i].refusal);
		ask(&a);
		assert_int_equal(a.status.code, table[i].code);
		assert_null(a.certificate);
		asked_fini(&a);
	}
	ask(&a);
	assert_int_equal(a.serial, 1001 + sizeof table / sizeof *table);
	asked_fini(&a);
}

static void test_issue_record_says_who_asked_for_what(void **state)
{
	(void)state;
	struct asked a;
	ask(&a);
	assert_string_equal(world.last.requester, "admin/alice");
	assert_int_equal(world.last.requester_serial, 0);
	assert_int_equal(world.last.requester_issuer_len, 0);
	assert_int_equal(world.last.request_id_len, 18);
	assert_memory_equal(world.last.request_id, "id of this request", 18);
	assert_int_equal(world.last.digest_len, 32);
	uint8_t digest[32];
	memcpy(digest, world.last.digest, sizeof digest);
	asked_fini(&a);

	struct issue_request r = request_for(&a);
	r.lifetime_s = 3600; /* another request */
	issuing_submit(issuing, &r);
	wait_answer(&a);
	assert_memory_not_equal(world.last.digest, digest, sizeof digest);
	asked_fini(&a);

	struct identity *node = identity_new();
	node->roles = PEER_NODE;
	free(node->common_name);
	node->common_name = strdup("node1.example.com");
	node->serial[0] = 3;
	node->serial[1] = 0xe8;
	node->serial_len = 2;
	memcpy(node->issuer_key_id, "\1\2\3\4", 4);
	node->issuer_key_id_len = 4;
	r = request_for(&a);
	r.caller = node;
	r.request_id.len = 0;
	issuing_submit(issuing, &r);
	wait_answer(&a);
	assert_string_equal(world.last.requester, "node/node1.example.com");
	assert_int_equal(world.last.requester_serial, 1000);
	assert_int_equal(world.last.requester_issuer_len, 4);
	assert_memory_equal(world.last.requester_issuer, "\1\2\3\4", 4);
	assert_int_equal(world.last.request_id_len, 0);
	assert_int_equal(world.last.digest_len, 0);
	asked_fini(&a);
	identity_unref(node);
}

/* The caller fell below min_serial between its request and its certificate. */
static void test_issue_hands_nothing_to_who_is_refused_by_then(void **state)
{
	(void)state;
	struct asked a;
	WITH_WORLD(world.hold_records = true);
	struct issue_request r = request_for(&a);
	issuing_submit(issuing, &r);
	usleep(50000);
	WITH_WORLD(world.caller_refused = true; world.hold_records = false);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_PERMISSION_DENIED);
	assert_non_null(strstr(a.status.message, "below min_serial"));
	assert_null(a.certificate);
	asked_fini(&a);
}

static void test_issue_hands_out_no_serial_below_the_minimum(void **state)
{
	(void)state;
	struct asked a;
	WITH_WORLD(world.min_serial = 1003);
	ask(&a); /* 1001 and 1002 are recorded, and thrown away */
	assert_int_equal(a.status.code, STATUS_OK);
	assert_int_equal(a.serial, 1003);
	assert_int_equal(world.last.request_id_len, 0); /* the first one's record has it */
	asked_fini(&a);
}

static void remember_last_as_known(void)
{
	pthread_mutex_lock(&world.lock);
	kds__v1__issued_certificate__init(&world.known);
	world.known.serial = world.last.serial;
	world.known.not_before = world.last.not_before;
	world.known.not_after = world.last.not_after;
	memcpy(world.known_fingerprint, world.last.fingerprint, 32);
	world.known.fingerprint = (ProtobufCBinaryData){ .data = world.known_fingerprint, .len = 32 };
	world.refuse = 1;
	world.refusal = KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REPEATED;
	pthread_mutex_unlock(&world.lock);
}

static void test_issue_repeated_request_gets_the_same_certificate(void **state)
{
	(void)state;
	struct asked first, again;
	ask(&first);
	assert_int_equal(first.status.code, STATUS_OK);
	remember_last_as_known();
	usleep(1100000); /* another second: the times are the record's */
	ask(&again);
	assert_int_equal(again.status.code, STATUS_OK);
	assert_int_equal(again.serial, first.serial);
	assert_int_equal(again.not_after, first.not_after);
	assert_string_equal(again.certificate, first.certificate);
	asked_fini(&first);
	asked_fini(&again);
}

static void test_issue_repeated_request_gets_no_other_certificate(void **state)
{
	(void)state;
	struct asked a;
	ask(&a);
	asked_fini(&a);
	remember_last_as_known();
	world.known_fingerprint[7] ^= 1;
	ask(&a);
	assert_int_equal(a.status.code, STATUS_ABORTED);
	assert_non_null(strstr(a.status.message, "new request id"));
	assert_null(a.certificate);
	asked_fini(&a);

	remember_last_as_known();
	world.known.fingerprint.len = 0; /* a replica that says nothing of it */
	ask(&a);
	assert_int_equal(a.status.code, STATUS_ABORTED);
	asked_fini(&a);
}

static void test_issue_repeated_request_is_checked_as_a_new_one(void **state)
{
	(void)state;
	struct asked a;
	ask(&a);
	asked_fini(&a);
	remember_last_as_known();
	WITH_WORLD(world.min_serial = 2000);
	ask(&a);
	assert_int_equal(a.status.code, STATUS_ABORTED);
	assert_non_null(strstr(a.status.message, "min_serial"));
	asked_fini(&a);

	WITH_WORLD(world.min_serial = 0);
	ask(&a);
	asked_fini(&a);
	remember_last_as_known();
	WITH_WORLD(world.node = object_of(&node_a, 6); world.revision = 6);
	ask(&a);
	assert_int_equal(a.status.code, STATUS_ABORTED);
	assert_non_null(strstr(a.status.message, "changed"));
	asked_fini(&a);

	WITH_WORLD(world.node = object_of(&node_a, 5); world.revision = 5);
	ask(&a);
	asked_fini(&a);
	remember_last_as_known();
	WITH_WORLD(world.caller_refused = true);
	ask(&a);
	assert_int_equal(a.status.code, STATUS_PERMISSION_DENIED);
	asked_fini(&a);
}

static void test_issue_without_quorum_is_unavailable_in_time(void **state)
{
	(void)state;
	struct asked a;
	ask(&a); /* so that serial numbers are there */
	assert_int_equal(a.status.code, STATUS_OK);
	asked_fini(&a);
	WITH_WORLD(world.down = true);
	struct issue_request r = request_for(&a);
	r.deadline_ms = clock_monotonic_ms() + 400;
	issuing_submit(issuing, &r);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_UNAVAILABLE);
	assert_null(a.certificate);
	/* The caller is told at its deadline; that no quorum answers shows when the record's own time is over. */
	for (int i = 0; healthy() && i < 20000; i++)
		usleep(1000);
	assert_false(healthy());
	asked_fini(&a);

	/* One that has the time gets its certificate when the quorum is back. */
	r = request_for(&a);
	issuing_submit(issuing, &r);
	usleep(100000);
	assert_int_equal(atomic_load(&a.answers), 0);
	WITH_WORLD(world.down = false);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_OK);
	assert_true(a.healthy);
	asked_fini(&a);
}

static void test_issue_does_no_work_for_nobody(void **state)
{
	(void)state;
	struct asked a;
	struct issue_request r = request_for(&a);
	atomic_store(&a.gone, true);
	issuing_submit(issuing, &r);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_DEADLINE_EXCEEDED);
	assert_int_equal(world.n_recorded, 0);
	asked_fini(&a);
	ask(&a);
	assert_int_equal(a.serial, 1001); /* no serial went that way */
	asked_fini(&a);
}

static void test_issue_names_the_field_that_is_wrong(void **state)
{
	(void)state;
	struct asked a;
	struct issue_request r = request_for(&a);
	r.csr = (struct slice){ "junk", 4 };
	issuing_submit(issuing, &r);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_INVALID_ARGUMENT);
	assert_string_equal(a.field, "csr");
	asked_fini(&a);
	r = request_for(&a);
	r.lifetime_s = 7201;
	issuing_submit(issuing, &r);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_INVALID_ARGUMENT);
	assert_string_equal(a.field, "lifetime_s");
	asked_fini(&a);
}

static void test_issue_refuses_an_unknown_node(void **state)
{
	(void)state;
	struct asked a;
	struct issue_request r = request_for(&a);
	r.node = "node2.example.com";
	issuing_submit(issuing, &r);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_NOT_FOUND);
	assert_non_null(strstr(a.status.message, "node2.example.com"));
	asked_fini(&a);
}

/* The follower is behind: what the leader has counts. */
static void test_issue_follows_a_change_that_was_committed_before(void **state)
{
	(void)state;
	struct asked a;
	WITH_WORLD(world.node = object_of(&node_b, 6); world.revision = 6);
	struct issue_request r = request_for(&a);
	r.profile = KDS__V1__PROFILE__PROFILE_KDS_CLIENT;
	issuing_submit(issuing, &r);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_OK);
	struct x509_info info = read_certificate(&a);
	assert_int_equal(info.n_uris, 1);
	assert_string_equal(info.uris[0], "urn:x:b");
	x509_info_free(&info);
	asked_fini(&a);

	WITH_WORLD(world.node.deleted = true; world.revision = 7);
	ask(&a);
	assert_int_equal(a.status.code, STATUS_NOT_FOUND);
	assert_null(a.certificate);
	asked_fini(&a);

	/* Something else changed: the certificate stands. */
	WITH_WORLD(world.node = object_of(&node_a, 5); world.revision = 8);
	ask(&a);
	assert_int_equal(a.status.code, STATUS_OK);
	asked_fini(&a);
}

/* The follower does not know the node yet. */
static void test_issue_asks_the_leader_for_a_new_node(void **state)
{
	(void)state;
	struct asked a;
	WITH_WORLD(world.seen.deleted = true);
	ask(&a);
	assert_int_equal(a.status.code, STATUS_OK);
	asked_fini(&a);
}

#define MANY 500

static void test_issue_many_have_serials_of_their_own(void **state)
{
	(void)state;
	static struct asked many[MANY];
	WITH_WORLD(world.refuse = 7);
	for (size_t i = 0; i < MANY; i++) {
		struct issue_request r = request_for(&many[i]);
		issuing_submit(issuing, &r);
	}
	static bool taken[100000];
	memset(taken, 0, sizeof taken);
	size_t refused = 0;
	for (size_t i = 0; i < MANY; i++) {
		wait_answer(&many[i]);
		if (many[i].status.code == STATUS_ABORTED) {
			refused++; /* the same one was refused three times */
			asked_fini(&many[i]);
			continue;
		}
		assert_int_equal(many[i].status.code, STATUS_OK);
		assert_true(many[i].serial < sizeof taken && !taken[many[i].serial]);
		taken[many[i].serial] = true;
		assert_true(is_recorded(many[i].serial));
		asked_fini(&many[i]);
	}
	assert_true(refused <= 2);
}

static void test_issue_stop_answers_everyone(void **state)
{
	(void)state;
	static struct asked many[MANY];
	for (size_t i = 0; i < MANY; i++) {
		struct issue_request r = request_for(&many[i]);
		issuing_submit(issuing, &r);
	}
	issuing_stop(issuing);
	issuing = NULL;
	for (size_t i = 0; i < MANY; i++)
		asked_fini(&many[i]);
}

/* Without a quorum, and with callers who would wait for minutes. */
static void test_issue_stop_does_not_wait_for_a_quorum(void **state)
{
	(void)state;
	struct asked known, unknown;
	WITH_WORLD(world.down = true);
	struct issue_request r = request_for(&known);
	r.deadline_ms += 600000;
	issuing_submit(issuing, &r);
	r = request_for(&unknown);
	r.deadline_ms += 600000;
	r.node = "node2.example.com";
	issuing_submit(issuing, &r);
	usleep(50000);
	issuing_stop(issuing);
	issuing = NULL;
	assert_int_equal(known.status.code, STATUS_UNAVAILABLE);
	assert_int_equal(unknown.status.code, STATUS_UNAVAILABLE);
	asked_fini(&known);
	asked_fini(&unknown);
}

#define ISSUE_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ISSUE_TEST(test_issue_signs_what_the_configuration_says),
		ISSUE_TEST(test_issue_answers_nothing_before_the_commit),
		ISSUE_TEST(test_issue_takes_another_serial_after_a_refusal),
		ISSUE_TEST(test_issue_keeps_its_block_where_a_serial_is_taken),
		ISSUE_TEST(test_issue_refuses_the_requester_and_burns_no_serials),
		ISSUE_TEST(test_issue_record_says_who_asked_for_what),
		ISSUE_TEST(test_issue_hands_nothing_to_who_is_refused_by_then),
		ISSUE_TEST(test_issue_hands_out_no_serial_below_the_minimum),
		ISSUE_TEST(test_issue_repeated_request_gets_the_same_certificate),
		ISSUE_TEST(test_issue_repeated_request_gets_no_other_certificate),
		ISSUE_TEST(test_issue_repeated_request_is_checked_as_a_new_one),
		ISSUE_TEST(test_issue_without_quorum_is_unavailable_in_time),
		ISSUE_TEST(test_issue_does_no_work_for_nobody),
		ISSUE_TEST(test_issue_names_the_field_that_is_wrong),
		ISSUE_TEST(test_issue_refuses_an_unknown_node),
		ISSUE_TEST(test_issue_follows_a_change_that_was_committed_before),
		ISSUE_TEST(test_issue_asks_the_leader_for_a_new_node),
		ISSUE_TEST(test_issue_many_have_serials_of_their_own),
		ISSUE_TEST(test_issue_stop_answers_everyone),
		ISSUE_TEST(test_issue_stop_does_not_wait_for_a_quorum),
	};
	return cmocka_run_group_tests(tests, group_set_up, group_tear_down);
}
