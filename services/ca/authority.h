/*
 * A CA that this process can sign with: its certificate and its private key, in this process's memory alone.
 * In the replicated state it is a CertificateAuthority whose key is sealed (common/x509/seal.h). Immutable, counted.
 */
#ifndef CA_AUTHORITY_H
#define CA_AUTHORITY_H

#include "common/x509/cert.h"
#include "common/x509/seal.h"
#include "config.pb-c.h"
#include "serial.pb-c.h"

#define AUTHORITY_YEARS 5

struct authority;

/*
 * Unseals and imports; the caller owns the reference. UNAVAILABLE: sealed under a key that `seal` has not.
 * FAILED_PRECONDITION: retired, certificate and key do not belong together, no CA certificate, expired. DATA_LOSS:
 * damaged. About 0.5 ms.
 */
enum status_code authority_open(const Kds__V1__CertificateAuthority *object, const struct seal *seal, struct status *st,
				struct authority **ret_authority) MUST_CHECK;

/* NULL is allowed in both. */
struct authority *authority_ref(struct authority *a);
void authority_unref(struct authority *a);

/* Borrowed, like all that follows. Signing with it from several threads at once is safe. */
const struct x509_issuer *authority_issuer(const struct authority *a);
int64_t authority_not_after(const struct authority *a);
struct slice authority_key_id(const struct authority *a);
struct slice authority_certificate(const struct authority *a); /* DER */
/* What a peer needs between a leaf and its anchor, PEM; empty for a self-signed CA, which is the anchor itself. */
struct slice authority_chain(const struct authority *a);

/* A new self-signed CA, ready to be recorded and put. */
struct authority_draft {
	Kds__V1__CertificateAuthority object; /* its bytes are the draft's */
	Kds__V1__IssuedCertificate record;    /* without requester */
	uint8_t fingerprint[32], key_id[32];
	char name[65], common_name[65];
};

/* Makes a key and signs its certificate: CN `common_name`, valid AUTHORITY_YEARS from an hour before `now_s` (Unix
 * seconds) on. INVALID_ARGUMENT: a name that is empty or longer than 64 bytes. About 0.3 ms. */
enum status_code authority_draft_make(const char *name, const char *common_name, uint64_t serial, int64_t now_s,
				      const struct seal *seal, struct status *st,
				      struct authority_draft *ret_draft) MUST_CHECK;
void authority_draft_fini(struct authority_draft *draft);

#endif
