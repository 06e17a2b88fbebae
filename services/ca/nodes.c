#include "services/ca/nodes.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/ca/failure.h"

#define KEY_PREFIX "node/"
#define KEY_SIZE 300

struct nodes {
	struct rpc_channel *channel;
	struct follower *follower;
	pthread_mutex_t lock;
	pthread_cond_t idle;
	unsigned calls; /* under way */
};

enum status_code nodes_new(struct rpc_channel *channel, struct follower *follower, struct status *st,
			   struct nodes **ret_nodes)
{
	struct nodes *n = calloc(1, sizeof *n);
	if (!n)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "nodes: out of memory");
	n->channel = channel;
	n->follower = follower;
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->idle, NULL);
	*ret_nodes = n;
	return STATUS_OK;
}

void nodes_free(struct nodes *n)
{
	if (!n)
		return;
	pthread_mutex_lock(&n->lock);
	while (n->calls > 0)
		pthread_cond_wait(&n->idle, &n->lock);
	pthread_mutex_unlock(&n->lock);
	pthread_cond_destroy(&n->idle);
	pthread_mutex_destroy(&n->lock);
	free(n);
}

static void call_begins(struct nodes *n)
{
	pthread_mutex_lock(&n->lock);
	n->calls++;
	pthread_mutex_unlock(&n->lock);
}

static void call_ended(struct nodes *n)
{
	pthread_mutex_lock(&n->lock);
	if (--n->calls == 0)
		pthread_cond_broadcast(&n->idle);
	pthread_mutex_unlock(&n->lock);
}

static void fail(struct nodes_query *q, enum status_code code, const char *why)
{
	struct status st;
	status_set(&st, code, "node %.100s: %s", q->name, why);
	q->done(q, &st, NULL, 0);
}

/* A call to kds-serial failed: what that means for who asked for a node. */
static void fail_call(struct nodes_query *q, const struct status *cause)
{
	if (cause->code == STATUS_NOT_FOUND) {
		fail(q, STATUS_NOT_FOUND, "the configuration has none of this name; add it with kds-cli node add");
		return;
	}
	struct status st;
	char what[120];
	snprintf(what, sizeof what, "node %.100s", q->name);
	(void)failure_of_call(what, cause, &st);
	q->done(q, &st, NULL, 0);
}

static void succeed(struct nodes_query *q, Kds__V1__Object *object, uint64_t as_of)
{
	const struct status ok = { .code = STATUS_OK };
	if (object->value_case == KDS__V1__OBJECT__VALUE_NODE) {
		q->done(q, &ok, object, as_of);
		return;
	}
	kds__v1__object__free_unpacked(object, NULL);
	fail(q, STATUS_INTERNAL, "kds-serial answered with something else");
}

static void got(void *arg, const struct rpc_result *result)
{
	struct nodes_query *q = arg;
	struct nodes *n = q->nodes;
	Kds__V1__Object *object = NULL;
	if (result->status.code == STATUS_OK)
		object = kds__v1__object__unpack(NULL, result->payload.len, result->payload.data);
	if (object)
		succeed(q, object, 0);
	else if (result->status.code == STATUS_OK)
		fail(q, STATUS_RESOURCE_EXHAUSTED, "out of memory; try again later");
	else
		fail_call(q, &result->status);
	call_ended(n);
}

static bool key_of(const struct nodes_query *q, char ret_key[KEY_SIZE])
{
	size_t len = strlen(q->name);
	if (len == 0 || len >= KEY_SIZE - sizeof KEY_PREFIX)
		return false;
	memcpy(ret_key, KEY_PREFIX, sizeof KEY_PREFIX);
	memcpy(ret_key + sizeof KEY_PREFIX - 1, q->name, len + 1);
	return true;
}

void nodes_ask(struct nodes *n, struct nodes_query *q)
{
	char key[KEY_SIZE];
	if (!key_of(q, key)) {
		fail(q, STATUS_NOT_FOUND, "no node has a name like that");
		return;
	}
	Kds__V1__GetRequest request = KDS__V1__GET_REQUEST__INIT;
	request.key = key;
	struct rpc_call_options options = { .done = got, .arg = q, .timeout_ms = q->timeout_ms };
	ProtobufCService *config = rpc_channel_service(n->channel, &kds__v1__config__descriptor);
	q->nodes = n;
	call_begins(n);
	kds__v1__config__get(config, &request, RPC_CLOSURE(Kds__V1__Object), &options);
}

void nodes_find(struct nodes *n, struct nodes_query *q)
{
	char key[KEY_SIZE];
	uint64_t as_of = follower_revision(n->follower); /* before the object: that can only be newer */
	Kds__V1__Object *object = key_of(q, key) ? follower_get(n->follower, key) : NULL;
	if (object)
		succeed(q, object, as_of);
	else
		nodes_ask(n, q);
}
