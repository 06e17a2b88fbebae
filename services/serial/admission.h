/*
 * May this replica take part? One that began with the cluster derives its first log entries from its configuration file,
 * so an empty data directory looks the same at the very first start and after its data was lost. In the latter case it
 * must not vote or acknowledge anything: it would contradict what it promised, and acknowledged entries could be lost.
 *
 * Each data directory has an incarnation, a random number. The rule: an empty replica is mute until EVERY other replica
 * that began the cluster has told it, either that it did not take part itself yet, or that it knows this replica under
 * just this incarnation. Before it takes part it writes down the incarnations of all the others, and from then on it
 * takes messages of a replica from the incarnation on record alone.
 *
 * Why that is enough: let replica B with incarnation b1 have promised something, lost its data, and come back as b2. A
 * promise that counts was heard by some replica P that took part, so P had b1 on record, for good, before it heard it.
 * P tells b2 neither that it does not take part nor that it knows b2: b2 stays mute for as long as P's disk lives. (If no
 * such disk lives, then a majority has lost its data.) The price: at the very first start all must meet once.
 *
 * Those that were added later need no such rule: they vote only when their incarnation is in the replicated state
 * (membership.h), which whoever has them as a voter in its log has applied.
 *
 * Pure but for its memory. One thread.
 */
#ifndef SERIAL_ADMISSION_H
#define SERIAL_ADMISSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ADMISSION_MAX 7

struct admission_other {
	uint64_t id;
	uint64_t incarnation; /* on record, or else as it said last; 0: not heard of */
	bool lets;            /* it told us what lets us take part */
};

struct admission {
	uint64_t incarnation; /* ours */
	bool takes_part;
	struct admission_other others[ADMISSION_MAX];
	size_t n;
};

/* `ids`: of the replicas that began the cluster, ourselves too (or 0 of them: we were added later, and take part). At
 * most ADMISSION_MAX. */
void admission_init(struct admission *a, uint64_t self, uint64_t incarnation, const uint64_t *ids, size_t n);
/* What was written down when it began to take part: call it for each other, then set takes_part. */
void admission_recall(struct admission *a, uint64_t id, uint64_t incarnation);

/* Another one told that it takes part, or not, and under which incarnation it knows us (0: none). False: it knows us
 * under another one, so our data was lost: we can never take part. */
bool admission_told(struct admission *a, uint64_t id, uint64_t incarnation, bool takes_part, uint64_t knows_us);
/* May it begin to take part? Then write down `others`, set takes_part. */
bool admission_ready(const struct admission *a);
/* On record; 0: none. Until it takes part nothing is. */
uint64_t admission_record(const struct admission *a, uint64_t id);

#endif
