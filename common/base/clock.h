/* Clocks. None blocks or fails. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

/* Milliseconds of CLOCK_MONOTONIC: deadlines, timers. */
uint64_t clock_monotonic_ms(void);
/* Microseconds of the same. */
uint64_t clock_monotonic_us(void);
/* Unix milliseconds (CLOCK_REALTIME): what goes into certificates and records. */
uint64_t clock_unix_ms(void);

#endif
