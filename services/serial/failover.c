#include "services/serial/failover.h"

void failover_init(struct failover *f, uint64_t self, unsigned election_ms, unsigned stagger_ms)
{
	*f = (struct failover){ .self = self, .election_ms = election_ms, .stagger_ms = stagger_ms };
}

/* As Raft compares logs (§5.4.1); equal ones by id, so that all come to the same order. */
static bool is_better(const struct failover_voter *a, const struct failover_voter *b)
{
	if (a->last_term != b->last_term)
		return a->last_term > b->last_term;
	if (a->last_index != b->last_index)
		return a->last_index > b->last_index;
	return a->id > b->id;
}

static bool has_lost(const struct failover *f, const struct failover_facts *facts)
{
	if (facts->leader == f->self)
		return false;
	/* A candidate knows no leader, but what it has lost stays lost until the next term. */
	if (facts->leader == 0)
		return f->lost_term != 0 && f->lost_term == facts->term;
	return facts->gone || facts->resigned || facts->now_ms >= facts->heard_ms + f->election_ms;
}

/* Whose turn we are: 0 is the first. -1: no majority has lost the leader, or we have no vote. */
static int turn_of(const struct failover *f, const struct failover_facts *facts)
{
	const struct failover_voter self = { f->self, f->lost_term, facts->last_term, facts->last_index };
	size_t lost = 1;
	int better = 0;
	if (!facts->votes)
		return -1;
	for (size_t i = 0; i < facts->n_others; i++) {
		const struct failover_voter *other = &facts->others[i];
		if (other->lost_term != f->lost_term)
			continue;
		lost++;
		better += is_better(other, &self);
	}
	return lost > (facts->n_others + 1) / 2 ? better : -1;
}

struct failover_advice failover_advise(struct failover *f, const struct failover_facts *facts)
{
	struct failover_advice advice = { .due_ms = UINT64_MAX };
	f->lost_term = has_lost(f, facts) ? facts->term : 0;
	advice.lost_term = f->lost_term;
	if (f->lost_term == 0) {
		f->agreed_ms = 0;
		if (facts->leader != 0 && facts->leader != f->self)
			advice.due_ms = facts->heard_ms + f->election_ms;
		return advice;
	}
	int turn = turn_of(f, facts);
	if (turn < 0) {
		f->agreed_ms = 0;
		return advice;
	}
	if (f->agreed_ms == 0)
		f->agreed_ms = facts->now_ms;
	uint64_t when = f->agreed_ms + (unsigned)turn * f->stagger_ms;
	advice.stand = facts->now_ms >= when;
	/* An election makes another term. Where none could begin (entries wait for the disk), it is tried again. */
	advice.due_ms = advice.stand ? facts->now_ms + f->stagger_ms : when;
	return advice;
}
