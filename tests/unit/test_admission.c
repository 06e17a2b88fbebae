// links: service_serial common_rpc common_base kds_proto
#include "tests/support/support.h"

#include "services/serial/admission.h"

static const uint64_t ids[] = { 1, 2, 3 };

static struct admission fresh(uint64_t self, uint64_t incarnation)
{
	struct admission a;
	admission_init(&a, self, incarnation, ids, 3);
	return a;
}

static void test_admission_all_meet_at_the_first_start(void **state)
{
	(void)state;
	struct admission a = fresh(1, 11);
	assert_false(a.takes_part);
	assert_false(admission_ready(&a));
	assert_true(admission_told(&a, 2, 22, false, 0));
	assert_false(admission_ready(&a));
	assert_int_equal(admission_record(&a, 2), 0);
	assert_true(admission_told(&a, 3, 33, false, 0));
	assert_true(admission_ready(&a));
	a.takes_part = true;
	assert_int_equal(admission_record(&a, 2), 22);
	assert_int_equal(admission_record(&a, 3), 33);
}

static void test_admission_those_that_were_faster_vouch(void **state)
{
	(void)state;
	struct admission a = fresh(1, 11);
	/* Both began already, with this very replica on record. */
	assert_true(admission_told(&a, 2, 22, true, 11));
	assert_true(admission_told(&a, 3, 33, true, 11));
	assert_true(admission_ready(&a));
}

static void test_admission_a_lost_directory_never_takes_part(void **state)
{
	(void)state;
	struct admission a = fresh(1, 12);
	/* One has nothing, the other knew the directory that was lost. */
	assert_true(admission_told(&a, 2, 22, false, 0));
	assert_false(admission_told(&a, 3, 33, true, 11));
	assert_false(admission_ready(&a));
	/* One that takes part and does not say whom it knows does not let it in. */
	assert_true(admission_told(&a, 3, 33, true, 0));
	assert_false(admission_ready(&a));
}

static void test_admission_another_that_was_lost_meanwhile_is_taken_as_it_is_now(void **state)
{
	(void)state;
	struct admission a = fresh(1, 11);
	assert_true(admission_told(&a, 2, 22, false, 0));
	assert_true(admission_told(&a, 2, 23, false, 0));
	assert_true(admission_told(&a, 3, 33, false, 0));
	assert_true(admission_ready(&a));
	a.takes_part = true;
	assert_int_equal(admission_record(&a, 2), 23);
	/* And stays: what is on record is for good. */
	assert_true(admission_told(&a, 2, 24, false, 0));
	assert_int_equal(admission_record(&a, 2), 23);
}

static void test_admission_a_record_survives_a_restart(void **state)
{
	(void)state;
	struct admission a = fresh(1, 11);
	admission_recall(&a, 2, 22);
	admission_recall(&a, 3, 33);
	a.takes_part = true;
	assert_int_equal(admission_record(&a, 3), 33);
	assert_int_equal(admission_record(&a, 4), 0);
	assert_false(admission_ready(&a));
}

static void test_admission_alone_or_added_later(void **state)
{
	(void)state;
	struct admission a;
	admission_init(&a, 1, 11, ids, 1);
	assert_false(a.takes_part);
	assert_true(admission_ready(&a));
	admission_init(&a, 4, 44, NULL, 0);
	assert_true(a.takes_part);
	/* It, too, hears when its directory is not the one on record. */
	assert_false(admission_told(&a, 1, 11, true, 45));
	assert_true(admission_told(&a, 1, 11, true, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_admission_all_meet_at_the_first_start),
		cmocka_unit_test(test_admission_those_that_were_faster_vouch),
		cmocka_unit_test(test_admission_a_lost_directory_never_takes_part),
		cmocka_unit_test(test_admission_another_that_was_lost_meanwhile_is_taken_as_it_is_now),
		cmocka_unit_test(test_admission_a_record_survives_a_restart),
		cmocka_unit_test(test_admission_alone_or_added_later),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
