#include "services/serial/alarms.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 512

struct alarms {
	Kds__V1__ViewResponse *view;
	size_t cap;
	bool failed; /* no memory */
};

/* A replica as people know it. */
static const char *name_of(const Kds__V1__Member *m, char buf[160])
{
	if (*m->name)
		snprintf(buf, 160, "%s (replica %" PRIu64 ")", m->name, m->id);
	else
		snprintf(buf, 160, "replica %" PRIu64, m->id);
	return buf;
}

static void raise_alarm(struct alarms *a, Kds__V1__AlarmKind kind, uint64_t replica, const char *format, ...)
    PRINTF_LIKE(4, 5);

static void raise_alarm(struct alarms *a, Kds__V1__AlarmKind kind, uint64_t replica, const char *format, ...)
{
	Kds__V1__ViewResponse *v = a->view;
	char text[TEXT_MAX];
	va_list ap;
	va_start(ap, format);
	vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	if (v->n_alarms == a->cap) {
		size_t cap = a->cap ? 2 * a->cap : 8;
		Kds__V1__Alarm **list = realloc(v->alarms, cap * sizeof *list);
		if (!list) {
			a->failed = true;
			return;
		}
		v->alarms = list;
		a->cap = cap;
	}
	Kds__V1__Alarm *alarm = malloc(sizeof *alarm);
	char *copy = strdup(text);
	if (!alarm || !copy) {
		free(alarm);
		free(copy);
		a->failed = true;
		return;
	}
	kds__v1__alarm__init(alarm);
	alarm->kind = kind;
	alarm->replica = replica;
	alarm->text = copy;
	v->alarms[v->n_alarms++] = alarm;
}

static const Kds__V1__Member *find(const Kds__V1__ViewResponse *v, uint64_t id)
{
	for (size_t i = 0; i < v->n_members; i++)
		if (v->members[i]->id == id)
			return v->members[i];
	return NULL;
}

static void check_quorum(struct alarms *a)
{
	const Kds__V1__ViewResponse *v = a->view;
	size_t voters = 0, reachable = 0;
	for (size_t i = 0; i < v->n_members; i++) {
		voters += v->members[i]->voter != 0;
		reachable += v->members[i]->voter && v->members[i]->reachable;
	}
	if (v->quorum)
		return;
	if (reachable > voters / 2)
		raise_alarm(a, KDS__V1__ALARM_KIND__ALARM_NO_QUORUM, 0,
			    "no quorum: %zu of %zu voters are reachable, but follow no common leader: wait an election "
			    "timeout; if it stays, compare the replicas' logs and clocks (the first time, all replicas must run)",
			    reachable, voters);
	else
		raise_alarm(a, KDS__V1__ALARM_KIND__ALARM_NO_QUORUM, 0,
			    "no quorum: %zu of %zu voters are reachable from replica %" PRIu64
			    ", nothing can be changed or signed: start the others or mend the network until %zu are",
			    reachable, voters, v->asked_id, voters / 2 + 1);
}

static void check_reachable(struct alarms *a, const Kds__V1__Member *m)
{
	char name[160];
	if (m->reachable)
		return;
	raise_alarm(a, KDS__V1__ALARM_KIND__ALARM_UNREACHABLE, m->id,
		    "%s is not reachable from replica %" PRIu64
		    ": see whether its host and kds-serial run, and what its log says; if the host is lost, replace it",
		    name_of(m, name), a->view->asked_id);
}

static void check_lag(struct alarms *a, const Kds__V1__Member *m, const Kds__V1__Member *leader)
{
	char name[160];
	if (!leader || !leader->status || leader == m || leader->status->commit_index <= m->status->applied_index)
		return;
	uint64_t lag = leader->status->commit_index - m->status->applied_index;
	if (lag > ALARM_LAG_ENTRIES)
		raise_alarm(a, KDS__V1__ALARM_KIND__ALARM_LAGGING, m->id,
			    "%s lags %" PRIu64
			    " entries behind the leader: if that does not shrink, its disk or network is too slow",
			    name_of(m, name), lag);
}

/*
 * Whose clock is off? Clocks are compared with the earliest one that a majority of the known ones has reached, so that
 * one that stands wrong does not put the blame on all others.
 */
static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

static bool median_offset(const Kds__V1__ViewResponse *v, int64_t *ret_median)
{
	int64_t *offsets = calloc(v->n_members ? v->n_members : 1, sizeof *offsets);
	size_t n = 0;
	if (!offsets)
		return false;
	for (size_t i = 0; i < v->n_members; i++)
		if (v->members[i]->clock_known && v->members[i]->voter)
			offsets[n++] = v->members[i]->clock_offset_ms;
	qsort(offsets, n, sizeof *offsets, by_value);
	*ret_median = n > 0 ? offsets[(n - 1) / 2] : 0;
	free(offsets);
	return true;
}

static void check_clock(struct alarms *a, const Kds__V1__Member *m, int64_t median)
{
	char name[160];
	if (!m->clock_known)
		return;
	int64_t off = m->clock_offset_ms - median;
	uint64_t size = off < 0 ? -(uint64_t)off : (uint64_t)off;
	if (size > ALARM_CLOCK_MS)
		raise_alarm(a, KDS__V1__ALARM_KIND__ALARM_CLOCK, m->id,
			    "the clock of %s is %" PRIu64 ".%" PRIu64 " s %s the others': set up time synchronisation there",
			    name_of(m, name), size / 1000, size % 1000 / 100, off < 0 ? "behind" : "ahead of");
}

static void check_disk(struct alarms *a, const Kds__V1__Member *m)
{
	const Kds__V1__ReplicaStatus *s = m->status;
	char name[160];
	if (s->total_bytes == 0)
		return;
	uint64_t share = s->total_bytes / 100 * ALARM_FREE_PERCENT;
	uint64_t wanted = share < ALARM_FREE_PLENTY ? share : ALARM_FREE_PLENTY;
	if (s->free_bytes >= ALARM_FREE_BYTES && s->free_bytes >= wanted)
		return;
	raise_alarm(a, KDS__V1__ALARM_KIND__ALARM_DISK, m->id,
		    "the disk of %s is almost full: %" PRIu64 " MiB of %" PRIu64
		    " MiB are free: make room before it has to stop",
		    name_of(m, name), s->free_bytes >> 20, s->total_bytes >> 20);
}

static const Kds__V1__StateDigest *digest_at(const Kds__V1__ReplicaStatus *s, uint64_t index)
{
	for (size_t i = 0; i < s->n_digests; i++)
		if (s->digests[i]->index == index)
			return s->digests[i];
	return NULL;
}

/* The index at which both have told different digests; 0: none. */
static uint64_t differs_at(const Kds__V1__ReplicaStatus *x, const Kds__V1__ReplicaStatus *y)
{
	if (x->digest_format != y->digest_format)
		return 0;
	for (size_t i = 0; i < x->n_digests; i++) {
		const Kds__V1__StateDigest *mine = x->digests[i], *theirs = digest_at(y, mine->index);
		if (theirs && (mine->digest.len != theirs->digest.len ||
			       memcmp(mine->digest.data, theirs->digest.data, mine->digest.len) != 0))
			return mine->index;
	}
	return 0;
}

static void check_digests(struct alarms *a)
{
	const Kds__V1__ViewResponse *v = a->view;
	char one[160], other[160];
	for (size_t i = 0; i < v->n_members; i++) {
		for (size_t k = i + 1; k < v->n_members; k++) {
			const Kds__V1__Member *x = v->members[i], *y = v->members[k];
			if (!x->reachable || !y->reachable || !x->status || !y->status)
				continue;
			uint64_t index = differs_at(x->status, y->status);
			if (index != 0)
				raise_alarm(a, KDS__V1__ALARM_KIND__ALARM_DIGEST, y->id,
					    "the states of %s and %s differ behind entry %" PRIu64
					    ": the one that most voters differ from stops by itself; if none does, "
					    "find out which host has faulty disk or memory, and replace that replica",
					    name_of(x, one), name_of(y, other), index);
		}
	}
}

static void check_versions(struct alarms *a)
{
	const Kds__V1__ViewResponse *v = a->view;
	const Kds__V1__Member *first = NULL;
	for (size_t i = 0; i < v->n_members; i++) {
		const Kds__V1__Member *m = v->members[i];
		if (!m->reachable || !m->status)
			continue;
		if (!first)
			first = m;
		if (strcmp(first->status->version, m->status->version) == 0)
			continue;
		raise_alarm(a, KDS__V1__ALARM_KIND__ALARM_VERSIONS, 0,
			    "replicas run different versions (%s and %s): complete the upgrade on all of them",
			    first->status->version, m->status->version);
		return;
	}
}

bool alarms_add(Kds__V1__ViewResponse *view)
{
	struct alarms a = { .view = view, .cap = view->n_alarms };
	const Kds__V1__Member *leader = find(view, view->leader_id);
	int64_t median = 0;
	a.failed = !median_offset(view, &median);
	check_quorum(&a);
	for (size_t i = 0; i < view->n_members; i++) {
		const Kds__V1__Member *m = view->members[i];
		check_reachable(&a, m);
		if (!m->reachable || !m->status)
			continue;
		check_lag(&a, m, leader);
		check_clock(&a, m, median);
		check_disk(&a, m);
	}
	check_digests(&a);
	check_versions(&a);
	return !a.failed;
}
