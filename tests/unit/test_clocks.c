// links: service_serial
/* The time that a majority agrees on, and what is known of others' clocks. */
#include "tests/support/support.h"

#include <string.h>

#include "services/serial/clocks.h"

#define NOW ((uint64_t)1700000000000)
#define YEAR ((uint64_t)365 * 24 * 3600 * 1000)

static uint64_t agree(uint64_t own, const uint64_t *known, size_t n, size_t voters)
{
	uint64_t clocks[8];
	memcpy(clocks, known, n * sizeof *clocks);
	return clocks_agree(own, clocks, n, voters);
}

static void test_clocks_own_clock_counts_within_the_tolerance(void **arg)
{
	(void)arg;
	const uint64_t three[] = { NOW, NOW + 3, NOW + 9000 };
	assert_int_equal(agree(NOW, three, 3, 3), NOW);
	assert_int_equal(agree(NOW + 9000, three, 3, 3), NOW + 9000);
	const uint64_t one[] = { NOW };
	assert_int_equal(agree(NOW, one, 1, 1), NOW);
}

static void test_clocks_one_that_is_years_off_is_held(void **arg)
{
	(void)arg;
	const uint64_t ahead[] = { NOW + YEAR, NOW, NOW + 5 };
	assert_int_equal(agree(NOW + YEAR, ahead, 3, 3), NOW + 5 + CLOCKS_TOLERANCE_MS);
	assert_int_equal(agree(NOW, ahead, 3, 3), NOW);
	const uint64_t behind[] = { NOW - YEAR, NOW, NOW + 5 };
	assert_int_equal(agree(NOW - YEAR, behind, 3, 3), NOW - CLOCKS_TOLERANCE_MS);
	assert_int_equal(agree(NOW, behind, 3, 3), NOW);
	/* Of three that are left of five, one may be wrong: all three must have reached a time. */
	assert_int_equal(agree(NOW + YEAR, ahead, 3, 5), NOW + CLOCKS_TOLERANCE_MS);
	/* Of two the earlier one. */
	assert_int_equal(agree(NOW + YEAR, ahead, 2, 2), NOW + CLOCKS_TOLERANCE_MS);
	assert_int_equal(agree(NOW + YEAR, ahead, 2, 3), NOW + CLOCKS_TOLERANCE_MS);
}

static void test_clocks_need_a_majority(void **arg)
{
	(void)arg;
	const uint64_t known[] = { NOW, NOW };
	assert_int_equal(agree(NOW, known, 1, 2), 0);
	assert_int_equal(agree(NOW, known, 1, 3), 0);
	assert_int_equal(agree(NOW, known, 2, 4), 0);
	assert_int_equal(agree(NOW, known, 0, 1), 0);
}

static void test_clock_estimate_takes_the_fastest_message(void **arg)
{
	(void)arg;
	struct clock_estimate e = { 0 };
	assert_int_equal(clock_estimate_now(&e, 1000), 0);
	clock_estimate_add(&e, NOW, 1050);        /* 50 ms on its way */
	clock_estimate_add(&e, NOW + 500, 1502);  /* 2 */
	clock_estimate_add(&e, NOW + 1000, 2300); /* 300 */
	assert_int_equal(clock_estimate_now(&e, 2400), NOW + 1398);
	/* It is set back an hour: four messages later, or when the old ones are too old, that is known. */
	for (uint64_t i = 0; i < 4; i++)
		clock_estimate_add(&e, NOW - 3600000 + i * 500, 3000 + i * 500);
	assert_int_equal(clock_estimate_now(&e, 4500), NOW - 3600000 + 1500);
	clock_estimate_add(&e, NOW, 60000);
	assert_int_equal(clock_estimate_now(&e, 60000), NOW);
	assert_int_equal(clock_estimate_now(&e, 60000 + CLOCKS_WINDOW_MS + 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clocks_own_clock_counts_within_the_tolerance),
		cmocka_unit_test(test_clocks_one_that_is_years_off_is_held),
		cmocka_unit_test(test_clocks_need_a_majority),
		cmocka_unit_test(test_clock_estimate_takes_the_fastest_message),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
