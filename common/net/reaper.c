/*
 * Connections are freed here: nng_aio_stop() and nng_aio_free() wait for a callback that still runs, and so must not be
 * called from one. One thread a process, detached: it lives until the process ends.
 */
#include <signal.h>
#include <string.h>

#include "common/net/conn_internal.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t filled = PTHREAD_COND_INITIALIZER;
static struct conn *queue;
static bool running;

static void *run(void *unused)
{
	(void)unused;
	for (;;) {
		pthread_mutex_lock(&mutex);
		while (!queue)
			pthread_cond_wait(&filled, &mutex);
		struct conn *batch = queue;
		queue = NULL;
		pthread_mutex_unlock(&mutex);
		while (batch) {
			struct conn *c = batch;
			batch = c->next_dead;
			conn_destroy(c);
		}
	}
	return NULL;
}

/* Signals are the main thread's: this one is made with all of them blocked. */
static int start_thread(void)
{
	pthread_attr_t attributes;
	int rv = pthread_attr_init(&attributes);
	if (rv != 0)
		return rv;
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_t thread;
	rv = pthread_create(&thread, &attributes, run, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return rv;
}

enum status_code reaper_start(struct status *st)
{
	pthread_mutex_lock(&mutex);
	int rv = running ? 0 : start_thread();
	running = running || rv == 0;
	pthread_mutex_unlock(&mutex);
	if (rv != 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start a thread: %s", strerror(rv));
	return STATUS_OK;
}

void reaper_submit(struct conn *c)
{
	pthread_mutex_lock(&mutex);
	c->next_dead = queue;
	queue = c;
	pthread_cond_signal(&filled);
	pthread_mutex_unlock(&mutex);
}
