// links: kds service_keydist
/* The KeyDist service as libkds sees it. */
#include "tests/support/support.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <kds/kds.h>

#include "common/base/clock.h"
#include "common/base/file.h"
#include "services/keydist/api.h"
#include "services/keydist/rotation.h"
#include "tests/support/replica.h"

#define LONG_MS UINT64_C(86400000)
#define GROUP_A "urn:example:prjA"
#define GROUP_B "urn:example:prjB"

struct fixture {
	struct pki *pki;
	struct replica *replica;
	struct seal *seal;
	struct daemon_options options;
	struct daemon *daemon;
	struct rpc_channel *channel;
	struct masterkeys *keys;
	struct follower *follower;
	struct rotation *rotation;
	struct api *api;
	kds_allocator *sender;   /* of both groups */
	kds_allocator *receiver; /* of A alone */
	struct kds_error error;
};

static void take_change(void *arg, const Kds__V1__Object *object)
{
	struct fixture *f = arg;
	struct status st;
	if (object->value_case == KDS__V1__OBJECT__VALUE_MASTER_KEY)
		assert_int_equal(masterkeys_put(f->keys, object->master_key, &st), STATUS_OK);
}

static void make_daemon(struct fixture *f)
{
	static const struct daemon_program program = {
		.name = "kds-keydist",
		.purpose = "Tests.",
		.needs_serial = true,
	};
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
	char *argv[] = { (char *)"kds-keydist", (char *)"--config", path, NULL };
	assert_int_equal(daemon_options_parse(&program, 3, argv, &st, &f->options), STATUS_OK);
	if (daemon_new(&f->options, &st, &f->daemon) != STATUS_OK)
		fail_msg("%s", st.message);
}

static void make_keys(struct fixture *f)
{
	struct status st;
	char path[4096];
	snprintf(path, sizeof path, "%s/keydist.seal", pki_directory(f->pki));
	assert_int_equal(seal_create_file(path, &st), STATUS_OK);
	assert_int_equal(seal_load(path, &st, &f->seal), STATUS_OK);
	const struct masterkeys_times times = { .interval_ms = LONG_MS, .lifespan_ms = 7 * LONG_MS };
	assert_int_equal(masterkeys_new(f->seal, &st, &f->keys), STATUS_OK);
	masterkeys_set_times(f->keys, &times);
}

static void follow(struct fixture *f, bool nodes)
{
	static const char *const prefixes[] = { MASTERKEY_OBJECT_PREFIX };
	struct status st;
	const struct rpc_channel_options channel = {
		.addresses = (const char *const *)f->options.serial_addresses,
		.n_addresses = 1,
		.credentials = daemon_credentials(f->daemon),
		.trust = daemon_trust(f->daemon),
		.expect_roles = PEER_SERIAL,
		.limits = CONN_LIMITS_DEFAULT,
	};
	assert_int_equal(rpc_channel_new(&channel, &st, &f->channel), STATUS_OK);
	const struct follower_options follower = {
		.daemon = f->daemon,
		.channel = f->channel,
		.prefixes = prefixes,
		.n_prefixes = 1,
		.nodes = nodes,
		.change = take_change,
		.arg = f,
	};
	assert_int_equal(follower_start(&follower, &st, &f->follower), STATUS_OK);
	assert_true(follower_wait_synced(f->follower, 60000));
}

static void rotate(struct fixture *f)
{
	struct status st;
	struct masterkey key;
	const struct rotation_options rotation = {
		.keys = f->keys,
		.follower = f->follower,
		.channel = f->channel,
		.seal = f->seal,
	};
	assert_int_equal(rotation_start(&rotation, &st, &f->rotation), STATUS_OK);
	for (int i = 0; i < 6000 && !masterkeys_current(f->keys, clock_unix_ms(), &key); i++)
		usleep(10000);
	assert_true(masterkeys_current(f->keys, clock_unix_ms(), &key));
}

static struct kds_options client_options(struct fixture *f, const struct pki_leaf *leaf)
{
	return (struct kds_options){
		.cluster = PKI_CLUSTER,
		.certificate_file = leaf->certificate,
		.key_file = leaf->key,
		.ca_file = pki_ca_file(f->pki, PKI_INFRASTRUCTURE),
		.addresses = daemon_address(f->daemon),
	};
}

static kds_allocator *client(struct fixture *f, const struct pki_leaf *leaf)
{
	const struct kds_options options = client_options(f, leaf);
	kds_allocator *a;
	if (kds_allocator_new(&options, &a, &f->error) != KDS_OK)
		fail_msg("%s", f->error.message);
	return a;
}

static int set_up(void **state, bool nodes)
{
	static const char *const both[] = { GROUP_A "#10s", GROUP_B, NULL };
	static const char *const first[] = { GROUP_A "#10s", NULL };
	struct status st;
	struct fixture *f = calloc(1, sizeof *f);
	assert_non_null(f);
	*state = f;
	unsetenv("KDS_CONFIG");
	f->pki = pki_new();
	f->replica = replica_new(f->pki);
	replica_put_ca(f->replica, pki_ca_der(f->pki, PKI_CLUSTER_CA));
	replica_put_node(f->replica, "node1.example.com");
	replica_put_node(f->replica, "node2.example.com");
	replica_put_node(f->replica, "node3.example.com");
	make_daemon(f);
	make_keys(f);
	follow(f, nodes);
	const struct api_options api = {
		.kds_name = PKI_KDS_NAME,
		.trust = daemon_trust(f->daemon),
		.keys = f->keys,
		.follower = f->follower,
	};
	assert_int_equal(api_new(&api, &st, &f->api), STATUS_OK);
	assert_int_equal(api_serve(f->api, daemon_server(f->daemon), &st), STATUS_OK);
	assert_int_equal(daemon_listen(f->daemon, &st), STATUS_OK);
	f->sender = client(f, pki_kds_client(f->pki, "node1.example.com", both, 0));
	f->receiver = client(f, pki_kds_client(f->pki, "node2.example.com", first, 0));
	return 0;
}

static int setup(void **state)
{
	return set_up(state, true);
}

static int setup_without_nodes(void **state)
{
	set_up(state, false);
	rotate(*state);
	return 0;
}

static int setup_with_key(void **state)
{
	setup(state);
	rotate(*state);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	kds_allocator_free(f->sender);
	kds_allocator_free(f->receiver);
	rotation_stop(f->rotation);
	follower_stop(f->follower);
	rpc_channel_free(f->channel);
	daemon_free(f->daemon);
	api_free(f->api);
	masterkeys_free(f->keys);
	seal_free(f->seal);
	daemon_options_free(&f->options);
	replica_free(f->replica);
	pki_free(f->pki);
	free(f);
	return 0;
}

static struct kds_key create(struct fixture *f, const char *group)
{
	struct kds_key key;
	if (kds_key_create(f->sender, group, &key, &f->error) != KDS_OK)
		fail_msg("%s", f->error.message);
	return key;
}

static void expect_refusal(struct fixture *f, int rc, int code, const char *says)
{
	assert_int_equal(rc, code);
	assert_int_equal(f->error.code, code);
	if (!strstr(f->error.message, says))
		fail_msg("'%s' does not say '%s'", f->error.message, says);
}

static void refuse_restore(struct fixture *f, const struct ident *ident, int code, const char *says)
{
	uint8_t bytes[IDENT_SIZE_MAX];
	struct kds_key key = { .nonce_ms = 7 };
	size_t len = ident_encode(ident, bytes);
	expect_refusal(f, kds_key_restore(f->receiver, bytes, len, &key, &f->error), code, says);
	assert_true(key.nonce_ms == 7 && key.key_len == 0);
}

static void test_keydist_receiver_gets_the_senders_key(void **state)
{
	struct fixture *f = *state;
	struct kds_key restored;
	uint64_t before = clock_unix_ms();
	struct kds_key key = create(f, GROUP_A);
	assert_int_equal(key.key_len, KDS_KEY_SIZE);
	assert_true(key.nonce_ms % 10000 == 0);
	assert_true(key.nonce_ms + 10000 > before && key.nonce_ms <= clock_unix_ms());
	assert_int_equal(kds_key_restore(f->receiver, key.ident, key.ident_len, &restored, &f->error), KDS_OK);
	assert_memory_equal(&restored, &key, sizeof key);

	const struct kds_key zero = { .nonce_ms = 0 };
	kds_key_wipe(&key);
	assert_memory_equal(&key, &zero, sizeof key);
}

static void test_keydist_groups_have_keys_of_their_own(void **state)
{
	struct fixture *f = *state;
	struct kds_key a = create(f, GROUP_A), b = create(f, GROUP_B);
	assert_memory_not_equal(a.key, b.key, KDS_KEY_SIZE);
	/* Without a fragment the precision is 1 ms: within 20 ms two keys differ in their time. */
	usleep(20000);
	assert_true(create(f, GROUP_B).nonce_ms > b.nonce_ms);
}

static void test_keydist_refuses_groups_that_the_certificate_does_not_name(void **state)
{
	struct fixture *f = *state;
	struct kds_key key, b = create(f, GROUP_B);
	const char *says = "group '" GROUP_B "' is not in the certificate of node2.example.com; see that 'kds-cli node "
			   "show' has it, then renew the certificate";
	expect_refusal(f, kds_key_create(f->receiver, GROUP_B, &key, &f->error), KDS_PERMISSION_DENIED, says);
	expect_refusal(f, kds_key_restore(f->receiver, b.ident, b.ident_len, &key, &f->error), KDS_PERMISSION_DENIED,
		       says);
	expect_refusal(f, kds_key_create(f->sender, "urn:example:prj", &key, &f->error), KDS_PERMISSION_DENIED, "prj'");
	expect_refusal(f, kds_key_create(f->sender, GROUP_A "#10s", &key, &f->error), KDS_INVALID_ARGUMENT, "fragment");
	expect_refusal(f, kds_key_create(f->sender, "", &key, &f->error), KDS_INVALID_ARGUMENT, "group");
}

static void test_keydist_refuses_idents_that_name_no_key(void **state)
{
	struct fixture *f = *state;
	struct kds_key key = { .key_len = 0 }, good = create(f, GROUP_A);
	struct status st;
	struct ident ident;
	expect_refusal(f, kds_key_restore(f->receiver, "x", 1, &key, &f->error), KDS_INVALID_ARGUMENT, "ident");
	expect_refusal(f, kds_key_restore(f->receiver, NULL, 0, &key, &f->error), KDS_INVALID_ARGUMENT, "ident");
	assert_int_equal(ident_decode((struct slice){ good.ident, good.ident_len }, &st, &ident), STATUS_OK);

	struct ident wrong = ident;
	wrong.published_ms--;
	refuse_restore(f, &wrong, KDS_NOT_FOUND, "unknown or was destroyed");
	wrong.published_ms = ident.published_ms + 1;
	refuse_restore(f, &wrong, KDS_NOT_FOUND, "unknown or was destroyed");
	wrong = ident;
	wrong.nonce_ms = clock_unix_ms() + 120000;
	refuse_restore(f, &wrong, KDS_OUT_OF_RANGE, "ahead; check the clocks");
	wrong.nonce_ms = clock_unix_ms() + 30000; /* within what clocks may differ */
	uint8_t bytes[IDENT_SIZE_MAX];
	assert_int_equal(kds_key_restore(f->receiver, bytes, ident_encode(&wrong, bytes), &key, &f->error), KDS_OK);
}

/* One of a distributor with another sealing key, which can answer: to say that it was destroyed would end the search. */
static void test_keydist_sends_to_another_for_what_it_cannot_unseal(void **state)
{
	struct fixture *f = *state;
	struct kds_key key = { .key_len = 0 }, good = create(f, GROUP_A);
	struct status st;
	struct ident ident;
	uint8_t bytes[IDENT_SIZE_MAX], other[64] = { 0 };
	assert_int_equal(ident_decode((struct slice){ good.ident, good.ident_len }, &st, &ident), STATUS_OK);
	Kds__V1__MasterKey theirs = KDS__V1__MASTER_KEY__INIT;
	theirs.published_ms = theirs.use_from_ms = --ident.published_ms;
	theirs.sealed_key = (ProtobufCBinaryData){ sizeof other, other };
	assert_int_not_equal(masterkeys_put(f->keys, &theirs, &st), STATUS_OK);
	const char *const groups[] = { GROUP_A, NULL };
	struct kds_options options = client_options(f, pki_kds_client(f->pki, "node3.example.com", groups, 0));
	kds_allocator *a;
	options.timeout_ms = 300;
	assert_int_equal(kds_allocator_new(&options, &a, &f->error), KDS_OK);
	int rc = kds_key_restore(a, bytes, ident_encode(&ident, bytes), &key, &f->error);
	assert_true(rc == KDS_UNAVAILABLE || rc == KDS_DEADLINE_EXCEEDED);
	kds_allocator_free(a);
	masterkeys_remove(f->keys, ident.published_ms);
	refuse_restore(f, &ident, KDS_NOT_FOUND, "unknown or was destroyed");
}

static void test_keydist_refuses_who_is_no_client(void **state)
{
	struct fixture *f = *state;
	struct kds_key key;
	kds_allocator *node = client(f, pki_node(f->pki, "node1.example.com", 0));
	kds_allocator *admin = client(f, pki_admin(f->pki));
	expect_refusal(f, kds_key_create(node, GROUP_A, &key, &f->error), KDS_PERMISSION_DENIED, "KeyDist.Create");
	expect_refusal(f, kds_key_create(admin, GROUP_A, &key, &f->error), KDS_PERMISSION_DENIED, "KeyDist.Create");
	kds_allocator_free(node);
	kds_allocator_free(admin);
}

static void test_keydist_says_when_it_has_no_key(void **state)
{
	struct fixture *f = *state;
	const char *const groups[] = { GROUP_A, NULL };
	struct kds_options options = client_options(f, pki_kds_client(f->pki, "node3.example.com", groups, 0));
	struct kds_key key;
	kds_allocator *a;
	options.timeout_ms = 300;
	assert_int_equal(kds_allocator_new(&options, &a, &f->error), KDS_OK);
	int rc = kds_key_create(a, GROUP_A, &key, &f->error);
	assert_true(rc == KDS_UNAVAILABLE || rc == KDS_DEADLINE_EXCEEDED);
	kds_allocator_free(a);
}

static void test_keydist_serves_without_replicas(void **state)
{
	struct fixture *f = *state;
	struct kds_key restored, key = create(f, GROUP_A);
	replica_stop(f->replica);
	for (int i = 0; i < 3000 && follower_in_step(f->follower); i++)
		usleep(10000);
	struct kds_key later = create(f, GROUP_B);
	assert_int_equal(later.key_len, KDS_KEY_SIZE);
	assert_int_equal(kds_key_restore(f->receiver, key.ident, key.ident_len, &restored, &f->error), KDS_OK);
	assert_memory_equal(restored.key, key.key, KDS_KEY_SIZE);

	/* A masterKey that others may have published meanwhile is not denied: another distributor may know it. */
	struct status st;
	struct ident ident;
	assert_int_equal(ident_decode((struct slice){ key.ident, key.ident_len }, &st, &ident), STATUS_OK);
	ident.published_ms++;
	const char *const groups[] = { GROUP_A, NULL };
	struct kds_options options = client_options(f, pki_kds_client(f->pki, "node3.example.com", groups, 0));
	options.timeout_ms = 300;
	kds_allocator *hasty;
	uint8_t bytes[IDENT_SIZE_MAX];
	assert_int_equal(kds_allocator_new(&options, &hasty, &f->error), KDS_OK);
	int rc = kds_key_restore(hasty, bytes, ident_encode(&ident, bytes), &restored, &f->error);
	assert_true(rc == KDS_UNAVAILABLE || rc == KDS_DEADLINE_EXCEEDED);
	kds_allocator_free(hasty);
}

static void test_keydist_refuses_a_node_that_was_removed(void **state)
{
	struct fixture *f = *state;
	struct kds_key key = create(f, GROUP_A), again;
	assert_int_equal(kds_key_restore(f->receiver, key.ident, key.ident_len, &again, &f->error), KDS_OK);
	/* The sender's connection stays open meanwhile. */
	replica_delete(f->replica, "node/node1.example.com");
	int rc = KDS_OK;
	for (int i = 0; i < 6000 && rc == KDS_OK; i++) {
		rc = kds_key_create(f->sender, GROUP_A, &key, &f->error);
		usleep(10000);
	}
	assert_int_not_equal(rc, KDS_OK);
	for (int i = 0; i < 3; i++)
		assert_int_not_equal(kds_key_create(f->sender, GROUP_A, &key, &f->error), KDS_OK);
	assert_int_equal(kds_key_restore(f->receiver, key.ident, key.ident_len, &again, &f->error), KDS_OK);
}

static void test_keydist_gives_no_key_before_it_knows_the_nodes(void **state)
{
	struct fixture *f = *state;
	const char *const groups[] = { GROUP_A, NULL };
	struct kds_options options = client_options(f, pki_kds_client(f->pki, "node3.example.com", groups, 0));
	struct kds_key key;
	kds_allocator *a;
	options.timeout_ms = 300;
	assert_int_equal(kds_allocator_new(&options, &a, &f->error), KDS_OK);
	int rc = kds_key_create(a, GROUP_A, &key, &f->error);
	assert_true(rc == KDS_UNAVAILABLE || rc == KDS_DEADLINE_EXCEEDED);
	kds_allocator_free(a);
}

static void *create_many(void *arg)
{
	struct fixture *f = arg;
	struct kds_key key, again;
	struct kds_error error;
	for (int i = 0; i < 50; i++)
		if (kds_key_create(f->sender, GROUP_A, &key, &error) != KDS_OK ||
		    kds_key_restore(f->sender, key.ident, key.ident_len, &again, &error) != KDS_OK ||
		    memcmp(key.key, again.key, KDS_KEY_SIZE) != 0)
			return arg;
	return NULL;
}

static void test_keydist_one_allocator_for_many_threads(void **state)
{
	pthread_t threads[4];
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, create_many, *state), 0);
	for (size_t i = 0; i < 4; i++) {
		void *failed;
		assert_int_equal(pthread_join(threads[i], &failed), 0);
		assert_null(failed);
	}
}

static void test_keydist_library_reads_the_commands_configuration(void **state)
{
	struct fixture *f = *state;
	const char *const groups[] = { GROUP_A, NULL };
	const struct pki_leaf *leaf = pki_kds_client(f->pki, "node3.example.com", groups, 0);
	struct kds_options options = { .timeout_ms = 0 };
	struct status st;
	struct kds_key key;
	kds_allocator *a = NULL;
	char text[4096], path[4096];
	int n = snprintf(text, sizeof text,
			 "cluster = \"" PKI_CLUSTER "\"\nkds-name = \"" PKI_KDS_NAME "\"\n"
			 "keydist-addresses = { \"%s\" }\ncertificate = \"%s\"\nkey = \"missing.key\"\nca = \"infra-ca.crt\"\ntimeout = 20\n",
			 daemon_address(f->daemon), leaf->certificate);
	snprintf(path, sizeof path, "%s/cli.conf", pki_directory(f->pki));
	assert_int_equal(file_write(path, (struct slice){ text, (size_t)n }, 0600, true, &st), STATUS_OK);
	assert_int_equal(setenv("KDS_CONFIG", path, 1), 0);

	assert_int_not_equal(kds_allocator_new(&options, &a, &f->error), KDS_OK);
	assert_non_null(strstr(f->error.message, "missing.key"));
	options.key_file = leaf->key;
	expect_refusal(f, kds_allocator_new(&options, &a, &f->error), KDS_INVALID_ARGUMENT, "together");
	options.certificate_file = leaf->certificate;
	assert_int_equal(kds_allocator_new(&options, &a, &f->error), KDS_OK);
	assert_int_equal(kds_key_create(a, GROUP_A, &key, &f->error), KDS_OK);
	kds_allocator_free(a);

	a = NULL;
	options.config_file = "/nonexistent.conf";
	expect_refusal(f, kds_allocator_new(&options, &a, &f->error), KDS_NOT_FOUND, "/nonexistent.conf");
	unsetenv("KDS_CONFIG");
	setenv("HOME", "/nonexistent", 1);
	expect_refusal(f, kds_allocator_new(NULL, &a, &f->error), KDS_INVALID_ARGUMENT, "KDS_CONFIG");
	assert_null(a);
	kds_allocator_free(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_keydist_##name, setup_with_key, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(receiver_gets_the_senders_key),
		TEST(groups_have_keys_of_their_own),
		TEST(refuses_groups_that_the_certificate_does_not_name),
		TEST(refuses_idents_that_name_no_key),
		TEST(sends_to_another_for_what_it_cannot_unseal),
		TEST(refuses_who_is_no_client),
		cmocka_unit_test_setup_teardown(test_keydist_says_when_it_has_no_key, setup, teardown),
		TEST(serves_without_replicas),
		TEST(refuses_a_node_that_was_removed),
		cmocka_unit_test_setup_teardown(test_keydist_gives_no_key_before_it_knows_the_nodes, setup_without_nodes,
						teardown),
		TEST(one_allocator_for_many_threads),
		TEST(library_reads_the_commands_configuration),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
