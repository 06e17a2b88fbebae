#include "services/serial/forward.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"

#define ADDRESS_MAX 300
/* One for each replica that ever led; more than a cluster has, unless replicas move from address to address. */
#define CHANNELS_MAX 16
/* A leader that hangs says nothing; until then another may lead, and the caller tries again with the same request id.
 */
#define TRY_MS 3000

struct link {
	char address[ADDRESS_MAX];
	struct rpc_channel *channel;
};

struct forward {
	struct engine *engine;
	struct trust *trust;
	pthread_mutex_t lock; /* of what follows */
	struct tls_credentials *credentials;
	struct link links[CHANNELS_MAX];
	unsigned n_links;
	unsigned reuse; /* the link that a new address takes when all are taken */
};

enum status_code forward_new(struct engine *engine, struct tls_credentials *credentials, struct trust *trust,
			     struct status *st, struct forward **ret_forward)
{
	struct forward *f = calloc(1, sizeof *f);
	if (!f)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start forwarding: out of memory");
	pthread_mutex_init(&f->lock, NULL);
	f->engine = engine;
	f->trust = trust;
	f->credentials = tls_credentials_ref(credentials);
	*ret_forward = f;
	return STATUS_OK;
}

void forward_free(struct forward *f)
{
	if (!f)
		return;
	for (unsigned i = 0; i < f->n_links; i++)
		rpc_channel_free(f->links[i].channel);
	tls_credentials_unref(f->credentials);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

void forward_set_credentials(struct forward *f, struct tls_credentials *credentials)
{
	pthread_mutex_lock(&f->lock);
	tls_credentials_unref(f->credentials);
	f->credentials = tls_credentials_ref(credentials);
	for (unsigned i = 0; i < f->n_links; i++)
		rpc_channel_set_credentials(f->links[i].channel, credentials);
	pthread_mutex_unlock(&f->lock);
}

static enum status_code new_channel(struct forward *f, const char *address, struct status *st,
				    struct rpc_channel **ret_channel)
{
	const struct rpc_channel_options options = {
		.addresses = &address,
		.n_addresses = 1,
		.credentials = f->credentials,
		.trust = f->trust,
		.expect_roles = PEER_SERIAL,
		.limits = CONN_LIMITS_DEFAULT,
	};
	return rpc_channel_new(&options, st, ret_channel);
}

/* Under the lock. A channel lives as long as `f`. */
static enum status_code channel_to(struct forward *f, const char *address, struct status *st,
				   struct rpc_channel **ret_channel)
{
	for (unsigned i = 0; i < f->n_links; i++)
		if (strcmp(f->links[i].address, address) == 0) {
			*ret_channel = f->links[i].channel;
			return STATUS_OK;
		}
	enum status_code rc;
	struct link *link;
	if (f->n_links < CHANNELS_MAX) {
		link = &f->links[f->n_links];
		rc = new_channel(f, address, st, &link->channel);
		if (rc == STATUS_OK)
			f->n_links++;
	} else {
		link = &f->links[f->reuse++ % CHANNELS_MAX];
		rc = rpc_channel_set_addresses(link->channel, &address, 1, st);
	}
	if (rc != STATUS_OK)
		return rc;
	strcpy(link->address, address);
	*ret_channel = link->channel;
	return STATUS_OK;
}

static void answered(void *arg, const struct rpc_result *result)
{
	struct rpc_call *call = arg;
	enum status_code code = result->status.code;
	if (code == STATUS_OK)
		rpc_call_relay(call, STATUS_OK, "", result->payload);
	else if (code == STATUS_CANCELLED)
		rpc_call_fail(call, STATUS_UNAVAILABLE, "this replica is stopping; try again with another");
	else if (!result->answered && (code != STATUS_DEADLINE_EXCEEDED || rpc_call_deadline(call) > clock_monotonic_ms()))
		/* What is wrong between two replicas is nothing that the caller did. */
		rpc_call_fail(call, STATUS_UNAVAILABLE, "the leader cannot be asked (%s); try again",
			      result->status.message);
	else
		rpc_call_relay_error(call, &result->status, result->field);
}

void forward_call(struct forward *f, struct rpc_call *call, const char *method, struct slice payload)
{
	char address[ADDRESS_MAX];
	uint64_t leader, now = clock_monotonic_ms(), deadline = rpc_call_deadline(call);
	if (rpc_call_forwarded(call)) {
		rpc_call_fail(call, STATUS_UNAVAILABLE, "the leader has just changed; try again");
		return;
	}
	if (!engine_leader(f->engine, &leader, address, sizeof address) || address[0] == '\0') {
		rpc_call_fail(
		    call, STATUS_UNAVAILABLE,
		    "no leader is known: a majority of the replicas must run and reach each other; try again");
		return;
	}
	if (deadline <= now) {
		rpc_call_fail(call, STATUS_DEADLINE_EXCEEDED, "%s: no time is left to ask the leader", method);
		return;
	}
	struct status st;
	struct rpc_channel *channel = NULL;
	pthread_mutex_lock(&f->lock);
	enum status_code rc = channel_to(f, address, &st, &channel);
	pthread_mutex_unlock(&f->lock);
	if (rc != STATUS_OK) {
		rpc_call_fail(call, STATUS_UNAVAILABLE, "pass on to the leader at %s: %s", address, st.message);
		return;
	}
	const struct rpc_call_options options = {
		.done = answered,
		.arg = call,
		.timeout_ms = deadline - now < TRY_MS ? (unsigned)(deadline - now) : TRY_MS,
		.request_id = rpc_call_request_id(call),
		.trace_id = rpc_call_trace_id(call),
		.on_behalf_of = rpc_call_identity(call),
		.no_retry = true,
	};
	rpc_channel_call_raw(channel, method, payload, &options);
}
