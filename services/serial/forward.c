#include "services/serial/forward.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"

#define ADDRESS_MAX 300
/* One for each replica that ever led; more than a cluster has, unless replicas move from address to address. */
#define LINKS_MAX 16
/* A leader that hangs says nothing; until then another may lead. */
#define TRY_MS 3000
/* From one try to the next, while something may change that nobody tells of. */
#define RETRY_MS 20
/* So long a former leader may still answer what it has. */
#define LINGER_MS 50

struct forward_link {
	char address[ADDRESS_MAX];
	struct rpc_channel *channel;
	bool used;        /* since its other end led last */
	uint64_t left_ms; /* since when its other end does not lead; 0: it does */
};

TAILQ_HEAD(task_list, forward_task);

struct forward {
	struct engine *engine;
	struct trust *trust;
	unsigned hold_ms;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t changed;
	struct tls_credentials *credentials;
	struct forward_link links[LINKS_MAX];
	unsigned n_links;
	unsigned reuse; /* the link that a new address takes when all are taken */
	unsigned sending;         /* threads that are about to use a channel */
	struct task_list waiting; /* for a leader, or for their next try */
	bool news;                /* another leads */
	bool stopping;
};

static const char stopping_text[] = "this replica is stopping; try again with another";

/* Links */

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
	struct forward_link *link = NULL;
	for (unsigned i = 0; i < f->n_links && !link; i++)
		if (strcmp(f->links[i].address, address) == 0)
			link = &f->links[i];
	enum status_code rc = STATUS_OK;
	if (!link && f->n_links < LINKS_MAX) {
		link = &f->links[f->n_links];
		rc = new_channel(f, address, st, &link->channel);
		f->n_links += rc == STATUS_OK;
	} else if (!link) {
		link = &f->links[f->reuse++ % LINKS_MAX];
		rc = rpc_channel_set_addresses(link->channel, &address, 1, st);
	}
	if (rc != STATUS_OK)
		return rc;
	strcpy(link->address, address);
	if (!link->used)
		pthread_cond_signal(&f->changed); /* it may lead no more by now */
	link->used = true;
	link->left_ms = 0;
	*ret_channel = link->channel;
	return STATUS_OK;
}

/* What hangs at a former leader goes to the next. Under the lock; answered() runs on another thread. */
static void drop_former(struct forward *f, const char *leader, uint64_t now)
{
	for (unsigned i = 0; i < f->n_links; i++) {
		struct forward_link *link = &f->links[i];
		if (strcmp(link->address, leader) == 0)
			link->left_ms = 0;
		else if (link->left_ms == 0)
			link->left_ms = now;
		if (!link->used || link->left_ms == 0 || now < link->left_ms + LINGER_MS)
			continue;
		link->used = false;
		rpc_channel_drop(link->channel);
	}
}

/* Tasks */

static void fail(struct forward_task *t, const char *why)
{
	rpc_call_fail(t->call, STATUS_UNAVAILABLE, "%s", why);
}

/* Lets it wait for its next try, or gives up. */
static void hold(struct forward *f, struct forward_task *t, const char *why)
{
	uint64_t now = clock_monotonic_ms();
	if (t->give_up_ms == 0)
		t->give_up_ms = now + f->hold_ms;
	pthread_mutex_lock(&f->lock);
	bool stopping = f->stopping, wait = !stopping && now < t->give_up_ms && !rpc_call_expired(t->call);
	if (wait) {
		t->due_ms = now + RETRY_MS;
		if (TAILQ_EMPTY(&f->waiting))
			pthread_cond_signal(&f->changed);
		TAILQ_INSERT_TAIL(&f->waiting, t, entry);
	}
	pthread_mutex_unlock(&f->lock);
	if (stopping)
		fail(t, stopping_text);
	else if (!wait)
		fail(t, why);
}

/* May it have been done, and would it be done again? Then only its caller can decide. */
static bool may_repeat(const struct forward_task *t)
{
	return t->repeatable || rpc_call_request_id(t->call).len > 0;
}

static void answered(void *arg, const struct rpc_result *result)
{
	struct forward_task *t = arg;
	struct rpc_call *call = t->call;
	enum status_code code = result->status.code;
	bool ours = code == STATUS_DEADLINE_EXCEEDED && !result->answered && rpc_call_deadline(call) > clock_monotonic_ms();
	char why[STATUS_MESSAGE_MAX + 64];
	if (code == STATUS_OK) {
		rpc_call_relay(call, STATUS_OK, "", result->payload);
		return;
	}
	if (result->answered && code != STATUS_UNAVAILABLE) {
		const struct rpc_detail detail = { .field = result->field, .retry_after_ms = result->retry_after_ms };
		rpc_call_relay_error(call, &result->status, &detail);
		return;
	}
	if (!result->answered && code == STATUS_DEADLINE_EXCEEDED && !ours) {
		rpc_call_fail_status(call, &result->status);
		return;
	}
	/* What is wrong between two replicas is nothing that the caller did. */
	snprintf(why, sizeof why, result->answered ? "%s" : "the leader cannot be asked (%s); try again", result->status.message);
	if (may_repeat(t))
		hold(t->forward, t, why);
	else
		fail(t, why);
}

static void send_to(struct forward *f, struct forward_task *t, const char *address)
{
	uint64_t now = clock_monotonic_ms(), deadline = rpc_call_deadline(t->call);
	struct status st;
	struct rpc_channel *channel = NULL;
	if (deadline <= now) {
		rpc_call_fail(t->call, STATUS_DEADLINE_EXCEEDED, "%s: no time is left to ask the leader",
			      rpc_call_method(t->call));
		return;
	}
	pthread_mutex_lock(&f->lock);
	enum status_code rc = f->stopping ? status_set(&st, STATUS_UNAVAILABLE, "%s", stopping_text)
					  : channel_to(f, address, &st, &channel);
	f->sending += rc == STATUS_OK;
	pthread_mutex_unlock(&f->lock);
	if (rc != STATUS_OK) {
		hold(f, t, st.message);
		return;
	}
	const struct rpc_call_options options = {
		.done = answered,
		.arg = t,
		.timeout_ms = deadline - now < TRY_MS ? (unsigned)(deadline - now) : TRY_MS,
		.request_id = rpc_call_request_id(t->call),
		.trace_id = rpc_call_trace_id(t->call),
		.on_behalf_of = rpc_call_identity(t->call),
		.no_retry = true,
	};
	rpc_channel_call_raw(channel, rpc_call_method(t->call), t->payload, &options); /* the task may be gone then */
	pthread_mutex_lock(&f->lock);
	if (--f->sending == 0 && f->stopping)
		pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

static void send_caller(struct forward_task *t, const char *address)
{
	rpc_call_redirect(t->call, address, "%s: an administrator asks the leader itself, which is at %s",
			  rpc_call_method(t->call), address);
}

/* To whoever leads, or let it wait. */
static void dispatch(struct forward *f, struct forward_task *t)
{
	char address[ADDRESS_MAX];
	uint64_t leader;
	if (engine_is_leader(f->engine)) {
		t->here(t->arg);
	} else if (engine_leader(f->engine, &leader, address, sizeof address) && address[0] != '\0') {
		if (rpc_call_may_pass_on(t->call))
			send_to(f, t, address);
		else
			send_caller(t, address);
	} else if (engine_hears_majority(f->engine)) {
		hold(f, t, "no leader is known; try again");
	} else {
		fail(t, "no leader is known: a majority of the replicas must run and reach each other; try again");
	}
}

void forward_call(struct forward *f, struct forward_task *t)
{
	t->forward = f;
	if (rpc_call_forwarded(t->call))
		fail(t, "the leader has just changed; try again");
	else if (t->give_up_ms != 0 || engine_is_leader(f->engine)) /* it was here already, in vain */
		hold(f, t, "the leader takes nothing now; try again");
	else
		dispatch(f, t);
}

/* The thread */

/* Takes those whose turn it is: all, when another leads. Under the lock. */
static void take_due(struct forward *f, bool all, uint64_t now, struct task_list *due)
{
	for (struct forward_task *t = TAILQ_FIRST(&f->waiting), *next; t; t = next) {
		next = TAILQ_NEXT(t, entry);
		if (!all && now < t->due_ms)
			continue;
		TAILQ_REMOVE(&f->waiting, t, entry);
		TAILQ_INSERT_TAIL(due, t, entry);
	}
}

static void wait_for_work(struct forward *f)
{
	bool soon = !TAILQ_EMPTY(&f->waiting);
	for (unsigned i = 0; i < f->n_links; i++)
		soon = soon || (f->links[i].used && f->links[i].left_ms != 0);
	if (!soon) {
		pthread_cond_wait(&f->changed, &f->lock);
		return;
	}
	uint64_t when = clock_monotonic_ms() + RETRY_MS;
	const struct timespec t = { (time_t)(when / 1000), (long)(when % 1000) * 1000000 };
	pthread_cond_timedwait(&f->changed, &f->lock, &t);
}

static void *run(void *arg)
{
	struct forward *f = arg;
	pthread_mutex_lock(&f->lock);
	while (!f->stopping) {
		struct task_list due = TAILQ_HEAD_INITIALIZER(due);
		char leader[ADDRESS_MAX] = "";
		uint64_t id, now = clock_monotonic_ms();
		bool news = f->news;
		f->news = false;
		pthread_mutex_unlock(&f->lock);
		(void)engine_leader(f->engine, &id, leader, sizeof leader);
		pthread_mutex_lock(&f->lock);
		drop_former(f, leader, now);
		take_due(f, news, now, &due);
		pthread_mutex_unlock(&f->lock);
		for (struct forward_task *t = TAILQ_FIRST(&due), *next; t; t = next) {
			next = TAILQ_NEXT(t, entry);
			dispatch(f, t);
		}
		pthread_mutex_lock(&f->lock);
		if (!f->stopping && !f->news)
			wait_for_work(f);
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

void forward_leader_changed(struct forward *f)
{
	pthread_mutex_lock(&f->lock);
	f->news = true;
	pthread_cond_signal(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

/* Life */

enum status_code forward_new(struct tls_credentials *credentials, struct trust *trust, unsigned hold_ms, struct status *st,
			     struct forward **ret_forward)
{
	struct forward *f = calloc(1, sizeof *f);
	if (!f)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start forwarding: out of memory");
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&f->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&f->lock, NULL);
	TAILQ_INIT(&f->waiting);
	f->hold_ms = hold_ms;
	f->trust = trust;
	f->credentials = tls_credentials_ref(credentials);
	*ret_forward = f;
	return STATUS_OK;
}

enum status_code forward_start(struct forward *f, struct engine *engine, struct status *st)
{
	f->engine = engine;
	if (pthread_create(&f->thread, NULL, run, f) != 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start forwarding: no thread");
	f->started = true;
	return STATUS_OK;
}

void forward_stop(struct forward *f)
{
	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	f->stopping = true;
	pthread_cond_signal(&f->changed);
	pthread_mutex_unlock(&f->lock);
	if (f->started)
		pthread_join(f->thread, NULL);
	f->started = false;
	/* The engine's thread still runs, and gives back what it cannot do. */
	pthread_mutex_lock(&f->lock);
	while (f->sending > 0)
		pthread_cond_wait(&f->changed, &f->lock);
	pthread_mutex_unlock(&f->lock);
	struct forward_task *t;
	while ((t = TAILQ_FIRST(&f->waiting))) {
		TAILQ_REMOVE(&f->waiting, t, entry);
		fail(t, stopping_text);
	}
	while (f->n_links > 0)
		rpc_channel_free(f->links[--f->n_links].channel); /* answered() sees CANCELLED */
}

void forward_free(struct forward *f)
{
	if (!f)
		return;
	forward_stop(f);
	tls_credentials_unref(f->credentials);
	pthread_cond_destroy(&f->changed);
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
