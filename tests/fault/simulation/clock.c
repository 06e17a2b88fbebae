/* Takes the place of common/base/clock.c: no time passes but the simulation's. */
#include "common/base/clock.h"
#include "tests/fault/simulation/simulation.h"

static uint64_t monotonic, wall;

void sim_clock_set(uint64_t monotonic_ms, uint64_t unix_ms)
{
	monotonic = monotonic_ms;
	wall = unix_ms;
}

uint64_t clock_monotonic_ms(void)
{
	return monotonic;
}

uint64_t clock_monotonic_us(void)
{
	return monotonic * 1000;
}

uint64_t clock_unix_ms(void)
{
	return wall;
}
