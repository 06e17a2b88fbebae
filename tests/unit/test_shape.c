// links: common_x509 common_base
#include "tests/support/support.h"

#include <string.h>

#include "common/x509/shape.h"

#define OK(bytes) assert_int_equal(check(bytes, sizeof bytes - 1), STATUS_OK)
#define REFUSED(bytes) assert_int_equal(check(bytes, sizeof bytes - 1), STATUS_INVALID_ARGUMENT)

static enum status_code check(const void *bytes, size_t len)
{
	struct status st;
	/* A copy of just this size: what is read beyond it is a sanitizer's. */
	uint8_t *copy = test_malloc(len ? len : 1);
	memcpy(copy, bytes, len);
	enum status_code rc = x509_check_shape((struct slice){ copy, len }, &st);
	test_free(copy);
	return rc;
}

static void test_shape_of_heads(void **state)
{
	(void)state;
	OK("");
	OK("\x30\x00");
	OK("\x30\x03\x02\x01\x05");
	OK("\x30\x81\x03\x02\x01\x05");
	OK("\x30\x83\x00\x00\x03\x02\x01\x05");
	REFUSED("\x30");
	REFUSED("\x30\x01");             /* longer than there is */
	REFUSED("\x30\x03\x02\x02\x05");
	REFUSED("\x30\x80\x02\x01\x05\x00\x00"); /* an indefinite length */
	REFUSED("\x30\x81");
	REFUSED("\x30\x82\x00");
	REFUSED("\x30\x84\x00\x00\x00\x00"); /* more than any certificate has */
	REFUSED("\x1f\x81\x01\x00");         /* a tag of several bytes */
}

/* Extensions are looked into, and nothing in them is taken for another. */
static void test_shape_of_extensions(void **state)
{
	(void)state;
	OK("\x04\x03\xff\xff\xff");
	OK("\x04\x02\x30\x00\x02\x01\x05");
	REFUSED("\x04\x04\x30\x02\x02\x09");
	OK("\x04\x06\x30\x04\x04\x02\x30\xff");
}

static void test_shape_of_many_parts(void **state)
{
	static uint8_t parts[X509_CERTIFICATE_MAX + 1];
	(void)state;
	for (size_t i = 0; i < sizeof parts; i += 2)
		parts[i] = 0x05;
	assert_int_equal(check(parts, 2 * 256), STATUS_OK);
	assert_int_equal(check(parts, 2 * 257), STATUS_INVALID_ARGUMENT);
	/* In an extension there may be as many as names, the sequence around them counted. */
	const size_t most = 256 + X509_NAMES_MAX / X509_NAME_OVERHEAD - 1;
	for (size_t n = most; n <= most + 1; n++) {
		const size_t len = 2 * n;
		const uint8_t heads[] = { 0x04, 0x82, (uint8_t)((len + 4) >> 8), (uint8_t)(len + 4),
					  0x30, 0x82, (uint8_t)(len >> 8), (uint8_t)len };
		memset(parts, 0, sizeof parts);
		memcpy(parts, heads, sizeof heads);
		for (size_t i = 0; i < len; i += 2)
			parts[sizeof heads + i] = 0x05;
		assert_int_equal(check(parts, sizeof heads + len), n == most ? STATUS_OK : STATUS_INVALID_ARGUMENT);
	}
	/* One whole that is long enough. */
	memset(parts, 0, sizeof parts);
	const size_t rest = X509_CERTIFICATE_MAX - 4;
	memcpy(parts, (const uint8_t[]){ 0x02, 0x82, (uint8_t)(rest >> 8), (uint8_t)rest }, 4);
	assert_int_equal(check(parts, X509_CERTIFICATE_MAX), STATUS_OK);
	assert_int_equal(check(parts, X509_CERTIFICATE_MAX + 1), STATUS_INVALID_ARGUMENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shape_of_heads),
		cmocka_unit_test(test_shape_of_extensions),
		cmocka_unit_test(test_shape_of_many_parts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
