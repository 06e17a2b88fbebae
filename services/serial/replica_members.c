#include "services/serial/replica_internal.h"

#include <string.h>

static unsigned count_voters(const struct raft_configuration *c)
{
	unsigned n = 0;
	for (unsigned i = 0; i < c->n; i++)
		n += c->servers[i].role == RAFT_VOTER;
	return n;
}

bool replica_decides_alone(const struct replica *r)
{
	return count_voters(&r->raft.configuration) == 1 || count_voters(&r->raft.configuration_committed) == 1;
}

bool replica_lend_vote(struct replica *r, const struct raft_message *m, bool lend)
{
	struct raft_configuration *c = &r->raft.configuration;
	for (unsigned i = 0; m->type == RAFT_REQUEST_VOTE && i < c->n; i++)
		if (c->servers[i].id == r->options.id && c->servers[i].role == (lend ? RAFT_STANDBY : RAFT_VOTER)) {
			c->servers[i].role = lend ? RAFT_VOTER : RAFT_STANDBY;
			if (lend && r->now_ms - r->heard_ms >= r->options.election_ms && raft_state(&r->raft) == RAFT_FOLLOWER)
				r->raft.follower_state.current_leader.id = 0;
			return true;
		}
	return false;
}

size_t replica_members(struct replica *r, struct replica_member ret_members[REPLICA_MEMBERS_MAX])
{
	const struct raft_configuration *c = &r->raft.configuration;
	size_t n = c->n < REPLICA_MEMBERS_MAX ? c->n : REPLICA_MEMBERS_MAX;
	for (size_t i = 0; i < n; i++) {
		ret_members[i] = (struct replica_member){
			.id = c->servers[i].id,
			.name = c->servers[i].address, /* genesis.h */
			.voter = c->servers[i].role == RAFT_VOTER,
		};
		raft_index match;
		if (r->leads && raft_match_index(&r->raft, c->servers[i].id, &match) == 0)
			ret_members[i].match = match;
	}
	return n;
}

bool replica_is_voter(struct replica *r, raft_id id)
{
	for (unsigned i = 0; i < r->raft.configuration.n; i++)
		if (r->raft.configuration.servers[i].id == id)
			return r->raft.configuration.servers[i].role == RAFT_VOTER;
	return false;
}

uint64_t replica_members_version(const struct replica *r)
{
	return r->members_version;
}

bool replica_is_changing(const struct replica *r)
{
	return r->raft.configuration_uncommitted_index != 0;
}

raft_index replica_last_index(const struct replica *r)
{
	return r->last;
}

/* libraft replaces its membership when one is proposed, received, taken back, or comes with a snapshot. */
void replica_follow_members(struct replica *r)
{
	raft_index committed = r->raft.configuration_committed_index, uncommitted = r->raft.configuration_uncommitted_index;
	if (committed == r->members_committed && uncommitted == r->members_uncommitted)
		return;
	r->members_committed = committed;
	r->members_uncommitted = uncommitted;
	r->members_version++;
}

/*
 * libraft 0.22.1 keeps one membership that is not committed and the committed one before it. When the next one comes
 * from the leader before the former was applied here, it forgets the former, and were the next one taken back, a
 * membership from before both would be in force, with another majority. But the leader proposes the next one only when
 * the former is committed; so where our log agrees with the leader's up to it, it is, and libraft is told.
 */
void replica_settle_members(struct replica *r, const struct raft_message *m)
{
	raft_index former = r->raft.configuration_uncommitted_index;
	if (m->type != RAFT_APPEND_ENTRIES || m->append_entries.n_entries == 0 ||
	    m->append_entries.entries[0].type != RAFT_CHANGE || former == 0 || former > m->append_entries.prev_log_index)
		return;
	/* The same without entries, to learn whether the logs agree. */
	struct raft_message probe = *m;
	probe.append_entries.entries = NULL;
	probe.append_entries.n_entries = 0;
	struct raft_event receive = { .type = RAFT_RECEIVE, .receive = { .message = &probe } };
	replica_step(r, &receive);
	if (raft_state(&r->raft) != RAFT_FOLLOWER || raft_current_term(&r->raft) != m->append_entries.term ||
	    r->raft.follower_state.match < former || r->raft.configuration_uncommitted_index != former)
		return;
	struct raft_event settled = { .type = RAFT_CONFIGURATION, .configuration = { .index = former } };
	struct raft_buffer encoded = { 0 };
	if (raft_configuration_encode(&r->raft.configuration, &encoded) != 0 ||
	    raft_configuration_decode(&encoded, &settled.configuration.conf) != 0)
		store_fatal(r->store, "keep a membership: out of memory");
	raft_free(encoded.base);
	replica_step(r, &settled); /* libraft owns what was decoded from now on */
}

/* The order of the others stays: libraft keeps what it knows of each by position. */
static bool make(const struct raft_configuration *now, raft_id id, const char *name, enum membership_role role,
		 struct raft_configuration *next)
{
	static const int roles[] = { [MEMBERSHIP_STANDBY] = RAFT_STANDBY, [MEMBERSHIP_VOTER] = RAFT_VOTER };
	bool found = false, ok = true;
	raft_configuration_init(next);
	for (unsigned i = 0; ok && i < now->n; i++) {
		const struct raft_server *s = &now->servers[i];
		found = found || s->id == id;
		if (s->id != id || role != MEMBERSHIP_NONE)
			ok = raft_configuration_add(next, s->id, s->address, s->id == id ? roles[role] : s->role) == 0;
	}
	if (ok && !found && role != MEMBERSHIP_NONE)
		ok = raft_configuration_add(next, id, name, roles[role]) == 0;
	return ok && next->n > 0;
}

bool replica_change(struct replica *r, raft_id id, const char *name, enum membership_role role)
{
	if (!r->leads || replica_is_changing(r) || r->transfer.done)
		return false;
	if (r->applied_term != raft_current_term(&r->raft)) {
		if (replica_last_term(r) != raft_current_term(&r->raft))
			(void)!replica_submit_barrier(r); /* asked for again */
		return false;
	}
	struct raft_configuration next;
	struct raft_buffer encoded = { 0 };
	bool ok = make(&r->raft.configuration, id, name, role, &next) && raft_configuration_encode(&next, &encoded) == 0;
	raft_configuration_close(&next);
	if (!ok)
		return false;
	struct raft_entry entry = { .term = raft_current_term(&r->raft), .type = RAFT_CHANGE, .buf = encoded };
	struct raft_event event = { .type = RAFT_SUBMIT, .submit = { .entries = &entry, .n = 1 } };
	ok = replica_submit_entries(r, &event);
	raft_free(encoded.base); /* the cache has a copy */
	return ok;
}
