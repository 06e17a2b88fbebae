// links: service_ca
#include "tests/support/support.h"

#include <stdio.h>

#include "common/base/clock.h"
#include "services/ca/recorder.h"
#include "tests/unit/fake_channel.h"

static struct rpc_channel channel;
static struct recorder *recorder;

static int set_up(void **state)
{
	(void)state;
	fake_channel_init(&channel);
	return recorder_new(&channel, NULL, &recorder) == STATUS_OK ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	for (struct fake_call *c; (c = fake_channel_take(&channel, 0));)
		fake_call_fail(c, STATUS_INTERNAL);
	recorder_free(recorder);
	fake_channel_fini(&channel);
	return 0;
}

struct entry {
	struct recorder_entry base;
	unsigned calls;
	struct status verdict;
	uint64_t known; /* serial of the record that the refusal came with */
};

static void entry_done(struct recorder_entry *base, const struct status *verdict)
{
	struct entry *e = (struct entry *)(void *)base;
	e->verdict = *verdict;
	e->known = base->known ? base->known->serial : 0;
	e->calls++;
}

static void submit(struct entry *e, uint64_t serial, unsigned patience_ms)
{
	*e = (struct entry){ .base = { .done = entry_done, .turn.whose = "node/a",
				      .give_up_ms = clock_monotonic_ms() + patience_ms } };
	kds__v1__issued_certificate__init(&e->base.certificate);
	e->base.certificate.serial = serial;
	recorder_submit(recorder, &e->base);
}

static bool healthy(void)
{
	struct status st;
	return recorder_health(recorder, &st) == STATUS_OK;
}

static struct fake_call *next_call(size_t n_expected)
{
	struct fake_call *c = fake_channel_take(&channel, 0);
	assert_non_null(c);
	assert_string_equal(c->method, "Record");
	assert_int_equal(((Kds__V1__RecordRequest *)c->input)->n_certificates, n_expected);
	return c;
}

static uint64_t serial_in(const struct fake_call *c, size_t i)
{
	return ((Kds__V1__RecordRequest *)c->input)->certificates[i]->serial;
}

/* Answers OK but for entry `refused` of the call (SIZE_MAX: none), for `n` of them. */
static void answer(struct fake_call *c, size_t n, size_t refused)
{
	Kds__V1__RecordResult results[300];
	Kds__V1__RecordResult *list[300];
	for (size_t i = 0; i < n; i++) {
		kds__v1__record_result__init(&results[i]);
		if (i == refused) {
			results[i].code = STATUS_FAILED_PRECONDITION;
			results[i].message = "below min_serial";
		}
		list[i] = &results[i];
	}
	Kds__V1__RecordResponse response = KDS__V1__RECORD_RESPONSE__INIT;
	response.n_results = n;
	response.results = list;
	fake_call_answer(c, &response.base);
}

static void test_recorder_sends_one_at_once_and_more_together(void **state)
{
	(void)state;
	struct entry first, rest[15], one_more;
	submit(&first, 1, 5000);
	struct fake_call *c = next_call(1);
	for (size_t i = 0; i < 15; i++)
		submit(&rest[i], 2 + i, 5000);
	assert_null(fake_channel_take(&channel, 0)); /* they wait for more, or for the first call's end */
	answer(c, 1, SIZE_MAX);
	assert_int_equal(first.calls, 1);
	assert_int_equal(first.verdict.code, STATUS_OK);
	c = next_call(15);
	assert_int_equal(serial_in(c, 0), 2);
	assert_int_equal(serial_in(c, 14), 16);
	submit(&one_more, 99, 5000);
	answer(c, 15, SIZE_MAX);
	assert_int_equal(rest[14].calls, 1);
	assert_int_equal(one_more.calls, 0); /* not before its own record is committed */
	answer(next_call(1), 1, SIZE_MAX);
	assert_int_equal(one_more.verdict.code, STATUS_OK);
}

static void test_recorder_has_several_calls_under_way_and_not_too_many(void **state)
{
	(void)state;
	static struct entry entries[1000];
	for (size_t i = 0; i < 1000; i++)
		submit(&entries[i], i + 1, 5000);
	struct fake_call *calls[8];
	calls[0] = next_call(1);
	for (size_t i = 1; i < 8; i++)
		calls[i] = next_call(16);
	assert_null(fake_channel_take(&channel, 0));
	answer(calls[3], 16, SIZE_MAX); /* in any order */
	assert_int_equal(entries[1 + 2 * 16].calls, 1);
	assert_int_equal(entries[0].calls, 0);
	struct fake_call *big = next_call(256);
	answer(big, 256, SIZE_MAX);
	for (size_t i = 0; i < 8; i++) {
		if (i != 3)
			answer(calls[i], i == 0 ? 1 : 16, SIZE_MAX);
	}
	for (struct fake_call *c; (c = fake_channel_take(&channel, 0));)
		answer(c, ((Kds__V1__RecordRequest *)c->input)->n_certificates, SIZE_MAX);
	for (size_t i = 0; i < 1000; i++) {
		assert_int_equal(entries[i].calls, 1);
		assert_int_equal(entries[i].verdict.code, STATUS_OK);
	}
}

static void test_recorder_tells_each_its_own_verdict(void **state)
{
	(void)state;
	struct entry first, rest[3];
	submit(&first, 1, 5000);
	struct fake_call *c = next_call(1);
	for (size_t i = 0; i < 3; i++)
		submit(&rest[i], 2 + i, 5000);
	answer(c, 1, 0);
	assert_int_equal(first.verdict.code, STATUS_ABORTED);
	assert_non_null(strstr(first.verdict.message, "min_serial"));
	answer(next_call(3), 3, 1);
	assert_int_equal(rest[0].verdict.code, STATUS_OK);
	assert_int_equal(rest[1].verdict.code, STATUS_ABORTED);
	assert_int_equal(rest[2].verdict.code, STATUS_OK);
}

static void test_recorder_takes_no_silence_for_consent(void **state)
{
	(void)state;
	struct entry e[3];
	submit(&e[0], 1, 5000);
	struct fake_call *c = next_call(1);
	submit(&e[1], 2, 5000);
	submit(&e[2], 3, 5000);
	answer(c, 0, SIZE_MAX);
	assert_int_equal(e[0].verdict.code, STATUS_INTERNAL);
	answer(next_call(2), 1, SIZE_MAX);
	assert_int_equal(e[1].verdict.code, STATUS_OK);
	assert_int_equal(e[2].verdict.code, STATUS_INTERNAL);
}

static void test_recorder_tries_again_while_there_is_time(void **state)
{
	(void)state;
	struct entry patient, hasty;
	assert_true(healthy());
	submit(&patient, 1, 600000);
	fake_call_fail(next_call(1), STATUS_DEADLINE_EXCEEDED);
	assert_false(healthy());
	assert_int_equal(patient.calls, 0);
	submit(&hasty, 2, 0);
	struct fake_call *c = next_call(1);
	assert_int_equal(serial_in(c, 0), 1); /* the same record again */
	fake_call_fail(c, STATUS_UNAVAILABLE);
	c = next_call(2);
	fake_call_fail(c, STATUS_DEADLINE_EXCEEDED);
	assert_int_equal(hasty.calls, 1);
	assert_int_equal(hasty.verdict.code, STATUS_UNAVAILABLE);
	assert_int_equal(patient.calls, 0);
	answer(next_call(1), 1, SIZE_MAX);
	assert_int_equal(patient.verdict.code, STATUS_OK);
	assert_true(healthy());
}

/* One caller with no time at all: the call has its own time, the others theirs, and it says nothing of the quorum. */
static void test_recorder_call_does_not_follow_one_deadline(void **state)
{
	(void)state;
	struct entry e[3];
	submit(&e[0], 1, 15);
	struct fake_call *c = next_call(1);
	assert_int_equal(c->timeout_ms, RECORDER_CALL_MS);
	submit(&e[1], 2, 600000);
	submit(&e[2], 3, 15);
	answer(c, 1, SIZE_MAX);
	c = next_call(2);
	assert_int_equal(c->timeout_ms, RECORDER_CALL_MS);
	answer(c, 2, SIZE_MAX);
	assert_true(healthy());
}

static void test_recorder_passes_failures_on_as_they_are(void **state)
{
	(void)state;
	struct entry e;
	struct status st;
	submit(&e, 1, 600000);
	fake_call_fail(next_call(1), STATUS_PERMISSION_DENIED);
	assert_int_equal(e.calls, 1);
	assert_int_equal(e.verdict.code, STATUS_PERMISSION_DENIED);
	assert_int_equal(recorder_health(recorder, &st), STATUS_PERMISSION_DENIED);
	assert_non_null(strstr(st.message, "the test says so"));
	submit(&e, 1, 600000);
	fake_call_fail(next_call(1), STATUS_RESOURCE_EXHAUSTED);
	assert_int_equal(e.verdict.code, STATUS_RESOURCE_EXHAUSTED);
	assert_true(healthy()); /* a replica answered, and has a quorum for all we know */
	submit(&e, 1, 600000);
	fake_call_fail(next_call(1), STATUS_INVALID_ARGUMENT);
	assert_int_equal(e.verdict.code, STATUS_INTERNAL); /* our mistake, not the requester's */
}

static void test_recorder_tells_why_and_what_is_known(void **state)
{
	(void)state;
	struct entry e;
	submit(&e, 9, 600000);
	Kds__V1__IssuedCertificate known = KDS__V1__ISSUED_CERTIFICATE__INIT;
	known.serial = 5;
	Kds__V1__RecordResult result = KDS__V1__RECORD_RESULT__INIT, *list[] = { &result };
	result.code = STATUS_ALREADY_EXISTS;
	result.refusal = KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REPEATED;
	result.known = &known;
	Kds__V1__RecordResponse response = KDS__V1__RECORD_RESPONSE__INIT;
	response.n_results = 1;
	response.results = list;
	fake_call_answer(next_call(1), &response.base);
	assert_int_equal(e.verdict.code, STATUS_ABORTED);
	assert_int_equal(e.base.refusal, KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REPEATED);
	assert_int_equal(e.known, 5);
}

static void test_recorder_takes_turns(void **state)
{
	(void)state;
	static struct entry many[15];
	struct entry first, other;
	submit(&first, 9999, 5000);
	struct fake_call *c = next_call(1);
	for (size_t i = 0; i < 15; i++)
		submit(&many[i], 1 + i, 5000);
	other = (struct entry){ .base = { .done = entry_done, .turn.whose = "node/b", .give_up_ms = UINT64_MAX } };
	kds__v1__issued_certificate__init(&other.base.certificate);
	other.base.certificate.serial = 77;
	recorder_submit(recorder, &other.base);
	struct fake_call *second = next_call(16);
	assert_int_equal(serial_in(second, 0), 1);
	assert_int_equal(serial_in(second, 1), 77);
	answer(second, 16, SIZE_MAX);
	answer(c, 1, SIZE_MAX);
}

/* More wait than the calls under way take, and no quorum answers: they are not sent for callers who have left. */
static void test_recorder_sends_nothing_for_who_has_left(void **state)
{
	(void)state;
	static struct entry early[113], late[300], last;
	struct fake_call *calls[8];
	for (size_t i = 0; i < 113; i++)
		submit(&early[i], 1 + i, 0);
	for (size_t i = 0; i < 8; i++)
		calls[i] = next_call(i == 0 ? 1 : 16);
	for (size_t i = 0; i < 300; i++) {
		submit(&late[i], 1000 + i, 0);
		late[i].base.give_up_ms -= 2000;
	}
	submit(&last, 2000, 600000);
	fake_call_fail(calls[0], STATUS_DEADLINE_EXCEEDED);
	struct fake_call *c = next_call(1);
	assert_int_equal(serial_in(c, 0), 2000);
	for (size_t i = 0; i < 300; i++) {
		assert_int_equal(late[i].calls, 1);
		assert_int_equal(late[i].verdict.code, STATUS_UNAVAILABLE);
	}
	answer(c, 1, SIZE_MAX);
	assert_int_equal(last.verdict.code, STATUS_OK);
	/* Those alone: nothing is sent at all. */
	for (size_t i = 0; i < 16; i++)
		submit(&late[i], 1000 + i, 0);
	c = next_call(16);
	for (size_t i = 16; i < 31; i++) {
		submit(&late[i], 1000 + i, 0);
		late[i].base.give_up_ms -= 2000;
	}
	answer(c, 16, SIZE_MAX);
	for (size_t i = 1; i < 8; i++)
		answer(calls[i], 16, SIZE_MAX);
	for (size_t i = 16; i < 31; i++)
		assert_int_equal(late[i].calls, 1);
	assert_null(fake_channel_take(&channel, 0));
}

#define RECORDER_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RECORDER_TEST(test_recorder_sends_one_at_once_and_more_together),
		RECORDER_TEST(test_recorder_has_several_calls_under_way_and_not_too_many),
		RECORDER_TEST(test_recorder_tells_each_its_own_verdict),
		RECORDER_TEST(test_recorder_takes_no_silence_for_consent),
		RECORDER_TEST(test_recorder_tries_again_while_there_is_time),
		RECORDER_TEST(test_recorder_call_does_not_follow_one_deadline),
		RECORDER_TEST(test_recorder_passes_failures_on_as_they_are),
		RECORDER_TEST(test_recorder_tells_why_and_what_is_known),
		RECORDER_TEST(test_recorder_takes_turns),
		RECORDER_TEST(test_recorder_sends_nothing_for_who_has_left),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
