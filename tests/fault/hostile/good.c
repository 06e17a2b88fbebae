#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "tests/fault/hostile/hostile.h"
#include "tests/support/echo.h"

static pthread_t threads[2];
static atomic_bool stopping;
static atomic_ulong answers, missed, slowest_ms;

static void note(unsigned long ms)
{
	unsigned long before = atomic_load(&slowest_ms);
	while (ms > before && !atomic_compare_exchange_weak(&slowest_ms, &before, ms))
		;
}

/* arg "new": a new connection for each request; else one for all. */
static void *ask(void *arg)
{
	const bool anew = strcmp(arg, "new") == 0;
	uint8_t data[8192];
	struct sp_client c = { .fd = -1 };
	while (!atomic_load(&stopping)) {
		size_t len = 1 + (size_t)rand() % sizeof data;
		if (getrandom(data, len, 0) != (ssize_t)len)
			die("getrandom failed");
		unsigned long started = now_ms();
		if ((c.fd >= 0 || sp_open(&c, NULL, target.asks, target.good)) && echo(&c, data, len)) {
			atomic_fetch_add(&answers, 1);
		} else {
			complain("a good client (%s) missed an answer, after %lu ms", (const char *)arg, now_ms() - started);
			atomic_fetch_add(&missed, 1);
			sp_close(&c, true);
		}
		note(now_ms() - started);
		if (anew)
			sp_close(&c, false);
		usleep(2000);
	}
	sp_close(&c, false);
	return NULL;
}

void good_start(void)
{
	atomic_store(&stopping, false);
	if (pthread_create(&threads[0], NULL, ask, (void *)(uintptr_t) "same") != 0 ||
	    pthread_create(&threads[1], NULL, ask, (void *)(uintptr_t) "new") != 0)
		die("no thread");
}

void good_stop(void)
{
	atomic_store(&stopping, true);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
}

struct good good_take(void)
{
	return (struct good){ atomic_exchange(&answers, 0), atomic_exchange(&missed, 0), atomic_exchange(&slowest_ms, 0) };
}
