#include "services/keydist/derive.h"

#include <string.h>

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "common/base/secret.h"
#include "common/x509/name.h"

#define LABEL "kds-v2"
#define IDENT_VERSION 2
#define IDENT_HEAD (1 + 8 + 8 + 1)
#define PRK_SIZE 32 /* SHA-256 */

static void put_u64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (56 - 8 * i));
}

static uint64_t get_u64(const uint8_t *p)
{
	uint64_t v = 0;
	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

size_t ident_encode(const struct ident *ident, uint8_t ret_bytes[IDENT_SIZE_MAX])
{
	size_t len = strlen(ident->group);
	ret_bytes[0] = IDENT_VERSION;
	put_u64(ret_bytes + 1, ident->published_ms);
	put_u64(ret_bytes + 9, ident->nonce_ms);
	ret_bytes[17] = (uint8_t)len;
	memcpy(ret_bytes + IDENT_HEAD, ident->group, len);
	return IDENT_HEAD + len;
}

enum status_code ident_decode(struct slice bytes, struct status *st, struct ident *ret_ident)
{
	const uint8_t *p = bytes.data;
	if (bytes.len > 0 && p[0] != IDENT_VERSION)
		return status_set(st, STATUS_INVALID_ARGUMENT, "an ident of version %u is not known here, only of %d",
				  p[0], IDENT_VERSION);
	if (bytes.len <= IDENT_HEAD || bytes.len != IDENT_HEAD + (size_t)p[17])
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "%zu bytes are no ident; pass it on exactly as Create gave it", bytes.len);
	struct ident ident = { .published_ms = get_u64(p + 1), .nonce_ms = get_u64(p + 9) };
	memcpy(ident.group, p + IDENT_HEAD, p[17]);
	unsigned group_len;
	enum status_code rc = x509_parse_group(ident.group, st, &group_len, NULL);
	if (rc == STATUS_OK && group_len != p[17]) /* a fragment, or a NUL in between */
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "it has a fragment");
	if (rc != STATUS_OK) {
		status_prefix(st, "not the group of an ident");
		return rc;
	}
	*ret_ident = ident;
	return STATUS_OK;
}

static bool append_field(struct buffer *info, const void *data, size_t len)
{
	const uint8_t head[4] = { (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len };
	return buffer_append(info, head, sizeof head) && buffer_append(info, data, len);
}

static bool append_info(struct buffer *info, const char *kds_name, const struct ident *ident,
			struct slice issuer_key_id)
{
	uint8_t published[8], nonce[8];
	put_u64(published, ident->published_ms);
	put_u64(nonce, ident->nonce_ms);
	return append_field(info, LABEL, strlen(LABEL)) && append_field(info, kds_name, strlen(kds_name)) &&
	       append_field(info, published, sizeof published) && append_field(info, nonce, sizeof nonce) &&
	       append_field(info, ident->group, strlen(ident->group)) &&
	       append_field(info, issuer_key_id.data, issuer_key_id.len);
}

enum status_code derive_key(const uint8_t master_key[MASTER_KEY_SIZE], const char *kds_name, const struct ident *ident,
			    struct slice issuer_key_id, struct status *st, uint8_t ret_key[DERIVED_KEY_SIZE])
{
	uint8_t salt_bytes[32], prk_bytes[PRK_SIZE], key[DERIVED_KEY_SIZE];
	struct buffer info = { 0 };
	if (!append_info(&info, kds_name, ident, issuer_key_id)) {
		buffer_free(&info);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "derive a key: out of memory");
	}
	const gnutls_datum_t ikm = { (uint8_t *)master_key, MASTER_KEY_SIZE };
	const gnutls_datum_t salt = { salt_bytes, sizeof salt_bytes };
	const gnutls_datum_t prk = { prk_bytes, sizeof prk_bytes };
	const gnutls_datum_t context = { info.data, (unsigned)info.len };

	int rv = gnutls_hash_fast(GNUTLS_DIG_SHA256, LABEL, strlen(LABEL), salt_bytes);
	if (rv >= 0)
		rv = gnutls_hkdf_extract(GNUTLS_MAC_SHA256, &ikm, &salt, prk_bytes);
	if (rv >= 0)
		rv = gnutls_hkdf_expand(GNUTLS_MAC_SHA256, &prk, &context, key, sizeof key);
	if (rv >= 0)
		memcpy(ret_key, key, sizeof key);
	secret_wipe(prk_bytes, sizeof prk_bytes);
	secret_wipe(key, sizeof key);
	buffer_free(&info);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "derive a key: %s", gnutls_strerror(rv));
	return STATUS_OK;
}
