#include "services/ca/keeper.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/log.h"

#define KEY_PREFIX "ca/"
#define CALL_TIMEOUT_MS 3000
#define RETRY_MS 1000

/* A CA of the configuration, ours or another. */
struct known {
	struct known *next;
	char *name;
	struct buffer certificate;
	bool signing;
};

struct keeper {
	char *name, *key, *common_name, *requester;
	const struct seal *seal;
	struct rpc_channel *channel;
	struct follower *follower; /* the thread's */
	pthread_t thread;
	bool started;

	pthread_mutex_t lock;
	pthread_cond_t wake;       /* on CLOCK_MONOTONIC */
	bool stopping, synced;
	bool stale;                /* our CA may have changed */
	struct authority *authority; /* NULL: `problem` says why */
	struct status problem;
	struct known *known;
};

static void init_lock(struct keeper *k)
{
	pthread_condattr_t monotonic;
	pthread_mutex_init(&k->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&k->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

enum status_code keeper_new(const struct keeper_options *options, struct status *st, struct keeper **ret_keeper)
{
	struct keeper *k = calloc(1, sizeof *k);
	if (!k)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "CA: out of memory");
	init_lock(k);
	k->name = strdup(options->authority);
	k->common_name = strdup(options->common_name);
	k->requester = strdup(options->requester);
	if (asprintf(&k->key, KEY_PREFIX "%s", options->authority) < 0)
		k->key = NULL;
	if (!k->name || !k->common_name || !k->requester || !k->key) {
		keeper_free(k);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "CA: out of memory");
	}
	k->seal = options->seal;
	k->channel = options->channel;
	status_set(&k->problem, STATUS_UNAVAILABLE, "CA %s is not known yet: no kds-serial has answered; see kds-cli cluster view",
		   k->name);
	*ret_keeper = k;
	return STATUS_OK;
}

static void known_free(struct known *c)
{
	free(c->name);
	buffer_free(&c->certificate);
	free(c);
}

void keeper_free(struct keeper *k)
{
	if (!k)
		return;
	while (k->known) {
		struct known *next = k->known->next;
		known_free(k->known);
		k->known = next;
	}
	authority_unref(k->authority);
	pthread_cond_destroy(&k->wake);
	pthread_mutex_destroy(&k->lock);
	free(k->name);
	free(k->key);
	free(k->common_name);
	free(k->requester);
	free(k);
}

/* Takes over the reference. NULL: `problem` says why there is none. */
static void set_authority(struct keeper *k, struct authority *a, const struct status *problem)
{
	pthread_mutex_lock(&k->lock);
	struct authority *former = k->authority;
	k->authority = a;
	if (problem)
		k->problem = *problem;
	pthread_mutex_unlock(&k->lock);
	authority_unref(former);
}

static enum status_code call(struct keeper *k, const ProtobufCServiceDescriptor *service, const char *method,
			     const ProtobufCMessage *input, struct status *st, ProtobufCMessage **ret_answer)
{
	const struct rpc_call_options options = { .timeout_ms = CALL_TIMEOUT_MS };
	return rpc_channel_wait(k->channel, service, method, input, &options, st, ret_answer);
}

static enum status_code allocate(struct keeper *k, struct status *st, uint64_t *ret_serial)
{
	Kds__V1__AllocateRequest request = KDS__V1__ALLOCATE_REQUEST__INIT;
	ProtobufCMessage *answer = NULL;
	request.count = 1;
	enum status_code rc = call(k, &kds__v1__serial__descriptor, "Allocate", &request.base, st, &answer);
	if (rc != STATUS_OK)
		return rc;
	*ret_serial = ((Kds__V1__AllocateResponse *)answer)->first;
	protobuf_c_message_free_unpacked(answer, NULL);
	return STATUS_OK;
}

static enum status_code record(struct keeper *k, struct authority_draft *draft, struct status *st)
{
	Kds__V1__RecordRequest request = KDS__V1__RECORD_REQUEST__INIT;
	Kds__V1__IssuedCertificate *list[] = { &draft->record };
	ProtobufCMessage *answer = NULL;
	draft->record.requester = k->requester;
	request.n_certificates = 1;
	request.certificates = list;
	enum status_code rc = call(k, &kds__v1__serial__descriptor, "Record", &request.base, st, &answer);
	if (rc != STATUS_OK)
		return rc;
	const Kds__V1__RecordResponse *response = (const Kds__V1__RecordResponse *)answer;
	if (response->n_results != 1)
		rc = status_set(st, STATUS_INTERNAL, "record: kds-serial answered without a result");
	else if (response->results[0]->code != STATUS_OK)
		rc = status_set(st, STATUS_FAILED_PRECONDITION, "record: %s", response->results[0]->message);
	protobuf_c_message_free_unpacked(answer, NULL);
	return rc;
}

/* Compare and set: ABORTED or ALREADY_EXISTS when another kds-ca was first. */
static enum status_code put(struct keeper *k, struct authority_draft *draft, struct status *st)
{
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	Kds__V1__PutRequest request = KDS__V1__PUT_REQUEST__INIT;
	ProtobufCMessage *answer = NULL;
	object.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
	object.certificate_authority = &draft->object;
	request.object = &object;
	request.check_revision = true;
	request.expected_revision = 0;
	enum status_code rc = call(k, &kds__v1__config__descriptor, "Put", &request.base, st, &answer);
	if (rc == STATUS_OK)
		protobuf_c_message_free_unpacked(answer, NULL);
	return rc;
}

/* The configuration has no such CA. What comes of it arrives through the follower, whoever made it. */
static void make_authority(struct keeper *k)
{
	struct status st;
	struct authority_draft draft;
	uint64_t serial = 0;
	enum status_code rc = allocate(k, &st, &serial);
	if (rc == STATUS_OK)
		rc = authority_draft_make(k->name, k->common_name, serial, (int64_t)(clock_unix_ms() / 1000), k->seal, &st,
					  &draft);
	if (rc == STATUS_OK) {
		rc = record(k, &draft, &st);
		if (rc == STATUS_OK)
			rc = put(k, &draft, &st);
		authority_draft_fini(&draft);
	}
	if (rc == STATUS_OK) {
		log_info("made CA name=%s common-name=%s serial=%" PRIu64, k->name, k->common_name, serial);
		return;
	}
	if (rc == STATUS_ALREADY_EXISTS || rc == STATUS_ABORTED) {
		log_info("CA name=%s was made by another kds-ca", k->name);
		return;
	}
	/* Perhaps an answer was lost; then the follower will tell. */
	(void)status_prefix(&st, "make CA %s", k->name);
	log_warning("%s", st.message);
	set_authority(k, NULL, &st);
}

static void open_authority(struct keeper *k, const Kds__V1__CertificateAuthority *object)
{
	struct status st;
	struct authority *a = NULL;
	if (authority_open(object, k->seal, &st, &a) != STATUS_OK) {
		log_error("%s", st.message);
		set_authority(k, NULL, &st);
		return;
	}
	set_authority(k, a, NULL);
	log_info("signing as CA name=%s", k->name);
}

/* Returns when to look again, in ms; 0: when something changed. */
static unsigned refresh(struct keeper *k)
{
	Kds__V1__Object *object = follower_get(k->follower, k->key);
	if (!object) {
		make_authority(k);
		return RETRY_MS;
	}
	if (object->value_case == KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY)
		open_authority(k, object->certificate_authority);
	kds__v1__object__free_unpacked(object, NULL);
	return 0;
}

/* The lock is held. */
static void wait_at_most(struct keeper *k, unsigned ms)
{
	uint64_t until = clock_monotonic_ms() + ms;
	struct timespec t = { .tv_sec = (time_t)(until / 1000), .tv_nsec = (long)(until % 1000) * 1000000 };
	while (!k->stopping && !k->stale) {
		if (pthread_cond_timedwait(&k->wake, &k->lock, &t) == ETIMEDOUT)
			return;
	}
}

static void *run(void *arg)
{
	struct keeper *k = arg;
	unsigned retry_ms = 0;
	pthread_setname_np(pthread_self(), "keeper");
	pthread_mutex_lock(&k->lock);
	for (;;) {
		if (retry_ms > 0)
			wait_at_most(k, retry_ms);
		while (!k->stopping && !(k->synced && (k->stale || retry_ms > 0)))
			pthread_cond_wait(&k->wake, &k->lock);
		if (k->stopping)
			break;
		k->stale = false;
		pthread_mutex_unlock(&k->lock);
		retry_ms = refresh(k);
		pthread_mutex_lock(&k->lock);
	}
	pthread_mutex_unlock(&k->lock);
	return NULL;
}

enum status_code keeper_start(struct keeper *k, struct follower *follower, struct status *st)
{
	k->follower = follower;
	k->stale = true;
	int rv = pthread_create(&k->thread, NULL, run, k);
	if (rv != 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "CA: start a thread: %s", strerror(rv));
	k->started = true;
	return STATUS_OK;
}

void keeper_stop(struct keeper *k)
{
	if (!k || !k->started)
		return;
	pthread_mutex_lock(&k->lock);
	k->stopping = true;
	pthread_cond_signal(&k->wake);
	pthread_mutex_unlock(&k->lock);
	pthread_join(k->thread, NULL);
	k->started = false;
}

/* The lock is held. `ca` NULL: it is gone. */
static void update_known(struct keeper *k, const char *name, const Kds__V1__CertificateAuthority *ca)
{
	struct known **place = &k->known;
	while (*place && strcmp((*place)->name, name) != 0)
		place = &(*place)->next;
	struct known *c = *place;
	if (!ca) {
		if (c) {
			*place = c->next;
			known_free(c);
		}
		return;
	}
	if (!c) {
		c = calloc(1, sizeof *c);
		if (c)
			c->name = strdup(name);
		if (!c || !c->name) {
			free(c);
			log_error("CA %s: out of memory; it is missing in answers to Ca.Bundle", name);
			return;
		}
		*place = c;
	}
	c->certificate.len = 0;
	c->signing = !ca->retired;
	if (!buffer_append(&c->certificate, ca->certificate.data, ca->certificate.len))
		log_error("CA %s: out of memory; it is missing in answers to Ca.Bundle", name);
}

void keeper_changed(struct keeper *k, const Kds__V1__Object *object)
{
	if (strncmp(object->key, KEY_PREFIX, strlen(KEY_PREFIX)) != 0)
		return;
	bool there = !object->deleted && object->value_case == KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
	pthread_mutex_lock(&k->lock);
	update_known(k, object->key + strlen(KEY_PREFIX), there ? object->certificate_authority : NULL);
	if (strcmp(object->key, k->key) == 0)
		k->stale = true;
	pthread_cond_signal(&k->wake);
	pthread_mutex_unlock(&k->lock);
}

void keeper_synced(struct keeper *k)
{
	pthread_mutex_lock(&k->lock);
	k->synced = true;
	pthread_cond_signal(&k->wake);
	pthread_mutex_unlock(&k->lock);
}

enum status_code keeper_authority(struct keeper *k, struct status *st, struct authority **ret_authority)
{
	enum status_code rc = STATUS_OK;
	pthread_mutex_lock(&k->lock);
	if (k->authority)
		*ret_authority = authority_ref(k->authority);
	else
		rc = status_set(st, k->problem.code, "%s", k->problem.message);
	pthread_mutex_unlock(&k->lock);
	return rc;
}

void keeper_visit(struct keeper *k, keeper_visit_fn visit, void *arg)
{
	pthread_mutex_lock(&k->lock);
	for (const struct known *c = k->known; c; c = c->next) {
		if (c->certificate.len > 0)
			visit(arg, c->name, (struct slice){ c->certificate.data, c->certificate.len }, c->signing);
	}
	pthread_mutex_unlock(&k->lock);
}
