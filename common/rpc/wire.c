#include "common/rpc/wire.h"

#include <limits.h>
#include <string.h>

struct wire wire_reader(struct slice bytes)
{
	const uint8_t *p = bytes.len > 0 ? bytes.data : (const uint8_t *)"";
	return (struct wire){ .p = p, .end = p + bytes.len };
}

static bool read_varint(struct wire *w, unsigned max_bytes, uint64_t *ret_value)
{
	uint64_t value = 0;
	for (unsigned i = 0; i < max_bytes && w->p < w->end; i++) {
		uint8_t b = *w->p++;
		value |= (uint64_t)(b & 0x7F) << (7 * i);
		if (b < 0x80) {
			*ret_value = value;
			return true;
		}
	}
	return false;
}

bool wire_varint(struct wire *w, uint64_t *ret_value)
{
	return read_varint(w, WIRE_VARINT_MAX, ret_value);
}

static bool skip(struct wire *w, size_t n)
{
	if ((size_t)(w->end - w->p) < n)
		return false;
	w->p += n;
	return true;
}

bool wire_next(struct wire *w, struct wire_field *ret_field)
{
	uint64_t tag;
	if (!read_varint(w, 5, &tag) || tag > UINT32_MAX || tag >> 3 == 0)
		return false;
	struct wire_field f = { .number = (uint32_t)(tag >> 3), .type = (enum wire_type)(tag & 7) };
	switch (f.type) {
	case WIRE_VARINT:
		if (!wire_varint(w, &f.value))
			return false;
		break;
	case WIRE_64BIT:
		if (!skip(w, 8))
			return false;
		break;
	case WIRE_32BIT:
		if (!skip(w, 4))
			return false;
		break;
	case WIRE_BYTES: {
		uint64_t len;
		if (!read_varint(w, 5, &len) || len > INT_MAX)
			return false;
		f.bytes = (struct slice){ .data = w->p, .len = (size_t)len };
		if (!skip(w, f.bytes.len))
			return false;
		break;
	}
	default: /* groups, and what never was */
		return false;
	}
	*ret_field = f;
	return true;
}

/* The length of one sequence of two to four bytes that begins at p; 0: there is none. RFC 3629 §4. */
static size_t multibyte(const uint8_t *p, size_t left)
{
	uint8_t low = 0x80, high = 0xBF; /* of the second byte */
	size_t len;
	if (p[0] >= 0xC2 && p[0] <= 0xDF) {
		len = 2;
	} else if (p[0] >= 0xE0 && p[0] <= 0xEF) {
		len = 3;
		if (p[0] == 0xE0)
			low = 0xA0; /* overlong */
		else if (p[0] == 0xED)
			high = 0x9F; /* surrogates */
	} else if (p[0] >= 0xF0 && p[0] <= 0xF4) {
		len = 4;
		if (p[0] == 0xF0)
			low = 0x90;
		else if (p[0] == 0xF4)
			high = 0x8F; /* above U+10FFFF */
	} else {
		return 0;
	}
	if (left < len || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++) {
		if (p[i] < 0x80 || p[i] > 0xBF)
			return 0;
	}
	return len;
}

bool wire_text_valid(struct slice text)
{
	const uint8_t *p = text.data;
	size_t left = text.len;
	while (left > 0) {
		size_t n = *p > 0 && *p < 0x80 ? 1 : multibyte(p, left);
		if (n == 0)
			return false;
		p += n;
		left -= n;
	}
	return true;
}

size_t wire_varint_size(uint64_t value)
{
	size_t n = 1;
	while (value >>= 7)
		n++;
	return n;
}

static void put(struct wire_writer *w, const void *data, size_t len)
{
	if ((size_t)(w->end - w->p) < len) {
		w->full = true;
		return;
	}
	if (len > 0)
		memcpy(w->p, data, len);
	w->p += len;
}

void wire_put_varint(struct wire_writer *w, uint64_t value)
{
	uint8_t out[WIRE_VARINT_MAX];
	size_t n = 0;
	for (; value >= 0x80; value >>= 7)
		out[n++] = (uint8_t)(value | 0x80);
	out[n++] = (uint8_t)value;
	put(w, out, n);
}

void wire_put_tag(struct wire_writer *w, uint32_t number, enum wire_type type)
{
	wire_put_varint(w, (uint64_t)number << 3 | (unsigned)type);
}

void wire_put_bytes(struct wire_writer *w, uint32_t number, struct slice bytes)
{
	if (bytes.len == 0)
		return;
	wire_put_tag(w, number, WIRE_BYTES);
	wire_put_varint(w, bytes.len);
	put(w, bytes.data, bytes.len);
}

void wire_put_uint(struct wire_writer *w, uint32_t number, uint64_t value)
{
	if (value == 0)
		return;
	wire_put_tag(w, number, WIRE_VARINT);
	wire_put_varint(w, value);
}
