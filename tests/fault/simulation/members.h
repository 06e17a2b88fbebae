/*
 * Changes of the membership while everything else goes on: replicas that have nothing are added as standbys, get votes
 * once they have the log, lose them, are removed, and come back with what they had. A leader changes only others.
 * This is as loose as Raft allows; services/serial/membership.h has the product's rules.
 */
#ifndef SIMULATION_MEMBERS_H
#define SIMULATION_MEMBERS_H

#include "tests/fault/simulation/simulation.h"

/* The leader, if there is one, is asked for a change. */
void members_change(struct sim *s);
/* Who the members are, by index, as the leader knows that has applied all; false: there is none, or a change is under
 * way. */
bool members_now(struct sim *s, bool ret_members[NODES_MAX]);

#endif
