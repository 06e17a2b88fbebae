#include "services/serial/api_internal.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/rpc/message.h"

unsigned api_sealed(const struct rpc_call *call)
{
	unsigned roles = rpc_call_identity(call)->roles;
	return (roles & PEER_CA ? STATE_SEALED_CA : 0u) | (roles & PEER_KEYDIST ? STATE_SEALED_MASTERKEY : 0u);
}

void api_forward(struct api *a, struct rpc_call *call, const char *method, const ProtobufCMessage *in)
{
	struct buffer packed = { 0 };
	struct status st;
	if (message_pack(in, &packed, &st) == STATUS_OK)
		forward_call(a->forward, call, method, (struct slice){ packed.data, packed.len });
	else
		rpc_call_fail_status(call, &st);
	buffer_free(&packed);
}

static void proposed(void *arg, const struct state_result *result)
{
	struct rpc_call *call = arg;
	if (result->status.code == STATUS_OK)
		rpc_call_relay(call, STATUS_OK, "", (struct slice){ result->answer.data, result->answer.len });
	else
		rpc_call_relay_error(call, &result->status, result->field);
}

void api_propose(struct api *a, struct rpc_call *call, Kds__V1__Command *c)
{
	const struct identity *id = rpc_call_identity(call);
	struct slice request_id = rpc_call_request_id(call);
	c->requester = id->role_name[0] ? id->role_name : id->common_name;
	c->request_id = (ProtobufCBinaryData){ request_id.len, (uint8_t *)request_id.data };
	struct status st;
	const char *field = "";
	if (state_validate(c, &st, &field) != STATUS_OK)
		rpc_call_fail_field(call, field, "%s", st.message);
	else
		engine_propose(a->engine, c, proposed, call);
}

/* One read under way; in the call's memory. */
struct read {
	struct rpc_call *call;
	const ProtobufCMessage *in;
	unsigned sealed;
	api_read_fn read;
	struct engine *local; /* whose own state is read; NULL: linearizable */
};

/* Says what a local answer was read from: a field that stands in all of them (proto/), and may stand behind the others. */
static enum status_code append_read_from(struct engine *engine, const struct state *state, struct status *st,
					 struct buffer *out)
{
	Kds__V1__ReadFrom from = KDS__V1__READ_FROM__INIT;
	Kds__V1__SerialStatus answer = KDS__V1__SERIAL_STATUS__INIT;
	uint64_t now = clock_unix_ms(), time = state_time_ms(state);
	from.revision = state_revision(state);
	from.age_ms = engine_age_ms(engine);
	/* No leader has told: what is known is when the newest command was proposed. */
	if (from.age_ms == UINT64_MAX)
		from.age_ms = now > time ? now - time : 0;
	answer.read_from = &from;
	return message_pack(&answer.base, out, st);
}

static void run_read(void *arg, struct state *state, const struct status *engine_status)
{
	const struct read *r = arg;
	struct rpc_call *call = r->call;
	struct buffer out = { 0 };
	struct status st;
	if (!state)
		rpc_call_fail_status(call, engine_status);
	else if (r->read(state, r->in, r->sealed, &st, &out) == STATUS_OK &&
		 (!r->local || append_read_from(r->local, state, &st, &out) == STATUS_OK))
		rpc_call_relay(call, STATUS_OK, "", (struct slice){ out.data, out.len });
	else
		rpc_call_fail_status(call, &st);
	buffer_wipe(&out);
}

void api_read(struct api *a, struct rpc_call *call, bool local, const char *method, const ProtobufCMessage *in,
	      api_read_fn read)
{
	if (!local && !engine_is_leader(a->engine)) {
		api_forward(a, call, method, in);
		return;
	}
	struct read *r = rpc_call_alloc(call, sizeof *r);
	if (!r) {
		rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s: the request is too large", method);
		return;
	}
	*r = (struct read){ .call = call, .in = in, .sealed = api_sealed(call), .read = read,
			    .local = local ? a->engine : NULL };
	engine_read(a->engine, !local, run_read, r);
}

/* A write on a follower goes to the leader as it came. */
static bool route(void *arg, struct rpc_call *call, const char *method, struct slice payload)
{
	struct api *a = arg;
	if (engine_is_leader(a->engine))
		return false;
	forward_call(a->forward, call, method, payload);
	return true;
}

enum status_code api_new(struct rpc_server *server, struct engine *engine, struct forward *forward, struct watch *watch,
			 struct backup *backup, struct status *st, struct api **ret_api)
{
	struct api *a = calloc(1, sizeof *a);
	if (!a)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the services: out of memory");
	a->engine = engine;
	a->forward = forward;
	a->watch = watch;
	a->backup = backup;
	enum status_code rc = api_add_serial(a, server, st);
	if (rc == STATUS_OK)
		rc = api_add_config(a, server, st);
	if (rc == STATUS_OK)
		rc = api_add_replicas(a, server, st);
	if (rc == STATUS_OK)
		rc = api_add_backup(a, server, st);
	if (rc != STATUS_OK) {
		free(a);
		return rc;
	}
	rpc_server_set_route(server, route, a);
	*ret_api = a;
	return STATUS_OK;
}

void api_free(struct api *a)
{
	free(a);
}
