// links: test_support common_rpc common_net kds_proto
/*
 * The envelope's reader (common/rpc/envelope.c), which is written by hand, beside the generated one (rpc.pb-c.h), on bytes
 * made at random and then spoilt. Bytes are canonical here when the generated code, packing what it read, comes to as
 * many, and no field number is above 2^25: then nothing stands in them twice, too long or in vain, and both readers must
 * say the same.
 *
 * Where bytes are not canonical the readers differ on purpose:
 *
 *   Request   the reader refuses a field that stands there twice (protobuf: the last one wins, messages are merged), a
 *             field number 0, and one of more than 29 bits (protobuf-c drops its high bits)
 *             timeout_ms of more than 32 bits: the reader takes the most (protobuf-c the low bits)
 *   Response  code of more than 32 bits: UNKNOWN (protobuf-c takes the low bits)
 *
 * and where they are canonical:
 *
 *   Request   the reader refuses text that is no UTF-8, and fields over METHOD_MAX, REQUEST_ID_MAX, TRACE_ID_MAX
 *             (protobuf-c takes any); what is in on_behalf_of is caller_parse()'s to refuse
 *   Response  a code that is none of ours is UNKNOWN; text that is no UTF-8 is passed over; so is what is wrong within a
 *             detail (protobuf-c refuses the whole)
 */
#include "tests/support/support.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/rpc/envelope.h"
#include "common/rpc/wire.h"
#include "rpc.pb-c.h"

#define ROUNDS 200000
#define BYTES_MAX 512

static uint64_t random_state;

static uint32_t draw(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 16);
}

static bool one_in(uint32_t n)
{
	return draw() % n == 0;
}

static int seed(void **state)
{
	(void)state;
	const char *given = getenv("KDS_TEST_SEED");
	random_state = given ? strtoull(given, NULL, 10) : clock_unix_ms();
	random_state += random_state == 0;
	print_message("KDS_TEST_SEED=%" PRIu64 "\n", random_state);
	return 0;
}

/*
 * Bytes
 */

static size_t make_text(uint8_t *out, size_t most)
{
	static const char *const pieces[] = { "Serial.Show", "a", "\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
					      "/", "x1" };
	size_t len = 0;
	for (uint32_t n = draw() % 5; n > 0; n--) {
		const char *piece = pieces[draw() % (sizeof pieces / sizeof *pieces)];
		size_t more = strlen(piece);
		if (len + more > most)
			break;
		memcpy(out + len, piece, more);
		len += more;
	}
	if (len > 0 && one_in(16))
		out[draw() % len] = (uint8_t)draw(); /* perhaps no UTF-8 any more */
	return len;
}

static void put_message(struct wire_writer *w, unsigned depth);

static void put_field(struct wire_writer *w, unsigned depth)
{
	uint8_t bytes[80];
	uint32_t number = one_in(12) ? draw() % 5000 : 1 + draw() % 7;
	switch (draw() % 8) {
	case 0:
	case 1:
		wire_put_tag(w, number, WIRE_VARINT);
		wire_put_varint(w, one_in(4) ? (uint64_t)draw() << (draw() % 32) : draw() % 40);
		break;
	case 2:
		if (depth == 0) {
			struct wire_writer inner = { .p = bytes, .end = bytes + sizeof bytes };
			put_message(&inner, 1);
			wire_put_bytes(w, number, (struct slice){ bytes, (size_t)(inner.p - bytes) });
			break;
		}
		/* fall through */
	case 3:
		for (size_t i = 0; i < sizeof bytes; i++)
			bytes[i] = (uint8_t)draw();
		wire_put_bytes(w, number, (struct slice){ bytes, draw() % (one_in(8) ? sizeof bytes : 20) });
		break;
	default:
		wire_put_bytes(w, number, (struct slice){ bytes, make_text(bytes, sizeof bytes) });
	}
}

static void put_message(struct wire_writer *w, unsigned depth)
{
	for (uint32_t n = draw() % 6; n > 0; n--)
		put_field(w, depth);
}

/* Mostly a message, sometimes spoilt, sometimes noise. */
static size_t make_bytes(uint8_t out[static BYTES_MAX])
{
	size_t len;
	if (one_in(10)) {
		len = draw() % 40;
		for (size_t i = 0; i < len; i++)
			out[i] = (uint8_t)draw();
		return len;
	}
	struct wire_writer w = { .p = out, .end = out + BYTES_MAX };
	put_message(&w, 0);
	len = (size_t)(w.p - out);
	for (uint32_t n = one_in(2) ? 0 : draw() % 4; n > 0 && len > 0; n--)
		out[draw() % len] = (uint8_t)draw();
	return one_in(8) && len > 0 ? draw() % len : len;
}

static void show(const char *what, struct slice wire)
{
	const uint8_t *p = wire.data;
	print_error("%s:", what);
	for (size_t i = 0; i < wire.len; i++)
		print_error(" %02x", p[i]);
	print_error("\n");
}

#define CHECK(condition, wire) \
	do { \
		if (!(condition)) { \
			show(#condition, wire); \
			fail(); \
		} \
	} while (0)

/* The generated code drops the high bits of a field number; what is left may take as many bytes. */
static bool has_large_number(const ProtobufCMessage *m)
{
	for (size_t i = 0; i < m->n_unknown_fields; i++)
		if (m->unknown_fields[i].tag >= 1u << 25)
			return true;
	return false;
}

static bool canonical(const ProtobufCMessage *m, struct slice wire)
{
	return !has_large_number(m) && protobuf_c_message_get_packed_size(m) == wire.len;
}

static bool same(struct slice a, const void *data, size_t len)
{
	return a.len == len && (len == 0 || memcmp(a.data, data, len) == 0);
}

static bool valid(const char *text, size_t most)
{
	return strlen(text) <= most && wire_text_valid((struct slice){ text, strlen(text) });
}

/*
 * Tests
 */

static void compare_request(const Kds__V1__Request *g, const struct request_envelope *r, struct slice wire)
{
	CHECK(same(r->method, g->method, strlen(g->method)), wire);
	CHECK(same(r->payload, g->payload.data, g->payload.len), wire);
	CHECK(same(r->request_id, g->request_id.data, g->request_id.len), wire);
	CHECK(same(r->trace_id, g->trace_id, strlen(g->trace_id)), wire);
	CHECK(r->timeout_ms == g->timeout_ms || r->timeout_ms == UINT32_MAX, wire);
	CHECK(r->forwarded == (g->on_behalf_of != NULL), wire);
}

static bool within_limits(const Kds__V1__Request *g)
{
	return valid(g->method, METHOD_MAX) && valid(g->trace_id, TRACE_ID_MAX) && g->request_id.len <= REQUEST_ID_MAX;
}

static void test_envelope_requests_are_read_alike(void **state)
{
	(void)state;
	unsigned taken = 0, both = 0, differ = 0;
	for (unsigned round = 0; round < ROUNDS; round++) {
		uint8_t bytes[BYTES_MAX];
		struct slice wire = { bytes, make_bytes(bytes) };
		struct request_envelope r;
		struct identity *caller = NULL;
		struct status st;
		bool ours = request_parse(wire, &st, &r) == STATUS_OK;
		Kds__V1__Request *g = kds__v1__request__unpack(NULL, wire.len, bytes);
		bool whole = g && canonical(&g->base, wire);
		if (ours && g)
			compare_request(g, &r, wire);
		if (ours && !g) /* the one thing left to refuse */
			CHECK(r.forwarded && caller_parse(r.on_behalf_of, &st, &caller) != STATUS_OK, wire);
		if (whole)
			CHECK(ours == within_limits(g), wire);
		taken += ours && g;
		both += whole && ours;
		differ += g && !ours;
		if (g)
			kds__v1__request__free_unpacked(g, NULL);
	}
	/* The comparison is worth something: all of it happened, often. */
	assert_in_range(taken, ROUNDS / 20, ROUNDS);
	assert_in_range(both, ROUNDS / 20, ROUNDS);
	assert_in_range(differ, ROUNDS / 100, ROUNDS);
}

static void compare_details(const Kds__V1__Response *g, const struct response_envelope *r, struct slice wire)
{
	const char *field = "", *ask = "";
	uint32_t retry_after_ms = 0;
	for (size_t i = 0; i < g->n_details; i++) {
		const Kds__V1__ErrorDetail *d = g->details[i];
		if (has_large_number(&d->base))
			return;
		if (!*field && valid(d->field, SIZE_MAX))
			field = d->field;
		if (!*ask && valid(d->ask, SIZE_MAX))
			ask = d->ask;
		if (retry_after_ms == 0)
			retry_after_ms = d->retry_after_ms;
	}
	CHECK(same(r->field, field, strlen(field)), wire);
	CHECK(same(r->ask, ask, strlen(ask)), wire);
	CHECK(r->retry_after_ms == retry_after_ms || r->retry_after_ms == UINT32_MAX, wire);
}

static void compare_response(const Kds__V1__Response *g, const struct response_envelope *r, struct slice wire)
{
	bool known = g->code <= KDS__V1__CODE__UNAUTHENTICATED;
	CHECK((int)r->code == (known ? (int)g->code : (int)STATUS_UNKNOWN), wire);
	const char *message = valid(g->message, SIZE_MAX) ? g->message : "";
	CHECK(same(r->message, message, strlen(message)), wire);
	CHECK(same(r->payload, g->payload.data, g->payload.len), wire);
	compare_details(g, r, wire);
}

static void test_envelope_responses_are_read_alike(void **state)
{
	(void)state;
	unsigned both = 0, with_details = 0;
	for (unsigned round = 0; round < ROUNDS; round++) {
		uint8_t bytes[BYTES_MAX];
		struct slice wire = { bytes, make_bytes(bytes) };
		struct response_envelope r;
		struct status st;
		bool ours = response_parse(wire, &st, &r) == STATUS_OK;
		Kds__V1__Response *g = kds__v1__response__unpack(NULL, wire.len, bytes);
		if (g && (int)g->code >= 0 && canonical(&g->base, wire)) { /* packing makes a negative one longer */
			CHECK(ours, wire);
			compare_response(g, &r, wire);
			both++;
			with_details += g->n_details > 0;
		}
		if (g)
			kds__v1__response__free_unpacked(g, NULL);
	}
	assert_in_range(both, ROUNDS / 20, ROUNDS);
	assert_in_range(with_details, ROUNDS / 200, ROUNDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_envelope_requests_are_read_alike),
		cmocka_unit_test(test_envelope_responses_are_read_alike),
	};
	return cmocka_run_group_tests_name("envelope", tests, seed, NULL);
}
