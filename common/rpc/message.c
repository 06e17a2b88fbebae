#include "common/rpc/message.h"

#include <stdio.h>
#include <string.h>

#include "common/rpc/path.h"
#include "common/rpc/wire.h"

struct walk {
	bool unknown;            /* there were unknown fields */
	char path[PATH_MAX_LEN]; /* of what is wrong */
	char reason[96];
};

#define refuse(w, ...) ((void)snprintf((w)->reason, sizeof(w)->reason, __VA_ARGS__), false)

static enum wire_type wire_type_of(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_BYTES:
	case PROTOBUF_C_TYPE_MESSAGE:
		return WIRE_BYTES;
	case PROTOBUF_C_TYPE_FIXED32:
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_FLOAT:
		return WIRE_32BIT;
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return WIRE_64BIT;
	default:
		return WIRE_VARINT;
	}
}

static bool enum_known(struct walk *w, const ProtobufCFieldDescriptor *field, uint64_t value)
{
	/* As protobuf truncates it: a negative value comes as ten bytes. */
	int number = (int)(int32_t)(uint32_t)value;
	const ProtobufCEnumDescriptor *type = field->descriptor;
	if (protobuf_c_enum_descriptor_get_value(type, number))
		return true;
	return refuse(w, "%d is no value of %s", number, type->short_name);
}

static bool walk_message(struct walk *w, const ProtobufCMessageDescriptor *type, struct slice wire, unsigned depth);

static bool walk_value(struct walk *w, const ProtobufCFieldDescriptor *field, const struct wire_field *f,
		       unsigned depth)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_STRING:
		return wire_text_valid(f->bytes) || refuse(w, "not valid UTF-8, or holds a NUL");
	case PROTOBUF_C_TYPE_ENUM:
		return enum_known(w, field, f->value);
	case PROTOBUF_C_TYPE_MESSAGE:
		return walk_message(w, field->descriptor, f->bytes, depth + 1);
	default:
		return true;
	}
}

/* Numbers of a repeated field in one run of bytes. */
static bool walk_packed(struct walk *w, const ProtobufCFieldDescriptor *field, struct slice bytes, size_t *n)
{
	enum wire_type element = wire_type_of(field->type);
	if (element != WIRE_VARINT) {
		size_t size = element == WIRE_32BIT ? 4 : 8;
		*n += bytes.len / size;
		return bytes.len % size == 0 || refuse(w, "a run of numbers that is cut off");
	}
	struct wire in = wire_reader(bytes);
	while (in.p < in.end) {
		uint64_t value;
		if (!wire_varint(&in, &value))
			return refuse(w, "a run of numbers that is cut off");
		if (field->type == PROTOBUF_C_TYPE_ENUM && !enum_known(w, field, value))
			return false;
		++*n;
	}
	return true;
}

static bool walk_repeated(struct walk *w, const ProtobufCFieldDescriptor *field, const struct wire_field *f,
			  unsigned depth, size_t *n)
{
	enum wire_type want = wire_type_of(field->type);
	bool ok;
	if (f->type == want) {
		++*n;
		ok = walk_value(w, field, f, depth);
	} else if (f->type == WIRE_BYTES) {
		ok = walk_packed(w, field, f->bytes, n);
	} else {
		ok = refuse(w, "of the wrong type");
	}
	if (ok && *n > MESSAGE_MAX_ELEMENTS)
		ok = refuse(w, "more than %d elements", MESSAGE_MAX_ELEMENTS);
	return ok;
}

/* Marks a field that may come once, together with the other members of its oneof; false: it has come before. */
static bool first_time(const ProtobufCMessageDescriptor *type, const ProtobufCFieldDescriptor *field, uint64_t *seen)
{
	size_t i = (size_t)(field - type->fields);
	if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
		i = 0;
		while (!(type->fields[i].flags & PROTOBUF_C_FIELD_FLAG_ONEOF) ||
		       type->fields[i].quantifier_offset != field->quantifier_offset)
			i++;
	}
	if (i >= 64)
		return true; /* no message of ours is as large; protobuf-c's own rule holds, within the budget */
	uint64_t bit = UINT64_C(1) << i;
	if (*seen & bit)
		return false;
	*seen |= bit;
	return true;
}

/* For an error's path: how many elements of the field stand before `until`. */
static size_t index_of(const ProtobufCFieldDescriptor *field, struct slice wire, const uint8_t *until)
{
	struct wire in = wire_reader(wire);
	struct wire_field f;
	size_t n = 0;
	while (in.p < until && wire_next(&in, &f))
		n += f.number == field->id;
	return n - 1;
}

static bool walk_message(struct walk *w, const ProtobufCMessageDescriptor *type, struct slice wire, unsigned depth)
{
	/* No message of ours contains itself, so this bounds a descriptor, not an attacker. */
	if (depth >= MESSAGE_MAX_DEPTH)
		return refuse(w, "nested more than %d deep", MESSAGE_MAX_DEPTH);
	struct wire in = wire_reader(wire);
	uint64_t seen = 0;
	size_t elements = 0;
	while (in.p < in.end) {
		struct wire_field f;
		if (!wire_next(&in, &f))
			return refuse(w, "not a protobuf %s", type->short_name);
		const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(type, f.number);
		if (!field) {
			w->unknown = true;
			continue;
		}
		bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
		bool ok;
		if (repeated)
			ok = walk_repeated(w, field, &f, depth, &elements);
		else if (f.type != wire_type_of(field->type))
			ok = refuse(w, "of the wrong type");
		else if (!first_time(type, field, &seen))
			ok = refuse(w, "given more than once");
		else
			ok = walk_value(w, field, &f, depth);
		if (!ok) {
			path_prepend(w->path, field->name, repeated ? index_of(field, wire, in.p) : PATH_NO_INDEX);
			return false;
		}
	}
	return true;
}

/* Calls `each` for the message and those in it, until it says false. */
static bool visit(ProtobufCMessage *m, bool (*each)(ProtobufCMessage *m))
{
	if (!each(m))
		return false;
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &m->descriptor->fields[i];
		if (field->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		const char *base = (const char *)m;
		const void *member = base + field->offset;
		const void *quantifier = base + field->quantifier_offset;
		if (field->label == PROTOBUF_C_LABEL_REPEATED) {
			size_t n = *(const size_t *)quantifier;
			ProtobufCMessage **elements = *(ProtobufCMessage **const *)member;
			for (size_t k = 0; k < n; k++)
				if (!visit(elements[k], each))
					return false;
			continue;
		}
		if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF && *(const uint32_t *)quantifier != field->id)
			continue;
		ProtobufCMessage *sub = *(ProtobufCMessage *const *)member;
		if (sub && !visit(sub, each))
			return false;
	}
	return true;
}

static bool drop_unknown(ProtobufCMessage *m)
{
	m->n_unknown_fields = 0;
	m->unknown_fields = NULL;
	return true;
}

static bool has_no_unknown(ProtobufCMessage *m)
{
	return m->n_unknown_fields == 0;
}

bool message_understood(ProtobufCMessage *message)
{
	return visit(message, has_no_unknown);
}

enum status_code message_unpack(const ProtobufCMessageDescriptor *type, struct slice wire, struct arena *arena,
				struct status *st, char *field, size_t field_size,
				const ProtobufCMessage **ret_message)
{
	struct walk w;
	w.unknown = false;
	w.path[0] = '\0';
	if (!walk_message(&w, type, wire, 0)) {
		if (field && field_size > 0)
			(void)snprintf(field, field_size, "%s", w.path);
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: %s", w.path[0] ? w.path : type->short_name,
				  w.reason);
	}
	/* After the walk nothing but memory is left to fail. */
	ProtobufCMessage *m = protobuf_c_message_unpack(type, arena_allocator(arena), wire.len, wire.data);
	if (!m)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED,
				  "%s: takes too much memory when unpacked; send less at once", type->short_name);
	if (w.unknown)
		visit(m, drop_unknown);
	*ret_message = m;
	return STATUS_OK;
}

enum status_code message_pack(const ProtobufCMessage *message, struct buffer *out, struct status *st)
{
	size_t size = protobuf_c_message_get_packed_size(message);
	if (!buffer_reserve(out, size))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "packing %s: out of memory",
				  message->descriptor->short_name);
	out->len += protobuf_c_message_pack(message, out->data + out->len);
	return STATUS_OK;
}
