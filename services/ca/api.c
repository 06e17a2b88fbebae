#include "services/ca/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/plain_name.h"

#define BUNDLE_MAX 256
#define COMMON_NAME_MAX 64 /* RFC 5280 appendix A.1, ub-common-name */
#define SETTLE_MS 2000     /* for this process to learn of a CA that it made */

struct ca_api {
	Kds__V1__Ca_Service service;
	struct keeper *keeper;
	struct issuing *issuing;
	struct maker *maker;
	char *authority, *cluster, *kds_name;
};

static const struct rpc_access access_table[] = {
	{ .method = "Sign", .allow = PEER_ADMIN | PEER_NODE, .rate = CA_RATE_SIGN },
	{ .method = "Bundle", .allow = PEER_ANYONE, .flags = RPC_READ },
	{ .method = "Create", .allow = PEER_ADMIN },
};

/* One Sign under way. */
struct signing {
	struct rpc_call *call;
	Kds__V1__SignResponse_Closure closure;
	void *closure_data;
};

static struct ca_api *api_of(Kds__V1__Ca_Service *service)
{
	return (struct ca_api *)(void *)((char *)service - offsetof(struct ca_api, service));
}

static bool sign_expired(void *arg)
{
	struct signing *s = arg;
	return rpc_call_expired(s->call);
}

static void sign_done(void *arg, const struct issue_result *result)
{
	struct signing *s = arg;
	if (result->status.code == STATUS_OK) {
		Kds__V1__SignResponse answer = KDS__V1__SIGN_RESPONSE__INIT;
		answer.certificate = (char *)result->certificate;
		answer.serial = result->serial;
		answer.not_before = result->not_before;
		answer.not_after = result->not_after;
		s->closure(&answer, s->closure_data);
	} else if (result->field[0]) {
		rpc_call_fail_field(s->call, result->field, "%s", result->status.message);
	} else {
		rpc_call_fail_status(s->call, &result->status);
	}
	free(s);
}

/* Whose certificate is asked for; NULL: the call has failed. A node gets its own and no other's. */
static const char *subject_of(struct rpc_call *call, const Kds__V1__SignRequest *in)
{
	const struct identity *caller = rpc_call_identity(call);
	if (caller->roles & PEER_ADMIN) {
		if (in->node[0])
			return in->node;
		rpc_call_fail_field(call, "node", "name the node: an administrator has no node certificate of its own");
		return NULL;
	}
	if (in->node[0] && strcmp(in->node, caller->common_name) != 0) {
		rpc_call_fail(call, STATUS_PERMISSION_DENIED,
			      "sign for %s: %s may ask for its own certificates alone; ask as an administrator", in->node,
			      caller->common_name);
		return NULL;
	}
	return caller->common_name;
}

static void handle_sign(Kds__V1__Ca_Service *service, const Kds__V1__SignRequest *in,
			Kds__V1__SignResponse_Closure closure, void *closure_data)
{
	struct ca_api *api = api_of(service);
	struct rpc_call *call = closure_data;
	const char *name = subject_of(call, in);
	if (!name)
		return;
	if (strcmp(name, api->kds_name) == 0) {
		rpc_call_fail(call, STATUS_NOT_FOUND, "node %s: that is the key distribution service, not a node", name);
		return;
	}
	struct signing *s = malloc(sizeof *s);
	if (!s) {
		rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED, "sign: out of memory; try again later");
		return;
	}
	*s = (struct signing){ .call = call, .closure = closure, .closure_data = closure_data };
	issuing_submit(api->issuing, &(struct issue_request){
		.csr = { in->csr.data, in->csr.len },
		.node = name,
		.profile = in->profile,
		.lifetime_s = in->lifetime_s,
		.caller = rpc_call_identity(call),
		.request_id = rpc_call_request_id(call),
		.deadline_ms = rpc_call_deadline(call),
		.expired = sign_expired,
		.done = sign_done,
		.arg = s,
	});
}

struct bundling {
	struct rpc_call *call;
	size_t n;
	bool failed;
	Kds__V1__Authority *list[BUNDLE_MAX];
};

static void add_authority(void *arg, const char *name, struct slice certificate, bool signing)
{
	struct bundling *b = arg;
	if (b->n == BUNDLE_MAX || b->failed)
		return;
	size_t name_size = strlen(name) + 1;
	Kds__V1__Authority *a = rpc_call_alloc(b->call, sizeof *a);
	char *text = rpc_call_alloc(b->call, name_size);
	uint8_t *der = rpc_call_alloc(b->call, certificate.len);
	if (!a || !text || !der) {
		b->failed = true;
		return;
	}
	kds__v1__authority__init(a);
	a->name = memcpy(text, name, name_size);
	a->certificate = (ProtobufCBinaryData){ .data = memcpy(der, certificate.data, certificate.len),
						.len = certificate.len };
	a->signing = signing;
	b->list[b->n++] = a;
}

static void handle_bundle(Kds__V1__Ca_Service *service, const Kds__V1__BundleRequest *in,
			  Kds__V1__BundleResponse_Closure closure, void *closure_data)
{
	(void)in;
	struct ca_api *api = api_of(service);
	struct bundling b = { .call = closure_data };
	keeper_visit(api->keeper, add_authority, &b);
	if (b.failed) {
		rpc_call_fail(b.call, STATUS_RESOURCE_EXHAUSTED, "bundle: out of memory; try again later");
		return;
	}
	Kds__V1__BundleResponse answer = KDS__V1__BUNDLE_RESPONSE__INIT;
	answer.n_authorities = b.n;
	answer.authorities = b.list;
	closure(&answer, closure_data);
}

/* One Create under way. */
struct creating {
	struct ca_api *api;
	struct rpc_call *call;
	Kds__V1__Authority_Closure closure;
	void *closure_data;
	uint64_t deadline_ms;
	char name[PLAIN_NAME_MAX + 1], common_name[COMMON_NAME_MAX + 1];
};

static void create_done(void *arg, const struct maker_result *result)
{
	struct creating *c = arg;
	if (result->status.code == STATUS_OK) {
		/* So that who asked for it can have certificates signed at once. */
		uint64_t until = clock_monotonic_ms() + SETTLE_MS;
		keeper_wait(c->api->keeper, c->name, until < c->deadline_ms ? until : c->deadline_ms);
		Kds__V1__Authority answer = KDS__V1__AUTHORITY__INIT;
		answer.name = c->name;
		answer.certificate = (ProtobufCBinaryData){ .data = (uint8_t *)(uintptr_t)result->certificate.data,
							    .len = result->certificate.len };
		answer.signing = true;
		c->closure(&answer, c->closure_data);
	} else if (result->field[0]) {
		rpc_call_fail_field(c->call, result->field, "%s", result->status.message);
	} else {
		rpc_call_fail_status(c->call, &result->status);
	}
	free(c);
}

static bool plain_text(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			return false;
	return true;
}

/* Fills the names, defaults where none is given; false: the call has failed. */
static bool name_authority(const Kds__V1__CreateAuthorityRequest *in, struct creating *c)
{
	const struct ca_api *api = c->api;
	struct status st;
	const char *name = in->name[0] ? in->name : api->authority;
	if (plain_name_check(name, "CA", &st) != STATUS_OK) {
		rpc_call_fail_field(c->call, "name", "%s", st.message);
		return false;
	}
	snprintf(c->name, sizeof c->name, "%s", name);
	if (in->common_name[0] && (strlen(in->common_name) > COMMON_NAME_MAX || !plain_text(in->common_name))) {
		rpc_call_fail_field(c->call, "common_name", "give one of 1 to %d bytes, without control characters",
				    COMMON_NAME_MAX);
		return false;
	}
	/* Each CA has a common name of its own: peers refuse two keys of one name. */
	char standard[2 * PLAIN_NAME_MAX + 256];
	snprintf(standard, sizeof standard, strcmp(name, "default") == 0 ? "%s" : "%s %s", api->cluster, name);
	const char *common_name = in->common_name[0] ? in->common_name : standard;
	if (strlen(common_name) > COMMON_NAME_MAX)
		common_name = c->name;
	memcpy(c->common_name, common_name, strlen(common_name) + 1);
	return true;
}

static void handle_create(Kds__V1__Ca_Service *service, const Kds__V1__CreateAuthorityRequest *in,
			  Kds__V1__Authority_Closure closure, void *closure_data)
{
	struct ca_api *api = api_of(service);
	struct rpc_call *call = closure_data;
	struct creating *c = malloc(sizeof *c);
	if (!c) {
		rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED, "create a CA: out of memory; try again later");
		return;
	}
	*c = (struct creating){ .api = api, .call = call, .closure = closure, .closure_data = closure_data,
				.deadline_ms = rpc_call_deadline(call) };
	if (!name_authority(in, c)) {
		free(c);
		return;
	}
	maker_submit(api->maker, &(struct maker_request){
		.name = c->name,
		.common_name = c->common_name,
		.caller = rpc_call_identity(call),
		.request_id = rpc_call_request_id(call),
		.deadline_ms = c->deadline_ms,
		.done = create_done,
		.arg = c,
	});
}

enum status_code ca_api_new(const struct ca_api_options *options, struct rpc_server *server, struct status *st,
			    struct ca_api **ret_api)
{
	struct ca_api *api = calloc(1, sizeof *api);
	if (!api)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "Ca service: out of memory");
	*api = (struct ca_api){
		.service = KDS__V1__CA__INIT(handle_),
		.keeper = options->keeper,
		.issuing = options->issuing,
		.maker = options->maker,
		.authority = strdup(options->authority),
		.cluster = strdup(options->cluster),
		.kds_name = strdup(options->kds_name),
	};
	enum status_code rc;
	if (api->authority && api->cluster && api->kds_name)
		rc = rpc_server_add(server, &api->service.base, access_table, sizeof access_table / sizeof access_table[0], st);
	else
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "Ca service: out of memory");
	if (rc != STATUS_OK) {
		ca_api_free(api);
		return rc;
	}
	*ret_api = api;
	return STATUS_OK;
}

void ca_api_free(struct ca_api *api)
{
	if (!api)
		return;
	free(api->authority);
	free(api->cluster);
	free(api->kds_name);
	free(api);
}
