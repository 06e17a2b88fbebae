// links: client_cli
/* "host", "host:port", "[v6]:port": what `kds-cli init' takes. */
#include <string.h>

#include "clients/cli/host.h"
#include "tests/support/support.h"

static enum status_code parse(const char *text, struct host *ret, struct status *st)
{
	return host_parse(text, strlen(text), 7400, "--replicas", st, ret);
}

static void test_host_parse_accepts(void **state)
{
	static const struct {
		const char *text, *name;
		unsigned port;
		bool numeric;
		const char *formatted;
	} cases[] = {
		{ "a.example.com", "a.example.com", 7400, false, "a.example.com:1" },
		{ "a.example.com:8400", "a.example.com", 8400, false, "a.example.com:1" },
		{ "127.0.1.1", "127.0.1.1", 7400, true, "127.0.1.1:1" },
		{ "127.0.1.1:65534", "127.0.1.1", 65534, true, "127.0.1.1:1" },
		{ "::1", "::1", 7400, true, "[::1]:1" },
		{ "[::1]", "::1", 7400, true, "[::1]:1" },
		{ "[2001:db8::7]:9000", "2001:db8::7", 9000, true, "[2001:db8::7]:1" },
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct host h;
		char text[HOST_TEXT_SIZE];
		assert_int_equal(parse(cases[i].text, &h, NULL), STATUS_OK);
		assert_string_equal(h.name, cases[i].name);
		assert_int_equal(h.port, cases[i].port);
		assert_int_equal(h.numeric, cases[i].numeric);
		assert_string_equal(host_format(&h, 1, text), cases[i].formatted);
	}
}

static void test_host_parse_refuses(void **state)
{
	static const char *const cases[] = {
		"",          ":7400",         "a:",   "a:0",     "a:65535",       "a:70000",    "a:999999999999",
		"a:7x",      "a:-1",          "a: 1", "[::1",    "[::1]x",        "[::1]:",     "[a.example.com]",
		"1:2:3",     "a b",           "a\"b", "${HOME}", "*.example.com", "-a.example", "a..example",
		"[127.0.1]", "127.0.0.1:1:1",
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct host h = { .port = 4711 };
		struct status st = { 0 };
		if (parse(cases[i], &h, &st) == STATUS_OK)
			fail_msg("'%s' was taken as '%s' port %u", cases[i], h.name, h.port);
		assert_int_equal(st.code, STATUS_INVALID_ARGUMENT);
		assert_non_null(strstr(st.message, "--replicas"));
		assert_int_equal(h.port, 4711); /* untouched */
	}
}

static void test_host_parse_long_names(void **state)
{
	char text[600];
	struct host h;
	struct status st;
	(void)state;
	memset(text, 'a', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	assert_int_equal(parse(text, &h, &st), STATUS_INVALID_ARGUMENT);
}

static void test_host_parse_list(void **state)
{
	struct host hosts[3];
	struct status st;
	size_t n = 0;
	(void)state;
	assert_int_equal(host_parse_list("a,b:1,[::1]:2", 7400, "x", 3, &st, hosts, &n), STATUS_OK);
	assert_int_equal(n, 3);
	assert_string_equal(hosts[0].name, "a");
	assert_int_equal(hosts[0].port, 7400);
	assert_string_equal(hosts[2].name, "::1");
	assert_int_equal(hosts[2].port, 2);
	assert_int_equal(host_parse_list("a,b,c,d", 7400, "x", 3, &st, hosts, &n), STATUS_INVALID_ARGUMENT);
	assert_int_equal(host_parse_list("a,,b", 7400, "x", 3, &st, hosts, &n), STATUS_INVALID_ARGUMENT);
	assert_int_equal(host_parse_list("a,", 7400, "x", 3, &st, hosts, &n), STATUS_INVALID_ARGUMENT);
	assert_int_equal(host_parse_list("", 7400, "x", 3, &st, hosts, &n), STATUS_INVALID_ARGUMENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_host_parse_accepts),
		cmocka_unit_test(test_host_parse_refuses),
		cmocka_unit_test(test_host_parse_long_names),
		cmocka_unit_test(test_host_parse_list),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
