/*
 * Messages from a peer, made safe: protobuf-c takes whatever its wire format allows, handlers must not have to.
 */
#ifndef RPC_MESSAGE_H
#define RPC_MESSAGE_H

#include <protobuf-c/protobuf-c.h>

#include "common/base/buffer.h"

#define MESSAGE_MAX_DEPTH 16
#define MESSAGE_MAX_ELEMENTS 65536

/*
 * Unpacks into the arena (its budget bounds the memory) after walking the wire bytes once: depth at most 16, at most
 * 65,536 elements of repeated fields in one message, no group, UTF-8 valid and without NUL in every string, enum values
 * known, the wire type that the field's type asks for.
 * A field that is not repeated, and a oneof, may stand there once: protobuf would let the last one win or merge them,
 * but no encoder writes that, merging costs the square of its input, and two readers may see two messages in it.
 * Unknown fields are skipped: they cost memory of the budget, but the message that is returned has none.
 *
 * INVALID_ARGUMENT names the field in `field` (path "objects[2].node.name", truncated to size; "" where the bytes are
 * no protobuf at all; NULL is allowed); RESOURCE_EXHAUSTED: over the budget. The message lives as long as the arena.
 */
enum status_code message_unpack(const ProtobufCMessageDescriptor *type, struct slice wire, struct arena *arena,
				struct status *st, char *field, size_t field_size,
				const ProtobufCMessage **ret_message) MUST_CHECK;

/* Has neither the message nor one in it a field that this version does not know? For what must be understood as its
 * sender meant it, or not at all. (protobuf-c alone keeps such fields; message_unpack() drops them.) */
bool message_understood(ProtobufCMessage *message) MUST_CHECK;

/* Packs behind what is in `out`. RESOURCE_EXHAUSTED: no memory. */
enum status_code message_pack(const ProtobufCMessage *message, struct buffer *out, struct status *st) MUST_CHECK;

#endif
