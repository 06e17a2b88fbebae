/*
 * Certificates: build, read, check. RFC 5280.
 */
#ifndef X509_CERT_H
#define X509_CERT_H

#include <gnutls/abstract.h>
#include <gnutls/x509.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/buffer.h"

#define X509_LEAF_SECONDS_MAX (168 * 3600) /* a leaf lives less than this */

enum x509_usage {
	X509_USAGE_CA = 1 << 0,     /* basicConstraints CA, keyCertSign and cRLSign; no EKU; pathlen below */
	X509_USAGE_SERVER = 1 << 1, /* extendedKeyUsage serverAuth */
	X509_USAGE_CLIENT = 1 << 2, /* extendedKeyUsage clientAuth */
};

/* What is to stand in a certificate. All borrowed. */
struct x509_template {
	const char *common_name;
	uint64_t serial;           /* positive; 0: 16 random bytes (the infrastructure CA's own) */
	int64_t not_before;        /* Unix seconds */
	int64_t not_after;
	unsigned usage;            /* bits of enum x509_usage */
	int path_len;              /* CA: pathLenConstraint; -1: none */
	const char *const *dns_names;
	size_t n_dns_names;
	const char *const *addresses; /* in text */
	size_t n_addresses;
	const char *const *uris;
	size_t n_uris;
};

/* Who signs. Borrowed. certificate NULL: self-signed. */
struct x509_issuer {
	gnutls_x509_crt_t certificate;
	gnutls_privkey_t key;
};

/*
 * Builds and signs version 3 with SKI, AKI, keyUsage, EKU and SAN (critical where RFC 5280 says so). Takes the subject's
 * key alone from `key`; nothing is copied from a request. The signature's hash follows the issuer's key. The same template
 * (with a serial), key and issuer give the same bytes again. FAILED_PRECONDITION:
 * it would outlive its issuer, or the issuer is no CA. About 0.1 ms on P-256. The caller frees with gnutls_x509_crt_deinit().
 */
enum status_code x509_build(const struct x509_template *t, gnutls_pubkey_t key, const struct x509_issuer *issuer,
			    struct status *st, gnutls_x509_crt_t *ret_crt) MUST_CHECK;

/* DER or PEM (the first certificate in it). */
enum status_code x509_import(struct slice data, struct status *st, gnutls_x509_crt_t *ret_crt) MUST_CHECK;
/* From a file of ours, DER or PEM; at most 1 MiB. FAILED_PRECONDITION: others could change it (file_trust.h). Blocks. */
enum status_code x509_load(const char *path, struct status *st, gnutls_x509_crt_t *ret_crt) MUST_CHECK;
/* Every certificate of such a PEM file, in its order; at most 64. The caller frees each and the array with x509_list_free(). */
enum status_code x509_load_list(const char *path, struct status *st, gnutls_x509_crt_t **ret_list,
				unsigned *ret_n) MUST_CHECK;
void x509_list_free(gnutls_x509_crt_t *list, unsigned n);

/* Append to a buffer. */
enum status_code x509_to_pem(gnutls_x509_crt_t crt, struct status *st, struct buffer *out) MUST_CHECK;
enum status_code x509_to_der(gnutls_x509_crt_t crt, struct status *st, struct buffer *out) MUST_CHECK;

/* What people and records want to know of one. Strings are the struct's own: x509_info_free(). */
struct x509_info {
	char *common_name;
	char *issuer_name;         /* RFC 4514 */
	char **dns_names;
	size_t n_dns_names;
	char **addresses;
	size_t n_addresses;
	char **uris;
	size_t n_uris;
	uint8_t serial[20];
	size_t serial_len;         /* no leading zero byte */
	uint8_t key_id[32];        /* SKI; computed where it has none */
	size_t key_id_len;
	uint8_t issuer_key_id[32]; /* AKI; empty where it has none */
	size_t issuer_key_id_len;
	uint8_t fingerprint[32];   /* SHA-256 of the DER */
	int64_t not_before, not_after;
	bool ca;
	unsigned usage;            /* bits of enum x509_usage; SERVER and CLIENT both when it has no EKU */
};
/* Refuses strings with NUL or control characters (INVALID_ARGUMENT). */
enum status_code x509_info_read(gnutls_x509_crt_t crt, struct status *st, struct x509_info *ret_info) MUST_CHECK;
void x509_info_free(struct x509_info *info);
/* The serial as a number; UINT64_MAX when it does not fit in 63 bits. */
uint64_t x509_info_serial(const struct x509_info *info);

#endif
