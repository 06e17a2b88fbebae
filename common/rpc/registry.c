#include "common/rpc/registry.h"

#include <stdio.h>
#include <string.h>

#include "backup.pb-c.h"
#include "ca.pb-c.h"
#include "common/net/identity.h"
#include "config.pb-c.h"
#include "health.pb-c.h"
#include "keydist.pb-c.h"
#include "serial.pb-c.h"

static const struct rpc_service_entry services[] = {
	{ .descriptor = &kds__v1__health__descriptor, .server_role = 0 },
	{ .descriptor = &kds__v1__config__descriptor, .server_role = PEER_SERIAL },
	{ .descriptor = &kds__v1__serial__descriptor, .server_role = PEER_SERIAL },
	{ .descriptor = &kds__v1__replicas__descriptor, .server_role = PEER_SERIAL },
	{ .descriptor = &kds__v1__backup__descriptor, .server_role = PEER_SERIAL },
	{ .descriptor = &kds__v1__ca__descriptor, .server_role = PEER_CA },
	{ .descriptor = &kds__v1__key_dist__descriptor, .server_role = PEER_KEYDIST },
};
#define N_SERVICES (sizeof services / sizeof services[0])

const struct rpc_service_entry *rpc_registry(size_t *ret_n)
{
	*ret_n = N_SERVICES;
	return services;
}

/* ", " between names; cut where it does not fit. */
static void list_append(char *list, size_t size, const char *name)
{
	size_t len = strlen(list);
	(void)snprintf(list + len, size - len, "%s%s", len > 0 ? ", " : "", name);
}

static enum status_code no_service(const char *name, struct status *st)
{
	char list[160] = "";
	for (size_t i = 0; i < N_SERVICES; i++)
		list_append(list, sizeof list, services[i].descriptor->short_name);
	return status_set(st, STATUS_NOT_FOUND, "no service is called \"%.40s\"; there are: %s", name, list);
}

static enum status_code no_method(const ProtobufCServiceDescriptor *d, const char *method, struct status *st)
{
	char list[160] = "";
	for (unsigned i = 0; i < d->n_methods; i++)
		list_append(list, sizeof list, d->methods[i].name);
	return status_set(st, STATUS_NOT_FOUND, "%s has no method \"%.40s\"; it has: %s", d->short_name, method, list);
}

enum status_code rpc_registry_find(const char *name, struct status *st, const struct rpc_service_entry **ret_service,
				   unsigned *ret_method)
{
	const char *dot = strchr(name, '.');
	if (!dot)
		return status_set(st, STATUS_NOT_FOUND,
				  "\"%.40s\" is no method: write Service.Method, as in Serial.Show", name);
	size_t len = (size_t)(dot - name);
	for (size_t i = 0; i < N_SERVICES; i++) {
		const ProtobufCServiceDescriptor *d = services[i].descriptor;
		if (strncmp(d->short_name, name, len) != 0 || d->short_name[len] != '\0')
			continue;
		for (unsigned m = 0; m < d->n_methods; m++) {
			if (strcmp(d->methods[m].name, dot + 1) != 0)
				continue;
			*ret_service = &services[i];
			*ret_method = m;
			return STATUS_OK;
		}
		return no_method(d, dot + 1, st);
	}
	char service[48];
	(void)snprintf(service, sizeof service, "%.*s", (int)(len < 40 ? len : 40), name);
	return no_service(service, st);
}
