/*
 * The log's old end. Entries that were applied and that no follower is likely to need are deleted, a few in each turn,
 * in the transaction that is open anyway; libraft learns of it as of a snapshot that ends in front of the first entry
 * that is left.
 *
 * A tail stays behind what was applied, for followers that come back soon. The leader keeps up to TAILS_MAX of them while
 * a follower is on its way through them: sending entries is cheaper than sending the state. A follower that is sent the
 * state will need the entries behind it: these stay for so long (snapshot_send.h has the bounds).
 */
#include "services/serial/replica_internal.h"

#define TAIL_ENTRY_BYTES 2048 /* a tail of n entries has n times as many bytes at most */
#define TAILS_MAX 8
/* Entries that may pile up behind the tail: deleting them one by one would cost more. */
#define SLACK(tail) ((tail) / 16)
/* Of a turn, and twice what it appended: the log never grows while it is compacted. */
#define ENTRIES_PER_TURN 512
#define BYTES_PER_TURN ((uint64_t)4 << 20)

struct compaction {
	raft_index last;       /* of the log */
	raft_index before;     /* only what is older may go */
	raft_index needed;     /* a follower needs entries from here on */
	uint64_t tail;         /* entries */
	uint64_t bytes;        /* of the entries that are left */
	uint64_t entries_max, bytes_max; /* that may go now */
	raft_index first;      /* of what is left */
	uint64_t dropped;      /* bytes */
};

static bool exceeds(const struct compaction *c, raft_index index, uint64_t tails)
{
	return c->last - index >= c->tail * tails || c->bytes > c->tail * TAIL_ENTRY_BYTES * tails;
}

static bool consider(void *arg, raft_index index, size_t bytes)
{
	struct compaction *c = arg;
	bool drop = index < c->before && exceeds(c, index, index < c->needed ? 1 : TAILS_MAX) && c->entries_max > 0 &&
		    c->dropped <= c->bytes_max;
	if (!drop)
		return false;
	c->entries_max--;
	c->dropped += bytes;
	c->bytes -= bytes;
	c->first = index + 1;
	return true;
}

/* The first entry that a follower has not confirmed; entries behind the log's end when there is none. */
static raft_index first_needed(struct replica *r)
{
	raft_index needed = r->last + 1, match;
	if (!r->leads)
		return needed;
	for (unsigned i = 0; i < r->raft.configuration.n; i++) {
		raft_id id = r->raft.configuration.servers[i].id;
		if (id != r->options.id && raft_match_index(&r->raft, id, &match) == 0 && match + 1 < needed)
			needed = match + 1;
	}
	return needed;
}

/* libraft keeps the term of the entry in front of the first: a follower that has it needs nothing else. */
static void tell_raft(struct replica *r, raft_index first)
{
	struct raft_event event = { .type = RAFT_SNAPSHOT, .snapshot = { .metadata = { .index = first - 1 } } };
	struct store_start at;
	store_start_values(r->store, &at);
	event.snapshot.metadata.configuration_index = at.configuration_index;
	struct slice data = store_configuration(r->store);
	const struct raft_buffer encoded = { .base = (void *)data.data, .len = data.len }; /* decoding only reads */
	if (raft_configuration_decode(&encoded, &event.snapshot.metadata.configuration) != 0)
		store_fatal(r->store, "compact the log: the membership does not decode");
	replica_step(r, &event); /* libraft owns what was decoded from now on */
}

void replica_compact(struct replica *r)
{
	raft_index first = store_first(r->store);
	raft_index before = r->applied < r->written ? r->applied : r->written, hold = snapshot_senders_hold(r->senders);
	uint64_t tail = r->options.log_tail, appended = r->last > r->compacted_at ? r->last - r->compacted_at : 0;
	r->compacted_at = r->last;
	struct compaction c = {
		.last = r->last,
		.before = before < hold ? before : hold,
		.needed = first_needed(r),
		.tail = tail,
		.bytes = store_log_bytes(r->store),
		.entries_max = ENTRIES_PER_TURN + 2 * appended,
		.bytes_max = BYTES_PER_TURN + 2 * r->appended_bytes,
		.first = first,
	};
	r->appended_bytes = 0;
	if (first > r->last || (r->last - first < tail + SLACK(tail) && c.bytes <= (tail + SLACK(tail)) * TAIL_ENTRY_BYTES))
		return;
	store_sizes(r->store, consider, &c);
	if (c.first == first)
		return;
	replica_begin(r);
	store_drop(r->store, c.first, c.dropped);
	tell_raft(r, c.first);
}

/*
 * A message that comes late, or from a leader that knows nothing of us yet, may begin with entries that were compacted
 * here, or right behind them. They were committed: so they are the same. libraft would reject them, and even append those
 * from entry 1 on again (replication.c: nothing is checked in front of it). Of the last one that was compacted it knows the
 * term, but not after a restart: then its leader would offer the same for ever.
 */
void replica_skip_compacted(struct replica *r, struct raft_append_entries *m)
{
	if (m->prev_log_index >= store_first(r->store))
		return;
	raft_index known = r->applied - m->prev_log_index;
	unsigned skip = known < m->n_entries ? (unsigned)known : m->n_entries;
	m->entries += skip;
	m->n_entries -= skip;
	m->prev_log_index = r->applied;
	m->prev_log_term = r->applied_term;
}
