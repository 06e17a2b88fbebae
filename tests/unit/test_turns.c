// links: common_base
#include "tests/support/support.h"

#include <stdio.h>

#include "common/base/turns.h"

struct thing {
	struct turns_entry turn;
	unsigned number;
};

static struct turns turns;

static int set_up(void **state)
{
	(void)state;
	turns_init(&turns);
	return 0;
}

static void put(struct thing *t, const char *whose, unsigned number)
{
	*t = (struct thing){ .turn.whose = whose, .number = number };
	turns_put(&turns, &t->turn);
}

static unsigned take(void)
{
	struct turns_entry *e = turns_take(&turns);
	assert_non_null(e);
	return ((struct thing *)(void *)e)->number;
}

static void test_turns_keep_the_order_of_one_owner(void **state)
{
	(void)state;
	struct thing t[5];
	assert_null(turns_take(&turns));
	for (unsigned i = 0; i < 5; i++)
		put(&t[i], "node/a", i);
	assert_int_equal(turns_waiting(&turns, "node/a"), 5);
	assert_int_equal(turns_waiting(&turns, "node/b"), 0);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(take(), i);
	assert_null(turns_take(&turns));
	assert_int_equal(turns.n, 0);
	assert_int_equal(turns_waiting(&turns, "node/a"), 0);
}

static void test_turns_go_round(void **state)
{
	(void)state;
	struct thing a[1000], b[2], c;
	for (unsigned i = 0; i < 1000; i++)
		put(&a[i], "a", i);
	put(&b[0], "b", 2000);
	put(&b[1], "b", 2001);
	assert_int_equal(take(), 0);
	assert_int_equal(take(), 2000);
	put(&c, "c", 3000); /* behind those who have had less than a turn */
	assert_int_equal(take(), 1);
	assert_int_equal(take(), 2001);
	assert_int_equal(take(), 3000);
	for (unsigned i = 2; i < 1000; i++)
		assert_int_equal(take(), i);
	assert_null(turns_take(&turns));
}

/* Many more owners than buckets, coming and going: nothing is lost, nothing is there twice, each keeps its order. */
static void test_turns_of_many_owners(void **state)
{
	(void)state;
	enum { OWNERS = 500, EACH = 6 };
	static struct thing things[OWNERS][EACH];
	static char names[OWNERS][16];
	unsigned next[OWNERS] = { 0 }, taken = 0;
	for (unsigned k = 0; k < OWNERS; k++)
		snprintf(names[k], sizeof names[k], "node/%u", k);
	for (unsigned i = 0; i < EACH; i++) {
		for (unsigned k = 0; k < OWNERS; k++) {
			put(&things[k][i], names[k], k * EACH + i);
			if ((k + i) % 3 != 0)
				continue;
			unsigned number = take();
			assert_int_equal(number % EACH, next[number / EACH]++);
			taken++;
		}
	}
	for (; turns.n > 0; taken++) {
		unsigned number = take();
		assert_int_equal(number % EACH, next[number / EACH]++);
		assert_int_equal(turns_waiting(&turns, names[number / EACH]) > 0, number % EACH + 1 < EACH);
	}
	assert_int_equal(taken, OWNERS * EACH);
}

#define TURNS_TEST(f) cmocka_unit_test_setup(f, set_up)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TURNS_TEST(test_turns_keep_the_order_of_one_owner),
		TURNS_TEST(test_turns_go_round),
		TURNS_TEST(test_turns_of_many_owners),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
