#include "common/x509/key.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include <gnutls/crypto.h>

#include "common/base/base64.h"
#include "common/base/file.h"
#include "common/base/secret.h"

#define KEY_FILE_MAX (64 * 1024)
#define SHA256_SIZE 32

static enum status_code failed(struct status *st, const char *what, int rv)
{
	return status_set(st, rv == GNUTLS_E_MEMORY_ERROR ? STATUS_RESOURCE_EXHAUSTED : STATUS_INTERNAL, "%s: %s", what,
			  gnutls_strerror(rv));
}

/* What GnuTLS allocated for a secret. */
static void datum_wipe(gnutls_datum_t *d)
{
	secret_wipe(d->data, d->size);
	gnutls_free(d->data);
}

enum status_code x509_key_generate(struct status *st, gnutls_x509_privkey_t *ret_key)
{
	gnutls_x509_privkey_t key;
	int rv = gnutls_x509_privkey_init(&key);
	if (rv < 0)
		return failed(st, "make a key", rv);
	rv = gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
	if (rv < 0) {
		gnutls_x509_privkey_deinit(key);
		return failed(st, "make a key", rv);
	}
	*ret_key = key;
	return STATUS_OK;
}

static enum status_code import_failed(struct status *st, const char *path, const char *passphrase, int rv)
{
	if (rv == GNUTLS_E_DECRYPTION_FAILED && !passphrase)
		return status_set(st, STATUS_FAILED_PRECONDITION, "%s: the key is encrypted; give its passphrase", path);
	if (rv == GNUTLS_E_DECRYPTION_FAILED)
		return status_set(st, STATUS_FAILED_PRECONDITION, "%s: the passphrase does not open the key", path);
	return status_set(st, STATUS_FAILED_PRECONDITION, "%s: not a private key in PEM: %s", path, gnutls_strerror(rv));
}

/* What stands between the lines "-----BEGIN <label>-----" and "-----END"; NULL: there is no such block. */
static const char *pem_body(const char *pem, const char *label, size_t *ret_len)
{
	char begin[64];
	snprintf(begin, sizeof begin, "-----BEGIN %s-----", label);
	const char *body = strstr(pem, begin);
	const char *end = body ? strstr(body, "-----END") : NULL;
	if (!end)
		return NULL;
	body += strlen(begin);
	*ret_len = (size_t)(end - body);
	return body;
}

/* GnuTLS frees what it makes of PEM without wiping it, so it gets DER. False: not a key in plain PEM. */
static bool import_plain(gnutls_x509_privkey_t key, const char *pem)
{
	static const char *const labels[] = { "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY" };
	size_t len = 0, der_len;
	const char *body = NULL;
	for (size_t i = 0; i < sizeof labels / sizeof *labels && !body; i++)
		body = pem_body(pem, labels[i], &len);
	uint8_t *der = body ? secret_alloc(len) : NULL;
	if (!der)
		return false;
	size_t text_len = 0;
	for (size_t i = 0; i < len; i++)
		if (!isspace((unsigned char)body[i]))
			der[text_len++] = (uint8_t)body[i];
	bool done = false;
	if (base64_decode((struct slice){ der, text_len }, der, &der_len)) {
		const gnutls_datum_t d = { .data = der, .size = (unsigned)der_len };
		done = gnutls_x509_privkey_import2(key, &d, GNUTLS_X509_FMT_DER, NULL, GNUTLS_PKCS_PLAIN) >= 0;
	}
	secret_free(der, len);
	return done;
}

/* `pem` ends with NUL. */
static int import_pem(gnutls_x509_privkey_t key, const uint8_t *pem, size_t len, const char *passphrase)
{
	if (import_plain(key, (const char *)pem))
		return 0;
	const gnutls_datum_t d = { .data = (unsigned char *)pem, .size = (unsigned)len };
	return gnutls_x509_privkey_import2(key, &d, GNUTLS_X509_FMT_PEM, passphrase, 0);
}

enum status_code x509_key_load(const char *path, const char *passphrase, struct status *st,
			       gnutls_x509_privkey_t *ret_key)
{
	uint8_t *data = NULL;
	size_t len = 0;
	enum status_code rc = secret_read_file(path, KEY_FILE_MAX, st, &data, &len);
	if (rc != STATUS_OK)
		return rc;
	gnutls_x509_privkey_t key = NULL;
	int rv = gnutls_x509_privkey_init(&key);
	if (rv < 0) {
		rc = failed(st, path, rv);
		goto out;
	}
	rv = import_pem(key, data, len, passphrase);
	if (rv < 0) {
		rc = import_failed(st, path, passphrase, rv);
		goto out;
	}
	*ret_key = key;
	key = NULL;
out:
	if (key)
		gnutls_x509_privkey_deinit(key);
	secret_free(data, len + 1);
	return rc;
}

enum status_code x509_key_save(gnutls_x509_privkey_t key, const char *passphrase, const char *path, struct status *st)
{
	gnutls_datum_t pem = { 0 };
	unsigned flags = passphrase ? GNUTLS_PKCS_PBES2_AES_256 : GNUTLS_PKCS_PLAIN;
	int rv = gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, passphrase, flags, &pem);
	if (rv < 0)
		return failed(st, path, rv);
	enum status_code rc = file_write(path, (struct slice){ pem.data, pem.size }, 0600, false, st);
	datum_wipe(&pem);
	return rc;
}

enum status_code x509_key_export(gnutls_x509_privkey_t key, struct status *st, struct buffer *ret_der)
{
	gnutls_datum_t der = { 0 };
	int rv = gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_DER, NULL, GNUTLS_PKCS_PLAIN, &der);
	if (rv < 0)
		return failed(st, "export a key", rv);
	enum status_code rc = STATUS_OK;
	if (!buffer_append(ret_der, der.data, der.size))
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "export a key: out of memory");
	datum_wipe(&der);
	return rc;
}

enum status_code x509_key_import(struct slice der, struct status *st, gnutls_x509_privkey_t *ret_key)
{
	gnutls_x509_privkey_t key;
	int rv = gnutls_x509_privkey_init(&key);
	if (rv < 0)
		return failed(st, "import a key", rv);
	gnutls_datum_t d = { .data = (unsigned char *)der.data, .size = (unsigned)der.len };
	rv = gnutls_x509_privkey_import_pkcs8(key, &d, GNUTLS_X509_FMT_DER, NULL, GNUTLS_PKCS_PLAIN);
	if (rv < 0) {
		gnutls_x509_privkey_deinit(key);
		return status_set(st, STATUS_INVALID_ARGUMENT, "import a key: not PKCS #8: %s", gnutls_strerror(rv));
	}
	*ret_key = key;
	return STATUS_OK;
}

/* Steps over the tag and length of a DER element that lies within [p, end); NULL: it does not. */
static const uint8_t *der_enter(const uint8_t *p, const uint8_t *end, uint8_t tag, size_t *ret_len)
{
	if (end - p < 2 || p[0] != tag)
		return NULL;
	size_t len = p[1];
	p += 2;
	if (len >= 0x80) {
		size_t n = len & 0x7f;
		if (n == 0 || n > 4 || (size_t)(end - p) < n)
			return NULL;
		for (len = 0; n > 0; n--)
			len = len << 8 | *p++;
	}
	if ((size_t)(end - p) < len)
		return NULL;
	*ret_len = len;
	return p;
}

/* SubjectPublicKeyInfo ::= SEQUENCE { SEQUENCE algorithm, BIT STRING }: the bits, without the count of unused ones. */
static const uint8_t *spki_bits(const gnutls_datum_t *spki, size_t *ret_len)
{
	enum { DER_SEQUENCE = 0x30, DER_BIT_STRING = 0x03 };
	size_t len = 0;
	const uint8_t *end = spki->data + spki->size;
	const uint8_t *p = der_enter(spki->data, end, DER_SEQUENCE, &len);
	if (!p)
		return NULL;
	p = der_enter(p, end, DER_SEQUENCE, &len);
	if (!p)
		return NULL;
	p = der_enter(p + len, end, DER_BIT_STRING, &len);
	if (!p || len < 2)
		return NULL;
	*ret_len = len - 1;
	return p + 1;
}

enum status_code x509_key_id(gnutls_pubkey_t key, struct status *st, uint8_t ret_id[20])
{
	/* gnutls_pubkey_get_key_id() hashes the whole SubjectPublicKeyInfo, which no other software does. */
	gnutls_datum_t spki = { 0 };
	int rv = gnutls_pubkey_export2(key, GNUTLS_X509_FMT_DER, &spki);
	if (rv < 0)
		return failed(st, "key id", rv);
	enum status_code rc = STATUS_OK;
	size_t len = 0;
	const uint8_t *bits = spki_bits(&spki, &len);
	if (!bits) {
		rc = status_set(st, STATUS_INTERNAL, "key id: not a SubjectPublicKeyInfo");
		goto out;
	}
	rv = gnutls_hash_fast(GNUTLS_DIG_SHA1, bits, len, ret_id);
	if (rv < 0)
		rc = failed(st, "key id", rv);
out:
	gnutls_free(spki.data);
	return rc;
}

enum status_code x509_key_matches(gnutls_x509_privkey_t key, gnutls_x509_crt_t crt, struct status *st, int *ret_match)
{
	uint8_t of_key[SHA256_SIZE], of_crt[SHA256_SIZE];
	size_t key_len = sizeof of_key, crt_len = sizeof of_crt;
	int rv = gnutls_x509_privkey_get_key_id(key, GNUTLS_KEYID_USE_SHA256, of_key, &key_len);
	if (rv < 0)
		return failed(st, "compare key and certificate", rv);
	rv = gnutls_x509_crt_get_key_id(crt, GNUTLS_KEYID_USE_SHA256, of_crt, &crt_len);
	if (rv < 0)
		return failed(st, "compare key and certificate", rv);
	*ret_match = key_len == crt_len && secret_equal(of_key, of_crt, key_len);
	return STATUS_OK;
}
