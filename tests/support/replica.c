#include "tests/support/replica.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/server.h"
#include "tests/support/support.h"

#define MAX_OBJECTS 32
#define MAX_WAITING 8
#define MAX_PACKED 4096

struct waiting {
	struct rpc_call *call;
	Kds__V1__WatchResponse_Closure closure;
	uint64_t since;
};

struct replica {
	Kds__V1__Config_Service service; /* first: the handlers get a pointer to it */
	char address[64];
	struct rpc_server *server;
	struct listener *listener;
	struct trust *trust;
	struct tls_credentials *credentials;
	pthread_mutex_t lock;
	Kds__V1__Object *objects[MAX_OBJECTS]; /* by revision */
	size_t n;
	uint64_t revision;
	uint64_t oldest; /* what was deleted before it is forgotten */
	unsigned lost_races;
	struct waiting waiting[MAX_WAITING];
	size_t n_waiting;
};

static void answer_watch(struct replica *r, const struct waiting *w)
{
	Kds__V1__Object *newer[MAX_OBJECTS];
	Kds__V1__WatchResponse answer = KDS__V1__WATCH_RESPONSE__INIT;
	answer.objects = newer;
	answer.revision = r->revision;
	answer.restart = w->since > r->revision || (w->since > 0 && w->since < r->oldest);
	for (size_t i = 0; i < r->n && !answer.restart; i++)
		if (r->objects[i]->revision > w->since)
			newer[answer.n_objects++] = r->objects[i];
	w->closure(&answer, w->call);
}

static void handle_watch(Kds__V1__Config_Service *service, const Kds__V1__WatchRequest *in,
			 Kds__V1__WatchResponse_Closure closure, void *closure_data)
{
	struct replica *r = (struct replica *)service;
	const struct waiting w = { .call = closure_data, .closure = closure, .since = in->since_revision };
	pthread_mutex_lock(&r->lock);
	if (in->since_revision != r->revision) {
		answer_watch(r, &w);
	} else {
		if (r->n_waiting == MAX_WAITING) { /* the oldest, whose follower has gone */
			answer_watch(r, &r->waiting[0]);
			memmove(&r->waiting[0], &r->waiting[1], --r->n_waiting * sizeof r->waiting[0]);
		}
		r->waiting[r->n_waiting++] = w;
	}
	pthread_mutex_unlock(&r->lock);
}

static size_t find(const struct replica *r, const char *key)
{
	size_t i = 0;
	while (i < r->n && strcmp(r->objects[i]->key, key) != 0)
		i++;
	return i;
}

static void remove_at(struct replica *r, size_t i)
{
	kds__v1__object__free_unpacked(r->objects[i], NULL);
	r->n--;
	memmove(&r->objects[i], &r->objects[i + 1], (r->n - i) * sizeof r->objects[0]);
}

/* With the lock held. */
static void store(struct replica *r, Kds__V1__Object *object)
{
	uint8_t packed[MAX_PACKED];
	object->revision = ++r->revision;
	assert_true(kds__v1__object__get_packed_size(object) <= sizeof packed);
	Kds__V1__Object *copy = kds__v1__object__unpack(NULL, kds__v1__object__pack(object, packed), packed);
	assert_non_null(copy);
	size_t i = find(r, object->key);
	if (i < r->n)
		remove_at(r, i);
	assert_true(r->n < MAX_OBJECTS);
	r->objects[r->n++] = copy;
	for (i = 0; i < r->n_waiting; i++)
		answer_watch(r, &r->waiting[i]);
	r->n_waiting = 0;
}

static void handle_put(Kds__V1__Config_Service *service, const Kds__V1__PutRequest *in, Kds__V1__Object_Closure closure,
		       void *closure_data)
{
	struct replica *r = (struct replica *)service;
	Kds__V1__Object object = *in->object;
	pthread_mutex_lock(&r->lock);
	size_t i = find(r, object.key);
	uint64_t revision = i < r->n && !r->objects[i]->deleted ? r->objects[i]->revision : 0;
	bool lost = in->check_revision && in->expected_revision != revision;
	if (lost)
		r->lost_races++;
	else
		store(r, &object);
	pthread_mutex_unlock(&r->lock);
	if (lost)
		rpc_call_fail(closure_data, STATUS_ABORTED, "%s changed meanwhile", object.key);
	else
		closure(&object, closure_data);
}

static void handle_delete(Kds__V1__Config_Service *service, const Kds__V1__DeleteRequest *in,
			  Kds__V1__Object_Closure closure, void *closure_data)
{
	struct replica *r = (struct replica *)service;
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = in->key;
	object.deleted = true;
	pthread_mutex_lock(&r->lock);
	size_t i = find(r, in->key);
	bool found = i < r->n && !r->objects[i]->deleted;
	if (found)
		store(r, &object);
	pthread_mutex_unlock(&r->lock);
	if (found)
		closure(&object, closure_data);
	else
		rpc_call_fail(closure_data, STATUS_NOT_FOUND, "%s: there is none", in->key);
}

static void handle_get(Kds__V1__Config_Service *service, const Kds__V1__GetRequest *in, Kds__V1__Object_Closure closure,
		       void *closure_data)
{
	(void)service;
	(void)in;
	(void)closure;
	rpc_call_fail(closure_data, STATUS_UNIMPLEMENTED, "not in this replica");
}

static void handle_list(Kds__V1__Config_Service *service, const Kds__V1__ListRequest *in,
			Kds__V1__ListResponse_Closure closure, void *closure_data)
{
	(void)service;
	(void)in;
	(void)closure;
	rpc_call_fail(closure_data, STATUS_UNIMPLEMENTED, "not in this replica");
}

static void handle_history(Kds__V1__Config_Service *service, const Kds__V1__HistoryRequest *in,
			   Kds__V1__HistoryResponse_Closure closure, void *closure_data)
{
	(void)service;
	(void)in;
	(void)closure;
	rpc_call_fail(closure_data, STATUS_UNIMPLEMENTED, "not in this replica");
}

void replica_listen(struct replica *r)
{
	struct status st;
	const struct listener_options options = {
		.address = r->address,
		.self = SP_REP,
		.credentials = r->credentials,
		.trust = r->trust,
		.limits = CONN_LIMITS_DEFAULT,
		.handlers = rpc_server_handlers(r->server),
	};
	if (listener_start(&options, &st, &r->listener) != STATUS_OK)
		fail_msg("%s", st.message);
	snprintf(r->address, sizeof r->address, "%s", listener_address(r->listener));
}

const char *replica_address(const struct replica *r)
{
	return r->address;
}

struct replica *replica_new(struct pki *pki)
{
	static const struct rpc_access table[] = {
		{ .method = "Get", .allow = PEER_SERVICES },
		{ .method = "List", .allow = PEER_SERVICES },
		{ .method = "Put", .allow = PEER_SERVICES },
		{ .method = "Delete", .allow = PEER_SERVICES },
		{ .method = "Watch", .allow = PEER_SERVICES, .flags = RPC_LONG_POLL },
		{ .method = "History", .allow = PEER_SERVICES },
	};
	struct status st;
	struct replica *r = calloc(1, sizeof *r);
	assert_non_null(r);
	r->service = (Kds__V1__Config_Service)KDS__V1__CONFIG__INIT(handle_);
	snprintf(r->address, sizeof r->address, "127.0.0.1:0");
	pthread_mutex_init(&r->lock, NULL);
	struct slice ca = pki_ca_pem(pki, PKI_INFRASTRUCTURE);
	const struct pki_leaf *leaf = pki_service(pki, "serial", "serial1");
	assert_int_equal(trust_new(PKI_CLUSTER, PKI_KDS_NAME, &ca, &st, &r->trust), STATUS_OK);
	assert_int_equal(tls_credentials_load(leaf->certificate, leaf->key, TLS_MINIMUM_1_3, &st, &r->credentials),
			 STATUS_OK);
	assert_int_equal(rpc_server_new(&RPC_SERVER_LIMITS_DEFAULT, &st, &r->server), STATUS_OK);
	const size_t n = sizeof table / sizeof table[0];
	assert_int_equal(rpc_server_add(r->server, &r->service.base, table, n, &st), STATUS_OK);
	replica_listen(r);
	return r;
}

static void refuse_waiting(struct replica *r)
{
	pthread_mutex_lock(&r->lock);
	while (r->n_waiting > 0)
		rpc_call_fail(r->waiting[--r->n_waiting].call, STATUS_UNAVAILABLE, "stopping");
	pthread_mutex_unlock(&r->lock);
}

void replica_stop(struct replica *r)
{
	if (!r->listener)
		return;
	listener_stop(r->listener);
	r->listener = NULL;
	refuse_waiting(r);
}

void replica_free(struct replica *r)
{
	replica_stop(r);
	rpc_server_free(r->server);
	tls_credentials_unref(r->credentials);
	trust_free(r->trust);
	while (r->n > 0)
		remove_at(r, r->n - 1);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

void replica_put(struct replica *r, Kds__V1__Object *object)
{
	pthread_mutex_lock(&r->lock);
	store(r, object);
	pthread_mutex_unlock(&r->lock);
}

void replica_put_setting(struct replica *r, const char *key, const char *value)
{
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	setting.name = (char *)"s";
	setting.value = (char *)value;
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = (char *)key;
	object.value_case = KDS__V1__OBJECT__VALUE_SETTING;
	object.setting = &setting;
	replica_put(r, &object);
}

void replica_put_min_serial(struct replica *r, uint64_t value)
{
	Kds__V1__MinSerial min = KDS__V1__MIN_SERIAL__INIT;
	min.value = value;
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = (char *)"serial/min";
	object.value_case = KDS__V1__OBJECT__VALUE_MIN_SERIAL;
	object.min_serial = &min;
	replica_put(r, &object);
}

void replica_put_node(struct replica *r, const char *name)
{
	char key[300];
	Kds__V1__Node node = KDS__V1__NODE__INIT;
	node.name = (char *)name;
	snprintf(key, sizeof key, "node/%s", name);
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = key;
	object.value_case = KDS__V1__OBJECT__VALUE_NODE;
	object.node = &node;
	replica_put(r, &object);
}

void replica_put_ca(struct replica *r, struct slice der)
{
	Kds__V1__CertificateAuthority ca = KDS__V1__CERTIFICATE_AUTHORITY__INIT;
	ca.name = (char *)"default";
	ca.certificate = (ProtobufCBinaryData){ .data = (uint8_t *)der.data, .len = der.len };
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = (char *)"ca/default";
	object.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
	object.certificate_authority = &ca;
	replica_put(r, &object);
}

void replica_delete(struct replica *r, const char *key)
{
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = (char *)key;
	object.deleted = true;
	replica_put(r, &object);
}

void replica_compact(struct replica *r, const char *key)
{
	replica_delete(r, key);
	pthread_mutex_lock(&r->lock);
	remove_at(r, r->n - 1);
	r->oldest = ++r->revision;
	pthread_mutex_unlock(&r->lock);
}

void replica_take_back(struct replica *r)
{
	pthread_mutex_lock(&r->lock);
	remove_at(r, r->n - 1);
	r->revision--;
	pthread_mutex_unlock(&r->lock);
}

size_t replica_count(struct replica *r, const char *prefix)
{
	size_t n = 0;
	pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < r->n; i++)
		n += !r->objects[i]->deleted && strncmp(r->objects[i]->key, prefix, strlen(prefix)) == 0;
	pthread_mutex_unlock(&r->lock);
	return n;
}

unsigned replica_lost_races(struct replica *r)
{
	pthread_mutex_lock(&r->lock);
	unsigned n = r->lost_races;
	pthread_mutex_unlock(&r->lock);
	return n;
}
