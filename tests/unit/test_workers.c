// links: common_daemon
#include "tests/support/support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "common/daemon/workers.h"

static void count(void *arg)
{
	atomic_fetch_add((atomic_uint *)arg, 1);
}

static void test_workers_run_each_job_once(void **state)
{
	(void)state;
	struct status st;
	struct workers *w;
	atomic_uint done = 0;
	assert_int_equal(workers_start(4, 2000, &st, &w), STATUS_OK);
	for (unsigned i = 0; i < 2000; i++)
		assert_int_equal(workers_submit(w, count, &done, &st), STATUS_OK);
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

static void test_workers_refuse_what_does_not_fit(void **state)
{
	(void)state;
	struct status st;
	struct workers *w;
	atomic_uint done = 0;
	struct door door = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

	assert_int_equal(workers_start(1, 2, &st, &w), STATUS_OK);
	assert_int_equal(workers_submit(w, wait_at_door, &door, &st), STATUS_OK);
	pthread_mutex_lock(&door.lock);
	while (!door.inside)
		pthread_cond_wait(&door.changed, &door.lock);
	pthread_mutex_unlock(&door.lock);

	assert_int_equal(workers_submit(w, count, &done, &st), STATUS_OK);
	assert_int_equal(workers_submit(w, count, &done, &st), STATUS_OK);
	assert_int_equal(workers_submit(w, count, &done, &st), STATUS_RESOURCE_EXHAUSTED);
	assert_int_equal(st.code, STATUS_RESOURCE_EXHAUSTED);

	pthread_mutex_lock(&door.lock);
	door.open = true;
	pthread_cond_broadcast(&door.changed);
	pthread_mutex_unlock(&door.lock);
	workers_stop(w);
	assert_int_equal(atomic_load(&done), 2);
}

struct order {
	unsigned next;
	unsigned seen[64];
};

static struct order order;

static void note(void *arg)
{
	order.seen[order.next++] = (unsigned)(uintptr_t)arg;
}

static void test_workers_keep_the_order_of_one_thread(void **state)
{
	(void)state;
	struct status st;
	struct workers *w;
	unsigned submitted = 0;
	assert_int_equal(workers_start(1, 5, &st, &w), STATUS_OK);
	while (submitted < 64) /* a small ring, so that it wraps */
		if (workers_submit(w, note, (void *)(uintptr_t)submitted, &st) == STATUS_OK)
			submitted++;
	workers_stop(w);
	assert_int_equal(order.next, 64);
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(order.seen[i], i);
}

static void test_workers_threads_of_cores(void **state)
{
	(void)state;
	struct status st;
	struct workers *w;
	atomic_uint done = 0;
	assert_int_equal(workers_start(0, 0, &st, &w), STATUS_OK);
	assert_int_equal(workers_submit(w, count, &done, &st), STATUS_OK);
	workers_stop(w);
	assert_int_equal(atomic_load(&done), 1);
	workers_stop(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_workers_run_each_job_once),
		cmocka_unit_test(test_workers_refuse_what_does_not_fit),
		cmocka_unit_test(test_workers_keep_the_order_of_one_thread),
		cmocka_unit_test(test_workers_threads_of_cores),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
