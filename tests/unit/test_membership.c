// links: service_serial common_rpc common_base kds_proto
#include "tests/support/support.h"

#include <string.h>

#include "services/serial/membership.h"

/* A voter that is as it should be. */
static struct membership_member member(uint64_t id, const char *name, enum membership_role has, enum membership_role wants)
{
	return (struct membership_member){
		.id = id, .name = name, .has = has, .wants = wants, .recorded = true, .reachable = true, .caught_up = true
	};
}

/* n voters, replica 1 leads. */
static struct membership voters(size_t n)
{
	static const char *const names[] = { "a", "b", "c", "d", "e", "f", "g" };
	struct membership m = { .self = 1 };
	for (size_t i = 0; i < n; i++)
		m.members[m.n++] = member(i + 1, names[i], MEMBERSHIP_VOTER, MEMBERSHIP_VOTER);
	return m;
}

static void expect(const struct membership *m, enum membership_kind kind, uint64_t id, enum membership_role role)
{
	struct membership_step s = membership_next(m);
	assert_int_equal(s.kind, kind);
	if (kind == MEMBERSHIP_NOTHING)
		return;
	assert_int_equal(s.member->id, id);
	if (kind == MEMBERSHIP_SET)
		assert_int_equal(s.role, role);
}

static void test_membership_adds_catches_up_promotes(void **state)
{
	(void)state;
	struct membership m = voters(3);
	expect(&m, MEMBERSHIP_NOTHING, 0, 0);
	m.members[m.n++] = member(4, "d", MEMBERSHIP_NONE, MEMBERSHIP_VOTER);
	struct membership_member *d = &m.members[3];
	d->reachable = d->caught_up = d->recorded = false;
	expect(&m, MEMBERSHIP_SET, 4, MEMBERSHIP_STANDBY);
	d->has = MEMBERSHIP_STANDBY;
	char buf[STATUS_MESSAGE_MAX];
	expect(&m, MEMBERSHIP_NOTHING, 0, 0);
	assert_non_null(strstr(membership_waits_for(&m, d, buf, sizeof buf), "cannot be reached"));
	d->reachable = true;
	expect(&m, MEMBERSHIP_NOTHING, 0, 0);
	assert_non_null(strstr(membership_waits_for(&m, d, buf, sizeof buf), "data directory"));
	d->recorded = true;
	d->lag = 17;
	expect(&m, MEMBERSHIP_NOTHING, 0, 0);
	assert_non_null(strstr(membership_waits_for(&m, d, buf, sizeof buf), "17 entries"));
	d->caught_up = true;
	expect(&m, MEMBERSHIP_SET, 4, MEMBERSHIP_VOTER);
	d->has = MEMBERSHIP_VOTER;
	expect(&m, MEMBERSHIP_NOTHING, 0, 0);
	assert_string_equal(membership_waits_for(&m, d, buf, sizeof buf), "");
}

static void test_membership_nobody_votes_before_all_voters_are_on_record(void **state)
{
	(void)state;
	struct membership m = voters(3);
	m.members[m.n++] = member(4, "d", MEMBERSHIP_STANDBY, MEMBERSHIP_VOTER);
	m.members[2].recorded = false;
	expect(&m, MEMBERSHIP_NOTHING, 0, 0);
	m.members[2].recorded = true;
	expect(&m, MEMBERSHIP_SET, 4, MEMBERSHIP_VOTER);
}

static void test_membership_a_promotion_needs_a_majority_afterwards(void **state)
{
	(void)state;
	struct membership m = voters(3);
	m.members[m.n++] = member(4, "d", MEMBERSHIP_STANDBY, MEMBERSHIP_VOTER);
	m.members[1].reachable = false;
	expect(&m, MEMBERSHIP_SET, 4, MEMBERSHIP_VOTER); /* 3 of 4 */
	m.members[2].reachable = false;
	expect(&m, MEMBERSHIP_NOTHING, 0, 0); /* 2 of 4 */
}

static void test_membership_removes_a_dead_voter_but_never_the_quorum(void **state)
{
	(void)state;
	struct membership m = voters(3);
	m.members[1].wants = MEMBERSHIP_NONE;
	m.members[1].reachable = false;
	expect(&m, MEMBERSHIP_SET, 2, MEMBERSHIP_NONE); /* 2 of the other 2 */
	m.members[2].reachable = false;
	expect(&m, MEMBERSHIP_NOTHING, 0, 0); /* 1 of 2 */
	char buf[STATUS_MESSAGE_MAX];
	assert_non_null(strstr(membership_waits_for(&m, &m.members[1], buf, sizeof buf), "cost the quorum"));
}

static void test_membership_a_leader_that_leaves_hands_over_first(void **state)
{
	(void)state;
	struct membership m = voters(3);
	m.members[0].wants = MEMBERSHIP_NONE;
	m.members[1].lag = 5;
	expect(&m, MEMBERSHIP_TRANSFER, 3, 0);
	m.members[2].reachable = false;
	m.members[1].caught_up = false;
	expect(&m, MEMBERSHIP_NOTHING, 0, 0);
}

static void test_membership_one_name_twice_waits_for_the_first_to_go(void **state)
{
	(void)state;
	struct membership m = voters(3);
	m.members[2].wants = MEMBERSHIP_NONE;
	m.members[m.n++] = member(4, "c", MEMBERSHIP_NONE, MEMBERSHIP_VOTER);
	expect(&m, MEMBERSHIP_SET, 3, MEMBERSHIP_NONE);
	m.members[1].reachable = m.members[2].reachable = false; /* it cannot go */
	expect(&m, MEMBERSHIP_NOTHING, 0, 0);
}

static enum status_code check(const struct membership *m, const char *name, int change, struct status *st)
{
	Kds__V1__ChangeReplicaRequest in = KDS__V1__CHANGE_REPLICA_REQUEST__INIT;
	in.name = (char *)name;
	in.change_case = change == 0 ? KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_REMOVED :
				       KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_VOTER;
	if (change == 0)
		in.removed = true;
	else
		in.voter = change > 0;
	return membership_check(m, &in, st);
}

static void test_membership_refusals(void **state)
{
	(void)state;
	struct status st;
	struct membership m = voters(3);
	assert_int_equal(check(&m, "b", 0, &st), STATUS_OK);
	m.members[2].reachable = false;
	assert_int_equal(check(&m, "c", 0, &st), STATUS_OK);
	assert_int_equal(check(&m, "b", 0, &st), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "1 of 2 voters could be reached, and 2 are needed"));
	assert_int_equal(check(&m, "b", -1, &st), STATUS_FAILED_PRECONDITION);
	/* What was accepted before counts as done. */
	m = voters(5);
	m.members[3].reachable = m.members[4].reachable = false;
	m.members[1].wants = MEMBERSHIP_NONE;
	assert_int_equal(check(&m, "c", 0, &st), STATUS_FAILED_PRECONDITION);
	m = voters(1);
	assert_int_equal(check(&m, "a", 0, &st), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "last replica that votes"));
	m.members[m.n++] = member(2, "b", MEMBERSHIP_STANDBY, MEMBERSHIP_STANDBY);
	assert_int_equal(check(&m, "b", 1, &st), STATUS_OK);
	assert_int_equal(check(&m, "b", 0, &st), STATUS_OK);
	m.members[1].caught_up = false;
	assert_int_equal(check(&m, "b", 1, &st), STATUS_FAILED_PRECONDITION);
	m.members[1].reachable = false;
	assert_int_equal(check(&m, "b", 1, &st), STATUS_FAILED_PRECONDITION);
	assert_int_equal(check(&m, "nobody", 1, &st), STATUS_OK); /* the state refuses it */
}

static void test_membership_replaces_one_that_stays_away(void **state)
{
	(void)state;
	struct membership m = voters(3);
	m.members[m.n++] = member(4, "d", MEMBERSHIP_STANDBY, MEMBERSHIP_STANDBY);
	m.members[2].reachable = false;
	m.members[2].away_ms = 60000;
	expect(&m, MEMBERSHIP_NOTHING, 0, 0); /* nobody allowed it */
	m.replace_after_ms = 60001;
	expect(&m, MEMBERSHIP_NOTHING, 0, 0);
	m.replace_after_ms = 60000;
	expect(&m, MEMBERSHIP_REPLACE, 3, 0);
	assert_int_equal(membership_next(&m).heir->id, 4);
	m.members[3].caught_up = false;
	expect(&m, MEMBERSHIP_NOTHING, 0, 0);
	m.members[3].caught_up = true;
	/* Then in the log: first the vote goes, then the other gets it. */
	m.members[2].wants = MEMBERSHIP_STANDBY;
	m.members[3].wants = MEMBERSHIP_VOTER;
	expect(&m, MEMBERSHIP_SET, 3, MEMBERSHIP_STANDBY);
	m.members[2].has = MEMBERSHIP_STANDBY;
	expect(&m, MEMBERSHIP_SET, 4, MEMBERSHIP_VOTER);
	m.members[3].has = MEMBERSHIP_VOTER;
	expect(&m, MEMBERSHIP_NOTHING, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_membership_adds_catches_up_promotes),
		cmocka_unit_test(test_membership_nobody_votes_before_all_voters_are_on_record),
		cmocka_unit_test(test_membership_a_promotion_needs_a_majority_afterwards),
		cmocka_unit_test(test_membership_removes_a_dead_voter_but_never_the_quorum),
		cmocka_unit_test(test_membership_a_leader_that_leaves_hands_over_first),
		cmocka_unit_test(test_membership_one_name_twice_waits_for_the_first_to_go),
		cmocka_unit_test(test_membership_refusals),
		cmocka_unit_test(test_membership_replaces_one_that_stays_away),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
