#include "services/ca/recorder.h"

#include <pthread.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/log.h"

#define CALLS_MAX 8
#define BATCH_MIN 16   /* while other calls are under way, fewer than this wait for more */
#define BATCH_MAX 256
#define TIMEOUT_MAX_MS 2000
#define TIMEOUT_MIN_MS 10

/* One Serial.Record under way. */
struct batch {
	struct recorder *recorder;
	struct batch *next; /* free ones */
	size_t n;
	struct recorder_entry *entries[BATCH_MAX];
	Kds__V1__IssuedCertificate *certificates[BATCH_MAX];
};

struct recorder {
	struct rpc_channel *channel;
	pthread_mutex_t lock;
	pthread_cond_t idle;   /* no call is under way */
	struct recorder_entry *queue, **last;
	size_t queued;
	unsigned calls;
	bool healthy, hurry;
	struct batch *spare;
	struct batch batches[CALLS_MAX];
};

enum status_code recorder_new(struct rpc_channel *channel, struct status *st, struct recorder **ret_recorder)
{
	struct recorder *r = calloc(1, sizeof *r);
	if (!r)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "recorder: out of memory");
	r->channel = channel;
	r->last = &r->queue;
	r->healthy = true;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->idle, NULL);
	for (size_t i = 0; i < CALLS_MAX; i++) {
		r->batches[i].recorder = r;
		r->batches[i].next = r->spare;
		r->spare = &r->batches[i];
	}
	*ret_recorder = r;
	return STATUS_OK;
}

void recorder_free(struct recorder *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	while (r->calls > 0)
		pthread_cond_wait(&r->idle, &r->lock);
	pthread_mutex_unlock(&r->lock);
	pthread_cond_destroy(&r->idle);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

/* The lock is held. */
static void enqueue(struct recorder *r, struct recorder_entry *e)
{
	e->next = NULL;
	*r->last = e;
	r->last = &e->next;
	r->queued++;
}

/*
 * The lock is held: what should go out now, or NULL. One alone goes at once; while calls are under way it is worth a
 * moment's wait to go together, as each costs the replicators a message and this process an answer.
 */
static struct batch *next_batch(struct recorder *r)
{
	if (r->queued == 0 || r->calls == CALLS_MAX || (r->calls > 0 && r->queued < BATCH_MIN))
		return NULL;
	struct batch *b = r->spare;
	r->spare = b->next;
	r->calls++;
	for (b->n = 0; b->n < BATCH_MAX && r->queue; b->n++) {
		struct recorder_entry *e = r->queue;
		r->queue = e->next;
		b->entries[b->n] = e;
		b->certificates[b->n] = &e->certificate;
	}
	if (!r->queue)
		r->last = &r->queue;
	r->queued -= b->n;
	return b;
}

/* As long as the most pressing one can wait; the others try again with the same record, which is no second one. */
static unsigned timeout_of(const struct batch *b)
{
	uint64_t now = clock_monotonic_ms(), until = now + TIMEOUT_MAX_MS;
	for (size_t i = 0; i < b->n; i++) {
		if (b->entries[i]->give_up_ms < until)
			until = b->entries[i]->give_up_ms;
	}
	return until > now + TIMEOUT_MIN_MS ? (unsigned)(until - now) : TIMEOUT_MIN_MS;
}

static void answered(void *arg, const struct rpc_result *result);

static void send_batch(struct batch *b)
{
	Kds__V1__RecordRequest request = KDS__V1__RECORD_REQUEST__INIT;
	request.n_certificates = b->n;
	request.certificates = b->certificates;
	struct rpc_call_options options = { .done = answered, .arg = b, .timeout_ms = timeout_of(b) };
	ProtobufCService *serial = rpc_channel_service(b->recorder->channel, &kds__v1__serial__descriptor);
	kds__v1__serial__record(serial, &request, RPC_CLOSURE(Kds__V1__RecordResponse), &options);
}

void recorder_submit(struct recorder *r, struct recorder_entry *e)
{
	pthread_mutex_lock(&r->lock);
	enqueue(r, e);
	struct batch *b = next_batch(r);
	pthread_mutex_unlock(&r->lock);
	if (b)
		send_batch(b);
}

/* What became of entry i of a call that was answered. */
static void read_verdict(const Kds__V1__RecordResponse *answer, size_t i, struct status *ret_verdict)
{
	const Kds__V1__RecordResult *result = i < answer->n_results ? answer->results[i] : NULL;
	if (!result)
		status_set(ret_verdict, STATUS_INTERNAL, "record: kds-serial answered for fewer certificates than were sent");
	else if (result->code != STATUS_OK)
		status_set(ret_verdict, STATUS_ABORTED, "%s", result->message);
	else
		status_set(ret_verdict, STATUS_OK, "%s", "");
}

/* What became of every entry of a call that failed. */
static void read_failure(const struct status *failure, struct status *ret_verdict)
{
	switch (failure->code) {
	case STATUS_UNAVAILABLE:
	case STATUS_DEADLINE_EXCEEDED:
	case STATUS_CANCELLED:
		status_set(ret_verdict, STATUS_UNAVAILABLE,
			   "record: no quorum of kds-serial answered in time; see kds-cli cluster view");
		break;
	case STATUS_RESOURCE_EXHAUSTED:
		status_set(ret_verdict, STATUS_RESOURCE_EXHAUSTED, "record: %s", failure->message);
		break;
	default:
		status_set(ret_verdict, STATUS_FAILED_PRECONDITION, "record: kds-serial refuses this kds-ca: %s",
			   failure->message);
	}
}

/* Puts the entry back into the queue when it still has the time for another try. */
static bool try_again(struct recorder *r, struct recorder_entry *e, const struct status *verdict)
{
	if (verdict->code != STATUS_UNAVAILABLE || clock_monotonic_ms() + TIMEOUT_MIN_MS >= e->give_up_ms)
		return false;
	pthread_mutex_lock(&r->lock);
	bool more = !r->hurry;
	if (more)
		enqueue(r, e);
	pthread_mutex_unlock(&r->lock);
	return more;
}

static void deliver(struct batch *b, const struct rpc_result *result)
{
	struct recorder *r = b->recorder;
	const Kds__V1__RecordResponse *answer = (const Kds__V1__RecordResponse *)result->message;
	bool failed = result->status.code != STATUS_OK;
	struct status verdict;
	if (failed)
		read_failure(&result->status, &verdict);
	for (size_t i = 0; i < b->n; i++) {
		struct recorder_entry *e = b->entries[i];
		if (!failed) {
			read_verdict(answer, i, &verdict);
			e->revision = answer->revision;
		}
		if (!try_again(r, e, &verdict))
			e->done(e, &verdict);
	}
}

/* The lock is held. Said when it changes, not with each call. */
static void note_health(struct recorder *r, const struct status *st)
{
	bool healthy = st->code == STATUS_OK;
	if (r->healthy && !healthy)
		log_warning("no certificate can be recorded: %s", st->message);
	else if (!r->healthy && healthy)
		log_info("certificates are recorded again");
	r->healthy = healthy;
}

static void answered(void *arg, const struct rpc_result *result)
{
	struct batch *b = arg;
	struct recorder *r = b->recorder;
	/* Whoever is told that it works, or does not, finds it so when he asks. */
	pthread_mutex_lock(&r->lock);
	note_health(r, &result->status);
	pthread_mutex_unlock(&r->lock);
	deliver(b, result);

	pthread_mutex_lock(&r->lock);
	b->next = r->spare;
	r->spare = b;
	r->calls--;
	struct batch *next = next_batch(r);
	if (r->calls == 0)
		pthread_cond_broadcast(&r->idle);
	pthread_mutex_unlock(&r->lock);
	if (next)
		send_batch(next);
}

void recorder_hurry(struct recorder *r)
{
	pthread_mutex_lock(&r->lock);
	r->hurry = true;
	pthread_mutex_unlock(&r->lock);
}

bool recorder_healthy(struct recorder *r)
{
	pthread_mutex_lock(&r->lock);
	bool healthy = r->healthy;
	pthread_mutex_unlock(&r->lock);
	return healthy;
}
