// links: service_keydist
#include "tests/support/support.h"

#include <string.h>

#include "services/keydist/derive.h"

/*
 * Computed apart from GnuTLS:
 *
 * import hashlib, hmac, struct
 * H = lambda k, m: hmac.new(k, m, hashlib.sha256).digest()
 * f = lambda b: struct.pack('>I', len(b)) + b
 * group, issuer = b'urn:example:prjA', bytes(range(0xa0, 0xb4))
 * published, nonce = (struct.pack('>Q', t) for t in (1700000000000, 1700000170000))
 * prk = H(hashlib.sha256(b'kds-v2').digest(), bytes(range(64)))
 * print(H(prk, f(b'kds-v2') + f(b'key.example.com') + f(published) + f(nonce) + f(group) + f(issuer) + b'\x01').hex())
 * print((b'\x02' + published + nonce + bytes([len(group)]) + group).hex())
 */
static const uint8_t expected_key[DERIVED_KEY_SIZE] = {
	0xd4, 0x0c, 0xaf, 0x01, 0xa1, 0x21, 0x24, 0xf0, 0x8e, 0xeb, 0x61, 0xb1, 0x17, 0xde, 0xbd, 0x1c,
	0x09, 0xef, 0x64, 0xe1, 0xd2, 0x8e, 0x1d, 0xb2, 0x48, 0x4b, 0xfb, 0x71, 0x55, 0xd4, 0x79, 0x1b,
};
static const uint8_t expected_ident[] = {
	0x02, 0x00, 0x00, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x00, 0x00, 0x00, 0x01, 0x8b, 0xcf, 0xe8, 0x00, 0x10, 0x10,
	0x75, 0x72, 0x6e, 0x3a, 0x65, 0x78, 0x61, 0x6d, 0x70, 0x6c, 0x65, 0x3a, 0x70, 0x72, 0x6a, 0x41,
};

static const struct ident vector_ident = {
	.published_ms = 1700000000000,
	.nonce_ms = 1700000170000,
	.group = "urn:example:prjA",
};

struct inputs {
	uint8_t master[MASTER_KEY_SIZE];
	const char *kds_name;
	struct ident ident;
	uint8_t issuer[20];
};

static struct inputs vector_inputs(void)
{
	struct inputs in = { .kds_name = "key.example.com", .ident = vector_ident };
	for (size_t i = 0; i < sizeof in.master; i++)
		in.master[i] = (uint8_t)i;
	for (size_t i = 0; i < sizeof in.issuer; i++)
		in.issuer[i] = (uint8_t)(0xA0 + i);
	return in;
}

static void derive(const struct inputs *in, size_t issuer_len, uint8_t key[DERIVED_KEY_SIZE])
{
	struct status st;
	struct slice issuer = { in->issuer, issuer_len };
	assert_int_equal(derive_key(in->master, in->kds_name, &in->ident, issuer, &st, key), STATUS_OK);
}

static void test_derive_vector(void **state)
{
	(void)state;
	struct inputs in = vector_inputs();
	uint8_t key[DERIVED_KEY_SIZE];
	derive(&in, sizeof in.issuer, key);
	assert_memory_equal(key, expected_key, sizeof key);
}

static void test_derive_depends_on_each_input(void **state)
{
	(void)state;
	uint8_t keys[7][DERIVED_KEY_SIZE];
	struct inputs in = vector_inputs();
	derive(&in, sizeof in.issuer, keys[0]);
	in.master[63] ^= 1;
	derive(&in, sizeof in.issuer, keys[1]);
	in = vector_inputs();
	in.kds_name = "key.example.co";
	derive(&in, sizeof in.issuer, keys[2]);
	in = vector_inputs();
	in.ident.published_ms++;
	derive(&in, sizeof in.issuer, keys[3]);
	in = vector_inputs();
	in.ident.nonce_ms++;
	derive(&in, sizeof in.issuer, keys[4]);
	in = vector_inputs();
	strcpy(in.ident.group, "urn:example:prjB");
	derive(&in, sizeof in.issuer, keys[5]);
	in = vector_inputs();
	derive(&in, sizeof in.issuer - 1, keys[6]);
	for (size_t i = 0; i < 7; i++)
		for (size_t j = 0; j < i; j++)
			assert_memory_not_equal(keys[i], keys[j], DERIVED_KEY_SIZE);
}

/* Without their lengths these two would be the same bytes. */
static void test_derive_frames_fields(void **state)
{
	(void)state;
	uint8_t a[DERIVED_KEY_SIZE], b[DERIVED_KEY_SIZE];
	struct inputs in = vector_inputs();
	strcpy(in.ident.group, "urn:aa");
	in.issuer[0] = 'b';
	derive(&in, 1, a);
	strcpy(in.ident.group, "urn:aab");
	derive(&in, 0, b);
	assert_memory_not_equal(a, b, DERIVED_KEY_SIZE);
}

static void test_derive_ident_bytes(void **state)
{
	(void)state;
	uint8_t bytes[IDENT_SIZE_MAX];
	assert_int_equal(ident_encode(&vector_ident, bytes), sizeof expected_ident);
	assert_memory_equal(bytes, expected_ident, sizeof expected_ident);
}

static void test_derive_ident_round_trip(void **state)
{
	(void)state;
	struct ident ident = { .published_ms = UINT64_MAX, .nonce_ms = 1 };
	struct ident back;
	struct status st;
	uint8_t bytes[IDENT_SIZE_MAX];
	memset(ident.group, 'x', IDENT_GROUP_MAX);
	memcpy(ident.group, "urn:", 4);
	size_t len = ident_encode(&ident, bytes);
	assert_int_equal(len, IDENT_SIZE_MAX);
	assert_int_equal(ident_decode((struct slice){ bytes, len }, &st, &back), STATUS_OK);
	assert_true(back.published_ms == UINT64_MAX);
	assert_true(back.nonce_ms == 1);
	assert_string_equal(back.group, ident.group);
}

static void refuse(const void *bytes, size_t len)
{
	struct ident ident = { .published_ms = 7 };
	struct status st = { 0 };
	assert_int_equal(ident_decode((struct slice){ bytes, len }, &st, &ident), STATUS_INVALID_ARGUMENT);
	assert_int_equal(st.code, STATUS_INVALID_ARGUMENT);
	assert_true(ident.published_ms == 7);
}

static void test_derive_ident_refuses_what_is_none(void **state)
{
	(void)state;
	uint8_t bytes[sizeof expected_ident + 1];
	for (size_t len = 0; len < sizeof expected_ident; len++)
		refuse(expected_ident, len);
	memcpy(bytes, expected_ident, sizeof expected_ident);
	bytes[sizeof expected_ident] = 'x';
	refuse(bytes, sizeof bytes); /* trailing byte */
	bytes[0] = 1;
	refuse(bytes, sizeof expected_ident); /* version */
	bytes[0] = 2;
	bytes[20] = 0;
	refuse(bytes, sizeof expected_ident); /* NUL in the group */
	bytes[20] = '#';
	refuse(bytes, sizeof expected_ident); /* fragment */
	bytes[20] = '\n';
	refuse(bytes, sizeof expected_ident);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_derive_vector),
		cmocka_unit_test(test_derive_depends_on_each_input),
		cmocka_unit_test(test_derive_frames_fields),
		cmocka_unit_test(test_derive_ident_bytes),
		cmocka_unit_test(test_derive_ident_round_trip),
		cmocka_unit_test(test_derive_ident_refuses_what_is_none),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
