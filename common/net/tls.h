/*
 * What this process presents in a TLS handshake: certificate, chain, key, and the protocol versions it speaks.
 * Immutable and counted, so that a reload is one pointer swap and open connections keep what they began with.
 */
#ifndef NET_TLS_H
#define NET_TLS_H

#include <gnutls/gnutls.h>

#include "common/base/status.h"

struct tls_credentials;

enum tls_minimum {
	TLS_MINIMUM_1_3, /* TLS 1.3 alone */
	TLS_MINIMUM_1_2, /* and 1.2 with ECDHE, AEAD and extended master secret (stock NNG on Debian 12) */
};

/*
 * Loads PEM files (certificate before its chain; the key unencrypted, mode 0600). Both paths NULL: a client
 * without a certificate. Refuses a key that does not belong to the certificate, an expired certificate, or
 * one that no peer accepts (FAILED_PRECONDITION, with what to do). Blocks on the files. The caller owns the reference.
 */
enum status_code tls_credentials_load(const char *certificate_file, const char *key_file, enum tls_minimum minimum,
				      struct status *st, struct tls_credentials **ret_credentials) MUST_CHECK;

struct tls_credentials *tls_credentials_ref(struct tls_credentials *c);
void tls_credentials_unref(struct tls_credentials *c);

/* For common/net alone. Borrowed; live as long as the credentials. */
gnutls_certificate_credentials_t tls_credentials_gnutls(struct tls_credentials *c);
gnutls_priority_t tls_credentials_priority(struct tls_credentials *c);
/* When the certificate expires, Unix seconds; INT64_MAX without one. */
long long tls_credentials_not_after(struct tls_credentials *c);

#endif
