// links: service_keydist
#include "tests/support/support.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/file.h"
#include "services/keydist/rotation.h"
#include "tests/support/replica.h"

#define N 2
/* So long that it does not end during a test. */
#define LONG_MS UINT64_C(86400000)

/* As many distributors as race. */
struct distributor {
	struct daemon_options options;
	struct daemon *daemon;
	struct rpc_channel *channel;
	struct masterkeys *keys;
	struct follower *follower;
	struct rotation *rotation;
};

struct fixture {
	struct pki *pki;
	struct replica *replica;
	struct seal *seal, *other_seal;
	struct distributor distributors[N];
};

static void take_change(void *arg, const Kds__V1__Object *object)
{
	struct distributor *d = arg;
	struct status st;
	uint64_t published_ms;
	if (!masterkey_parse_object_key(object->key, &published_ms))
		return;
	if (object->deleted)
		masterkeys_remove(d->keys, published_ms);
	else
		(void)!masterkeys_put(d->keys, object->master_key, &st); /* a foreign seal's is refused */
}

static void make_daemon(struct fixture *f, struct distributor *d)
{
	static const struct daemon_program program = { .name = "kds-test", .purpose = "Tests.", .needs_serial = true };
	const struct pki_leaf *leaf = pki_service(f->pki, "keydist", "keydist1");
	struct status st;
	char text[4096], path[4096];
	int n = snprintf(text, sizeof text,
			 "cluster = \"" PKI_CLUSTER "\"\nkds-name = \"" PKI_KDS_NAME "\"\ncluster-id = \"id\"\n"
			 "name = \"keydist1\"\nlisten = \"127.0.0.1:0\"\nserial-addresses = { \"%s\" }\n"
			 "certificate = \"%s\"\nkey = \"%s\"\nca = \"infra-ca.crt\"\nlog-level = \"error\"\n",
			 replica_address(f->replica), leaf->certificate, leaf->key);
	snprintf(path, sizeof path, "%s/kds.conf", pki_directory(f->pki));
	assert_int_equal(file_write(path, (struct slice){ text, (size_t)n }, 0600, true, &st), STATUS_OK);
	char *argv[] = { (char *)"kds-test", (char *)"--config", path, NULL };
	assert_int_equal(daemon_options_parse(&program, 3, argv, &st, &d->options), STATUS_OK);
	assert_int_equal(daemon_new(&d->options, &st, &d->daemon), STATUS_OK);
}

static void start(struct fixture *f, struct distributor *d, const struct seal *seal, uint64_t interval_ms,
		  uint64_t lifespan_ms, uint64_t ahead_ms)
{
	static const char *const prefixes[] = { MASTERKEY_OBJECT_PREFIX };
	struct status st;
	make_daemon(f, d);
	const struct rpc_channel_options channel = {
		.addresses = (const char *const *)d->options.serial_addresses,
		.n_addresses = 1,
		.credentials = daemon_credentials(d->daemon),
		.trust = daemon_trust(d->daemon),
		.expect_roles = PEER_SERIAL,
		.limits = CONN_LIMITS_DEFAULT,
	};
	assert_int_equal(rpc_channel_new(&channel, &st, &d->channel), STATUS_OK);
	const struct masterkeys_times times = { interval_ms, lifespan_ms, ahead_ms };
	assert_int_equal(masterkeys_new(seal, &st, &d->keys), STATUS_OK);
	masterkeys_set_times(d->keys, &times);
	const struct follower_options follower = {
		.daemon = d->daemon,
		.channel = d->channel,
		.prefixes = prefixes,
		.n_prefixes = 1,
		.change = take_change,
		.arg = d,
	};
	assert_int_equal(follower_start(&follower, &st, &d->follower), STATUS_OK);
	const struct rotation_options rotation = {
		.keys = d->keys,
		.follower = d->follower,
		.channel = d->channel,
		.seal = seal,
	};
	assert_int_equal(rotation_start(&rotation, &st, &d->rotation), STATUS_OK);
}

static struct seal *make_seal(const struct pki *pki, const char *name)
{
	char path[4096];
	struct status st;
	struct seal *seal;
	snprintf(path, sizeof path, "%s/%s", pki_directory(pki), name);
	assert_int_equal(seal_create_file(path, &st), STATUS_OK);
	assert_int_equal(seal_load(path, &st, &seal), STATUS_OK);
	return seal;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	assert_non_null(f);
	f->pki = pki_new();
	f->seal = make_seal(f->pki, "a.seal");
	f->other_seal = make_seal(f->pki, "b.seal");
	f->replica = replica_new(f->pki);
	replica_put_setting(f->replica, "cluster", "any");
	*state = f;
	return 0;
}

static void stop(struct distributor *d)
{
	rotation_stop(d->rotation);
	follower_stop(d->follower);
	rpc_channel_free(d->channel);
	masterkeys_free(d->keys);
	daemon_free(d->daemon);
	daemon_options_free(&d->options);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	for (size_t i = 0; i < N; i++)
		stop(&f->distributors[i]);
	replica_free(f->replica);
	seal_free(f->seal);
	seal_free(f->other_seal);
	pki_free(f->pki);
	free(f);
	return 0;
}

static bool has(struct distributor *d)
{
	struct masterkey key;
	return masterkeys_current(d->keys, clock_unix_ms(), &key);
}

/* A minute at most. */
#define WAIT_UNTIL(condition) \
	do { \
		for (int wait_i = 0; wait_i < 6000 && !(condition); wait_i++) \
			usleep(10000); \
		assert_true(condition); \
	} while (0)

static void test_rotation_one_of_many_publishes(void **state)
{
	struct fixture *f = *state;
	struct masterkey keys[N];
	for (size_t i = 0; i < N; i++)
		start(f, &f->distributors[i], f->seal, LONG_MS, 7 * LONG_MS, 0);
	for (size_t i = 0; i < N; i++)
		WAIT_UNTIL(has(&f->distributors[i]));
	assert_int_equal(replica_count(f->replica, MASTERKEY_OBJECT_PREFIX), 1);
	for (size_t i = 0; i < N; i++)
		assert_true(masterkeys_current(f->distributors[i].keys, clock_unix_ms(), &keys[i]));
	assert_true(keys[0].published_ms == keys[1].published_ms && keys[0].published_ms % LONG_MS == 0);
	assert_memory_equal(keys[0].key, keys[1].key, MASTER_KEY_SIZE);
	usleep(1500000); /* and nobody makes another */
	assert_int_equal(replica_count(f->replica, MASTERKEY_OBJECT_PREFIX), 1);
}

static void test_rotation_publishes_and_destroys(void **state)
{
	struct fixture *f = *state;
	/* A new one each second, which lives for three. */
	for (size_t i = 0; i < N; i++)
		start(f, &f->distributors[i], f->seal, 1000, 3000, 100);
	WAIT_UNTIL(has(&f->distributors[0]));
	uint64_t first = masterkeys_newest(f->distributors[0].keys);
	struct masterkey key;
	WAIT_UNTIL(masterkeys_newest(f->distributors[0].keys) >= first + 4000);
	WAIT_UNTIL(!masterkeys_find(f->distributors[1].keys, first, clock_unix_ms(), &key));
	WAIT_UNTIL(replica_count(f->replica, MASTERKEY_OBJECT_PREFIX) <= 5);
	assert_true(has(&f->distributors[0]) && has(&f->distributors[1]));
}

static void test_rotation_waits_for_replicas(void **state)
{
	struct fixture *f = *state;
	replica_stop(f->replica);
	start(f, &f->distributors[0], f->seal, LONG_MS, 7 * LONG_MS, 0);
	usleep(700000);
	assert_false(has(&f->distributors[0]));
	replica_listen(f->replica);
	WAIT_UNTIL(has(&f->distributors[0]));
}

static size_t count_usable(struct distributor *d)
{
	struct masterkey_info list[64];
	return masterkeys_list(d->keys, clock_unix_ms(), list, 64);
}

/* With different sealing keys each publishes keys of its own, in turns: one an interval, and neither goes without. */
static void test_rotation_passes_over_what_it_cannot_open(void **state)
{
	struct fixture *f = *state;
	enum { INTERVAL_MS = 3000 };
	uint64_t began = clock_unix_ms() / INTERVAL_MS;
	start(f, &f->distributors[0], f->seal, INTERVAL_MS, 7 * LONG_MS, 0);
	WAIT_UNTIL(has(&f->distributors[0]));
	start(f, &f->distributors[1], f->other_seal, INTERVAL_MS, 7 * LONG_MS, 0);
	for (size_t i = 0; i < 2; i++)
		WAIT_UNTIL(count_usable(&f->distributors[i]) >= 2);
	size_t n = replica_count(f->replica, MASTERKEY_OBJECT_PREFIX);
	assert_true(n <= clock_unix_ms() / INTERVAL_MS - began + 1);
	uint64_t newest;
	for (size_t i = 0; i < 2; i++)
		assert_true(masterkeys_count_sealed(f->distributors[i].keys, &newest) >= 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_rotation_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(one_of_many_publishes),
		TEST(publishes_and_destroys),
		TEST(waits_for_replicas),
		TEST(passes_over_what_it_cannot_open),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
