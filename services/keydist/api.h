/* The KeyDist service (proto/keydist.proto). */
#ifndef KEYDIST_API_H
#define KEYDIST_API_H

#include "common/daemon/follower.h"
#include "services/keydist/masterkeys.h"

#define KEYDIST_RATE_KEYS 1 /* of rpc_server_set_rate(): Create and Restore together */

struct api;

/* All borrowed; they outlive the api. */
struct api_options {
	const char *kds_name;
	struct trust *trust; /* knows the nodes (follower.h) */
	struct masterkeys *keys;
	struct follower *follower;
};

enum status_code api_new(const struct api_options *options, struct status *st, struct api **ret_api) MUST_CHECK;
/* Registers the service. Before the server's first listener starts. */
enum status_code api_serve(struct api *a, struct rpc_server *server, struct status *st) MUST_CHECK;
/* After the listeners stopped. NULL is allowed. */
void api_free(struct api *a);

#endif
