/*
 * One generation of trust anchors, immutable and counted, with the chains that verified under it. For trust.c.
 */
#ifndef NET_TRUST_ANCHORS_H
#define NET_TRUST_ANCHORS_H

#include <gnutls/x509.h>
#include <stdatomic.h>

#include "common/base/buffer.h"
#include "common/net/chain_cache.h"

struct anchor {
	gnutls_x509_trust_list_t list; /* this one alone, so that a verified chain tells which anchor it ended in */
	gnutls_x509_crt_t crt;         /* the same, the list's own */
	uint8_t fingerprint[IDENTITY_ANCHOR_SIZE];
	uint8_t name[32], key[32];     /* SHA-256 of subject and SubjectPublicKeyInfo */
	uint8_t serial[24];
	size_t serial_len;
	int64_t not_after;
	bool infrastructure;
};

struct anchors {
	atomic_uint refs;
	struct chain_cache *cache;
	size_t n;
	struct anchor list[];
};

/*
 * The cluster's CAs (DER) come first in the list: a CA of the cluster may itself stand under the infrastructure CA, and
 * what it signs must not reach the roles that way. INVALID_ARGUMENT: not a certificate, not a CA, not what
 * x509_accept_certificate() takes; two CAs go by one name with different keys (a CA that is renewed keeps its key); or one
 * of the cluster's has the infrastructure CA's key. Not `strict`: such a CA of the cluster is left out, with a line in the
 * log; of two with one name the later, by its serial.
 */
enum status_code anchors_new(const struct slice *infrastructure_pem, const struct slice *cas, size_t n_cas, bool strict,
			     struct status *st, struct anchors **ret_anchors) MUST_CHECK;
/* May one more CA of the cluster stand beside these? INVALID_ARGUMENT, as above: says why not. */
enum status_code anchors_check(const struct anchors *a, struct slice der, struct status *st) MUST_CHECK;
struct anchors *anchors_ref(struct anchors *a);
void anchors_unref(struct anchors *a);

/* NULL: none of these. */
const struct anchor *anchors_find(const struct anchors *a, const uint8_t fingerprint[IDENTITY_ANCHOR_SIZE]);

#endif
