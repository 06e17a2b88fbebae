/*
 * Sealing: what the replicators hold but cannot read (CA keys, masterKeys).
 *
 * Sealed = 1 byte version | 8 bytes key id | 12 bytes nonce | ciphertext | 16 bytes tag: AES-256-GCM (NIST SP 800-38D), version,
 * key id and purpose as associated data. A file holds one or more sealing keys; any unseals, the newest (first) seals.
 * File: one line a key, "kds-seal-1 <key id hex> <key base64>", mode 0600.
 */
#ifndef X509_SEAL_H
#define X509_SEAL_H

#include "common/base/buffer.h"

struct seal;

/* Makes a file with one new key. ALREADY_EXISTS: never overwrites. Blocks. */
enum status_code seal_create_file(const char *path, struct status *st) MUST_CHECK;
/* Blocks. FAILED_PRECONDITION with what to do: missing, readable by others, damaged. */
enum status_code seal_load(const char *path, struct status *st, struct seal **ret_seal) MUST_CHECK;
void seal_free(struct seal *s);

/* `purpose` ("ca/default") must be the same to unseal: a sealed key cannot be passed off as another. Appends. */
enum status_code seal_close(const struct seal *s, const char *purpose, struct slice clear, struct status *st,
			    struct buffer *out) MUST_CHECK;
/* The caller wipes ret_clear (buffer_wipe). FAILED_PRECONDITION: sealed under a key this file has not, names its id;
 * DATA_LOSS: damaged, or of another purpose. */
enum status_code seal_open(const struct seal *s, const char *purpose, struct slice sealed, struct status *st,
			   struct buffer *ret_clear) MUST_CHECK;

#endif
