#include "common/rpc/json.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/base64.h"
#include "common/rpc/json_field.h"
#include "common/rpc/path.h"

struct reader {
	struct arena *arena;
	enum status_code code;   /* of the failure */
	char path[PATH_MAX_LEN]; /* of what is wrong */
	char reason[160];
};

static bool refuse(struct reader *r, const char *format, ...) PRINTF_LIKE(2, 3);
static bool refuse(struct reader *r, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	(void)vsnprintf(r->reason, sizeof r->reason, format, ap);
	va_end(ap);
	r->code = STATUS_INVALID_ARGUMENT;
	return false;
}

static bool no_memory(struct reader *r)
{
	(void)snprintf(r->reason, sizeof r->reason, "takes too much memory");
	r->code = STATUS_RESOURCE_EXHAUSTED;
	return false;
}

static const char *kind_of(const json_t *json)
{
	switch (json_typeof(json)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "a list";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
	case JSON_REAL:
		return "a number";
	case JSON_NULL:
		return "null";
	default:
		return "true or false";
	}
}

/* Whole numbers between min and max (max as unsigned: UINT64_MAX does not fit a json integer). */
struct range {
	int64_t min;
	uint64_t max;
};

static struct range range_of(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_ENUM:
		return (struct range){ INT32_MIN, INT32_MAX };
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		return (struct range){ INT64_MIN, INT64_MAX };
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		return (struct range){ 0, UINT32_MAX };
	default:
		return (struct range){ 0, UINT64_MAX };
	}
}

static bool parse_decimal(const char *text, struct range range, uint64_t *ret_value)
{
	bool negative = *text == '-';
	const char *digits = text + negative;
	if (*digits < '0' || *digits > '9') /* strtoull() would take spaces and signs */
		return false;
	char *end;
	errno = 0;
	if (negative) {
		intmax_t value = strtoimax(text, &end, 10);
		if (errno || *end || value < range.min)
			return false;
		*ret_value = (uint64_t)value;
		return true;
	}
	uintmax_t value = strtoumax(text, &end, 10);
	if (errno || *end || value > range.max)
		return false;
	*ret_value = value;
	return true;
}

/* 1.0 and 1e3 are whole numbers to JSON; beyond 2^53 a double no longer says which. */
static bool whole_real(double real, struct range range, uint64_t *ret_value)
{
	if (!(fabs(real) <= 9007199254740992.0) || floor(real) != real)
		return false;
	int64_t value = (int64_t)real;
	if (value < range.min || (value > 0 && (uint64_t)value > range.max))
		return false;
	*ret_value = (uint64_t)value;
	return true;
}

/* The value in two's complement. */
static bool to_integer(struct reader *r, ProtobufCType type, const json_t *json, uint64_t *ret_value)
{
	struct range range = range_of(type);
	bool ok = false;
	if (json_is_integer(json)) {
		int64_t value = json_integer_value(json);
		ok = value >= range.min && (value < 0 || (uint64_t)value <= range.max);
		if (ok)
			*ret_value = (uint64_t)value;
	} else if (json_is_real(json)) {
		ok = whole_real(json_real_value(json), range, ret_value);
	} else if (json_is_string(json)) {
		ok = strlen(json_string_value(json)) == json_string_length(json) &&
		     parse_decimal(json_string_value(json), range, ret_value);
	} else {
		return refuse(r, "takes a whole number, got %s", kind_of(json));
	}
	return ok || refuse(r, "takes a whole number from %" PRId64 " to %" PRIu64, range.min, range.max);
}

static bool to_enum(struct reader *r, const ProtobufCEnumDescriptor *type, const json_t *json, int *ret_number)
{
	if (json_is_string(json)) {
		const ProtobufCEnumValue *value =
		    protobuf_c_enum_descriptor_get_value_by_name(type, json_string_value(json));
		if (value) {
			*ret_number = value->value;
			return true;
		}
	} else if (json_is_integer(json)) {
		json_int_t number = json_integer_value(json);
		if (number >= INT32_MIN && number <= INT32_MAX &&
		    protobuf_c_enum_descriptor_get_value(type, (int)number)) {
			*ret_number = (int)number;
			return true;
		}
	}
	char names[120] = "";
	for (unsigned i = 0; i < type->n_values; i++) {
		size_t len = strlen(names);
		(void)snprintf(names + len, sizeof names - len, "%s%s", i > 0 ? ", " : "", type->values[i].name);
	}
	return refuse(r, "takes one of %s", names);
}

static bool to_string(struct reader *r, const json_t *json, char **ret_text)
{
	if (!json_is_string(json))
		return refuse(r, "takes a string, got %s", kind_of(json));
	const char *text = json_string_value(json);
	if (strlen(text) != json_string_length(json))
		return refuse(r, "takes a string without a NUL");
	char *copy = arena_strdup(r->arena, text);
	if (!copy)
		return no_memory(r);
	*ret_text = copy;
	return true;
}

static bool to_bytes(struct reader *r, const json_t *json, ProtobufCBinaryData *ret_bytes)
{
	if (!json_is_string(json))
		return refuse(r, "takes base64 in a string, got %s", kind_of(json));
	struct slice text = { .data = json_string_value(json), .len = json_string_length(json) };
	uint8_t *data = arena_alloc(r->arena, base64_decoded_max(text.len));
	if (!data)
		return no_memory(r);
	size_t len;
	if (!base64_decode(text, data, &len))
		return refuse(r, "takes base64");
	*ret_bytes = (ProtobufCBinaryData){ .data = data, .len = len };
	return true;
}

static bool to_message(struct reader *r, const ProtobufCMessageDescriptor *type, const json_t *json,
		       ProtobufCMessage **ret_message);

static bool to_value(struct reader *r, const ProtobufCFieldDescriptor *field, const json_t *json, void *member)
{
	uint64_t number;
	switch (field->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		if (!to_integer(r, field->type, json, &number))
			return false;
		*(uint32_t *)member = (uint32_t)number;
		return true;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		if (!to_integer(r, field->type, json, &number))
			return false;
		*(uint64_t *)member = number;
		return true;
	case PROTOBUF_C_TYPE_BOOL:
		if (!json_is_boolean(json))
			return refuse(r, "takes true or false, got %s", kind_of(json));
		*(protobuf_c_boolean *)member = json_is_true(json);
		return true;
	case PROTOBUF_C_TYPE_ENUM:
		return to_enum(r, field->descriptor, json, member);
	case PROTOBUF_C_TYPE_STRING:
		return to_string(r, json, member);
	case PROTOBUF_C_TYPE_BYTES:
		return to_bytes(r, json, member);
	case PROTOBUF_C_TYPE_MESSAGE:
		return to_message(r, field->descriptor, json, member);
	default:
		return refuse(r, "is of a type that has no JSON form here");
	}
}

static bool to_repeated(struct reader *r, const ProtobufCFieldDescriptor *field, const json_t *json, size_t *ret_n,
			void *ret_array, size_t *index)
{
	if (!json_is_array(json))
		return refuse(r, "takes a list, got %s", kind_of(json));
	size_t n = json_array_size(json);
	size_t size = json_element_size(field->type);
	char *array = arena_alloc(r->arena, n * size);
	if (!array)
		return no_memory(r);
	memset(array, 0, n * size);
	for (size_t i = 0; i < n; i++) {
		*index = i;
		if (!to_value(r, field, json_array_get(json, i), array + i * size))
			return false;
	}
	*ret_n = n;
	*(void **)ret_array = array;
	return true;
}

/* By its JSON name or the original one. NULL: unknown. */
static const ProtobufCFieldDescriptor *find_field(const ProtobufCMessageDescriptor *type, const char *key)
{
	for (unsigned i = 0; i < type->n_fields; i++) {
		char name[JSON_NAME_MAX];
		json_field_name(&type->fields[i], name);
		if (strcmp(key, name) == 0 || strcmp(key, type->fields[i].name) == 0)
			return &type->fields[i];
	}
	return NULL;
}

/* Reads one field, which must not have come before; null leaves it at its default. */
static bool to_field(struct reader *r, const ProtobufCFieldDescriptor *field, const json_t *json, ProtobufCMessage *m)
{
	char *base = (char *)m;
	void *quantifier = base + field->quantifier_offset;
	void *member = base + field->offset;
	size_t index = PATH_NO_INDEX;
	bool ok;
	if (json_is_null(json)) {
		return true;
	} else if (field->label == PROTOBUF_C_LABEL_REPEATED) {
		ok = to_repeated(r, field, json, quantifier, member, &index);
	} else if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
		uint32_t *which = quantifier;
		ok = *which == 0 ? to_value(r, field, json, member) : refuse(r, "excludes another field given before");
		if (ok)
			*which = field->id;
	} else {
		ok = to_value(r, field, json, member);
	}
	if (!ok)
		path_prepend(r->path, field->name, index);
	return ok;
}

static bool to_message(struct reader *r, const ProtobufCMessageDescriptor *type, const json_t *json,
		       ProtobufCMessage **ret_message)
{
	if (!json_is_object(json))
		return refuse(r, "takes an object, got %s", kind_of(json));
	ProtobufCMessage *m = arena_alloc(r->arena, type->sizeof_message);
	bool *given = arena_alloc(r->arena, type->n_fields * sizeof *given);
	if (!m || !given)
		return no_memory(r);
	protobuf_c_message_init(type, m);
	memset(given, 0, type->n_fields * sizeof *given);
	json_t *object = (json_t *)json; /* jansson's iteration takes no const; it changes nothing */
	for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i)) {
		const char *key = json_object_iter_key(i);
		const ProtobufCFieldDescriptor *field = find_field(type, key);
		if (!field)
			return refuse(r, "has no field \"%.40s\"", key);
		if (given[field - type->fields]) {
			(void)refuse(r, "given more than once");
			path_prepend(r->path, field->name, PATH_NO_INDEX);
			return false;
		}
		given[field - type->fields] = true;
		if (!to_field(r, field, json_object_iter_value(i), m))
			return false;
	}
	*ret_message = m;
	return true;
}

enum status_code json_to_message(const ProtobufCMessageDescriptor *type, const json_t *json, struct arena *arena,
				 struct status *st, ProtobufCMessage **ret_message)
{
	struct reader r = { .arena = arena };
	if (to_message(&r, type, json, ret_message))
		return STATUS_OK;
	if (!r.path[0])
		return status_set(st, r.code, "%s %s", type->short_name, r.reason);
	return status_set(st, r.code, "%s %s", r.path, r.reason);
}
