#include "common/x509/cert.h"

#include <string.h>

#include <gnutls/crypto.h>
#include <gnutls/x509-ext.h>

#include "common/base/secret.h"
#include "common/x509/key.h"
#include "common/x509/name.h"

#define COMMON_NAME_MAX 64 /* ub-common-name, RFC 5280 appendix A.1 */
#define KEY_ID_SIZE 20
#define OID_SAN "2.5.29.17"

static enum status_code failed(struct status *st, const char *what, int rv)
{
	return status_set(st, rv == GNUTLS_E_MEMORY_ERROR ? STATUS_RESOURCE_EXHAUSTED : STATUS_INTERNAL,
			  "build a certificate: %s: %s", what, gnutls_strerror(rv));
}

/* GnuTLS takes the content of the INTEGER as it is: minimal, and positive by a leading zero where needed. */
static enum status_code set_serial(gnutls_x509_crt_t crt, uint64_t serial, struct status *st)
{
	uint8_t bytes[16];
	size_t start = 0;
	if (serial == 0) {
		enum status_code rc = secret_random(bytes, sizeof bytes, st);
		if (rc != STATUS_OK)
			return rc;
		bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40);
	} else {
		for (size_t i = sizeof bytes; i-- > 0; serial >>= 8)
			bytes[i] = (uint8_t)serial;
		while (bytes[start] == 0)
			start++;
		if (bytes[start] & 0x80)
			start--;
	}
	int rv = gnutls_x509_crt_set_serial(crt, bytes + start, sizeof bytes - start);
	return rv < 0 ? failed(st, "serial", rv) : STATUS_OK;
}

static int add_text_names(gnutls_subject_alt_names_t sans, unsigned type, const char *const *names, size_t n)
{
	int rv = 0;
	for (size_t i = 0; i < n && rv >= 0; i++) {
		gnutls_datum_t name = { .data = (unsigned char *)names[i], .size = (unsigned)strlen(names[i]) };
		rv = gnutls_subject_alt_names_set(sans, type, &name, NULL);
	}
	return rv;
}

static enum status_code collect_names(gnutls_subject_alt_names_t sans, const struct x509_template *t,
				      struct status *st)
{
	int rv = add_text_names(sans, GNUTLS_SAN_DNSNAME, t->dns_names, t->n_dns_names);
	for (size_t i = 0; i < t->n_addresses && rv >= 0; i++) {
		uint8_t bytes[16];
		gnutls_datum_t address = { .data = bytes };
		enum status_code rc = x509_parse_address(t->addresses[i], st, bytes, &address.size);
		if (rc != STATUS_OK)
			return rc;
		rv = gnutls_subject_alt_names_set(sans, GNUTLS_SAN_IPADDRESS, &address, NULL);
	}
	if (rv >= 0)
		rv = add_text_names(sans, GNUTLS_SAN_URI, t->uris, t->n_uris);
	return rv < 0 ? failed(st, "subject alternative names", rv) : STATUS_OK;
}

/* All names in one go: gnutls_x509_crt_set_subject_alt_name() decodes and encodes the extension again for each. */
static enum status_code set_names(gnutls_x509_crt_t crt, const struct x509_template *t, struct status *st)
{
	if (t->n_dns_names + t->n_addresses + t->n_uris == 0)
		return STATUS_OK;
	gnutls_subject_alt_names_t sans;
	gnutls_datum_t der = { 0 };
	int rv = gnutls_subject_alt_names_init(&sans);
	if (rv < 0)
		return failed(st, "subject alternative names", rv);
	enum status_code rc = collect_names(sans, t, st);
	if (rc != STATUS_OK)
		goto out;
	rv = gnutls_x509_ext_export_subject_alt_names(sans, &der);
	/* Not critical: the subject is never empty (RFC 5280 §4.2.1.6). */
	if (rv >= 0)
		rv = gnutls_x509_crt_set_extension_by_oid(crt, OID_SAN, der.data, der.size, 0);
	if (rv < 0)
		rc = failed(st, "subject alternative names", rv);
out:
	gnutls_free(der.data);
	gnutls_subject_alt_names_deinit(sans);
	return rc;
}

static enum status_code set_usage(gnutls_x509_crt_t crt, const struct x509_template *t, struct status *st)
{
	int rv;
	if (t->usage & X509_USAGE_CA) {
		rv = gnutls_x509_crt_set_basic_constraints(crt, 1, t->path_len);
		if (rv >= 0)
			rv = gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN);
		return rv < 0 ? failed(st, "CA constraints", rv) : STATUS_OK;
	}
	rv = gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_DIGITAL_SIGNATURE);
	if (rv >= 0 && t->usage & X509_USAGE_SERVER)
		rv = gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_SERVER, 0);
	if (rv >= 0 && t->usage & X509_USAGE_CLIENT)
		rv = gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_CLIENT, 0);
	return rv < 0 ? failed(st, "key usage", rv) : STATUS_OK;
}

/* SKI from the key; AKI is the issuer's SKI, whatever way that was made (RFC 5280 §4.2.1.1). */
static enum status_code set_key_ids(gnutls_x509_crt_t crt, gnutls_pubkey_t key, gnutls_x509_crt_t issuer,
				    struct status *st)
{
	uint8_t id[KEY_ID_SIZE];
	enum status_code rc = x509_key_id(key, st, id);
	if (rc != STATUS_OK)
		return rc;
	int rv = gnutls_x509_crt_set_subject_key_id(crt, id, sizeof id);
	if (rv < 0)
		return failed(st, "subject key id", rv);
	uint8_t of_issuer[64];
	size_t len = sizeof of_issuer;
	if (!issuer) {
		rv = gnutls_x509_crt_set_authority_key_id(crt, id, sizeof id);
	} else {
		rv = gnutls_x509_crt_get_subject_key_id(issuer, of_issuer, &len, NULL);
		if (rv == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
			return status_set(st, STATUS_FAILED_PRECONDITION,
					  "build a certificate: the CA's own has no subject key identifier; use another CA");
		if (rv >= 0)
			rv = gnutls_x509_crt_set_authority_key_id(crt, of_issuer, len);
	}
	return rv < 0 ? failed(st, "authority key id", rv) : STATUS_OK;
}

static enum status_code check_issuer(const struct x509_template *t, gnutls_x509_crt_t issuer, struct status *st)
{
	unsigned usage = GNUTLS_KEY_KEY_CERT_SIGN;
	int rv = gnutls_x509_crt_get_key_usage(issuer, &usage, NULL);
	if (gnutls_x509_crt_get_ca_status(issuer, NULL) <= 0 || (rv < 0 && rv != GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) ||
	    !(usage & GNUTLS_KEY_KEY_CERT_SIGN))
		return status_set(st, STATUS_FAILED_PRECONDITION, "build a certificate: the issuer's is no CA certificate");
	time_t issuer_ends = gnutls_x509_crt_get_expiration_time(issuer);
	if (issuer_ends != (time_t)-1 && t->not_after > issuer_ends)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "build a certificate: it would outlive its CA; ask for a shorter life, or renew the CA");
	return STATUS_OK;
}

static enum status_code check_template(const struct x509_template *t, struct status *st)
{
	size_t len = strlen(t->common_name);
	if (len == 0 || len > COMMON_NAME_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "build a certificate: a common name has 1 to %d bytes (RFC 5280), not %zu", COMMON_NAME_MAX,
				  len);
	if (t->not_after <= t->not_before)
		return status_set(st, STATUS_INVALID_ARGUMENT, "build a certificate: it would end before it begins");
	return STATUS_OK;
}

static enum status_code fill(gnutls_x509_crt_t crt, const struct x509_template *t, gnutls_pubkey_t key,
			     gnutls_x509_crt_t issuer, struct status *st)
{
	/* GnuTLS refuses extensions in a certificate that is not version 3 yet. */
	int rv = gnutls_x509_crt_set_version(crt, 3);
	if (rv >= 0)
		rv = gnutls_x509_crt_set_activation_time(crt, (time_t)t->not_before);
	if (rv >= 0)
		rv = gnutls_x509_crt_set_expiration_time(crt, (time_t)t->not_after);
	if (rv >= 0)
		rv = gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, t->common_name,
						   (unsigned)strlen(t->common_name));
	if (rv >= 0)
		rv = gnutls_x509_crt_set_pubkey(crt, key);
	if (rv < 0)
		return failed(st, "subject", rv);
	enum status_code rc = set_serial(crt, t->serial, st);
	if (rc == STATUS_OK)
		rc = set_usage(crt, t, st);
	if (rc == STATUS_OK)
		rc = set_names(crt, t, st);
	if (rc == STATUS_OK)
		rc = set_key_ids(crt, key, issuer, st);
	return rc;
}

enum status_code x509_build(const struct x509_template *t, gnutls_pubkey_t key, const struct x509_issuer *issuer,
			    struct status *st, gnutls_x509_crt_t *ret_crt)
{
	enum status_code rc = check_template(t, st);
	if (rc == STATUS_OK && issuer->certificate)
		rc = check_issuer(t, issuer->certificate, st);
	if (rc != STATUS_OK)
		return rc;
	gnutls_x509_crt_t crt;
	int rv = gnutls_x509_crt_init(&crt);
	if (rv < 0)
		return failed(st, "start", rv);
	rc = fill(crt, t, key, issuer->certificate, st);
	if (rc != STATUS_OK)
		goto out;
	/* No digest named: the one that fits the issuer's key. Reproducible: the nonce of ECDSA follows from key and content
	 * (RFC 6979), so that what was signed once can be made again of its record. */
	rv = gnutls_x509_crt_privkey_sign(crt, issuer->certificate ? issuer->certificate : crt, issuer->key,
					  GNUTLS_DIG_UNKNOWN, GNUTLS_PRIVKEY_FLAG_REPRODUCIBLE);
	if (rv < 0)
		rc = failed(st, "sign", rv);
out:
	if (rc == STATUS_OK)
		*ret_crt = crt;
	else
		gnutls_x509_crt_deinit(crt);
	return rc;
}
