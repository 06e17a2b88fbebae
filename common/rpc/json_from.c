#include "common/rpc/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/base64.h"
#include "common/rpc/json_field.h"

static json_t *from_message(const ProtobufCMessage *m, bool all);

static json_t *from_int64(int64_t value)
{
	char text[24];
	(void)snprintf(text, sizeof text, "%" PRId64, value);
	return json_string(text);
}

static json_t *from_uint64(uint64_t value)
{
	char text[24];
	(void)snprintf(text, sizeof text, "%" PRIu64, value);
	return json_string(text);
}

static json_t *from_enum(const ProtobufCEnumDescriptor *type, int number)
{
	const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(type, number);
	return value ? json_string(value->name) : json_integer(number);
}

static json_t *from_bytes(const ProtobufCBinaryData *bytes)
{
	size_t len = base64_encoded_length(bytes->len);
	char *text = malloc(len + 1);
	if (!text)
		return NULL;
	base64_encode((struct slice){ .data = bytes->data, .len = bytes->len }, text);
	json_t *json = json_stringn_nocheck(text, len);
	free(text);
	return json;
}

/* NULL: no memory, a text that is not UTF-8, or a type that proto/ does not use (floating point). */
static json_t *from_value(const ProtobufCFieldDescriptor *field, const void *value, bool all)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		return json_integer(*(const int32_t *)value);
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		return json_integer(*(const uint32_t *)value);
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		return from_int64(*(const int64_t *)value);
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		return from_uint64(*(const uint64_t *)value);
	case PROTOBUF_C_TYPE_BOOL:
		return json_boolean(*(const protobuf_c_boolean *)value);
	case PROTOBUF_C_TYPE_ENUM:
		return from_enum(field->descriptor, *(const int *)value);
	case PROTOBUF_C_TYPE_STRING: {
		const char *text = *(char *const *)value;
		return json_string(text ? text : "");
	}
	case PROTOBUF_C_TYPE_BYTES:
		return from_bytes(value);
	case PROTOBUF_C_TYPE_MESSAGE:
		return from_message(*(ProtobufCMessage *const *)value, all);
	default:
		return NULL;
	}
}

static json_t *from_repeated(const ProtobufCFieldDescriptor *field, const void *array, size_t n, bool all)
{
	json_t *list = json_array();
	for (size_t i = 0; list && i < n; i++) {
		json_t *element = from_value(field, (const char *)array + i * json_element_size(field->type), all);
		if (!element || json_array_append_new(list, element) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* proto3: is the member at the value that a message begins with? */
static bool at_default(const ProtobufCFieldDescriptor *field, const void *value)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_STRING: {
		const char *text = *(char *const *)value;
		return !text || !*text;
	}
	case PROTOBUF_C_TYPE_BYTES:
		return ((const ProtobufCBinaryData *)value)->len == 0;
	case PROTOBUF_C_TYPE_MESSAGE:
		return !*(ProtobufCMessage *const *)value;
	default:
		if (json_element_size(field->type) == 8)
			return *(const uint64_t *)value == 0;
		return *(const uint32_t *)value == 0;
	}
}

/* Adds one field to the object where it belongs there. False as from_value(). */
static bool add_field(json_t *object, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *field, bool all)
{
	const char *base = (const char *)m;
	const void *value = base + field->offset;
	const void *quantifier = base + field->quantifier_offset;
	json_t *json;
	if (field->label == PROTOBUF_C_LABEL_REPEATED) {
		size_t n = *(const size_t *)quantifier;
		if (n == 0 && !all)
			return true;
		json = from_repeated(field, *(void *const *)value, n, all);
	} else if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
		/* Has presence: shown when set, also at its default. */
		if (*(const uint32_t *)quantifier != field->id)
			return true;
		json = from_value(field, value, all);
	} else {
		bool absent = at_default(field, value);
		if (absent && (!all || field->type == PROTOBUF_C_TYPE_MESSAGE))
			return true;
		json = from_value(field, value, all);
	}
	char name[JSON_NAME_MAX];
	json_field_name(field, name);
	return json && json_object_set_new(object, name, json) == 0;
}

static json_t *from_message(const ProtobufCMessage *m, bool all)
{
	json_t *object = json_object();
	for (unsigned i = 0; object && i < m->descriptor->n_fields; i++) {
		if (!add_field(object, m, &m->descriptor->fields[i], all)) {
			json_decref(object);
			return NULL;
		}
	}
	return object;
}

enum status_code json_from_message(const ProtobufCMessage *message, bool all, struct status *st, json_t **ret_json)
{
	json_t *json = from_message(message, all);
	if (!json)
		return status_set(st, STATUS_INTERNAL, "%s to JSON: out of memory, or a text in it is not UTF-8",
				  message->descriptor->short_name);
	*ret_json = json;
	return STATUS_OK;
}
