#include "services/ca/keeper.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/log.h"

#define KEY_PREFIX "ca/"

/* A CA of the configuration, ours or another. */
struct known {
	struct known *next;
	char *name;
	struct buffer certificate;
	bool signing;
};

struct keeper {
	char *name, *key;
	const struct seal *seal;
	struct follower *follower; /* the thread's */
	pthread_t thread;
	bool started;

	pthread_mutex_t lock;
	pthread_cond_t wake;       /* the thread */
	pthread_cond_t changed;    /* something is known now; on CLOCK_MONOTONIC */
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
	pthread_cond_init(&k->wake, NULL);
	pthread_cond_init(&k->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

enum status_code keeper_new(const char *authority, const struct seal *seal, struct status *st,
			    struct keeper **ret_keeper)
{
	struct keeper *k = calloc(1, sizeof *k);
	if (!k)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "CA: out of memory");
	init_lock(k);
	k->name = strdup(authority);
	if (asprintf(&k->key, KEY_PREFIX "%s", authority) < 0)
		k->key = NULL;
	if (!k->name || !k->key) {
		keeper_free(k);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "CA: out of memory");
	}
	k->seal = seal;
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
	pthread_cond_destroy(&k->changed);
	pthread_mutex_destroy(&k->lock);
	free(k->name);
	free(k->key);
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
	pthread_cond_broadcast(&k->changed);
	pthread_mutex_unlock(&k->lock);
	authority_unref(former);
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

static void refresh(struct keeper *k)
{
	struct status st;
	Kds__V1__Object *object = follower_get(k->follower, k->key);
	if (object && object->value_case == KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY) {
		open_authority(k, object->certificate_authority);
	} else {
		status_set(&st, STATUS_FAILED_PRECONDITION,
			   "the cluster has no CA '%s' to sign with; as an administrator run: kds-cli ca create %s", k->name,
			   k->name);
		log_warning("%s", st.message);
		set_authority(k, NULL, &st);
	}
	kds__v1__object__free_unpacked(object, NULL);
}

static void *run(void *arg)
{
	struct keeper *k = arg;
	pthread_setname_np(pthread_self(), "keeper");
	pthread_mutex_lock(&k->lock);
	for (;;) {
		while (!k->stopping && !(k->synced && k->stale))
			pthread_cond_wait(&k->wake, &k->lock);
		if (k->stopping)
			break;
		k->stale = false;
		pthread_mutex_unlock(&k->lock);
		refresh(k);
		pthread_mutex_lock(&k->lock);
	}
	pthread_mutex_unlock(&k->lock);
	return NULL;
}

enum status_code keeper_start(struct keeper *k, struct follower *follower, struct status *st)
{
	k->follower = follower;
	pthread_mutex_lock(&k->lock); /* the follower tells already */
	k->stale = true;
	pthread_mutex_unlock(&k->lock);
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
	pthread_cond_broadcast(&k->changed);
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
	pthread_cond_broadcast(&k->changed);
	pthread_mutex_unlock(&k->lock);
}

void keeper_synced(struct keeper *k)
{
	pthread_mutex_lock(&k->lock);
	k->synced = true;
	pthread_cond_signal(&k->wake);
	pthread_mutex_unlock(&k->lock);
}

/* The lock is held. */
static bool is_known(const struct keeper *k, const char *name)
{
	if (strcmp(name, k->name) == 0)
		return k->authority;
	const struct known *c = k->known;
	while (c && strcmp(c->name, name) != 0)
		c = c->next;
	return c;
}

void keeper_wait(struct keeper *k, const char *name, uint64_t until_ms)
{
	const struct timespec t = { .tv_sec = (time_t)(until_ms / 1000), .tv_nsec = (long)(until_ms % 1000) * 1000000 };
	pthread_mutex_lock(&k->lock);
	while (!k->stopping && !is_known(k, name)) {
		if (pthread_cond_timedwait(&k->changed, &k->lock, &t) == ETIMEDOUT)
			break;
	}
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
