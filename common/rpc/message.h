/*
 * Messages from a peer, made safe: protobuf-c takes whatever its wire format allows, handlers must not have to.
 */
#ifndef RPC_MESSAGE_H
#define RPC_MESSAGE_H

#include <protobuf-c/protobuf-c.h>

#include "common/base/buffer.h"

/*
 * Unpacks into the arena (its budget bounds the memory) after walking the wire bytes once: depth at most 16, at most
 * 65,536 elements of one repeated field, no group, UTF-8 valid and without NUL in every string, enum values known,
 * unknown fields skipped without being kept. INVALID_ARGUMENT names the field in `field` (path "object.node.name",
 * truncated to size); RESOURCE_EXHAUSTED: over the budget. The message lives as long as the arena.
 */
enum status_code message_unpack(const ProtobufCMessageDescriptor *type, struct slice wire, struct arena *arena,
				struct status *st, char *field, size_t field_size,
				const ProtobufCMessage **ret_message) MUST_CHECK;

/* Packs behind what is in `out`. RESOURCE_EXHAUSTED: no memory. */
enum status_code message_pack(const ProtobufCMessage *message, struct buffer *out, struct status *st) MUST_CHECK;

#endif
