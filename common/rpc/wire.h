/*
 * protobuf's wire format, read and written by hand where the generated code would cost allocations or trust.
 * (https://protobuf.dev/programming-guides/encoding/) Nothing here allocates or blocks.
 */
#ifndef RPC_WIRE_H
#define RPC_WIRE_H

#include <stdbool.h>

#include "common/base/buffer.h"

enum wire_type { WIRE_VARINT = 0, WIRE_64BIT = 1, WIRE_BYTES = 2, WIRE_32BIT = 5 };

/* What is still to be read. */
struct wire {
	const uint8_t *p;
	const uint8_t *end;
};

struct wire_field {
	uint32_t number;
	enum wire_type type;
	uint64_t value;     /* WIRE_VARINT */
	struct slice bytes; /* WIRE_BYTES: the content, borrowed */
};

struct wire wire_reader(struct slice bytes);
/* At most 10 bytes. False: cut off or longer. */
bool wire_varint(struct wire *w, uint64_t *ret_value) MUST_CHECK;
/*
 * The next field, for w->p < w->end. False: malformed. Never takes what protobuf-c refuses: tags and lengths of at
 * most 5 bytes, lengths below 2 GiB, no groups; and no field number that would have to be truncated.
 */
bool wire_next(struct wire *w, struct wire_field *ret_field) MUST_CHECK;

/* UTF-8 as RFC 3629 §4 defines it, and no NUL: what a C string can hold. */
bool wire_text_valid(struct slice text) MUST_CHECK;

/* Bounded output: sets `full` instead of writing beyond `end`. */
struct wire_writer {
	uint8_t *p;
	uint8_t *end;
	bool full;
};

#define WIRE_VARINT_MAX 10
size_t wire_varint_size(uint64_t value);
void wire_put_varint(struct wire_writer *w, uint64_t value);
void wire_put_tag(struct wire_writer *w, uint32_t number, enum wire_type type);
/* proto3: a field that is empty or zero is not written. */
void wire_put_bytes(struct wire_writer *w, uint32_t number, struct slice bytes);
void wire_put_uint(struct wire_writer *w, uint32_t number, uint64_t value);

#endif
