/*
 * Whom this process trusts, and what a verified chain makes of a peer.
 *
 * Two kinds of anchors (docs/security-model.md): the infrastructure CA, which alone can give a role, and the
 * cluster's CAs, which sign nodes and their key distribution clients and are held against min_serial.
 * Thread-safe. Readers never wait for a writer for long: each change builds a new immutable snapshot.
 */
#ifndef NET_TRUST_H
#define NET_TRUST_H

#include <gnutls/gnutls.h>

#include "common/base/buffer.h"
#include "common/net/identity.h"

struct trust;

/* `infrastructure_pem`: one or more CA certificates, copied. INVALID_ARGUMENT: not PEM, not a CA. */
enum status_code trust_new(const char *cluster, const char *kds_name, const struct slice *infrastructure_pem,
			   struct status *st, struct trust **ret_trust) MUST_CHECK;
void trust_free(struct trust *t);

/*
 * What follows the replicated state. Each replaces the former value whole; strings and bytes are copied.
 * `cas`: DER certificates. `names`: services (by role name) whose certificates are refused.
 */
enum status_code trust_set_cluster_cas(struct trust *t, const struct slice *cas, size_t n,
				       struct status *st) MUST_CHECK;
/* The same of what the replicated state says: a CA that cannot be trusted, or not beside the others, is left out. It must not
 * take the others with it, nor keep a replica from starting. Logs. */
enum status_code trust_follow_cluster_cas(struct trust *t, const struct slice *cas, size_t n,
					  struct status *st) MUST_CHECK;
/* Before it is entered: would it be left out? INVALID_ARGUMENT: why. */
enum status_code trust_check_cluster_ca(struct trust *t, struct slice der, struct status *st) MUST_CHECK;
void trust_set_min_serial(struct trust *t, uint64_t min_serial);
enum status_code trust_set_removed_services(struct trust *t, const char *const *names, size_t n,
					    struct status *st) MUST_CHECK;
uint64_t trust_min_serial(struct trust *t);

/*
 * The nodes of the cluster, for who serves them and follows them: once they are known, certificates of a cluster CA that name
 * none of them are refused, those of nodes that were removed included. Until then, and for who does not follow them, every
 * name passes. Names are copied. RESOURCE_EXHAUSTED: the node stays refused.
 */
enum status_code trust_add_node(struct trust *t, const char *name, struct status *st) MUST_CHECK;
void trust_remove_node(struct trust *t, const char *name);
void trust_set_nodes_known(struct trust *t);
bool trust_nodes_known(struct trust *t);

/* Which end of TLS the peer is: decides the extended key usage that its certificate must allow. */
enum trust_purpose { TRUST_CLIENT, TRUST_SERVER };

/*
 * Verifies `chain` (DER, the peer's certificate first) as RFC 5280 §6 says, against both kinds of anchors, and
 * makes an identity of it. UNAUTHENTICATED: does not verify, expired, wrong usage, a key or
 * signature that is not accepted (common/x509/accept.h; seen before anything is computed with it). PERMISSION_DENIED: below
 * min_serial, a removed service, or no node of the cluster. About 0.15 ms of signature checks; does not block.
 * The caller owns the reference.
 */
enum status_code trust_verify(struct trust *t, const gnutls_datum_t *chain, unsigned n, enum trust_purpose purpose,
			      struct status *st, struct identity **ret_identity) MUST_CHECK;

/*
 * The same for a handshake: on failure also the alert (RFC 8446 §6.2) that tells the peer why. A chain that was
 * verified before is remembered, so that a peer that comes back costs a hash instead of the signature checks.
 */
enum status_code trust_verify_handshake(struct trust *t, const gnutls_datum_t *chain, unsigned n,
					enum trust_purpose purpose, struct status *st,
					gnutls_alert_description_t *ret_alert,
					struct identity **ret_identity) MUST_CHECK;

/* Is an identity that was verified before still good (expiry, issuer, min_serial, removed services, nodes)? Cheap. */
enum status_code trust_recheck(struct trust *t, const struct identity *id, struct status *st) MUST_CHECK;

#endif
