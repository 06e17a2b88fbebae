// links: service_serial common_daemon
/* kds-serial's own options: what is taken, and that each mistake is named with what to do about it. */
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "services/serial/config.h"

#define COMMON                                                                                                         \
	"cluster = \"cluster.example.com\"\nkds-name = \"key.example.com\"\ncluster-id = \"0123\"\nname = "            \
	"\"serial2\"\n"                                                                                                \
	"certificate = \"service.crt\"\nkey = \"service.key\"\nca = \"infra-ca.crt\"\n"
#define LISTEN "listen = \"127.0.1.2\"\n"
#define OWN "id = 2\ndata-dir = \"data\"\n"
#define REPLICAS                                                                                                       \
	"replica serial3 { id = 3 address = \"127.0.1.3:7501\" }\n"                                                    \
	"replica serial1 { id = 1 address = \"127.0.1.1\" }\n"                                                         \
	"replica serial2 { id = 2 address = \"[::1]\" }\n"

static const struct daemon_program program = {
	.name = "kds-serial",
	.purpose = "Tests.",
	.own = serial_options,
	.default_port = 7400,
};

static struct fixture {
	char *directory;
	char *file;
	struct daemon_options options;
	struct serial_config config;
	struct status st;
} f;

static int setup(void **state)
{
	(void)state;
	memset(&f, 0, sizeof f);
	f.directory = support_make_directory();
	assert_true(asprintf(&f.file, "%s/kds-serial.conf", f.directory) > 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	serial_config_fini(&f.config);
	daemon_options_free(&f.options);
	support_remove_directory(f.directory);
	free(f.file);
	return 0;
}

static enum status_code read_text(const char *text)
{
	serial_config_fini(&f.config);
	daemon_options_free(&f.options);
	memset(&f.options, 0, sizeof f.options);
	assert_int_equal(file_write(f.file, (struct slice){ text, strlen(text) }, 0600, true, &f.st), STATUS_OK);
	char *argv[] = { "kds-serial", "--config", f.file, NULL };
	enum status_code rc = daemon_options_parse(&program, 3, argv, &f.st, &f.options);
	return rc == STATUS_OK ? serial_config_read(&f.options, &f.st, &f.config) : rc;
}

static void refused(const char *text, const char *words)
{
	assert_int_equal(read_text(text), STATUS_INVALID_ARGUMENT);
	if (!strstr(f.st.message, words))
		fail_msg("'%s' does not say '%s'", f.st.message, words);
	if (!strstr(f.st.message, "kds-serial.conf"))
		fail_msg("'%s' does not name the file", f.st.message);
}

static void test_serial_config_takes_what_init_writes(void **state)
{
	(void)state;
	assert_int_equal(read_text(COMMON LISTEN OWN "peer-listen = \"127.0.1.2:7401\"\n" REPLICAS), STATUS_OK);
	const struct serial_config *c = &f.config;
	assert_int_equal(c->id, 2);
	assert_string_equal(c->peer_listen, "127.0.1.2:7401");
	assert_string_equal(c->rpc_address, "127.0.1.2:7400");
	assert_int_equal(c->election_ms, 1000);
	assert_int_equal(c->heartbeat_ms, 100);
	assert_int_equal(c->data_dir[0], '/');
	/* By id, whatever the order in the file. */
	assert_int_equal(c->n_members, 3);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(c->members[i].id, i + 1);
	assert_string_equal(c->members[0].address, "127.0.1.1:7401");
	assert_string_equal(c->members[2].name, "serial3");
	assert_string_equal(c->members[2].address, "127.0.1.3:7501");
}

static void test_serial_config_peer_listen_is_its_own_address(void **state)
{
	(void)state;
	assert_int_equal(read_text(COMMON LISTEN OWN REPLICAS), STATUS_OK);
	assert_string_equal(f.config.peer_listen, "[::1]:7401");
}

static void test_serial_config_needs_an_address_others_can_dial(void **state)
{
	(void)state;
	refused(COMMON "listen = \"0.0.0.0\"\n" OWN REPLICAS, "'rpc-address'");
	refused(COMMON "listen = \"[::]:7400\"\n" OWN REPLICAS, "'rpc-address'");
	refused(COMMON LISTEN OWN "rpc-address = \"host2:http\"\n" REPLICAS, "'rpc-address'");
	refused(COMMON LISTEN OWN "peer-listen = \"host2:99999\"\n" REPLICAS, "'peer-listen'");
	refused(COMMON LISTEN OWN REPLICAS "replica serial4 { id = 4 address = \"h:0\" }\n", "'address' of a replica");
	assert_int_equal(read_text(COMMON "listen = \"0.0.0.0\"\nrpc-address = \"host2\"\n" OWN REPLICAS), STATUS_OK);
	assert_string_equal(f.config.rpc_address, "host2:7400");
}

static void test_serial_config_needs_every_replica_once(void **state)
{
	(void)state;
	refused(COMMON LISTEN OWN, "replica NAME");
	refused(COMMON LISTEN OWN REPLICAS "replica serial4 { id = 3 address = \"h\" }\n", "the same id 3");
	refused(COMMON LISTEN OWN REPLICAS "replica serial4 { address = \"h\" }\n", "replica serial4: option 'id'");
	refused(COMMON LISTEN OWN REPLICAS "replica serial4 { id = 4 }\n", "replica serial4: option 'address'");
	refused(COMMON LISTEN OWN REPLICAS "replica serial1 { id = 5 address = \"h\" }\n", "serial1");
	refused(COMMON LISTEN OWN REPLICAS
		"replica a { id = 4 address = \"h\" }\nreplica b { id = 5 address = \"h\" }\n"
		"replica c { id = 6 address = \"h\" }\nreplica d { id = 7 address = \"h\" }\n"
		"replica e { id = 8 address = \"h\" }\n",
		"at most 7");
}

static void test_serial_config_agrees_with_its_own_section(void **state)
{
	(void)state;
	refused(COMMON LISTEN "data-dir = \"data\"\n" REPLICAS, "option 'id'");
	refused(COMMON LISTEN "id = -2\ndata-dir = \"data\"\n" REPLICAS, "option 'id'");
	refused(COMMON LISTEN "id = 3\ndata-dir = \"data\"\n" REPLICAS, "replica serial2 { id = 3");
	refused(COMMON LISTEN "id = 2\n" REPLICAS, "'data-dir'");
}

static void test_serial_config_bounds_its_log(void **state)
{
	(void)state;
	refused(COMMON LISTEN OWN REPLICAS "log-tail = 255\n", "'log-tail'");
	refused(COMMON LISTEN OWN REPLICAS "log-tail = 1000001\n", "'log-tail'");
	assert_int_equal(read_text(COMMON LISTEN OWN REPLICAS "log-tail = 256\n"), STATUS_OK);
}

static void test_serial_config_bounds_its_times(void **state)
{
	(void)state;
	refused(COMMON LISTEN OWN REPLICAS "election-timeout = 10\n", "'election-timeout'");
	refused(COMMON LISTEN OWN REPLICAS "heartbeat = 0\n", "'heartbeat'");
	refused(COMMON LISTEN OWN REPLICAS "heartbeat = 400\n", "at most 333");
	refused(COMMON LISTEN OWN REPLICAS "heartbeats = 400\n", "heartbeats");
	assert_int_equal(read_text(COMMON LISTEN OWN REPLICAS "election-timeout = 300\nheartbeat = 100\n"), STATUS_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_serial_config_takes_what_init_writes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_serial_config_peer_listen_is_its_own_address, setup, teardown),
		cmocka_unit_test_setup_teardown(test_serial_config_needs_an_address_others_can_dial, setup, teardown),
		cmocka_unit_test_setup_teardown(test_serial_config_needs_every_replica_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_serial_config_agrees_with_its_own_section, setup, teardown),
		cmocka_unit_test_setup_teardown(test_serial_config_bounds_its_times, setup, teardown),
		cmocka_unit_test_setup_teardown(test_serial_config_bounds_its_log, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
