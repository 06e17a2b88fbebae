#include "common/net/trust_verify.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <gnutls/crypto.h>

#include "common/x509/cert.h"

/* Leaf, issuing CA, a third party's intermediates, root: no more is needed, and the work a peer can ask for is bounded. */
#define CHAIN_MAX 8

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

/* The anchor under which the chain verifies (RFC 5280 §6); anchors of the cluster are asked first. */
static enum status_code find_anchor(const struct chain_context *context, gnutls_x509_crt_t *chain, unsigned n,
				    struct status *st, gnutls_alert_description_t *ret_alert,
				    const struct anchor **ret_anchor)
{
	const char *oid = context->purpose == TRUST_SERVER ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT;
	gnutls_typed_vdata_st purpose = { .type = GNUTLS_DT_KEY_PURPOSE_OID,
					  .data = (unsigned char *)(uintptr_t)oid };
	unsigned worst = GNUTLS_CERT_SIGNER_NOT_FOUND;
	for (size_t i = 0; i < context->anchors->n; i++) {
		const struct anchor *anchor = &context->anchors->list[i];
		unsigned found = 0;
		int rv = gnutls_x509_trust_list_verify_crt2(anchor->list, chain, n, &purpose, 1, VERIFY_FLAGS, &found, NULL);
		if (rv < 0)
			return status_set(st, STATUS_INTERNAL, "verify a certificate: %s", gnutls_strerror(rv));
		if (found == 0) {
			*ret_anchor = anchor;
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
	memcpy(id->issuer_key_id, info->issuer_key_id, info->issuer_key_id_len);
	id->issuer_key_id_len = info->issuer_key_id_len;
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
				      const struct anchor *anchor, struct status *st, struct identity **ret_identity)
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
	if (info.ca || info.issuer_key_id_len == 0) {
		rc = status_set(st, STATUS_UNAUTHENTICATED, "the certificate of '%s' %s", info.common_name,
				info.ca ? "is a CA's, not a peer's" : "does not say which key signed it");
		goto out;
	}
	id->infrastructure = anchor->infrastructure;
	memcpy(id->anchor, anchor->fingerprint, sizeof id->anchor);
	id->not_after = shortest_life(chain, n, anchor);
	take_names(id, &info);
	rc = set_roles(context, info.usage, id, st);
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

enum status_code chain_verify(const struct chain_context *context, const gnutls_datum_t *chain, unsigned n,
			      struct status *st, gnutls_alert_description_t *ret_alert, struct identity **ret_identity)
{
	gnutls_x509_crt_t crts[CHAIN_MAX];
	unsigned n_crts = 0;
	const struct anchor *anchor = NULL;
	enum status_code rc = STATUS_OK;
	*ret_alert = GNUTLS_A_BAD_CERTIFICATE;
	while (n_crts < n && rc == STATUS_OK) {
		int rv = gnutls_x509_crt_init(&crts[n_crts]);
		if (rv >= 0) {
			n_crts++;
			rv = gnutls_x509_crt_import(crts[n_crts - 1], &chain[n_crts - 1], GNUTLS_X509_FMT_DER);
		}
		if (rv < 0)
			rc = status_set(st, STATUS_UNAUTHENTICATED, "read a certificate: %s", gnutls_strerror(rv));
	}
	if (rc == STATUS_OK)
		rc = find_anchor(context, crts, n, st, ret_alert, &anchor);
	if (rc == STATUS_OK)
		rc = make_identity(context, crts, n, anchor, st, ret_identity);
	while (n_crts > 0)
		gnutls_x509_crt_deinit(crts[--n_crts]);
	return rc;
}
