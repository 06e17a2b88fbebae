#include "clients/cli/pki.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/cli/cli.h"
#include "common/base/clock.h"
#include "common/x509/cert.h"
#include "common/x509/key.h"

#define DAY_S ((int64_t)24 * 3600)
#define CA_DAYS (10 * 365)
#define SERVICE_DAYS 30
#define ADMIN_DAYS 90
#define BACKDATE_S 300 /* hosts whose clocks are a little behind accept it at once */

struct pki_authority {
	gnutls_x509_crt_t certificate;
	gnutls_x509_privkey_t x509_key;
	gnutls_privkey_t key; /* the same, as x509_build() takes it */
};

void pki_authority_free(struct pki_authority *a)
{
	if (!a)
		return;
	if (a->certificate)
		gnutls_x509_crt_deinit(a->certificate);
	if (a->key)
		gnutls_privkey_deinit(a->key);
	if (a->x509_key)
		gnutls_x509_privkey_deinit(a->x509_key);
	free(a);
}

gnutls_x509_crt_t pki_authority_certificate(const struct pki_authority *a)
{
	return a->certificate;
}

gnutls_x509_privkey_t pki_authority_key(const struct pki_authority *a)
{
	return a->x509_key;
}

static enum status_code gnutls_failed(struct status *st, const char *what, int rv)
{
	return status_set(st, STATUS_INTERNAL, "%s: %s", what, gnutls_strerror(rv));
}

static enum status_code public_key_of(gnutls_x509_privkey_t key, struct status *st, gnutls_pubkey_t *ret_pubkey)
{
	gnutls_pubkey_t pubkey = NULL;
	gnutls_privkey_t abstract = NULL;
	int rv = gnutls_pubkey_init(&pubkey);
	if (rv >= 0)
		rv = gnutls_privkey_init(&abstract);
	if (rv >= 0)
		rv = gnutls_privkey_import_x509(abstract, key, 0);
	if (rv >= 0)
		rv = gnutls_pubkey_import_privkey(pubkey, abstract, 0, 0);
	if (abstract)
		gnutls_privkey_deinit(abstract);
	if (rv < 0) {
		if (pubkey)
			gnutls_pubkey_deinit(pubkey);
		return gnutls_failed(st, "public key", rv);
	}
	*ret_pubkey = pubkey;
	return STATUS_OK;
}

static enum status_code sign(const struct x509_template *t, gnutls_x509_privkey_t subject_key,
			     const struct pki_authority *a, struct status *st, gnutls_x509_crt_t *ret_crt)
{
	gnutls_pubkey_t pubkey = NULL;
	if (public_key_of(subject_key, st, &pubkey) != STATUS_OK)
		return st->code;
	const struct x509_issuer issuer = { .certificate = a->certificate, .key = a->key };
	enum status_code rc = x509_build(t, pubkey, &issuer, st, ret_crt);
	gnutls_pubkey_deinit(pubkey);
	return rc;
}

/* Takes the key over, also on failure. */
static enum status_code authority_new(gnutls_x509_privkey_t key, struct status *st,
				      struct pki_authority **ret_authority)
{
	struct pki_authority *a = calloc(1, sizeof *a);
	if (!a) {
		gnutls_x509_privkey_deinit(key);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "infrastructure CA: out of memory");
	}
	a->x509_key = key;
	int rv = gnutls_privkey_init(&a->key);
	if (rv >= 0)
		rv = gnutls_privkey_import_x509(a->key, key, 0);
	if (rv < 0) {
		pki_authority_free(a);
		return gnutls_failed(st, "infrastructure CA", rv);
	}
	*ret_authority = a;
	return STATUS_OK;
}

static int64_t now_s(void)
{
	return (int64_t)(clock_unix_ms() / 1000);
}

enum status_code pki_authority_make(const char *cluster, struct status *st, struct pki_authority **ret_authority)
{
	char name[320];
	snprintf(name, sizeof name, "%s infrastructure CA", cluster);
	const struct x509_template t = {
		.common_name = strlen(name) <= 64 ? name : "infrastructure CA", /* RFC 5280 allows no longer one */
		.not_before = now_s() - BACKDATE_S,
		.not_after = now_s() + CA_DAYS * DAY_S,
		.usage = X509_USAGE_CA,
		/*
		 * Room for an issuing CA, whose path length is 0, and for the new root's certificate by the old one while the
		 * root is replaced. It cannot be changed later. Not for a cluster's CA under an issuing one.
		 */
		.path_len = 2,
	};
	gnutls_x509_privkey_t key = NULL;
	gnutls_x509_crt_t certificate = NULL;
	struct pki_authority *a = NULL;
	if (x509_key_generate(st, &key) != STATUS_OK || authority_new(key, st, &a) != STATUS_OK)
		return st->code;
	if (sign(&t, key, a, st, &certificate) != STATUS_OK) {
		pki_authority_free(a);
		return st->code;
	}
	a->certificate = certificate;
	*ret_authority = a;
	return STATUS_OK;
}

enum status_code pki_authority_load(const char *certificate_file, const char *key_file, const char *passphrase,
				    struct status *st, struct pki_authority **ret_authority)
{
	gnutls_x509_privkey_t key = NULL;
	struct pki_authority *a = NULL;
	int match = 0;
	if (x509_key_load(key_file, passphrase, st, &key) != STATUS_OK)
		return cli_bad_input(st);
	if (authority_new(key, st, &a) != STATUS_OK)
		return st->code;
	enum status_code rc = x509_load(certificate_file, st, &a->certificate);
	if (rc == STATUS_OK)
		rc = x509_key_matches(key, a->certificate, st, &match);
	else
		rc = cli_bad_input(st);
	if (rc == STATUS_OK && !match)
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "%s is not the key of %s", key_file, certificate_file);
	if (rc != STATUS_OK) {
		pki_authority_free(a);
		return rc;
	}
	*ret_authority = a;
	return STATUS_OK;
}

enum status_code pki_issue(const struct pki_authority *a, const struct pki_subject *subject, gnutls_x509_privkey_t key,
			   struct status *st, gnutls_x509_crt_t *ret_crt)
{
	char uri[512];
	const struct host *host = subject->host;
	snprintf(uri, sizeof uri, "kds://%s/role/%s/%s", subject->cluster, subject->role, subject->name);
	const char *const uris[] = { uri };
	const char *const dns_names[] = { subject->kds_name, host ? host->name : NULL };
	const char *const addresses[] = { host ? host->name : NULL };
	struct x509_template t = {
		.common_name = host ? subject->kds_name : subject->name,
		.not_before = now_s() - BACKDATE_S,
		.not_after = now_s() + (host ? SERVICE_DAYS : ADMIN_DAYS) * DAY_S,
		.usage = host ? X509_USAGE_SERVER | X509_USAGE_CLIENT : X509_USAGE_CLIENT,
		.uris = uris,
		.n_uris = 1,
	};
	if (host) {
		t.dns_names = dns_names;
		t.n_dns_names = !host->numeric && strcmp(host->name, subject->kds_name) != 0 ? 2 : 1;
		t.addresses = addresses;
		t.n_addresses = host->numeric ? 1 : 0;
	}
	return sign(&t, key, a, st, ret_crt);
}
