/*
 * A deterministic simulation of the replicated log: 3 to 7 replicas (services/serial/replica.h) on simulated disks,
 * network and clocks, with clients that write, read and repeat, in one thread. Everything that happens follows from
 * the seed.
 *
 *   main.c      options; a process for each seed
 *   cluster.c   the order of events, misfortunes, the end
 *   members.c   changes of the membership
 *   node.c      one replica and what an engine does around it; crashes
 *   disk.c      SQLite's files, in memory; crashes, and disks that refuse
 *   medium.c    what a file holds: for processes, and on the disk
 *   ending.c    replicas that end themselves
 *   network.c   streams between replicas, as the transport has them
 *   client.c    requests, repeated until they are answered
 *   op.c        what is asked; what an answer must be like
 *   objects.c   likewise for configuration objects
 *   check.c     what must hold of logs and states
 *   clock.c     the clocks that the product's code reads
 *
 * A mutant is a fault that no replica can survive, put in at the simulation's own seams: it proves that the checks
 * notice. A violation ends the process with status 1.
 */
#ifndef SIMULATION_H
#define SIMULATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/status.h"
#include "services/serial/engine.h" /* LOG_TAIL_DEFAULT */

#define NODES_MAX 7
#define START_MS 1000000        /* of the monotonic clock */
#define UNIX_MS 1700000000000u /* the wall clocks' at that time */

enum mutant {
	MUTANT_NONE,
	MUTANT_KEPT_TAIL,              /* the disk keeps entries that are to be replaced */
	MUTANT_OLD_DATABASE,           /* a crash brings back an older one: the disk did not sync */
	MUTANT_LYING_DISK,             /* the same, and the guard (services/serial/guard.h) does not notice */
	MUTANT_FORGOTTEN_REQUESTS,     /* a replica loses its request ids at a restart */
	MUTANT_NO_REQUEST_IDS,         /* nobody sees that a request is a repetition */
	MUTANT_FORGOTTEN_VOTE,         /* a replica may vote again after a restart, and has lost its guard, too */
	MUTANT_LOCAL_READS,            /* a read is answered without asking anybody */
	MUTANT_OLD_CONFIRMATIONS,      /* who confirmed a round to a leader has confirmed all that follow, in any term */
	MUTANT_CHANGED_ENTRY,          /* an entry's bytes change on their way */
	MUTANT_FORGED_ACKNOWLEDGEMENT, /* what one replica has on disk counts as another's, too */
	MUTANT_CHANGED_PART,           /* a snapshot's bytes change on their way, and their hashes with them */
	MUTANT_MOVED_SNAPSHOT,         /* a snapshot says that it is of the entry behind its own */
	MUTANT_OWN_CLOCK,              /* a leader stamps with its own clock, whatever the others' say */
	MUTANT_IGNORED_ERROR,          /* nobody hears that a sync failed */
	MUTANT_CHANGED_ROW,            /* a row of the state changes on the disk */
	MUTANT_CHANGED_DIGEST,         /* the running digest does, and nobody reads the tables again */
	MUTANT_WIPED_REPLICA,          /* a replica that has lost everything takes part again (services/serial/admission.h) */
	MUTANT_NO_COMPARE,             /* an object is set or deleted whatever its revision is */
	MUTANT_COUNT,
};

struct sim {
	uint64_t seed;
	uint64_t random;
	uint64_t now_ms; /* monotonic */
	uint64_t step;
	enum mutant mutant;
	bool verbose;
	const char *dir;
	unsigned election_ms, heartbeat_ms;
	unsigned log_tail; /* entries */
	size_t snapshot_part; /* bytes */
	bool healed;       /* no more misfortunes */
	unsigned n_members; /* of the cluster when it begins */
	unsigned n_nodes;   /* they, and those that may be added */
	unsigned voters_min; /* that changes of the membership leave: 1 or 3 */
	unsigned changes;    /* that were proposed */
	struct node *nodes[NODES_MAX]; /* ids are one more than the index */
	struct network *network;
	struct clients *clients;
	struct check *check;
};

/* Runs one seed. Returns when everything held. */
void sim_run(uint64_t seed, uint64_t steps, enum mutant mutant, bool verbose, const char *dir);

/* A number below `n`, which is not 0. */
uint64_t sim_dice(struct sim *s, uint64_t n);
bool sim_chance(struct sim *s, unsigned percent);

/* Says what does not hold, and ends the process. */
_Noreturn void sim_fail(const struct sim *s, const char *format, ...) PRINTF_LIKE(2, 3);
/* A line of what happens, when it is wanted. */
void sim_trace(const struct sim *s, const char *format, ...) PRINTF_LIKE(2, 3);
/* Zeroed; never NULL. */
void *sim_alloc(size_t size);
/* Room for one more element in an array; never NULL. */
void *sim_grow(void *array, size_t n, size_t *cap, size_t size);

/* What clock_monotonic_ms() and clock_unix_ms() say from now on. */
void sim_clock_set(uint64_t monotonic_ms, uint64_t unix_ms);

#endif
