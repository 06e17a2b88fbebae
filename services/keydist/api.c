#include "services/keydist/api.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/secret.h"
#include "common/x509/name.h"
#include "keydist.pb-c.h"

#define AHEAD_MAX_MS 60000 /* how far a sender's clock may be ahead of ours */
#define LIST_MAX 1024 /* as masterkeys.c keeps */

/*
 * Handlers derive on the thread that calls them: at some microseconds a derivation costs less than handing it over.
 */
struct api {
	Kds__V1__KeyDist_Service service; /* first: handlers get a pointer to it */
	struct api_options options;
};

/*
 * Whoever holds a group's certificate may be a node no more. The handshake knew, and open connections are closed when a node
 * goes, a moment later; but before this distributor has seen the nodes once, handshakes pass all.
 */
static bool check_caller(struct api *a, struct rpc_call *call)
{
	struct status st;
	if (!trust_nodes_known(a->options.trust))
		rpc_call_fail(call, STATUS_UNAVAILABLE,
			      "the cluster's nodes are not known here yet; it needs a replica of kds-serial once (kds-cli "
			      "cluster view)");
	else if (trust_recheck(a->options.trust, rpc_call_identity(call), &st) != STATUS_OK)
		rpc_call_fail_status(call, &st);
	else
		return true;
	return false;
}

/* The URI of the caller's certificate that names the group; NULL: answered with the error. */
static const char *find_group(struct rpc_call *call, const char *group)
{
	const struct identity *caller = rpc_call_identity(call);
	for (size_t i = 0; i < caller->n_uris; i++)
		if (x509_group_matches(caller->uris[i], group))
			return caller->uris[i];
	rpc_call_fail(call, STATUS_PERMISSION_DENIED,
		      "group '%.100s' is not in the certificate of %.60s; see that 'kds-cli node show' has it, then renew the "
		      "certificate",
		      group, caller->common_name);
	return NULL;
}

static void answer_key(struct api *a, struct rpc_call *call, const struct masterkey *master, const struct ident *ident,
		       Kds__V1__GroupKey_Closure closure)
{
	const struct identity *caller = rpc_call_identity(call);
	struct slice issuer = { caller->issuer_key_id, caller->issuer_key_id_len };
	uint8_t ident_bytes[IDENT_SIZE_MAX], key[DERIVED_KEY_SIZE];
	struct status st;
	if (derive_key(master->key, a->options.kds_name, ident, issuer, &st, key) != STATUS_OK) {
		rpc_call_fail_status(call, &st);
		return;
	}
	Kds__V1__GroupKey answer = KDS__V1__GROUP_KEY__INIT;
	answer.ident.data = ident_bytes;
	answer.ident.len = ident_encode(ident, ident_bytes);
	answer.key.data = key;
	answer.key.len = sizeof key;
	answer.group = (char *)ident->group;
	answer.nonce_ms = ident->nonce_ms;
	closure(&answer, call);
	secret_wipe(key, sizeof key);
}

static void handle_create(Kds__V1__KeyDist_Service *service, const Kds__V1__CreateKeyRequest *in,
			  Kds__V1__GroupKey_Closure closure, void *closure_data)
{
	struct api *a = (struct api *)service;
	struct rpc_call *call = closure_data;
	struct status st;
	unsigned group_len;
	uint64_t precision_ms;

	rpc_call_secret(call);
	if (!check_caller(a, call))
		return;
	if (x509_parse_group(in->group, &st, &group_len, NULL) != STATUS_OK) {
		rpc_call_fail(call, STATUS_INVALID_ARGUMENT, "%s", st.message); /* it names the field */
		return;
	}
	if (in->group[group_len] != '\0') {
		rpc_call_fail_field(call, "group", "name the group without its fragment ('#...')");
		return;
	}
	const char *uri = find_group(call, in->group);
	if (!uri)
		return;
	if (x509_parse_group(uri, &st, NULL, &precision_ms) != STATUS_OK) {
		rpc_call_fail(call, STATUS_FAILED_PRECONDITION, "%s; correct the group, then renew the certificate",
			      st.message);
		return;
	}
	uint64_t now_ms = clock_unix_ms();
	struct masterkey master;
	if (!masterkeys_current(a->options.keys, now_ms, &master)) {
		rpc_call_fail(call, STATUS_UNAVAILABLE,
			      "no masterKey is known here yet; it needs a quorum of kds-serial once (kds-cli cluster "
			      "view)");
		return;
	}
	struct ident ident = { .published_ms = master.published_ms, .nonce_ms = now_ms - now_ms % precision_ms };
	memcpy(ident.group, in->group, group_len);
	answer_key(a, call, &master, &ident, closure);
	secret_wipe(&master, sizeof master);
}

static void fail_unknown(struct api *a, struct rpc_call *call, uint64_t published_ms)
{
	/* Cut off from the replicas, this distributor may not have heard of it: let the caller ask another. */
	if (published_ms > masterkeys_newest(a->options.keys) && !follower_in_step(a->options.follower))
		rpc_call_fail(call, STATUS_UNAVAILABLE,
			      "masterKey %" PRIu64 " is not known here yet: no replica answers", published_ms);
	else if (masterkeys_is_sealed(a->options.keys, published_ms))
		rpc_call_fail(call, STATUS_UNAVAILABLE,
			      "masterKey %" PRIu64 " cannot be unsealed here; ask another kds-keydist (see kds-cli cluster health)",
			      published_ms);
	else
		rpc_call_fail(call, STATUS_NOT_FOUND,
			      "masterKey %" PRIu64 " is unknown or was destroyed; ask the sender for a new key",
			      published_ms);
}

static void handle_restore(Kds__V1__KeyDist_Service *service, const Kds__V1__RestoreKeyRequest *in,
			   Kds__V1__GroupKey_Closure closure, void *closure_data)
{
	struct api *a = (struct api *)service;
	struct rpc_call *call = closure_data;
	struct status st;
	struct ident ident;

	rpc_call_secret(call);
	if (!check_caller(a, call))
		return;
	if (ident_decode((struct slice){ in->ident.data, in->ident.len }, &st, &ident) != STATUS_OK) {
		rpc_call_fail_field(call, "ident", "%s", st.message);
		return;
	}
	if (!find_group(call, ident.group))
		return;
	uint64_t now_ms = clock_unix_ms();
	if (ident.nonce_ms > now_ms + AHEAD_MAX_MS) {
		rpc_call_fail(call, STATUS_OUT_OF_RANGE,
			      "the ident's time is %" PRIu64 " ms ahead; check the clocks of the sender and of kds-keydist",
			      ident.nonce_ms - now_ms);
		return;
	}
	struct masterkey master;
	if (!masterkeys_find(a->options.keys, ident.published_ms, now_ms, &master)) {
		fail_unknown(a, call, ident.published_ms);
		return;
	}
	answer_key(a, call, &master, &ident, closure);
	secret_wipe(&master, sizeof master);
}

static void handle_list(Kds__V1__KeyDist_Service *service, const Kds__V1__ListKeysRequest *in,
			Kds__V1__ListKeysResponse_Closure closure, void *closure_data)
{
	(void)in;
	struct api *a = (struct api *)service;
	struct rpc_call *call = closure_data;
	struct masterkey_info *list = calloc(LIST_MAX, sizeof *list);
	Kds__V1__MasterKeyInfo *infos = calloc(LIST_MAX, sizeof *infos);
	Kds__V1__MasterKeyInfo **pointers = calloc(LIST_MAX, sizeof *pointers);
	if (!list || !infos || !pointers) {
		rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED, "list masterKeys: out of memory");
		goto out;
	}
	Kds__V1__ListKeysResponse answer = KDS__V1__LIST_KEYS_RESPONSE__INIT;
	answer.n_master_keys = masterkeys_list(a->options.keys, clock_unix_ms(), list, LIST_MAX);
	answer.master_keys = pointers;
	for (size_t i = 0; i < answer.n_master_keys; i++) {
		kds__v1__master_key_info__init(&infos[i]);
		infos[i].published_ms = list[i].published_ms;
		infos[i].use_from_ms = list[i].use_from_ms;
		infos[i].current = list[i].current;
		pointers[i] = &infos[i];
	}
	closure(&answer, closure_data);
out:
	free(pointers);
	free(infos);
	free(list);
}

enum status_code api_new(const struct api_options *options, struct status *st, struct api **ret_api)
{
	struct api *a = calloc(1, sizeof *a);
	if (!a)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the KeyDist service: out of memory");
	a->service = (Kds__V1__KeyDist_Service)KDS__V1__KEY_DIST__INIT(handle_);
	a->options = *options;
	*ret_api = a;
	return STATUS_OK;
}

enum status_code api_serve(struct api *a, struct rpc_server *server, struct status *st)
{
	static const struct rpc_access table[] = {
		{ .method = "Create", .allow = PEER_KDS_CLIENT, .rate = KEYDIST_RATE_KEYS },
		{ .method = "Restore", .allow = PEER_KDS_CLIENT, .rate = KEYDIST_RATE_KEYS },
		{ .method = "List", .allow = PEER_KDS_CLIENT | PEER_ADMIN, .flags = RPC_READ },
	};
	return rpc_server_add(server, &a->service.base, table, sizeof table / sizeof table[0], st);
}

void api_free(struct api *a)
{
	free(a);
}
