/*
 * Do the replicas' states agree? Each replica takes its state's digest (state.h) at indexes at which others take theirs,
 * too: at every multiple of 1,024 of the applied index, and where it stands still. Of these it tells the newest, and the
 * newest at multiples of 16,384 and of 262,144: between two reports, half a second apart, the log may grow by more than
 * 1,024 entries, and what was told must not be overtaken before others have come there. Pure functions.
 */
#ifndef SERIAL_AGREEMENT_H
#define SERIAL_AGREEMENT_H

#include "services/serial/state.h"

struct agreement_sample {
	uint64_t index; /* of the log, all of it applied; 0: none */
	uint8_t digest[STATE_DIGEST_SIZE];
};

/* What a replica keeps of its own; zeroed is none. */
#define AGREEMENT_TOLD 4 /* samples in a report, at most */
#define AGREEMENT_KEPT 16
struct agreement_samples {
	struct agreement_sample kept[AGREEMENT_TOLD][AGREEMENT_KEPT];
	unsigned next[AGREEMENT_TOLD];
};

/* Is a sample due behind this entry, whatever the others do? */
bool agreement_due(uint64_t index);
/* Copies. */
void agreement_keep(struct agreement_samples *s, const struct agreement_sample *sample);
/* The sample at an index; NULL: there is none. */
const struct agreement_sample *agreement_find(const struct agreement_samples *s, uint64_t index);
/* What to tell; borrowed until the next agreement_keep(). Returns how many. */
size_t agreement_tell(const struct agreement_samples *s, const struct agreement_sample *ret_told[AGREEMENT_TOLD]);

/* What another replica told. */
struct agreement_report {
	uint64_t id;
	bool voter;
	struct agreement_sample samples[AGREEMENT_TOLD];
	size_t n;
};

enum agreement {
	AGREEMENT_NONE_DIFFERS, /* or nothing to compare */
	AGREEMENT_OPEN,         /* some differ: nobody can tell who is wrong */
	AGREEMENT_WRONG,        /* this replica is */
};

/*
 * This replica is wrong when a majority of all voters agree on another digest at the same index. Two voters have no such
 * majority: there the one that follows is taken for wrong, and so is a standby, because what the leader says is what
 * clients were told. *ret_index and *ret_other: where, and who differs (AGREEMENT_NONE_DIFFERS: untouched).
 */
enum agreement agreement_judge(const struct agreement_samples *own, bool leads, uint64_t leader, bool voter,
			       const struct agreement_report *reports, size_t n, uint64_t *ret_index,
			       uint64_t *ret_other);

#endif
