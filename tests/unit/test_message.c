// links: common_rpc common_net kds_proto
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/envelope.h"
#include "common/rpc/message.h"
#include "common/rpc/registry.h"
#include "common/rpc/wire.h"
#include "config.pb-c.h"
#include "rpc.pb-c.h"
#include "serial.pb-c.h"
#include "state.pb-c.h"

#define BUDGET (1 << 20)

struct unpacked {
	struct arena *arena;
	enum status_code code;
	struct status st;
	char field[128];
	const ProtobufCMessage *message;
};

static struct unpacked unpack_within(const ProtobufCMessageDescriptor *type, const void *data, size_t len,
				     size_t budget)
{
	struct unpacked u = { .arena = arena_new(budget) };
	assert_non_null(u.arena);
	/* Behind the end nothing may be read: a copy of exactly this size shows it to ASan. */
	uint8_t *copy = malloc(len ? len : 1);
	assert_non_null(copy);
	if (len > 0)
		memcpy(copy, data, len);
	struct slice wire = { .data = copy, .len = len };
	u.code = message_unpack(type, wire, u.arena, &u.st, u.field, sizeof u.field, &u.message);
	free(copy);
	return u;
}

static struct unpacked unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t len)
{
	return unpack_within(type, data, len, BUDGET);
}

static void expect_refused(const ProtobufCMessageDescriptor *type, const void *data, size_t len, const char *field,
			   const char *reason)
{
	struct unpacked u = unpack(type, data, len);
	assert_int_equal(u.code, STATUS_INVALID_ARGUMENT);
	assert_string_equal(u.field, field);
	if (!strstr(u.st.message, reason))
		fail_msg("\"%s\" does not say \"%s\"", u.st.message, reason);
	arena_free(u.arena);
}

#define REFUSED(type, bytes, field, reason) \
	expect_refused(&kds__v1__##type##__descriptor, (bytes), sizeof(bytes) - 1, (field), (reason))

static void test_message_round_trip(void **state)
{
	(void)state;
	char *addresses[] = { "192.0.2.1", "2001:db8::1" };
	char *groups[] = { "urn:x:prjA#10s", "urn:x:\xC3\xA4\xE2\x82\xAC\xF0\x9F\x94\x91" };
	Kds__V1__Node node = KDS__V1__NODE__INIT;
	node.name = "node1.example.com";
	node.n_addresses = node.n_groups = 2;
	node.addresses = addresses;
	node.groups = groups;
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.value_case = KDS__V1__OBJECT__VALUE_NODE;
	object.node = &node;
	object.revision = UINT64_MAX;
	Kds__V1__PutRequest put = KDS__V1__PUT_REQUEST__INIT;
	put.object = &object;
	put.check_revision = 1;

	struct buffer packed = { .len = 0 };
	assert_true(buffer_append(&packed, "before", 6));
	assert_int_equal(message_pack(&put.base, &packed, NULL), STATUS_OK);
	assert_memory_equal(packed.data, "before", 6);
	struct unpacked u = unpack(&kds__v1__put_request__descriptor, packed.data + 6, packed.len - 6);
	buffer_free(&packed);
	assert_int_equal(u.code, STATUS_OK);
	const Kds__V1__PutRequest *got = (const Kds__V1__PutRequest *)u.message;
	assert_true(got->check_revision);
	assert_true(got->object->revision == UINT64_MAX);
	assert_int_equal(got->object->value_case, KDS__V1__OBJECT__VALUE_NODE);
	assert_string_equal(got->object->node->groups[1], groups[1]);
	assert_int_equal(got->object->node->n_addresses, 2);
	arena_free(u.arena);
}

static void test_message_empty_is_all_defaults(void **state)
{
	(void)state;
	struct unpacked u = unpack(&kds__v1__get_request__descriptor, NULL, 0);
	assert_int_equal(u.code, STATUS_OK);
	assert_string_equal(((const Kds__V1__GetRequest *)u.message)->key, "");
	arena_free(u.arena);
	u = unpack(&kds__v1__view_request__descriptor, NULL, 0); /* a type without fields */
	assert_int_equal(u.code, STATUS_OK);
	arena_free(u.arena);
}

static void test_message_text_is_checked(void **state)
{
	(void)state;
	REFUSED(get_request, "\x0A\x03" "a\0b", "key", "NUL");
	REFUSED(get_request, "\x0A\x02\xC0\x80", "key", "UTF-8");         /* overlong NUL */
	REFUSED(get_request, "\x0A\x03\xED\xA0\x80", "key", "UTF-8");     /* surrogate */
	REFUSED(get_request, "\x0A\x04\xF4\x90\x80\x80", "key", "UTF-8"); /* above U+10FFFF */
	REFUSED(get_request, "\x0A\x03\xE0\x9F\xBF", "key", "UTF-8");     /* overlong */
	REFUSED(get_request, "\x0A\x04\xF0\x8F\xBF\xBF", "key", "UTF-8"); /* overlong */
	REFUSED(get_request, "\x0A\x01\x80", "key", "UTF-8");
	REFUSED(get_request, "\x0A\x01\xC3", "key", "UTF-8"); /* cut off */
	REFUSED(get_request, "\x0A\x03\xE2\x82" "a", "key", "UTF-8");
	/* the bounds of each range are text */
	static const char good[] = "\x0A\x13" "\x01\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xF4\x8F\xBF\xBF" "abc";
	struct unpacked u = unpack(&kds__v1__get_request__descriptor, good, sizeof good - 1);
	assert_int_equal(u.code, STATUS_OK);
	arena_free(u.arena);
}

static void test_message_path_names_nested_field(void **state)
{
	(void)state;
	/* PutRequest.object(1).node(11): addresses(2) "a", groups(3) "b", groups(3) 0xFF */
	REFUSED(put_request, "\x0A\x0B\x5A\x09\x12\x01" "a" "\x1A\x01" "b" "\x1A\x01\xFF", "object.node.groups[1]",
		"UTF-8");
	/* ListResponse.objects(1): one good, one whose key is bad */
	REFUSED(list_response, "\x0A\x03\x0A\x01" "k" "\x0A\x03\x0A\x01\xFF", "objects[1].key", "UTF-8");
}

static void test_message_wrong_wire_type(void **state)
{
	(void)state;
	REFUSED(get_request, "\x08\x01", "key", "wrong type");                 /* a number for a string */
	REFUSED(get_request, "\x12\x01\x01", "local", "wrong type");           /* bytes for a bool */
	REFUSED(get_request, "\x15\x01\x00\x00\x00", "local", "wrong type");   /* fixed32 for a bool */
	REFUSED(list_response, "\x08\x01", "objects[0]", "wrong type");
}

static void test_message_malformed(void **state)
{
	(void)state;
	REFUSED(get_request, "\x0A", "", "not a protobuf");
	REFUSED(get_request, "\x0A\x05" "abc", "", "not a protobuf");                        /* longer than the rest */
	REFUSED(get_request, "\x0A\xFF\xFF\xFF\xFF\x0F", "", "not a protobuf");              /* 4 GiB */
	REFUSED(get_request, "\x10\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "", "not a protobuf"); /* 11 bytes */
	REFUSED(get_request, "\x02\x00", "", "not a protobuf");                              /* field 0 */
	REFUSED(get_request, "\x0B\x0C", "", "not a protobuf");                              /* a group */
	REFUSED(get_request, "\x8A\x80\x80\x80\x10\x01" "a", "", "not a protobuf");          /* a tag above 32 bits */
	REFUSED(get_request, "\x51\x01\x02", "", "not a protobuf");                          /* unknown and cut off */
	REFUSED(put_request, "\x0A\x01\x0A", "object", "not a protobuf");
}

static void test_message_once_only(void **state)
{
	(void)state;
	REFUSED(get_request, "\x0A\x01" "a" "\x0A\x01" "b", "key", "more than once");
	REFUSED(put_request, "\x0A\x00\x0A\x00", "object", "more than once");
	/* SetMinRequest: two members of its oneof */
	REFUSED(set_min_request, "\x08\x05\x18\x01", "all", "more than once");
	REFUSED(object, "\x52\x00\x62\x00", "certificate_authority", "more than once");
}

static void test_message_unknown_enum(void **state)
{
	(void)state;
	REFUSED(replica_status, "\x10\x09", "role", "9 is no value of RaftRole");
	REFUSED(replica_status, "\x10\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "role", "-1 is no value");
	struct unpacked u = unpack(&kds__v1__replica_status__descriptor, "\x10\x03", 2);
	assert_int_equal(u.code, STATUS_OK);
	assert_int_equal(((const Kds__V1__ReplicaStatus *)u.message)->role, KDS__V1__RAFT_ROLE__RAFT_ROLE_LEADER);
	arena_free(u.arena);
}

static void test_message_unknown_fields_are_dropped(void **state)
{
	(void)state;
	/* unknown fields of each wire type around and inside a nested message, a repeated one and a oneof */
	static const char wire[] = "\x0A\x0C" "\xFA\x01\x01" "x" "\x5A\x06\x0A\x01" "n" "\xF8\x01\x07"
				   "\xF9\x01" "12345678" "\xFD\x01" "1234";
	struct unpacked u = unpack(&kds__v1__put_request__descriptor, wire, sizeof wire - 1);
	assert_int_equal(u.code, STATUS_OK);
	const Kds__V1__PutRequest *put = (const Kds__V1__PutRequest *)u.message;
	assert_int_equal(put->base.n_unknown_fields, 0);
	assert_int_equal(put->object->base.n_unknown_fields, 0);
	assert_string_equal(put->object->node->name, "n");
	assert_int_equal(put->object->node->base.n_unknown_fields, 0);
	assert_int_equal(protobuf_c_message_get_packed_size(&put->base), 7);
	arena_free(u.arena);
	static const char list[] = "\x0A\x03\xF8\x01\x07" "\x0A\x03\x0A\x01" "k" "\xF8\x01\x07";
	u = unpack(&kds__v1__list_response__descriptor, list, sizeof list - 1);
	assert_int_equal(u.code, STATUS_OK);
	const Kds__V1__ListResponse *response = (const Kds__V1__ListResponse *)u.message;
	assert_int_equal(response->n_objects, 2);
	assert_int_equal(response->objects[0]->base.n_unknown_fields, 0);
	arena_free(u.arena);
}

static void test_message_too_many_elements(void **state)
{
	(void)state;
	size_t n = MESSAGE_MAX_ELEMENTS + 1;
	uint8_t *wire = malloc(2 * n);
	assert_non_null(wire);
	for (size_t i = 0; i < n; i++)
		memcpy(wire + 2 * i, "\x12\x00", 2); /* WatchRequest.prefixes */
	struct unpacked u = unpack_within(&kds__v1__watch_request__descriptor, wire, 2 * n, 64 << 20);
	assert_int_equal(u.code, STATUS_INVALID_ARGUMENT);
	assert_string_equal(u.field, "prefixes[65536]");
	arena_free(u.arena);
	u = unpack_within(&kds__v1__watch_request__descriptor, wire, 2 * (n - 1), 64 << 20);
	assert_int_equal(u.code, STATUS_OK);
	arena_free(u.arena);
	/* the same bytes within less memory than they take */
	u = unpack_within(&kds__v1__watch_request__descriptor, wire, 2 * (n - 1), 1 << 20);
	assert_int_equal(u.code, STATUS_RESOURCE_EXHAUSTED);
	arena_free(u.arena);
	free(wire);
}

/* Whatever the budget, unpacking ends in order. */
static void test_message_any_budget(void **state)
{
	(void)state;
	static const char wire[] = "\x0A\x0C" "\xFA\x01\x01" "x" "\x5A\x06\x0A\x01" "n" "\xF8\x01\x07" "\xF8\x01\x07";
	bool done = false;
	for (size_t budget = 0; !done && budget < 8192; budget += 8) {
		struct unpacked u = unpack_within(&kds__v1__put_request__descriptor, wire, sizeof wire - 1, budget);
		done = u.code == STATUS_OK;
		if (!done)
			assert_int_equal(u.code, STATUS_RESOURCE_EXHAUSTED);
		arena_free(u.arena);
	}
	assert_true(done);
}

/* After the walk protobuf-c may not find anything else to refuse: each mutation is OK or INVALID_ARGUMENT. */
static void test_message_mutations(void **state)
{
	(void)state;
	static const uint8_t seed[] = "\x0A\x12\x50\x05\x5A\x0E\x0A\x02n1\x12\x02" "a1\x1A\x04" "b123"
				      "\x10\x01\x18\x07";
	uint8_t wire[sizeof seed - 1];
	uint32_t random = 12345;
	for (int round = 0; round < 20000; round++) {
		memcpy(wire, seed, sizeof wire);
		for (int i = 0; i < 1 + round % 4; i++) {
			random = random * 1664525 + 1013904223;
			wire[(random >> 8) % sizeof wire] = (uint8_t)(random >> 24);
		}
		random = random * 1664525 + 1013904223;
		size_t len = round % 3 ? sizeof wire : (random >> 16) % sizeof wire;
		struct unpacked u = unpack(&kds__v1__put_request__descriptor, wire, len);
		assert_true(u.code == STATUS_OK || u.code == STATUS_INVALID_ARGUMENT);
		arena_free(u.arena);
	}
}

static void test_envelope_sp_header(void **state)
{
	(void)state;
	uint8_t frame[64] = { 0 };
	frame[32] = 0x80;
	assert_int_equal(sp_header_length((struct slice){ frame, sizeof frame }), 0); /* nine words: dropped */
	frame[28] = 0x80;
	assert_int_equal(sp_header_length((struct slice){ frame, sizeof frame }), 32);
	frame[4] = 0xFF;
	assert_int_equal(sp_header_length((struct slice){ frame, sizeof frame }), 8);
	assert_int_equal(sp_header_length((struct slice){ frame, 8 }), 8);
	assert_true(sp_header_length((struct slice){ frame, 7 }) == SIZE_MAX);
	assert_true(sp_header_length((struct slice){ frame, 0 }) == SIZE_MAX);
	uint8_t id[4];
	sp_put_id(id, 0x80ABCDEF);
	assert_int_equal(sp_id(id), 0x80ABCDEF);
}

/* What is written by hand is what the generated code reads, and the other way round. */
static void test_envelope_matches_generated_code(void **state)
{
	(void)state;
	struct request_envelope request = {
		.method = { "Serial.Show", 11 },
		.payload = { "\0payload", 8 },
		.request_id = { "0123456789abcdef", 16 },
		.trace_id = { "trace", 5 },
	};
	struct buffer wire = { .len = 0 };
	assert_true(request_pack(&request, &wire));
	uint8_t timeout[REQUEST_TIMEOUT_MAX];
	assert_true(buffer_append(&wire, timeout, request_pack_timeout(UINT32_MAX, timeout)));
	Kds__V1__Request *generated = kds__v1__request__unpack(NULL, wire.len, wire.data);
	assert_non_null(generated);
	assert_string_equal(generated->method, "Serial.Show");
	assert_int_equal(generated->payload.len, 8);
	assert_true(generated->timeout_ms == UINT32_MAX);
	assert_string_equal(generated->trace_id, "trace");
	assert_null(generated->on_behalf_of);
	wire.len = 0;
	assert_int_equal(message_pack(&generated->base, &wire, NULL), STATUS_OK);
	kds__v1__request__free_unpacked(generated, NULL);
	struct request_envelope parsed;
	struct status st;
	assert_int_equal(request_parse((struct slice){ wire.data, wire.len }, &st, &parsed), STATUS_OK);
	assert_int_equal(parsed.payload.len, 8);
	assert_memory_equal(parsed.request_id.data, "0123456789abcdef", 16);
	assert_false(parsed.forwarded);

	struct response_envelope response = {
		.code = STATUS_INVALID_ARGUMENT,
		.message = { "wrong", 5 },
		.field = { "object.key", 10 },
		.ask = { "host:7400", 9 },
		.retry_after_ms = 350,
		.payload = { "xyz", 3 },
	};
	uint8_t head[RESPONSE_HEAD_MAX];
	wire.len = 0;
	assert_true(buffer_append(&wire, head, response_pack_head(&response, head)));
	assert_true(buffer_append(&wire, "xyz", 3));
	Kds__V1__Response *answer = kds__v1__response__unpack(NULL, wire.len, wire.data);
	assert_non_null(answer);
	assert_int_equal(answer->code, KDS__V1__CODE__INVALID_ARGUMENT);
	assert_string_equal(answer->message, "wrong");
	assert_int_equal(answer->n_details, 1);
	assert_string_equal(answer->details[0]->field, "object.key");
	assert_string_equal(answer->details[0]->ask, "host:7400");
	assert_int_equal(answer->details[0]->retry_after_ms, 350);
	assert_memory_equal(answer->payload.data, "xyz", 3);
	kds__v1__response__free_unpacked(answer, NULL);
	struct response_envelope back;
	assert_int_equal(response_parse((struct slice){ wire.data, wire.len }, &st, &back), STATUS_OK);
	assert_int_equal(back.code, STATUS_INVALID_ARGUMENT);
	assert_int_equal(back.field.len, 10);
	assert_int_equal(back.ask.len, 9);
	assert_int_equal(back.retry_after_ms, 350);
	buffer_free(&wire);
}

static enum status_code parse_request(const char *bytes, size_t len)
{
	struct request_envelope request;
	struct status st;
	return request_parse((struct slice){ bytes, len }, &st, &request);
}
#define PARSE(bytes) parse_request((bytes), sizeof(bytes) - 1)

static void test_envelope_request_is_checked(void **state)
{
	(void)state;
	assert_int_equal(PARSE("\x0A\x03" "A.B"), STATUS_OK);
	assert_int_equal(PARSE("\x0A\x03" "A.B" "\x7A\x01" "?"), STATUS_OK); /* unknown field */
	assert_int_equal(PARSE("\x0A\x03" "A.B" "\x0A\x03" "A.C"), STATUS_INVALID_ARGUMENT);
	assert_int_equal(PARSE("\x0A\x03" "A\0B"), STATUS_INVALID_ARGUMENT);
	assert_int_equal(PARSE("\x08\x03"), STATUS_INVALID_ARGUMENT);
	assert_int_equal(PARSE("\x0A\x03" "A."), STATUS_INVALID_ARGUMENT);
	assert_int_equal(PARSE("\x22\x21" "123456789012345678901234567890123"), STATUS_INVALID_ARGUMENT);
	assert_int_equal(PARSE("\x2A\x01\xFF"), STATUS_INVALID_ARGUMENT);
}

static void test_envelope_response_message_is_cut_at_a_character(void **state)
{
	(void)state;
	char message[600];
	for (size_t i = 0; i + 1 < sizeof message; i += 2)
		memcpy(message + i, "\xC3\xA4", 2);
	message[0] = 'x'; /* odd offset: 512 falls inside a character */
	memmove(message + 1, "\xC3\xA4", 2);
	for (size_t i = 1; i + 1 < sizeof message; i += 2)
		memcpy(message + i, "\xC3\xA4", 2);
	struct response_envelope response = { .code = STATUS_INTERNAL, .message = { message, sizeof message - 1 } };
	uint8_t head[RESPONSE_HEAD_MAX];
	size_t len = response_pack_head(&response, head);
	struct response_envelope back;
	struct status st;
	assert_int_equal(response_parse((struct slice){ head, len }, &st, &back), STATUS_OK);
	assert_int_equal(back.message.len, 511);
}

static void test_envelope_caller(void **state)
{
	(void)state;
	struct identity *id = identity_new();
	assert_non_null(id);
	id->roles = PEER_ADMIN;
	memcpy(id->serial, "\x01\x02", 2);
	id->serial_len = 2;
	struct buffer wire = { .len = 0 };
	assert_true(caller_pack(id, &wire));
	identity_unref(id);
	struct identity *back = NULL;
	struct status st;
	assert_int_equal(caller_parse((struct slice){ wire.data, wire.len }, &st, &back), STATUS_OK);
	assert_int_equal(back->roles, PEER_ADMIN);
	assert_true(back->infrastructure);
	assert_int_equal(back->serial_len, 2);
	identity_unref(back);
	buffer_free(&wire);
	/* PEER_SELF, and a bit that is none; a serial longer than any */
	assert_int_equal(caller_parse((struct slice){ "\x10\x40", 2 }, &st, &back), STATUS_PERMISSION_DENIED);
	assert_int_equal(caller_parse((struct slice){ "\x10\x80\x01", 3 }, &st, &back), STATUS_PERMISSION_DENIED);
	assert_int_equal(caller_parse((struct slice){ "\x1A\x15" "123456789012345678901", 23 }, &st, &back),
			 STATUS_INVALID_ARGUMENT);
}

static void test_registry_find(void **state)
{
	(void)state;
	const struct rpc_service_entry *service = NULL;
	unsigned method = 99;
	struct status st;
	assert_int_equal(rpc_registry_find("Serial.Show", &st, &service, &method), STATUS_OK);
	assert_string_equal(service->descriptor->methods[method].name, "Show");
	assert_int_equal(service->server_role, PEER_SERIAL);
	assert_int_equal(rpc_registry_find("Serial.Sho", &st, &service, &method), STATUS_NOT_FOUND);
	assert_non_null(strstr(st.message, "SetMin"));
	assert_int_equal(rpc_registry_find("Seria.Show", &st, &service, &method), STATUS_NOT_FOUND);
	assert_non_null(strstr(st.message, "KeyDist"));
	assert_int_equal(rpc_registry_find("Serial", &st, &service, &method), STATUS_NOT_FOUND);
	size_t n;
	const struct rpc_service_entry *all = rpc_registry(&n);
	assert_int_equal(n, 7);
	assert_int_equal(all[0].server_role, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_message_round_trip),
		cmocka_unit_test(test_message_empty_is_all_defaults),
		cmocka_unit_test(test_message_text_is_checked),
		cmocka_unit_test(test_message_path_names_nested_field),
		cmocka_unit_test(test_message_wrong_wire_type),
		cmocka_unit_test(test_message_malformed),
		cmocka_unit_test(test_message_once_only),
		cmocka_unit_test(test_message_unknown_enum),
		cmocka_unit_test(test_message_unknown_fields_are_dropped),
		cmocka_unit_test(test_message_too_many_elements),
		cmocka_unit_test(test_message_any_budget),
		cmocka_unit_test(test_message_mutations),
		cmocka_unit_test(test_envelope_sp_header),
		cmocka_unit_test(test_envelope_matches_generated_code),
		cmocka_unit_test(test_envelope_request_is_checked),
		cmocka_unit_test(test_envelope_response_message_is_cut_at_a_character),
		cmocka_unit_test(test_envelope_caller),
		cmocka_unit_test(test_registry_find),
	};
	return cmocka_run_group_tests_name("message", tests, NULL, NULL);
}
