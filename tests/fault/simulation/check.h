/*
 * What must hold of the replicas' logs and states, whatever happens (Ongaro, "Consensus", figure 3.2): at most one
 * leader a term, one vote a term, one entry for an index and term, one committed entry for an index, in the log of
 * every later leader; and the same state after the same entry.
 */
#ifndef SIMULATION_CHECK_H
#define SIMULATION_CHECK_H

#include "state.pb-c.h"
#include "tests/fault/simulation/simulation.h"

struct check;

struct check *check_new(struct sim *s);
void check_free(struct check *c);

/* A replica (by index) runs, from what is on its disk. */
void check_started(struct check *c, unsigned index);
/* A message that arrives. */
void check_message(struct check *c, unsigned from, unsigned to, const Kds__V1__PeerMessage *m);
/* A replica has finished a turn. */
void check_turn(struct check *c, unsigned index);
/* These run and have applied everything: logs and tables are the same. */
void check_end(struct check *c, const bool replicas[NODES_MAX]);

/* Of what was done: terms with a leader, committed entries, states compared. */
void check_report(const struct check *c, uint64_t *ret_leaders, uint64_t *ret_committed, uint64_t *ret_compared);

#endif
