#include "common/x509/shape.h"

/* Parts outside of extensions; ours have about a hundred. */
#define PARTS_MAX 256
/* And inside: each name is one at least. */
#define EXTENSION_PARTS_MAX (PARTS_MAX + X509_NAMES_MAX / X509_NAME_OVERHEAD)

enum { TAG_OCTET_STRING = 0x04, TAG_SEQUENCE = 0x30, TAG_CONSTRUCTED = 0x20, TAG_NUMBER = 0x1f };

/* X.690 §8.1: the tag, of one byte, and the length, in the definite form. False: it is none. Leaves *p at the content. */
static bool read_head(const uint8_t **p, const uint8_t *end, uint8_t *ret_tag, size_t *ret_len)
{
	if (end - *p < 2 || (**p & TAG_NUMBER) == TAG_NUMBER)
		return false;
	uint8_t tag = *(*p)++;
	size_t len = *(*p)++;
	if (len >= 0x80) {
		size_t n = len & 0x7f;
		if (n == 0 || n > 3 || (size_t)(end - *p) < n)
			return false;
		for (len = 0; n > 0; n--)
			len = len << 8 | *(*p)++;
	}
	*ret_tag = tag;
	*ret_len = len;
	return len <= (size_t)(end - *p);
}

enum status_code x509_check_shape(struct slice der, struct status *st)
{
	if (der.len > X509_CERTIFICATE_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "certificate of %zu bytes; at most %d are taken", der.len,
				  X509_CERTIFICATE_MAX);
	const uint8_t *p = der.data, *end = p + der.len, *extension_end = p;
	unsigned parts = 0, extension_parts = 0;
	while (p < end) {
		bool in_extension = p < extension_end;
		uint8_t tag;
		size_t len;
		if (!read_head(&p, end, &tag, &len))
			return status_set(st, STATUS_INVALID_ARGUMENT, "certificate: not DER");
		if (in_extension ? ++extension_parts > EXTENSION_PARTS_MAX : ++parts > PARTS_MAX)
			return status_set(st, STATUS_INVALID_ARGUMENT, "certificate of too many parts");
		/* What an extension holds is DER in an OCTET STRING (RFC 5280 §4.1); inside, one is but bytes. */
		bool extension = tag == TAG_OCTET_STRING && !in_extension && len > 0 && *p == TAG_SEQUENCE;
		if (extension)
			extension_end = p + len;
		else if (!(tag & TAG_CONSTRUCTED))
			p += len;
	}
	return STATUS_OK;
}
