/*
 * From a peer's chain to its identity: path validation, names, roles. For trust.c.
 */
#ifndef NET_TRUST_VERIFY_H
#define NET_TRUST_VERIFY_H

#include <gnutls/gnutls.h>

#include "common/net/trust.h"
#include "common/net/trust_anchors.h"

/* Leaf, issuing CA, a third party's intermediates, root: no more is needed, and the work a peer can ask for is bounded. */
#define CHAIN_MAX 8

struct chain_context {
	const struct anchors *anchors;
	const char *cluster;
	const char *kds_name;
	enum trust_purpose purpose;
};

/* SHA-256 over the purpose and each certificate with its length. UNAUTHENTICATED: no certificate, or too many. */
enum status_code chain_digest(const gnutls_datum_t *chain, unsigned n, enum trust_purpose purpose, struct status *st,
			      gnutls_alert_description_t *ret_alert, uint8_t ret_digest[CHAIN_DIGEST_SIZE]) MUST_CHECK;

/* The caller owns the reference. Sets *ret_alert on failure alone. */
enum status_code chain_verify(const struct chain_context *context, const gnutls_datum_t *chain, unsigned n,
			      struct status *st, gnutls_alert_description_t *ret_alert,
			      struct identity **ret_identity) MUST_CHECK;

#endif
