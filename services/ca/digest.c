#include "services/ca/digest.h"

#include <string.h>

#include <gnutls/crypto.h>

static int add(gnutls_hash_hd_t hash, const void *data, size_t len)
{
	const uint8_t frame[] = { (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len };
	int rv = gnutls_hash(hash, frame, sizeof frame);
	return rv < 0 || len == 0 ? rv : gnutls_hash(hash, data, len);
}

enum status_code digest_of(const char *label, const struct slice *fields, size_t n, struct status *st,
			   uint8_t ret_digest[DIGEST_SIZE])
{
	gnutls_hash_hd_t hash;
	uint8_t digest[DIGEST_SIZE];
	int rv = gnutls_hash_init(&hash, GNUTLS_DIG_SHA256);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "digest of the request: %s", gnutls_strerror(rv));
	rv = add(hash, label, strlen(label));
	for (size_t i = 0; i < n && rv >= 0; i++)
		rv = add(hash, fields[i].data, fields[i].len);
	gnutls_hash_deinit(hash, digest);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "digest of the request: %s", gnutls_strerror(rv));
	memcpy(ret_digest, digest, sizeof digest);
	return STATUS_OK;
}
