/*
 * The membership changes while all else happens: members are made standbys, removed, and come back, as a leader's engine
 * may do it (services/serial/members.c), without most of the care for the quorum that membership.c has: only who has all
 * gets a vote. Safe it must be in any case. In some of the clusters, whose clocks are never far off, as their majority is
 * another one each time.
 */
#ifndef SIMULATION_MEMBERS_H
#define SIMULATION_MEMBERS_H

#include "tests/fault/simulation/simulation.h"

/* Whoever leads is told to make one change, of another one than itself. */
void members_disturb(struct sim *s);
/* Do all vote? If not, whoever leads is told to bring the next one back. */
bool members_restore(struct sim *s);

#endif
