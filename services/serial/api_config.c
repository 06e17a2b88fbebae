#include "services/serial/api_internal.h"

#include <string.h>

#include "common/base/settings.h"
#include "common/x509/cert.h"
#include "common/x509/name.h"

#define PREFIXES_MAX 64
#define DNS_NAME_MAX 253
#define ADDRESS_BYTES_MAX 16

static struct api *api_of(Kds__V1__Config_Service *service)
{
	return (struct api *)((char *)service - offsetof(struct api, config));
}

/* Who writes which kind of object. */
static const struct kind {
	const char *prefix;
	Kds__V1__Object__ValueCase value;
	unsigned writers;
	unsigned creators; /* put what is not there yet, and change nothing */
} kinds[] = {
	{ "node/", KDS__V1__OBJECT__VALUE_NODE, PEER_ADMIN, 0 },
	{ "setting/", KDS__V1__OBJECT__VALUE_SETTING, PEER_ADMIN, 0 },
	{ "service/", KDS__V1__OBJECT__VALUE_SERVICE, PEER_ADMIN, 0 },
	/* kds-ca makes one that an administrator asks for; whether it goes on signing is not its to say. */
	{ "ca/", KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY, PEER_ADMIN, PEER_CA },
	{ "masterkey/", KDS__V1__OBJECT__VALUE_MASTER_KEY, PEER_KEYDIST, 0 },
};
#define N_KINDS (sizeof kinds / sizeof *kinds)

/* Answers and returns false when the caller must not write this kind. NULL: no such kind, which state_validate()
 * explains. */
static bool may_write(struct rpc_call *call, const struct kind *kind, bool creates)
{
	unsigned roles = rpc_call_identity(call)->roles;
	if (!kind || roles & kind->writers || (creates && roles & kind->creators))
		return true;
	char needed[64], has[128];
	rpc_call_fail(call, STATUS_PERMISSION_DENIED, "%s* is %s by the role %s; %s has the role %s", kind->prefix,
		      kind->creators ? "changed" : "written", peer_roles_describe(kind->writers, needed, sizeof needed),
		      rpc_call_identity(call)->common_name, peer_roles_describe(roles, has, sizeof has));
	return false;
}

/* The state machine takes any bytes, so that replicas with different libraries or versions agree; people hear of
 * mistakes here. One that is there already may be changed whatever it is: so it can be retired, and then go. */
static enum status_code check_authority(struct trust *trust, const Kds__V1__CertificateAuthority *a, bool may_be_new,
					struct status *st)
{
	gnutls_x509_crt_t crt;
	enum status_code rc = x509_import((struct slice){ a->certificate.data, a->certificate.len }, st, &crt);
	if (rc != STATUS_OK)
		return status_set(st, STATUS_INVALID_ARGUMENT, "not a certificate in DER");
	struct x509_info info;
	rc = x509_info_read(crt, st, &info);
	gnutls_x509_crt_deinit(crt);
	if (rc != STATUS_OK)
		return rc;
	if (!info.ca)
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "the certificate of %.100s is not a CA's",
				info.common_name);
	x509_info_free(&info);
	if (rc == STATUS_OK && may_be_new)
		rc = trust_check_cluster_ca(trust, (struct slice){ a->certificate.data, a->certificate.len }, st);
	return rc;
}

/*
 * So that no certificate of the node is larger than a daemon takes. Of both that it gets: one names the node and its
 * addresses, the other the node, the key distribution service (whatever its name, one of DNS) and the groups.
 */
static enum status_code check_names(const Kds__V1__Node *n, struct status *st)
{
	size_t sum = strlen(n->name) + DNS_NAME_MAX + 2 * X509_NAME_OVERHEAD;
	sum += n->n_addresses * (ADDRESS_BYTES_MAX + X509_NAME_OVERHEAD);
	for (size_t i = 0; i < n->n_groups; i++)
		sum += strlen(n->groups[i]) + X509_NAME_OVERHEAD;
	if (sum <= X509_NAMES_MAX)
		return STATUS_OK;
	return status_set(st, STATUS_INVALID_ARGUMENT,
			  "the names of %.100s are too long for a certificate: its %zu addresses and %zu groups take %zu bytes (of"
			  " each its own and %d more), and %d are allowed: give it fewer groups, or shorter ones",
			  n->name, n->n_addresses, n->n_groups, sum, X509_NAME_OVERHEAD, X509_NAMES_MAX);
}

/* What only the leader checks, before it proposes; *ret_field: which is wrong. */
static enum status_code check_object(struct trust *trust, const Kds__V1__Object *o, bool may_be_new, struct status *st,
				     const char **ret_field)
{
	bool name_wrong = false;
	enum status_code rc = STATUS_OK;
	switch (o->value_case) {
	case KDS__V1__OBJECT__VALUE_NODE:
		*ret_field = "object.node.groups";
		return check_names(o->node, st);
	case KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY:
		*ret_field = "object.certificate_authority.certificate";
		return check_authority(trust, o->certificate_authority, may_be_new, st);
	case KDS__V1__OBJECT__VALUE_SETTING:
		rc = setting_check(o->setting->name, o->setting->value, st, &name_wrong);
		*ret_field = name_wrong ? "object.setting.name" : "object.setting.value";
		return rc;
	default:
		return STATUS_OK;
	}
}

/* The answer to it would be the last that the caller gets, and where it is the only administrator nobody could undo it. */
static bool removes_caller(struct rpc_call *call, const Kds__V1__Object *o)
{
	return o && o->value_case == KDS__V1__OBJECT__VALUE_SERVICE && o->service->removed &&
	       strcmp(o->service->name, rpc_call_identity(call)->role_name) == 0;
}

static void config_put(Kds__V1__Config_Service *service, const Kds__V1__PutRequest *in, Kds__V1__Object_Closure closure,
		       void *call)
{
	(void)closure;
	const struct kind *kind = NULL;
	const Kds__V1__Object *o = in->object;
	for (size_t i = 0; o && i < N_KINDS; i++)
		if (kinds[i].value == o->value_case)
			kind = &kinds[i];
	if (!may_write(call, kind, in->check_revision && in->expected_revision == 0))
		return;
	struct status st;
	const char *field = "";
	bool may_be_new = !in->check_revision || in->expected_revision == 0;
	if (o && check_object(api_of(service)->trust, o, may_be_new, &st, &field) != STATUS_OK) {
		rpc_call_fail_field(call, field, "%s", st.message);
		return;
	}
	if (removes_caller(call, o)) {
		rpc_call_fail(call, STATUS_FAILED_PRECONDITION,
			      "%s is you, and would be locked out: act as another administrator, whom 'kds-cli service issue "
			      "admin NAME' makes",
			      o->service->name);
		return;
	}
	Kds__V1__Command c = KDS__V1__COMMAND__INIT;
	c.op_case = KDS__V1__COMMAND__OP_PUT;
	c.put = (Kds__V1__PutRequest *)in;
	api_propose(api_of(service), call, &c);
}

static void config_delete(Kds__V1__Config_Service *service, const Kds__V1__DeleteRequest *in,
			  Kds__V1__Object_Closure closure, void *call)
{
	(void)closure;
	const struct kind *kind = NULL;
	for (size_t i = 0; i < N_KINDS; i++)
		if (strncmp(in->key, kinds[i].prefix, strlen(kinds[i].prefix)) == 0)
			kind = &kinds[i];
	if (!may_write(call, kind, false))
		return;
	Kds__V1__Command c = KDS__V1__COMMAND__INIT;
	c.op_case = KDS__V1__COMMAND__OP_DELETE;
	c.delete_ = (Kds__V1__DeleteRequest *)in;
	api_propose(api_of(service), call, &c);
}

static enum status_code read_object(struct state *s, const ProtobufCMessage *in, unsigned sealed, struct status *st,
				    struct buffer *out)
{
	return state_get(s, ((const Kds__V1__GetRequest *)in)->key, sealed, st, out);
}

static void config_get(Kds__V1__Config_Service *service, const Kds__V1__GetRequest *in, Kds__V1__Object_Closure closure,
		       void *call)
{
	(void)closure;
	api_read(api_of(service), call, in->local, &in->base, read_object);
}

static enum status_code read_list(struct state *s, const ProtobufCMessage *in, unsigned sealed, struct status *st,
				  struct buffer *out)
{
	return state_list(s, (const Kds__V1__ListRequest *)in, sealed, st, out);
}

static void config_list(Kds__V1__Config_Service *service, const Kds__V1__ListRequest *in,
			Kds__V1__ListResponse_Closure closure, void *call)
{
	(void)closure;
	api_read(api_of(service), call, in->local, &in->base, read_list);
}

static enum status_code read_history(struct state *s, const ProtobufCMessage *in, unsigned sealed, struct status *st,
				     struct buffer *out)
{
	(void)sealed;
	return state_history(s, (const Kds__V1__HistoryRequest *)in, st, out);
}

static void config_history(Kds__V1__Config_Service *service, const Kds__V1__HistoryRequest *in,
			   Kds__V1__HistoryResponse_Closure closure, void *call)
{
	(void)closure;
	api_read(api_of(service), call, in->local, &in->base, read_history);
}

/* For a caller that has seen more than this replica: with the leader's word it is of another time, or of another
 * cluster. */
static enum status_code read_changes(struct state *s, const ProtobufCMessage *in, unsigned sealed, struct status *st,
				     struct buffer *out)
{
	bool any;
	return state_changes(s, (const Kds__V1__WatchRequest *)in, sealed, st, out, &any);
}

/* One that is cut off does not know how old its state is: a caller would keep trusting what a quorum has refused. */
static bool is_cut_off(struct api *a)
{
	uint64_t leader;
	char address[sizeof "none"];
	return !engine_leader(a->engine, &leader, address, sizeof address);
}

static void config_watch(Kds__V1__Config_Service *service, const Kds__V1__WatchRequest *in,
			 Kds__V1__WatchResponse_Closure closure, void *call)
{
	(void)closure;
	struct api *a = api_of(service);
	uint64_t revision = watch_revision(a->watch);
	if (in->n_prefixes > PREFIXES_MAX)
		rpc_call_fail_field(call, "prefixes", "at most %d prefixes in one call", PREFIXES_MAX);
	else if (is_cut_off(a))
		rpc_call_fail(call, STATUS_UNAVAILABLE,
			      "this replica knows no leader, so its state may be old; ask another, or see kds-cli cluster view");
	else if (in->since_revision > revision || in->began > revision)
		api_read(a, call, false, &in->base, read_changes);
	else
		watch_call(a->watch, call, in, api_sealed(call));
}

enum status_code api_add_config(struct api *a, struct rpc_server *server, struct status *st)
{
	static const struct rpc_access table[] = {
		{ .method = "Get", .allow = PEER_SERVICES, .flags = RPC_READ },
		{ .method = "List", .allow = PEER_SERVICES, .flags = RPC_READ },
		{ .method = "Put", .allow = PEER_ADMIN | PEER_CA | PEER_KEYDIST, .flags = RPC_ROUTED },
		{ .method = "Delete", .allow = PEER_ADMIN | PEER_CA | PEER_KEYDIST, .flags = RPC_ROUTED },
		{ .method = "Watch", .allow = PEER_SERVICES, .flags = RPC_LONG_POLL | RPC_READ },
		{ .method = "History", .allow = PEER_ADMIN, .flags = RPC_READ },
	};
	a->config = (Kds__V1__Config_Service)KDS__V1__CONFIG__INIT(config_);
	return rpc_server_add(server, &a->config.base, table, sizeof table / sizeof *table, st);
}
