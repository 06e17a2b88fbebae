#include "common/net/trust_verify.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <gnutls/crypto.h>

#include "common/x509/accept.h"
#include "common/x509/cert.h"
#include "common/x509/key.h"

/* Certificates signed with SHA-1 and keys under 112 bits of strength (NIST SP 800-57) do not count. */
#define VERIFY_FLAGS GNUTLS_PROFILE_TO_VFLAGS(GNUTLS_PROFILE_MEDIUM)

enum status_code chain_digest(const gnutls_datum_t *chain, unsigned n, enum trust_purpose purpose, struct status *st,
			      gnutls_alert_description_t *ret_alert, uint8_t ret_digest[CHAIN_DIGEST_SIZE])
{
	if (n == 0) {
		*ret_alert = GNUTLS_A_CERTIFICATE_REQUIRED;
		return status_set(st, STATUS_UNAUTHENTICATED, "the peer sent no certificate");
	}
	*ret_alert = GNUTLS_A_BAD_CERTIFICATE;
	if (n > CHAIN_MAX)
		return status_set(st, STATUS_UNAUTHENTICATED, "a chain of %u certificates; at most %d are taken", n,
				  CHAIN_MAX);
	gnutls_hash_hd_t hash;
	int rv = gnutls_hash_init(&hash, GNUTLS_DIG_SHA256);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "digest of a chain: %s", gnutls_strerror(rv));
	uint8_t kind = (uint8_t)purpose;
	rv = gnutls_hash(hash, &kind, sizeof kind);
	for (unsigned i = 0; i < n && rv >= 0; i++) {
		uint32_t size = chain[i].size;
		rv = gnutls_hash(hash, &size, sizeof size);
		if (rv >= 0)
			rv = gnutls_hash(hash, chain[i].data, chain[i].size);
	}
	gnutls_hash_deinit(hash, ret_digest);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "digest of a chain: %s", gnutls_strerror(rv));
	return STATUS_OK;
}

/* What GnuTLS found, in the order in which it helps the reader; the last stands for the rest. */
static const struct {
	unsigned bits;
	gnutls_alert_description_t alert;
	const char *text;
} failures[] = {
	{ GNUTLS_CERT_SIGNER_NOT_FOUND, GNUTLS_A_UNKNOWN_CA, "is signed by a CA that this cluster does not trust" },
	{ GNUTLS_CERT_EXPIRED, GNUTLS_A_CERTIFICATE_EXPIRED, "has expired; renew it" },
	{ GNUTLS_CERT_NOT_ACTIVATED, GNUTLS_A_BAD_CERTIFICATE, "is not valid yet; compare the clocks" },
	{ GNUTLS_CERT_PURPOSE_MISMATCH, GNUTLS_A_UNSUPPORTED_CERTIFICATE, "is not made for this end of TLS" },
	{ GNUTLS_CERT_INSECURE_ALGORITHM, GNUTLS_A_UNSUPPORTED_CERTIFICATE, "uses a weak algorithm or key" },
	{ GNUTLS_CERT_SIGNER_CONSTRAINTS_FAILURE, GNUTLS_A_BAD_CERTIFICATE,
	  "goes beyond what a CA above it may sign (path length, names, usage)" },
	{ GNUTLS_CERT_SIGNER_NOT_CA, GNUTLS_A_UNKNOWN_CA, "is signed by a certificate that is no CA's" },
	{ ~0U, GNUTLS_A_BAD_CERTIFICATE, "does not verify" },
};

static enum status_code describe_failure(unsigned found, struct status *st, gnutls_alert_description_t *ret_alert)
{
	size_t i = 0;
	while (!(failures[i].bits & found))
		i++;
	*ret_alert = failures[i].alert;
	return status_set(st, STATUS_UNAUTHENTICATED, "the certificate %s", failures[i].text);
}

/*
 * Who signed the leaf is what GnuTLS found when it built the path, and nothing that a certificate says of itself: a chain
 * may hold another certificate of the issuer's name, whose key was computed to fit the leaf's signature. GnuTLS tells it
 * step by step, to a function without an argument: each thread has a place for it.
 */
static _Thread_local struct {
	gnutls_x509_crt_t leaf, issuer;
} path;

static int note_issuer(gnutls_x509_crt_t crt, gnutls_x509_crt_t issuer, gnutls_x509_crl_t crl, unsigned found)
{
	(void)crl;
	if (crt == path.leaf && found == 0)
		path.issuer = issuer;
	return 0;
}

/* What was found under one anchor; 0: all is well, and *ret_issuer signed the leaf. */
static int verify_under(const struct anchor *anchor, gnutls_x509_crt_t *chain, unsigned n, gnutls_typed_vdata_st *purpose,
			unsigned *ret_found, gnutls_x509_crt_t *ret_issuer)
{
	path.leaf = chain[0];
	path.issuer = NULL;
	int rv = gnutls_x509_trust_list_verify_crt2(anchor->list, chain, n, purpose, 1, VERIFY_FLAGS, ret_found, note_issuer);
	*ret_issuer = path.issuer;
	return rv;
}

/* The anchor under which the chain verifies (RFC 5280 §6); anchors of the cluster are asked first. */
static enum status_code find_anchor(const struct chain_context *context, gnutls_x509_crt_t *chain, unsigned n,
				    struct status *st, gnutls_alert_description_t *ret_alert,
				    const struct anchor **ret_anchor, gnutls_x509_crt_t *ret_issuer)
{
	const char *oid = context->purpose == TRUST_SERVER ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT;
	gnutls_typed_vdata_st purpose = { .type = GNUTLS_DT_KEY_PURPOSE_OID,
					  .data = (unsigned char *)(uintptr_t)oid };
	unsigned worst = GNUTLS_CERT_SIGNER_NOT_FOUND;
	for (size_t i = 0; i < context->anchors->n; i++) {
		const struct anchor *anchor = &context->anchors->list[i];
		unsigned found = 0;
		gnutls_x509_crt_t issuer = NULL;
		int rv = verify_under(anchor, chain, n, &purpose, &found, &issuer);
		if (rv < 0)
			return status_set(st, STATUS_INTERNAL, "verify a certificate: %s", gnutls_strerror(rv));
		if (found == 0 && !issuer)
			return status_set(st, STATUS_INTERNAL, "verify a certificate: no issuer");
		if (found == 0) {
			*ret_anchor = anchor;
			*ret_issuer = issuer;
			return STATUS_OK;
		}
		/* An anchor that knows the signer says more than one that does not. */
		if (!(found & GNUTLS_CERT_SIGNER_NOT_FOUND))
			worst = found;
	}
	return describe_failure(worst, st, ret_alert);
}

/* Takes the role from "kds://<cluster>/role/<role>/<name>"; other kinds of URIs mean nothing here. */
static enum status_code parse_role(const char *uri, const char *cluster, struct identity *id, struct status *st)
{
	static const char scheme[] = "kds://", middle[] = "/role/";
	if (strncmp(uri, scheme, strlen(scheme)) != 0)
		return STATUS_OK;
	const char *p = uri + strlen(scheme);
	size_t len = strlen(cluster);
	if (strncmp(p, cluster, len) != 0 || strncmp(p + len, middle, strlen(middle)) != 0)
		return status_set(st, STATUS_UNAUTHENTICATED, "'%s' is not a role in cluster '%s'", uri, cluster);
	const char *role = p + len + strlen(middle);
	const char *slash = strchr(role, '/');
	unsigned bit = slash ? peer_role_parse(role, (size_t)(slash - role)) : 0;
	if (!bit || !slash[1] || strchr(slash + 1, '/'))
		return status_set(st, STATUS_UNAUTHENTICATED, "'%s' is not a role that this version knows", uri);
	char *name = strdup(slash + 1);
	if (!name)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "identity: out of memory");
	/* One name a certificate: what a removed service is known by must not depend on the order of its URIs. */
	if (id->roles != 0 && strcmp(id->role_name, name) != 0) {
		free(name);
		return status_set(st, STATUS_UNAUTHENTICATED, "the certificate names two services, '%s' is one", uri);
	}
	free(id->role_name);
	id->role_name = name;
	id->roles |= bit;
	return STATUS_OK;
}

static bool names_host(const struct identity *id, const char *name)
{
	for (size_t i = 0; i < id->n_dns_names; i++) {
		if (strcasecmp(id->dns_names[i], name) == 0)
			return true;
	}
	return false;
}

static enum status_code set_roles(const struct chain_context *context, unsigned usage, struct identity *id,
				  struct status *st)
{
	if (id->infrastructure) {
		enum status_code rc = STATUS_OK;
		for (size_t i = 0; i < id->n_uris && rc == STATUS_OK; i++)
			rc = parse_role(id->uris[i], context->cluster, id, st);
		return rc;
	}
	/* The KDS's own name is for its clients; one that could be a server with it would pose as the KDS. */
	if (!names_host(id, context->kds_name)) {
		id->roles = PEER_NODE;
	} else if (usage == X509_USAGE_CLIENT) {
		id->roles = PEER_KDS_CLIENT;
	} else {
		return status_set(st, STATUS_UNAUTHENTICATED,
				  "the certificate of '%s' names %s and is not limited to clients", id->common_name,
				  context->kds_name);
	}
	return STATUS_OK;
}

/* Moves the strings over: both structs hold them in the same form. */
static void take_names(struct identity *id, struct x509_info *info)
{
	free(id->common_name);
	id->common_name = info->common_name;
	id->dns_names = info->dns_names;
	id->n_dns_names = info->n_dns_names;
	id->uris = info->uris;
	id->n_uris = info->n_uris;
	info->common_name = NULL;
	info->dns_names = NULL;
	info->n_dns_names = 0;
	info->uris = NULL;
	info->n_uris = 0;
	memcpy(id->serial, info->serial, info->serial_len);
	id->serial_len = info->serial_len;
}

/* Of the key that signed the leaf, as our CAs make their subject key id; what the leaf says of it does not count. */
static enum status_code set_issuer(struct identity *id, gnutls_x509_crt_t issuer, struct status *st)
{
	gnutls_pubkey_t key = NULL;
	int rv = gnutls_pubkey_init(&key);
	if (rv >= 0)
		rv = gnutls_pubkey_import_x509(key, issuer, 0);
	enum status_code rc = STATUS_OK;
	if (rv < 0)
		rc = status_set(st, STATUS_INTERNAL, "key of the issuer: %s", gnutls_strerror(rv));
	if (rc == STATUS_OK)
		rc = x509_key_id(key, st, id->issuer_key_id);
	if (rc == STATUS_OK)
		id->issuer_key_id_len = X509_KEY_ID_SIZE;
	if (key)
		gnutls_pubkey_deinit(key);
	return rc;
}

static enum status_code set_key(struct identity *id, gnutls_x509_crt_t crt, struct status *st)
{
	gnutls_pubkey_t key = NULL;
	gnutls_datum_t der = { 0 };
	int rv = gnutls_pubkey_init(&key);
	if (rv >= 0)
		rv = gnutls_pubkey_import_x509(key, crt, 0);
	if (rv >= 0)
		rv = gnutls_pubkey_export2(key, GNUTLS_X509_FMT_DER, &der);
	if (key)
		gnutls_pubkey_deinit(key);
	if (rv < 0)
		return status_set(st, STATUS_UNAUTHENTICATED, "key of the certificate: %s", gnutls_strerror(rv));
	id->spki = malloc(der.size);
	if (id->spki) {
		memcpy(id->spki, der.data, der.size);
		id->spki_len = der.size;
	}
	gnutls_free(der.data);
	return id->spki ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "identity: out of memory");
}

static int64_t shortest_life(gnutls_x509_crt_t *chain, unsigned n, const struct anchor *anchor)
{
	int64_t least = anchor->not_after;
	for (unsigned i = 0; i < n; i++) {
		int64_t end = gnutls_x509_crt_get_expiration_time(chain[i]);
		if (end < least)
			least = end;
	}
	return least;
}

static enum status_code make_identity(const struct chain_context *context, gnutls_x509_crt_t *chain, unsigned n,
				      const struct anchor *anchor, gnutls_x509_crt_t issuer, struct status *st,
				      struct identity **ret_identity)
{
	struct x509_info info;
	struct status detail;
	enum status_code rc = x509_info_read(chain[0], &detail, &info);
	if (rc != STATUS_OK)
		return status_set(st, rc == STATUS_INVALID_ARGUMENT ? STATUS_UNAUTHENTICATED : rc, "%s", detail.message);
	struct identity *id = identity_new();
	if (!id) {
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "identity: out of memory");
		goto out;
	}
	if (info.ca) {
		rc = status_set(st, STATUS_UNAUTHENTICATED, "the certificate of '%s' is a CA's, not a peer's",
				info.common_name);
		goto out;
	}
	id->infrastructure = anchor->infrastructure;
	memcpy(id->anchor, anchor->fingerprint, sizeof id->anchor);
	id->not_after = shortest_life(chain, n, anchor);
	take_names(id, &info);
	rc = set_roles(context, info.usage, id, st);
	if (rc == STATUS_OK)
		rc = set_issuer(id, issuer, st);
	if (rc == STATUS_OK)
		rc = set_key(id, chain[0], st);
out:
	x509_info_free(&info);
	if (rc != STATUS_OK) {
		identity_unref(id);
		return rc;
	}
	*ret_identity = id;
	return STATUS_OK;
}

/* Parses one and looks at it; computes nothing with a key in it. */
static enum status_code read_certificate(const gnutls_datum_t *der, struct status *st, gnutls_x509_crt_t *ret_crt)
{
	gnutls_x509_crt_t crt;
	struct status detail;
	int rv = gnutls_x509_crt_init(&crt);
	if (rv < 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read a certificate: %s", gnutls_strerror(rv));
	enum status_code rc;
	rv = gnutls_x509_crt_import(crt, der, GNUTLS_X509_FMT_DER);
	if (rv < 0)
		rc = status_set(st, STATUS_UNAUTHENTICATED, "read a certificate: %s", gnutls_strerror(rv));
	else
		rc = x509_accept_certificate(crt, &detail);
	if (rv >= 0 && rc == STATUS_INVALID_ARGUMENT)
		rc = status_set(st, STATUS_UNAUTHENTICATED, "a certificate of the chain: %s", detail.message);
	else if (rv >= 0 && rc != STATUS_OK)
		rc = status_set(st, rc, "%s", detail.message);
	if (rc != STATUS_OK) {
		gnutls_x509_crt_deinit(crt);
		return rc;
	}
	*ret_crt = crt;
	return STATUS_OK;
}

enum status_code chain_verify(const struct chain_context *context, const gnutls_datum_t *chain, unsigned n,
			      struct status *st, gnutls_alert_description_t *ret_alert, struct identity **ret_identity)
{
	gnutls_x509_crt_t crts[CHAIN_MAX], issuer = NULL;
	unsigned n_crts = 0;
	const struct anchor *anchor = NULL;
	enum status_code rc = STATUS_OK;
	*ret_alert = GNUTLS_A_BAD_CERTIFICATE;
	/* All of them before the first signature is looked at. */
	while (n_crts < n && rc == STATUS_OK) {
		rc = read_certificate(&chain[n_crts], st, &crts[n_crts]);
		n_crts += rc == STATUS_OK;
	}
	if (rc == STATUS_OK)
		rc = find_anchor(context, crts, n, st, ret_alert, &anchor, &issuer);
	if (rc == STATUS_OK)
		rc = make_identity(context, crts, n, anchor, issuer, st, ret_identity);
	while (n_crts > 0)
		gnutls_x509_crt_deinit(crts[--n_crts]);
	return rc;
}
