/*
 * Which keys, signatures and CA certificates are taken from others. What it costs to check a signature is the choice of
 * whoever made the key: an RSA key of 49,152 bits holds a processor for seconds. So a key is looked at before anything
 * is computed with it. Pure functions; INVALID_ARGUMENT says what is wrong, without a "where".
 */
#ifndef X509_ACCEPT_H
#define X509_ACCEPT_H

#include <gnutls/abstract.h>
#include <gnutls/x509.h>

#include "common/base/status.h"

/* ECDSA on P-256, P-384 or P-521; Ed25519; RSA of 2048 to 4096 bits with an exponent of 9 to 64 bits. */
enum status_code x509_accept_key(gnutls_pubkey_t key, struct status *st) MUST_CHECK;

/* A gnutls_sign_algorithm_t, or GnuTLS's error instead: one with SHA-256, SHA-384 or SHA-512, or Ed25519. */
enum status_code x509_accept_signature(int algorithm, struct status *st) MUST_CHECK;

/*
 * Both of a certificate. A CA's subject key id, where it has one, must besides be the key's own (x509_key_id()): issuers
 * are told apart by it. Hashes the key, no more.
 */
enum status_code x509_accept_certificate(gnutls_x509_crt_t crt, struct status *st) MUST_CHECK;

#endif
