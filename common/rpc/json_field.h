/* What both directions of the JSON mapping know of a field. */
#ifndef RPC_JSON_FIELD_H
#define RPC_JSON_FIELD_H

#include <stddef.h>

#include <protobuf-c/protobuf-c.h>

#define JSON_NAME_MAX 64

/* "min_serial" to "minSerial", as protobuf's compilers do; cut at JSON_NAME_MAX - 1. */
void json_field_name(const ProtobufCFieldDescriptor *field, char out[static JSON_NAME_MAX]);

/* Bytes that one element of a repeated field takes. */
size_t json_element_size(ProtobufCType type);

#endif
