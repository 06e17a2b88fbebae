#include "common/daemon/workers.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#define MAX_THREADS 256

struct workers {
	pthread_mutex_t lock;
	pthread_cond_t queued; /* a job came, or stopping */
	struct turns jobs;
	struct workers_limits limits;
	bool stopping;
	unsigned n_threads;
	pthread_t threads[];
};

/* False: stopping, and nothing is left to do. A copy: the job may be gone as soon as its work has begun. */
static bool next_job(struct workers *w, struct workers_job *ret_job)
{
	pthread_mutex_lock(&w->lock);
	while (w->jobs.n == 0 && !w->stopping)
		pthread_cond_wait(&w->queued, &w->lock);
	struct turns_entry *first = turns_take(&w->jobs);
	if (first)
		*ret_job = *(struct workers_job *)(void *)((char *)first - offsetof(struct workers_job, turn));
	pthread_mutex_unlock(&w->lock);
	return first;
}

static void *run(void *arg)
{
	struct workers *w = arg;
	pthread_setname_np(pthread_self(), "worker");
	struct workers_job job;
	while (next_job(w, &job))
		job.work(job.arg);
	return NULL;
}

enum status_code workers_start(const struct workers_limits *limits, struct status *st, struct workers **ret_workers)
{
	unsigned threads = limits->threads ? limits->threads : (unsigned)get_nprocs();
	if (threads > MAX_THREADS)
		threads = MAX_THREADS;
	struct workers *w = calloc(1, sizeof *w + threads * sizeof w->threads[0]);
	if (!w)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start worker threads: out of memory");
	w->limits = *limits;
	turns_init(&w->jobs);
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
	free(w);
}

enum status_code workers_submit(struct workers *w, struct workers_job *job, struct status *st)
{
	pthread_mutex_lock(&w->lock);
	size_t n = turns_waiting(&w->jobs, job->turn.whose);
	bool full = w->jobs.n >= w->limits.max_queued;
	bool fits = !full && n < w->limits.max_queued_one;
	if (fits) {
		turns_put(&w->jobs, &job->turn);
		pthread_cond_signal(&w->queued);
	}
	pthread_mutex_unlock(&w->lock);
	if (fits)
		return STATUS_OK;
	if (full)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "too much work is queued; try again later");
	return status_set(st, STATUS_RESOURCE_EXHAUSTED, "%zu requests of %.100s wait already; try again later", n,
			  job->turn.whose);
}
