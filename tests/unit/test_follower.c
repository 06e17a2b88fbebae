// links: common_daemon
#include "tests/support/support.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/daemon/follower.h"
#include "tests/support/pki.h"

#define ADDRESS "127.26.3.1:17400"
#define MAX_OBJECTS 16
#define MAX_CHANGES 64

/*
 * A replica: Config.Watch over a handful of objects, with long polls that wait for the next change.
 */
struct replica {
	Kds__V1__Config_Service service; /* first: the handlers get a pointer to it */
	struct rpc_server *server;
	struct listener *listener;
	struct trust *trust;
	struct tls_credentials *credentials;
	pthread_mutex_t lock;
	Kds__V1__Object *objects[MAX_OBJECTS];
	size_t n;
	uint64_t revision;
	uint64_t oldest; /* since_revision below it, but 0, was compacted away */
	struct rpc_call *waiting;
	Kds__V1__WatchResponse_Closure closure;
	uint64_t waiting_since;
};

static void answer_watch(struct replica *r, uint64_t since, Kds__V1__WatchResponse_Closure closure, struct rpc_call *call)
{
	Kds__V1__Object *newer[MAX_OBJECTS];
	Kds__V1__WatchResponse answer = KDS__V1__WATCH_RESPONSE__INIT;
	answer.objects = newer;
	answer.revision = r->revision;
	answer.restart = since > r->revision || (since > 0 && since < r->oldest);
	for (size_t i = 0; i < r->n && !answer.restart; i++)
		if (r->objects[i]->revision > since)
			newer[answer.n_objects++] = r->objects[i];
	closure(&answer, call);
}

static void handle_watch(Kds__V1__Config_Service *service, const Kds__V1__WatchRequest *in,
			 Kds__V1__WatchResponse_Closure closure, void *closure_data)
{
	struct replica *r = (struct replica *)service;
	pthread_mutex_lock(&r->lock);
	if (in->since_revision == r->revision) {
		if (r->waiting) /* its follower gave up on it */
			rpc_call_fail(r->waiting, STATUS_CANCELLED, "another poll came");
		r->waiting = closure_data;
		r->closure = closure;
		r->waiting_since = in->since_revision;
	} else {
		answer_watch(r, in->since_revision, closure, closure_data);
	}
	pthread_mutex_unlock(&r->lock);
}

#define HANDLE_NOT(name, input, output) \
	static void handle_##name(Kds__V1__Config_Service *service, const Kds__V1__##input *in, \
				  Kds__V1__##output##_Closure closure, void *closure_data) \
	{ \
		(void)service; \
		(void)in; \
		(void)closure; \
		rpc_call_fail(closure_data, STATUS_UNIMPLEMENTED, "not in this test"); \
	}
HANDLE_NOT(get, GetRequest, Object)
HANDLE_NOT(list, ListRequest, ListResponse)
HANDLE_NOT(put, PutRequest, Object)
HANDLE_NOT(delete, DeleteRequest, Object)

static void replica_listen(struct replica *r)
{
	struct status st;
	const struct listener_options options = {
		.address = ADDRESS,
		.self = SP_REP,
		.credentials = r->credentials,
		.trust = r->trust,
		.max_connections = 10,
		.max_per_address = 10,
		.limits = CONN_LIMITS_DEFAULT,
		.handlers = rpc_server_handlers(r->server),
	};
	if (listener_start(&options, &st, &r->listener) != STATUS_OK)
		fail_msg("%s", st.message);
}

static struct replica *replica_new(struct pki *pki)
{
	static const struct rpc_access table[] = {
		{ .method = "Get", .allow = PEER_ANYONE },
		{ .method = "List", .allow = PEER_ANYONE },
		{ .method = "Put", .allow = PEER_ANYONE },
		{ .method = "Delete", .allow = PEER_ANYONE },
		{ .method = "Watch", .allow = PEER_KEYDIST, .flags = RPC_LONG_POLL },
	};
	struct status st;
	struct replica *r = calloc(1, sizeof *r);
	assert_non_null(r);
	r->service = (Kds__V1__Config_Service)KDS__V1__CONFIG__INIT(handle_);
	pthread_mutex_init(&r->lock, NULL);
	struct slice ca = pki_ca_pem(pki, PKI_INFRASTRUCTURE);
	const struct pki_leaf *leaf = pki_service(pki, "serial", "serial1");
	assert_int_equal(trust_new(PKI_CLUSTER, PKI_KDS_NAME, &ca, &st, &r->trust), STATUS_OK);
	assert_int_equal(tls_credentials_load(leaf->certificate, leaf->key, TLS_MINIMUM_1_3, &st, &r->credentials), STATUS_OK);
	assert_int_equal(rpc_server_new(&RPC_SERVER_LIMITS_DEFAULT, &st, &r->server), STATUS_OK);
	assert_int_equal(rpc_server_add(r->server, &r->service.base, table, 5, &st), STATUS_OK);
	replica_listen(r);
	return r;
}

static void replica_stop(struct replica *r)
{
	if (!r->listener)
		return;
	pthread_mutex_lock(&r->lock);
	if (r->waiting)
		rpc_call_fail(r->waiting, STATUS_UNAVAILABLE, "stopping");
	r->waiting = NULL;
	pthread_mutex_unlock(&r->lock);
	listener_stop(r->listener);
	r->listener = NULL;
	if (r->waiting) /* one more came before the listener stopped */
		rpc_call_fail(r->waiting, STATUS_UNAVAILABLE, "stopping");
	r->waiting = NULL;
}

static void replica_free(struct replica *r)
{
	replica_stop(r);
	rpc_server_free(r->server);
	tls_credentials_unref(r->credentials);
	trust_free(r->trust);
	for (size_t i = 0; i < r->n; i++)
		kds__v1__object__free_unpacked(r->objects[i], NULL);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static void wake(struct replica *r)
{
	if (r->waiting)
		answer_watch(r, r->waiting_since, r->closure, r->waiting);
	r->waiting = NULL;
}

/* Puts a copy at the next revision; one of the same key goes. */
static void replica_put(struct replica *r, Kds__V1__Object *object)
{
	pthread_mutex_lock(&r->lock);
	object->revision = ++r->revision;
	uint8_t packed[4096];
	assert_true(kds__v1__object__get_packed_size(object) <= sizeof packed);
	Kds__V1__Object *copy = kds__v1__object__unpack(NULL, kds__v1__object__pack(object, packed), packed);
	assert_non_null(copy);
	size_t i = 0;
	while (i < r->n && strcmp(r->objects[i]->key, object->key) != 0)
		i++;
	if (i < r->n) {
		kds__v1__object__free_unpacked(r->objects[i], NULL);
		memmove(&r->objects[i], &r->objects[i + 1], (r->n - i - 1) * sizeof r->objects[0]);
		r->n--;
	}
	assert_true(r->n < MAX_OBJECTS);
	r->objects[r->n++] = copy;
	wake(r);
	pthread_mutex_unlock(&r->lock);
}

static void replica_put_setting(struct replica *r, const char *key, const char *value)
{
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	setting.name = (char *)"s";
	setting.value = (char *)value;
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = (char *)key;
	object.value_case = KDS__V1__OBJECT__VALUE_SETTING;
	object.setting = &setting;
	replica_put(r, &object);
}

static void replica_put_min_serial(struct replica *r, uint64_t value)
{
	Kds__V1__MinSerial min = KDS__V1__MIN_SERIAL__INIT;
	min.value = value;
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = (char *)"serial/min";
	object.value_case = KDS__V1__OBJECT__VALUE_MIN_SERIAL;
	object.min_serial = &min;
	replica_put(r, &object);
}

static void replica_put_ca(struct replica *r, struct slice der)
{
	Kds__V1__CertificateAuthority ca = KDS__V1__CERTIFICATE_AUTHORITY__INIT;
	ca.name = (char *)"default";
	ca.certificate = (ProtobufCBinaryData){ .data = (uint8_t *)der.data, .len = der.len };
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = (char *)"ca/default";
	object.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
	object.certificate_authority = &ca;
	replica_put(r, &object);
}

static void replica_delete(struct replica *r, const char *key)
{
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = (char *)key;
	object.deleted = true;
	replica_put(r, &object);
}

/* Forgets an object and that it ever was, as compaction does with deleted ones. */
static void replica_compact(struct replica *r, const char *key)
{
	replica_delete(r, key);
	pthread_mutex_lock(&r->lock);
	kds__v1__object__free_unpacked(r->objects[--r->n], NULL);
	r->oldest = ++r->revision;
	pthread_mutex_unlock(&r->lock);
}

/*
 * The follower's side: a daemon that does not listen, and what its callbacks saw.
 */
struct fixture {
	struct pki *pki;
	struct replica *replica;
	struct daemon_options options;
	struct daemon *daemon;
	struct rpc_channel *channel;
	struct follower *follower;
	char *cache_file;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct {
		char key[64];
		bool deleted;
	} changes[MAX_CHANGES];
	size_t n_changes;
	uint64_t synced;
};

static void take_change(void *arg, const Kds__V1__Object *object)
{
	struct fixture *f = arg;
	pthread_mutex_lock(&f->lock);
	assert_true(f->n_changes < MAX_CHANGES);
	snprintf(f->changes[f->n_changes].key, sizeof f->changes[0].key, "%s", object->key);
	f->changes[f->n_changes++].deleted = object->deleted;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

static void take_synced(void *arg, uint64_t revision)
{
	struct fixture *f = arg;
	pthread_mutex_lock(&f->lock);
	f->synced = revision;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

/* Until all up to a revision is known; a minute at most. */
static void wait_synced(struct fixture *f, uint64_t revision)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 60;
	int rv = 0;
	pthread_mutex_lock(&f->lock);
	while (f->synced < revision && rv == 0)
		rv = pthread_cond_timedwait(&f->changed, &f->lock, &until);
	pthread_mutex_unlock(&f->lock);
	assert_int_equal(rv, 0);
}

static bool saw(struct fixture *f, const char *key, bool deleted)
{
	bool found = false;
	pthread_mutex_lock(&f->lock);
	for (size_t i = 0; i < f->n_changes; i++)
		found |= strcmp(f->changes[i].key, key) == 0 && f->changes[i].deleted == deleted;
	pthread_mutex_unlock(&f->lock);
	return found;
}

static void forget_changes(struct fixture *f)
{
	pthread_mutex_lock(&f->lock);
	f->n_changes = 0;
	f->synced = 0;
	pthread_mutex_unlock(&f->lock);
}

static bool knows(struct fixture *f, const char *key)
{
	Kds__V1__Object *object = follower_get(f->follower, key);
	if (object)
		kds__v1__object__free_unpacked(object, NULL);
	return object != NULL;
}

static void make_daemon(struct fixture *f)
{
	static const struct daemon_program program = { .name = "kds-test", .purpose = "Tests.", .needs_serial = true };
	const struct pki_leaf *leaf = pki_service(f->pki, "keydist", "keydist1");
	struct status st;
	char text[8192], path[4096];
	int n = snprintf(text, sizeof text,
			 "cluster = \"" PKI_CLUSTER "\"\nkds-name = \"" PKI_KDS_NAME "\"\ncluster-id = \"id\"\n"
			 "name = \"keydist1\"\nlisten = \"127.26.3.2:17420\"\nserial-addresses = { \"" ADDRESS "\" }\n"
			 "certificate = \"%s\"\nkey = \"%s\"\nca = \"%s\"\nlog-level = \"error\"\n",
			 leaf->certificate, leaf->key, pki_ca_file(f->pki, PKI_INFRASTRUCTURE));
	snprintf(path, sizeof path, "%s/kds.conf", pki_directory(f->pki));
	assert_int_equal(file_write(path, (struct slice){ text, (size_t)n }, 0600, true, &st), STATUS_OK);
	char *argv[] = { (char *)"kds-test", (char *)"--config", path, NULL };
	assert_int_equal(daemon_options_parse(&program, 3, argv, &st, &f->options), STATUS_OK);
	if (daemon_new(&f->options, &st, &f->daemon) != STATUS_OK)
		fail_msg("%s", st.message);
	const struct rpc_channel_options channel = {
		.addresses = (const char *const *)f->options.serial_addresses,
		.n_addresses = 1,
		.credentials = daemon_credentials(f->daemon),
		.trust = daemon_trust(f->daemon),
		.expect_roles = PEER_SERIAL,
		.limits = CONN_LIMITS_DEFAULT,
	};
	assert_int_equal(rpc_channel_new(&channel, &st, &f->channel), STATUS_OK);
}

static void free_daemon(struct fixture *f)
{
	follower_stop(f->follower);
	f->follower = NULL;
	rpc_channel_free(f->channel); /* polls that follower_stop() left behind end here */
	daemon_free(f->daemon);
	daemon_options_free(&f->options);
}

static void start(struct fixture *f)
{
	static const char *const prefixes[] = { "setting/" };
	struct status st;
	const struct follower_options options = {
		.daemon = f->daemon,
		.channel = f->channel,
		.prefixes = prefixes,
		.n_prefixes = 1,
		.change = take_change,
		.synced = take_synced,
		.arg = f,
		.cache_file = f->cache_file,
	};
	assert_int_equal(follower_start(&options, &st, &f->follower), STATUS_OK);
}

/* As after a restart of the process. */
static void restart(struct fixture *f)
{
	free_daemon(f);
	forget_changes(f);
	make_daemon(f);
	start(f);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	assert_non_null(f);
	f->pki = pki_new();
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	assert_true(asprintf(&f->cache_file, "%s/objects.cache", pki_directory(f->pki)) > 0);
	f->replica = replica_new(f->pki);
	make_daemon(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	free_daemon(f);
	replica_free(f->replica);
	pki_free(f->pki);
	free(f->cache_file);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	free(f);
	return 0;
}

/* Does a client under the cluster's CA pass? */
static bool trusts_cluster_ca(struct fixture *f)
{
	const struct pki_leaf *node = pki_node(f->pki, "node1.example.com", 100);
	struct status st;
	struct identity *id;
	if (trust_verify(daemon_trust(f->daemon), &node->der, 1, TRUST_CLIENT, &st, &id) != STATUS_OK)
		return false;
	identity_unref(id);
	return true;
}

static void test_follower_sees_the_state_and_its_changes(void **state)
{
	struct fixture *f = *state;
	replica_put_setting(f->replica, "setting/a", "1");
	replica_put_setting(f->replica, "setting/b", "1");
	start(f);
	wait_synced(f, 2);
	assert_true(follower_wait_synced(f->follower, 0));
	assert_true(follower_in_step(f->follower));
	assert_true(follower_revision(f->follower) == 2);
	assert_true(saw(f, "setting/a", false) && saw(f, "setting/b", false));

	replica_put_setting(f->replica, "setting/a", "2");
	wait_synced(f, 3);
	Kds__V1__Object *a = follower_get(f->follower, "setting/a");
	assert_non_null(a);
	assert_string_equal(a->setting->value, "2");
	kds__v1__object__free_unpacked(a, NULL);

	replica_delete(f->replica, "setting/b");
	wait_synced(f, 4);
	assert_true(saw(f, "setting/b", true));
	assert_false(knows(f, "setting/b"));
	assert_false(knows(f, "setting/never"));
}

static void test_follower_keeps_the_trust(void **state)
{
	struct fixture *f = *state;
	assert_false(trusts_cluster_ca(f));
	replica_put_ca(f->replica, pki_ca_der(f->pki, PKI_CLUSTER_CA));
	replica_put_min_serial(f->replica, 50);
	start(f);
	wait_synced(f, 2);
	assert_true(trust_min_serial(daemon_trust(f->daemon)) == 50);
	assert_true(trusts_cluster_ca(f));

	replica_put_min_serial(f->replica, 101);
	wait_synced(f, 3);
	assert_false(trusts_cluster_ca(f)); /* the node's serial is 100 */

	replica_put_min_serial(f->replica, 7); /* no replica would: it never goes down */
	wait_synced(f, 4);
	assert_true(trust_min_serial(daemon_trust(f->daemon)) == 101);
	assert_false(trusts_cluster_ca(f));
}

static void test_follower_refuses_removed_services(void **state)
{
	struct fixture *f = *state;
	const struct pki_leaf *leaf = pki_service(f->pki, "ca", "ca7");
	struct status st;
	struct identity *id;
	assert_int_equal(trust_verify(daemon_trust(f->daemon), &leaf->der, 1, TRUST_CLIENT, &st, &id), STATUS_OK);
	identity_unref(id);
	Kds__V1__Service service = KDS__V1__SERVICE__INIT;
	service.name = (char *)"ca7";
	service.removed = true;
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = (char *)"service/ca7";
	object.value_case = KDS__V1__OBJECT__VALUE_SERVICE;
	object.service = &service;
	replica_put(f->replica, &object);
	start(f);
	wait_synced(f, 1);
	assert_int_equal(trust_verify(daemon_trust(f->daemon), &leaf->der, 1, TRUST_CLIENT, &st, &id),
			 STATUS_PERMISSION_DENIED);
}

static void test_follower_outlives_its_replica(void **state)
{
	struct fixture *f = *state;
	replica_put_setting(f->replica, "setting/a", "1");
	start(f);
	wait_synced(f, 1);
	replica_stop(f->replica);
	for (int i = 0; i < 3000 && follower_in_step(f->follower); i++)
		usleep(10000);
	assert_false(follower_in_step(f->follower));
	assert_true(knows(f, "setting/a"));
	replica_put_setting(f->replica, "setting/b", "1");
	replica_listen(f->replica);
	wait_synced(f, 2);
	assert_true(follower_in_step(f->follower));
	assert_true(knows(f, "setting/b"));
}

static void test_follower_starts_over(void **state)
{
	struct fixture *f = *state;
	replica_put_setting(f->replica, "setting/a", "1");
	replica_put_setting(f->replica, "setting/b", "1");
	start(f);
	wait_synced(f, 2);
	replica_stop(f->replica);
	replica_compact(f->replica, "setting/a"); /* revision 4, and no trace of the deletion */
	replica_put_setting(f->replica, "setting/c", "1");
	replica_listen(f->replica);
	wait_synced(f, 5);
	assert_true(saw(f, "setting/a", true));
	assert_false(knows(f, "setting/a"));
	assert_false(saw(f, "setting/b", true));
	assert_true(knows(f, "setting/b") && knows(f, "setting/c"));
}

static void test_follower_never_goes_back(void **state)
{
	struct fixture *f = *state;
	replica_put_setting(f->replica, "setting/a", "1");
	replica_put_setting(f->replica, "setting/b", "1");
	start(f);
	wait_synced(f, 2);
	replica_stop(f->replica);
	kds__v1__object__free_unpacked(f->replica->objects[--f->replica->n], NULL);
	f->replica->revision = 1; /* another replica, which has not heard of b */
	replica_listen(f->replica);
	for (int i = 0; i < 3000 && follower_in_step(f->follower); i++)
		usleep(10000);
	assert_false(follower_in_step(f->follower));
	assert_true(knows(f, "setting/b"));
	replica_put_setting(f->replica, "setting/b", "1");
	replica_put_setting(f->replica, "setting/c", "1");
	wait_synced(f, 3);
	assert_false(saw(f, "setting/a", true) || saw(f, "setting/b", true));
	assert_true(knows(f, "setting/c"));
}

static void test_follower_begins_with_its_cache(void **state)
{
	struct fixture *f = *state;
	replica_put_ca(f->replica, pki_ca_der(f->pki, PKI_CLUSTER_CA));
	replica_put_min_serial(f->replica, 50);
	replica_put_setting(f->replica, "setting/a", "1");
	start(f);
	wait_synced(f, 3);
	replica_stop(f->replica);

	restart(f);
	assert_true(saw(f, "setting/a", false)); /* when follower_start() returns */
	assert_true(trusts_cluster_ca(f));
	assert_true(trust_min_serial(daemon_trust(f->daemon)) == 50);
	assert_true(knows(f, "setting/a"));
	assert_false(follower_wait_synced(f->follower, 0)); /* no replica said so */
	assert_false(follower_in_step(f->follower));

	/* What went meanwhile goes; what stayed is no news. */
	forget_changes(f);
	replica_compact(f->replica, "setting/a");
	replica_listen(f->replica);
	wait_synced(f, 5);
	assert_true(saw(f, "setting/a", true));
	assert_false(saw(f, "ca/default", false));
	assert_true(trusts_cluster_ca(f));

	replica_stop(f->replica);
	restart(f);
	assert_false(knows(f, "setting/a"));
	assert_true(knows(f, "ca/default"));
}

static void rewrite_cache(struct fixture *f, size_t cut, size_t flip)
{
	struct status st;
	struct buffer bytes = { 0 };
	assert_int_equal(file_read(f->cache_file, 1 << 20, &st, &bytes), STATUS_OK);
	bytes.data[flip % bytes.len] ^= 1;
	assert_int_equal(file_write(f->cache_file, (struct slice){ bytes.data, bytes.len - cut }, 0600, true, &st), STATUS_OK);
	buffer_free(&bytes);
}

static void test_follower_ignores_a_damaged_cache(void **state)
{
	struct fixture *f = *state;
	replica_put_setting(f->replica, "setting/a", "1");
	start(f);
	wait_synced(f, 1);
	replica_stop(f->replica);
	free_daemon(f);
	for (size_t i = 0; i < 3; i++) {
		rewrite_cache(f, i, i * 20);
		forget_changes(f);
		make_daemon(f);
		start(f);
		assert_false(knows(f, "setting/a"));
		free_daemon(f);
	}
	make_daemon(f); /* and makes it anew */
	start(f);
	replica_listen(f->replica);
	wait_synced(f, 1);
	replica_stop(f->replica);
	restart(f);
	assert_true(knows(f, "setting/a"));
}

static void test_follower_ignores_another_clusters_cache(void **state)
{
	struct fixture *f = *state;
	replica_put_setting(f->replica, "setting/a", "1");
	start(f);
	wait_synced(f, 1);
	replica_stop(f->replica);
	free_daemon(f);
	forget_changes(f);
	make_daemon(f);
	f->options.cluster_id[0] = 'x';
	start(f);
	assert_false(knows(f, "setting/a"));
}

static void test_follower_stops_without_an_answer(void **state)
{
	struct fixture *f = *state;
	replica_put_setting(f->replica, "setting/a", "1");
	start(f);
	wait_synced(f, 1); /* now a poll waits at the replica */
	follower_stop(f->follower);
	f->follower = NULL;
	replica_put_setting(f->replica, "setting/b", "1"); /* its answer finds nobody */
	replica_stop(f->replica);
	start(f); /* and this one has nobody to ask */
	follower_stop(f->follower);
	f->follower = NULL;
	follower_stop(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_follower_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(sees_the_state_and_its_changes),
		TEST(keeps_the_trust),
		TEST(refuses_removed_services),
		TEST(outlives_its_replica),
		TEST(starts_over),
		TEST(never_goes_back),
		TEST(begins_with_its_cache),
		TEST(ignores_a_damaged_cache),
		TEST(ignores_another_clusters_cache),
		TEST(stops_without_an_answer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
