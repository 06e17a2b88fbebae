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
#include "tests/support/replica.h"

#define MAX_CHANGES 64

/*
 * The follower's side: a daemon that does not listen, and what its callbacks saw.
 */
struct fixture {
	struct pki *pki;
	struct replica *replica;
	struct replica *second; /* NULL: there is one alone */
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
	bool nodes;        /* follow them */
	unsigned n_cached; /* times that synced() was called with what the cache held */
	struct settings settings;
};

static void take_change(void *arg, const Kds__V1__Object *object)
{
	struct fixture *f = arg;
	pthread_mutex_lock(&f->lock);
	assert_true(f->n_changes < MAX_CHANGES);
	(void)follower_take_setting(&f->settings, object);
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
	f->n_cached += revision == 0;
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
			 "name = \"keydist1\"\nlisten = \"127.0.0.1:0\"\nserial-addresses = { \"%s\", \"%s\" }\n"
			 "certificate = \"%s\"\nkey = \"%s\"\nca = \"%s\"\nlog-level = \"error\"\n",
			 replica_address(f->replica), replica_address(f->second ? f->second : f->replica),
			 leaf->certificate, leaf->key, pki_ca_file(f->pki, PKI_INFRASTRUCTURE));
	snprintf(path, sizeof path, "%s/kds.conf", pki_directory(f->pki));
	assert_int_equal(file_write(path, (struct slice){ text, (size_t)n }, 0600, true, &st), STATUS_OK);
	char *argv[] = { (char *)"kds-test", (char *)"--config", path, NULL };
	assert_int_equal(daemon_options_parse(&program, 3, argv, &st, &f->options), STATUS_OK);
	if (daemon_new(&f->options, &st, &f->daemon) != STATUS_OK)
		fail_msg("%s", st.message);
	const struct rpc_channel_options channel = {
		.addresses = (const char *const *)f->options.serial_addresses,
		.n_addresses = f->second ? 2 : 1,
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
		.nodes = f->nodes,
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
	settings_init(&f->settings);
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
	if (f->second)
		replica_free(f->second);
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

static bool trusts_node(struct fixture *f, const struct pki_leaf *node)
{
	struct status st;
	struct identity *id;
	enum status_code rc = trust_verify(daemon_trust(f->daemon), &node->der, 1, TRUST_CLIENT, &st, &id);
	if (rc != STATUS_OK) {
		assert_int_equal(rc, STATUS_PERMISSION_DENIED);
		return false;
	}
	identity_unref(id);
	return true;
}

static void test_follower_refuses_removed_nodes(void **state)
{
	struct fixture *f = *state;
	const struct pki_leaf *first = pki_node(f->pki, "node1.example.com", 0);
	const struct pki_leaf *second = pki_node(f->pki, "node2.example.com", 0);
	replica_put_ca(f->replica, pki_ca_der(f->pki, PKI_CLUSTER_CA));
	replica_put_node(f->replica, "node1.example.com");
	replica_put_node(f->replica, "node2.example.com");
	start(f); /* as kds-serial, which has no nodes among its clients */
	wait_synced(f, 3);
	assert_false(trust_nodes_known(daemon_trust(f->daemon)));
	f->nodes = true;
	remove(f->cache_file);
	restart(f);
	wait_synced(f, 3);
	assert_true(trust_nodes_known(daemon_trust(f->daemon)));
	assert_true(trusts_node(f, first) && trusts_node(f, second));
	replica_delete(f->replica, "node/node1.example.com");
	wait_synced(f, 4);
	assert_false(trusts_node(f, first));
	assert_true(trusts_node(f, second));

	/* Without replicas it is the same. */
	replica_stop(f->replica);
	restart(f);
	assert_true(trust_nodes_known(daemon_trust(f->daemon)));
	assert_false(trusts_node(f, first));
	assert_true(trusts_node(f, second));

	/* A removal of which nothing is left to be told. */
	replica_put_node(f->replica, "node1.example.com");
	replica_compact(f->replica, "node/node2.example.com");
	replica_listen(f->replica);
	wait_synced(f, 6);
	assert_true(trusts_node(f, first));
	assert_false(trusts_node(f, second));
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
	replica_take_back(f->replica); /* now another, which has not heard of b */
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

static void test_follower_leaves_a_replica_that_lags_behind(void **state)
{
	struct fixture *f = *state;
	f->second = replica_new(f->pki);
	replica_put_setting(f->second, "setting/a", "1");
	replica_put_setting(f->replica, "setting/a", "1");
	replica_put_setting(f->replica, "setting/b", "1");
	free_daemon(f);
	make_daemon(f); /* which knows both */
	start(f);
	wait_synced(f, 2);
	replica_stop(f->replica); /* the other answers, and knows less */
	for (int i = 0; i < 3000 && follower_in_step(f->follower); i++)
		usleep(10000);
	assert_true(knows(f, "setting/b"));
	replica_put_setting(f->replica, "setting/c", "1");
	replica_listen(f->replica);
	wait_synced(f, 3);
	assert_true(knows(f, "setting/b") && knows(f, "setting/c"));
}

static void test_follower_takes_settings(void **state)
{
	struct fixture *f = *state;
	const char *key = "setting/history.length";
	replica_put_setting(f->replica, key, "500");
	start(f);
	wait_synced(f, 1);
	assert_true(settings_get(&f->settings, SETTING_HISTORY_LENGTH) == 500);
	replica_put_setting(f->replica, key, "many"); /* of a newer version */
	wait_synced(f, 2);
	assert_true(settings_get(&f->settings, SETTING_HISTORY_LENGTH) == 10000);
	replica_put_setting(f->replica, key, "600");
	wait_synced(f, 3);
	assert_true(settings_get(&f->settings, SETTING_HISTORY_LENGTH) == 600);
	replica_delete(f->replica, key);
	wait_synced(f, 4);
	assert_true(settings_get(&f->settings, SETTING_HISTORY_LENGTH) == 10000);
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
	assert_int_equal(f->n_cached, 1);
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
	struct slice kept = { bytes.data, bytes.len - cut };
	assert_int_equal(file_write(f->cache_file, kept, 0600, true, &st), STATUS_OK);
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
		TEST(refuses_removed_nodes),
		TEST(outlives_its_replica),
		TEST(starts_over),
		TEST(never_goes_back),
		TEST(leaves_a_replica_that_lags_behind),
		TEST(takes_settings),
		TEST(begins_with_its_cache),
		TEST(ignores_a_damaged_cache),
		TEST(ignores_another_clusters_cache),
		TEST(stops_without_an_answer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
