/*
 * The end of a replica's process, as the product's code decides it (store_fatal()): it ends the replica's part in the
 * simulation instead, where its disk has given it reason to.
 */
#ifndef SIMULATION_ENDING_H
#define SIMULATION_ENDING_H

#include <stdbool.h>

#include "tests/fault/simulation/disk.h"

/* Runs a part of a replica's life. False: it ended its process in the middle; what it had in memory is not to be used any
 * more, and is not freed. Ends the process truly if this disk has refused nothing. */
bool ending_run(const struct disk *disk, void (*run)(void *arg), void *arg);
/* Did any replica end so? Then memory was lost. */
bool ending_happened(void);

#endif
