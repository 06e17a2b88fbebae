// links: service_serial
/* Who is wrong when digests differ; what is told and kept of them. */
#include "tests/support/support.h"

#include <string.h>

#include "services/serial/agreement.h"

static struct agreement_sample sample(uint64_t index, uint8_t mark)
{
	struct agreement_sample s = { .index = index };
	memset(s.digest, mark, sizeof s.digest);
	return s;
}

static void keep(struct agreement_samples *own, uint64_t index, uint8_t mark)
{
	struct agreement_sample s = sample(index, mark);
	agreement_keep(own, &s);
}

static struct agreement_report report(uint64_t id, bool voter, uint64_t index, uint8_t mark)
{
	return (struct agreement_report){ .id = id, .voter = voter, .samples = { sample(index, mark) }, .n = 1 };
}

/* Replica 1, which holds 'a' behind entry 1,024, and what others told. */
static enum agreement judge(bool leads, uint64_t leader, bool voter, const struct agreement_report *reports, size_t n)
{
	struct agreement_samples own = { 0 };
	uint64_t index = 0, other = 0;
	keep(&own, 1024, 'a');
	enum agreement verdict = agreement_judge(&own, leads, leader, voter, reports, n, &index, &other);
	assert_int_equal(index, verdict == AGREEMENT_NONE_DIFFERS ? 0 : 1024);
	return verdict;
}

static void test_agreement_majority_decides(void **arg)
{
	(void)arg;
	const struct agreement_report equal[] = { report(2, true, 1024, 'a'), report(3, true, 1024, 'a') };
	const struct agreement_report one[] = { report(2, true, 1024, 'b'), report(3, true, 1024, 'a') };
	const struct agreement_report both[] = { report(2, true, 1024, 'b'), report(3, true, 1024, 'b') };
	const struct agreement_report all_differ[] = { report(2, true, 1024, 'b'), report(3, true, 1024, 'c') };
	const struct agreement_report elsewhere[] = { report(2, true, 2048, 'b'), report(3, true, 2048, 'b') };
	const struct agreement_report alone[] = { report(2, true, 1024, 'b'), { .id = 3, .voter = true } };
	for (int leads = 0; leads < 2; leads++) {
		uint64_t leader = leads ? 1 : 2;
		assert_int_equal(judge(leads, leader, true, equal, 2), AGREEMENT_NONE_DIFFERS);
		assert_int_equal(judge(leads, leader, true, one, 2), AGREEMENT_OPEN);
		assert_int_equal(judge(leads, leader, true, both, 2), AGREEMENT_WRONG);
		assert_int_equal(judge(leads, leader, true, all_differ, 2), AGREEMENT_OPEN);
		assert_int_equal(judge(leads, leader, true, elsewhere, 2), AGREEMENT_NONE_DIFFERS);
		assert_int_equal(judge(leads, leader, true, alone, 2), AGREEMENT_OPEN);
	}
}

static void test_agreement_of_two_the_follower_is_wrong(void **arg)
{
	(void)arg;
	const struct agreement_report other = report(2, true, 1024, 'b');
	assert_int_equal(judge(true, 1, true, &other, 1), AGREEMENT_OPEN);
	assert_int_equal(judge(false, 2, true, &other, 1), AGREEMENT_WRONG);
	assert_int_equal(judge(false, 0, true, &other, 1), AGREEMENT_OPEN);
}

static void test_agreement_standbys_do_not_vote(void **arg)
{
	(void)arg;
	/* Three standbys say otherwise: that is no majority of the voters. */
	const struct agreement_report standbys[] = { report(2, true, 1024, 'a'), report(3, true, 1024, 'a'),
						     report(4, false, 1024, 'b'), report(5, false, 1024, 'b'),
						     report(6, false, 1024, 'b') };
	assert_int_equal(judge(true, 1, true, standbys, 5), AGREEMENT_OPEN);
	/* A standby that two of three voters differ from. */
	const struct agreement_report voters[] = { report(2, true, 1024, 'b'), report(3, true, 1024, 'b'),
						   { .id = 4, .voter = true } };
	assert_int_equal(judge(false, 2, false, voters, 3), AGREEMENT_WRONG);
	/* And one of a cluster of one voter, or two. */
	assert_int_equal(judge(false, 2, false, voters, 1), AGREEMENT_WRONG);
	const struct agreement_report two[] = { report(2, true, 1024, 'b'), report(3, true, 2048, 'b') };
	assert_int_equal(judge(false, 2, false, two, 2), AGREEMENT_WRONG);
	assert_int_equal(judge(false, 3, false, two, 2), AGREEMENT_OPEN);
}

static void test_agreement_tells_the_newest_of_each_step(void **arg)
{
	(void)arg;
	struct agreement_samples own = { 0 };
	const struct agreement_sample *told[AGREEMENT_TOLD];
	assert_int_equal(agreement_tell(&own, told), 0);
	assert_null(agreement_find(&own, 0));
	keep(&own, 7, 'x');
	assert_int_equal(agreement_tell(&own, told), 1);
	assert_int_equal(told[0]->index, 7);
	for (uint64_t index = 1024; index <= 600 * 1024; index += 1024) {
		assert_true(agreement_due(index));
		keep(&own, index, (uint8_t)(index / 1024));
	}
	assert_false(agreement_due(600 * 1024 + 1));
	keep(&own, 600 * 1024 + 1, 'y');
	assert_int_equal(agreement_tell(&own, told), 4);
	assert_int_equal(told[0]->index, 512 * 1024);
	assert_int_equal(told[1]->index, 592 * 1024);
	assert_int_equal(told[2]->index, 600 * 1024);
	assert_int_equal(told[3]->index, 600 * 1024 + 1);
	/* Far back it still knows every 16,384th. */
	assert_non_null(agreement_find(&own, 400 * 1024));
	assert_null(agreement_find(&own, 401 * 1024));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_agreement_majority_decides),
		cmocka_unit_test(test_agreement_of_two_the_follower_is_wrong),
		cmocka_unit_test(test_agreement_standbys_do_not_vote),
		cmocka_unit_test(test_agreement_tells_the_newest_of_each_step),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
