#include "services/serial/watch.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/rpc/message.h"

/* How long before its deadline a call is answered with nothing, at most. */
#define MARGIN_MS 1000
/* Different requests that one turn of the engine reads for; the rest waits for the next. */
#define GROUPS_MAX 16
/* At least so often calls are dropped whose caller has gone. */
#define SWEEP_MS 1000
/* After so many answers others get the machine for a while: thousands that are told at once, and ask again, must not
 * stand in a commit's way. They hear of it some hundredths of a second later. */
#define ANSWERS_IN_A_ROW 256
#define REST_NS 5000000

/* In the call's own memory: gone once it is answered. */
struct waiting {
	struct waiting *next;
	struct rpc_call *call;
	const Kds__V1__WatchRequest *in;
	unsigned sealed;
	uint64_t revision; /* there was nothing for it up to this one */
	uint64_t due;      /* monotonic ms */
	struct group *group;
};

/* Calls that ask the same. */
struct group {
	const Kds__V1__WatchRequest *in;
	unsigned sealed;
	struct buffer answer;
	bool any;
	bool failed;
	struct status status; /* when it failed */
};

struct watch {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool started, stopping;
	bool news; /* something for the thread to look at */
	uint64_t revision;
	uint64_t generation;      /* of the revision: 1 for what there was at the beginning */
	struct waiting *incoming; /* not taken by the thread yet */
	bool read_done;

	/* The thread's own, and the engine's while it reads. */
	struct engine *engine;
	struct waiting *unchecked; /* there may be something for them; those in `waiting` know all up to `checked` */
	struct waiting *waiting;
	uint64_t checked; /* generation */
	uint64_t next_due;
	unsigned answered; /* since the last rest */
	struct group groups[GROUPS_MAX];
	size_t n_groups;
	uint64_t read_revision;
};

enum status_code watch_new(struct status *st, struct watch **ret_watch)
{
	struct watch *w = calloc(1, sizeof *w);
	if (!w)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the watches: out of memory");
	w->generation = 1;
	pthread_mutex_init(&w->lock, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&w->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	*ret_watch = w;
	return STATUS_OK;
}

void watch_free(struct watch *w)
{
	if (!w)
		return;
	pthread_cond_destroy(&w->wake);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

void watch_changed(struct watch *w, uint64_t revision)
{
	pthread_mutex_lock(&w->lock);
	if (revision > w->revision) {
		w->revision = revision;
		w->generation++;
		w->news = true;
		pthread_cond_signal(&w->wake);
	}
	pthread_mutex_unlock(&w->lock);
}

uint64_t watch_revision(struct watch *w)
{
	pthread_mutex_lock(&w->lock);
	uint64_t revision = w->revision;
	pthread_mutex_unlock(&w->lock);
	return revision;
}

void watch_call(struct watch *w, struct rpc_call *call, const Kds__V1__WatchRequest *in, unsigned sealed)
{
	struct waiting *x = rpc_call_alloc(call, sizeof *x);
	if (!x) {
		rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED, "watch: the request is too large");
		return;
	}
	uint64_t now = clock_monotonic_ms(), deadline = rpc_call_deadline(call);
	uint64_t left = deadline > now ? deadline - now : 0;
	*x = (struct waiting){ .call = call, .in = in, .sealed = sealed };
	x->due = deadline - (left / 4 < MARGIN_MS ? left / 4 : MARGIN_MS);
	pthread_mutex_lock(&w->lock);
	x->next = w->incoming;
	w->incoming = x;
	w->news = true;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
}

static bool same_request(const Kds__V1__WatchRequest *a, const Kds__V1__WatchRequest *b)
{
	if (a->since_revision != b->since_revision || a->began != b->began || a->n_prefixes != b->n_prefixes)
		return false;
	for (size_t i = 0; i < a->n_prefixes; i++)
		if (strcmp(a->prefixes[i], b->prefixes[i]) != 0)
			return false;
	return true;
}

/* NULL: there is no room for one more. */
static struct group *group_of(struct watch *w, const struct waiting *x)
{
	for (size_t i = 0; i < w->n_groups; i++)
		if (w->groups[i].sealed == x->sealed && same_request(w->groups[i].in, x->in))
			return &w->groups[i];
	if (w->n_groups == GROUPS_MAX)
		return NULL;
	struct group *g = &w->groups[w->n_groups++];
	*g = (struct group){ .in = x->in, .sealed = x->sealed };
	return g;
}

/* On the engine's thread. */
static void read_groups(void *arg, struct state *state, const struct status *st)
{
	struct watch *w = arg;
	w->read_revision = state ? state_revision(state) : 0;
	for (size_t i = 0; i < w->n_groups; i++) {
		struct group *g = &w->groups[i];
		/* Without a state: the engine is stopping. */
		if (!state || state_changes(state, g->in, g->sealed, &g->status, &g->answer, &g->any) != STATUS_OK)
			g->failed = true;
		if (!state)
			g->status = *st;
	}
	pthread_mutex_lock(&w->lock);
	w->read_done = true;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
}

static void read_and_wait(struct watch *w)
{
	w->read_done = false;
	engine_read(w->engine, false, read_groups, w);
	pthread_mutex_lock(&w->lock);
	while (!w->read_done)
		pthread_cond_wait(&w->wake, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

/* Answers a member of a group that has something to hear: its memory is gone then. The others wait on. */
static void answer_group_member(struct watch *w, struct waiting *x)
{
	struct group *g = x->group;
	x->group = NULL;
	if (!g->failed && !g->any) {
		x->revision = w->read_revision;
		x->next = w->waiting;
		w->waiting = x;
		return;
	}
	if (g->failed)
		rpc_call_fail_status(x->call, &g->status);
	else
		rpc_call_relay(x->call, STATUS_OK, "", (struct slice){ g->answer.data, g->answer.len });
	if (++w->answered % ANSWERS_IN_A_ROW == 0)
		nanosleep(&(struct timespec){ .tv_nsec = REST_NS }, NULL);
}

/* One read for up to GROUPS_MAX different requests among the unchecked. False: nobody was left. */
static bool check_some(struct watch *w)
{
	w->n_groups = 0;
	for (struct waiting *x = w->unchecked; x; x = x->next)
		x->group = group_of(w, x);
	if (w->n_groups == 0)
		return false;
	read_and_wait(w);
	struct waiting *next = w->unchecked;
	w->unchecked = NULL;
	while (next) {
		struct waiting *x = next;
		next = x->next;
		if (x->group) {
			answer_group_member(w, x);
		} else {
			x->next = w->unchecked;
			w->unchecked = x;
		}
	}
	for (size_t i = 0; i < w->n_groups; i++)
		buffer_wipe(&w->groups[i].answer);
	return true;
}

static void answer_with_nothing(struct waiting *x)
{
	Kds__V1__WatchResponse answer = KDS__V1__WATCH_RESPONSE__INIT;
	answer.revision = x->revision > x->in->since_revision ? x->revision : x->in->since_revision;
	struct buffer packed = { 0 };
	struct status st;
	if (message_pack(&answer.base, &packed, &st) == STATUS_OK)
		rpc_call_relay(x->call, STATUS_OK, "", (struct slice){ packed.data, packed.len });
	else
		rpc_call_fail_status(x->call, &st);
	buffer_free(&packed);
}

/* Answers whose time has come, if the first of them has. Then looks for callers that have gone, too. */
static void answer_due(struct watch *w)
{
	uint64_t now = clock_monotonic_ms();
	if (now < w->next_due)
		return;
	w->next_due = now + SWEEP_MS;
	struct waiting **at = &w->waiting;
	while (*at) {
		struct waiting *x = *at;
		if (x->due > now && !rpc_call_expired(x->call)) {
			if (x->due < w->next_due)
				w->next_due = x->due;
			at = &x->next;
			continue;
		}
		*at = x->next;
		answer_with_nothing(x);
	}
}

static void move_all(struct waiting **from, struct waiting **to)
{
	while (*from) {
		struct waiting *x = *from;
		*from = x->next;
		x->next = *to;
		*to = x;
	}
}

/* With the lock held. One that asks again with what it was just told needs no look at the state. */
static void take_incoming(struct watch *w)
{
	if (w->generation != w->checked)
		move_all(&w->waiting, &w->unchecked);
	w->checked = w->generation;
	while (w->incoming) {
		struct waiting *x = w->incoming;
		w->incoming = x->next;
		bool knows_all = x->in->since_revision == w->revision;
		struct waiting **list = knows_all ? &w->waiting : &w->unchecked;
		x->revision = knows_all ? w->revision : 0;
		x->next = *list;
		*list = x;
		if (x->due < w->next_due)
			w->next_due = x->due;
	}
}

static void wait_for_news(struct watch *w)
{
	const struct timespec until = { .tv_sec = (time_t)(w->next_due / 1000),
					.tv_nsec = (long)(w->next_due % 1000) * 1000000 };
	while (!w->news && !w->stopping)
		if (pthread_cond_timedwait(&w->wake, &w->lock, &until) != 0)
			return;
}

static void *run(void *arg)
{
	struct watch *w = arg;
	pthread_mutex_lock(&w->lock);
	while (!w->stopping) {
		w->news = false;
		take_incoming(w);
		pthread_mutex_unlock(&w->lock);
		while (check_some(w))
			;
		answer_due(w);
		pthread_mutex_lock(&w->lock);
		wait_for_news(w);
	}
	move_all(&w->incoming, &w->waiting);
	pthread_mutex_unlock(&w->lock);
	while (w->waiting) {
		struct waiting *x = w->waiting;
		w->waiting = x->next;
		rpc_call_fail(x->call, STATUS_UNAVAILABLE, "this replica is stopping; ask another");
	}
	return NULL;
}

enum status_code watch_start(struct watch *w, struct engine *engine, struct status *st)
{
	w->engine = engine;
	int rv = pthread_create(&w->thread, NULL, run, w);
	if (rv != 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the watches: %s", strerror(rv));
	w->started = true;
	return STATUS_OK;
}

void watch_stop(struct watch *w)
{
	if (!w || !w->started)
		return;
	pthread_mutex_lock(&w->lock);
	w->stopping = true;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	w->started = false;
}
