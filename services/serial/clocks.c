#include "services/serial/clocks.h"

#include <stdlib.h>

void clock_estimate_add(struct clock_estimate *e, uint64_t told_unix_ms, uint64_t now_monotonic_ms)
{
	unsigned i = e->next++ % CLOCKS_HEARD;
	e->heard[i].ahead_ms = (int64_t)(told_unix_ms - now_monotonic_ms);
	e->heard[i].at_ms = now_monotonic_ms;
}

uint64_t clock_estimate_now(const struct clock_estimate *e, uint64_t now_monotonic_ms)
{
	uint64_t latest = 0;
	for (unsigned i = 0; i < CLOCKS_HEARD; i++) {
		if (e->heard[i].at_ms == 0 || now_monotonic_ms - e->heard[i].at_ms > CLOCKS_WINDOW_MS)
			continue;
		uint64_t clock = now_monotonic_ms + (uint64_t)e->heard[i].ahead_ms;
		if (clock > latest)
			latest = clock;
	}
	return latest;
}

static int later_first(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x < y) - (x > y);
}

uint64_t clocks_agree(uint64_t own, uint64_t *clocks, size_t n, size_t voters)
{
	size_t majority = voters / 2 + 1;
	if (n < majority)
		return 0;
	qsort(clocks, n, sizeof *clocks, later_first);
	uint64_t reached = clocks[majority - 1];
	uint64_t least = reached > CLOCKS_TOLERANCE_MS ? reached - CLOCKS_TOLERANCE_MS : 0;
	uint64_t most = reached < UINT64_MAX - CLOCKS_TOLERANCE_MS ? reached + CLOCKS_TOLERANCE_MS : UINT64_MAX;
	return own > most ? most : own < least ? least : own;
}
