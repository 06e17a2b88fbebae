#include "common/daemon/follower.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/daemon/cache.h"
#include "common/daemon/objects.h"
#include "common/rpc/message.h"

#define POLL_MS 10000
#define PAUSE_MIN_MS 100
#define PAUSE_MAX_MS 3000
#define ANSWER_BUDGET ((size_t)16 << 20) /* of one answer unpacked: replicas send about 512 KiB packed */

/* What the trust needs, whatever the daemon itself follows. */
static const char *const trust_prefixes[] = { "ca/", "serial/", "service/", "cluster" };
#define N_TRUST_PREFIXES (sizeof trust_prefixes / sizeof trust_prefixes[0])
#define NODE_PREFIX "node/"

/*
 * What the thread, the callback of a poll under way, and askers share. Apart from the follower, because that callback
 * may come after follower_stop(): a call cannot be taken back from a channel that lives on.
 */
struct shared {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* answered, synced or stopping; on CLOCK_MONOTONIC */
	unsigned refs;          /* the follower's, and one of a poll under way */
	bool stopping;
	bool answered;
	struct status status;   /* of the answer */
	struct buffer answer;
	bool synced, in_step;
	uint64_t revision;
};

struct follower {
	struct daemon *daemon;
	struct rpc_channel *channel;
	follower_change_fn change;
	follower_synced_fn synced;
	void *arg;
	char *cache_file;
	char **prefixes;
	size_t n_prefixes;
	unsigned watch_method;
	struct shared *shared;
	struct objects *objects; /* changed by the thread alone, under the lock; the thread reads without */
	uint64_t since, began;   /* the thread's: what to ask for */
	bool nodes;
	bool trust_stale, cache_stale;
	bool nodes_less;         /* connections may be open whose node is none any more */
	bool sweep;              /* the state is being sent whole: at its end, drop what was not in it */
	bool lost;               /* since the last answer of a replica, and people were told */
	pthread_t thread;
};

static struct shared *shared_new(void)
{
	struct shared *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->refs = 1;
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	return s;
}

/* Called with the lock held, which it gives back. */
static void shared_unref(struct shared *s)
{
	bool last = --s->refs == 0;
	pthread_mutex_unlock(&s->lock);
	if (!last)
		return;
	buffer_free(&s->answer);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* With the lock held: false once `deadline` (monotonic ms) has passed. */
static bool shared_wait(struct shared *s, uint64_t deadline)
{
	struct timespec t = { .tv_sec = (time_t)(deadline / 1000), .tv_nsec = (long)(deadline % 1000) * 1000000 };
	return pthread_cond_timedwait(&s->changed, &s->lock, &t) == 0;
}

static void answered(void *arg, const struct rpc_result *result)
{
	struct shared *s = arg;
	pthread_mutex_lock(&s->lock);
	s->status = result->status;
	s->answer.len = 0;
	if (s->status.code == STATUS_OK && !buffer_append(&s->answer, result->payload.data, result->payload.len))
		status_set(&s->status, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	s->answered = true;
	pthread_cond_broadcast(&s->changed);
	shared_unref(s);
}

/* One long poll; CANCELLED when it was cut short by follower_stop(). The answer is the thread's until the next poll. */
static enum status_code poll_once(struct follower *f, struct status *st)
{
	struct shared *s = f->shared;
	Kds__V1__WatchRequest request = KDS__V1__WATCH_REQUEST__INIT;
	request.since_revision = f->since;
	request.began = f->began;
	request.n_prefixes = f->n_prefixes;
	request.prefixes = f->prefixes;
	const struct rpc_call_options options = { .done = answered, .arg = s, .timeout_ms = POLL_MS, .long_poll = true };

	pthread_mutex_lock(&s->lock);
	s->answered = false;
	s->refs++;
	pthread_mutex_unlock(&s->lock);
	rpc_channel_call(f->channel, &kds__v1__config__descriptor, f->watch_method, &request.base, &options);

	pthread_mutex_lock(&s->lock);
	while (!s->answered && !s->stopping)
		pthread_cond_wait(&s->changed, &s->lock);
	if (s->stopping)
		status_set(st, STATUS_CANCELLED, "stopping");
	else
		*st = s->status;
	pthread_mutex_unlock(&s->lock);
	return st->code;
}

static bool has_prefix(const char *key, const char *prefix)
{
	return strncmp(key, prefix, strlen(prefix)) == 0;
}

/*
 * The trust is made anew from the objects after each change of what it stands on.
 */
struct trust_view {
	struct arena *arena;
	struct slice *cas;
	const char **removed;
	size_t n_cas, n_removed;
	uint64_t min_serial;
	bool failed; /* out of memory */
};

static void view_object(void *arg, const char *key, struct slice packed)
{
	struct trust_view *v = arg;
	if (v->failed || (!has_prefix(key, "ca/") && !has_prefix(key, "service/") && strcmp(key, "serial/min") != 0))
		return;
	const Kds__V1__Object *o = kds__v1__object__unpack(arena_allocator(v->arena), packed.len, packed.data);
	if (!o) {
		v->failed = true;
		return;
	}
	switch (o->value_case) {
	case KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY:
		v->cas[v->n_cas++] = (struct slice){ o->certificate_authority->certificate.data,
						     o->certificate_authority->certificate.len };
		break;
	case KDS__V1__OBJECT__VALUE_SERVICE:
		if (o->service->removed)
			v->removed[v->n_removed++] = o->service->name;
		break;
	case KDS__V1__OBJECT__VALUE_MIN_SERIAL:
		v->min_serial = o->min_serial->value;
		break;
	default:
		break;
	}
}

static void count_object(void *arg, const char *key, struct slice packed)
{
	size_t *totals = arg;
	(void)key;
	totals[0]++;
	totals[1] += packed.len;
}

static enum status_code set_trust(struct trust *trust, const struct trust_view *v, struct status *st)
{
	/* First what takes rights away. min_serial never goes down, whatever a replica that lags behind says. */
	if (v->min_serial > trust_min_serial(trust))
		trust_set_min_serial(trust, v->min_serial);
	enum status_code rc = trust_set_removed_services(trust, v->removed, v->n_removed, st);
	if (rc == STATUS_OK)
		rc = trust_follow_cluster_cas(trust, v->cas, v->n_cas, st);
	return rc;
}

static void refresh_trust(struct follower *f)
{
	struct status st;
	size_t totals[2] = { 0, 0 };
	objects_walk(f->objects, count_object, totals);
	size_t n = totals[0] + 1;
	/* Unpacked, an object takes at most some fixed structs more than its own bytes. */
	struct trust_view v = {
		.arena = arena_new(n * 1024 + totals[1] * 2),
		.cas = calloc(n, sizeof *v.cas),
		.removed = calloc(n, sizeof *v.removed),
	};
	v.failed = !v.arena || !v.cas || !v.removed;
	if (!v.failed)
		objects_walk(f->objects, view_object, &v);
	if (v.failed)
		status_set(&st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	if (v.failed || set_trust(daemon_trust(f->daemon), &v, &st) != STATUS_OK)
		log_error("trust: %s; what was trusted before stays in force", st.message);
	else
		f->trust_stale = false;
	arena_free(v.arena);
	free(v.cas);
	free(v.removed);
	daemon_trust_changed(f->daemon);
}

static bool has_trust_prefix(const char *key)
{
	for (size_t i = 0; i < N_TRUST_PREFIXES; i++)
		if (has_prefix(key, trust_prefixes[i]))
			return true;
	return false;
}

static void note_node(struct follower *f, const Kds__V1__Object *object)
{
	struct status st;
	struct trust *trust = daemon_trust(f->daemon);
	const char *name = object->key + strlen(NODE_PREFIX);
	if (object->deleted) {
		trust_remove_node(trust, name);
		f->nodes_less = true;
	} else if (trust_add_node(trust, name, &st) != STATUS_OK) {
		log_error("%s; it is refused", st.message);
	}
}

static void note_change(struct follower *f, const Kds__V1__Object *object)
{
	f->cache_stale = true;
	if (has_trust_prefix(object->key))
		f->trust_stale = true;
	if (f->nodes && has_prefix(object->key, NODE_PREFIX))
		note_node(f, object);
	if (f->change)
		f->change(f->arg, object);
}

static enum status_code take_object(struct follower *f, const Kds__V1__Object *object, struct status *st)
{
	bool changed;
	enum status_code rc = STATUS_OK;
	pthread_mutex_lock(&f->shared->lock);
	if (object->deleted)
		changed = objects_remove(f->objects, object->key);
	else
		rc = objects_put(f->objects, object, st, &changed);
	pthread_mutex_unlock(&f->shared->lock);
	if (rc == STATUS_OK && changed)
		note_change(f, object);
	return rc;
}

static void report_swept(void *arg, const char *key, struct slice packed)
{
	(void)packed;
	Kds__V1__Object gone = KDS__V1__OBJECT__INIT;
	gone.key = (char *)key;
	gone.deleted = true;
	note_change(arg, &gone);
}

/* The whole state was seen, at a replica or in the cache: brings the trust in step, and closes what no longer passes. */
static void settle_trust(struct follower *f)
{
	struct trust *trust = daemon_trust(f->daemon);
	if (f->nodes && !trust_nodes_known(trust)) {
		trust_set_nodes_known(trust);
		f->nodes_less = true;
	}
	if (f->trust_stale)
		refresh_trust(f);
	else if (f->nodes_less)
		daemon_trust_changed(f->daemon);
	f->nodes_less = false;
}

/* The lock is not held while change() runs, so the removed ones are told of first; others see them a little longer. */
static void sweep(struct follower *f)
{
	struct objects *objects = f->objects;
	objects_walk_unconfirmed(objects, report_swept, f);
	pthread_mutex_lock(&f->shared->lock);
	objects_sweep(objects);
	pthread_mutex_unlock(&f->shared->lock);
	f->sweep = false;
}

static void write_cache(struct follower *f)
{
	struct status st;
	if (!f->cache_file || !f->cache_stale)
		return;
	if (cache_write(f->cache_file, daemon_options_of(f->daemon)->cluster_id, f->objects, &st) != STATUS_OK)
		log_warning("cache: %s; a restart without replicas will know less", st.message);
	else
		f->cache_stale = false;
}

static void all_known(struct follower *f)
{
	struct shared *s = f->shared;
	if (f->sweep)
		sweep(f);
	settle_trust(f);
	write_cache(f);
	pthread_mutex_lock(&s->lock);
	bool news = !s->synced || f->lost;
	s->synced = true;
	s->in_step = true;
	s->revision = f->since;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	f->lost = false;
	if (news)
		log_info("configuration known revision=%" PRIu64, f->since);
	if (f->synced)
		f->synced(f->arg, f->since);
}

static enum status_code take_answer(struct follower *f, struct status *st)
{
	const ProtobufCMessage *message;
	char field[128];
	struct arena *arena = arena_new(ANSWER_BUDGET);
	if (!arena)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	struct slice packed = { f->shared->answer.data, f->shared->answer.len };
	enum status_code rc =
	    message_unpack(&kds__v1__watch_response__descriptor, packed, arena, st, field, sizeof field, &message);
	if (rc != STATUS_OK)
		goto out;
	const Kds__V1__WatchResponse *answer = (const Kds__V1__WatchResponse *)message;
	if (answer->restart && answer->revision < f->since) {
		/* It lags behind, or is cut off. To start over with it would bring back what was removed since. */
		rc = status_set(st, STATUS_UNAVAILABLE,
				"a replica knows revision %" PRIu64 ", less than %" PRIu64 " known here; if the cluster "
				"was restored from a backup, restart this daemon",
				answer->revision, f->since);
		rpc_channel_leave(f->channel); /* another may know more */
		goto out;
	}
	if (answer->restart && f->since == 0) {
		rc = status_set(st, STATUS_INTERNAL, "a replica has no state from the beginning on");
		goto out;
	}
	if (answer->restart) {
		log_info("configuration: asking for the whole state again");
		f->since = f->began = 0;
		f->sweep = true;
		objects_suspect_all(f->objects);
		goto out;
	}
	for (size_t i = 0; i < answer->n_objects && rc == STATUS_OK; i++)
		rc = take_object(f, answer->objects[i], st);
	if (rc != STATUS_OK)
		goto out;
	f->began = answer->began;
	/* A replica that lags behind has an older revision, and nothing new. */
	if (answer->revision > f->since)
		f->since = answer->revision;
	if (!answer->more)
		all_known(f);
out:
	arena_free(arena);
	return rc;
}

static void pause_for(struct shared *s, unsigned ms)
{
	uint64_t deadline = clock_monotonic_ms() + ms;
	pthread_mutex_lock(&s->lock);
	while (!s->stopping && shared_wait(s, deadline))
		;
	pthread_mutex_unlock(&s->lock);
}

/* Once each time that the replicas are lost, not at every try. */
static void report_failure(struct follower *f, const struct status *st)
{
	pthread_mutex_lock(&f->shared->lock);
	f->shared->in_step = false;
	pthread_mutex_unlock(&f->shared->lock);
	log_write(f->lost ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING, "configuration: %s; what is known stays in force",
		  st->message);
	f->lost = true;
}

static bool is_stopping(struct shared *s)
{
	pthread_mutex_lock(&s->lock);
	bool stopping = s->stopping;
	pthread_mutex_unlock(&s->lock);
	return stopping;
}

static void *run(void *arg)
{
	struct follower *f = arg;
	struct status st;
	unsigned pause_ms = 0;
	pthread_setname_np(pthread_self(), "follower");
	while (!is_stopping(f->shared)) {
		enum status_code rc = poll_once(f, &st);
		if (rc == STATUS_OK)
			rc = take_answer(f, &st);
		if (rc == STATUS_OK) {
			pause_ms = 0;
			continue;
		}
		if (is_stopping(f->shared))
			break;
		report_failure(f, &st);
		pause_ms = pause_ms == 0 ? PAUSE_MIN_MS : pause_ms * 2;
		if (pause_ms > PAUSE_MAX_MS)
			pause_ms = PAUSE_MAX_MS;
		pause_for(f->shared, pause_ms);
	}
	return NULL;
}

static void report_cached(void *arg, const char *key, struct slice packed)
{
	(void)key;
	Kds__V1__Object *object = kds__v1__object__unpack(NULL, packed.len, packed.data);
	if (!object)
		return;
	note_change(arg, object);
	kds__v1__object__free_unpacked(object, NULL);
}

static void read_cache(struct follower *f)
{
	struct status st;
	enum status_code rc = cache_read(f->cache_file, daemon_options_of(f->daemon)->cluster_id, f->objects, &st);
	if (rc == STATUS_NOT_FOUND)
		return;
	if (rc != STATUS_OK)
		log_warning("cache: %s", st.message);
	objects_walk(f->objects, report_cached, f);
	if (rc == STATUS_OK)
		settle_trust(f);
	else if (f->trust_stale)
		refresh_trust(f);
	f->cache_stale = rc != STATUS_OK;
	/* Of one that is damaged something may be missing. */
	if (rc == STATUS_OK && f->synced)
		f->synced(f->arg, 0);
}

static bool copy_prefix(struct follower *f, const char *prefix)
{
	char *copy = strdup(prefix);
	if (copy)
		f->prefixes[f->n_prefixes++] = copy;
	return copy != NULL;
}

static bool copy_prefixes(struct follower *f, const struct follower_options *o)
{
	f->prefixes = calloc(N_TRUST_PREFIXES + 1 + o->n_prefixes, sizeof *f->prefixes);
	bool whole = f->prefixes && (!o->nodes || copy_prefix(f, NODE_PREFIX));
	for (size_t i = 0; whole && i < N_TRUST_PREFIXES; i++)
		whole = copy_prefix(f, trust_prefixes[i]);
	for (size_t i = 0; whole && i < o->n_prefixes; i++)
		whole = copy_prefix(f, o->prefixes[i]);
	return whole;
}

static void follower_free(struct follower *f)
{
	for (size_t i = 0; i < f->n_prefixes; i++)
		free(f->prefixes[i]);
	free(f->prefixes);
	free(f->cache_file);
	objects_free(f->objects);
	if (f->shared) {
		pthread_mutex_lock(&f->shared->lock);
		shared_unref(f->shared);
	}
	free(f);
}

enum status_code follower_start(const struct follower_options *options, struct status *st,
				struct follower **ret_follower)
{
	const ProtobufCServiceDescriptor *config = &kds__v1__config__descriptor;
	struct follower *f = calloc(1, sizeof *f);
	if (!f)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "follow the configuration: out of memory");
	f->daemon = options->daemon;
	f->channel = options->channel;
	f->change = options->change;
	f->synced = options->synced;
	f->arg = options->arg;
	f->nodes = options->nodes;
	f->watch_method =
	    (unsigned)(protobuf_c_service_descriptor_get_method_by_name(config, "Watch") - config->methods);
	f->shared = shared_new();
	f->objects = objects_new();
	f->cache_file = options->cache_file ? strdup(options->cache_file) : NULL;
	if (!f->shared || !f->objects || !copy_prefixes(f, options) || (options->cache_file && !f->cache_file)) {
		follower_free(f);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "follow the configuration: out of memory");
	}
	if (f->cache_file)
		read_cache(f);
	/* Whatever the cache held: the first answers are the whole state, and what they lack is gone. */
	objects_suspect_all(f->objects);
	f->sweep = true;
	int rv = pthread_create(&f->thread, NULL, run, f);
	if (rv != 0) {
		follower_free(f);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "follow the configuration: %s", strerror(rv));
	}
	*ret_follower = f;
	return STATUS_OK;
}

void follower_stop(struct follower *f)
{
	if (!f)
		return;
	pthread_mutex_lock(&f->shared->lock);
	f->shared->stopping = true;
	pthread_cond_broadcast(&f->shared->changed);
	pthread_mutex_unlock(&f->shared->lock);
	pthread_join(f->thread, NULL);
	follower_free(f);
}

bool follower_wait_synced(struct follower *f, unsigned timeout_ms)
{
	struct shared *s = f->shared;
	uint64_t deadline = clock_monotonic_ms() + timeout_ms;
	pthread_mutex_lock(&s->lock);
	while (!s->synced && shared_wait(s, deadline))
		;
	bool synced = s->synced;
	pthread_mutex_unlock(&s->lock);
	return synced;
}

bool follower_in_step(struct follower *f)
{
	pthread_mutex_lock(&f->shared->lock);
	bool in_step = f->shared->in_step;
	pthread_mutex_unlock(&f->shared->lock);
	return in_step;
}

Kds__V1__Object *follower_get(struct follower *f, const char *key)
{
	pthread_mutex_lock(&f->shared->lock);
	Kds__V1__Object *object = objects_get(f->objects, key);
	pthread_mutex_unlock(&f->shared->lock);
	return object;
}

uint64_t follower_revision(struct follower *f)
{
	pthread_mutex_lock(&f->shared->lock);
	uint64_t revision = f->shared->revision;
	pthread_mutex_unlock(&f->shared->lock);
	return revision;
}

bool follower_take_setting(struct settings *s, const Kds__V1__Object *object)
{
	static const char prefix[] = "setting/";
	struct status st;
	if (!has_prefix(object->key, prefix))
		return false;
	bool there = !object->deleted && object->value_case == KDS__V1__OBJECT__VALUE_SETTING;
	if (settings_set(s, object->key + strlen(prefix), there ? object->setting->value : NULL, &st) != STATUS_OK)
		log_warning("setting: %s; this version of the daemon uses its default", st.message);
	return true;
}
