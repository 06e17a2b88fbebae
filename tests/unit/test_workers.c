// links: common_daemon
#include "tests/support/support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "common/daemon/workers.h"

static struct workers *start(unsigned threads, unsigned max, unsigned max_one)
{
	struct status st;
	struct workers *w;
	const struct workers_limits limits = { .threads = threads, .max_queued = max, .max_queued_one = max_one };
	assert_int_equal(workers_start(&limits, &st, &w), STATUS_OK);
	return w;
}

static enum status_code submit(struct workers *w, struct workers_job *job, const char *whose, void (*work)(void *),
			       void *arg)
{
	struct status st;
	*job = (struct workers_job){ .turn.whose = whose, .work = work, .arg = arg };
	enum status_code rc = workers_submit(w, job, &st);
	if (rc != STATUS_OK)
		assert_int_equal(st.code, rc);
	return rc;
}

static void count(void *arg)
{
	atomic_fetch_add((atomic_uint *)arg, 1);
}

static void test_workers_run_each_job_once(void **state)
{
	(void)state;
	static struct workers_job jobs[2000];
	atomic_uint done = 0;
	struct workers *w = start(4, 2000, 2000);
	for (unsigned i = 0; i < 2000; i++)
		assert_int_equal(submit(w, &jobs[i], i % 2 ? "a" : "b", count, &done), STATUS_OK);
	workers_stop(w); /* runs what is queued */
	assert_int_equal(atomic_load(&done), 2000);
}

/* A door that a job waits at, so that the test decides when the only thread goes on. */
struct door {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool inside, open;
};

static void wait_at_door(void *arg)
{
	struct door *d = arg;
	pthread_mutex_lock(&d->lock);
	d->inside = true;
	pthread_cond_broadcast(&d->changed);
	while (!d->open)
		pthread_cond_wait(&d->changed, &d->lock);
	pthread_mutex_unlock(&d->lock);
}

static void wait_inside(struct door *d)
{
	pthread_mutex_lock(&d->lock);
	while (!d->inside)
		pthread_cond_wait(&d->changed, &d->lock);
	pthread_mutex_unlock(&d->lock);
}

static void open_door(struct door *d)
{
	pthread_mutex_lock(&d->lock);
	d->open = true;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
}

#define DOOR { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER }

static void test_workers_refuse_what_does_not_fit(void **state)
{
	(void)state;
	struct workers_job jobs[6];
	atomic_uint done = 0;
	struct door door = DOOR;
	struct workers *w = start(1, 3, 2);
	assert_int_equal(submit(w, &jobs[0], "a", wait_at_door, &door), STATUS_OK);
	wait_inside(&door);

	assert_int_equal(submit(w, &jobs[1], "a", count, &done), STATUS_OK);
	assert_int_equal(submit(w, &jobs[2], "a", count, &done), STATUS_OK);
	assert_int_equal(submit(w, &jobs[3], "a", count, &done), STATUS_RESOURCE_EXHAUSTED); /* its share */
	assert_int_equal(submit(w, &jobs[4], "b", count, &done), STATUS_OK);
	assert_int_equal(submit(w, &jobs[5], "c", count, &done), STATUS_RESOURCE_EXHAUSTED); /* all */

	open_door(&door);
	workers_stop(w);
	assert_int_equal(atomic_load(&done), 3);
}

static struct {
	unsigned n;
	unsigned seen[64];
} order;

static void note(void *arg)
{
	order.seen[order.n++] = (unsigned)(uintptr_t)arg;
}

static void test_workers_take_turns_between_owners(void **state)
{
	(void)state;
	struct workers_job jobs[12];
	struct door door = DOOR;
	struct workers *w = start(1, 100, 100);
	assert_int_equal(submit(w, &jobs[0], "a", wait_at_door, &door), STATUS_OK);
	wait_inside(&door);
	for (unsigned i = 1; i <= 9; i++)
		assert_int_equal(submit(w, &jobs[i], "a", note, (void *)(uintptr_t)i), STATUS_OK);
	assert_int_equal(submit(w, &jobs[10], "b", note, (void *)(uintptr_t)10), STATUS_OK);
	assert_int_equal(submit(w, &jobs[11], "b", note, (void *)(uintptr_t)11), STATUS_OK);
	open_door(&door);
	workers_stop(w);
	const unsigned expected[] = { 1, 10, 2, 11, 3, 4, 5, 6, 7, 8, 9 };
	assert_int_equal(order.n, 11);
	assert_memory_equal(order.seen, expected, sizeof expected);
}

static void test_workers_threads_of_cores(void **state)
{
	(void)state;
	struct workers_job job;
	atomic_uint done = 0;
	struct workers *w = start(0, 1, 1);
	assert_int_equal(submit(w, &job, "", count, &done), STATUS_OK);
	workers_stop(w);
	assert_int_equal(atomic_load(&done), 1);
	workers_stop(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_workers_run_each_job_once),
		cmocka_unit_test(test_workers_refuse_what_does_not_fit),
		cmocka_unit_test(test_workers_take_turns_between_owners),
		cmocka_unit_test(test_workers_threads_of_cores),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
