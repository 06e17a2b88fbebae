/* PKCS #10 (RFC 2986): the key and the proof that the requester holds it, nothing more. */
#include "common/x509/key.h"

#include <string.h>

#include "common/x509/accept.h"

#define REQUEST_MAX (16 * 1024)

static enum status_code sign_request(gnutls_x509_crq_t crq, gnutls_x509_privkey_t key, const char *common_name,
				     struct status *st, struct buffer *ret_pem)
{
	gnutls_datum_t pem = { 0 };
	int rv = gnutls_x509_crq_set_version(crq, 1);
	if (rv >= 0)
		rv = gnutls_x509_crq_set_dn_by_oid(crq, GNUTLS_OID_X520_COMMON_NAME, 0, common_name,
						   (unsigned)strlen(common_name));
	if (rv >= 0)
		rv = gnutls_x509_crq_set_key(crq, key);
	if (rv >= 0)
		rv = gnutls_x509_crq_sign2(crq, key, GNUTLS_DIG_UNKNOWN, 0);
	if (rv >= 0)
		rv = gnutls_x509_crq_export2(crq, GNUTLS_X509_FMT_PEM, &pem);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "make a certificate request: %s", gnutls_strerror(rv));
	bool fits = buffer_append(ret_pem, pem.data, pem.size);
	gnutls_free(pem.data);
	return fits ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "make a certificate request: out of memory");
}

enum status_code x509_request_make(gnutls_x509_privkey_t key, const char *common_name, struct status *st,
				   struct buffer *ret_pem)
{
	gnutls_x509_crq_t crq;
	int rv = gnutls_x509_crq_init(&crq);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "make a certificate request: %s", gnutls_strerror(rv));
	enum status_code rc = sign_request(crq, key, common_name, st, ret_pem);
	gnutls_x509_crq_deinit(crq);
	return rc;
}

static enum status_code import_key(gnutls_x509_crq_t crq, gnutls_pubkey_t key, struct slice request,
				   struct status *st)
{
	/* A DER request starts with SEQUENCE; anything else can only be PEM. */
	const unsigned char *bytes = request.data;
	gnutls_x509_crt_fmt_t format = bytes[0] == 0x30 ? GNUTLS_X509_FMT_DER : GNUTLS_X509_FMT_PEM;
	gnutls_datum_t data = { .data = (unsigned char *)request.data, .size = (unsigned)request.len };
	int rv = gnutls_x509_crq_import(crq, &data, format);
	if (rv < 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "certificate request: not PKCS #10 in %s: %s",
				  format == GNUTLS_X509_FMT_DER ? "DER" : "PEM", gnutls_strerror(rv));
	rv = gnutls_pubkey_import_x509_crq(key, crq, 0);
	if (rv < 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "certificate request: its key: %s", gnutls_strerror(rv));
	enum status_code rc = x509_accept_key(key, st);
	if (rc == STATUS_OK)
		rc = x509_accept_signature(gnutls_x509_crq_get_signature_algorithm(crq), st);
	if (rc != STATUS_OK) {
		(void)status_prefix(st, "certificate request");
		return rc;
	}
	rv = gnutls_x509_crq_verify(crq, 0);
	if (rv < 0)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "certificate request: not signed by its own key: %s; make a new one",
				  gnutls_strerror(rv));
	return STATUS_OK;
}

enum status_code x509_request_verify(struct slice request, struct status *st, gnutls_pubkey_t *ret_key)
{
	if (request.len == 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "certificate request: empty; give a PKCS #10 request");
	if (request.len > REQUEST_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "certificate request: longer than %d bytes", REQUEST_MAX);
	gnutls_x509_crq_t crq = NULL;
	gnutls_pubkey_t key = NULL;
	enum status_code rc;
	int rv = gnutls_x509_crq_init(&crq);
	if (rv >= 0)
		rv = gnutls_pubkey_init(&key);
	if (rv < 0) {
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "certificate request: %s", gnutls_strerror(rv));
		goto out;
	}
	rc = import_key(crq, key, request, st);
	if (rc == STATUS_OK) {
		*ret_key = key;
		key = NULL;
	}
out:
	if (key)
		gnutls_pubkey_deinit(key);
	if (crq)
		gnutls_x509_crq_deinit(crq);
	return rc;
}
