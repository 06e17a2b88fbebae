#include "services/ca/serials.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/base/log.h"
#include "common/base/secret.h"
#include "serial.pb-c.h"
#include "services/ca/failure.h"

#define FETCH_TIMEOUT_MS 700 /* short, so that who waits can say UNAVAILABLE in good time */
#define FETCH_ID_SIZE 16

/* What is left of a block that began with `first`: [next, last]; empty when next > last. */
struct range {
	uint64_t first, next, last;
};

struct serials {
	struct rpc_channel *channel;
	unsigned block_size;
	pthread_mutex_t lock;
	pthread_cond_t idle;       /* no call is under way */
	struct range now, then;    /* `then` is the block after `now` */
	uint64_t min_serial;
	bool fetching;             /* from the decision to fetch until its callback is through */
	bool stopping;
	bool failing;              /* the newest fetch brought nothing */
	uint8_t fetch_id[FETCH_ID_SIZE]; /* the fetching one's alone; so is fetch_id_used */
	bool fetch_id_used;        /* its answer came: the next call needs another */
	struct turns waiting;
};

static bool range_empty(const struct range *r)
{
	return r->next > r->last;
}

static void range_clear(struct range *r)
{
	*r = (struct range){ .next = 1, .last = 0 };
}

/* The lock is held. */
static bool take(struct serials *s, uint64_t *ret_serial)
{
	if (range_empty(&s->now)) {
		s->now = s->then;
		range_clear(&s->then);
	}
	if (range_empty(&s->now))
		return false;
	*ret_serial = s->now.next++;
	return true;
}

/* The lock is held. Is it time for the next block? Then it is the caller who must call fetch(). */
static bool begin_fetch(struct serials *s)
{
	bool low = range_empty(&s->now) || s->now.last - s->now.next < s->block_size / 2;
	if (s->fetching || s->stopping || !low || !range_empty(&s->then))
		return false;
	s->fetching = true;
	return true;
}

static void fetched(void *arg, const struct rpc_result *result);

/* Called without the lock. */
static void fetch(struct serials *s)
{
	struct status st;
	if (s->fetch_id_used && secret_random(s->fetch_id, sizeof s->fetch_id, &st) != STATUS_OK) {
		fetched(s, &(struct rpc_result){ .status = st });
		return;
	}
	s->fetch_id_used = false;
	Kds__V1__AllocateRequest request = KDS__V1__ALLOCATE_REQUEST__INIT;
	request.count = s->block_size;
	struct rpc_call_options options = {
		.done = fetched,
		.arg = s,
		.timeout_ms = FETCH_TIMEOUT_MS,
		.request_id = { s->fetch_id, sizeof s->fetch_id },
	};
	ProtobufCService *serial = rpc_channel_service(s->channel, &kds__v1__serial__descriptor);
	kds__v1__serial__allocate(serial, &request, RPC_CLOSURE(Kds__V1__AllocateResponse), &options);
}

/* The lock is held. */
static void add_block(struct serials *s, const Kds__V1__AllocateResponse *block)
{
	struct range r = { .first = block->first, .next = block->first, .last = block->last };
	if (r.next < s->min_serial)
		r.next = s->min_serial;
	if (range_empty(&s->now))
		s->now = r;
	else
		s->then = r;
	log_debug("serials from=%" PRIu64 " to=%" PRIu64, block->first, block->last);
}

/* The lock is held: takes out those who can be served, or everyone after a failure. */
static struct serials_waiter *take_waiters(struct serials *s, bool failed)
{
	struct serials_waiter *first = NULL, **end = &first;
	uint64_t serial = 0;
	while (s->waiting.n > 0 && (failed || take(s, &serial))) {
		struct turns_entry *e = turns_take(&s->waiting);
		struct serials_waiter *w = (struct serials_waiter *)(void *)((char *)e - offsetof(struct serials_waiter, turn));
		w->serial = serial;
		w->next = NULL;
		*end = w;
		end = &w->next;
	}
	return first;
}

static void tell(struct serials_waiter *w, const struct status *st)
{
	while (w) {
		struct serials_waiter *next = w->next; /* done() may free it, or wait again with it */
		w->done(w, st, w->serial);
		w = next;
	}
}

/* OK when `result` holds a block; else what those who wait are told. */
static enum status_code read_result(const struct rpc_result *result, struct status *st)
{
	const Kds__V1__AllocateResponse *block = (const Kds__V1__AllocateResponse *)result->message;
	if (result->status.code != STATUS_OK)
		return failure_of_call("no serial number", &result->status, st);
	if (block->first > 0 && block->first <= block->last && block->last <= INT64_MAX)
		return st->code = STATUS_OK;
	return status_set(st, STATUS_INTERNAL, "no serial number: kds-serial answered with no block");
}

static void fetched(void *arg, const struct rpc_result *result)
{
	struct serials *s = arg;
	struct status st;
	bool failed = read_result(result, &st) != STATUS_OK;
	pthread_mutex_lock(&s->lock);
	if (failed)
		log_write(s->failing ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING, "%s", st.message);
	s->failing = failed; /* said once, not with each try */
	/* A block whose answer was lost on the way is not lost for us: the same id gets the same block. */
	s->fetch_id_used = st.code != STATUS_UNAVAILABLE;
	if (!failed)
		add_block(s, (const Kds__V1__AllocateResponse *)result->message);
	struct serials_waiter *served = take_waiters(s, failed);
	pthread_mutex_unlock(&s->lock);
	tell(served, &st);

	/* Not before they were told: once `fetching` is false, serials_stop() may free everything. */
	pthread_mutex_lock(&s->lock);
	s->fetching = false;
	bool again = (!failed || s->waiting.n > 0) && begin_fetch(s);
	if (!s->fetching)
		pthread_cond_broadcast(&s->idle);
	pthread_mutex_unlock(&s->lock);
	if (again)
		fetch(s);
}

enum status_code serials_start(struct rpc_channel *channel, unsigned block_size, struct status *st,
			       struct serials **ret_serials)
{
	struct serials *s = calloc(1, sizeof *s);
	if (!s)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "serial numbers: out of memory");
	s->channel = channel;
	s->block_size = block_size;
	s->fetch_id_used = true;
	turns_init(&s->waiting);
	range_clear(&s->now);
	range_clear(&s->then);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->idle, NULL);
	s->fetching = true;
	fetch(s);
	*ret_serials = s;
	return STATUS_OK;
}

void serials_stop(struct serials *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stopping = true;
	while (s->fetching)
		pthread_cond_wait(&s->idle, &s->lock);
	pthread_mutex_unlock(&s->lock);
	pthread_cond_destroy(&s->idle);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

bool serials_take(struct serials *s, struct serials_waiter *w, uint64_t *ret_serial)
{
	pthread_mutex_lock(&s->lock);
	/* Those who wait were here first. */
	bool taken = s->waiting.n == 0 && take(s, ret_serial);
	if (!taken)
		turns_put(&s->waiting, &w->turn);
	bool due = begin_fetch(s);
	pthread_mutex_unlock(&s->lock);
	if (due)
		fetch(s);
	return taken;
}

static void raise(struct range *r, uint64_t min_serial)
{
	if (r->next < min_serial)
		r->next = min_serial;
}

void serials_set_min(struct serials *s, uint64_t min_serial)
{
	pthread_mutex_lock(&s->lock);
	if (min_serial > s->min_serial)
		s->min_serial = min_serial;
	raise(&s->now, min_serial);
	raise(&s->then, min_serial);
	pthread_mutex_unlock(&s->lock);
}

void serials_drop(struct serials *s, uint64_t serial)
{
	pthread_mutex_lock(&s->lock);
	if (range_empty(&s->now)) {
		s->now = s->then;
		range_clear(&s->then);
	}
	/* What closed its block closed the one that was fetched ahead of need as well, or may have. */
	if (serial >= s->now.first) {
		range_clear(&s->now);
		range_clear(&s->then);
	}
	pthread_mutex_unlock(&s->lock);
}
