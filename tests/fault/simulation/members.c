#include "tests/fault/simulation/members.h"

#include "tests/fault/simulation/check.h"
#include "tests/fault/simulation/node.h"

static struct node *newest_leader(struct sim *s)
{
	struct node *leader = NULL;
	uint64_t term = 0;
	for (unsigned i = 0; i < s->n_nodes; i++) {
		Kds__V1__ReplicaStatus status;
		if (!node_running(s->nodes[i]))
			continue;
		node_status(s->nodes[i], &status);
		if (status.role != KDS__V1__RAFT_ROLE__RAFT_ROLE_LEADER || status.term < term)
			continue;
		leader = s->nodes[i];
		term = status.term;
	}
	return leader;
}

static const struct replica_member *find(const struct replica_member *members, size_t n, uint64_t id)
{
	for (size_t i = 0; i < n; i++)
		if (members[i].id == id)
			return &members[i];
	return NULL;
}

void members_change(struct sim *s)
{
	struct node *leader = newest_leader(s);
	if (!leader)
		return;
	struct replica_member members[REPLICA_MEMBERS_MAX];
	size_t n = replica_members(node_replica(leader), members), voters = 0;
	for (size_t i = 0; i < n; i++)
		voters += members[i].voter;
	uint64_t id = 1 + sim_dice(s, s->n_nodes);
	const struct replica_member *m = find(members, n, id);
	enum membership_role role = MEMBERSHIP_STANDBY;
	if (s->nodes[id - 1] == leader || (m && m->voter && voters <= s->voters_min))
		return;
	if (m && !m->voter && sim_chance(s, 80)) {
		/* It knows that it is a member: else it would not vote where it has to. */
		if (m->match < replica_last_index(node_replica(leader)))
			return;
		role = MEMBERSHIP_VOTER;
	} else if (m && (!m->voter || sim_chance(s, 50))) {
		role = MEMBERSHIP_NONE;
	}
	node_change_member(leader, id, role);
}

bool members_now(struct sim *s, bool ret_members[NODES_MAX])
{
	struct replica_member members[REPLICA_MEMBERS_MAX];
	struct node *leader = newest_leader(s);
	uint64_t leaders, committed, compared;
	Kds__V1__ReplicaStatus status;
	if (!leader || replica_is_changing(node_replica(leader)))
		return false;
	node_status(leader, &status);
	check_report(s->check, &leaders, &committed, &compared);
	if (status.applied_index < committed)
		return false; /* it led once, or has yet to learn what it leads */
	size_t n = replica_members(node_replica(leader), members);
	for (unsigned i = 0; i < NODES_MAX; i++)
		ret_members[i] = find(members, n, i + 1) != NULL;
	return true;
}
