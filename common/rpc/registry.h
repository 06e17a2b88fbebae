/* Every service of proto/, for `call`, `describe` and tests: found by name at run time. */
#ifndef RPC_REGISTRY_H
#define RPC_REGISTRY_H

#include <stddef.h>

#include <protobuf-c/protobuf-c.h>

#include "common/base/status.h"

struct rpc_service_entry {
	const ProtobufCServiceDescriptor *descriptor;
	unsigned server_role; /* enum peer_role bit of the daemons that serve it; 0: all of them (Health) */
};

/* All of them, `ret_n` long. Static storage. */
const struct rpc_service_entry *rpc_registry(size_t *ret_n);

/* "Serial.Show" to its service and method index. NOT_FOUND: no such service or method; says what there is. */
enum status_code rpc_registry_find(const char *name, struct status *st, const struct rpc_service_entry **ret_service,
				   unsigned *ret_method) MUST_CHECK;

#endif
