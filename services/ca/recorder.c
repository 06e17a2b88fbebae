#include "services/ca/recorder.h"

#include <pthread.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/ca/failure.h"

#define CALLS_MAX 8
#define BATCH_MIN 16   /* while other calls are under way, fewer than this wait for more */
#define BATCH_MAX 256
#define LATE_MS 500    /* so long behind the time to give up nobody waits for it any more */

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
	struct turns queue;
	unsigned calls;
	unsigned telling;      /* threads that tell entries they are late */
	bool hurry;
	struct status health;  /* OK, or the newest call's failure */
	struct batch *spare;
	struct batch batches[CALLS_MAX];
};

enum status_code recorder_new(struct rpc_channel *channel, struct status *st, struct recorder **ret_recorder)
{
	struct recorder *r = calloc(1, sizeof *r);
	if (!r)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "recorder: out of memory");
	r->channel = channel;
	turns_init(&r->queue);
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
	while (r->calls > 0 || r->telling > 0)
		pthread_cond_wait(&r->idle, &r->lock);
	pthread_mutex_unlock(&r->lock);
	pthread_cond_destroy(&r->idle);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static struct recorder_entry *entry_of(struct turns_entry *turn)
{
	return (struct recorder_entry *)(void *)((char *)turn - offsetof(struct recorder_entry, turn));
}

/*
 * The lock is held: what should go out now, or NULL. One alone goes at once; while calls are under way it is worth a
 * moment's wait to go together, as each costs the replicators a message and this process an answer. Those for whom it is too
 * late are not sent, or a queue that grew without a quorum would be sent for callers who have left: they go to `late`.
 */
static struct batch *next_batch(struct recorder *r, struct turns *late)
{
	if (r->queue.n == 0 || r->calls == CALLS_MAX || (r->calls > 0 && r->queue.n < BATCH_MIN))
		return NULL;
	struct batch *b = r->spare;
	uint64_t now = clock_monotonic_ms();
	for (b->n = 0; b->n < BATCH_MAX && r->queue.n > 0;) {
		struct recorder_entry *e = entry_of(turns_take(&r->queue));
		if (now > LATE_MS && now - LATE_MS > e->give_up_ms) {
			turns_put(late, &e->turn);
			continue;
		}
		b->entries[b->n] = e;
		b->certificates[b->n] = &e->certificate;
		b->n++;
	}
	r->telling += late->n > 0;
	if (b->n == 0)
		return NULL;
	r->spare = b->next;
	r->calls++;
	return b;
}

/* The lock is held. */
static void wake_if_idle(struct recorder *r)
{
	if (r->calls == 0 && r->telling == 0)
		pthread_cond_broadcast(&r->idle);
}

static void answered(void *arg, const struct rpc_result *result);

static void send_batch(struct batch *b)
{
	Kds__V1__RecordRequest request = KDS__V1__RECORD_REQUEST__INIT;
	request.n_certificates = b->n;
	request.certificates = b->certificates;
	struct rpc_call_options options = { .done = answered, .arg = b, .timeout_ms = RECORDER_CALL_MS };
	ProtobufCService *serial = rpc_channel_service(b->recorder->channel, &kds__v1__serial__descriptor);
	kds__v1__serial__record(serial, &request, RPC_CLOSURE(Kds__V1__RecordResponse), &options);
}

static void tell_late(struct recorder *r, struct turns *late)
{
	const struct status timeout = { .code = STATUS_DEADLINE_EXCEEDED };
	struct status verdict;
	if (late->n == 0)
		return;
	(void)failure_of_call("record", &timeout, &verdict);
	for (struct turns_entry *turn; (turn = turns_take(late));) {
		struct recorder_entry *e = entry_of(turn);
		e->done(e, &verdict);
	}
	pthread_mutex_lock(&r->lock);
	r->telling--;
	wake_if_idle(r);
	pthread_mutex_unlock(&r->lock);
}

void recorder_submit(struct recorder *r, struct recorder_entry *e)
{
	struct turns late;
	turns_init(&late);
	pthread_mutex_lock(&r->lock);
	turns_put(&r->queue, &e->turn);
	struct batch *b = next_batch(r, &late);
	pthread_mutex_unlock(&r->lock);
	if (b)
		send_batch(b);
	tell_late(r, &late);
}

/* What became of entry i of a call that was answered. */
static void read_verdict(const Kds__V1__RecordResponse *answer, size_t i, struct recorder_entry *e,
			 struct status *ret_verdict)
{
	const Kds__V1__RecordResult *result = i < answer->n_results ? answer->results[i] : NULL;
	e->revision = answer->revision;
	if (!result) {
		status_set(ret_verdict, STATUS_INTERNAL, "record: kds-serial answered for fewer certificates than were sent");
	} else if (result->code != STATUS_OK) {
		e->refusal = result->refusal;
		e->known = result->known;
		status_set(ret_verdict, STATUS_ABORTED, "%s", result->message);
	} else {
		status_set(ret_verdict, STATUS_OK, "%s", "");
	}
}

/* Puts the entry back into the queue when it still has the time for another try. The same record is no second one. */
static bool try_again(struct recorder *r, struct recorder_entry *e, const struct status *verdict)
{
	if (verdict->code != STATUS_UNAVAILABLE || clock_monotonic_ms() + RECORDER_CALL_MS >= e->give_up_ms)
		return false;
	pthread_mutex_lock(&r->lock);
	bool more = !r->hurry;
	if (more)
		turns_put(&r->queue, &e->turn);
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
		(void)failure_of_call("record", &result->status, &verdict);
	for (size_t i = 0; i < b->n; i++) {
		struct recorder_entry *e = b->entries[i];
		if (!failed)
			read_verdict(answer, i, e, &verdict);
		if (!try_again(r, e, &verdict))
			e->done(e, &verdict);
	}
}

/* The lock is held. Said when it changes, not with each call. */
static void note_health(struct recorder *r, const struct status *st)
{
	bool was_healthy = r->health.code == STATUS_OK;
	if (st->code == STATUS_OK || st->code == STATUS_RESOURCE_EXHAUSTED)
		r->health.code = STATUS_OK;
	else
		(void)failure_of_call("record", st, &r->health);
	bool healthy = r->health.code == STATUS_OK;
	if (was_healthy && !healthy)
		log_warning("no certificate can be recorded: %s", st->message);
	else if (!was_healthy && healthy)
		log_info("certificates are recorded again");
}

static void answered(void *arg, const struct rpc_result *result)
{
	struct batch *b = arg;
	struct recorder *r = b->recorder;
	struct turns late;
	turns_init(&late);
	/* Whoever is told that it works, or does not, finds it so when he asks. */
	pthread_mutex_lock(&r->lock);
	note_health(r, &result->status);
	pthread_mutex_unlock(&r->lock);
	deliver(b, result);

	pthread_mutex_lock(&r->lock);
	b->next = r->spare;
	r->spare = b;
	r->calls--;
	struct batch *next = next_batch(r, &late);
	wake_if_idle(r);
	pthread_mutex_unlock(&r->lock);
	if (next)
		send_batch(next);
	tell_late(r, &late);
}

void recorder_hurry(struct recorder *r)
{
	pthread_mutex_lock(&r->lock);
	r->hurry = true;
	pthread_mutex_unlock(&r->lock);
}

enum status_code recorder_health(struct recorder *r, struct status *st)
{
	pthread_mutex_lock(&r->lock);
	enum status_code rc = r->health.code;
	if (rc != STATUS_OK)
		*st = r->health;
	pthread_mutex_unlock(&r->lock);
	return rc;
}
