/*
 * protobuf <-> JSON as protobuf's own mapping says (https://protobuf.dev/programming-guides/json/): lowerCamelCase
 * names, 64-bit integers as strings, bytes in base64, enums by name. From the descriptors alone.
 */
#ifndef RPC_JSON_H
#define RPC_JSON_H

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

#include "common/base/buffer.h"

/* Fields at their default are left out, as the mapping says, unless `all`. The caller owns the reference. */
enum status_code json_from_message(const ProtobufCMessage *message, bool all, struct status *st,
				   json_t **ret_json) MUST_CHECK;

/*
 * Takes lowerCamelCase and original names, integers as numbers or strings, enums by name or number, base64 and
 * base64url. INVALID_ARGUMENT names the field and what it takes; an unknown field is an error. The message lives
 * as long as the arena.
 */
enum status_code json_to_message(const ProtobufCMessageDescriptor *type, const json_t *json, struct arena *arena,
				 struct status *st, ProtobufCMessage **ret_message) MUST_CHECK;

#endif
