#include "services/ca/profiles.h"

#include <string.h>

#include "common/x509/name.h"

#define COMMON_NAME_MAX 64 /* RFC 5280 appendix A.1, ub-common-name */

const char *profile_name(Kds__V1__Profile profile)
{
	switch (profile) {
	case KDS__V1__PROFILE__PROFILE_NODE:
		return "node";
	case KDS__V1__PROFILE__PROFILE_KDS_CLIENT:
		return "kds-client";
	default:
		return NULL;
	}
}

static enum status_code check_node(const Kds__V1__Node *node, const char *kds_name, struct status *st)
{
	enum status_code rc = x509_check_dns_name(node->name, "the node's name", st);
	if (rc != STATUS_OK)
		return status_set(st, STATUS_FAILED_PRECONDITION, "node %s: not a DNS name in lower case; add it under another",
				  node->name);
	/* Its own certificate would be taken for a key distribution client's, and its server for the KDS. */
	if (strcmp(node->name, kds_name) == 0)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "node %s has the name of the key distribution service; give it another", node->name);
	if (strlen(node->name) > COMMON_NAME_MAX)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "node %s: a common name has at most %d bytes (RFC 5280); give it a shorter name", node->name,
				  COMMON_NAME_MAX);
	return STATUS_OK;
}

static enum status_code fill_node(const Kds__V1__Node *node, struct profile *p)
{
	p->dns_name[0] = node->name;
	p->template.usage = X509_USAGE_SERVER | X509_USAGE_CLIENT;
	p->template.addresses = (const char *const *)node->addresses;
	p->template.n_addresses = node->n_addresses;
	return STATUS_OK;
}

static enum status_code fill_kds_client(const Kds__V1__Node *node, const char *kds_name, struct status *st,
					struct profile *p)
{
	if (node->n_groups == 0)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "node %s is in no group, so it has no keys to ask for; give it one: kds-cli node add --group",
				  node->name);
	/* The replicators check groups too; what could pass for a role is refused by whoever signs as well. */
	for (size_t i = 0; i < node->n_groups; i++) {
		struct status why;
		if (x509_parse_group(node->groups[i], &why, NULL, NULL) != STATUS_OK)
			return status_set(st, STATUS_FAILED_PRECONDITION, "node %s: %s", node->name, why.message);
	}
	p->dns_name[0] = kds_name;
	p->template.usage = X509_USAGE_CLIENT;
	p->template.uris = (const char *const *)node->groups;
	p->template.n_uris = node->n_groups;
	return STATUS_OK;
}

enum status_code profile_fill(Kds__V1__Profile profile, const Kds__V1__Node *node, const char *kds_name,
			      struct status *st, struct profile *ret_profile)
{
	enum status_code rc = check_node(node, kds_name, st);
	if (rc != STATUS_OK)
		return rc;
	*ret_profile = (struct profile){ .template = { .common_name = node->name, .path_len = -1 } };
	ret_profile->template.dns_names = ret_profile->dns_name;
	ret_profile->template.n_dns_names = 1;
	switch (profile) {
	case KDS__V1__PROFILE__PROFILE_NODE:
		return fill_node(node, ret_profile);
	case KDS__V1__PROFILE__PROFILE_KDS_CLIENT:
		return fill_kds_client(node, kds_name, st, ret_profile);
	default:
		return status_set(st, STATUS_INVALID_ARGUMENT, "there is no profile %d; use PROFILE_NODE or PROFILE_KDS_CLIENT",
				  (int)profile);
	}
}

struct profile_lifetimes profile_lifetimes(Kds__V1__Profile profile, const struct settings *settings)
{
	enum setting which = profile == KDS__V1__PROFILE__PROFILE_KDS_CLIENT ? SETTING_CERTIFICATE_KDS_CLIENT_LIFETIME :
									       SETTING_CERTIFICATE_NODE_LIFETIME;
	/* Both are at most 167 h: with PROFILE_CLOCK_SKEW_S still below X509_LEAF_SECONDS_MAX. */
	struct profile_lifetimes l = {
		.standard_s = (uint32_t)(settings_get(settings, which) / 1000),
		.longest_s = (uint32_t)(settings_get(settings, SETTING_CERTIFICATE_MAX_LIFETIME) / 1000),
	};
	if (l.standard_s > l.longest_s)
		l.standard_s = l.longest_s;
	return l;
}

enum status_code profile_validity(const struct profile_lifetimes *lifetimes, uint32_t asked_s, int64_t now_s,
				  int64_t ca_not_after, struct status *st, struct x509_template *template)
{
	uint32_t life = asked_s ? asked_s : lifetimes->standard_s;
	if (life < PROFILE_LIFETIME_MIN_S)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "a certificate of %u s is shorter than this CA gives; ask for at least %d s", life,
				  PROFILE_LIFETIME_MIN_S);
	if (life > lifetimes->longest_s)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "a certificate of %u s is longer than this CA gives; ask for at most %u s", life,
				  lifetimes->longest_s);
	if (ca_not_after <= now_s)
		return status_set(st, STATUS_FAILED_PRECONDITION, "the CA's own certificate has expired; make a new CA");
	template->not_before = now_s - PROFILE_CLOCK_SKEW_S;
	template->not_after = now_s + life < ca_not_after ? now_s + life : ca_not_after;
	return STATUS_OK;
}
