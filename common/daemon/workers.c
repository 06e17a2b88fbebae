#include "common/daemon/workers.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#define MAX_THREADS 256

struct job {
	void (*work)(void *arg);
	void *arg;
};

struct workers {
	pthread_mutex_t lock;
	pthread_cond_t queued; /* a job came, or stopping */
	struct job *ring;
	size_t size, head, used;
	bool stopping;
	unsigned n_threads;
	pthread_t threads[];
};

/* False: stopping, and nothing is left to do. */
static bool next_job(struct workers *w, struct job *ret_job)
{
	pthread_mutex_lock(&w->lock);
	while (w->used == 0 && !w->stopping)
		pthread_cond_wait(&w->queued, &w->lock);
	bool any = w->used > 0;
	if (any) {
		*ret_job = w->ring[w->head];
		w->head = (w->head + 1) % w->size;
		w->used--;
	}
	pthread_mutex_unlock(&w->lock);
	return any;
}

static void *run(void *arg)
{
	struct workers *w = arg;
	pthread_setname_np(pthread_self(), "worker");
	struct job job;
	while (next_job(w, &job))
		job.work(job.arg);
	return NULL;
}

enum status_code workers_start(unsigned threads, unsigned max_queued, struct status *st, struct workers **ret_workers)
{
	if (threads == 0)
		threads = (unsigned)get_nprocs();
	if (threads > MAX_THREADS)
		threads = MAX_THREADS;
	struct workers *w = calloc(1, sizeof *w + threads * sizeof w->threads[0]);
	struct job *ring = calloc(max_queued ? max_queued : 1, sizeof *ring);
	if (!w || !ring) {
		free(w);
		free(ring);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start worker threads: out of memory");
	}
	w->ring = ring;
	w->size = max_queued ? max_queued : 1;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->queued, NULL);
	while (w->n_threads < threads) {
		int rv = pthread_create(&w->threads[w->n_threads], NULL, run, w);
		if (rv != 0) {
			workers_stop(w);
			return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start worker threads: %s", strerror(rv));
		}
		w->n_threads++;
	}
	*ret_workers = w;
	return STATUS_OK;
}

void workers_stop(struct workers *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stopping = true;
	pthread_cond_broadcast(&w->queued);
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->n_threads; i++)
		pthread_join(w->threads[i], NULL);
	pthread_cond_destroy(&w->queued);
	pthread_mutex_destroy(&w->lock);
	free(w->ring);
	free(w);
}

enum status_code workers_submit(struct workers *w, void (*work)(void *arg), void *arg, struct status *st)
{
	pthread_mutex_lock(&w->lock);
	bool full = w->used == w->size;
	if (!full) {
		w->ring[(w->head + w->used) % w->size] = (struct job){ .work = work, .arg = arg };
		w->used++;
		pthread_cond_signal(&w->queued);
	}
	pthread_mutex_unlock(&w->lock);
	if (full)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "too much work is queued; try again later");
	return STATUS_OK;
}
