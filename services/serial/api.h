/*
 * What kds-serial serves: Serial, Config, Replicas and Backup (proto/). Checks who may do what, turns requests into commands
 * and reads.
 *
 * Any replica takes any call. Writes are for the leader: a follower passes them on as they came (RPC_ROUTED), but for an
 * administrator's, whose caller it sends to the leader. Reads go there too, unless the caller asks for the local, possibly
 * older state; Config.Watch and Replicas.View are always local.
 */
#ifndef SERIAL_API_H
#define SERIAL_API_H

#include "common/rpc/server.h"
#include "services/serial/backup.h"
#include "services/serial/engine.h"
#include "services/serial/forward.h"
#include "services/serial/watch.h"

/* Who is let in at the RPC port: nodes and their clients talk to kds-ca and kds-keydist. */
#define SERIAL_PORT_ROLES PEER_SERVICES

struct api;

/* Registers the services and the route. All are borrowed and must outlive the api. */
enum status_code api_new(struct rpc_server *server, struct engine *engine, struct forward *forward, struct watch *watch,
			 struct backup *backup, struct trust *trust, struct status *st, struct api **ret_api) MUST_CHECK;
/* When no new calls can come. NULL is allowed. */
void api_free(struct api *a);

#endif
