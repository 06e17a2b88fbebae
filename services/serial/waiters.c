#include "services/serial/waiters.h"

#include <stdlib.h>

bool waiters_reserve(struct waiters *w, size_t more)
{
	if (more <= w->cap - w->n)
		return true;
	size_t cap = w->cap ? w->cap : 64;
	while (cap < w->n + more)
		cap *= 2;
	struct waiter *ring = malloc(cap * sizeof *ring);
	if (!ring)
		return false;
	for (size_t i = 0; i < w->n; i++)
		ring[i] = w->ring[(w->first + i) & (w->cap - 1)];
	free(w->ring);
	w->ring = ring;
	w->cap = cap;
	w->first = 0;
	return true;
}

void waiters_add(struct waiters *w, const struct waiter *waiter)
{
	w->ring[(w->first + w->n++) & (w->cap - 1)] = *waiter;
}

bool waiters_take(struct waiters *w, raft_index index, struct waiter *ret_waiter)
{
	if (w->n == 0 || w->ring[w->first].index > index)
		return false;
	*ret_waiter = w->ring[w->first];
	w->first = (w->first + 1) & (w->cap - 1);
	w->n--;
	return true;
}

void waiter_fail(const struct waiter *w, const struct status *why)
{
	if (w->read) {
		w->read(w->arg, NULL, why);
		return;
	}
	const struct state_result result = { .status = *why, .field = "" };
	w->done(w->arg, &result);
}

void waiters_fail(struct waiters *w, raft_index index, const struct status *why)
{
	/* Once around: those that stay keep their order. */
	for (size_t left = w->n; left > 0; left--) {
		struct waiter one;
		if (!waiters_take(w, UINT64_MAX, &one))
			return;
		if (one.index <= index)
			waiters_add(w, &one);
		else
			waiter_fail(&one, why);
	}
}

void waiters_fini(struct waiters *w)
{
	free(w->ring);
	*w = (struct waiters){ 0 };
}
