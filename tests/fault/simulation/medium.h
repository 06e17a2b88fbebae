/*
 * What one file holds: as processes see it, which is the system's memory, and as the disk has it.
 *
 * What is written becomes durable with a sync; until then a loss of power may leave any of it, whole, in part or not at
 * all. When a sync fails, Linux takes what was written for clean: processes go on seeing it, some of it is on the disk,
 * and no later sync brings the rest there.
 */
#ifndef SIMULATION_MEDIUM_H
#define SIMULATION_MEDIUM_H

#include "tests/fault/simulation/simulation.h"

struct bytes {
	uint8_t *data;
	size_t len, cap;
};

struct medium_write {
	size_t offset, len;
	uint8_t *data;
};

struct content {
	bool exists;
	struct bytes seen, durable;
	struct medium_write *pending; /* in order; neither synced nor given up */
	size_t n_pending, cap_pending;
};

struct medium {
	struct content now, left; /* left: what a crash left of it */
};

void medium_free(struct medium *m);
void medium_write(struct medium *m, size_t offset, const void *data, size_t len);
void medium_truncate(struct medium *m, size_t size);
void medium_remove(struct medium *m);
void medium_sync(struct medium *m);
void medium_fail_sync(struct medium *m, struct sim *s);
/* Decides what a crash leaves: of the process, or a loss of power. */
void medium_crash(struct medium *m, struct sim *s, bool power);
/* Likewise, when nothing that is not durable is left (a mutant's disk). */
void medium_forget(struct medium *m);
/* Makes it what was left. */
void medium_restore(struct medium *m);

#endif
