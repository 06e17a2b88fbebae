#include "common/net/trust_anchors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gnutls/crypto.h>

#include "common/base/log.h"
#include "common/x509/accept.h"
#include "common/x509/cert.h"

#define NAME_SIZE 256

/* For people; cut to fit. */
static void name_of(gnutls_x509_crt_t crt, char ret_name[NAME_SIZE])
{
	gnutls_datum_t dn = { 0 };
	int rv = gnutls_x509_crt_get_dn3(crt, &dn, 0);
	snprintf(ret_name, NAME_SIZE, "'%.*s'", rv < 0 ? 1 : (int)dn.size, rv < 0 ? "?" : (const char *)dn.data);
	for (char *p = ret_name; *p; p++)
		*p = (unsigned char)*p < 0x20 || *p == 0x7f ? '?' : *p;
	gnutls_free(dn.data);
}

/* Fingerprint, name, key and serial: what anchors are found by and told apart by. */
static int fill_hashes(struct anchor *a, gnutls_x509_crt_t crt)
{
	gnutls_datum_t dn = { 0 };
	size_t len = sizeof a->fingerprint;
	int rv = gnutls_x509_crt_get_fingerprint(crt, GNUTLS_DIG_SHA256, a->fingerprint, &len);
	if (rv >= 0)
		rv = gnutls_x509_crt_get_raw_dn(crt, &dn);
	if (rv >= 0)
		rv = gnutls_hash_fast(GNUTLS_DIG_SHA256, dn.data, dn.size, a->name);
	gnutls_free(dn.data);
	len = sizeof a->key;
	if (rv >= 0)
		rv = gnutls_x509_crt_get_key_id(crt, GNUTLS_KEYID_USE_SHA256, a->key, &len);
	a->serial_len = sizeof a->serial;
	return rv < 0 ? rv : gnutls_x509_crt_get_serial(crt, a->serial, &a->serial_len);
}

static enum status_code check_ca(gnutls_x509_crt_t crt, struct status *st)
{
	if (gnutls_x509_crt_get_ca_status(crt, NULL) <= 0)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "trust anchor: the certificate is not a CA's; give the one that signs the others");
	enum status_code rc = x509_accept_certificate(crt, st);
	if (rc != STATUS_OK) {
		char name[NAME_SIZE];
		name_of(crt, name);
		(void)status_prefix(st, "trust anchor %s", name);
	}
	return rc;
}

/* Takes the certificate, also on failure. */
static enum status_code fill_anchor(struct anchor *a, gnutls_x509_crt_t crt, bool infrastructure, struct status *st)
{
	enum status_code rc = check_ca(crt, st);
	if (rc != STATUS_OK)
		goto out;
	int rv = fill_hashes(a, crt);
	if (rv >= 0)
		rv = gnutls_x509_trust_list_init(&a->list, 1);
	if (rv < 0) {
		rc = status_set(st, rv == GNUTLS_E_MEMORY_ERROR ? STATUS_RESOURCE_EXHAUSTED : STATUS_INVALID_ARGUMENT,
				"trust anchor: %s", gnutls_strerror(rv));
		goto out;
	}
	a->not_after = gnutls_x509_crt_get_expiration_time(crt);
	a->infrastructure = infrastructure;
	/* On success the list owns the certificate; it is then freed with it. */
	if (gnutls_x509_trust_list_add_cas(a->list, &crt, 1, 0) == 1) {
		a->crt = crt;
		crt = NULL;
	} else {
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "trust anchor: out of memory");
	}
out:
	if (crt)
		gnutls_x509_crt_deinit(crt);
	return rc;
}

static void empty_anchor(struct anchor *a)
{
	if (a->list)
		gnutls_x509_trust_list_deinit(a->list, 1);
	*a = (struct anchor){ 0 };
}

static enum status_code read_cluster_ca(struct slice der, struct status *st, struct anchor *ret_anchor)
{
	gnutls_x509_crt_t crt;
	enum status_code rc = x509_import(der, st, &crt);
	return rc == STATUS_OK ? fill_anchor(ret_anchor, crt, false, st) : rc;
}

/*
 * One name with two keys: then a certificate that names its issuer does not tell who that is. And what has the
 * infrastructure CA's name or key would take all its certificates for the cluster's, without a role.
 */
static enum status_code check_pair(const struct anchor *one, const struct anchor *other, struct status *st)
{
	bool same_name = memcmp(one->name, other->name, sizeof one->name) == 0;
	bool same_key = memcmp(one->key, other->key, sizeof one->key) == 0;
	char name[NAME_SIZE];
	if (same_name && !same_key) {
		name_of(one->crt, name);
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "trust anchors: two CAs named %s have different keys; give each a name of its own", name);
	}
	if (same_key && one->infrastructure != other->infrastructure) {
		name_of(one->crt, name);
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "trust anchors: %s has the infrastructure CA's key; a cluster's CA has one of its own", name);
	}
	return STATUS_OK;
}

/* The cluster's first, those that were made first before the others. */
static int compare_anchors(const void *a, const void *b)
{
	const struct anchor *x = a, *y = b;
	if (x->infrastructure != y->infrastructure)
		return x->infrastructure ? 1 : -1;
	if (x->serial_len != y->serial_len)
		return x->serial_len < y->serial_len ? -1 : 1;
	return memcmp(x->serial, y->serial, x->serial_len);
}

/* May this one of the cluster's CAs stand beside the infrastructure CAs and those of the cluster before it? */
static enum status_code check_beside(const struct anchors *a, size_t i, struct status *st)
{
	enum status_code rc = STATUS_OK;
	for (size_t k = 0; k < a->n && rc == STATUS_OK; k++)
		if (k < i || a->list[k].infrastructure)
			rc = check_pair(&a->list[i], &a->list[k], st);
	return rc;
}

/* Is a CA of the cluster left out, and the rest goes on? */
static bool is_left_out(enum status_code rc, bool strict, const struct status *st)
{
	if (rc != STATUS_INVALID_ARGUMENT || strict)
		return false;
	log_error("%s; it is left out", st->message);
	return true;
}

static enum status_code add_cluster_cas(struct anchors *a, const struct slice *cas, size_t n, bool strict, struct status *st)
{
	for (size_t i = 0; i < n; i++) {
		struct anchor *next = &a->list[a->n];
		enum status_code rc = read_cluster_ca(cas[i], st, next);
		if (rc == STATUS_OK) {
			a->n++;
			continue;
		}
		empty_anchor(next);
		if (!is_left_out(rc, strict, st))
			return rc;
	}
	qsort(a->list, a->n, sizeof *a->list, compare_anchors);
	for (size_t i = 0; i < a->n && !a->list[i].infrastructure;) {
		enum status_code rc = check_beside(a, i, st);
		if (rc == STATUS_OK) {
			i++;
			continue;
		}
		if (!is_left_out(rc, strict, st))
			return rc;
		empty_anchor(&a->list[i]);
		a->n--;
		memmove(&a->list[i], &a->list[i + 1], (a->n - i) * sizeof *a->list);
	}
	return STATUS_OK;
}

/* Takes the certificates, not the array. */
static enum status_code add_infrastructure(struct anchors *a, gnutls_x509_crt_t *list, unsigned n, struct status *st)
{
	enum status_code rc = STATUS_OK;
	for (unsigned i = 0; i < n; i++) {
		if (rc != STATUS_OK) {
			gnutls_x509_crt_deinit(list[i]);
			continue;
		}
		rc = fill_anchor(&a->list[a->n++], list[i], true, st);
		for (size_t k = 0; k + 1 < a->n && rc == STATUS_OK; k++)
			rc = check_pair(&a->list[a->n - 1], &a->list[k], st);
	}
	return rc;
}

enum status_code anchors_new(const struct slice *infrastructure_pem, const struct slice *cas, size_t n_cas, bool strict,
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
	if (!a || !cache) {
		free(a);
		chain_cache_free(cache);
		x509_list_free(infrastructure, n_infrastructure);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "trust anchors: out of memory");
	}
	atomic_init(&a->refs, 1);
	a->cache = cache;
	enum status_code rc = add_infrastructure(a, infrastructure, n_infrastructure, st);
	gnutls_free(infrastructure);
	if (rc == STATUS_OK)
		rc = add_cluster_cas(a, cas, n_cas, strict, st);
	if (rc != STATUS_OK) {
		anchors_unref(a);
		return rc;
	}
	*ret_anchors = a;
	return STATUS_OK;
}

enum status_code anchors_check(const struct anchors *a, struct slice der, struct status *st)
{
	struct anchor one = { 0 };
	enum status_code rc = read_cluster_ca(der, st, &one);
	for (size_t i = 0; i < a->n && rc == STATUS_OK; i++)
		rc = check_pair(&one, &a->list[i], st);
	empty_anchor(&one);
	return rc;
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
	for (size_t i = 0; i < a->n; i++)
		empty_anchor(&a->list[i]);
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
