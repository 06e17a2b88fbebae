#include "tests/support/huge_key.h"

#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_BYTES 6144

static atomic_ulong n_signed;

/* What the sessions present. */
struct presented {
	gnutls_pcert_st certificates[2];
	unsigned n;
	gnutls_pk_algorithm_t algorithm;
	gnutls_privkey_t key;
};

static _Noreturn void die(const char *what, int rv)
{
	fprintf(stderr, "huge key: %s: %s\n", what, rv < 0 ? gnutls_strerror(rv) : "out of memory");
	exit(2);
}

static void *must_alloc(size_t size)
{
	void *p = malloc(size);
	if (!p)
		die("allocate", 0);
	return p;
}

static void random_bytes(uint8_t *data, size_t len)
{
	int rv = gnutls_rnd(GNUTLS_RND_NONCE, data, len);
	if (rv < 0)
		die("random bytes", rv);
}

/* --- DER (X.690): each function makes one element, whose bytes are the caller's ------------------------------------------- */

static gnutls_datum_t element(uint8_t tag, const void *content, size_t len)
{
	uint8_t *p = must_alloc(len + 5);
	size_t head = 0;
	p[head++] = tag;
	if (len < 128) {
		p[head++] = (uint8_t)len;
	} else {
		p[head++] = 0x83;
		p[head++] = (uint8_t)(len >> 16);
		p[head++] = (uint8_t)(len >> 8);
		p[head++] = (uint8_t)len;
		/* The shortest form is the only one. */
		unsigned spare = p[2] ? 0 : p[3] ? 1 : 2;
		p[1] = (uint8_t)(0x83 - spare);
		memmove(p + 2, p + 2 + spare, 3 - spare);
		head -= spare;
	}
	if (len)
		memcpy(p + head, content, len);
	return (gnutls_datum_t){ p, (unsigned)(head + len) };
}

/* Of parts, which are freed. */
static gnutls_datum_t group(uint8_t tag, gnutls_datum_t *parts, size_t n)
{
	size_t len = 0, at = 0;
	for (size_t i = 0; i < n; i++)
		len += parts[i].size;
	uint8_t *content = must_alloc(len + 1);
	for (size_t i = 0; i < n; i++) {
		memcpy(content + at, parts[i].data, parts[i].size);
		at += parts[i].size;
		free(parts[i].data);
	}
	gnutls_datum_t whole = element(tag, content, len);
	free(content);
	return whole;
}

#define SEQUENCE(...) group(0x30, (gnutls_datum_t[]){ __VA_ARGS__ }, \
			    sizeof((gnutls_datum_t[]){ __VA_ARGS__ }) / sizeof(gnutls_datum_t))

/* As it stands there, tags and all. */
static gnutls_datum_t raw(const void *bytes, size_t len)
{
	gnutls_datum_t copy = { must_alloc(len + 1), (unsigned)len };
	memcpy(copy.data, bytes, len);
	return copy;
}
#define RAW(bytes) raw(bytes, sizeof(bytes) - 1)

static gnutls_datum_t number(size_t bytes)
{
	uint8_t *value = must_alloc(bytes);
	random_bytes(value, bytes);
	value[0] = (uint8_t)(0x40 | (value[0] & 0x3f)); /* not negative */
	value[bytes - 1] |= 1;
	gnutls_datum_t whole = element(0x02, value, bytes);
	free(value);
	return whole;
}

/* `content` is freed. */
static gnutls_datum_t bit_string(gnutls_datum_t content)
{
	gnutls_datum_t parts[] = { raw("", 1), content };
	return group(0x03, parts, 2);
}

static gnutls_datum_t common_name(const char *name)
{
	gnutls_datum_t set = SEQUENCE(RAW("\x06\x03\x55\x04\x03"), element(0x0c, name, strlen(name)));
	return SEQUENCE(group(0x31, &set, 1));
}

#define RSA_ENCRYPTION "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00"
#define SHA256_WITH_RSA "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"
#define ECDSA_WITH_SHA256 "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"

static gnutls_datum_t huge_key(void)
{
	/* 49,152 bits: the highest of the modulus is set, and the exponent is less. */
	uint8_t *modulus = must_alloc(KEY_BYTES + 1);
	random_bytes(modulus, KEY_BYTES + 1);
	modulus[0] = 0;
	modulus[1] |= 0x80;
	modulus[KEY_BYTES] |= 1;
	gnutls_datum_t n = element(0x02, modulus, KEY_BYTES + 1);
	free(modulus);
	return SEQUENCE(RAW(RSA_ENCRYPTION), bit_string(SEQUENCE(n, number(KEY_BYTES))));
}

static gnutls_datum_t small_key(void)
{
	gnutls_privkey_t private_key;
	gnutls_pubkey_t key;
	gnutls_datum_t der;
	int rv = gnutls_privkey_init(&private_key);
	if (rv >= 0)
		rv = gnutls_privkey_generate(private_key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
	if (rv >= 0)
		rv = gnutls_pubkey_init(&key);
	if (rv >= 0)
		rv = gnutls_pubkey_import_privkey(key, private_key, 0, 0);
	if (rv >= 0)
		rv = gnutls_pubkey_export2(key, GNUTLS_X509_FMT_DER, &der);
	if (rv < 0)
		die("make a P-256 key", rv);
	gnutls_datum_t copy = raw(der.data, der.size);
	gnutls_free(der.data);
	gnutls_pubkey_deinit(key);
	gnutls_privkey_deinit(private_key);
	return copy;
}

static gnutls_datum_t garbage_signature(gnutls_pk_algorithm_t by)
{
	if (by != GNUTLS_PK_RSA)
		return SEQUENCE(number(31), number(31));
	uint8_t bytes[KEY_BYTES];
	random_bytes(bytes, sizeof bytes);
	bytes[0] &= 0x7f; /* less than the modulus, or it is refused before anything is computed */
	return raw(bytes, sizeof bytes);
}

static gnutls_datum_t extensions(bool is_ca)
{
	static const char basic_constraints_ca[] = "\x30\x0f\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x05\x30\x03\x01\x01\xff";
	static const char key_usage_sign[] = "\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x01\x06";
	static const char usage_both[] = "\x30\x1d\x06\x03\x55\x1d\x25\x04\x16\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"
					 "\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02";
	gnutls_datum_t list = is_ca ? SEQUENCE(RAW(basic_constraints_ca), RAW(key_usage_sign)) : SEQUENCE(RAW(usage_both));
	return group(0xa3, &list, 1);
}

/* `issuer`, a Name, and `key`, a SubjectPublicKeyInfo, are freed. */
static gnutls_datum_t certificate(const char *subject, bool is_ca, gnutls_datum_t issuer, gnutls_datum_t key,
				  gnutls_pk_algorithm_t signed_by)
{
	const bool rsa = signed_by == GNUTLS_PK_RSA;
	gnutls_datum_t tbs = SEQUENCE(
		RAW("\xa0\x03\x02\x01\x02"), number(8), rsa ? RAW(SHA256_WITH_RSA) : RAW(ECDSA_WITH_SHA256), issuer,
		SEQUENCE(element(0x17, "250101000000Z", 13), element(0x17, "450101000000Z", 13)),
		common_name(subject), key, extensions(is_ca));
	return SEQUENCE(tbs, rsa ? RAW(SHA256_WITH_RSA) : RAW(ECDSA_WITH_SHA256), bit_string(garbage_signature(signed_by)));
}

/* The Name of the CA in a PEM file. */
static gnutls_datum_t name_of(const char *ca_file)
{
	gnutls_datum_t pem, name;
	gnutls_x509_crt_t crt;
	int rv = gnutls_load_file(ca_file, &pem);
	if (rv >= 0)
		rv = gnutls_x509_crt_init(&crt);
	if (rv >= 0)
		rv = gnutls_x509_crt_import(crt, &pem, GNUTLS_X509_FMT_PEM);
	if (rv >= 0)
		rv = gnutls_x509_crt_get_raw_dn(crt, &name);
	if (rv < 0)
		die(ca_file, rv);
	gnutls_datum_t copy = raw(name.data, name.size);
	gnutls_free(name.data);
	gnutls_x509_crt_deinit(crt);
	gnutls_free(pem.data);
	return copy;
}

/* --- what GnuTLS asks ------------------------------------------------------------------------------------------ */

static int sign(gnutls_privkey_t key, gnutls_sign_algorithm_t algorithm, void *arg, unsigned flags,
		const gnutls_datum_t *data, gnutls_datum_t *ret_signature)
{
	const struct presented *p = arg;
	(void)key, (void)algorithm, (void)flags, (void)data;
	atomic_fetch_add(&n_signed, 1);
	gnutls_datum_t garbage = garbage_signature(p->algorithm);
	ret_signature->data = gnutls_malloc(garbage.size);
	if (!ret_signature->data)
		die("allocate", 0);
	memcpy(ret_signature->data, garbage.data, garbage.size);
	ret_signature->size = garbage.size;
	free(garbage.data);
	return 0;
}

static int key_info(gnutls_privkey_t key, unsigned flags, void *arg)
{
	const struct presented *p = arg;
	(void)key;
	if (flags & GNUTLS_PRIVKEY_INFO_PK_ALGO)
		return (int)p->algorithm;
	if (flags & GNUTLS_PRIVKEY_INFO_HAVE_SIGN_ALGO)
		return 1;
	if (flags & GNUTLS_PRIVKEY_INFO_PK_ALGO_BITS)
		return p->algorithm == GNUTLS_PK_RSA ? KEY_BYTES * 8 : 256;
	return -1;
}

static struct presented *presented_of[HUGE_CHAINS];

static int present(struct presented *p, gnutls_pcert_st **ret_certificates, unsigned *ret_n, gnutls_ocsp_data_st **ret_ocsp,
		   unsigned *ret_n_ocsp, gnutls_privkey_t *ret_key, unsigned *ret_flags)
{
	*ret_certificates = p->certificates;
	*ret_n = p->n;
	*ret_ocsp = NULL;
	*ret_n_ocsp = 0;
	*ret_key = p->key;
	*ret_flags = 0;
	return 0;
}

/* GnuTLS gives its callback no argument of ours: one function for each chain. */
#define PRESENT(name, chain) \
	static int name(gnutls_session_t session, const struct gnutls_cert_retr_st *info, gnutls_pcert_st **certificates, \
			unsigned *n, gnutls_ocsp_data_st **ocsp, unsigned *n_ocsp, gnutls_privkey_t *key, unsigned *flags) \
	{ \
		(void)session, (void)info; \
		return present(presented_of[chain], certificates, n, ocsp, n_ocsp, key, flags); \
	}
PRESENT(present_leaf, HUGE_LEAF)
PRESENT(present_both, HUGE_LEAF_AND_ISSUER)
PRESENT(present_issuer, HUGE_ISSUER)

static void add_certificate(struct presented *p, gnutls_datum_t der)
{
	int rv = gnutls_pcert_import_x509_raw(&p->certificates[p->n++], &der, GNUTLS_X509_FMT_DER, 0);
	if (rv < 0)
		die("import a certificate", rv);
	free(der.data);
}

static struct presented *make(const char *ca_file, enum huge_key_chain chain)
{
	struct presented *p = must_alloc(sizeof *p);
	*p = (struct presented){ .algorithm = chain == HUGE_ISSUER ? GNUTLS_PK_ECDSA : GNUTLS_PK_RSA };
	gnutls_datum_t key = chain == HUGE_ISSUER ? small_key() : huge_key();
	if (chain == HUGE_LEAF) {
		add_certificate(p, certificate("huge", false, name_of(ca_file), key, GNUTLS_PK_ECDSA));
	} else {
		add_certificate(p, certificate("huge", false, common_name("huge issuer"), key, GNUTLS_PK_RSA));
		add_certificate(p, certificate("huge issuer", true, name_of(ca_file), huge_key(), GNUTLS_PK_ECDSA));
	}
	int rv = gnutls_privkey_init(&p->key);
	if (rv >= 0)
		rv = gnutls_privkey_import_ext4(p->key, p, sign, sign, NULL, NULL, key_info, 0);
	if (rv < 0)
		die("import a key", rv);
	return p;
}

gnutls_certificate_credentials_t huge_key_credentials(const char *ca_file, enum huge_key_chain chain)
{
	static gnutls_certificate_retrieve_function3 *const functions[HUGE_CHAINS] = { present_leaf, present_both, present_issuer };
	gnutls_certificate_credentials_t credentials;
	presented_of[chain] = make(ca_file, chain);
	int rv = gnutls_certificate_allocate_credentials(&credentials);
	if (rv >= 0)
		rv = gnutls_certificate_set_x509_trust_file(credentials, ca_file, GNUTLS_X509_FMT_PEM);
	if (rv < 0)
		die("credentials", rv);
	gnutls_certificate_set_retrieve_function3(credentials, functions[chain]);
	return credentials;
}

unsigned long huge_key_signed(void)
{
	return atomic_load(&n_signed);
}
