#include "services/serial/api_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/rpc/message.h"
#include "services/serial/level.h"

unsigned api_sealed(const struct rpc_call *call)
{
	unsigned roles = rpc_call_identity(call)->roles;
	return (roles & PEER_CA ? STATE_SEALED_CA : 0u) | (roles & PEER_KEYDIST ? STATE_SEALED_MASTERKEY : 0u);
}

/* What a call needs to be passed on: made when first needed, kept with it. NULL: the call was answered. */
static struct forward_task *task_of(struct rpc_call *call)
{
	struct forward_task *t = rpc_call_data(call);
	if (t)
		return t;
	t = rpc_call_alloc(call, sizeof *t);
	if (!t) {
		rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s: the request is too large", rpc_call_method(call));
		return NULL;
	}
	*t = (struct forward_task){ .call = call };
	rpc_call_set_data(call, t);
	return t;
}

/* Writes: as they came (RPC_ROUTED) */

static void handle_here(void *arg)
{
	rpc_call_handle(arg);
}

static void forward_write(struct api *a, struct rpc_call *call)
{
	struct forward_task *t = task_of(call);
	if (!t)
		return;
	t->payload = rpc_call_payload(call);
	t->here = handle_here;
	t->arg = call;
	forward_call(a->forward, t);
}

/* One command under way; in the call's memory. */
struct proposed {
	struct api *api;
	struct rpc_call *call;
	const Kds__V1__RecordRequest *record; /* NULL: it is no record */
	struct slice answer;                  /* to a record, of which some were refused */
	char requester[IDENTITY_LABEL_MAX];
};

/* What was decided says why by code; people get a text. */
static void explain(void *arg, struct state *state, const struct status *engine_status)
{
	const struct proposed *p = arg;
	struct buffer out = { 0 };
	struct status st;
	(void)engine_status;
	if (state && state_explain(state, p->requester, p->record, p->answer, &st, &out) == STATUS_OK)
		rpc_call_relay(p->call, STATUS_OK, "", (struct slice){ out.data, out.len });
	else
		rpc_call_relay(p->call, STATUS_OK, "", p->answer);
	buffer_free(&out);
}

static void relay_answer(struct proposed *p, struct slice answer)
{
	uint8_t *copy = NULL;
	if (p->record && state_any_refused(answer, p->record->n_certificates))
		copy = rpc_call_alloc(p->call, answer.len);
	if (!copy) {
		rpc_call_relay(p->call, STATUS_OK, "", answer);
		return;
	}
	memcpy(copy, answer.data, answer.len);
	p->answer = (struct slice){ copy, answer.len };
	engine_read(p->api->engine, false, explain, p);
}

static void proposed(void *arg, const struct state_result *result)
{
	struct proposed *p = arg;
	struct rpc_call *call = p->call;
	if (result->status.code == STATUS_OK)
		relay_answer(p, (struct slice){ result->answer.data, result->answer.len });
	else if (result->status.code == STATUS_UNAVAILABLE && rpc_call_request_id(call).len > 0 &&
		 !rpc_call_forwarded(call))
		forward_write(p->api, call); /* by whoever leads next; if it was done already, that is known by its id */
	else
		rpc_call_relay_error(call, &result->status, &(struct rpc_detail){ .field = result->field });
}

/* Without what LEVEL_ASKED brought. */
static void strip_records(Kds__V1__RecordRequest *in)
{
	for (size_t i = 0; i < in->n_certificates; i++) {
		Kds__V1__IssuedCertificate *c = in->certificates[i];
		c->requester_serial = 0;
		c->requester_issuer = c->request_id = c->request_digest = (ProtobufCBinaryData){ 0 };
	}
}

/* As what the replicas' level knows: who asks by its label, or by the name alone. */
static void stamp(struct api *a, struct proposed *p, Kds__V1__Command *c)
{
	const struct identity *id = rpc_call_identity(p->call);
	struct slice request_id = rpc_call_request_id(p->call);
	c->version = engine_level(a->engine) >= LEVEL_ASKED ? LEVEL_ASKED : LEVEL_FIRST;
	if (c->op_case == KDS__V1__COMMAND__OP_RECORD)
		p->record = c->record;
	if (c->version >= LEVEL_ASKED) {
		identity_label(id, p->requester);
	} else {
		snprintf(p->requester, sizeof p->requester, "%s", id->role_name[0] ? id->role_name : id->common_name);
		if (p->record)
			strip_records(c->record);
	}
	c->requester = p->requester;
	c->request_id = (ProtobufCBinaryData){ request_id.len, (uint8_t *)request_id.data };
}

void api_propose(struct api *a, struct rpc_call *call, Kds__V1__Command *c)
{
	struct status st;
	const char *field = "";
	struct proposed *p = rpc_call_alloc(call, sizeof *p);
	if (!p) {
		rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s: the request is too large", rpc_call_method(call));
		return;
	}
	*p = (struct proposed){ .api = a, .call = call };
	stamp(a, p, c);
	if (state_validate(c, &st, &field) != STATUS_OK)
		rpc_call_fail_field(call, field, "%s", st.message);
	else
		engine_propose(a->engine, c, proposed, p);
}

/* Reads */

/* One read under way; in the call's memory. */
struct read {
	struct api *api;
	struct rpc_call *call;
	const ProtobufCMessage *in;
	unsigned sealed;
	bool local;
	api_read_fn read;
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

static void run_read(void *arg, struct state *state, const struct status *engine_status);

static void read_here(void *arg)
{
	struct read *r = arg;
	engine_read(r->api->engine, !r->local, run_read, r);
}

static void forward_read(struct read *r)
{
	struct forward_task *t = task_of(r->call);
	if (!t)
		return;
	if (!t->here) {
		size_t size = protobuf_c_message_get_packed_size(r->in);
		uint8_t *packed = rpc_call_alloc(r->call, size + 1); /* it may be empty */
		if (!packed) {
			rpc_call_fail(r->call, STATUS_RESOURCE_EXHAUSTED, "%s: the request is too large",
				      rpc_call_method(r->call));
			return;
		}
		t->payload = (struct slice){ packed, protobuf_c_message_pack(r->in, packed) };
		t->repeatable = true;
		t->here = read_here;
		t->arg = r;
	}
	forward_call(r->api->forward, t);
}

static void run_read(void *arg, struct state *state, const struct status *engine_status)
{
	struct read *r = arg;
	struct rpc_call *call = r->call;
	struct buffer out = { 0 };
	struct status st;
	if (!state && engine_status->code == STATUS_UNAVAILABLE && !r->local && !rpc_call_forwarded(call))
		forward_read(r);
	else if (!state)
		rpc_call_fail_status(call, engine_status);
	else if (r->read(state, r->in, r->sealed, &st, &out) == STATUS_OK &&
		 (!r->local || append_read_from(r->api->engine, state, &st, &out) == STATUS_OK))
		rpc_call_relay(call, STATUS_OK, "", (struct slice){ out.data, out.len });
	else
		rpc_call_fail_status(call, &st);
	buffer_wipe(&out);
}

void api_read(struct api *a, struct rpc_call *call, bool local, const ProtobufCMessage *in, api_read_fn read)
{
	struct read *r = rpc_call_alloc(call, sizeof *r);
	if (!r) {
		rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s: the request is too large", rpc_call_method(call));
		return;
	}
	*r = (struct read){ .api = a, .call = call, .in = in, .sealed = api_sealed(call), .local = local, .read = read };
	if (local || engine_is_leader(a->engine))
		read_here(r);
	else
		forward_read(r);
}

/* A write on a follower goes to the leader as it came. */
static bool route(void *arg, struct rpc_call *call, const char *method, struct slice payload)
{
	struct api *a = arg;
	(void)method;
	(void)payload; /* it is the call's */
	if (engine_is_leader(a->engine))
		return false;
	forward_write(a, call);
	return true;
}

/* A replica that was removed has a valid certificate for as long as its service is listed. */
static bool may_forward(void *arg, const struct identity *peer)
{
	const struct api *a = arg;
	return engine_has_member(a->engine, peer->role_name);
}

enum status_code api_new(struct rpc_server *server, struct engine *engine, struct forward *forward, struct watch *watch,
			 struct backup *backup, struct trust *trust, struct status *st, struct api **ret_api)
{
	struct api *a = calloc(1, sizeof *a);
	if (!a)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the services: out of memory");
	a->engine = engine;
	a->forward = forward;
	a->watch = watch;
	a->backup = backup;
	a->trust = trust;
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
	rpc_server_set_may_forward(server, may_forward, a);
	*ret_api = a;
	return STATUS_OK;
}

void api_free(struct api *a)
{
	free(a);
}
