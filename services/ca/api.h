/* The Ca service (proto/ca.proto): who may ask for what, and the answers. */
#ifndef CA_API_H
#define CA_API_H

#include "common/rpc/server.h"
#include "services/ca/issue.h"
#include "services/ca/maker.h"

#define CA_RATE_SIGN 1 /* of rpc_server_set_rate(): Sign */

struct ca_api;

struct ca_api_options {
	struct keeper *keeper;     /* these must outlive it */
	struct issuing *issuing;
	struct maker *maker;
	const char *authority;     /* the CA that this process signs with */
	const char *cluster;       /* strings are copied */
	const char *kds_name;
};

/* Registers the service with `server`; must live until that has answered every call. */
enum status_code ca_api_new(const struct ca_api_options *options, struct rpc_server *server, struct status *st,
			    struct ca_api **ret_api) MUST_CHECK;
void ca_api_free(struct ca_api *api);

#endif
