#include "common/rpc/envelope.h"

#include <stdlib.h>
#include <string.h>

#include "common/rpc/message.h"
#include "common/rpc/path.h"
#include "common/rpc/wire.h"
#include "rpc.pb-c.h"

/* Numbers of the fields in proto/rpc.proto. */
enum { REQUEST_METHOD = 1, REQUEST_PAYLOAD, REQUEST_TIMEOUT, REQUEST_ID, REQUEST_TRACE, REQUEST_BEHALF };
enum { RESPONSE_CODE = 1, RESPONSE_MESSAGE, RESPONSE_DETAILS, RESPONSE_PAYLOAD };
enum { DETAIL_REASON = 1, DETAIL_FIELD, DETAIL_RETRY_AFTER, DETAIL_ASK };
#define DETAIL_REASON_MAX 16
#define ASK_MAX 256

_Static_assert(SP_MAX_WORDS * 4 + METHOD_MAX + REQUEST_ID_MAX + TRACE_ID_MAX + CALLER_MAX +
		       REQUEST_BEHALF * (1 + WIRE_VARINT_MAX) <= ENVELOPE_ROOM,
	       "a request of the largest payload fits a frame, whoever passes it on");

uint32_t sp_id(const uint8_t bytes[static 4])
{
	return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

void sp_put_id(uint8_t out[static 4], uint32_t id)
{
	for (int i = 0; i < 4; i++)
		out[i] = (uint8_t)(id >> (24 - 8 * i));
}

size_t sp_header_length(struct slice frame)
{
	const uint8_t *p = frame.data;
	for (size_t words = 1; words * 4 <= frame.len; words++) {
		if (words > SP_MAX_WORDS)
			return 0;
		if (sp_id(p + (words - 1) * 4) & SP_ID_BIT)
			return words * 4;
	}
	return SIZE_MAX;
}

static bool text_within(struct slice text, size_t max)
{
	return text.len <= max && wire_text_valid(text);
}

static bool request_valid(const struct request_envelope *r, struct status *st)
{
	const char *wrong = NULL;
	if (!text_within(r->method, METHOD_MAX))
		wrong = "method: not valid UTF-8, or too long";
	else if (r->request_id.len > REQUEST_ID_MAX)
		wrong = "request_id: more than 32 bytes";
	else if (!text_within(r->trace_id, TRACE_ID_MAX))
		wrong = "trace_id: not valid UTF-8, or more than 64 bytes";
	if (wrong)
		status_set(st, STATUS_INVALID_ARGUMENT, "request envelope: %s", wrong);
	return !wrong;
}

enum status_code request_parse(struct slice wire, struct status *st, struct request_envelope *ret_request)
{
	struct request_envelope r = { .timeout_ms = 0 };
	struct slice *const bytes[] = {
		[REQUEST_METHOD] = &r.method,       [REQUEST_PAYLOAD] = &r.payload,       [REQUEST_ID] = &r.request_id,
		[REQUEST_TRACE] = &r.trace_id,      [REQUEST_BEHALF] = &r.on_behalf_of,
	};
	unsigned seen = 0;
	struct wire in = wire_reader(wire);
	while (in.p < in.end) {
		struct wire_field f;
		if (!wire_next(&in, &f))
			return status_set(st, STATUS_INVALID_ARGUMENT, "request envelope: not a protobuf Request");
		if (f.number > REQUEST_BEHALF)
			continue;
		if (f.type != (f.number == REQUEST_TIMEOUT ? WIRE_VARINT : WIRE_BYTES) || seen & 1u << f.number)
			return status_set(st, STATUS_INVALID_ARGUMENT,
					  "request envelope: field %u is of the wrong type or given more than once",
					  (unsigned)f.number);
		seen |= 1u << f.number;
		if (f.number == REQUEST_TIMEOUT)
			r.timeout_ms = f.value > UINT32_MAX ? UINT32_MAX : (uint32_t)f.value;
		else
			*bytes[f.number] = f.bytes;
	}
	r.forwarded = seen & 1u << REQUEST_BEHALF;
	if (!request_valid(&r, st))
		return STATUS_INVALID_ARGUMENT;
	*ret_request = r;
	return STATUS_OK;
}

enum status_code request_too_large(const char *method, size_t bytes, size_t most, struct status *st)
{
	return status_set(st, STATUS_INVALID_ARGUMENT,
			  "%s: the request takes %zu bytes, more than the %zu of a message; send less at once", method,
			  bytes, most);
}

bool request_pack(const struct request_envelope *r, struct buffer *out)
{
	size_t fields = r->method.len + r->payload.len + r->request_id.len + r->trace_id.len + r->on_behalf_of.len;
	size_t most = fields + (size_t)REQUEST_BEHALF * (1 + WIRE_VARINT_MAX);
	if (!buffer_reserve(out, most))
		return false;
	struct wire_writer w = { .p = out->data + out->len, .end = out->data + out->cap };
	wire_put_bytes(&w, REQUEST_METHOD, r->method);
	wire_put_bytes(&w, REQUEST_PAYLOAD, r->payload);
	wire_put_bytes(&w, REQUEST_ID, r->request_id);
	wire_put_bytes(&w, REQUEST_TRACE, r->trace_id);
	wire_put_bytes(&w, REQUEST_BEHALF, r->on_behalf_of);
	out->len = (size_t)(w.p - out->data);
	return true;
}

size_t request_pack_timeout(uint32_t timeout_ms, uint8_t out[static REQUEST_TIMEOUT_MAX])
{
	struct wire_writer w = { .p = out, .end = out + REQUEST_TIMEOUT_MAX };
	wire_put_uint(&w, REQUEST_TIMEOUT, timeout_ms);
	return (size_t)(w.p - out);
}

static ProtobufCBinaryData binary(const uint8_t *data, size_t len)
{
	union {
		const uint8_t *in;
		uint8_t *out;
	} u = { .in = data }; /* only packed, never written */
	return (ProtobufCBinaryData){ .data = u.out, .len = len };
}

bool caller_pack(const struct identity *id, struct buffer *out)
{
	Kds__V1__Caller caller = KDS__V1__CALLER__INIT;
	caller.common_name = id->common_name;
	caller.role_name = id->role_name;
	caller.roles = id->roles;
	caller.serial = binary(id->serial, id->serial_len);
	caller.issuer_key_id = binary(id->issuer_key_id, id->issuer_key_id_len);
	return protobuf_c_message_get_packed_size(&caller.base) <= CALLER_MAX &&
	       message_pack(&caller.base, out, NULL) == STATUS_OK;
}

static bool replace(char **text, const char *with)
{
	char *copy = strdup(with);
	if (!copy)
		return false;
	free(*text);
	*text = copy;
	return true;
}

/* No memory: NULL. */
static struct identity *identity_of(const Kds__V1__Caller *caller)
{
	struct identity *id = identity_new();
	if (!id)
		return NULL;
	if (!replace(&id->common_name, caller->common_name) || !replace(&id->role_name, caller->role_name)) {
		identity_unref(id);
		return NULL;
	}
	id->roles = caller->roles;
	id->infrastructure = caller->roles & PEER_SERVICES;
	id->serial_len = caller->serial.len;
	if (caller->serial.len > 0)
		memcpy(id->serial, caller->serial.data, caller->serial.len);
	id->issuer_key_id_len = caller->issuer_key_id.len;
	if (caller->issuer_key_id.len > 0)
		memcpy(id->issuer_key_id, caller->issuer_key_id.data, caller->issuer_key_id.len);
	id->not_after = INT64_MAX; /* its connection ends with the certificate, at the replica that holds it */
	return id;
}

enum status_code caller_parse(struct slice wire, struct status *st, struct identity **ret_identity)
{
	struct arena *arena = arena_new(16384);
	if (!arena)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory; try again");
	const ProtobufCMessage *m;
	enum status_code rc = message_unpack(&kds__v1__caller__descriptor, wire, arena, st, NULL, 0, &m);
	if (rc != STATUS_OK) {
		status_prefix(st, "request envelope: on_behalf_of");
		goto out;
	}
	const Kds__V1__Caller *caller = (const Kds__V1__Caller *)m;
	if (caller->serial.len > IDENTITY_SERIAL_MAX || caller->issuer_key_id.len > IDENTITY_KEY_ID_MAX) {
		rc = status_set(st, STATUS_INVALID_ARGUMENT,
				"request envelope: on_behalf_of: serial or key id too long");
		goto out;
	}
	if (caller->roles & ~(unsigned)(PEER_ANYONE & ~PEER_SELF)) {
		rc = status_set(st, STATUS_PERMISSION_DENIED,
				"request envelope: on_behalf_of: roles %#x are none that a peer can have",
				caller->roles);
		goto out;
	}
	struct identity *id = identity_of(caller);
	if (id)
		*ret_identity = id;
	else
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory; try again");
out:
	arena_free(arena);
	return rc;
}

/* What a detail tells that none before it told. */
static void read_detail(struct slice detail, struct response_envelope *r)
{
	struct wire in = wire_reader(detail);
	struct wire_field f;
	while (in.p < in.end && wire_next(&in, &f)) {
		if (f.number == DETAIL_FIELD && f.type == WIRE_BYTES && r->field.len == 0 && wire_text_valid(f.bytes))
			r->field = f.bytes;
		else if (f.number == DETAIL_ASK && f.type == WIRE_BYTES && r->ask.len == 0 && wire_text_valid(f.bytes))
			r->ask = f.bytes;
		else if (f.number == DETAIL_RETRY_AFTER && f.type == WIRE_VARINT && r->retry_after_ms == 0)
			r->retry_after_ms = f.value > UINT32_MAX ? UINT32_MAX : (uint32_t)f.value;
	}
}

enum status_code response_parse(struct slice wire, struct status *st, struct response_envelope *ret_response)
{
	struct response_envelope r = { .code = STATUS_OK };
	struct wire in = wire_reader(wire);
	while (in.p < in.end) {
		struct wire_field f;
		if (!wire_next(&in, &f) || (f.number == RESPONSE_CODE && f.type != WIRE_VARINT) ||
		    (f.number > RESPONSE_CODE && f.number <= RESPONSE_PAYLOAD && f.type != WIRE_BYTES))
			return status_set(st, STATUS_INTERNAL, "the answer is no protobuf Response");
		if (f.number == RESPONSE_CODE)
			r.code = f.value <= STATUS_UNAUTHENTICATED ? (enum status_code)f.value : STATUS_UNKNOWN;
		else if (f.number == RESPONSE_MESSAGE && wire_text_valid(f.bytes))
			r.message = f.bytes;
		else if (f.number == RESPONSE_DETAILS)
			read_detail(f.bytes, &r);
		else if (f.number == RESPONSE_PAYLOAD)
			r.payload = f.bytes;
	}
	*ret_response = r;
	return STATUS_OK;
}

/* Cuts text to `max` bytes without leaving a part of a UTF-8 sequence. */
static struct slice cut(struct slice text, size_t max)
{
	if (text.len <= max)
		return text;
	const uint8_t *p = text.data;
	while (max > 0 && (p[max] & 0xC0) == 0x80)
		max--;
	return (struct slice){ .data = p, .len = max };
}

static const char *reason_of(const struct response_envelope *r)
{
	return r->ask.len > 0 ? "ASK_LEADER" : r->retry_after_ms > 0 ? "RATE_LIMITED" : "INVALID_FIELD";
}

static void put_detail(struct wire_writer *w, const struct response_envelope *r)
{
	const char *reason = reason_of(r);
	uint8_t detail[DETAIL_REASON_MAX + PATH_MAX_LEN + ASK_MAX + 4 * (1 + WIRE_VARINT_MAX)];
	struct wire_writer d = { .p = detail, .end = detail + sizeof detail };
	wire_put_bytes(&d, DETAIL_REASON, (struct slice){ .data = reason, .len = strlen(reason) });
	wire_put_bytes(&d, DETAIL_FIELD, cut(r->field, PATH_MAX_LEN));
	wire_put_uint(&d, DETAIL_RETRY_AFTER, r->retry_after_ms);
	if (r->ask.len <= ASK_MAX) /* half an address is none */
		wire_put_bytes(&d, DETAIL_ASK, r->ask);
	wire_put_bytes(w, RESPONSE_DETAILS, (struct slice){ .data = detail, .len = (size_t)(d.p - detail) });
}

size_t response_pack_head(const struct response_envelope *r, uint8_t out[static RESPONSE_HEAD_MAX])
{
	struct wire_writer w = { .p = out, .end = out + RESPONSE_HEAD_MAX };
	wire_put_uint(&w, RESPONSE_CODE, (uint64_t)r->code);
	wire_put_bytes(&w, RESPONSE_MESSAGE, cut(r->message, 512));
	if (r->field.len > 0 || r->ask.len > 0 || r->retry_after_ms > 0)
		put_detail(&w, r);
	if (r->payload.len > 0) {
		wire_put_tag(&w, RESPONSE_PAYLOAD, WIRE_BYTES);
		wire_put_varint(&w, r->payload.len);
	}
	return (size_t)(w.p - out);
}
