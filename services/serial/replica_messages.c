#include "services/serial/replica_internal.h"

#include "common/base/log.h"

#define APPEND_BYTES ((size_t)1 << 20)    /* of entries in one AppendEntries message */
#define CATCH_UP_BYTES ((size_t)16 << 20) /* of entries for one peer at once; it asks for the rest */

struct collected {
	struct replica *r;
	unsigned n;
	size_t bytes;
	bool full;
};

/* May this entry join a message that has `c` already? A membership entry must be the first (codec.c says why). */
static bool fits(const struct collected *c, unsigned short type, size_t len)
{
	if (c->n == 0)
		return true;
	return c->n < CODEC_ENTRIES_MAX && c->bytes + len <= APPEND_BYTES && type != RAFT_CHANGE;
}

static void collect_stored(void *arg, raft_index index, raft_term term, unsigned short type, struct slice data)
{
	struct collected *c = arg;
	struct replica *r = c->r;
	(void)index;
	if (c->full || !fits(c, type, data.len) || !buffer_append(&r->stored, data.data, data.len)) {
		c->full = true;
		return;
	}
	/* The buffer may still move: `data` is set when all are there. */
	r->batch[c->n++] = (struct cached_entry){ .term = term, .type = type, .data = { NULL, data.len } };
	c->bytes += data.len;
}

/* Fills r->batch with entries from `first` on, at most n, for one message. None: no memory, or they are gone. */
static struct collected collect(struct replica *r, raft_index first, unsigned n)
{
	struct collected c = { .r = r };
	struct cached_entry e;
	while (c.n < n && entry_cache_get(r->cache, first + c.n, &e) && fits(&c, (unsigned short)e.type, e.data.len)) {
		r->batch[c.n++] = e;
		c.bytes += e.data.len;
	}
	if (c.n > 0 || first > r->written)
		return c;
	raft_index left = r->written - first + 1;
	if (n > CODEC_ENTRIES_MAX)
		n = CODEC_ENTRIES_MAX;
	if (n > left)
		n = (unsigned)left;
	r->stored.len = 0;
	if (!store_read(r->store, first, n, collect_stored, &c))
		c.n = 0;
	const uint8_t *data = r->stored.data;
	for (unsigned i = 0; i < c.n; i++) {
		r->batch[i].data.data = data;
		data += r->batch[i].data.len;
	}
	return c;
}

/*
 * libraft names only how many entries it wants sent. They go in several messages where they are many, each a proper
 * AppendEntries. Leaving off the last ones is safe: the follower rejects what comes behind the gap, and libraft goes
 * back.
 */
static void pack_append(struct replica *r, raft_id to, const struct raft_append_entries *m)
{
	if (r->packed_n > 0 && m->term == r->packed.term && m->prev_log_index == r->packed.prev_log_index &&
	    m->n_entries == r->packed.n_entries && m->leader_commit == r->packed.leader_commit) {
		if (!outbox_repeat(&r->outbox, r->packed_first, r->packed_n, to))
			log_warning("out of memory for a message to replica %llu", to);
		return;
	}
	struct raft_append_entries part = *m;
	unsigned left = m->n_entries;
	size_t bytes = 0, first = r->outbox.n;
	bool ok = true;
	do {
		struct collected c = { 0 };
		if (left > 0) {
			c = collect(r, part.prev_log_index + 1, left);
			ok = c.n > 0;
		}
		size_t offset = r->outbox.bytes.len;
		ok = ok && codec_pack_append(r->codec, &part, r->batch, c.n, &r->outbox.bytes) &&
		     outbox_add(&r->outbox, to, true, offset);
		if (!ok)
			break;
		if (c.n > 0) {
			part.prev_log_index += c.n;
			part.prev_log_term = r->batch[c.n - 1].term;
		}
		left -= c.n;
		bytes += c.bytes;
	} while (left > 0 && bytes < CATCH_UP_BYTES);
	if (!ok)
		log_warning("no memory for entries from %llu on for replica %llu", part.prev_log_index + 1, to);
	r->packed = *m;
	r->packed_first = first;
	r->packed_n = r->outbox.n - first;
}

/*
 * libraft 0.22.1 refuses a pre-vote of a lower term than ours with the very term that was asked for, so the candidate does
 * not learn of the higher one and asks the same again for ever. When its log is longer than ours, and both votes are
 * needed, nobody can be elected then. A candidate takes a higher term from such an answer (libraft's
 * recv_request_vote_result.c).
 */
static void tell_term(const struct replica *r, struct raft_message *m)
{
	struct raft_request_vote_result *result = &m->request_vote_result;
	if (m->type == RAFT_REQUEST_VOTE_RESULT && result->pre_vote && !result->vote_granted &&
	    result->term < raft_current_term(&r->raft))
		result->term = raft_current_term(&r->raft);
}

void replica_pack(struct replica *r, const struct raft_message *m)
{
	if (m->type == RAFT_INSTALL_SNAPSHOT) {
		snapshot_senders_want(r->senders, m->server_id, r->now_ms);
		return;
	}
	if (!r->options.connected(r->options.arg, m->server_id))
		return;
	if (m->type == RAFT_APPEND_ENTRIES) {
		pack_append(r, m->server_id, &m->append_entries);
		return;
	}
	struct raft_message told = *m;
	tell_term(r, &told);
	size_t offset = r->outbox.bytes.len;
	if (!codec_pack(&told, &r->outbox.bytes) || !outbox_add(&r->outbox, m->server_id, false, offset))
		log_warning("message of type %d to replica %llu was dropped", (int)m->type, m->server_id);
}
