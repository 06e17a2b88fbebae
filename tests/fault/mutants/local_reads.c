// wraps: api_read
/* Reads are answered from the replica's own state, however old that is. */
#include "services/serial/api_internal.h"

void __real_api_read(struct api *a, struct rpc_call *call, bool local, const char *method, const ProtobufCMessage *in,
		     api_read_fn read);
void __wrap_api_read(struct api *a, struct rpc_call *call, bool local, const char *method, const ProtobufCMessage *in,
		     api_read_fn read);

void __wrap_api_read(struct api *a, struct rpc_call *call, bool local, const char *method, const ProtobufCMessage *in,
		     api_read_fn read)
{
	(void)local;
	__real_api_read(a, call, true, method, in, read);
}
