#include "tests/fault/simulation/members.h"

#include "tests/fault/simulation/node.h"

/* Who leads, perhaps of two that think so; NODES_MAX: none does. */
static unsigned find_leader(const struct sim *s, unsigned first)
{
	for (unsigned k = 0; k < s->n_nodes; k++) {
		unsigned i = (first + k) % s->n_nodes;
		if (node_running(s->nodes[i]) && node_leads(s->nodes[i]))
			return i;
	}
	return NODES_MAX;
}

void members_disturb(struct sim *s)
{
	static const enum membership_role roles[] = { MEMBERSHIP_NONE, MEMBERSHIP_STANDBY, MEMBERSHIP_VOTER };
	unsigned leader = find_leader(s, (unsigned)sim_dice(s, s->n_nodes));
	unsigned of = (unsigned)sim_dice(s, s->n_nodes), role = (unsigned)sim_dice(s, 3);
	if (leader != NODES_MAX && leader != of && (roles[role] != MEMBERSHIP_VOTER || node_has_all(s->nodes[leader], of)))
		node_change(s->nodes[leader], of, roles[role]);
}

bool members_restore(struct sim *s)
{
	unsigned leader = find_leader(s, 0);
	if (leader == NODES_MAX)
		return false;
	for (unsigned i = 0; i < s->n_nodes; i++) {
		enum membership_role role = node_role(s->nodes[leader], i);
		if (role == MEMBERSHIP_VOTER)
			continue;
		if (role == MEMBERSHIP_NONE)
			node_change(s->nodes[leader], i, MEMBERSHIP_STANDBY);
		else if (node_has_all(s->nodes[leader], i))
			node_change(s->nodes[leader], i, MEMBERSHIP_VOTER);
		return false;
	}
	return !node_is_changing(s->nodes[leader]);
}
