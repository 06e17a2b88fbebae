#include "tests/support/support.h"

#include "tests/support/pki.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <gnutls/abstract.h>
#include <gnutls/crypto.h>

#define PKI_LEAVES_MAX 256
#define PKI_PATH_MAX 4096

struct pki_leaf_slot {
	struct pki_leaf leaf;
	char certificate[PKI_PATH_MAX];
	char key[PKI_PATH_MAX];
};

struct pki {
	char *directory;
	struct pki_leaf_slot *cas[PKI_CAS];
	gnutls_datum_t ca_pem[PKI_CAS];
	struct pki_leaf_slot *leaves[PKI_LEAVES_MAX]; /* all that was made, the CAs among them */
	unsigned n_leaves;
	uint64_t next_serial;
};

static void must(int rv, const char *what)
{
	if (rv < 0)
		fail_msg("%s: %s", what, gnutls_strerror(rv));
}

static void write_file(const char *path, mode_t mode, const gnutls_datum_t *parts, unsigned n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	assert_true(fd >= 0);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(write(fd, parts[i].data, parts[i].size), parts[i].size);
	assert_int_equal(close(fd), 0);
}

/* Files are named after the order of making, so that two certificates of one name do not collide. */
static struct pki_leaf_slot *new_slot(struct pki *p, const char *file_name)
{
	assert_true(p->n_leaves < PKI_LEAVES_MAX);
	struct pki_leaf_slot *s = calloc(1, sizeof *s);
	assert_non_null(s);
	if (file_name) {
		snprintf(s->certificate, sizeof s->certificate, "%s/%s.crt", p->directory, file_name);
		snprintf(s->key, sizeof s->key, "%s/%s.key", p->directory, file_name);
	} else {
		snprintf(s->certificate, sizeof s->certificate, "%s/leaf%u.crt", p->directory, p->n_leaves);
		snprintf(s->key, sizeof s->key, "%s/leaf%u.key", p->directory, p->n_leaves);
	}
	s->leaf.certificate = s->certificate;
	s->leaf.key = s->key;
	p->leaves[p->n_leaves++] = s;
	must(gnutls_x509_privkey_init(&s->leaf.private_key), "key");
	must(gnutls_x509_privkey_generate(s->leaf.private_key, GNUTLS_PK_ECDSA,
					  GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
	     "generate key");
	must(gnutls_x509_crt_init(&s->leaf.crt), "certificate");
	return s;
}

static void set_serial(gnutls_x509_crt_t crt, uint64_t serial)
{
	uint8_t bytes[9] = { 0 }; /* a leading zero keeps the number positive */
	for (int i = 8; i > 0; i--, serial >>= 8)
		bytes[i] = (uint8_t)serial;
	unsigned skip = 0;
	while (skip < 8 && bytes[skip] == 0 && !(bytes[skip + 1] & 0x80))
		skip++;
	must(gnutls_x509_crt_set_serial(crt, bytes + skip, sizeof bytes - skip), "serial");
}

/* SHA-1 of the point (RFC 5280 §4.2.1.2 (1)): 04, x, y. GnuTLS's own key id is another hash. */
static void key_id_of(gnutls_x509_crt_t crt, uint8_t ret_id[20])
{
	gnutls_pubkey_t key;
	gnutls_datum_t x, y;
	uint8_t point[65] = { 4 };
	must(gnutls_pubkey_init(&key), "key id");
	must(gnutls_pubkey_import_x509(key, crt, 0), "key id");
	must(gnutls_pubkey_export_ecc_raw2(key, NULL, &x, &y, GNUTLS_EXPORT_FLAG_NO_LZ), "key id");
	assert_true(x.size <= 32 && y.size <= 32);
	memcpy(point + 33 - x.size, x.data, x.size);
	memcpy(point + 65 - y.size, y.data, y.size);
	must(gnutls_hash_fast(GNUTLS_DIG_SHA1, point, sizeof point, ret_id), "key id");
	gnutls_free(x.data);
	gnutls_free(y.data);
	gnutls_pubkey_deinit(key);
}

static void set_key_id(gnutls_x509_crt_t crt, gnutls_x509_crt_t issuer)
{
	uint8_t id[64];
	size_t len = sizeof id;
	key_id_of(crt, id);
	must(gnutls_x509_crt_set_subject_key_id(crt, id, 20), "subject key id");
	must(gnutls_x509_crt_get_subject_key_id(issuer, id, &len, NULL), "issuer's key id");
	must(gnutls_x509_crt_set_authority_key_id(crt, id, len), "authority key id");
}

static void set_usage(gnutls_x509_crt_t crt, const struct pki_spec *spec)
{
	must(gnutls_x509_crt_set_basic_constraints(crt, spec->is_ca, -1), "basic constraints");
	must(gnutls_x509_crt_set_key_usage(crt, spec->is_ca ? GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN
							     : GNUTLS_KEY_DIGITAL_SIGNATURE),
	     "key usage");
	if (spec->is_ca)
		return;
	if (spec->usage == PKI_USAGE_BOTH || spec->usage == PKI_USAGE_SERVER)
		must(gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_SERVER, 0), "server usage");
	if (spec->usage == PKI_USAGE_BOTH || spec->usage == PKI_USAGE_CLIENT)
		must(gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_CLIENT, 0), "client usage");
}

static void set_names(gnutls_x509_crt_t crt, const struct pki_spec *spec)
{
	must(gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, spec->common_name,
					   (unsigned)strlen(spec->common_name)),
	     "common name");
	for (const char *const *name = spec->dns_names; name && *name; name++)
		must(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, *name, (unsigned)strlen(*name),
							  GNUTLS_FSAN_APPEND),
		     "DNS name");
	for (const char *const *uri = spec->uris; uri && *uri; uri++)
		must(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_URI, *uri, (unsigned)strlen(*uri),
							  GNUTLS_FSAN_APPEND),
		     "URI");
}

/* `issuer` NULL: self-signed. `chained`: its certificate follows in the file. */
static struct pki_leaf_slot *issue(struct pki *p, const struct pki_leaf *issuer, bool chained,
				   const struct pki_spec *spec, const char *file_name)
{
	struct pki_leaf_slot *s = new_slot(p, file_name);
	gnutls_x509_crt_t crt = s->leaf.crt;
	if (!issuer)
		issuer = &s->leaf;
	time_t now = time(NULL);
	must(gnutls_x509_crt_set_version(crt, 3), "version");
	must(gnutls_x509_crt_set_key(crt, s->leaf.private_key), "set key");
	set_serial(crt, spec->serial ? spec->serial : p->next_serial++);
	must(gnutls_x509_crt_set_activation_time(crt, now + (spec->starts_in ? spec->starts_in : -60)), "start");
	must(gnutls_x509_crt_set_expiration_time(crt, now + (spec->ends_in ? spec->ends_in : 3600)), "end");
	set_names(crt, spec);
	set_usage(crt, spec);
	set_key_id(crt, issuer->crt);
	must(gnutls_x509_crt_sign2(crt, issuer->crt, issuer->private_key, GNUTLS_DIG_SHA256, 0), "sign");
	must(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_DER, &s->leaf.der), "export");

	gnutls_datum_t pem[2], key;
	must(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &pem[0]), "export");
	must(gnutls_x509_crt_export2(issuer->crt, GNUTLS_X509_FMT_PEM, &pem[1]), "export");
	must(gnutls_x509_privkey_export2_pkcs8(s->leaf.private_key, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN, &key),
	     "export key");
	write_file(s->certificate, 0644, pem, chained ? 2 : 1);
	write_file(s->key, 0600, &key, 1);
	gnutls_free(pem[0].data);
	gnutls_free(pem[1].data);
	gnutls_free(key.data);
	return s;
}

struct pki *pki_new(void)
{
	static const struct {
		const char *common_name, *file_name;
	} cas[PKI_CAS] = {
		[PKI_INFRASTRUCTURE] = { PKI_CLUSTER " infrastructure CA", "infra-ca" },
		[PKI_CLUSTER_CA] = { PKI_CLUSTER, "cluster-ca" },
		[PKI_STRANGER] = { "stranger", "stranger-ca" },
	};
	struct pki *p = calloc(1, sizeof *p);
	assert_non_null(p);
	p->directory = support_make_directory();
	p->next_serial = 1;
	for (unsigned i = 0; i < PKI_CAS; i++) {
		struct pki_spec spec = { .common_name = cas[i].common_name, .is_ca = true, .ends_in = 86400 };
		p->cas[i] = issue(p, NULL, false, &spec, cas[i].file_name);
		must(gnutls_x509_crt_export2(p->cas[i]->leaf.crt, GNUTLS_X509_FMT_PEM, &p->ca_pem[i]), "export");
	}
	p->next_serial = 1;
	return p;
}

void pki_free(struct pki *p)
{
	if (!p)
		return;
	for (unsigned i = 0; i < p->n_leaves; i++) {
		gnutls_x509_crt_deinit(p->leaves[i]->leaf.crt);
		gnutls_x509_privkey_deinit(p->leaves[i]->leaf.private_key);
		gnutls_free(p->leaves[i]->leaf.der.data);
		free(p->leaves[i]);
	}
	for (unsigned i = 0; i < PKI_CAS; i++)
		gnutls_free(p->ca_pem[i].data);
	support_remove_directory(p->directory);
	free(p);
}

const char *pki_directory(const struct pki *p)
{
	return p->directory;
}

const char *pki_ca_file(const struct pki *p, enum pki_ca ca)
{
	return p->cas[ca]->certificate;
}

struct slice pki_ca_pem(const struct pki *p, enum pki_ca ca)
{
	return (struct slice){ p->ca_pem[ca].data, p->ca_pem[ca].size };
}

struct slice pki_ca_der(const struct pki *p, enum pki_ca ca)
{
	return (struct slice){ p->cas[ca]->leaf.der.data, p->cas[ca]->leaf.der.size };
}

gnutls_x509_crt_t pki_ca_crt(const struct pki *p, enum pki_ca ca)
{
	return p->cas[ca]->leaf.crt;
}

gnutls_x509_privkey_t pki_ca_key(const struct pki *p, enum pki_ca ca)
{
	return p->cas[ca]->leaf.private_key;
}

const struct pki_leaf *pki_issue(struct pki *p, const struct pki_spec *spec)
{
	return &issue(p, &p->cas[spec->ca]->leaf, false, spec, NULL)->leaf;
}

const struct pki_leaf *pki_issue_under(struct pki *p, const struct pki_leaf *ca, const struct pki_spec *spec)
{
	return &issue(p, ca, true, spec, NULL)->leaf;
}

static const struct pki_leaf *issue_role(struct pki *p, const char *role, const char *name, const char *common_name,
					 enum pki_usage usage)
{
	char uri[256];
	snprintf(uri, sizeof uri, "kds://" PKI_CLUSTER "/role/%s/%s", role, name);
	const char *const uris[] = { uri, NULL }, *const dns[] = { PKI_KDS_NAME, NULL };
	struct pki_spec spec = {
		.common_name = common_name,
		.ca = PKI_INFRASTRUCTURE,
		.usage = usage,
		.dns_names = usage == PKI_USAGE_CLIENT ? NULL : dns,
		.uris = uris,
	};
	return pki_issue(p, &spec);
}

const struct pki_leaf *pki_service(struct pki *p, const char *role, const char *name)
{
	return issue_role(p, role, name, PKI_KDS_NAME, PKI_USAGE_BOTH);
}

const struct pki_leaf *pki_admin(struct pki *p)
{
	return issue_role(p, "admin", "admin", "admin", PKI_USAGE_CLIENT);
}

const struct pki_leaf *pki_node(struct pki *p, const char *node, uint64_t serial)
{
	const char *const dns[] = { node, NULL };
	struct pki_spec spec = { .common_name = node, .ca = PKI_CLUSTER_CA, .serial = serial, .dns_names = dns };
	return pki_issue(p, &spec);
}

const struct pki_leaf *pki_kds_client(struct pki *p, const char *node, const char *const *groups, uint64_t serial)
{
	const char *const dns[] = { PKI_KDS_NAME, NULL };
	struct pki_spec spec = {
		.common_name = node,
		.ca = PKI_CLUSTER_CA,
		.serial = serial,
		.usage = PKI_USAGE_CLIENT,
		.dns_names = dns,
		.uris = groups,
	};
	return pki_issue(p, &spec);
}
