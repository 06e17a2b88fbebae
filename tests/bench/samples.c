#include "tests/bench/samples.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"

#define SAMPLES_MAX (8u << 20)

static uint32_t *samples; /* microseconds */
static atomic_uint n_samples, total;
static atomic_bool measuring;
static uint64_t began_us, took_us;

void samples_init(void)
{
	samples = malloc(SAMPLES_MAX * sizeof *samples);
	if (!samples) {
		fprintf(stderr, "bench: out of memory\n");
		exit(1);
	}
}

void samples_start(void)
{
	began_us = clock_monotonic_us();
	atomic_store(&measuring, true);
}

void samples_stop(void)
{
	atomic_store(&measuring, false);
	took_us = clock_monotonic_us() - began_us;
}

void samples_add(uint64_t started_us)
{
	atomic_fetch_add(&total, 1);
	if (!atomic_load(&measuring))
		return;
	unsigned i = atomic_fetch_add(&n_samples, 1);
	if (i < SAMPLES_MAX)
		samples[i] = (uint32_t)(clock_monotonic_us() - started_us);
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

bool samples_print(unsigned in_flight, unsigned failed)
{
	unsigned n = atomic_load(&n_samples);
	unsigned kept = n < SAMPLES_MAX ? n : SAMPLES_MAX;
	if (kept == 0)
		return false;
	qsort(samples, kept, sizeof *samples, by_value);
	printf("rate=%.0f in_flight=%u p50=%u p99=%u max=%u failed=%u total=%u\n", (double)n * 1e6 / (double)took_us,
	       in_flight, samples[kept / 2], samples[(size_t)kept * 99 / 100], samples[kept - 1], failed,
	       atomic_load(&total));
	return true;
}
