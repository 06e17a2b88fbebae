#include "clients/cli/init.h"

#include <limits.h>
#include <stdio.h>

#include "clients/cli/pki.h"
#include "common/base/file.h"
#include "common/x509/cert.h"
#include "common/x509/key.h"

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
static enum status_code issue(const struct init_plan *plan, const struct pki_authority *a,
			      const struct pki_subject *subject, const char *folder, const char *base,
			      struct status *st)
{
	gnutls_x509_privkey_t key = NULL;
	gnutls_x509_crt_t crt = NULL;
	char file[64];
	if (x509_key_generate(st, &key) != STATUS_OK)
		return st->code;
	enum status_code rc = pki_issue(a, subject, key, st, &crt);
	snprintf(file, sizeof file, "%s.key", base);
	if (rc == STATUS_OK)
		rc = save_key(plan, folder, file, key, NULL, st);
	snprintf(file, sizeof file, "%s.crt", base);
	if (rc == STATUS_OK)
		rc = save_certificate(plan, folder, file, crt, st);
	if (rc == STATUS_OK)
		rc = save_certificate(plan, folder, "infra-ca.crt", pki_authority_certificate(a), st);
	if (crt)
		gnutls_x509_crt_deinit(crt);
	gnutls_x509_privkey_deinit(key);
	return rc;
}

enum status_code init_issue(const struct init_plan *plan, const struct pki_authority *a, const struct init_service *s,
			    const char *folder, struct status *st)
{
	const struct pki_subject subject = {
		.cluster = plan->cluster,
		.kds_name = plan->kds_name,
		.role = init_kind_name(s->kind),
		.name = s->name,
		.host = &s->host,
	};
	return issue(plan, a, &subject, folder, "service", st);
}

static enum status_code issue_services(const struct init_plan *plan, const struct pki_authority *a, struct status *st)
{
	enum status_code rc = STATUS_OK;
	for (size_t i = 0; i < plan->n_services && rc == STATUS_OK; i++)
		rc = init_issue(plan, a, &plan->services[i], plan->services[i].name, st);
	return rc;
}

enum status_code init_make_pki(const struct init_plan *plan, struct status *st)
{
	if (plan->authority)
		return issue_services(plan, plan->authority, st);
	struct pki_authority *a = NULL;
	const struct pki_subject subject = {
		.cluster = plan->cluster, .kds_name = plan->kds_name, .role = "admin", .name = "admin"
	};
	enum status_code rc = pki_authority_make(plan->cluster, st, &a);
	if (rc == STATUS_OK)
		rc = issue(plan, a, &subject, "admin", "admin", st);
	if (rc == STATUS_OK)
		rc = save_key(plan, "admin", "infra-ca.key", pki_authority_key(a), plan->passphrase, st);
	if (rc == STATUS_OK)
		rc = issue_services(plan, a, st);
	pki_authority_free(a);
	return rc;
}
