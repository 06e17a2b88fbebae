#include "services/serial/api_internal.h"

#include "common/rpc/message.h"

static struct api *api_of(Kds__V1__Serial_Service *service)
{
	return (struct api *)((char *)service - offsetof(struct api, serial));
}

/* Answers are the commands' results, packed already: the closures that handlers get are not used. */

static void serial_allocate(Kds__V1__Serial_Service *service, const Kds__V1__AllocateRequest *in,
			    Kds__V1__AllocateResponse_Closure closure, void *call)
{
	(void)closure;
	Kds__V1__Command c = KDS__V1__COMMAND__INIT;
	c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	c.allocate = (Kds__V1__AllocateRequest *)in;
	api_propose(api_of(service), call, &c);
}

static void serial_record(Kds__V1__Serial_Service *service, const Kds__V1__RecordRequest *in,
			  Kds__V1__RecordResponse_Closure closure, void *call)
{
	(void)closure;
	Kds__V1__Command c = KDS__V1__COMMAND__INIT;
	c.op_case = KDS__V1__COMMAND__OP_RECORD;
	c.record = (Kds__V1__RecordRequest *)in;
	api_propose(api_of(service), call, &c);
}

static void serial_set_min(Kds__V1__Serial_Service *service, const Kds__V1__SetMinRequest *in,
			   Kds__V1__SerialStatus_Closure closure, void *call)
{
	(void)closure;
	Kds__V1__Command c = KDS__V1__COMMAND__INIT;
	c.op_case = KDS__V1__COMMAND__OP_SET_MIN;
	c.set_min = (Kds__V1__SetMinRequest *)in;
	api_propose(api_of(service), call, &c);
}

static enum status_code read_status(struct state *s, const ProtobufCMessage *in, unsigned sealed, struct status *st,
				    struct buffer *out)
{
	(void)in;
	(void)sealed;
	Kds__V1__SerialStatus answer;
	state_serial_status(s, &answer);
	return message_pack(&answer.base, out, st);
}

static void serial_show(Kds__V1__Serial_Service *service, const Kds__V1__ShowRequest *in,
			Kds__V1__SerialStatus_Closure closure, void *call)
{
	(void)closure;
	api_read(api_of(service), call, in->local, &in->base, read_status);
}

static enum status_code read_certificates(struct state *s, const ProtobufCMessage *in, unsigned sealed,
					  struct status *st, struct buffer *out)
{
	(void)sealed;
	return state_certificates(s, (const Kds__V1__ListCertificatesRequest *)in, st, out);
}

static void serial_list_certificates(Kds__V1__Serial_Service *service, const Kds__V1__ListCertificatesRequest *in,
				     Kds__V1__ListCertificatesResponse_Closure closure, void *call)
{
	(void)closure;
	api_read(api_of(service), call, in->local, &in->base, read_certificates);
}

enum status_code api_add_serial(struct api *a, struct rpc_server *server, struct status *st)
{
	static const struct rpc_access table[] = {
		{ .method = "Allocate", .allow = PEER_CA, .flags = RPC_ROUTED },
		{ .method = "Record", .allow = PEER_CA, .flags = RPC_ROUTED },
		{ .method = "SetMin", .allow = PEER_ADMIN, .flags = RPC_ROUTED },
		{ .method = "Show", .allow = PEER_SERVICES, .flags = RPC_READ },
		{ .method = "ListCertificates", .allow = PEER_SERVICES, .flags = RPC_READ },
	};
	a->serial = (Kds__V1__Serial_Service)KDS__V1__SERIAL__INIT(serial_);
	return rpc_server_add(server, &a->serial.base, table, sizeof table / sizeof *table, st);
}
