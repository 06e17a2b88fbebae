#include "services/ca/authority.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <gnutls/crypto.h>

#include "common/x509/key.h"

#define PURPOSE_SIZE 80 /* "ca/" and a name of at most 64 bytes */

struct authority {
	atomic_uint refs;
	struct x509_issuer issuer;
	struct x509_info info;
	struct buffer certificate; /* DER */
	struct buffer chain;       /* PEM */
};

static void purpose_of(const char *name, char ret_purpose[PURPOSE_SIZE])
{
	snprintf(ret_purpose, PURPOSE_SIZE, "ca/%s", name);
}

static enum status_code import_certificate(struct authority *a, struct slice der, struct status *st)
{
	enum status_code rc = x509_import(der, st, &a->issuer.certificate);
	if (rc == STATUS_OK)
		rc = x509_info_read(a->issuer.certificate, st, &a->info);
	if (rc != STATUS_OK)
		return rc;
	if (!a->info.ca)
		return status_set(st, STATUS_FAILED_PRECONDITION, "its certificate is not a CA's; import another");
	if (a->info.not_after <= time(NULL))
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "its certificate has expired; make a new CA, or set this host's clock");
	if (!buffer_append(&a->certificate, der.data, der.len))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	if (gnutls_x509_crt_check_issuer(a->issuer.certificate, a->issuer.certificate))
		return STATUS_OK;
	return x509_to_pem(a->issuer.certificate, st, &a->chain);
}

/* Gives the key to the authority; frees it itself otherwise. */
static enum status_code take_key(struct authority *a, gnutls_x509_privkey_t key, struct status *st)
{
	int match = 0;
	enum status_code rc = x509_key_matches(key, a->issuer.certificate, st, &match);
	if (rc == STATUS_OK && !match)
		rc = status_set(st, STATUS_FAILED_PRECONDITION,
				"its key and its certificate do not belong together; import both again");
	if (rc != STATUS_OK) {
		gnutls_x509_privkey_deinit(key);
		return rc;
	}
	int rv = gnutls_privkey_init(&a->issuer.key);
	if (rv >= 0)
		rv = gnutls_privkey_import_x509(a->issuer.key, key, GNUTLS_PRIVKEY_IMPORT_AUTO_RELEASE);
	if (rv < 0) {
		gnutls_x509_privkey_deinit(key);
		return status_set(st, STATUS_INTERNAL, "its key: %s", gnutls_strerror(rv));
	}
	return STATUS_OK;
}

static enum status_code open_key(struct authority *a, const Kds__V1__CertificateAuthority *object,
				 const struct seal *seal, struct status *st)
{
	if (object->sealed_key.len == 0)
		return status_set(st, STATUS_FAILED_PRECONDITION, "its key is not in the replicated state");
	char purpose[PURPOSE_SIZE];
	purpose_of(object->name, purpose);
	struct buffer clear = { 0 };
	gnutls_x509_privkey_t key = NULL;
	struct slice sealed = { object->sealed_key.data, object->sealed_key.len };
	struct status why;
	enum status_code rc = seal_open(seal, purpose, sealed, &why, &clear);
	/* The other hosts of kds-ca may have the sealing key: callers are to go on to them. */
	if (rc != STATUS_OK)
		rc = status_set(st, rc == STATUS_FAILED_PRECONDITION ? STATUS_UNAVAILABLE : rc, "%s", why.message);
	if (rc == STATUS_OK)
		rc = x509_key_import((struct slice){ clear.data, clear.len }, st, &key);
	buffer_wipe(&clear);
	return rc == STATUS_OK ? take_key(a, key, st) : rc;
}

enum status_code authority_open(const Kds__V1__CertificateAuthority *object, const struct seal *seal, struct status *st,
				struct authority **ret_authority)
{
	enum status_code rc;
	struct authority *a = calloc(1, sizeof *a);
	if (!a)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "CA %s: out of memory", object->name);
	atomic_init(&a->refs, 1);
	if (object->retired) {
		rc = status_set(st, STATUS_FAILED_PRECONDITION,
				"it is retired; name another in the option 'authority' of kds-ca, or run: kds-cli ca retire --undo %s",
				object->name);
		goto out;
	}
	rc = import_certificate(a, (struct slice){ object->certificate.data, object->certificate.len }, st);
	if (rc == STATUS_OK)
		rc = open_key(a, object, seal, st);
out:
	if (rc == STATUS_OK) {
		*ret_authority = a;
	} else {
		authority_unref(a);
		(void)status_prefix(st, "CA %s", object->name);
	}
	return rc;
}

struct authority *authority_ref(struct authority *a)
{
	if (a)
		atomic_fetch_add_explicit(&a->refs, 1, memory_order_relaxed);
	return a;
}

void authority_unref(struct authority *a)
{
	if (!a || atomic_fetch_sub_explicit(&a->refs, 1, memory_order_acq_rel) != 1)
		return;
	if (a->issuer.key)
		gnutls_privkey_deinit(a->issuer.key); /* GnuTLS wipes the numbers of a key when it frees them */
	if (a->issuer.certificate)
		gnutls_x509_crt_deinit(a->issuer.certificate);
	x509_info_free(&a->info);
	buffer_free(&a->certificate);
	buffer_free(&a->chain);
	free(a);
}

const struct x509_issuer *authority_issuer(const struct authority *a)
{
	return &a->issuer;
}

int64_t authority_not_after(const struct authority *a)
{
	return a->info.not_after;
}

struct slice authority_key_id(const struct authority *a)
{
	return (struct slice){ a->info.key_id, a->info.key_id_len };
}

struct slice authority_certificate(const struct authority *a)
{
	return (struct slice){ a->certificate.data, a->certificate.len };
}

struct slice authority_chain(const struct authority *a)
{
	return (struct slice){ a->chain.data, a->chain.len };
}

static enum status_code self_sign(const struct x509_template *t, gnutls_x509_privkey_t key, struct status *st,
				  gnutls_x509_crt_t *ret_crt)
{
	enum status_code rc;
	gnutls_privkey_t signer = NULL;
	gnutls_pubkey_t public = NULL;
	int rv = gnutls_privkey_init(&signer);
	if (rv >= 0)
		rv = gnutls_privkey_import_x509(signer, key, 0);
	if (rv >= 0)
		rv = gnutls_pubkey_init(&public);
	if (rv >= 0)
		rv = gnutls_pubkey_import_privkey(public, signer, 0, 0);
	if (rv < 0)
		rc = status_set(st, STATUS_INTERNAL, "make a CA: %s", gnutls_strerror(rv));
	else
		rc = x509_build(t, public, &(struct x509_issuer){ .key = signer }, st, ret_crt);
	if (public)
		gnutls_pubkey_deinit(public);
	if (signer)
		gnutls_privkey_deinit(signer);
	return rc;
}

static enum status_code seal_key(struct authority_draft *d, gnutls_x509_privkey_t key, const struct seal *seal,
				 struct status *st)
{
	char purpose[PURPOSE_SIZE];
	purpose_of(d->name, purpose);
	struct buffer clear = { 0 }, sealed = { 0 };
	enum status_code rc = x509_key_export(key, st, &clear);
	if (rc == STATUS_OK)
		rc = seal_close(seal, purpose, (struct slice){ clear.data, clear.len }, st, &sealed);
	buffer_wipe(&clear);
	if (rc != STATUS_OK) {
		buffer_free(&sealed);
		return rc;
	}
	d->object.sealed_key = (ProtobufCBinaryData){ .data = sealed.data, .len = sealed.len };
	return STATUS_OK;
}

static enum status_code describe(struct authority_draft *d, gnutls_x509_crt_t crt, const struct x509_template *t,
				 struct status *st)
{
	struct x509_info info;
	enum status_code rc = x509_info_read(crt, st, &info);
	if (rc != STATUS_OK)
		return rc;
	memcpy(d->fingerprint, info.fingerprint, sizeof d->fingerprint);
	memcpy(d->key_id, info.key_id, sizeof d->key_id);
	d->record.serial = t->serial;
	d->record.fingerprint = (ProtobufCBinaryData){ .data = d->fingerprint, .len = sizeof d->fingerprint };
	d->record.subject = d->common_name;
	d->record.issuer_key_id = (ProtobufCBinaryData){ .data = d->key_id, .len = info.key_id_len };
	d->record.not_before = t->not_before;
	d->record.not_after = t->not_after;
	d->record.profile = (char *)"ca";
	x509_info_free(&info);
	struct buffer der = { 0 };
	rc = x509_to_der(crt, st, &der);
	d->object.certificate = (ProtobufCBinaryData){ .data = der.data, .len = der.len };
	return rc;
}

enum status_code authority_draft_make(const char *name, const char *common_name, uint64_t serial, int64_t now_s,
				      const struct seal *seal, struct status *st, struct authority_draft *ret_draft)
{
	struct authority_draft *d = ret_draft;
	if (strlen(name) >= sizeof d->name || strlen(common_name) >= sizeof d->common_name || serial == 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "make a CA: a name longer than 64 bytes, or no serial");
	kds__v1__certificate_authority__init(&d->object);
	kds__v1__issued_certificate__init(&d->record);
	snprintf(d->name, sizeof d->name, "%s", name);
	snprintf(d->common_name, sizeof d->common_name, "%s", common_name);
	d->object.name = d->name;

	/* An hour back: its first leaves begin before now (PROFILE_CLOCK_SKEW_S), and peers' clocks may be behind. */
	const struct x509_template t = {
		.common_name = d->common_name,
		.serial = serial,
		.not_before = now_s - 3600,
		.not_after = now_s + (int64_t)AUTHORITY_YEARS * 365 * 86400,
		.usage = X509_USAGE_CA,
		.path_len = 0,
	};
	gnutls_x509_privkey_t key = NULL;
	gnutls_x509_crt_t crt = NULL;
	enum status_code rc = x509_key_generate(st, &key);
	if (rc != STATUS_OK)
		return rc;
	rc = self_sign(&t, key, st, &crt);
	if (rc == STATUS_OK)
		rc = describe(d, crt, &t, st);
	if (rc == STATUS_OK)
		rc = seal_key(d, key, seal, st);
	if (rc != STATUS_OK)
		authority_draft_fini(d);
	if (crt)
		gnutls_x509_crt_deinit(crt);
	gnutls_x509_privkey_deinit(key);
	return rc;
}

void authority_draft_fini(struct authority_draft *draft)
{
	free(draft->object.certificate.data);
	free(draft->object.sealed_key.data);
	draft->object.certificate = draft->object.sealed_key = (ProtobufCBinaryData){ 0 };
}
