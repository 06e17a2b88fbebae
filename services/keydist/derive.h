/*
 * From a masterKey to a group's key, version 2, and the ident that names such a key. Pure functions.
 *
 * key = HKDF-SHA256 (RFC 5869) with salt = SHA-256("kds-v2"), ikm = masterKey, and info = these fields, each behind its
 * length as u32 big-endian: "kds-v2", KDSName, published_ms (u64 BE), nonce_ms (u64 BE), group URI without fragment,
 * key id of the CA that signed the client.
 * ident = 0x02 | u64 BE published_ms | u64 BE nonce_ms | u8 length | group URI without fragment.
 */
#ifndef KEYDIST_DERIVE_H
#define KEYDIST_DERIVE_H

#include "common/base/buffer.h"

#define MASTER_KEY_SIZE 64
#define DERIVED_KEY_SIZE 32
#define IDENT_GROUP_MAX 255
#define IDENT_SIZE_MAX (1 + 8 + 8 + 1 + IDENT_GROUP_MAX)

struct ident {
	uint64_t published_ms; /* which masterKey */
	uint64_t nonce_ms;
	char group[IDENT_GROUP_MAX + 1];
};

/* Returns the length. `group` is not empty. */
size_t ident_encode(const struct ident *ident, uint8_t ret_bytes[IDENT_SIZE_MAX]);
/* INVALID_ARGUMENT: not an ident, or of a version that is not known here. */
enum status_code ident_decode(struct slice bytes, struct status *st, struct ident *ret_ident) MUST_CHECK;

/* A few microseconds. INTERNAL: the crypto library refuses. The caller wipes ret_key. */
enum status_code derive_key(const uint8_t master_key[MASTER_KEY_SIZE], const char *kds_name, const struct ident *ident,
			    struct slice issuer_key_id, struct status *st, uint8_t ret_key[DERIVED_KEY_SIZE]) MUST_CHECK;

#endif
