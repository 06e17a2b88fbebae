#include "services/serial/api_internal.h"

#include "common/net/address.h"
#include "common/rpc/message.h"

static struct api *api_of(Kds__V1__Replicas_Service *service)
{
	return (struct api *)((char *)service - offsetof(struct api, replicas));
}

static void replicas_view(Kds__V1__Replicas_Service *service, const Kds__V1__ViewRequest *in,
			  Kds__V1__ViewResponse_Closure closure, void *closure_data)
{
	(void)in;
	Kds__V1__ViewResponse *view = engine_view(api_of(service)->engine);
	if (view)
		closure(view, closure_data);
	else
		rpc_call_fail(closure_data, STATUS_RESOURCE_EXHAUSTED, "Replicas.View: out of memory; try again later");
	if (view)
		kds__v1__view_response__free_unpacked(view, NULL);
}

/* A call that the engine's thread looks at first. Lives in the call's memory, as what it points to does. */
struct asked {
	struct api *api;
	struct rpc_call *call;
	Kds__V1__ChangeReplicaRequest change;
};

static void ask(struct api *a, struct rpc_call *call, const Kds__V1__ChangeReplicaRequest *change, engine_read_fn look)
{
	struct asked *asked = rpc_call_alloc(call, sizeof *asked);
	if (!asked) {
		rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED, "the request is too large");
		return;
	}
	*asked = (struct asked){ .api = a, .call = call };
	kds__v1__change_replica_request__init(&asked->change);
	if (change)
		asked->change = *change;
	engine_read(a->engine, false, look, asked);
}

static void list_members(void *arg, struct state *state, const struct status *st)
{
	const struct asked *asked = arg;
	struct buffer out = { 0 };
	struct status why;
	if (!state)
		rpc_call_fail_status(asked->call, st);
	else if (engine_members(asked->api->engine, &why, &out) == STATUS_OK)
		rpc_call_relay(asked->call, STATUS_OK, "", (struct slice){ out.data, out.len });
	else
		rpc_call_fail_status(asked->call, &why);
	buffer_free(&out);
}

static void replicas_members(Kds__V1__Replicas_Service *service, const Kds__V1__MembersRequest *in,
			     Kds__V1__MembersResponse_Closure closure, void *call)
{
	(void)in;
	(void)closure;
	ask(api_of(service), call, NULL, list_members);
}

static void replicas_add(Kds__V1__Replicas_Service *service, const Kds__V1__AddReplicaRequest *in,
			 Kds__V1__Replica_Closure closure, void *call)
{
	(void)closure;
	char url[ADDRESS_URL_MAX];
	struct status st;
	if (address_to_url(in->address, false, &st, url) != STATUS_OK) {
		rpc_call_fail_field(call, "address", "%s", st.message);
		return;
	}
	if (*in->rpc_address && address_to_url(in->rpc_address, false, &st, url) != STATUS_OK) {
		rpc_call_fail_field(call, "rpc_address", "%s", st.message);
		return;
	}
	Kds__V1__Command c = KDS__V1__COMMAND__INIT;
	c.op_case = KDS__V1__COMMAND__OP_ADD_REPLICA;
	c.add_replica = (Kds__V1__AddReplicaRequest *)in;
	api_propose(api_of(service), call, &c);
}

static void check_and_propose(void *arg, struct state *state, const struct status *st)
{
	struct asked *asked = arg;
	struct status why;
	if (!state) {
		rpc_call_fail_status(asked->call, st);
		return;
	}
	if (engine_check_change(asked->api->engine, &asked->change, &why) != STATUS_OK) {
		rpc_call_fail_status(asked->call, &why);
		return;
	}
	Kds__V1__Command c = KDS__V1__COMMAND__INIT;
	c.op_case = KDS__V1__COMMAND__OP_CHANGE_REPLICA;
	c.change_replica = &asked->change;
	api_propose(asked->api, asked->call, &c);
}

static void replicas_set_voter(Kds__V1__Replicas_Service *service, const Kds__V1__SetVoterRequest *in,
			       Kds__V1__Replica_Closure closure, void *call)
{
	(void)closure;
	Kds__V1__ChangeReplicaRequest change = KDS__V1__CHANGE_REPLICA_REQUEST__INIT;
	change.name = in->name;
	change.change_case = KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_VOTER;
	change.voter = in->voter;
	ask(api_of(service), call, &change, check_and_propose);
}

static void replicas_remove(Kds__V1__Replicas_Service *service, const Kds__V1__RemoveReplicaRequest *in,
			    Kds__V1__Replica_Closure closure, void *call)
{
	(void)closure;
	Kds__V1__ChangeReplicaRequest change = KDS__V1__CHANGE_REPLICA_REQUEST__INIT;
	change.name = in->name;
	change.change_case = KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_REMOVED;
	change.removed = true;
	ask(api_of(service), call, &change, check_and_propose);
}

static void transferred(void *arg, const struct status *st, uint64_t leader)
{
	struct rpc_call *call = arg;
	Kds__V1__TransferResponse answer = KDS__V1__TRANSFER_RESPONSE__INIT;
	answer.id = leader;
	struct buffer out = { 0 };
	struct status packed = *st;
	if (st->code == STATUS_OK && message_pack(&answer.base, &out, &packed) == STATUS_OK)
		rpc_call_relay(call, STATUS_OK, "", (struct slice){ out.data, out.len });
	else
		rpc_call_fail_status(call, &packed);
	buffer_free(&out);
}

static void begin_transfer(void *arg, struct state *state, const struct status *st)
{
	const struct asked *asked = arg;
	const char *name = asked->change.name;
	uint64_t id = state && *name ? engine_member_id(asked->api->engine, name) : 0;
	if (!state)
		rpc_call_fail_status(asked->call, st);
	else if (*name && id == 0)
		rpc_call_fail(asked->call, STATUS_NOT_FOUND, "there is no replica %s", name);
	else
		engine_transfer(asked->api->engine, id, transferred, asked->call);
}

static void replicas_transfer(Kds__V1__Replicas_Service *service, const Kds__V1__TransferRequest *in,
			      Kds__V1__TransferResponse_Closure closure, void *call)
{
	(void)closure;
	Kds__V1__ChangeReplicaRequest to = KDS__V1__CHANGE_REPLICA_REQUEST__INIT;
	to.name = in->name;
	ask(api_of(service), call, &to, begin_transfer);
}

enum status_code api_add_replicas(struct api *a, struct rpc_server *server, struct status *st)
{
	static const struct rpc_access table[] = {
		{ .method = "View", .allow = PEER_SERVICES, .flags = RPC_READ },
		{ .method = "Members", .allow = PEER_SERVICES, .flags = RPC_ROUTED | RPC_READ },
		{ .method = "Add", .allow = PEER_ADMIN, .flags = RPC_ROUTED },
		{ .method = "SetVoter", .allow = PEER_ADMIN, .flags = RPC_ROUTED },
		{ .method = "Remove", .allow = PEER_ADMIN, .flags = RPC_ROUTED },
		{ .method = "Transfer", .allow = PEER_ADMIN, .flags = RPC_ROUTED },
	};
	a->replicas = (Kds__V1__Replicas_Service)KDS__V1__REPLICAS__INIT(replicas_);
	return rpc_server_add(server, &a->replicas.base, table, sizeof table / sizeof *table, st);
}
