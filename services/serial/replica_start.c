#include "services/serial/replica_internal.h"

#include <stdlib.h>
#include <string.h>

#define INFLIGHT_ENTRIES 2048
#define CACHE_ENTRIES 16384
#define CACHE_BYTES ((size_t)16 << 20)

struct changes {
	struct raft_entry *entries;
	raft_index first;
	bool ok;
};

static void add_change(void *arg, raft_index index, raft_term term, unsigned short type, struct slice data)
{
	struct changes *c = arg;
	struct raft_entry *e = &c->entries[index - c->first];
	void *copy = codec_configuration_valid(data) ? malloc(data.len) : NULL;
	(void)term;
	c->ok = c->ok && copy;
	if (copy)
		memcpy(copy, data.data, data.len);
	e->type = (enum raft_entry_type)type;
	e->buf = (struct raft_buffer){ .base = copy, .len = data.len };
}

/* libraft wants an array with every entry's term, 40 bytes each, for the call alone; of the bytes only those of
 * memberships that were not applied yet. */
static struct raft_entry *load_entries(struct replica *r, const struct store_start *at)
{
	size_t n = (size_t)(at->last + 1 - at->first), n_runs;
	struct raft_entry *entries = calloc(n + 1, sizeof *entries);
	if (!entries)
		return NULL;
	const struct store_run *runs = store_runs(r->store, &n_runs);
	for (size_t i = 0; i < n_runs; i++) {
		raft_index end = i + 1 < n_runs ? runs[i + 1].first : at->last + 1;
		for (raft_index index = runs[i].first; index < end; index++)
			entries[index - at->first] = (struct raft_entry){ .term = runs[i].term, .type = RAFT_COMMAND };
	}
	struct changes c = { .entries = entries, .first = at->first, .ok = true };
	store_read_changes(r->store, at->configuration_index, add_change, &c);
	if (!c.ok)
		store_fatal(r->store, "read a membership from the log");
	return entries;
}

static void free_entries(struct raft_entry *entries, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(entries[i].buf.base);
	free(entries);
}

/* A replica that is yet to be added: it has nothing, not even a membership, and waits for a leader to send it all. */
static enum status_code start_empty(struct replica *r, const struct store_start *at)
{
	struct raft_event event = {
		.type = RAFT_START,
		.start = { .term = at->term, .voted_for = at->vote, .start_index = 1 },
	};
	replica_step(r, &event);
	return STATUS_OK;
}

static enum status_code start_raft(struct replica *r, const struct store_start *at, struct status *st)
{
	if (at->last == 0)
		return start_empty(r, at);
	struct raft_event event = {
		.type = RAFT_START,
		.start = { .term = at->term, .voted_for = at->vote, .start_index = at->first },
	};
	/* What was applied is committed: libraft takes it as a snapshot with the log behind it kept. */
	struct raft_snapshot_metadata metadata = {
		.index = at->applied,
		.term = at->applied_term,
		.configuration_index = at->configuration_index,
	};
	if (at->applied > 0) {
		struct slice data = store_configuration(r->store);
		const struct raft_buffer encoded = { .base = (void *)data.data, .len = data.len };
		if (!codec_configuration_valid(data) || raft_configuration_decode(&encoded, &metadata.configuration) != 0)
			return status_set(st, STATUS_DATA_LOSS, "the stored membership does not decode");
		event.start.metadata = &metadata;
	}
	size_t n = (size_t)(at->last + 1 - at->first);
	event.start.entries = load_entries(r, at);
	event.start.n_entries = (unsigned)n;
	if (!event.start.entries) {
		if (event.start.metadata)
			raft_configuration_close(&metadata.configuration);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory for a log of %zu entries", n);
	}
	replica_step(r, &event);
	free_entries(event.start.entries, n);
	return STATUS_OK;
}

enum status_code replica_new(const struct replica_options *options, struct status *st, struct replica **ret_replica)
{
	struct store_start at;
	store_start_values(options->store, &at);
	if (at.last > 0 && at.last + 1 - at.first > UINT32_MAX)
		return status_set(st, STATUS_FAILED_PRECONDITION, "a log of %llu entries cannot be started", at.last);
	struct replica *r = calloc(1, sizeof *r);
	if (!r)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the replica: out of memory");
	r->options = *options;
	if (r->options.log_tail == 0)
		r->options.log_tail = LOG_TAIL_DEFAULT;
	r->store = options->store;
	r->state = options->state;
	r->codec = codec_new();
	r->cache = entry_cache_new(CACHE_ENTRIES, CACHE_BYTES);
	r->now_ms = options->now_ms;
	r->last = r->written = at.last;
	r->applied = at.applied;
	r->applied_term = at.applied_term;
	r->compacted_at = at.last;
	r->round.number = r->round.done = (uint64_t)options->seed << 32;
	enum status_code rc = STATUS_OK;
	if (!replica_open_snapshots(r) || !r->codec || !r->cache || raft_init(&r->raft, NULL, NULL, options->id, "") != 0) {
		codec_free(r->codec);
		entry_cache_free(r->cache);
		replica_close_snapshots(r);
		free(r);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the replica: out of memory");
	}
	/* Its tracer formats every step into one static buffer, even when nobody listens. */
	r->raft.tracer = NULL;
	raft_seed(&r->raft, options->seed);
	raft_set_pre_vote(&r->raft, true);
	raft_set_max_inflight_entries(&r->raft, INFLIGHT_ENTRIES);
	raft_set_election_timeout(&r->raft, options->election_ms);
	/* It asks again for what it asked for once; and notices that the snapshot it knows of has gone. */
	raft_set_install_snapshot_timeout(&r->raft, 5 * options->election_ms);
	raft_set_heartbeat_timeout(&r->raft, options->heartbeat_ms);
	rc = start_raft(r, &at, st);
	if (rc != STATUS_OK) {
		replica_free(r);
		return rc;
	}
	*ret_replica = r;
	return STATUS_OK;
}

void replica_free(struct replica *r)
{
	if (!r)
		return;
	replica_fail_transfer(r);
	replica_fail(r, 0, "this replica is stopping; it is unknown whether the request was carried out");
	replica_commit(r);
	replica_close_snapshots(r);
	raft_close(&r->raft, NULL);
	outbox_fini(&r->outbox);
	waiters_fini(&r->waiters);
	waiters_fini(&r->reads);
	state_result_fini(&r->result);
	buffer_free(&r->stored);
	entry_cache_free(r->cache);
	codec_free(r->codec);
	free(r);
}
