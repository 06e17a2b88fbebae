// links: common_rpc common_net kds_proto
#include "tests/support/support.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/base64.h"
#include "common/rpc/json.h"
#include "config.pb-c.h"
#include "rpc.pb-c.h"
#include "serial.pb-c.h"

/* Compact, keys in the order of the fields. The caller frees. */
static char *to_text(const ProtobufCMessage *message, bool all)
{
	json_t *json = NULL;
	struct status st;
	assert_int_equal(json_from_message(message, all, &st, &json), STATUS_OK);
	char *text = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	assert_non_null(text);
	return text;
}

static void expect_json(const ProtobufCMessage *message, bool all, const char *want)
{
	char *text = to_text(message, all);
	assert_string_equal(text, want);
	free(text);
}

static enum status_code from_text(const ProtobufCMessageDescriptor *type, const char *text, struct arena *arena,
				  struct status *st, ProtobufCMessage **ret_message)
{
	json_t *json = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	assert_non_null(json);
	enum status_code rc = json_to_message(type, json, arena, st, ret_message);
	json_decref(json);
	return rc;
}

static void expect_refused(const ProtobufCMessageDescriptor *type, const char *text, const char *message)
{
	struct arena *arena = arena_new(65536);
	struct status st;
	ProtobufCMessage *m = NULL;
	assert_int_equal(from_text(type, text, arena, &st, &m), STATUS_INVALID_ARGUMENT);
	assert_string_equal(st.message, message);
	assert_null(m);
	arena_free(arena);
}

#define ANY_UINT64 "takes a whole number from 0 to 18446744073709551615"
#define REFUSED(type, text, message) expect_refused(&kds__v1__##type##__descriptor, (text), (message))

static void test_json_from_scalars(void **state)
{
	(void)state;
	Kds__V1__IssuedCertificate c = KDS__V1__ISSUED_CERTIFICATE__INIT;
	c.serial = UINT64_MAX;
	c.not_before = INT64_MIN;
	uint8_t fingerprint[] = { 0xFF, 0xEF, 0xBE, 0x00 };
	c.fingerprint = (ProtobufCBinaryData){ .data = fingerprint, .len = sizeof fingerprint };
	c.subject = "node\"1\n\xC3\xA4";
	expect_json(&c.base, false,
		    "{\"serial\":\"18446744073709551615\",\"fingerprint\":\"/+++AA==\","
		    "\"subject\":\"node\\\"1\\n\xC3\xA4\",\"notBefore\":\"-9223372036854775808\"}");
}

static void test_json_defaults_are_left_out_or_shown(void **state)
{
	(void)state;
	Kds__V1__Member m = KDS__V1__MEMBER__INIT;
	expect_json(&m.base, false, "{}");
	expect_json(&m.base, true,
		    "{\"id\":\"0\",\"address\":\"\",\"rpcAddress\":\"\","
		    "\"voter\":false,\"reachable\":false,\"ageMs\":0,\"name\":\"\",\"clockOffsetMs\":\"0\",\"clockKnown\":false}");
	Kds__V1__ListResponse list = KDS__V1__LIST_RESPONSE__INIT;
	expect_json(&list.base, true, "{\"objects\":[],\"revision\":\"0\",\"more\":false}");
}

static void test_json_enums_by_name(void **state)
{
	(void)state;
	Kds__V1__ReplicaStatus s = KDS__V1__REPLICA_STATUS__INIT;
	s.role = KDS__V1__RAFT_ROLE__RAFT_ROLE_LEADER;
	expect_json(&s.base, false, "{\"role\":\"RAFT_ROLE_LEADER\"}");
	s.role = (Kds__V1__RaftRole)77;
	expect_json(&s.base, false, "{\"role\":77}");
	Kds__V1__Response r = KDS__V1__RESPONSE__INIT;
	r.code = KDS__V1__CODE__NOT_FOUND;
	expect_json(&r.base, false, "{\"code\":\"NOT_FOUND\"}");
}

static void test_json_oneof_shows_the_set_member(void **state)
{
	(void)state;
	Kds__V1__SetMinRequest r = KDS__V1__SET_MIN_REQUEST__INIT;
	expect_json(&r.base, true, "{}");
	r.value_case = KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL;
	expect_json(&r.base, false, "{\"minSerial\":\"0\"}");
	r.value_case = KDS__V1__SET_MIN_REQUEST__VALUE_LATEST;
	r.latest = 1;
	expect_json(&r.base, false, "{\"latest\":true}");
	Kds__V1__MinSerial min = KDS__V1__MIN_SERIAL__INIT;
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_MIN_SERIAL;
	o.min_serial = &min;
	expect_json(&o.base, false, "{\"minSerial\":{}}");
}

static void test_json_bad_text_is_an_error(void **state)
{
	(void)state;
	Kds__V1__GetRequest r = KDS__V1__GET_REQUEST__INIT;
	r.key = "\xFF";
	json_t *json = NULL;
	struct status st;
	assert_int_equal(json_from_message(&r.base, false, &st, &json), STATUS_INTERNAL);
	assert_null(json);
}

static void test_json_to_message_reads_all_forms(void **state)
{
	(void)state;
	static const char text[] =
	    "{\"object\":{\"key\":null,\"certificateAuthority\":{\"name\":\"a\",\"certificate\":\"_-A=\","
	    "\"sealed_key\":\"/+A\",\"retired\":true}},\"checkRevision\":true,"
	    "\"expected_revision\":\"18446744073709551615\"}";
	struct arena *arena = arena_new(65536);
	struct status st;
	ProtobufCMessage *m = NULL;
	assert_int_equal(from_text(&kds__v1__put_request__descriptor, text, arena, &st, &m), STATUS_OK);
	const Kds__V1__PutRequest *put = (const Kds__V1__PutRequest *)m;
	assert_true(put->expected_revision == UINT64_MAX);
	assert_int_equal(put->object->value_case, KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY);
	const Kds__V1__CertificateAuthority *ca = put->object->certificate_authority;
	assert_int_equal(ca->certificate.len, 2);
	assert_memory_equal(ca->certificate.data, "\xFF\xE0", 2);
	assert_int_equal(ca->sealed_key.len, 2);
	assert_true(ca->retired);
	/* what came from JSON packs like any other message */
	size_t size = protobuf_c_message_get_packed_size(m);
	assert_true(size > 0);

	assert_int_equal(from_text(&kds__v1__issued_certificate__descriptor,
				   "{\"serial\":12,\"notBefore\":\"-3\",\"notAfter\":1e3}", arena, &st, &m), STATUS_OK);
	const Kds__V1__IssuedCertificate *c = (const Kds__V1__IssuedCertificate *)m;
	assert_true(c->serial == 12 && c->not_before == -3 && c->not_after == 1000);

	assert_int_equal(from_text(&kds__v1__replica_status__descriptor, "{\"role\":2}", arena, &st, &m), STATUS_OK);
	assert_int_equal(((const Kds__V1__ReplicaStatus *)m)->role, 2);
	assert_int_equal(from_text(&kds__v1__replica_status__descriptor, "{\"role\":\"RAFT_ROLE_LEADER\"}", arena, &st,
				   &m), STATUS_OK);
	assert_int_equal(((const Kds__V1__ReplicaStatus *)m)->role, 3);
	arena_free(arena);
}

static void test_json_round_trip(void **state)
{
	(void)state;
	static const char text[] =
	    "{\"objects\":[{\"key\":\"node/n\",\"revision\":\"9\",\"node\":{\"name\":\"n\","
	    "\"addresses\":[\"192.0.2.1\",\"::1\"],\"groups\":[\"g\"]}},"
	    "{\"deleted\":true,\"setting\":{\"name\":\"s\",\"value\":\"v\"}}],\"revision\":\"9\",\"more\":true}";
	struct arena *arena = arena_new(65536);
	struct status st;
	ProtobufCMessage *m = NULL;
	assert_int_equal(from_text(&kds__v1__list_response__descriptor, text, arena, &st, &m), STATUS_OK);
	expect_json(m, false, text);
	arena_free(arena);
}

static void test_json_refusals_name_the_field(void **state)
{
	(void)state;
	REFUSED(put_request, "[]", "PutRequest takes an object, got a list");
	REFUSED(put_request, "{\"objec\":{}}", "PutRequest has no field \"objec\"");
	REFUSED(put_request, "{\"object\":{\"node\":{\"groups\":[\"a\",7]}}}",
		"object.node.groups[1] takes a string, got a number");
	REFUSED(put_request, "{\"object\":{\"node\":{\"groups\":\"a\"}}}",
		"object.node.groups takes a list, got a string");
	REFUSED(put_request, "{\"object\":{\"nodes\":1}}", "object has no field \"nodes\"");
	REFUSED(put_request, "{\"checkRevision\":1}", "check_revision takes true or false, got a number");
	REFUSED(put_request, "{\"checkRevision\":true,\"check_revision\":true}", "check_revision given more than once");
	REFUSED(put_request, "{\"object\":{\"masterKey\":{\"sealedKey\":\"a*b=\"}}}",
		"object.master_key.sealed_key takes base64");
	REFUSED(set_min_request, "{\"latest\":true,\"all\":true}", "all excludes another field given before");
	REFUSED(set_min_request, "{\"minSerial\":-1}", "min_serial " ANY_UINT64);
	REFUSED(set_min_request, "{\"minSerial\":\"18446744073709551616\"}",
		"min_serial " ANY_UINT64);
	REFUSED(set_min_request, "{\"minSerial\":\" 1\"}", "min_serial " ANY_UINT64);
	REFUSED(set_min_request, "{\"minSerial\":\"\"}", "min_serial " ANY_UINT64);
	REFUSED(set_min_request, "{\"minSerial\":1.5}", "min_serial " ANY_UINT64);
	REFUSED(set_min_request, "{\"minSerial\":true}", "min_serial takes a whole number, got true or false");
	REFUSED(allocate_request, "{\"count\":4294967296}", "count takes a whole number from 0 to 4294967295");
	REFUSED(allocate_request, "{\"count\":4294967296.0}", "count takes a whole number from 0 to 4294967295");
	REFUSED(get_request, "{\"key\":\"a\\u0000b\"}", "key takes a string without a NUL");
	REFUSED(replica_status, "{\"role\":\"LEADER\"}",
		"role takes one of RAFT_ROLE_UNKNOWN, RAFT_ROLE_FOLLOWER, RAFT_ROLE_CANDIDATE, RAFT_ROLE_LEADER");
	REFUSED(replica_status, "{\"role\":4}",
		"role takes one of RAFT_ROLE_UNKNOWN, RAFT_ROLE_FOLLOWER, RAFT_ROLE_CANDIDATE, RAFT_ROLE_LEADER");
}

static void test_json_over_budget(void **state)
{
	(void)state;
	struct arena *arena = arena_new(64);
	struct status st;
	ProtobufCMessage *m = NULL;
	assert_int_equal(from_text(&kds__v1__put_request__descriptor, "{\"object\":{\"node\":{}}}", arena, &st, &m),
			 STATUS_RESOURCE_EXHAUSTED);
	arena_free(arena);
}

static void test_json_base64(void **state)
{
	(void)state;
	/* RFC 4648 §10 */
	static const char *const plain[] = { "", "f", "fo", "foo", "foob", "fooba", "foobar" };
	static const char *const coded[] = { "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy" };
	char text[16];
	uint8_t bytes[16];
	size_t len;
	for (size_t i = 0; i < 7; i++) {
		base64_encode((struct slice){ plain[i], strlen(plain[i]) }, text);
		assert_string_equal(text, coded[i]);
		assert_int_equal(base64_encoded_length(strlen(plain[i])), strlen(coded[i]));
		assert_true(base64_decode((struct slice){ coded[i], strlen(coded[i]) }, bytes, &len));
		assert_int_equal(len, strlen(plain[i]));
		assert_memory_equal(bytes, plain[i], len);
	}
	static const char *const wrong[] = { "Z", "Zg=", "Zh==", "Zm9=", "====", "Zg==Zg==", "Zm 9", "Zm9vYg=a" };
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		assert_false(base64_decode((struct slice){ wrong[i], strlen(wrong[i]) }, bytes, &len));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_json_from_scalars),
		cmocka_unit_test(test_json_defaults_are_left_out_or_shown),
		cmocka_unit_test(test_json_enums_by_name),
		cmocka_unit_test(test_json_oneof_shows_the_set_member),
		cmocka_unit_test(test_json_bad_text_is_an_error),
		cmocka_unit_test(test_json_to_message_reads_all_forms),
		cmocka_unit_test(test_json_round_trip),
		cmocka_unit_test(test_json_refusals_name_the_field),
		cmocka_unit_test(test_json_over_budget),
		cmocka_unit_test(test_json_base64),
	};
	return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
