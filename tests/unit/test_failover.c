// links: service_serial common_base kds_proto
#include "tests/support/support.h"

#include "services/serial/failover.h"

#define ELECTION_MS 1000
#define STAGGER_MS 100
#define SELF 3
#define TERM 7

/* Replica 3 of five follows replica 1 and has just heard of it, at 10,000 ms; the others have lost nobody. */
struct fixture {
	struct failover failover;
	struct failover_facts facts;
	struct failover_voter others[4];
};

static int setup(void **state)
{
	static struct fixture f;
	f = (struct fixture){ .others = { { 1, 0, 6, 50 }, { 2, 0, 6, 50 }, { 4, 0, 6, 50 }, { 5, 0, 6, 50 } } };
	failover_init(&f.failover, SELF, ELECTION_MS, STAGGER_MS);
	f.facts = (struct failover_facts){
		.now_ms = 10000, .term = TERM, .leader = 1, .heard_ms = 10000, .last_term = 6, .last_index = 50,
		.others = f.others, .n_others = 4, .votes = true,
	};
	*state = &f;
	return 0;
}

static struct failover_advice advise(struct fixture *f)
{
	return failover_advise(&f->failover, &f->facts);
}

static void expect(struct fixture *f, uint64_t lost_term, bool stand)
{
	struct failover_advice a = advise(f);
	assert_int_equal(a.lost_term, lost_term);
	assert_int_equal(a.stand, stand);
}

static void test_failover_nothing_is_lost(void **state)
{
	struct fixture *f = *state;
	struct failover_advice a = advise(f);
	assert_int_equal(a.lost_term, 0);
	assert_false(a.stand);
	assert_int_equal(a.due_ms, 11000); /* when its silence has lasted */
	/* What others say does not make it so: not even all of them. */
	for (int i = 0; i < 4; i++)
		f->others[i].lost_term = TERM;
	expect(f, 0, false);
}

static void test_failover_lost_by_each_sign(void **state)
{
	struct fixture *f = *state;
	f->facts.gone = true;
	expect(f, TERM, false);
	f->facts.gone = false; /* a stream came up again */
	expect(f, 0, false);
	f->facts.resigned = true;
	expect(f, TERM, false);
	f->facts.resigned = false;
	f->facts.now_ms = 10999;
	expect(f, 0, false);
	f->facts.now_ms = 11000;
	expect(f, TERM, false);
	f->facts.heard_ms = 11000;
	expect(f, 0, false);
}

static void test_failover_no_leader_is_no_loss(void **state)
{
	struct fixture *f = *state;
	f->facts.leader = 0;
	f->facts.gone = true;
	f->facts.now_ms = 60000;
	expect(f, 0, false);
	f->facts.leader = SELF;
	f->facts.gone = false;
	expect(f, 0, false);
}

static void test_failover_wants_a_majority(void **state)
{
	struct fixture *f = *state;
	f->facts.gone = true;
	f->others[1].lost_term = TERM;
	expect(f, TERM, false); /* two of five */
	f->others[2].lost_term = TERM - 1;
	expect(f, TERM, false); /* that was another leader */
	f->others[2].lost_term = TERM;
	f->others[1].last_index = f->others[2].last_index = 49;
	expect(f, TERM, true);
	f->facts.votes = false;
	expect(f, TERM, false);
}

static void test_failover_takes_turns(void **state)
{
	struct fixture *f = *state;
	f->facts.gone = true;
	f->others[1] = (struct failover_voter){ 2, TERM, 6, 51 }; /* a longer log */
	f->others[2] = (struct failover_voter){ 4, TERM, 6, 50 }; /* the same, a higher id */
	f->others[3] = (struct failover_voter){ 5, TERM, 5, 99 }; /* longer, but older */
	struct failover_advice a = advise(f);
	assert_false(a.stand);
	assert_int_equal(a.due_ms, 10000 + 2 * STAGGER_MS);
	f->facts.now_ms += 2 * STAGGER_MS - 1;
	expect(f, TERM, false);
	f->facts.now_ms++;
	expect(f, TERM, true);
	/* The others' elections failed without a new term; ours was begun: then it is over. */
	f->facts.term++;
	f->facts.leader = 0;
	f->facts.gone = false;
	expect(f, 0, false);
}

/* A turn counts from when the majority was there, not from an earlier one. */
static void test_failover_begins_to_count_anew(void **state)
{
	struct fixture *f = *state;
	f->facts.gone = true;
	f->others[1] = (struct failover_voter){ 2, TERM, 6, 51 };
	f->others[2] = (struct failover_voter){ 4, TERM, 6, 40 };
	assert_int_equal(advise(f).due_ms, 10000 + STAGGER_MS);
	f->others[1].lost_term = 0; /* it hears the leader again */
	f->facts.now_ms += STAGGER_MS;
	expect(f, TERM, false);
	f->others[1].lost_term = TERM;
	expect(f, TERM, false);
	f->facts.now_ms += STAGGER_MS;
	expect(f, TERM, true);
}

/* Its own timer went off meanwhile: a candidate knows no leader, but has lost the one of its term. */
static void test_failover_candidate_still_reports(void **state)
{
	struct fixture *f = *state;
	f->facts.gone = true;
	expect(f, TERM, false);
	f->facts.leader = 0;
	f->facts.gone = false;
	expect(f, TERM, false);
	f->facts.term++;
	expect(f, 0, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_failover_nothing_is_lost, setup),
		cmocka_unit_test_setup(test_failover_lost_by_each_sign, setup),
		cmocka_unit_test_setup(test_failover_no_leader_is_no_loss, setup),
		cmocka_unit_test_setup(test_failover_wants_a_majority, setup),
		cmocka_unit_test_setup(test_failover_takes_turns, setup),
		cmocka_unit_test_setup(test_failover_begins_to_count_anew, setup),
		cmocka_unit_test_setup(test_failover_candidate_still_reports, setup),
	};
	return cmocka_run_group_tests_name("failover", tests, NULL, NULL);
}
