/*
 * Certificates that nobody vouches for, with a key that costs whoever computes with it: an RSA modulus and exponent of
 * 49,152 bits, which take a verifier some 16 s. No library makes one, and none is needed: the certificate is written
 * byte by byte, and what should be signatures is garbage.
 */
#ifndef TESTS_HUGE_KEY_H
#define TESTS_HUGE_KEY_H

#include <gnutls/gnutls.h>

enum huge_key_chain {
	HUGE_LEAF,             /* the peer's own key */
	HUGE_LEAF_AND_ISSUER,
	HUGE_ISSUER,           /* the peer's is P-256, under an issuer of that size */
	HUGE_CHAINS,
};

/*
 * For either end of TLS; trusts the CA of `ca_file` (PEM) itself. Every chain names that CA as its last issuer.
 * CertificateVerify and ServerKeyExchange are signed with garbage. They live until the process ends; failure ends it.
 */
gnutls_certificate_credentials_t huge_key_credentials(const char *ca_file, enum huge_key_chain chain);
/* How often such a signature was made: each handshake that got so far. */
unsigned long huge_key_signed(void);

#endif
