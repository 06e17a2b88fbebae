#include "clients/cli/init.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/x509/cert.h"
#include "common/x509/key.h"

#define DAY_S ((int64_t)24 * 3600)
#define CA_DAYS (10 * 365)
#define SERVICE_DAYS 30
#define ADMIN_DAYS 90
#define BACKDATE_S 300 /* hosts whose clocks are a little behind accept it at once */

/* The CA while it signs. */
struct authority {
	gnutls_x509_crt_t certificate;
	gnutls_x509_privkey_t x509_key;
	gnutls_privkey_t key;
};

static void authority_fini(struct authority *a)
{
	if (a->certificate)
		gnutls_x509_crt_deinit(a->certificate);
	if (a->key)
		gnutls_privkey_deinit(a->key);
	if (a->x509_key)
		gnutls_x509_privkey_deinit(a->x509_key);
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
			     const struct authority *a, struct status *st, gnutls_x509_crt_t *ret_crt)
{
	gnutls_pubkey_t pubkey = NULL;
	if (public_key_of(subject_key, st, &pubkey) != STATUS_OK)
		return st->code;
	const struct x509_issuer issuer = { .certificate = a->certificate, .key = a->key };
	enum status_code rc = x509_build(t, pubkey, &issuer, st, ret_crt);
	gnutls_pubkey_deinit(pubkey);
	return rc;
}

static enum status_code authority_init(const struct init_plan *plan, struct authority *a, struct status *st)
{
	int64_t now = (int64_t)(clock_unix_ms() / 1000);
	char name[320];
	snprintf(name, sizeof name, "%s infrastructure CA", plan->cluster);
	const struct x509_template t = {
		.common_name = strlen(name) <= 64 ? name : "infrastructure CA", /* RFC 5280 allows no longer one */
		.not_before = now - BACKDATE_S,
		.not_after = now + CA_DAYS * DAY_S,
		.usage = X509_USAGE_CA,
		.path_len = 1, /* room for the issuing CA that renews services */
	};
	if (x509_key_generate(st, &a->x509_key) != STATUS_OK)
		return st->code;
	int rv = gnutls_privkey_init(&a->key);
	if (rv >= 0)
		rv = gnutls_privkey_import_x509(a->key, a->x509_key, 0);
	if (rv < 0)
		return gnutls_failed(st, "infrastructure CA", rv);
	gnutls_x509_crt_t certificate;
	enum status_code rc = sign(&t, a->x509_key, a, st, &certificate);
	if (rc == STATUS_OK)
		a->certificate = certificate;
	return rc;
}

static enum status_code save_certificate(const struct init_plan *plan, const char *folder, const char *file,
					 gnutls_x509_crt_t crt, struct status *st)
{
	char path[PATH_MAX];
	struct buffer pem = { 0 };
	enum status_code rc = init_path(plan, folder, file, st, path, sizeof path);
	if (rc == STATUS_OK)
		rc = x509_to_pem(crt, st, &pem);
	if (rc == STATUS_OK)
		rc = file_write(path, (struct slice){ .data = pem.data, .len = pem.len }, 0644, false, st);
	buffer_free(&pem);
	return rc;
}

static enum status_code save_key(const struct init_plan *plan, const char *folder, const char *file,
				 gnutls_x509_privkey_t key, const char *passphrase, struct status *st)
{
	char path[PATH_MAX];
	enum status_code rc = init_path(plan, folder, file, st, path, sizeof path);
	return rc == STATUS_OK ? x509_key_save(key, passphrase, path, st) : rc;
}

/* A key, a certificate for it, and beside them the CA's certificate: what one process needs. */
static enum status_code issue(const struct init_plan *plan, const struct authority *a, const struct x509_template *t,
			      const char *folder, const char *base, struct status *st)
{
	gnutls_x509_privkey_t key;
	gnutls_x509_crt_t crt = NULL;
	char file[64];
	if (x509_key_generate(st, &key) != STATUS_OK)
		return st->code;
	enum status_code rc = sign(t, key, a, st, &crt);
	snprintf(file, sizeof file, "%s.key", base);
	if (rc == STATUS_OK)
		rc = save_key(plan, folder, file, key, NULL, st);
	snprintf(file, sizeof file, "%s.crt", base);
	if (rc == STATUS_OK)
		rc = save_certificate(plan, folder, file, crt, st);
	if (rc == STATUS_OK)
		rc = save_certificate(plan, folder, "infra-ca.crt", a->certificate, st);
	if (crt)
		gnutls_x509_crt_deinit(crt);
	gnutls_x509_privkey_deinit(key);
	return rc;
}

static enum status_code issue_service(const struct init_plan *plan, const struct authority *a,
				      const struct init_service *s, struct status *st)
{
	int64_t now = (int64_t)(clock_unix_ms() / 1000);
	char uri[512];
	snprintf(uri, sizeof uri, "kds://%s/role/%s/%s", plan->cluster, init_kind_name(s->kind), s->name);
	const char *dns_names[] = { plan->kds_name, s->host.name };
	const char *addresses[] = { s->host.name };
	const char *uris[] = { uri };
	const bool second_name = !s->host.numeric && strcmp(s->host.name, plan->kds_name) != 0;
	const struct x509_template t = {
		.common_name = plan->kds_name,
		.not_before = now - BACKDATE_S,
		.not_after = now + SERVICE_DAYS * DAY_S,
		.usage = X509_USAGE_SERVER | X509_USAGE_CLIENT,
		.dns_names = dns_names,
		.n_dns_names = second_name ? 2 : 1,
		.addresses = addresses,
		.n_addresses = s->host.numeric ? 1 : 0,
		.uris = uris,
		.n_uris = 1,
	};
	return issue(plan, a, &t, s->name, "service", st);
}

static enum status_code issue_admin(const struct init_plan *plan, const struct authority *a, struct status *st)
{
	int64_t now = (int64_t)(clock_unix_ms() / 1000);
	char uri[512];
	snprintf(uri, sizeof uri, "kds://%s/role/admin/admin", plan->cluster);
	const char *uris[] = { uri };
	const struct x509_template t = {
		.common_name = "admin",
		.not_before = now - BACKDATE_S,
		.not_after = now + ADMIN_DAYS * DAY_S,
		.usage = X509_USAGE_CLIENT,
		.uris = uris,
		.n_uris = 1,
	};
	return issue(plan, a, &t, "admin", "admin", st);
}

enum status_code init_make_pki(const struct init_plan *plan, struct status *st)
{
	struct authority a = { 0 };
	enum status_code rc = authority_init(plan, &a, st);
	if (rc == STATUS_OK)
		rc = issue_admin(plan, &a, st);
	if (rc == STATUS_OK)
		rc = save_key(plan, "admin", "infra-ca.key", a.x509_key, plan->passphrase, st);
	for (size_t i = 0; i < plan->n_services && rc == STATUS_OK; i++)
		rc = issue_service(plan, &a, &plan->services[i], st);
	authority_fini(&a);
	return rc;
}
