#include "common/rpc/server_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/secret.h"
#include "common/base/tally.h"
#include "common/rpc/message.h"

/*
 * Answers
 */

static const struct rpc_detail no_detail;

static struct slice text(const char *s)
{
	return (struct slice){ .data = s, .len = s ? strlen(s) : 0 };
}

/* A header as it came, the envelope's head, the payload: copied once, into the connection's output. */
static void send_response(struct conn *conn, const uint8_t *header, size_t header_len,
			  const struct response_envelope *response)
{
	uint8_t head[RESPONSE_HEAD_MAX];
	struct slice parts[] = {
		{ .data = header, .len = header_len },
		{ .data = head, .len = response_pack_head(response, head) },
		response->payload,
	};
	/* A peer that reads too slowly loses its connection; one that is gone needs no answer. */
	if (conn_send(conn, parts, 3) == STATUS_RESOURCE_EXHAUSTED)
		log_debug("answers pile up, closing connection peer=%s", conn_peer_address(conn));
}

static struct response_envelope error_envelope(const struct status *st, const struct rpc_detail *detail)
{
	return (struct response_envelope){
		/* An error without a code would look like success without an answer. */
		.code = st->code == STATUS_OK ? STATUS_INTERNAL : st->code,
		.message = text(st->message),
		.field = text(detail->field),
		.ask = text(detail->ask),
		.retry_after_ms = detail->retry_after_ms,
	};
}

static void send_error(struct conn *conn, const uint8_t *header, size_t header_len, const struct status *st,
		       const struct rpc_detail *detail)
{
	const struct response_envelope response = error_envelope(st, detail);
	send_response(conn, header, header_len, &response);
}

void call_unref(struct rpc_call *call)
{
	if (atomic_fetch_sub(&call->refs, 1) > 1)
		return;
	identity_unref(call->forwarded);
	session_unref(call->session);
	if (call->secret)
		arena_wipe(call->arena);
	else
		arena_free(call->arena);
}

void call_expire(struct rpc_call *call)
{
	struct status st;
	(void)status_set(&st, STATUS_DEADLINE_EXCEEDED, "%s: not done in the time that the caller gave",
			 call->method->name);
	send_error(call->session->conn, call->header, call->header_len, &st, &no_detail);
	call_unref(call);
}

/* Every answer ends here: the handler's reference goes. */
static void answer(struct rpc_call *call, const struct response_envelope *response)
{
	/* Debug, because a caller decides how many there are, and writing blocks. */
	if (call->trace_id[0])
		log_debug("answered method=%s code=%s trace=%s caller=%s", call->method->name,
			  status_name(response->code), call->trace_id,
			  call->identity ? call->identity->common_name : "");
	if (server_finish(call->server, call, response->code != STATUS_OK))
		send_response(call->session->conn, call->header, call->header_len, response);
	call_unref(call);
}

static void answer_error(struct rpc_call *call, const struct status *st, const struct rpc_detail *detail)
{
	const struct response_envelope response = error_envelope(st, detail);
	answer(call, &response);
}

/* An answer that no frame holds would cost its caller the connection, and the next server's. */
static bool fits(struct rpc_call *call, size_t size)
{
	size_t most = call->server->limits.max_answer;
	if (size <= most)
		return true;
	rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED,
		      "%s: the answer takes %zu bytes, more than the %zu of a message; ask for less at once",
		      call->method->name, size, most);
	return false;
}

/* The closure that handlers get. */
static void answer_message(const ProtobufCMessage *message, void *closure_data)
{
	struct rpc_call *call = closure_data;
	if (!message || message->descriptor != call->method->descriptor->output) {
		rpc_call_fail(call, STATUS_INTERNAL, "%s: the server has no answer", call->method->name);
		return;
	}
	size_t size = protobuf_c_message_get_packed_size(message);
	if (!fits(call, size))
		return;
	uint8_t small[2048];
	uint8_t *packed = size <= sizeof small ? small : malloc(size);
	if (!packed) {
		rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s: out of memory; try again later",
			      call->method->name);
		return;
	}
	struct response_envelope response = {
		.code = STATUS_OK,
		.payload = { .data = packed, .len = protobuf_c_message_pack(message, packed) },
	};
	bool secret = call->secret;
	answer(call, &response);
	if (secret)
		secret_wipe(packed, size);
	if (packed != small)
		free(packed);
}

void rpc_call_fail(struct rpc_call *call, enum status_code code, const char *format, ...)
{
	struct status st;
	va_list ap;
	va_start(ap, format);
	(void)status_vset(&st, code, format, ap);
	va_end(ap);
	answer_error(call, &st, &no_detail);
}

void rpc_call_fail_status(struct rpc_call *call, const struct status *st)
{
	answer_error(call, st, &no_detail);
}

void rpc_call_fail_field(struct rpc_call *call, const char *field, const char *format, ...)
{
	struct status st;
	va_list ap;
	va_start(ap, format);
	(void)status_vset(&st, STATUS_INVALID_ARGUMENT, format, ap);
	va_end(ap);
	(void)status_prefix(&st, "%s", field);
	answer_error(call, &st, &(struct rpc_detail){ .field = field });
}

void rpc_call_redirect(struct rpc_call *call, const char *address, const char *format, ...)
{
	struct status st;
	va_list ap;
	va_start(ap, format);
	(void)status_vset(&st, STATUS_UNAVAILABLE, format, ap);
	va_end(ap);
	answer_error(call, &st, &(struct rpc_detail){ .ask = address });
}

void rpc_call_relay(struct rpc_call *call, enum status_code code, const char *message, struct slice payload)
{
	struct response_envelope response = { .code = code };
	if (code == STATUS_OK && !fits(call, payload.len))
		return;
	if (code == STATUS_OK)
		response.payload = payload;
	else
		response.message = text(message);
	answer(call, &response);
}

void rpc_call_relay_error(struct rpc_call *call, const struct status *st, const struct rpc_detail *detail)
{
	answer_error(call, st, detail);
}

/*
 * Who calls, and may it
 */

static bool may_call(const struct method *method, const struct identity *id)
{
	if (!id)
		return method->flags & RPC_ANONYMOUS;
	return method->allow == PEER_ANYONE || id->roles & method->allow;
}

static enum status_code refuse_caller(const struct method *method, const struct identity *id, struct status *st)
{
	char for_whom[64], who[64];
	const char *allowed = "whoever has a certificate";
	if (method->allow != PEER_ANYONE)
		allowed = peer_roles_describe(method->allow & ~(unsigned)PEER_SELF, for_whom, sizeof for_whom);
	if (!id)
		return status_set(st, STATUS_PERMISSION_DENIED, "%s is for: %s; you have shown no certificate",
				  method->name, allowed);
	return status_set(st, STATUS_PERMISSION_DENIED, "%s is for: %s; you are: %s %s", method->name, allowed,
			  peer_roles_describe(id->roles, who, sizeof who), id->common_name);
}

/* May a call be passed on in this caller's name? */
static bool may_pass_on(const struct method *method, const struct identity *caller)
{
	return method->flags & RPC_READ || (caller && !(caller->roles & PEER_ADMIN));
}

/* `behalf` NULL: the peer calls in its own name. */
static enum status_code judge(const struct method *method, const struct identity *peer, const struct identity *behalf,
			      struct status *st)
{
	if (!behalf)
		return may_call(method, peer) ? STATUS_OK : refuse_caller(method, peer, st);
	if (!may_call(method, behalf))
		return refuse_caller(method, behalf, st);
	if (!may_pass_on(method, behalf))
		return status_set(st, STATUS_UNAVAILABLE,
				  "%s: an administrator asks the leader itself, no replica for him; ask another",
				  method->name);
	return STATUS_OK;
}

/* Between replicas alone, and those who are replicas now: elsewhere a replica is to be no more than itself. */
static enum status_code check_forwarder(const struct rpc_server *s, const struct identity *peer, struct status *st)
{
	if (peer && peer->roles & PEER_SERIAL && s->may_forward && s->may_forward(s->may_forward_arg, peer))
		return STATUS_OK;
	return status_set(st, STATUS_PERMISSION_DENIED,
			  "request envelope: on_behalf_of is for the replicas of kds-serial, among themselves; call in "
			  "your own name");
}

enum status_code rpc_server_judge(const struct rpc_server *s, const char *name, const struct identity *peer,
				  const struct identity *on_behalf_of, struct status *st)
{
	const struct method *method = server_find(s, text(name));
	if (!method)
		return status_set(st, STATUS_UNIMPLEMENTED, "this server has no method \"%s\"", name);
	enum status_code rc = on_behalf_of ? check_forwarder(s, peer, st) : STATUS_OK;
	return rc == STATUS_OK ? judge(method, peer, on_behalf_of, st) : rc;
}

/*
 * Whose call it is: *ret_forwarded is a reference to whom the peer passes it on for, NULL where it calls in its own name.
 * Set also on failure.
 */
static enum status_code check_caller(const struct rpc_server *s, const struct method *method,
				     const struct identity *peer, const struct request_envelope *request,
				     struct status *st, struct identity **ret_forwarded)
{
	enum status_code rc = STATUS_OK;
	if (request->forwarded)
		rc = check_forwarder(s, peer, st);
	if (rc == STATUS_OK && request->forwarded)
		rc = caller_parse(request->on_behalf_of, st, ret_forwarded);
	return rc == STATUS_OK ? judge(method, peer, *ret_forwarded, st) : rc;
}

/*
 * Requests
 */

static void *copy(struct arena *arena, struct slice bytes)
{
	uint8_t *p = arena_alloc(arena, bytes.len + 1);
	if (!p)
		return NULL;
	if (bytes.len > 0)
		memcpy(p, bytes.data, bytes.len);
	p[bytes.len] = '\0';
	return p;
}

static uint64_t deadline_of(const struct rpc_server_limits *limits, uint32_t timeout_ms)
{
	if (timeout_ms == 0)
		timeout_ms = limits->default_timeout_ms;
	if (timeout_ms > limits->max_timeout_ms)
		timeout_ms = limits->max_timeout_ms;
	return clock_monotonic_ms() + timeout_ms;
}

/* NULL: no memory; nothing was taken. */
static struct rpc_call *call_new(struct rpc_server *s, struct session *session, const struct method *method,
				 struct slice frame, size_t header_len, const struct request_envelope *request)
{
	/* What the call itself takes is not the message's to spend. */
	struct arena *arena = arena_new(s->limits.max_unpacked + sizeof(struct rpc_call) + 256);
	if (!arena)
		return NULL;
	struct rpc_call *call = arena_alloc(arena, sizeof *call);
	char *trace_id = copy(arena, request->trace_id);
	void *request_id = copy(arena, request->request_id);
	if (!call || !trace_id || !request_id) {
		arena_free(arena);
		return NULL;
	}
	*call = (struct rpc_call){
		.server = s,
		.session = session,
		.method = method,
		.identity = conn_identity(session->conn),
		.arena = arena,
		.deadline = deadline_of(&s->limits, request->timeout_ms),
		.request_bytes = frame.len,
		.request_id = { .data = request_id, .len = request->request_id.len },
		.trace_id = trace_id,
		.header_len = header_len,
	};
	memcpy(call->header, frame.data, header_len);
	atomic_init(&call->refs, 1);
	atomic_init(&call->expired, false);
	atomic_fetch_add(&session->refs, 1);
	return call;
}

static void handle(struct rpc_call *call, struct slice payload)
{
	struct rpc_server *s = call->server;
	const struct method *method = call->method;
	struct status st;
	char field[128] = "";
	const ProtobufCMessage *input;
	const ProtobufCMessageDescriptor *type = method->descriptor->input;
	if (message_unpack(type, payload, call->arena, &st, field, sizeof field, &input) != STATUS_OK ||
	    server_charge(s, call, arena_used(call->arena), &st) != STATUS_OK) {
		if (st.code == STATUS_INVALID_ARGUMENT)
			tally_add(TALLY_REQUEST_MALFORMED);
		answer_error(call, &st, &(struct rpc_detail){ .field = field });
		return;
	}
	method->service->invoke(method->service, method->index, input, answer_message, call);
}

void rpc_call_handle(struct rpc_call *call)
{
	handle(call, call->payload);
}

/* From an admitted call to its handler. Whoever it reaches answers. */
static void run(struct rpc_call *call, struct slice payload)
{
	struct rpc_server *s = call->server;
	const struct method *method = call->method;
	if (method->flags & RPC_ROUTED && s->route) {
		call->payload = (struct slice){ .data = copy(call->arena, payload), .len = payload.len };
		if (!call->payload.data) {
			rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED, "%s: takes too much memory; send less at once",
				      method->name);
			return;
		}
		if (s->route(s->route_arg, call, method->name, call->payload))
			return;
	}
	handle(call, payload);
}

/* The envelope, and the method that it names. */
static enum status_code read_request(const struct rpc_server *s, struct slice body, struct status *st,
				     struct request_envelope *ret_request, const struct method **ret_method)
{
	enum status_code rc = request_parse(body, st, ret_request);
	if (rc != STATUS_OK)
		goto out;
	const struct request_envelope *r = ret_request;
	*ret_method = server_find(s, r->method);
	if (!*ret_method)
		rc = status_set(st, STATUS_UNIMPLEMENTED, "this server has no method \"%.*s\"", (int)r->method.len,
				(const char *)r->method.data);
	else if (r->payload.len > s->limits.max_request)
		rc = request_too_large((*ret_method)->name, r->payload.len, s->limits.max_request, st);
out:
	if (rc != STATUS_OK)
		tally_add(TALLY_REQUEST_MALFORMED);
	return rc;
}

void call_receive(struct rpc_server *s, struct session *session, struct slice frame, size_t header_len)
{
	const uint8_t *header = frame.data;
	struct slice body = { .data = header + header_len, .len = frame.len - header_len };
	struct request_envelope request;
	const struct method *method = NULL;
	struct identity *forwarded = NULL;
	struct rpc_call *call = NULL;
	struct rpc_detail detail = { .retry_after_ms = 0 };
	struct status st;
	enum status_code rc = read_request(s, body, &st, &request, &method);
	if (rc != STATUS_OK)
		goto out;
	rc = check_caller(s, method, conn_identity(session->conn), &request, &st, &forwarded);
	if (rc != STATUS_OK) {
		tally_add(TALLY_REQUEST_FORBIDDEN);
		goto out;
	}
	call = call_new(s, session, method, frame, header_len, &request);
	if (!call) {
		rc = status_set(&st, STATUS_RESOURCE_EXHAUSTED, "%s: out of memory; try again later", method->name);
		goto out;
	}
	if (forwarded) {
		call->identity = call->forwarded = forwarded;
		forwarded = NULL;
	}
	rc = server_admit(s, call, &st, &detail);
out:
	identity_unref(forwarded);
	if (rc == STATUS_OK) {
		run(call, request.payload);
		return;
	}
	if (call)
		call_unref(call);
	if (rc == STATUS_ALREADY_EXISTS)
		return; /* sent again while it still runs */
	server_count_refused(s);
	send_error(session->conn, header, header_len, &st, &detail);
}

/*
 * What handlers ask
 */

const struct identity *rpc_call_identity(const struct rpc_call *call)
{
	return call->identity;
}

bool rpc_call_forwarded(const struct rpc_call *call)
{
	return call->forwarded != NULL;
}

bool rpc_call_may_pass_on(const struct rpc_call *call)
{
	return may_pass_on(call->method, call->identity);
}

uint64_t rpc_call_deadline(const struct rpc_call *call)
{
	return call->deadline;
}

bool rpc_call_expired(const struct rpc_call *call)
{
	return atomic_load(&call->expired) || clock_monotonic_ms() >= call->deadline;
}

struct slice rpc_call_request_id(const struct rpc_call *call)
{
	return call->request_id;
}

const char *rpc_call_trace_id(const struct rpc_call *call)
{
	return call->trace_id;
}

const char *rpc_call_method(const struct rpc_call *call)
{
	return call->method->name;
}

struct slice rpc_call_payload(const struct rpc_call *call)
{
	return call->payload;
}

void rpc_call_set_data(struct rpc_call *call, void *data)
{
	call->data = data;
}

void *rpc_call_data(const struct rpc_call *call)
{
	return call->data;
}

void *rpc_call_alloc(struct rpc_call *call, size_t size)
{
	return arena_alloc(call->arena, size);
}

void rpc_call_secret(struct rpc_call *call)
{
	call->secret = true;
}
