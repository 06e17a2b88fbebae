/* Certificates in and out: DER, PEM, files. */
#include "common/x509/cert.h"

#include "common/base/file_trust.h"

#define CERTIFICATE_FILE_MAX (1 << 20)
#define LIST_MAX 64

enum status_code x509_import(struct slice data, struct status *st, gnutls_x509_crt_t *ret_crt)
{
	if (data.len == 0 || data.len > CERTIFICATE_FILE_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "certificate: %s", data.len ? "longer than 1 MiB" : "empty");
	gnutls_x509_crt_t crt;
	int rv = gnutls_x509_crt_init(&crt);
	if (rv < 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "certificate: %s", gnutls_strerror(rv));
	/* DER starts with SEQUENCE; anything else can only be PEM. */
	const unsigned char *bytes = data.data;
	gnutls_x509_crt_fmt_t format = bytes[0] == 0x30 ? GNUTLS_X509_FMT_DER : GNUTLS_X509_FMT_PEM;
	gnutls_datum_t d = { .data = (unsigned char *)data.data, .size = (unsigned)data.len };
	rv = gnutls_x509_crt_import(crt, &d, format);
	if (rv < 0) {
		gnutls_x509_crt_deinit(crt);
		return status_set(st, STATUS_INVALID_ARGUMENT, "certificate: not X.509 in DER or PEM: %s",
				  gnutls_strerror(rv));
	}
	*ret_crt = crt;
	return STATUS_OK;
}

enum status_code x509_load(const char *path, struct status *st, gnutls_x509_crt_t *ret_crt)
{
	struct buffer data = { 0 };
	enum status_code rc = file_trust_read(path, CERTIFICATE_FILE_MAX, st, &data);
	if (rc == STATUS_OK) {
		rc = x509_import((struct slice){ data.data, data.len }, st, ret_crt);
		if (rc != STATUS_OK)
			(void)status_prefix(st, "%s", path);
	}
	buffer_free(&data);
	return rc;
}

enum status_code x509_load_list(const char *path, struct status *st, gnutls_x509_crt_t **ret_list, unsigned *ret_n)
{
	struct buffer data = { 0 };
	enum status_code rc = file_trust_read(path, CERTIFICATE_FILE_MAX, st, &data);
	if (rc != STATUS_OK)
		return rc;
	gnutls_x509_crt_t *list = NULL;
	unsigned n = 0;
	gnutls_datum_t pem = { .data = data.data, .size = (unsigned)data.len };
	int rv = gnutls_x509_crt_list_import2(&list, &n, &pem, GNUTLS_X509_FMT_PEM, 0);
	buffer_free(&data);
	if (rv < 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: no certificates in PEM: %s", path, gnutls_strerror(rv));
	if (n > LIST_MAX) {
		x509_list_free(list, n);
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: more than %d certificates", path, LIST_MAX);
	}
	*ret_list = list;
	*ret_n = n;
	return STATUS_OK;
}

void x509_list_free(gnutls_x509_crt_t *list, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		gnutls_x509_crt_deinit(list[i]);
	gnutls_free(list);
}

static enum status_code append_export(gnutls_x509_crt_t crt, gnutls_x509_crt_fmt_t format, struct status *st,
				      struct buffer *out)
{
	gnutls_datum_t d = { 0 };
	int rv = gnutls_x509_crt_export2(crt, format, &d);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "certificate: export: %s", gnutls_strerror(rv));
	bool fits = buffer_append(out, d.data, d.size);
	gnutls_free(d.data);
	return fits ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "certificate: out of memory");
}

enum status_code x509_to_pem(gnutls_x509_crt_t crt, struct status *st, struct buffer *out)
{
	return append_export(crt, GNUTLS_X509_FMT_PEM, st, out);
}

enum status_code x509_to_der(gnutls_x509_crt_t crt, struct status *st, struct buffer *out)
{
	return append_export(crt, GNUTLS_X509_FMT_DER, st, out);
}
