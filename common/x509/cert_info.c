#include "common/x509/cert.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include <gnutls/x509-ext.h>

#include "common/x509/key.h"

#define OID_SAN "2.5.29.17"
#define NAMES_MAX 4096
#define SERIAL_MAX 20 /* RFC 5280 §4.1.2.2 */

static enum status_code failed(struct status *st, const char *what, int rv)
{
	return status_set(st, rv == GNUTLS_E_MEMORY_ERROR ? STATUS_RESOURCE_EXHAUSTED : STATUS_INVALID_ARGUMENT,
			  "certificate: %s: %s", what, gnutls_strerror(rv));
}

/*
 * A copy as a C string. A NUL would end it for us and not for the CA that signed it ("good.example\0.evil.example"),
 * a control character could forge a line of a log or a table.
 */
static enum status_code copy_text(const void *data, size_t len, const char *what, struct status *st, char **ret_text)
{
	const unsigned char *bytes = data;
	for (size_t i = 0; i < len; i++) {
		if (bytes[i] < 0x20 || bytes[i] == 0x7f)
			return status_set(st, STATUS_INVALID_ARGUMENT, "certificate: a control character in its %s", what);
	}
	char *text = malloc(len + 1);
	if (!text)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "certificate: out of memory");
	if (len > 0)
		memcpy(text, data, len);
	text[len] = '\0';
	*ret_text = text;
	return STATUS_OK;
}

static enum status_code append_name(char ***names, size_t *n, char *name, struct status *st)
{
	/* Doubles at powers of two, so that no capacity need be kept. */
	if ((*n & (*n - 1)) == 0) {
		char **more = realloc(*names, (*n ? 2 * *n : 1) * sizeof *more);
		if (!more) {
			free(name);
			return status_set(st, STATUS_RESOURCE_EXHAUSTED, "certificate: out of memory");
		}
		*names = more;
	}
	(*names)[(*n)++] = name;
	return STATUS_OK;
}

static enum status_code append_address(struct x509_info *info, const gnutls_datum_t *bytes, struct status *st)
{
	char text[INET6_ADDRSTRLEN];
	int family = bytes->size == 4 ? AF_INET : AF_INET6;
	if ((bytes->size != 4 && bytes->size != 16) || !inet_ntop(family, bytes->data, text, sizeof text))
		return status_set(st, STATUS_INVALID_ARGUMENT, "certificate: an IP address of %u bytes", bytes->size);
	char *copy = strdup(text);
	if (!copy)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "certificate: out of memory");
	return append_name(&info->addresses, &info->n_addresses, copy, st);
}

static enum status_code append_san(struct x509_info *info, unsigned type, const gnutls_datum_t *value,
				   struct status *st)
{
	char *text = NULL;
	enum status_code rc = STATUS_OK;
	switch (type) {
	case GNUTLS_SAN_DNSNAME:
		rc = copy_text(value->data, value->size, "DNS name", st, &text);
		return rc == STATUS_OK ? append_name(&info->dns_names, &info->n_dns_names, text, st) : rc;
	case GNUTLS_SAN_URI:
		rc = copy_text(value->data, value->size, "URI", st, &text);
		return rc == STATUS_OK ? append_name(&info->uris, &info->n_uris, text, st) : rc;
	case GNUTLS_SAN_IPADDRESS:
		return append_address(info, value, st);
	default: /* other kinds of names mean nothing to us */
		return STATUS_OK;
	}
}

static enum status_code read_names(gnutls_x509_crt_t crt, struct x509_info *info, struct status *st)
{
	gnutls_datum_t der = { 0 };
	gnutls_subject_alt_names_t sans = NULL;
	int rv = gnutls_x509_crt_get_extension_by_oid2(crt, OID_SAN, 0, &der, NULL);
	if (rv == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
		return STATUS_OK;
	if (rv >= 0)
		rv = gnutls_subject_alt_names_init(&sans);
	if (rv >= 0)
		rv = gnutls_x509_ext_import_subject_alt_names(&der, sans, 0);
	enum status_code rc = rv < 0 ? failed(st, "subject alternative names", rv) : STATUS_OK;
	for (unsigned i = 0; rc == STATUS_OK && i < NAMES_MAX; i++) {
		unsigned type = 0;
		gnutls_datum_t value = { 0 };
		rv = gnutls_subject_alt_names_get(sans, i, &type, &value, NULL);
		if (rv == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
			break;
		rc = rv < 0 ? failed(st, "subject alternative names", rv) : append_san(info, type, &value, st);
	}
	if (sans)
		gnutls_subject_alt_names_deinit(sans);
	gnutls_free(der.data);
	return rc;
}

static enum status_code read_subject(gnutls_x509_crt_t crt, struct x509_info *info, struct status *st)
{
	char name[256];
	size_t len = sizeof name;
	int rv = gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &len);
	if (rv == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
		len = 0;
	else if (rv < 0)
		return failed(st, "common name", rv);
	enum status_code rc = copy_text(name, len, "common name", st, &info->common_name);
	if (rc != STATUS_OK)
		return rc;
	gnutls_datum_t issuer = { 0 };
	rv = gnutls_x509_crt_get_issuer_dn3(crt, &issuer, 0);
	if (rv < 0)
		return failed(st, "issuer", rv);
	rc = copy_text(issuer.data, issuer.size, "issuer", st, &info->issuer_name);
	gnutls_free(issuer.data);
	return rc;
}

static enum status_code read_serial(gnutls_x509_crt_t crt, struct x509_info *info, struct status *st)
{
	uint8_t bytes[SERIAL_MAX + 1];
	size_t len = sizeof bytes;
	int rv = gnutls_x509_crt_get_serial(crt, bytes, &len);
	if (rv < 0)
		return failed(st, "serial", rv);
	if (len > 0 && bytes[0] & 0x80)
		return status_set(st, STATUS_INVALID_ARGUMENT, "certificate: negative serial");
	size_t start = 0;
	while (start < len && bytes[start] == 0)
		start++;
	if (len - start > SERIAL_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "certificate: serial longer than %d bytes", SERIAL_MAX);
	info->serial_len = len - start;
	memcpy(info->serial, bytes + start, info->serial_len);
	return STATUS_OK;
}

static enum status_code compute_key_id(gnutls_x509_crt_t crt, struct x509_info *info, struct status *st)
{
	gnutls_pubkey_t key;
	int rv = gnutls_pubkey_init(&key);
	if (rv < 0)
		return failed(st, "key", rv);
	enum status_code rc;
	rv = gnutls_pubkey_import_x509(key, crt, 0);
	if (rv < 0)
		rc = failed(st, "key", rv);
	else
		rc = x509_key_id(key, st, info->key_id);
	if (rc == STATUS_OK)
		info->key_id_len = 20;
	gnutls_pubkey_deinit(key);
	return rc;
}

static enum status_code read_key_ids(gnutls_x509_crt_t crt, struct x509_info *info, struct status *st)
{
	size_t len = sizeof info->issuer_key_id;
	int rv = gnutls_x509_crt_get_authority_key_id(crt, info->issuer_key_id, &len, NULL);
	if (rv >= 0)
		info->issuer_key_id_len = len;
	/* X509_UNSUPPORTED_EXTENSION: it names the issuer's serial instead of a key id. */
	else if (rv != GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE && rv != GNUTLS_E_X509_UNSUPPORTED_EXTENSION)
		return failed(st, "authority key id", rv);
	len = sizeof info->key_id;
	rv = gnutls_x509_crt_get_subject_key_id(crt, info->key_id, &len, NULL);
	if (rv == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
		return compute_key_id(crt, info, st);
	if (rv < 0)
		return failed(st, "subject key id", rv);
	info->key_id_len = len;
	return STATUS_OK;
}

static enum status_code read_usage(gnutls_x509_crt_t crt, struct x509_info *info, struct status *st)
{
	info->ca = gnutls_x509_crt_get_ca_status(crt, NULL) > 0;
	if (info->ca)
		info->usage |= X509_USAGE_CA;
	for (unsigned i = 0;; i++) {
		char oid[128];
		size_t len = sizeof oid;
		int rv = gnutls_x509_crt_get_key_purpose_oid(crt, i, oid, &len, NULL);
		if (rv == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
			if (i == 0)
				info->usage |= X509_USAGE_SERVER | X509_USAGE_CLIENT;
			return STATUS_OK;
		}
		if (rv < 0)
			return failed(st, "extended key usage", rv);
		if (strcmp(oid, GNUTLS_KP_ANY) == 0)
			info->usage |= X509_USAGE_SERVER | X509_USAGE_CLIENT;
		else if (strcmp(oid, GNUTLS_KP_TLS_WWW_SERVER) == 0)
			info->usage |= X509_USAGE_SERVER;
		else if (strcmp(oid, GNUTLS_KP_TLS_WWW_CLIENT) == 0)
			info->usage |= X509_USAGE_CLIENT;
	}
}

static enum status_code read_rest(gnutls_x509_crt_t crt, struct x509_info *info, struct status *st)
{
	size_t len = sizeof info->fingerprint;
	int rv = gnutls_x509_crt_get_fingerprint(crt, GNUTLS_DIG_SHA256, info->fingerprint, &len);
	if (rv < 0)
		return failed(st, "fingerprint", rv);
	time_t begins = gnutls_x509_crt_get_activation_time(crt), ends = gnutls_x509_crt_get_expiration_time(crt);
	if (begins == (time_t)-1 || ends == (time_t)-1)
		return status_set(st, STATUS_INVALID_ARGUMENT, "certificate: unreadable validity");
	info->not_before = begins;
	info->not_after = ends;
	return STATUS_OK;
}

enum status_code x509_info_read(gnutls_x509_crt_t crt, struct status *st, struct x509_info *ret_info)
{
	struct x509_info info = { 0 };
	enum status_code rc = read_subject(crt, &info, st);
	if (rc == STATUS_OK)
		rc = read_names(crt, &info, st);
	if (rc == STATUS_OK)
		rc = read_serial(crt, &info, st);
	if (rc == STATUS_OK)
		rc = read_key_ids(crt, &info, st);
	if (rc == STATUS_OK)
		rc = read_usage(crt, &info, st);
	if (rc == STATUS_OK)
		rc = read_rest(crt, &info, st);
	if (rc == STATUS_OK)
		*ret_info = info;
	else
		x509_info_free(&info);
	return rc;
}

static void free_names(char **names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

void x509_info_free(struct x509_info *info)
{
	free(info->common_name);
	free(info->issuer_name);
	free_names(info->dns_names, info->n_dns_names);
	free_names(info->addresses, info->n_addresses);
	free_names(info->uris, info->n_uris);
	*info = (struct x509_info){ 0 };
}

uint64_t x509_info_serial(const struct x509_info *info)
{
	if (info->serial_len > 8 || (info->serial_len == 8 && info->serial[0] & 0x80))
		return UINT64_MAX;
	uint64_t serial = 0;
	for (size_t i = 0; i < info->serial_len; i++)
		serial = serial << 8 | info->serial[i];
	return serial;
}
