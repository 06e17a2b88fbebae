// links: common_daemon
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/daemon/config_file.h"
#include "common/daemon/options.h"

#define COMPLETE \
	"cluster = \"cluster.example.com\"\n" \
	"kds-name = \"key.example.com\"\n" \
	"cluster-id = \"0123\"\n" \
	"name = \"ca1\"\n" \
	"listen = \"127.0.0.1\"\n" \
	"certificate = \"service.crt\"\n" \
	"key = \"/etc/kds/service.key\"\n" \
	"ca = \"infra-ca.crt\"\n" \
	"serial-addresses = { \"127.0.1.1\", \"[::1]:7000\" }\n"

static const cfg_opt_t replica_options[] = {
	CFG_INT("id", 0, CFGF_NONE),
	CFG_STR("address", NULL, CFGF_NONE),
	CFG_END(),
};

static const cfg_opt_t own_options[] = {
	CFG_STR("seal", NULL, CFGF_NONE),
	CFG_INT("interval", 24, CFGF_NONE),
	CFG_SEC("replica", (cfg_opt_t *)replica_options, CFGF_MULTI | CFGF_TITLE),
	CFG_END(),
};

static const struct daemon_program program = {
	.name = "kds-test",
	.purpose = "Tests.",
	.own = own_options,
	.default_port = 7410,
	.needs_serial = true,
};

struct fixture {
	char *directory;
	char *file;
	struct daemon_options options;
	struct status st;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	assert_non_null(f);
	f->directory = support_make_directory();
	assert_true(asprintf(&f->file, "%s/kds.conf", f->directory) > 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	daemon_options_free(&f->options);
	support_remove_directory(f->directory);
	free(f->file);
	free(f);
	return 0;
}

static enum status_code parse_with(struct fixture *f, const char *text, const char *extra)
{
	assert_int_equal(file_write(f->file, (struct slice){ text, strlen(text) }, 0600, true, &f->st), STATUS_OK);
	char *argv[] = { (char *)"kds-test", (char *)"--config", f->file, (char *)extra, NULL };
	return daemon_options_parse(&program, extra ? 4 : 3, argv, &f->st, &f->options);
}

static void expect_message(struct fixture *f, const char *part)
{
	if (!strstr(f->st.message, part))
		fail_msg("'%s' does not say '%s'", f->st.message, part);
}

static void test_options_common(void **state)
{
	struct fixture *f = *state;
	char path[4096];
	assert_int_equal(parse_with(f, COMPLETE "tls-min = \"1.3\"\nmax-connections = 7\n", NULL), STATUS_OK);
	const struct daemon_options *o = &f->options;
	assert_string_equal(o->program, "kds-test");
	assert_false(o->check_only);
	assert_string_equal(o->cluster, "cluster.example.com");
	assert_string_equal(o->kds_name, "key.example.com");
	assert_string_equal(o->cluster_id, "0123");
	assert_string_equal(o->name, "ca1");
	assert_string_equal(o->listen, "127.0.0.1:7410");
	snprintf(path, sizeof path, "%s/service.crt", f->directory);
	assert_string_equal(o->certificate, path);
	assert_string_equal(o->key, "/etc/kds/service.key");
	assert_int_equal(o->n_serial_addresses, 2);
	assert_string_equal(o->serial_addresses[0], "127.0.1.1:7400");
	assert_string_equal(o->serial_addresses[1], "[::1]:7000");
	assert_int_equal(o->tls_minimum, TLS_MINIMUM_1_3);
	assert_int_equal(o->slots.max_connections, 7);
	assert_int_equal(o->log_level, LOG_LEVEL_INFO);
}

static void test_options_defaults_and_flags(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(parse_with(f, COMPLETE, "--check-config"), STATUS_OK);
	assert_true(f->options.check_only);
	assert_int_equal(f->options.tls_minimum, TLS_MINIMUM_1_2);
	daemon_options_free(&f->options);
	assert_int_equal(parse_with(f, COMPLETE "log-level = \"debug\"", "--log-level=error"), STATUS_OK);
	assert_int_equal(f->options.log_level, LOG_LEVEL_ERROR);
}

static void test_options_of_the_daemon(void **state)
{
	struct fixture *f = *state;
	char path[4096];
	unsigned hours = 99;
	const char *text = COMPLETE "seal = \"ca.seal\"\nreplica serial1 {\n id = 3\n address = \"h:1\"\n}\n";
	assert_int_equal(parse_with(f, text, NULL), STATUS_OK);
	char *seal = daemon_options_path(&f->options, "seal");
	assert_non_null(seal);
	snprintf(path, sizeof path, "%s/ca.seal", f->directory);
	assert_string_equal(seal, path);
	free(seal);
	assert_int_equal(cfg_size(f->options.cfg, "replica"), 1);
	cfg_t *replica = cfg_getnsec(f->options.cfg, "replica", 0);
	assert_string_equal(cfg_title(replica), "serial1");
	assert_int_equal(cfg_getint(replica, "id"), 3);

	assert_int_equal(daemon_options_number(&f->options, "interval", 1, 24, &f->st, &hours), STATUS_OK);
	assert_int_equal(hours, 24);
	hours = 99;
	assert_int_equal(daemon_options_number(&f->options, "interval", 1, 23, &f->st, &hours),
			 STATUS_INVALID_ARGUMENT);
	assert_int_equal(hours, 99);
	expect_message(f, "option 'interval' is 24; it takes 1 to 23");
}

static void test_options_unset_path_is_null(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(parse_with(f, COMPLETE, NULL), STATUS_OK);
	assert_null(daemon_options_path(&f->options, "seal"));
}

static void test_options_errors_name_file_line_and_option(void **state)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{ COMPLETE "listn = \"x\"\n", "kds.conf:10: no such option 'listn'" },
		{ "\n\nmax-connections = many\n", "kds.conf:3: invalid integer value for option 'max-connections'" },
		{ COMPLETE "max-connections = 0\n", "option 'max-connections' is 0; it takes 1 to" },
		{ COMPLETE "max-connections = 99999999999999999999\n", "'max-connections' is out of range" },
		{ COMPLETE "tls-min = \"1.1\"\n", "option 'tls-min' is '1.1'" },
		{ COMPLETE "log-level = \"loud\"\n", "option 'log-level'" },
		{ "cluster = \"c\"\n", "option 'kds-name' is missing" },
		{ COMPLETE "serial-addresses = {}\n", "option 'serial-addresses' is missing" },
		{ COMPLETE "name = \"\"\n", "option 'name' is missing" },
		{ COMPLETE "listen = \"nonsense:port\"\n", "option 'listen'" },
		{ COMPLETE "serial-addresses = { \"127.0.1.1:0\" }\n", "option 'serial-addresses'" },
		{ COMPLETE "replica x {\n  port = 1\n}\n", "kds.conf:11: no such option 'port'" },
		{ COMPLETE "name\n", "kds.conf" },
	};
	struct fixture *f = *state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		if (parse_with(f, cases[i].text, NULL) != STATUS_INVALID_ARGUMENT)
			fail_msg("taken, but: %s", cases[i].says);
		assert_int_equal(f->st.code, STATUS_INVALID_ARGUMENT);
		expect_message(f, cases[i].says);
		assert_null(f->options.cfg);
	}
}

/* A file of a version before must not keep a daemon from starting. */
static void test_options_of_a_version_before(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(parse_with(f, COMPLETE "max-connections-per-address = 64\n", NULL), STATUS_OK);
	assert_int_equal(f->options.slots.max_strangers_address, 256);
}

static void test_options_missing_file(void **state)
{
	struct fixture *f = *state;
	char *argv[] = { (char *)"kds-test", (char *)"--config", (char *)"/nonexistent/kds.conf", NULL };
	assert_int_equal(daemon_options_parse(&program, 3, argv, &f->st, &f->options), STATUS_NOT_FOUND);
	expect_message(f, "/nonexistent/kds.conf");
	char *none[] = { (char *)"kds-test", NULL };
	assert_int_equal(daemon_options_parse(&program, 1, none, &f->st, &f->options), STATUS_INVALID_ARGUMENT);
	expect_message(f, "--config FILE");
}

static void test_options_relative_to_the_file(void **state)
{
	struct fixture *f = *state;
	char *absolute = config_file_path(f->file, "/x/y");
	assert_string_equal(absolute, "/x/y");
	free(absolute);
	assert_null(config_file_path("/nonexistent/kds.conf", "y"));
}

static void test_options_addresses(void **state)
{
	static const struct {
		const char *text, *address;
	} cases[] = {
		{ "host", "host:7420" },	{ "host:1", "host:1" },	  { "10.0.0.1", "10.0.0.1:7420" },
		{ "::1", "[::1]:7420" },	{ "[::1]", "[::1]:7420" }, { "[::1]:5", "[::1]:5" },
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char *address = config_file_address(cases[i].text, 7420);
		assert_string_equal(address, cases[i].address);
		free(address);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_options_common, setup, teardown),
		cmocka_unit_test_setup_teardown(test_options_defaults_and_flags, setup, teardown),
		cmocka_unit_test_setup_teardown(test_options_of_the_daemon, setup, teardown),
		cmocka_unit_test_setup_teardown(test_options_unset_path_is_null, setup, teardown),
		cmocka_unit_test_setup_teardown(test_options_errors_name_file_line_and_option, setup, teardown),
		cmocka_unit_test_setup_teardown(test_options_missing_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_options_of_a_version_before, setup, teardown),
		cmocka_unit_test_setup_teardown(test_options_relative_to_the_file, setup, teardown),
		cmocka_unit_test(test_options_addresses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
