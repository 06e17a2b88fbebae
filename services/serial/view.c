#include "services/serial/view.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "services/serial/alarms.h"
#include "services/serial/clocks.h"
#include "services/serial/level.h"

#define VERSION_SIZE 32
#define NAME_SIZE 128

struct known_member {
	uint64_t id;
	char name[NAME_SIZE];
	char *address;
	bool voter, wanted;
	bool has_status;
	uint64_t heard_ms;  /* monotonic; 0: never */
	uint64_t status_ms; /* likewise */
	Kds__V1__ReplicaStatus status; /* without digests */
	char version[VERSION_SIZE];    /* behind status.version */
	struct agreement_sample samples[AGREEMENT_TOLD];
	size_t n_samples;
	struct clock_estimate clock;
};

struct view {
	pthread_mutex_t mutex;
	uint64_t self;
	char *cluster, *rpc_address;
	unsigned election_ms;
	struct known_member *members; /* by id */
	size_t n_members;
};

static int by_id(const void *a, const void *b)
{
	const struct known_member *x = a, *y = b;
	return (x->id > y->id) - (x->id < y->id);
}

struct view *view_new(const struct view_options *o)
{
	struct view *v = calloc(1, sizeof *v);
	if (!v)
		return NULL;
	pthread_mutex_init(&v->mutex, NULL);
	v->self = o->self;
	v->election_ms = o->election_ms;
	v->cluster = strdup(o->cluster);
	v->rpc_address = strdup(o->rpc_address);
	v->members = calloc(o->n_members, sizeof *v->members);
	bool ok = v->cluster && v->rpc_address && v->members;
	for (size_t i = 0; ok && i < o->n_members; i++) {
		struct known_member *m = &v->members[v->n_members++];
		m->id = o->members[i].id;
		snprintf(m->name, sizeof m->name, "%s", o->members[i].name);
		m->address = strdup(o->members[i].address);
		kds__v1__replica_status__init(&m->status);
		ok = m->address != NULL;
	}
	if (!ok) {
		view_free(v);
		return NULL;
	}
	qsort(v->members, v->n_members, sizeof *v->members, by_id);
	return v;
}

static struct known_member *find(struct view *v, uint64_t id)
{
	for (size_t i = 0; i < v->n_members; i++)
		if (v->members[i].id == id)
			return &v->members[i];
	return NULL;
}

bool view_set_members(struct view *v, const struct engine_member *members, size_t n)
{
	struct known_member *fresh = calloc(n ? n : 1, sizeof *fresh);
	bool ok = fresh != NULL;
	pthread_mutex_lock(&v->mutex);
	for (size_t i = 0; ok && i < n; i++) {
		const struct known_member *known = find(v, members[i].id);
		if (known)
			fresh[i] = *known;
		else
			kds__v1__replica_status__init(&fresh[i].status);
		fresh[i].id = members[i].id;
		snprintf(fresh[i].name, sizeof fresh[i].name, "%s", members[i].name);
		fresh[i].address = strdup(members[i].address);
		ok = fresh[i].address != NULL;
	}
	struct known_member *old = fresh;
	size_t n_old = fresh ? n : 0;
	if (ok) {
		old = v->members;
		n_old = v->n_members;
		v->members = fresh;
		v->n_members = n;
		qsort(v->members, v->n_members, sizeof *v->members, by_id);
		for (size_t i = 0; i < n; i++)
			if (v->members[i].has_status)
				v->members[i].status.version = v->members[i].version;
	}
	pthread_mutex_unlock(&v->mutex);
	for (size_t i = 0; i < n_old; i++)
		free(old[i].address);
	free(old);
	return ok;
}

void view_free(struct view *v)
{
	if (!v)
		return;
	for (size_t i = 0; i < v->n_members; i++)
		free(v->members[i].address);
	free(v->members);
	free(v->cluster);
	free(v->rpc_address);
	pthread_mutex_destroy(&v->mutex);
	free(v);
}

static void keep_samples(struct known_member *m, const Kds__V1__ReplicaStatus *status)
{
	m->n_samples = 0;
	for (size_t i = 0; i < status->n_digests && m->n_samples < AGREEMENT_TOLD; i++) {
		const Kds__V1__StateDigest *told = status->digests[i];
		struct agreement_sample *sample = &m->samples[m->n_samples];
		if (told->digest.len != sizeof sample->digest || told->index == 0)
			continue;
		sample->index = told->index;
		memcpy(sample->digest, told->digest.data, sizeof sample->digest);
		m->n_samples++;
	}
}

static void keep_status(struct known_member *m, const Kds__V1__ReplicaStatus *status, uint64_t now)
{
	m->status = *status;
	snprintf(m->version, sizeof m->version, "%s", status->version);
	m->status.version = m->version;
	m->status.n_digests = 0;
	m->status.digests = NULL;
	keep_samples(m, status);
	m->has_status = true;
	m->status_ms = now;
}

void view_publish(struct view *v, const Kds__V1__ReplicaStatus *status)
{
	pthread_mutex_lock(&v->mutex);
	struct known_member *m = find(v, v->self);
	if (m)
		keep_status(m, status, clock_monotonic_ms());
	pthread_mutex_unlock(&v->mutex);
}

void view_set_voter(struct view *v, uint64_t id, bool voter)
{
	pthread_mutex_lock(&v->mutex);
	struct known_member *m = find(v, id);
	if (m)
		m->voter = voter;
	pthread_mutex_unlock(&v->mutex);
}

void view_set_wanted(struct view *v, uint64_t id, bool wanted)
{
	pthread_mutex_lock(&v->mutex);
	struct known_member *m = find(v, id);
	if (m)
		m->wanted = wanted;
	pthread_mutex_unlock(&v->mutex);
}

bool view_has_member(struct view *v, const char *name)
{
	bool found = false;
	pthread_mutex_lock(&v->mutex);
	for (size_t i = 0; i < v->n_members && !found; i++)
		found = v->members[i].wanted && strcmp(v->members[i].name, name) == 0;
	pthread_mutex_unlock(&v->mutex);
	return found;
}

void view_heard(struct view *v, uint64_t from, const Kds__V1__ReplicaStatus *status)
{
	uint64_t now = clock_monotonic_ms();
	pthread_mutex_lock(&v->mutex);
	struct known_member *m = find(v, from);
	if (m)
		m->heard_ms = now;
	if (m && status && status->id == from) {
		keep_status(m, status, now);
		clock_estimate_add(&m->clock, status->time_ms, now);
	}
	pthread_mutex_unlock(&v->mutex);
}

void view_leader_facts(struct view *v, uint64_t leader, uint64_t term, uint64_t *ret_heard_ms, bool *ret_resigned)
{
	pthread_mutex_lock(&v->mutex);
	const struct known_member *m = find(v, leader);
	*ret_heard_ms = m ? m->heard_ms : 0;
	/* A candidate has the term before it leads it, a follower only afterwards. */
	*ret_resigned = m && m->has_status && m->status.term == term &&
			m->status.role == KDS__V1__RAFT_ROLE__RAFT_ROLE_FOLLOWER;
	pthread_mutex_unlock(&v->mutex);
}

struct failover_voter view_report(struct view *v, uint64_t id)
{
	struct failover_voter report = { .id = id };
	uint64_t now = clock_monotonic_ms();
	pthread_mutex_lock(&v->mutex);
	const struct known_member *m = find(v, id);
	if (m && m->has_status && now - m->status_ms < v->election_ms) {
		report.lost_term = m->status.lost_term;
		report.last_term = m->status.last_term;
		report.last_index = m->status.last_index;
	}
	pthread_mutex_unlock(&v->mutex);
	return report;
}

unsigned view_level_known(struct view *v)
{
	unsigned lowest = level_known();
	pthread_mutex_lock(&v->mutex);
	for (size_t i = 0; i < v->n_members; i++) {
		const struct known_member *m = &v->members[i];
		unsigned known = m->has_status ? m->status.level_known : 0;
		if (known < lowest)
			lowest = known;
	}
	pthread_mutex_unlock(&v->mutex);
	return lowest;
}

/* Was it heard of within an election timeout's time? */
static bool was_heard(const struct view *v, const struct known_member *m, uint64_t now)
{
	return m->heard_ms != 0 && now - m->heard_ms <= v->election_ms;
}

size_t view_count_voters(struct view *v)
{
	size_t voters = 0;
	pthread_mutex_lock(&v->mutex);
	for (size_t i = 0; i < v->n_members; i++)
		voters += v->members[i].voter;
	pthread_mutex_unlock(&v->mutex);
	return voters;
}

bool view_hears_majority(struct view *v)
{
	uint64_t now = clock_monotonic_ms();
	size_t voters = 0, heard = 0;
	pthread_mutex_lock(&v->mutex);
	for (size_t i = 0; i < v->n_members; i++) {
		const struct known_member *m = &v->members[i];
		voters += m->voter;
		heard += m->voter && (m->id == v->self || was_heard(v, m, now));
	}
	pthread_mutex_unlock(&v->mutex);
	return heard > voters / 2;
}

size_t view_reports(struct view *v, struct agreement_report ret_reports[VIEW_MEMBERS_MAX])
{
	size_t n = 0;
	pthread_mutex_lock(&v->mutex);
	for (size_t i = 0; i < v->n_members && n < VIEW_MEMBERS_MAX; i++) {
		const struct known_member *m = &v->members[i];
		if (m->id == v->self)
			continue;
		struct agreement_report *r = &ret_reports[n++];
		*r = (struct agreement_report){ .id = m->id, .voter = m->voter };
		if (m->status.digest_format != STATE_DIGEST_FORMAT)
			continue;
		memcpy(r->samples, m->samples, sizeof r->samples);
		r->n = m->n_samples;
	}
	pthread_mutex_unlock(&v->mutex);
	return n;
}

uint64_t view_time(struct view *v)
{
	uint64_t clocks[VIEW_MEMBERS_MAX], own = clock_unix_ms(), now = clock_monotonic_ms();
	size_t n = 0, voters = 0;
	pthread_mutex_lock(&v->mutex);
	for (size_t i = 0; i < v->n_members; i++) {
		const struct known_member *m = &v->members[i];
		if (!m->voter)
			continue;
		voters++;
		uint64_t clock = m->id == v->self ? own : clock_estimate_now(&m->clock, now);
		if (clock != 0 && n < VIEW_MEMBERS_MAX)
			clocks[n++] = clock;
	}
	pthread_mutex_unlock(&v->mutex);
	return clocks_agree(own, clocks, n, voters);
}

bool view_leads(struct view *v)
{
	pthread_mutex_lock(&v->mutex);
	struct known_member *m = find(v, v->self);
	bool leads = m && m->status.role == KDS__V1__RAFT_ROLE__RAFT_ROLE_LEADER;
	pthread_mutex_unlock(&v->mutex);
	return leads;
}

uint64_t view_leader(struct view *v)
{
	pthread_mutex_lock(&v->mutex);
	struct known_member *m = find(v, v->self);
	uint64_t leader = m ? m->status.leader_id : 0;
	pthread_mutex_unlock(&v->mutex);
	return leader;
}

static Kds__V1__StateDigest *copy_sample(const struct agreement_sample *sample)
{
	Kds__V1__StateDigest *copy = malloc(sizeof *copy);
	uint8_t *digest = malloc(sizeof sample->digest);
	if (!copy || !digest) {
		free(copy);
		free(digest);
		return NULL;
	}
	memcpy(digest, sample->digest, sizeof sample->digest);
	kds__v1__state_digest__init(copy);
	copy->index = sample->index;
	copy->digest = (ProtobufCBinaryData){ sizeof sample->digest, digest };
	return copy;
}

static Kds__V1__ReplicaStatus *copy_status(const struct known_member *m)
{
	Kds__V1__ReplicaStatus *copy = malloc(sizeof *copy);
	if (!copy)
		return NULL;
	*copy = m->status;
	copy->version = strdup(m->version);
	copy->digests = calloc(AGREEMENT_TOLD, sizeof *copy->digests);
	bool ok = copy->version && copy->digests;
	for (size_t i = 0; ok && i < m->n_samples; i++) {
		copy->digests[i] = copy_sample(&m->samples[i]);
		ok = copy->digests[i] != NULL;
		copy->n_digests += ok;
	}
	if (ok)
		return copy;
	kds__v1__replica_status__free_unpacked(copy, NULL);
	return NULL;
}

/* NULL: no memory. */
static Kds__V1__Member *describe(struct view *v, const struct known_member *m, const char *rpc_address, bool connected,
				 uint64_t now)
{
	Kds__V1__Member *out = malloc(sizeof *out);
	if (!out)
		return NULL;
	kds__v1__member__init(out);
	out->id = m->id;
	out->voter = m->voter;
	out->reachable = m->id == v->self || (connected && was_heard(v, m, now));
	uint64_t age = m->id == v->self || !m->has_status ? 0 : now - m->status_ms;
	out->age_ms = age > UINT32_MAX ? UINT32_MAX : (uint32_t)age;
	uint64_t clock = clock_estimate_now(&m->clock, now);
	out->clock_known = m->id == v->self || (out->reachable && clock != 0);
	if (out->clock_known && m->id != v->self)
		out->clock_offset_ms = (int64_t)(clock - clock_unix_ms());
	out->name = strdup(m->name);
	out->address = strdup(m->address);
	out->rpc_address = strdup(rpc_address);
	if (m->has_status)
		out->status = copy_status(m);
	if (out->name && out->address && out->rpc_address && (!m->has_status || out->status))
		return out;
	kds__v1__member__free_unpacked(out, NULL);
	return NULL;
}

/* A majority of the voters is reachable and follows one leader, which is one of them. */
static bool has_quorum(const Kds__V1__ViewResponse *view)
{
	const Kds__V1__ReplicaStatus *leader = NULL;
	for (size_t i = 0; i < view->n_members; i++)
		if (view->members[i]->id == view->leader_id && view->members[i]->reachable)
			leader = view->members[i]->status;
	if (!leader || leader->leader_id != view->leader_id)
		return false;
	size_t voters = 0, following = 0;
	for (size_t i = 0; i < view->n_members; i++) {
		const Kds__V1__Member *m = view->members[i];
		voters += m->voter ? 1 : 0;
		if (m->voter && m->reachable && m->status && m->status->leader_id == leader->id &&
		    m->status->term == leader->term)
			following++;
	}
	return following > voters / 2;
}

void view_rpc_address(struct view *v, struct peers *peers, uint64_t id, char *buf, size_t size)
{
	if (id == v->self)
		snprintf(buf, size, "%s", v->rpc_address);
	else
		peers_rpc_address(peers, id, buf, size);
}

/* By id. NULL: no memory. */
static uint64_t *copy_ids(struct view *v, size_t *ret_n)
{
	pthread_mutex_lock(&v->mutex);
	uint64_t *ids = calloc(v->n_members ? v->n_members : 1, sizeof *ids);
	for (size_t i = 0; ids && i < v->n_members; i++)
		ids[i] = v->members[i].id;
	*ret_n = v->n_members;
	pthread_mutex_unlock(&v->mutex);
	return ids;
}

bool view_is_reachable(struct view *v, struct peers *peers, uint64_t id)
{
	bool connected = peers_connected(peers, id);
	uint64_t now = clock_monotonic_ms();
	pthread_mutex_lock(&v->mutex);
	const struct known_member *m = find(v, id);
	bool heard = m && m->heard_ms != 0 && now - m->heard_ms <= v->election_ms;
	pthread_mutex_unlock(&v->mutex);
	return connected && heard;
}

Kds__V1__ViewResponse *view_fill(struct view *v, struct peers *peers)
{
	Kds__V1__ViewResponse *out = malloc(sizeof *out);
	if (!out)
		return NULL;
	kds__v1__view_response__init(out);
	out->cluster = strdup(v->cluster);
	out->asked_id = v->self;
	size_t n = 0;
	uint64_t *ids = copy_ids(v, &n);
	out->members = calloc(n ? n : 1, sizeof *out->members);
	bool ok = out->cluster && out->members && ids;
	for (size_t i = 0; ok && i < n; i++) {
		char rpc_address[256];
		view_rpc_address(v, peers, ids[i], rpc_address, sizeof rpc_address);
		bool connected = ids[i] != v->self && peers_connected(peers, ids[i]);
		pthread_mutex_lock(&v->mutex);
		const struct known_member *m = find(v, ids[i]); /* NULL: it was removed just now */
		if (m && ids[i] == v->self)
			out->leader_id = m->status.leader_id;
		Kds__V1__Member *member = m ? describe(v, m, rpc_address, connected, clock_monotonic_ms()) : NULL;
		pthread_mutex_unlock(&v->mutex);
		ok = !m || member;
		if (member)
			out->members[out->n_members++] = member;
	}
	free(ids);
	if (!ok) {
		kds__v1__view_response__free_unpacked(out, NULL);
		return NULL;
	}
	out->quorum = has_quorum(out);
	if (alarms_add(out))
		return out;
	kds__v1__view_response__free_unpacked(out, NULL);
	return NULL;
}
