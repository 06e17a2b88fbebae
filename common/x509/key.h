/*
 * Private keys and certificate requests. Keys are P-256 unless loaded.
 */
#ifndef X509_KEY_H
#define X509_KEY_H

#include <gnutls/abstract.h>
#include <gnutls/x509.h>

#include "common/base/buffer.h"

/* A new P-256 key. The caller frees with gnutls_x509_privkey_deinit(). About 0.1 ms. */
enum status_code x509_key_generate(struct status *st, gnutls_x509_privkey_t *ret_key) MUST_CHECK;

/* From a PEM file of mode 0600. `passphrase` (NULL: none) opens an encrypted PKCS #8. Blocks on the file. */
enum status_code x509_key_load(const char *path, const char *passphrase, struct status *st,
			       gnutls_x509_privkey_t *ret_key) MUST_CHECK;

/* Writes a PEM file of mode 0600, whole or not at all (a temporary beside it, fsync, rename). With a passphrase:
 * PKCS #8, PBES2 with AES-256. ALREADY_EXISTS: never overwrites. */
enum status_code x509_key_save(gnutls_x509_privkey_t key, const char *passphrase, const char *path,
			       struct status *st) MUST_CHECK;

/* PKCS #8 DER, a secret: buffer_wipe() it. And back. */
enum status_code x509_key_export(gnutls_x509_privkey_t key, struct status *st, struct buffer *ret_der) MUST_CHECK;
enum status_code x509_key_import(struct slice der, struct status *st, gnutls_x509_privkey_t *ret_key) MUST_CHECK;

/* SHA-1 of the subjectPublicKey bits (RFC 5280 §4.2.1.2 (1)): SKI and AKI. It names a key and proves nothing. */
#define X509_KEY_ID_SIZE 20
enum status_code x509_key_id(gnutls_pubkey_t key, struct status *st, uint8_t ret_id[X509_KEY_ID_SIZE]) MUST_CHECK;

/* Do the key and the certificate belong together? Sets *ret_match. */
enum status_code x509_key_matches(gnutls_x509_privkey_t key, gnutls_x509_crt_t crt, struct status *st,
				  int *ret_match) MUST_CHECK;

/* A PKCS #10 request for `common_name`, signed by `key` as proof of possession. PEM behind what is in ret_pem. */
enum status_code x509_request_make(gnutls_x509_privkey_t key, const char *common_name, struct status *st,
				   struct buffer *ret_pem) MUST_CHECK;

/*
 * A request from a peer: DER or PEM of at most 16 KiB, its key and the kind of its signature as common/x509/accept.h
 * says, then the signature verified once (proof of possession). Nothing else in it counts. About 0.15 ms.
 * The caller frees with gnutls_pubkey_deinit(). INVALID_ARGUMENT says what is wrong with it.
 */
enum status_code x509_request_verify(struct slice request, struct status *st, gnutls_pubkey_t *ret_key) MUST_CHECK;

#endif
