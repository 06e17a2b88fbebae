#include "services/keydist/rotation.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/secret.h"

#define TICK_MS 250
#define AGAIN_MS 1000 /* until what was done has come back through the follower */
#define RETRY_MS 5000
#define CALL_MS 5000

struct rotation {
	struct rotation_options options;
	unsigned put_method, delete_method;
	pthread_t thread;
	/* Shared with the callback of a call under way, which may come after rotation_stop(). */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* stopping; on CLOCK_MONOTONIC */
	unsigned refs;
	bool stopping, calling;
	uint64_t not_before;    /* monotonic ms */
};

/* Called with the lock held, which it gives back. */
static void unref(struct rotation *r)
{
	bool last = --r->refs == 0;
	pthread_mutex_unlock(&r->lock);
	if (!last)
		return;
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static void answered(void *arg, const struct rpc_result *result)
{
	struct rotation *r = arg;
	enum status_code code = result->status.code;
	/* Another distributor did it first: what it did comes through the follower. */
	bool lost_race = code == STATUS_ABORTED || code == STATUS_ALREADY_EXISTS || code == STATUS_NOT_FOUND;
	if (code != STATUS_OK && code != STATUS_CANCELLED && !lost_race)
		log_warning("masterKeys: %s; trying again", result->status.message);
	pthread_mutex_lock(&r->lock);
	r->calling = false;
	r->not_before = clock_monotonic_ms() + (code == STATUS_OK || lost_race ? AGAIN_MS : RETRY_MS);
	unref(r);
}

static void call(struct rotation *r, unsigned method, const ProtobufCMessage *request)
{
	const struct rpc_call_options options = { .done = answered, .arg = r, .timeout_ms = CALL_MS };
	pthread_mutex_lock(&r->lock);
	r->calling = true;
	r->refs++;
	pthread_mutex_unlock(&r->lock);
	rpc_channel_call(r->options.channel, &kds__v1__config__descriptor, method, request, &options);
}

/* A fresh key, sealed as its object says. */
static enum status_code make_sealed(const struct seal *seal, const char *purpose, struct status *st, struct buffer *out)
{
	uint8_t *key = secret_alloc(MASTER_KEY_SIZE);
	if (!key)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	enum status_code rc = secret_random(key, MASTER_KEY_SIZE, st);
	if (rc == STATUS_OK)
		rc = seal_close(seal, purpose, (struct slice){ key, MASTER_KEY_SIZE }, st, out);
	secret_free(key, MASTER_KEY_SIZE);
	return rc;
}

static void publish(struct rotation *r, const struct masterkeys_plan *plan)
{
	char object_key[MASTERKEY_OBJECT_KEY_MAX];
	struct buffer sealed = { 0 };
	struct status st;
	masterkey_object_key(plan->publish_ms, object_key);
	if (make_sealed(r->options.seal, object_key, &st, &sealed) != STATUS_OK) {
		log_error("masterKeys: make %s: %s", object_key, st.message);
		goto out;
	}
	Kds__V1__MasterKey key = KDS__V1__MASTER_KEY__INIT;
	key.published_ms = plan->publish_ms;
	key.use_from_ms = plan->use_from_ms;
	key.sealed_key = (ProtobufCBinaryData){ .data = sealed.data, .len = sealed.len };
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = object_key;
	object.value_case = KDS__V1__OBJECT__VALUE_MASTER_KEY;
	object.master_key = &key;
	Kds__V1__PutRequest request = KDS__V1__PUT_REQUEST__INIT;
	request.object = &object;
	request.check_revision = true; /* revision 0: only where there is none */
	log_info("masterKeys: publishing %s use_from_ms=%" PRIu64, object_key, plan->use_from_ms);
	call(r, r->put_method, &request.base);
out:
	buffer_free(&sealed);
}

static void destroy(struct rotation *r, const struct masterkeys_plan *plan)
{
	char object_key[MASTERKEY_OBJECT_KEY_MAX];
	Kds__V1__DeleteRequest request = KDS__V1__DELETE_REQUEST__INIT;
	request.key = (char *)masterkey_object_key(plan->destroy_ms, object_key);
	/* Our clock alone must not destroy a key for everybody. */
	request.not_before_ms = plan->over_ms;
	log_info("masterKeys: destroying %s", object_key);
	call(r, r->delete_method, &request.base);
}

static void check(struct rotation *r)
{
	struct masterkeys_plan plan;
	uint64_t now_ms = clock_unix_ms();
	masterkeys_expire(r->options.keys, now_ms);
	if (!follower_in_step(r->options.follower))
		return;
	masterkeys_plan(r->options.keys, now_ms, &plan);
	if (plan.publish)
		publish(r, &plan);
	else if (plan.destroy)
		destroy(r, &plan);
}

static void *run(void *arg)
{
	struct rotation *r = arg;
	uint64_t next_ms = clock_monotonic_ms();
	pthread_setname_np(pthread_self(), "rotation");
	pthread_mutex_lock(&r->lock);
	while (!r->stopping) {
		if (!r->calling && clock_monotonic_ms() >= r->not_before) {
			pthread_mutex_unlock(&r->lock);
			check(r);
			pthread_mutex_lock(&r->lock);
		}
		next_ms += TICK_MS;
		struct timespec t = { (time_t)(next_ms / 1000), (long)(next_ms % 1000) * 1000000 };
		while (!r->stopping && pthread_cond_timedwait(&r->changed, &r->lock, &t) == 0)
			;
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

static unsigned method_index(const char *name)
{
	const ProtobufCServiceDescriptor *config = &kds__v1__config__descriptor;
	return (unsigned)(protobuf_c_service_descriptor_get_method_by_name(config, name) - config->methods);
}

enum status_code rotation_start(const struct rotation_options *options, struct status *st,
				struct rotation **ret_rotation)
{
	struct rotation *r = calloc(1, sizeof *r);
	if (!r)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the rotation of masterKeys: out of memory");
	r->options = *options;
	r->put_method = method_index("Put");
	r->delete_method = method_index("Delete");
	r->refs = 1;
	pthread_mutex_init(&r->lock, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&r->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	int rv = pthread_create(&r->thread, NULL, run, r);
	if (rv != 0) {
		pthread_mutex_lock(&r->lock);
		unref(r);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the rotation of masterKeys: %s", strerror(rv));
	}
	*ret_rotation = r;
	return STATUS_OK;
}

void rotation_stop(struct rotation *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stopping = true;
	pthread_cond_signal(&r->changed);
	pthread_mutex_unlock(&r->lock);
	pthread_join(r->thread, NULL);
	pthread_mutex_lock(&r->lock);
	unref(r);
}
