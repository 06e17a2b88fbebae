#include "common/net/identity.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What identity_new() really allocates; the count is nobody else's business. */
struct counted {
	atomic_uint refs;
	struct identity id;
};

static const struct {
	unsigned role;
	const char *name;
	bool in_uri; /* may stand in a role URI */
} roles[] = {
	{ PEER_SERIAL, "serial", true },
	{ PEER_CA, "ca", true },
	{ PEER_KEYDIST, "keydist", true },
	{ PEER_ADMIN, "admin", true },
	{ PEER_NODE, "node", false },
	{ PEER_KDS_CLIENT, "kds-client", false },
	{ PEER_SELF, "self", false },
};
#define N_ROLES (sizeof roles / sizeof roles[0])

static struct counted *counted_of(struct identity *id)
{
	return (struct counted *)(void *)((char *)id - offsetof(struct counted, id));
}

struct identity *identity_new(void)
{
	struct counted *c = calloc(1, sizeof *c);
	if (!c)
		return NULL;
	atomic_init(&c->refs, 1);
	c->id.common_name = calloc(1, 1);
	c->id.role_name = calloc(1, 1);
	if (!c->id.common_name || !c->id.role_name) {
		identity_unref(&c->id);
		return NULL;
	}
	return &c->id;
}

struct identity *identity_ref(struct identity *id)
{
	if (id)
		atomic_fetch_add_explicit(&counted_of(id)->refs, 1, memory_order_relaxed);
	return id;
}

static void free_strings(char **list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(list[i]);
	free(list);
}

void identity_unref(struct identity *id)
{
	if (!id || atomic_fetch_sub_explicit(&counted_of(id)->refs, 1, memory_order_acq_rel) != 1)
		return;
	free(id->common_name);
	free(id->role_name);
	free_strings(id->dns_names, id->n_dns_names);
	free_strings(id->uris, id->n_uris);
	free(id->spki);
	free(counted_of(id));
}

uint64_t identity_serial(const struct identity *id)
{
	uint64_t n = 0;
	if (id->serial_len > sizeof n)
		return UINT64_MAX;
	for (size_t i = 0; i < id->serial_len; i++)
		n = n << 8 | id->serial[i];
	return n;
}

const char *identity_label(const struct identity *id, char ret_label[IDENTITY_LABEL_MAX])
{
	const char *kind = "nobody", *name = id ? id->common_name : "";
	if (id && id->roles & (PEER_NODE | PEER_KDS_CLIENT)) {
		kind = "node";
	} else if (id && id->roles) {
		kind = peer_role_name(id->roles & -id->roles); /* its first: a service has one, as a rule */
		name = id->role_name;
	}
	snprintf(ret_label, IDENTITY_LABEL_MAX, "%s/%s", kind, name);
	return ret_label;
}

const char *peer_role_name(unsigned role)
{
	for (size_t i = 0; i < N_ROLES; i++) {
		if (roles[i].role == role)
			return roles[i].name;
	}
	return "nobody";
}

unsigned peer_role_parse(const char *name, size_t len)
{
	for (size_t i = 0; i < N_ROLES; i++) {
		if (roles[i].in_uri && strlen(roles[i].name) == len && memcmp(roles[i].name, name, len) == 0)
			return roles[i].role;
	}
	return 0;
}

const char *peer_roles_describe(unsigned mask, char *buf, size_t size)
{
	size_t used = 0;
	snprintf(buf, size, "nobody");
	for (size_t i = 0; i < N_ROLES && used < size; i++) {
		if (!(mask & roles[i].role))
			continue;
		int n = snprintf(buf + used, size - used, "%s%s", used ? ", " : "", roles[i].name);
		used += n > 0 ? (size_t)n : 0;
	}
	return buf;
}
