/* Snapshots that were changed on their way by somebody who makes their hashes fit. */
#ifndef SIMULATION_FORGERY_H
#define SIMULATION_FORGERY_H

#include "state.pb-c.h"
#include "tests/fault/simulation/simulation.h"

struct forgery;

struct forgery *forgery_new(void);
void forgery_free(struct forgery *f);
/* In place. `index`: what the head says of its index, else the end of the state's rows. */
void forgery_change(struct forgery *f, Kds__V1__SnapshotPart *part, bool index);

#endif
