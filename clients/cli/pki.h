/* The infrastructure CA at work: what `init` makes first, and `service issue` makes again. */
#ifndef CLI_PKI_H
#define CLI_PKI_H

#include <gnutls/x509.h>

#include "clients/cli/host.h"

struct pki_authority;

/* A new root for the cluster, ten years. */
enum status_code pki_authority_make(const char *cluster, struct status *st,
				    struct pki_authority **ret_authority) MUST_CHECK;
/* From files. `passphrase` opens the key. INVALID_ARGUMENT: missing, or they do not belong together. Blocks. */
enum status_code pki_authority_load(const char *certificate_file, const char *key_file, const char *passphrase,
				    struct status *st, struct pki_authority **ret_authority) MUST_CHECK;
/* NULL is allowed. */
void pki_authority_free(struct pki_authority *a);

/* Borrowed. */
gnutls_x509_crt_t pki_authority_certificate(const struct pki_authority *a);
gnutls_x509_privkey_t pki_authority_key(const struct pki_authority *a);

/* Whom a certificate is for. */
struct pki_subject {
	const char *cluster, *kds_name;
	const char *role; /* "serial", "ca", "keydist": 30 days, server and client; "admin": 90 days, client alone */
	const char *name; /* in the role URI */
	const struct host *host; /* where it runs; NULL for "admin" */
};

/* The caller frees with gnutls_x509_crt_deinit(). */
enum status_code pki_issue(const struct pki_authority *a, const struct pki_subject *subject, gnutls_x509_privkey_t key,
			   struct status *st, gnutls_x509_crt_t *ret_crt) MUST_CHECK;

#endif
