/* What the load programs measure: latencies of the operations that ended while measuring, and one line about them. */
#ifndef BENCH_SAMPLES_H
#define BENCH_SAMPLES_H

#include <stdbool.h>
#include <stdint.h>

/* Ends the program when there is no memory. */
void samples_init(void);
/* Time is measured from here to the stop; what ends before or after counts for `total` alone. Any thread. */
void samples_start(void);
void samples_stop(void);
/* An operation that began at started_us (monotonic) has just succeeded. Any thread. */
void samples_add(uint64_t started_us);
/* Nothing was measured: false. Else prints rate (a second), p50, p99, max (microseconds), failed, and total: all that
 * ever succeeded, measured or not. */
bool samples_print(unsigned in_flight, unsigned failed);

#endif
