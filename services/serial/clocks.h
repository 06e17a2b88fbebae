/*
 * What time it is in the cluster. Commands are stamped with the leader's time, and the state's time never goes back: a
 * leader whose clock is years ahead would expire every record, for good. So the time of a stamp is agreed on as entries
 * are: the others' clocks are known from what they tell of themselves, and the latest time that the clocks of a majority
 * of the voters have reached, plus a tolerance, bounds the stamp; the same less the tolerance is its least, so that a
 * leader whose clock stands far behind does not hold up time. Pure functions; times in ms.
 *
 * With one voter its clock is the time. With two it is the earlier one of both clocks, plus the tolerance at most.
 */
#ifndef SERIAL_CLOCKS_H
#define SERIAL_CLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLOCKS_TOLERANCE_MS 10000

/*
 * Another's clock, from the times that it told: its wall clock less our monotonic one when the message came. What a
 * message needed on its way makes that too small, so the largest of the newest few is the best: it is too small by what
 * the fastest of them needed. What is older than the window does not count: clocks are set. Zeroed is not known.
 */
#define CLOCKS_HEARD 4
#define CLOCKS_WINDOW_MS 5000
struct clock_estimate {
	struct {
		int64_t ahead_ms;
		uint64_t at_ms; /* monotonic; 0: none */
	} heard[CLOCKS_HEARD];
	unsigned next;
};
void clock_estimate_add(struct clock_estimate *e, uint64_t told_unix_ms, uint64_t now_monotonic_ms);
/* Its wall clock now; 0: not known, or not any more. */
uint64_t clock_estimate_now(const struct clock_estimate *e, uint64_t now_monotonic_ms);

/*
 * The time of a stamp. `own` is this replica's wall clock, `clocks` those of voters (its own too, if it is one) that
 * were heard lately, in any order, which it sorts. 0: so few are known that no majority can have reached any time.
 */
uint64_t clocks_agree(uint64_t own, uint64_t *clocks, size_t n, size_t voters);

#endif
