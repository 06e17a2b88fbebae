/* What a running process holds, from /proc. */
#ifndef TESTS_HOLDING_H
#define TESTS_HOLDING_H

struct holding {
	unsigned descriptors, threads, rss_kib, peak_kib;
};

/* Ends the program when there is no such process (any more). */
struct holding holding_of(const char *pid);

/* CPU time that it has used so far, of all its threads. */
unsigned long holding_cpu_ms(const char *pid);

/* Connections end a little after their peer: waits at most 30 s until descriptors and threads are no more than `before`. */
struct holding holding_settle(const char *pid, const struct holding *before);

#endif
