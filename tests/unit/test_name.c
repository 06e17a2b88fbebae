// links: common_x509
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/x509/name.h"

static void test_name_accepts_host_names(void **state)
{
	(void)state;
	const char *good[] = { "localhost", "node1.example.com", "a-b.c3", "1host.example", "xn--bcher-kva.example" };
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		assert_int_equal(x509_check_dns_name(good[i], "node", NULL), STATUS_OK);
}

static void test_name_refuses_other_names(void **state)
{
	(void)state;
	const char *bad[] = { "",	"Node1.example.com", "node1.example.com.", ".example.com", "a..b",     "-a.example",
			      "a-.example", "*.example.com",	 "a_b.example",	       "a b",	       "10.0.0.1", "node.42",
			      "caf\xc3\xa9.example", "a/b", "a\n" };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct status st = { 0 };
		assert_int_equal(x509_check_dns_name(bad[i], "node.name", &st), STATUS_INVALID_ARGUMENT);
		assert_non_null(strstr(st.message, "node.name"));
	}
}

static void test_name_knows_the_limits_of_length(void **state)
{
	(void)state;
	char name[300];
	memset(name, 'a', sizeof name);
	name[63] = '\0';
	assert_int_equal(x509_check_dns_name(name, "name", NULL), STATUS_OK);
	name[63] = 'a';
	name[64] = '\0';
	assert_int_equal(x509_check_dns_name(name, "name", NULL), STATUS_INVALID_ARGUMENT);
	memset(name, 'a', sizeof name);
	for (size_t i = 50; i < sizeof name; i += 50)
		name[i] = '.';
	name[253] = '\0';
	assert_int_equal(x509_check_dns_name(name, "name", NULL), STATUS_OK);
	name[253] = 'a';
	name[254] = '\0';
	assert_int_equal(x509_check_dns_name(name, "name", NULL), STATUS_INVALID_ARGUMENT);
}

static void test_name_parses_addresses(void **state)
{
	(void)state;
	uint8_t bytes[16];
	unsigned len = 0;
	assert_int_equal(x509_parse_address("192.0.2.7", NULL, bytes, &len), STATUS_OK);
	assert_int_equal(len, 4);
	assert_memory_equal(bytes, "\xc0\x00\x02\x07", 4);
	assert_int_equal(x509_parse_address("2001:db8::1", NULL, bytes, &len), STATUS_OK);
	assert_int_equal(len, 16);
	assert_memory_equal(bytes, "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01", 16);
	const char *bad[] = { "", "192.0.2", "192.0.2.256", "192.0.2.1/24", "fe80::1%eth0", "node1" };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(x509_parse_address(bad[i], NULL, bytes, &len), STATUS_INVALID_ARGUMENT);
	assert_int_equal(len, 16);
}

static void test_name_parses_groups(void **state)
{
	(void)state;
	static const struct {
		const char *uri;
		unsigned len;
		uint64_t ms;
	} good[] = {
		{ "urn:example:prjA", 16, 1 },		 { "urn:example:prjA#10s", 16, 10000 },
		{ "http://example.org/prjA#1ms", 23, 1 }, { "urn:x:a#7d", 7, 604800000 },
		{ "urn:x:a#168h", 7, 604800000 },	 { "urn:x:a#604800000ms", 7, 604800000 },
		{ "urn:x:a%20b#2m", 11, 120000 },	 { "kdsx:a", 6, 1 },
	};
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		unsigned len = 0;
		uint64_t ms = 0;
		assert_int_equal(x509_parse_group(good[i].uri, NULL, &len, &ms), STATUS_OK);
		assert_int_equal(len, good[i].len);
		assert_int_equal(ms, good[i].ms);
		assert_int_equal(x509_parse_group(good[i].uri, NULL, NULL, NULL), STATUS_OK);
	}
}

static void test_name_refuses_what_is_no_group(void **state)
{
	(void)state;
	const char *bad[] = { "",	      "urn",	      "urn:",	       ":x",	     "1urn:x",	   "urn:x y",
			      "urn:x\n",      "urn:caf\xc3\xa9", "urn:x%2",    "urn:x%zz",   "urn:x#",	   "urn:x#0s",
			      "urn:x#s",      "urn:x#10",     "urn:x#10y",     "urn:x#010s", "urn:x#8d",   "urn:x#604800001ms",
			      "urn:x#1s#1s",  "kds://c/role/admin/a", "KDS:x", "#10s",	     "urn:#10s",   "/relative",
			      "urn:x#99999999999999999999s", "urn:x#-1s", "urn:x\"y", "urn:<x>" };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (x509_parse_group(bad[i], NULL, NULL, NULL) != STATUS_INVALID_ARGUMENT)
			fail_msg("taken for a group: %s", bad[i]);
	}
	char uri[300] = "urn:x:";
	memset(uri + 6, 'a', sizeof uri - 6);
	uri[255] = '\0';
	assert_int_equal(x509_parse_group(uri, NULL, NULL, NULL), STATUS_OK);
	uri[255] = 'a';
	uri[256] = '\0';
	assert_int_equal(x509_parse_group(uri, NULL, NULL, NULL), STATUS_INVALID_ARGUMENT);
}

static void test_name_matches_groups_without_fragment(void **state)
{
	(void)state;
	assert_true(x509_group_matches("urn:x:a#10s", "urn:x:a"));
	assert_true(x509_group_matches("urn:x:a", "urn:x:a"));
	assert_false(x509_group_matches("urn:x:a#10s", "urn:x:a#10s"));
	assert_false(x509_group_matches("urn:x:ab#10s", "urn:x:a"));
	assert_false(x509_group_matches("urn:x:a", "urn:x:ab"));
	assert_false(x509_group_matches("urn:x:a#10s", ""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_name_accepts_host_names),
		cmocka_unit_test(test_name_refuses_other_names),
		cmocka_unit_test(test_name_knows_the_limits_of_length),
		cmocka_unit_test(test_name_parses_addresses),
		cmocka_unit_test(test_name_parses_groups),
		cmocka_unit_test(test_name_refuses_what_is_no_group),
		cmocka_unit_test(test_name_matches_groups_without_fragment),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
