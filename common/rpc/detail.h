/* What an error tells programs, besides its code and its text (proto/rpc.proto, ErrorDetail). */
#ifndef RPC_DETAIL_H
#define RPC_DETAIL_H

#include <stdint.h>

struct rpc_detail {
	const char *field;       /* INVALID_ARGUMENT: the path of the one that is wrong; NULL or "": none */
	const char *ask;         /* UNAVAILABLE: "host:port" of the server to ask instead; NULL or "": any other */
	uint32_t retry_after_ms; /* RESOURCE_EXHAUSTED: so long it would be refused again; 0: nobody knows */
};

#endif
