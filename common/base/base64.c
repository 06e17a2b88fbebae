#include "common/base/base64.h"

static const char alphabet[64] = {
	'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O', 'P', 'Q', 'R', 'S', 'T', 'U', 'V',
	'W', 'X', 'Y', 'Z', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r',
	's', 't', 'u', 'v', 'w', 'x', 'y', 'z', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '+', '/',
};

size_t base64_encoded_length(size_t len)
{
	return (len + 2) / 3 * 4;
}

void base64_encode(struct slice bytes, char *out)
{
	const uint8_t *p = bytes.data;
	for (size_t left = bytes.len; left > 0;) {
		size_t n = left < 3 ? left : 3;
		unsigned v = (unsigned)p[0] << 16;
		if (n > 1)
			v |= (unsigned)p[1] << 8;
		if (n > 2)
			v |= p[2];
		*out++ = alphabet[v >> 18];
		*out++ = alphabet[v >> 12 & 63];
		*out++ = n > 1 ? alphabet[v >> 6 & 63] : '=';
		*out++ = n > 2 ? alphabet[v & 63] : '=';
		p += n;
		left -= n;
	}
	*out = '\0';
}

size_t base64_decoded_max(size_t len)
{
	return len / 4 * 3 + 3;
}

/* The six bits of a character; -1: none. */
static int value_of(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+' || c == '-')
		return 62;
	if (c == '/' || c == '_')
		return 63;
	return -1;
}

bool base64_decode(struct slice text, uint8_t *out, size_t *ret_len)
{
	const char *p = text.data;
	size_t len = text.len;
	size_t padding = 0;
	while (padding < 2 && len > 0 && p[len - 1] == '=') {
		len--;
		padding++;
	}
	if (len % 4 == 1 || (padding > 0 && text.len % 4 != 0))
		return false;
	size_t n = 0;
	unsigned bits = 0, v = 0;
	for (size_t i = 0; i < len; i++) {
		int six = value_of(p[i]);
		if (six < 0)
			return false;
		v = v << 6 | (unsigned)six;
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			out[n++] = (uint8_t)(v >> bits);
			v &= (1u << bits) - 1;
		}
	}
	if (v != 0)
		return false;
	*ret_len = n;
	return true;
}
