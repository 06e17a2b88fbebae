/*
 * The disk of a replica: the files of its database in memory, under SQLite's VFS interface, and the guard's file
 * beside them (services/serial/guard.h), a real one.
 *
 * Writes become durable with a sync; until then a loss of power may leave any of them, whole, in part or not at all. A
 * crash of the process alone leaves them all. disk_crash() takes what would be left; the replica, a ghost from now on,
 * may go on with what it believes, until disk_restore() makes the disk what was left.
 */
#ifndef SIMULATION_DISK_H
#define SIMULATION_DISK_H

#include "tests/fault/simulation/simulation.h"

struct disk;

/* Before the first database is opened. */
void disk_install(void);
/* For databases in `dir`, which is borrowed. */
struct disk *disk_new(struct sim *s, const char *dir);
void disk_free(struct disk *d);

void disk_crash(struct disk *d, bool power);
/* The same in front of a later write or sync: after `operations` others. */
void disk_crash_within(struct disk *d, unsigned operations, bool power);
bool disk_crashed(const struct disk *d);
/* The guard's file is gone. When no database is open on it. */
void disk_lose_guard(struct disk *d);
/* When no database is open on it. */
void disk_restore(struct disk *d);

#endif
