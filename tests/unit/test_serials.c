// links: service_ca
#include "tests/support/support.h"

#include "serial.pb-c.h"
#include "services/ca/serials.h"
#include "tests/unit/fake_channel.h"

#define BLOCK 10

static struct rpc_channel channel;
static struct serials *serials;

static int set_up(void **state)
{
	(void)state;
	fake_channel_init(&channel);
	return serials_start(&channel, BLOCK, NULL, &serials) == STATUS_OK ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	serials_stop(serials);
	fake_channel_fini(&channel);
	return 0;
}

/* The call for a block that must be under way now. */
static struct fake_call *next_call(void)
{
	struct fake_call *c = fake_channel_take(&channel, 0);
	assert_non_null(c);
	assert_string_equal(c->method, "Allocate");
	assert_int_equal(((Kds__V1__AllocateRequest *)c->input)->count, BLOCK);
	return c;
}

static void answer_block(struct fake_call *c, uint64_t first)
{
	Kds__V1__AllocateResponse block = KDS__V1__ALLOCATE_RESPONSE__INIT;
	block.first = first;
	block.last = first + BLOCK - 1;
	fake_call_answer(c, &block.base);
}

static void assert_no_call(void)
{
	assert_null(fake_channel_take(&channel, 0));
}

struct waiter {
	struct serials_waiter base;
	unsigned calls;
	enum status_code code;
	uint64_t serial;
};

static void waiter_done(struct serials_waiter *base, const struct status *st, uint64_t serial)
{
	struct waiter *w = (struct waiter *)(void *)base;
	w->code = st->code;
	w->serial = serial;
	__atomic_fetch_add(&w->calls, 1, __ATOMIC_RELEASE); /* last: another thread may wait for it */
}

static struct waiter new_waiter(void)
{
	return (struct waiter){ .base = { .turn.whose = "node/a", .done = waiter_done } };
}

static uint64_t take_one(void)
{
	struct waiter w = new_waiter();
	uint64_t serial = 0;
	assert_true(serials_take(serials, &w.base, &serial));
	return serial;
}

static void test_serials_gives_each_of_a_block_once(void **state)
{
	(void)state;
	answer_block(next_call(), 100);
	for (uint64_t i = 0; i < BLOCK; i++)
		assert_int_equal(take_one(), 100 + i);
	struct waiter w = new_waiter();
	uint64_t serial;
	assert_false(serials_take(serials, &w.base, &serial));
	assert_int_equal(w.calls, 0);
	answer_block(next_call(), 500);
	assert_int_equal(w.calls, 1);
	assert_int_equal(w.code, STATUS_OK);
	assert_int_equal(w.serial, 500);
	assert_int_equal(take_one(), 501);
}

static void test_serials_asks_ahead_of_need_and_once(void **state)
{
	(void)state;
	answer_block(next_call(), 100);
	for (int i = 1; i < BLOCK / 2; i++)
		(void)take_one();
	assert_no_call();
	(void)take_one();
	struct fake_call *c = next_call();
	(void)take_one();
	assert_no_call();
	answer_block(c, 200);
	assert_no_call(); /* two blocks are enough */
	for (uint64_t i = BLOCK / 2 + 1; i < BLOCK; i++)
		assert_int_equal(take_one(), 100 + i);
	assert_int_equal(take_one(), 200);
}

static void test_serials_serves_waiters_in_order_from_several_blocks(void **state)
{
	(void)state;
	struct waiter w[BLOCK + 3];
	uint64_t serial;
	for (size_t i = 0; i < BLOCK + 3; i++) {
		w[i] = new_waiter();
		assert_false(serials_take(serials, &w[i].base, &serial));
	}
	answer_block(next_call(), 100);
	assert_int_equal(w[BLOCK - 1].serial, 109);
	assert_int_equal(w[BLOCK].calls, 0);
	/* One that comes now goes behind those who wait. */
	struct waiter late = new_waiter();
	assert_false(serials_take(serials, &late.base, &serial));
	answer_block(next_call(), 300);
	assert_int_equal(w[BLOCK].serial, 300);
	assert_int_equal(w[BLOCK + 2].serial, 302);
	assert_int_equal(late.serial, 303);
	for (size_t i = 0; i < BLOCK + 3; i++)
		assert_int_equal(w[i].calls, 1);
}

static void test_serials_failure_reaches_those_who_wait(void **state)
{
	(void)state;
	struct waiter w = new_waiter();
	uint64_t serial;
	assert_false(serials_take(serials, &w.base, &serial));
	fake_call_fail(next_call(), STATUS_DEADLINE_EXCEEDED);
	assert_int_equal(w.calls, 1);
	assert_int_equal(w.code, STATUS_UNAVAILABLE);
	assert_no_call(); /* not in circles: the next need asks again */
	assert_false(serials_take(serials, &w.base, &serial));
	fake_call_fail(next_call(), STATUS_PERMISSION_DENIED);
	assert_int_equal(w.code, STATUS_PERMISSION_DENIED); /* a replica's answer stays what it is */
	assert_false(serials_take(serials, &w.base, &serial));
	fake_call_fail(next_call(), STATUS_RESOURCE_EXHAUSTED);
	assert_int_equal(w.code, STATUS_RESOURCE_EXHAUSTED);
	assert_false(serials_take(serials, &w.base, &serial));
	answer_block(next_call(), 100);
	assert_int_equal(w.code, STATUS_OK);
	assert_int_equal(w.serial, 100);
}

/* A block that was committed but whose answer was lost is asked for by the same request id, another by another. */
static void test_serials_repeats_the_request_id_while_unknown(void **state)
{
	(void)state;
	struct waiter w = new_waiter();
	uint64_t serial;
	struct fake_call *c = next_call();
	uint8_t first[32], second[32];
	size_t len = c->request_id_len;
	assert_true(len >= 16);
	memcpy(first, c->request_id, sizeof first);
	fake_call_fail(c, STATUS_DEADLINE_EXCEEDED);
	assert_false(serials_take(serials, &w.base, &serial));
	c = next_call();
	assert_memory_equal(c->request_id, first, len);
	answer_block(c, 100);
	for (int i = 0; i < BLOCK / 2; i++)
		(void)take_one();
	c = next_call();
	memcpy(second, c->request_id, sizeof second);
	assert_memory_not_equal(second, first, len);
	answer_block(c, 200);
}

static void test_serials_drops_those_below_the_minimum(void **state)
{
	(void)state;
	answer_block(next_call(), 100);
	assert_int_equal(take_one(), 100);
	serials_set_min(serials, 105);
	assert_int_equal(take_one(), 105);
	serials_set_min(serials, 103); /* never down */
	assert_int_equal(take_one(), 106);
	struct fake_call *c = next_call();
	serials_set_min(serials, 1000);
	struct waiter w = new_waiter();
	uint64_t serial;
	assert_false(serials_take(serials, &w.base, &serial));
	/* A block from before the change: nothing of it is left, and the next is asked for at once. */
	answer_block(c, 200);
	assert_int_equal(w.calls, 0);
	answer_block(next_call(), 1000);
	assert_int_equal(w.serial, 1000);
}

static void test_serials_minimum_reaches_the_second_block(void **state)
{
	(void)state;
	answer_block(next_call(), 100);
	for (int i = 0; i < BLOCK / 2; i++)
		(void)take_one();
	answer_block(next_call(), 200);
	serials_set_min(serials, 205);
	assert_int_equal(take_one(), 205);
}

static void test_serials_waiters_take_turns(void **state)
{
	(void)state;
	struct waiter many[BLOCK], other = new_waiter();
	uint64_t serial;
	for (size_t i = 0; i < BLOCK; i++) {
		many[i] = new_waiter();
		assert_false(serials_take(serials, &many[i].base, &serial));
	}
	other.base.turn.whose = "node/b";
	assert_false(serials_take(serials, &other.base, &serial));
	answer_block(next_call(), 100);
	assert_int_equal(other.serial, 101);
	assert_int_equal(many[BLOCK - 2].serial, 109);
	assert_int_equal(many[BLOCK - 1].calls, 0);
	answer_block(next_call(), 200);
	assert_int_equal(many[BLOCK - 1].serial, 200);
}

/* A hundred certificates of one block are refused: that costs one new block, not a hundred. */
static void test_serials_drop_keeps_what_is_newer(void **state)
{
	(void)state;
	answer_block(next_call(), 100);
	for (int i = 0; i < BLOCK / 2; i++)
		(void)take_one();
	answer_block(next_call(), 200);
	serials_drop(serials, 100);
	struct waiter w = new_waiter();
	uint64_t serial;
	assert_false(serials_take(serials, &w.base, &serial)); /* 200 to 209 were closed with it */
	answer_block(next_call(), 300);
	assert_int_equal(w.serial, 300);
	serials_drop(serials, 101);
	serials_drop(serials, 104);
	assert_int_equal(take_one(), 301);
	serials_drop(serials, 300);
	w = new_waiter();
	assert_false(serials_take(serials, &w.base, &serial));
	answer_block(next_call(), 400);
	assert_int_equal(w.serial, 400);
}

static void test_serials_drop_forgets_what_is_at_hand(void **state)
{
	(void)state;
	answer_block(next_call(), 100);
	serials_drop(serials, 100);
	struct waiter w = new_waiter();
	uint64_t serial;
	assert_false(serials_take(serials, &w.base, &serial));
	answer_block(next_call(), 200);
	assert_int_equal(w.serial, 200);
}

static void test_serials_refuses_a_block_that_is_none(void **state)
{
	(void)state;
	struct waiter w = new_waiter();
	uint64_t serial;
	assert_false(serials_take(serials, &w.base, &serial));
	answer_block(next_call(), 0);
	assert_int_equal(w.code, STATUS_INTERNAL);
	assert_false(serials_take(serials, &w.base, &serial));
	answer_block(next_call(), (uint64_t)INT64_MAX); /* its end would not be a positive serial any more */
	assert_int_equal(w.code, STATUS_INTERNAL);
}

#define TAKERS 4
#define TAKES 2000

static void *take_many(void *arg)
{
	uint64_t *out = arg;
	for (size_t i = 0; i < TAKES;) {
		struct waiter w = new_waiter();
		uint64_t serial;
		if (serials_take(serials, &w.base, &serial)) {
			out[i++] = serial;
			continue;
		}
		while (__atomic_load_n(&w.calls, __ATOMIC_ACQUIRE) == 0)
			sched_yield();
		if (w.code == STATUS_OK)
			out[i++] = w.serial;
	}
	return NULL;
}

static void *answer_many(void *arg)
{
	uint64_t first = 1;
	bool *stop = arg;
	while (!__atomic_load_n(stop, __ATOMIC_ACQUIRE)) {
		struct fake_call *c = fake_channel_take(&channel, 10);
		if (!c)
			continue;
		if (first % 7 == 0) {
			fake_call_fail(c, STATUS_UNAVAILABLE);
			first++;
			continue;
		}
		answer_block(c, first);
		first += BLOCK + 3;
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

static void test_serials_never_gives_one_twice_to_threads(void **state)
{
	(void)state;
	static uint64_t taken[TAKERS][TAKES];
	pthread_t takers[TAKERS], answerer;
	bool stop = false;
	assert_int_equal(pthread_create(&answerer, NULL, answer_many, &stop), 0);
	for (int i = 0; i < TAKERS; i++)
		assert_int_equal(pthread_create(&takers[i], NULL, take_many, taken[i]), 0);
	for (int i = 0; i < TAKERS; i++)
		pthread_join(takers[i], NULL);
	serials_stop(serials);
	serials = NULL;
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	pthread_join(answerer, NULL);
	uint64_t *all = &taken[0][0];
	qsort(all, (size_t)TAKERS * TAKES, sizeof *all, compare);
	for (size_t i = 1; i < (size_t)TAKERS * TAKES; i++)
		assert_true(all[i - 1] < all[i]);
}

/* Some tests leave the call for the next block under way: it is answered before the end. */
static int tear_down_answering(void **state)
{
	for (struct fake_call *c; (c = fake_channel_take(&channel, 0));)
		fake_call_fail(c, STATUS_CANCELLED);
	return tear_down(state);
}

#define SERIALS_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down_answering)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERIALS_TEST(test_serials_gives_each_of_a_block_once),
		SERIALS_TEST(test_serials_asks_ahead_of_need_and_once),
		SERIALS_TEST(test_serials_serves_waiters_in_order_from_several_blocks),
		SERIALS_TEST(test_serials_failure_reaches_those_who_wait),
		SERIALS_TEST(test_serials_repeats_the_request_id_while_unknown),
		SERIALS_TEST(test_serials_drops_those_below_the_minimum),
		SERIALS_TEST(test_serials_minimum_reaches_the_second_block),
		SERIALS_TEST(test_serials_waiters_take_turns),
		SERIALS_TEST(test_serials_drop_keeps_what_is_newer),
		SERIALS_TEST(test_serials_drop_forgets_what_is_at_hand),
		SERIALS_TEST(test_serials_refuses_a_block_that_is_none),
		SERIALS_TEST(test_serials_never_gives_one_twice_to_threads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
