#include "common/net/trust_anchors.h"

#include <stdlib.h>
#include <string.h>

#include <gnutls/crypto.h>

#include "common/x509/cert.h"

/* Takes the certificate, also on failure. */
static enum status_code fill_anchor(struct anchor *a, gnutls_x509_crt_t crt, bool infrastructure, struct status *st)
{
	gnutls_datum_t der = { 0 };
	enum status_code rc = STATUS_OK;
	if (gnutls_x509_crt_get_ca_status(crt, NULL) <= 0) {
		rc = status_set(st, STATUS_INVALID_ARGUMENT,
				"trust anchor: the certificate is not a CA's; give the one that signs the others");
		goto out;
	}
	int rv = gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_DER, &der);
	if (rv >= 0)
		rv = gnutls_hash_fast(GNUTLS_DIG_SHA256, der.data, der.size, a->fingerprint);
	if (rv >= 0)
		rv = gnutls_x509_trust_list_init(&a->list, 1);
	if (rv < 0) {
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "trust anchor: %s", gnutls_strerror(rv));
		goto out;
	}
	a->not_after = gnutls_x509_crt_get_expiration_time(crt);
	a->infrastructure = infrastructure;
	/* On success the list owns the certificate; it is then freed with it. */
	if (gnutls_x509_trust_list_add_cas(a->list, &crt, 1, 0) == 1)
		crt = NULL;
	else
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "trust anchor: out of memory");
out:
	gnutls_free(der.data);
	if (crt)
		gnutls_x509_crt_deinit(crt);
	return rc;
}

static enum status_code add_cluster_cas(struct anchors *a, const struct slice *cas, size_t n, struct status *st)
{
	for (size_t i = 0; i < n; i++) {
		gnutls_x509_crt_t crt;
		enum status_code rc = x509_import(cas[i], st, &crt);
		if (rc == STATUS_OK)
			rc = fill_anchor(&a->list[a->n++], crt, false, st);
		if (rc != STATUS_OK)
			return rc;
	}
	return STATUS_OK;
}

/* Takes the certificates, not the array. */
static enum status_code add_infrastructure(struct anchors *a, gnutls_x509_crt_t *list, unsigned n, struct status *st)
{
	enum status_code rc = STATUS_OK;
	for (unsigned i = 0; i < n; i++) {
		if (rc == STATUS_OK)
			rc = fill_anchor(&a->list[a->n++], list[i], true, st);
		else
			gnutls_x509_crt_deinit(list[i]);
	}
	return rc;
}

enum status_code anchors_new(const struct slice *infrastructure_pem, const struct slice *cas, size_t n_cas,
			     struct status *st, struct anchors **ret_anchors)
{
	gnutls_x509_crt_t *infrastructure = NULL;
	unsigned n_infrastructure = 0;
	gnutls_datum_t pem = { .data = (unsigned char *)(uintptr_t)infrastructure_pem->data,
			       .size = (unsigned)infrastructure_pem->len };
	int rv = gnutls_x509_crt_list_import2(&infrastructure, &n_infrastructure, &pem, GNUTLS_X509_FMT_PEM, 0);
	if (rv < 0)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "infrastructure CA: %s; give its certificate in PEM (infra-ca.crt)", gnutls_strerror(rv));
	struct anchors *a = calloc(1, sizeof *a + (n_infrastructure + n_cas) * sizeof a->list[0]);
	struct chain_cache *cache = chain_cache_new();
	enum status_code rc;
	if (!a || !cache) {
		free(a);
		chain_cache_free(cache);
		x509_list_free(infrastructure, n_infrastructure);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "trust anchors: out of memory");
	}
	atomic_init(&a->refs, 1);
	a->cache = cache;
	rc = add_cluster_cas(a, cas, n_cas, st);
	if (rc == STATUS_OK) {
		rc = add_infrastructure(a, infrastructure, n_infrastructure, st);
		gnutls_free(infrastructure);
	} else {
		x509_list_free(infrastructure, n_infrastructure);
	}
	if (rc != STATUS_OK) {
		anchors_unref(a);
		return rc;
	}
	*ret_anchors = a;
	return STATUS_OK;
}

struct anchors *anchors_ref(struct anchors *a)
{
	atomic_fetch_add_explicit(&a->refs, 1, memory_order_relaxed);
	return a;
}

void anchors_unref(struct anchors *a)
{
	if (!a || atomic_fetch_sub_explicit(&a->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < a->n; i++) {
		if (a->list[i].list)
			gnutls_x509_trust_list_deinit(a->list[i].list, 1);
	}
	chain_cache_free(a->cache);
	free(a);
}

const struct anchor *anchors_find(const struct anchors *a, const uint8_t fingerprint[IDENTITY_ANCHOR_SIZE])
{
	for (size_t i = 0; i < a->n; i++) {
		if (memcmp(a->list[i].fingerprint, fingerprint, IDENTITY_ANCHOR_SIZE) == 0)
			return &a->list[i];
	}
	return NULL;
}
