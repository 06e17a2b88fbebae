/*
 * The disk of a replica: the files of its database in memory, under SQLite's VFS interface, and the guard's file
 * beside them (services/serial/guard.h), a real one.
 *
 * Writes become durable with a sync (medium.h); a crash of the process alone leaves them all. disk_crash() takes what
 * would be left; the replica, a ghost from now on, may go on with what it believes, until disk_restore() makes the disk
 * what was left.
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
/* After so many other writes and syncs it refuses one, with EIO or ENOSPC, or all from then on until it is mended. */
void disk_fail_within(struct disk *d, unsigned operations, bool lasting);
void disk_mend(struct disk *d);
/* Since it was restored last. */
bool disk_has_refused(const struct disk *d);
/* The guard's file is gone. When no database is open on it. */
void disk_lose_guard(struct disk *d);
/* Everything is gone. Likewise. */
void disk_wipe(struct disk *d);
/* After a crash. Databases that are still open on it, of a process that ended, are not to be used any more. */
void disk_restore(struct disk *d);

#endif
