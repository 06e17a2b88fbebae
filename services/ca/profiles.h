/*
 * What stands in a certificate: from the replicated configuration alone, never from a request. Pure functions.
 */
#ifndef CA_PROFILES_H
#define CA_PROFILES_H

#include "ca.pb-c.h"
#include "common/base/settings.h"
#include "common/x509/cert.h"
#include "config.pb-c.h"

#define PROFILE_CLOCK_SKEW_S 300 /* not_before lies so far back: a peer's clock may be behind */
/* As short as the settings allow. A shorter life could be over by the replicas' time when the record gets there. */
#define PROFILE_LIFETIME_MIN_S 300

/* "node", "kds-client"; NULL: none of these. Static storage. */
const char *profile_name(Kds__V1__Profile profile);

struct profile {
	struct x509_template template; /* borrows from what it was made of, and from this struct: do not copy it */
	const char *dns_name[1];
};

/*
 * Names and usage; serial and times are left zero.
 *  node: CN and dNSName = the node's name, its addresses, TLS server and client.
 *  kds-client: CN = the node's name, dNSName = kds_name, one URI a group, TLS client alone (it must not pose as the KDS).
 * FAILED_PRECONDITION: the configuration does not allow it; says what to change. INVALID_ARGUMENT: no such profile.
 */
enum status_code profile_fill(Kds__V1__Profile profile, const Kds__V1__Node *node, const char *kds_name,
			      struct status *st, struct profile *ret_profile) MUST_CHECK;

struct profile_lifetimes {
	uint32_t standard_s, longest_s; /* from not before to not after less PROFILE_CLOCK_SKEW_S */
};
/* As the cluster's settings say; the standard is never above the longest. `profile` is one that profile_fill() took. */
struct profile_lifetimes profile_lifetimes(Kds__V1__Profile profile, const struct settings *settings);

/*
 * Validity of a leaf that is signed at `now_s` (Unix seconds): `asked_s` long (0: the standard), never beyond its CA's.
 * INVALID_ARGUMENT: longer than the longest, or below PROFILE_LIFETIME_MIN_S. FAILED_PRECONDITION: the CA has expired.
 */
enum status_code profile_validity(const struct profile_lifetimes *lifetimes, uint32_t asked_s, int64_t now_s,
				  int64_t ca_not_after, struct status *st, struct x509_template *template) MUST_CHECK;

#endif
