/* What the api's files share: api.c (calls and the engine), api_serial.c, api_config.c, api_backup.c,
 * api_replicas.c (one service each). */
#ifndef SERIAL_API_INTERNAL_H
#define SERIAL_API_INTERNAL_H

#include "services/serial/api.h"

struct api {
	Kds__V1__Serial_Service serial; /* first, for api_of_serial() */
	Kds__V1__Config_Service config;
	Kds__V1__Replicas_Service replicas;
	Kds__V1__Backup_Service backups;
	struct engine *engine;
	struct forward *forward;
	struct watch *watch;
	struct backup *backup;
	struct trust *trust;
};

/* Tables and functions of the services, into `a`. */
enum status_code api_add_serial(struct api *a, struct rpc_server *server, struct status *st) MUST_CHECK;
enum status_code api_add_config(struct api *a, struct rpc_server *server, struct status *st) MUST_CHECK;
enum status_code api_add_backup(struct api *a, struct rpc_server *server, struct status *st) MUST_CHECK;
enum status_code api_add_replicas(struct api *a, struct rpc_server *server, struct status *st) MUST_CHECK;

/*
 * Proposes a command for the caller and answers with its result. `c` needs its operation alone, and is copied; but records
 * (the call's own memory, until it is answered) lose what the replicas' level does not know (level.h).
 */
void api_propose(struct api *a, struct rpc_call *call, Kds__V1__Command *c);

/* Answers with what `read` appends to `out`. It runs on the engine's thread; `in` lives until the answer. */
typedef enum status_code (*api_read_fn)(struct state *s, const ProtobufCMessage *in, unsigned sealed, struct status *st,
					struct buffer *out);
/* From this replica's own state when `local`, else from the leader's: here, or by passing the call on. */
void api_read(struct api *a, struct rpc_call *call, bool local, const ProtobufCMessage *in, api_read_fn read);

/* The sealed keys that the caller may see (state.h). */
unsigned api_sealed(const struct rpc_call *call);

#endif
