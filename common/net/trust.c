#include "common/net/trust.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/name_set.h"
#include "common/net/trust_anchors.h"
#include "common/net/trust_verify.h"

struct trust {
	char *cluster;
	char *kds_name;
	struct buffer infrastructure_pem;
	pthread_mutex_t mutex; /* held for pointer swaps and short scans alone */
	struct anchors *anchors;
	char **removed;
	size_t n_removed;
	struct name_set nodes;
	bool nodes_known;
	atomic_uint_fast64_t min_serial;
};

static void free_names(char **names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

enum status_code trust_new(const char *cluster, const char *kds_name, const struct slice *infrastructure_pem,
			   struct status *st, struct trust **ret_trust)
{
	struct trust *t = calloc(1, sizeof *t);
	if (!t)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "trust: out of memory");
	pthread_mutex_init(&t->mutex, NULL);
	atomic_init(&t->min_serial, 0);
	t->cluster = strdup(cluster);
	t->kds_name = strdup(kds_name);
	enum status_code rc = STATUS_OK;
	if (!t->cluster || !t->kds_name ||
	    !buffer_append(&t->infrastructure_pem, infrastructure_pem->data, infrastructure_pem->len))
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "trust: out of memory");
	if (rc == STATUS_OK)
		rc = anchors_new(infrastructure_pem, NULL, 0, true, st, &t->anchors);
	if (rc != STATUS_OK) {
		trust_free(t);
		return rc;
	}
	*ret_trust = t;
	return STATUS_OK;
}

void trust_free(struct trust *t)
{
	if (!t)
		return;
	anchors_unref(t->anchors);
	free_names(t->removed, t->n_removed);
	name_set_free(&t->nodes);
	buffer_free(&t->infrastructure_pem);
	pthread_mutex_destroy(&t->mutex);
	free(t->cluster);
	free(t->kds_name);
	free(t);
}

static struct anchors *current_anchors(struct trust *t)
{
	pthread_mutex_lock(&t->mutex);
	struct anchors *a = anchors_ref(t->anchors);
	pthread_mutex_unlock(&t->mutex);
	return a;
}

static enum status_code set_cluster_cas(struct trust *t, const struct slice *cas, size_t n, bool strict, struct status *st)
{
	struct anchors *fresh;
	struct slice infrastructure = { t->infrastructure_pem.data, t->infrastructure_pem.len };
	enum status_code rc = anchors_new(&infrastructure, cas, n, strict, st, &fresh);
	if (rc != STATUS_OK)
		return rc;
	pthread_mutex_lock(&t->mutex);
	struct anchors *before = t->anchors;
	t->anchors = fresh;
	pthread_mutex_unlock(&t->mutex);
	anchors_unref(before);
	return STATUS_OK;
}

enum status_code trust_set_cluster_cas(struct trust *t, const struct slice *cas, size_t n, struct status *st)
{
	return set_cluster_cas(t, cas, n, true, st);
}

enum status_code trust_follow_cluster_cas(struct trust *t, const struct slice *cas, size_t n, struct status *st)
{
	return set_cluster_cas(t, cas, n, false, st);
}

enum status_code trust_check_cluster_ca(struct trust *t, struct slice der, struct status *st)
{
	struct anchors *anchors = current_anchors(t);
	enum status_code rc = anchors_check(anchors, der, st);
	anchors_unref(anchors);
	return rc;
}

void trust_set_min_serial(struct trust *t, uint64_t min_serial)
{
	atomic_store(&t->min_serial, min_serial);
}

uint64_t trust_min_serial(struct trust *t)
{
	return atomic_load(&t->min_serial);
}

enum status_code trust_set_removed_services(struct trust *t, const char *const *names, size_t n, struct status *st)
{
	char **fresh = calloc(n ? n : 1, sizeof *fresh);
	bool whole = fresh != NULL;
	for (size_t i = 0; whole && i < n; i++) {
		fresh[i] = strdup(names[i]);
		whole = fresh[i] != NULL;
	}
	if (!whole) {
		if (fresh)
			free_names(fresh, n);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "trust: out of memory");
	}
	pthread_mutex_lock(&t->mutex);
	char **before = t->removed;
	size_t n_before = t->n_removed;
	t->removed = fresh;
	t->n_removed = n;
	pthread_mutex_unlock(&t->mutex);
	free_names(before, n_before);
	return STATUS_OK;
}

static bool is_removed(struct trust *t, const char *role_name)
{
	bool found = false;
	pthread_mutex_lock(&t->mutex);
	for (size_t i = 0; i < t->n_removed && !found; i++)
		found = strcmp(t->removed[i], role_name) == 0;
	pthread_mutex_unlock(&t->mutex);
	return found;
}

enum status_code trust_add_node(struct trust *t, const char *name, struct status *st)
{
	pthread_mutex_lock(&t->mutex);
	bool added = name_set_add(&t->nodes, name);
	pthread_mutex_unlock(&t->mutex);
	return added ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "trust: out of memory for node %s", name);
}

void trust_remove_node(struct trust *t, const char *name)
{
	pthread_mutex_lock(&t->mutex);
	name_set_remove(&t->nodes, name);
	pthread_mutex_unlock(&t->mutex);
}

void trust_set_nodes_known(struct trust *t)
{
	pthread_mutex_lock(&t->mutex);
	t->nodes_known = true;
	pthread_mutex_unlock(&t->mutex);
}

bool trust_nodes_known(struct trust *t)
{
	pthread_mutex_lock(&t->mutex);
	bool known = t->nodes_known;
	pthread_mutex_unlock(&t->mutex);
	return known;
}

static bool is_no_node(struct trust *t, const char *name)
{
	pthread_mutex_lock(&t->mutex);
	bool none = t->nodes_known && !name_set_has(&t->nodes, name);
	pthread_mutex_unlock(&t->mutex);
	return none;
}

/* What may change after a chain has verified. */
static enum status_code check_current(struct trust *t, const struct identity *id, struct status *st,
				      gnutls_alert_description_t *ret_alert)
{
	if (id->not_after < (int64_t)(clock_unix_ms() / 1000)) {
		*ret_alert = GNUTLS_A_CERTIFICATE_EXPIRED;
		return status_set(st, STATUS_UNAUTHENTICATED, "certificate of '%s' has expired; renew it", id->common_name);
	}
	*ret_alert = GNUTLS_A_CERTIFICATE_REVOKED;
	uint64_t min_serial = trust_min_serial(t);
	if (!id->infrastructure && identity_serial(id) < min_serial)
		return status_set(st, STATUS_PERMISSION_DENIED,
				  "certificate of '%s' has serial %llu, below the cluster's min_serial %llu; request a new one",
				  id->common_name, (unsigned long long)identity_serial(id),
				  (unsigned long long)min_serial);
	if (id->infrastructure && id->role_name[0] && is_removed(t, id->role_name))
		return status_set(st, STATUS_PERMISSION_DENIED, "service '%s' was removed from the cluster",
				  id->role_name);
	if (!id->infrastructure && is_no_node(t, id->common_name)) {
		*ret_alert = GNUTLS_A_ACCESS_DENIED;
		return status_set(st, STATUS_PERMISSION_DENIED,
				  "node '%s' is not in the cluster any more, or not known here yet; see 'kds-cli node list'",
				  id->common_name);
	}
	return STATUS_OK;
}

enum status_code trust_verify_handshake(struct trust *t, const gnutls_datum_t *chain, unsigned n,
					enum trust_purpose purpose, struct status *st,
					gnutls_alert_description_t *ret_alert, struct identity **ret_identity)
{
	uint8_t digest[CHAIN_DIGEST_SIZE];
	struct identity *id = NULL;
	enum status_code rc = chain_digest(chain, n, purpose, st, ret_alert, digest);
	if (rc != STATUS_OK)
		return rc;
	struct anchors *anchors = current_anchors(t);
	id = chain_cache_find(anchors->cache, digest);
	if (!id) {
		struct chain_context context = {
			.anchors = anchors, .cluster = t->cluster, .kds_name = t->kds_name, .purpose = purpose
		};
		rc = chain_verify(&context, chain, n, st, ret_alert, &id);
		if (rc == STATUS_OK)
			chain_cache_put(anchors->cache, digest, id);
	}
	anchors_unref(anchors);
	if (rc == STATUS_OK)
		rc = check_current(t, id, st, ret_alert);
	if (rc != STATUS_OK) {
		identity_unref(id);
		return rc;
	}
	*ret_identity = id;
	return STATUS_OK;
}

enum status_code trust_verify(struct trust *t, const gnutls_datum_t *chain, unsigned n, enum trust_purpose purpose,
			      struct status *st, struct identity **ret_identity)
{
	gnutls_alert_description_t alert;
	return trust_verify_handshake(t, chain, n, purpose, st, &alert, ret_identity);
}

enum status_code trust_recheck(struct trust *t, const struct identity *id, struct status *st)
{
	if (id->roles & PEER_SELF)
		return STATUS_OK;
	struct anchors *anchors = current_anchors(t);
	const struct anchor *anchor = anchors_find(anchors, id->anchor);
	bool known = anchor && anchor->infrastructure == id->infrastructure;
	anchors_unref(anchors);
	if (!known)
		return status_set(st, STATUS_UNAUTHENTICATED,
				  "the CA that signed the certificate of '%s' is no longer trusted; request a new one",
				  id->common_name);
	gnutls_alert_description_t alert;
	return check_current(t, id, st, &alert);
}
