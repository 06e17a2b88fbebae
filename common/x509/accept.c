#include "common/x509/accept.h"

#include <string.h>

#include "common/x509/key.h"

#define RSA_BITS_MIN 2048
#define RSA_BITS_MAX 4096
/* Bytes. 65537 is what everyone uses; a long one makes every check slow, a short one (3) some attacks quick. */
#define RSA_EXPONENT_MIN 2
#define RSA_EXPONENT_MAX 8

static enum status_code refuse(struct status *st, const char *what, int rv)
{
	return status_set(st, rv == GNUTLS_E_MEMORY_ERROR ? STATUS_RESOURCE_EXHAUSTED : STATUS_INVALID_ARGUMENT, "%s: %s",
			  what, gnutls_strerror(rv));
}

/* Without the zero bytes in front. */
static unsigned significant(const gnutls_datum_t *number)
{
	unsigned zeros = 0;
	while (zeros < number->size && number->data[zeros] == 0)
		zeros++;
	return number->size - zeros;
}

static enum status_code accept_rsa(gnutls_pubkey_t key, unsigned bits, struct status *st)
{
	if (bits < RSA_BITS_MIN || bits > RSA_BITS_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "RSA key of %u bits; use %u to %u, or P-256", bits,
				  RSA_BITS_MIN, RSA_BITS_MAX);
	gnutls_datum_t modulus = { 0 }, exponent = { 0 };
	int rv = gnutls_pubkey_export_rsa_raw(key, &modulus, &exponent);
	if (rv < 0)
		return refuse(st, "RSA key", rv);
	unsigned len = significant(&exponent);
	gnutls_free(modulus.data);
	gnutls_free(exponent.data);
	if (len < RSA_EXPONENT_MIN || len > RSA_EXPONENT_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "RSA key with an exponent of %u bytes; use 65537", len);
	return STATUS_OK;
}

static enum status_code accept_ecdsa(gnutls_pubkey_t key, struct status *st)
{
	gnutls_ecc_curve_t curve = GNUTLS_ECC_CURVE_INVALID;
	if (gnutls_pubkey_export_ecc_raw2(key, &curve, NULL, NULL, 0) >= 0 &&
	    (curve == GNUTLS_ECC_CURVE_SECP256R1 || curve == GNUTLS_ECC_CURVE_SECP384R1 ||
	     curve == GNUTLS_ECC_CURVE_SECP521R1))
		return STATUS_OK;
	const char *name = curve == GNUTLS_ECC_CURVE_INVALID ? NULL : gnutls_ecc_curve_get_name(curve);
	return status_set(st, STATUS_INVALID_ARGUMENT, "curve %s is not accepted; use P-256", name ? name : "unknown");
}

enum status_code x509_accept_key(gnutls_pubkey_t key, struct status *st)
{
	unsigned bits = 0;
	switch (gnutls_pubkey_get_pk_algorithm(key, &bits)) {
	case GNUTLS_PK_EDDSA_ED25519:
		return STATUS_OK;
	case GNUTLS_PK_RSA:
		return accept_rsa(key, bits, st);
	case GNUTLS_PK_ECDSA:
		return accept_ecdsa(key, st);
	default:
		return status_set(st, STATUS_INVALID_ARGUMENT, "a key of this kind is not accepted; use ECDSA P-256");
	}
}

enum status_code x509_accept_signature(int algorithm, struct status *st)
{
	switch (algorithm) {
	case GNUTLS_SIGN_ECDSA_SHA256:
	case GNUTLS_SIGN_ECDSA_SHA384:
	case GNUTLS_SIGN_ECDSA_SHA512:
	case GNUTLS_SIGN_EDDSA_ED25519:
	case GNUTLS_SIGN_RSA_SHA256:
	case GNUTLS_SIGN_RSA_SHA384:
	case GNUTLS_SIGN_RSA_SHA512:
	case GNUTLS_SIGN_RSA_PSS_SHA256:
	case GNUTLS_SIGN_RSA_PSS_SHA384:
	case GNUTLS_SIGN_RSA_PSS_SHA512:
	case GNUTLS_SIGN_RSA_PSS_RSAE_SHA256:
	case GNUTLS_SIGN_RSA_PSS_RSAE_SHA384:
	case GNUTLS_SIGN_RSA_PSS_RSAE_SHA512:
		return STATUS_OK;
	default:
		break;
	}
	const char *name = algorithm > 0 ? gnutls_sign_get_name((gnutls_sign_algorithm_t)algorithm) : NULL;
	return status_set(st, STATUS_INVALID_ARGUMENT, "a signature of the kind %s is not accepted; use SHA-256",
			  name ? name : "unknown");
}

static enum status_code check_key_id(gnutls_x509_crt_t crt, gnutls_pubkey_t key, struct status *st)
{
	uint8_t said[64], own[X509_KEY_ID_SIZE];
	size_t len = sizeof said;
	int rv = gnutls_x509_crt_get_subject_key_id(crt, said, &len, NULL);
	if (rv == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
		return STATUS_OK;
	enum status_code rc = x509_key_id(key, st, own);
	if (rc != STATUS_OK)
		return rc;
	if (rv < 0 || len != sizeof own || memcmp(said, own, sizeof own) != 0)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "its subject key identifier is not the SHA-1 hash of its key (RFC 5280 section 4.2.1.2 (1)); "
				  "make the CA's certificate again with that");
	return STATUS_OK;
}

enum status_code x509_accept_certificate(gnutls_x509_crt_t crt, struct status *st)
{
	gnutls_pubkey_t key;
	int rv = gnutls_pubkey_init(&key);
	if (rv < 0)
		return refuse(st, "key", rv);
	enum status_code rc;
	rv = gnutls_pubkey_import_x509(key, crt, 0);
	if (rv < 0)
		rc = refuse(st, "key", rv);
	else
		rc = x509_accept_key(key, st);
	if (rc == STATUS_OK)
		rc = x509_accept_signature(gnutls_x509_crt_get_signature_algorithm(crt), st);
	if (rc == STATUS_OK && gnutls_x509_crt_get_ca_status(crt, NULL) > 0)
		rc = check_key_id(crt, key, st);
	gnutls_pubkey_deinit(key);
	return rc;
}
