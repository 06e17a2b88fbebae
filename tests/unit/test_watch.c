// links: service_serial
/*
 * Config.Watch's long polls, between an engine and calls of the test's own: they take the place of engine.c and of
 * common/rpc's call.c when this program is linked.
 */
#include "tests/support/state_fixture.h"

#include <pthread.h>
#include <stdarg.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "services/serial/watch.h"

/* The engine: one lock around the state stands for its thread. */
struct engine {
	pthread_mutex_t lock;
	struct fixture replica;
	unsigned reads;
	bool stopping;
};

struct rpc_call {
	Kds__V1__WatchRequest in;
	char *prefix;
	uint64_t deadline;
	pthread_mutex_t lock;
	pthread_cond_t answered;
	unsigned answers;
	bool gone;
	struct status status;
	Kds__V1__WatchResponse *out;
	void *memory;
};

void engine_read(struct engine *e, bool linearizable, engine_read_fn read, void *arg)
{
	assert_false(linearizable);
	struct status st;
	status_set(&st, STATUS_UNAVAILABLE, "stopping");
	pthread_mutex_lock(&e->lock);
	e->reads++;
	read(arg, e->stopping ? NULL : e->replica.state, &st);
	pthread_mutex_unlock(&e->lock);
}

static void answer(struct rpc_call *call, enum status_code code, struct slice payload)
{
	pthread_mutex_lock(&call->lock);
	call->answers++;
	call->status.code = code;
	if (code == STATUS_OK)
		call->out = kds__v1__watch_response__unpack(NULL, payload.len, payload.data);
	pthread_cond_signal(&call->answered);
	pthread_mutex_unlock(&call->lock);
}

void rpc_call_relay(struct rpc_call *call, enum status_code code, const char *message, struct slice payload)
{
	(void)message;
	answer(call, code, payload);
}

void rpc_call_fail(struct rpc_call *call, enum status_code code, const char *format, ...)
{
	(void)format;
	answer(call, code, (struct slice){ 0 });
}

void rpc_call_fail_status(struct rpc_call *call, const struct status *st)
{
	answer(call, st->code, (struct slice){ 0 });
}

uint64_t rpc_call_deadline(const struct rpc_call *call)
{
	return call->deadline;
}

bool rpc_call_expired(const struct rpc_call *call)
{
	struct rpc_call *c = (struct rpc_call *)call;
	pthread_mutex_lock(&c->lock);
	bool gone = c->gone;
	pthread_mutex_unlock(&c->lock);
	return gone;
}

void *rpc_call_alloc(struct rpc_call *call, size_t size)
{
	call->memory = malloc(size);
	return call->memory;
}

/* Calls of the test. */

static void call_start(struct rpc_call *c, struct watch *w, uint64_t since, const char *prefix, unsigned timeout_ms)
{
	*c = (struct rpc_call){ .prefix = (char *)prefix, .deadline = clock_monotonic_ms() + timeout_ms };
	kds__v1__watch_request__init(&c->in);
	c->in.since_revision = since;
	c->in.prefixes = &c->prefix;
	c->in.n_prefixes = prefix ? 1 : 0;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->answered, NULL);
	watch_call(w, c, &c->in, 0);
}

static void call_wait(struct rpc_call *c)
{
	pthread_mutex_lock(&c->lock);
	while (c->answers == 0)
		pthread_cond_wait(&c->answered, &c->lock);
	pthread_mutex_unlock(&c->lock);
}

static unsigned call_answers(struct rpc_call *c)
{
	pthread_mutex_lock(&c->lock);
	unsigned n = c->answers;
	pthread_mutex_unlock(&c->lock);
	return n;
}

static void call_end(struct rpc_call *c)
{
	assert_int_equal(c->answers, 1);
	if (c->out)
		kds__v1__watch_response__free_unpacked(c->out, NULL);
	pthread_cond_destroy(&c->answered);
	pthread_mutex_destroy(&c->lock);
	free(c->memory);
}

static void put(struct engine *e, struct watch *w, const char *name)
{
	pthread_mutex_lock(&e->lock);
	assert_int_equal(put_setting(&e->replica, name, "x"), STATUS_OK);
	uint64_t revision = state_revision(e->replica.state);
	pthread_mutex_unlock(&e->lock);
	watch_changed(w, revision);
}

static void begin(struct engine *e, struct watch **ret_watch)
{
	struct status st;
	*e = (struct engine){ 0 };
	pthread_mutex_init(&e->lock, NULL);
	fixture_begin(&e->replica);
	assert_int_equal(watch_new(&st, ret_watch), STATUS_OK);
	watch_changed(*ret_watch, state_revision(e->replica.state));
	assert_int_equal(watch_start(*ret_watch, e, &st), STATUS_OK);
}

static void end(struct engine *e, struct watch *w)
{
	watch_stop(w);
	watch_free(w);
	fixture_close(&e->replica);
	pthread_mutex_destroy(&e->lock);
}

static void test_watch_answers_at_once_what_is_there(void **arg)
{
	(void)arg;
	struct engine e;
	struct watch *w;
	begin(&e, &w);
	struct rpc_call c;
	call_start(&c, w, 0, NULL, 60000);
	call_wait(&c);
	assert_int_equal(c.status.code, STATUS_OK);
	assert_int_equal(c.out->n_objects, 2); /* of genesis */
	assert_int_equal(c.out->revision, 2);
	assert_int_equal(watch_revision(w), 2);
	call_end(&c);
	end(&e, w);
}

static void test_watch_waits_for_its_prefix(void **arg)
{
	(void)arg;
	struct engine e;
	struct watch *w;
	begin(&e, &w);
	struct rpc_call a, b;
	call_start(&a, w, 2, "setting/a", 60000);
	call_start(&b, w, 2, "setting/b", 60000);
	put(&e, w, "a");
	call_wait(&a);
	assert_int_equal(a.out->n_objects, 1);
	assert_string_equal(a.out->objects[0]->key, "setting/a");
	assert_int_equal(a.out->revision, 3);
	assert_int_equal(call_answers(&b), 0);
	put(&e, w, "b");
	call_wait(&b);
	assert_int_equal(b.out->n_objects, 1);
	assert_string_equal(b.out->objects[0]->key, "setting/b");
	assert_int_equal(b.out->revision, 4);
	call_end(&a);
	call_end(&b);
	end(&e, w);
}

static void test_watch_answers_with_nothing_before_the_deadline(void **arg)
{
	(void)arg;
	struct engine e;
	struct watch *w;
	begin(&e, &w);
	struct rpc_call c;
	call_start(&c, w, 2, "setting/", 200);
	call_wait(&c);
	assert_int_equal(c.status.code, STATUS_OK);
	assert_int_equal(c.out->n_objects, 0);
	assert_int_equal(c.out->revision, 2);
	call_end(&c);
	end(&e, w);
}

/* One read for all who ask the same, however many they are. */
static void test_watch_reads_once_for_many(void **arg)
{
	(void)arg;
	enum { N = 5000 };
	struct engine e;
	struct watch *w;
	begin(&e, &w);
	struct rpc_call *c = calloc(N, sizeof *c);
	assert_non_null(c);
	for (int i = 0; i < N; i++)
		call_start(&c[i], w, 2, i % 2 ? "setting/" : NULL, 60000);
	/* When this one is answered all before it have been looked at. */
	struct rpc_call last;
	call_start(&last, w, 0, NULL, 60000);
	call_wait(&last);
	call_end(&last);
	pthread_mutex_lock(&e.lock);
	unsigned before = e.reads;
	assert_int_equal(before, 1); /* its own: who knows all that there is needs none */
	pthread_mutex_unlock(&e.lock);
	put(&e, w, "a");
	for (int i = 0; i < N; i++) {
		call_wait(&c[i]);
		assert_int_equal(c[i].status.code, STATUS_OK);
		assert_int_equal(c[i].out->n_objects, 1);
	}
	pthread_mutex_lock(&e.lock);
	assert_int_equal(e.reads, before + 1);
	pthread_mutex_unlock(&e.lock);
	end(&e, w);
	for (int i = 0; i < N; i++)
		call_end(&c[i]);
	free(c);
}

/* More different requests than one read takes. */
static void test_watch_serves_many_different_requests(void **arg)
{
	(void)arg;
	enum { N = 100 };
	struct engine e;
	struct watch *w;
	begin(&e, &w);
	static struct rpc_call c[N];
	char prefix[N][32];
	for (int i = 0; i < N; i++) {
		snprintf(prefix[i], sizeof prefix[i], "setting/s%02d", i);
		call_start(&c[i], w, 2, prefix[i], 60000);
	}
	for (int i = N - 1; i >= 0; i--) {
		put(&e, w, prefix[i] + strlen("setting/"));
		call_wait(&c[i]);
		assert_int_equal(c[i].out->n_objects, 1);
		assert_string_equal(c[i].out->objects[0]->key, prefix[i]);
	}
	end(&e, w);
	for (int i = 0; i < N; i++)
		call_end(&c[i]);
}

static void test_watch_drops_callers_that_have_gone(void **arg)
{
	(void)arg;
	struct engine e;
	struct watch *w;
	begin(&e, &w);
	struct rpc_call c;
	call_start(&c, w, 2, "setting/", 60000);
	pthread_mutex_lock(&c.lock);
	c.gone = true;
	pthread_mutex_unlock(&c.lock);
	call_wait(&c);
	call_end(&c);
	end(&e, w);
}

static void test_watch_stop_answers_those_who_wait(void **arg)
{
	(void)arg;
	struct engine e;
	struct watch *w;
	begin(&e, &w);
	struct rpc_call c, late;
	call_start(&c, w, 2, "setting/", 60000);
	end(&e, w);
	assert_int_equal(c.status.code, STATUS_UNAVAILABLE);
	call_end(&c);

	/* An engine that stops first. */
	begin(&e, &w);
	e.stopping = true;
	call_start(&late, w, 1, "setting/", 60000);
	call_wait(&late);
	assert_int_equal(late.status.code, STATUS_UNAVAILABLE);
	call_end(&late);
	end(&e, w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_watch_answers_at_once_what_is_there),
		cmocka_unit_test(test_watch_waits_for_its_prefix),
		cmocka_unit_test(test_watch_answers_with_nothing_before_the_deadline),
		cmocka_unit_test(test_watch_reads_once_for_many),
		cmocka_unit_test(test_watch_serves_many_different_requests),
		cmocka_unit_test(test_watch_drops_callers_that_have_gone),
		cmocka_unit_test(test_watch_stop_answers_those_who_wait),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
