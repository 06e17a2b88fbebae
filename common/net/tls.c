#include "common/net/tls.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include <gnutls/x509.h>

#include "common/base/clock.h"
#include "common/x509/accept.h"
#include "common/x509/cert.h"
#include "common/x509/key.h"
#include "common/x509/shape.h"

/*
 * X25519 first: it is the cheapest, and a client sends the first group's key share alone (GNUTLS_KEY_SHARE_TOP).
 * With 1.2 only what 1.3 would accept too: ephemeral ECDH and AEAD (RFC 9325 §4.2); conn_tls.c asks for the extended
 * master secret besides.
 */
#define GROUPS ":-GROUP-ALL:+GROUP-X25519:+GROUP-SECP256R1:+GROUP-SECP384R1:+GROUP-SECP521R1"
/* No SHA-1, which GnuTLS still takes in 1.2. What x509_accept_signature() takes in certificates. */
#define SIGNATURES                                                                                                     \
	":-SIGN-ALL:+SIGN-ECDSA-SECP256R1-SHA256:+SIGN-ECDSA-SECP384R1-SHA384:+SIGN-ECDSA-SECP521R1-SHA512"            \
	":+SIGN-ECDSA-SHA256:+SIGN-ECDSA-SHA384:+SIGN-ECDSA-SHA512:+SIGN-EdDSA-Ed25519"                                \
	":+SIGN-RSA-PSS-RSAE-SHA256:+SIGN-RSA-PSS-RSAE-SHA384:+SIGN-RSA-PSS-RSAE-SHA512"                               \
	":+SIGN-RSA-SHA256:+SIGN-RSA-SHA384:+SIGN-RSA-SHA512"
#define CIPHERS ":-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305"
static const char *const priorities[] = {
	[TLS_MINIMUM_1_3] = "NORMAL:-VERS-ALL:+VERS-TLS1.3" CIPHERS GROUPS SIGNATURES,
	[TLS_MINIMUM_1_2] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-KX-ALL:+ECDHE-ECDSA:+ECDHE-RSA" CIPHERS GROUPS
			    SIGNATURES,
};

struct tls_credentials {
	atomic_uint refs;
	gnutls_certificate_credentials_t gnutls;
	gnutls_priority_t priority;
	int64_t not_after;
};

static enum status_code check_shape(gnutls_x509_crt_t crt, struct status *st)
{
	gnutls_datum_t der = { 0 };
	int rv = gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_DER, &der);
	if (rv < 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "%s", gnutls_strerror(rv));
	enum status_code rc = x509_check_shape((struct slice){ .data = der.data, .len = der.size }, st);
	gnutls_free(der.data);
	return rc;
}

/* Checked here and not left to the peers: they would refuse us one by one, and say so less clearly. */
static enum status_code check_certificate(struct tls_credentials *c, const char *file, gnutls_x509_crt_t crt,
					  struct status *st)
{
	c->not_after = gnutls_x509_crt_get_expiration_time(crt);
	struct status detail;
	if (x509_accept_certificate(crt, &detail) != STATUS_OK || check_shape(crt, &detail) != STATUS_OK)
		return status_set(st, STATUS_FAILED_PRECONDITION, "%s: peers would refuse it: %s", file, detail.message);
	if (c->not_after < (int64_t)(clock_unix_ms() / 1000))
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%s: the certificate has expired; an administrator makes a new one, with kds-cli cert sign "
				  "for a node, kds-cli service issue for a service",
				  file);
	return STATUS_OK;
}

static enum status_code set_pair(struct tls_credentials *c, const char *certificate_file, gnutls_x509_crt_t *list,
				 unsigned n, const char *key_file, gnutls_x509_privkey_t key, struct status *st)
{
	int rv = gnutls_certificate_set_x509_key(c->gnutls, list, (int)n, key); /* copies */
	if (rv == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%s and %s do not belong together; use the key the certificate was made for",
				  certificate_file, key_file);
	if (rv < 0)
		return status_set(st, STATUS_FAILED_PRECONDITION, "%s, %s: %s", certificate_file, key_file,
				  gnutls_strerror(rv));
	return STATUS_OK;
}

static enum status_code load_pair(struct tls_credentials *c, const char *certificate_file, const char *key_file,
				  struct status *st)
{
	gnutls_x509_crt_t *list = NULL;
	gnutls_x509_privkey_t key = NULL;
	unsigned n = 0;
	enum status_code rc = x509_load_list(certificate_file, st, &list, &n);
	if (rc == STATUS_INVALID_ARGUMENT)
		st->code = rc = STATUS_FAILED_PRECONDITION; /* what the file holds, not what it was asked for */
	if (rc != STATUS_OK)
		return rc;
	rc = x509_key_load(key_file, NULL, st, &key);
	if (rc == STATUS_OK)
		rc = check_certificate(c, certificate_file, list[0], st);
	if (rc == STATUS_OK)
		rc = set_pair(c, certificate_file, list, n, key_file, key, st);
	if (key)
		gnutls_x509_privkey_deinit(key);
	x509_list_free(list, n);
	return rc;
}

enum status_code tls_credentials_load(const char *certificate_file, const char *key_file, enum tls_minimum minimum,
				      struct status *st, struct tls_credentials **ret_credentials)
{
	if (!certificate_file != !key_file)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "a certificate and its key belong together: give both files or neither");
	struct tls_credentials *c = calloc(1, sizeof *c);
	if (!c)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "TLS credentials: out of memory");
	atomic_init(&c->refs, 1);
	c->not_after = INT64_MAX;
	int rv = gnutls_certificate_allocate_credentials(&c->gnutls);
	if (rv >= 0)
		rv = gnutls_priority_init(&c->priority, priorities[minimum], NULL);
	enum status_code rc = STATUS_OK;
	if (rv < 0)
		rc = status_set(st, STATUS_INTERNAL, "TLS credentials: %s", gnutls_strerror(rv));
	if (rc == STATUS_OK && certificate_file)
		rc = load_pair(c, certificate_file, key_file, st);
	if (rc != STATUS_OK) {
		tls_credentials_unref(c);
		return rc;
	}
	*ret_credentials = c;
	return STATUS_OK;
}

struct tls_credentials *tls_credentials_ref(struct tls_credentials *c)
{
	if (c)
		atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return c;
}

void tls_credentials_unref(struct tls_credentials *c)
{
	if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
		return;
	if (c->gnutls)
		gnutls_certificate_free_credentials(c->gnutls);
	if (c->priority)
		gnutls_priority_deinit(c->priority);
	free(c);
}

gnutls_certificate_credentials_t tls_credentials_gnutls(struct tls_credentials *c)
{
	return c->gnutls;
}

gnutls_priority_t tls_credentials_priority(struct tls_credentials *c)
{
	return c->priority;
}

long long tls_credentials_not_after(struct tls_credentials *c)
{
	return c->not_after;
}
