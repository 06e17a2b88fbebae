#include "services/serial/codec.h"

#include <stdlib.h>
#include <string.h>

/* As in libraft 0.22.1's message.h; a result of version 1 would lose its pre_vote. */
#define VOTE_VERSION 2
#define APPEND_VERSION 0

#define INDEX_MAX ((uint64_t)INT64_MAX) /* SQLite's integers are signed */
#define SERVERS_MAX 64

struct codec {
	struct raft_entry *in;
	size_t in_cap;
	Kds__V1__LogEntry *out;
	Kds__V1__LogEntry **out_pointers;
	size_t out_cap;
};

struct codec *codec_new(void)
{
	return calloc(1, sizeof(struct codec));
}

void codec_free(struct codec *c)
{
	if (!c)
		return;
	free(c->in);
	free(c->out);
	free(c->out_pointers);
	free(c);
}

static bool pack(const Kds__V1__PeerMessage *m, struct buffer *out)
{
	size_t size = kds__v1__peer_message__get_packed_size(m);
	if (!buffer_reserve(out, size))
		return false;
	out->len += kds__v1__peer_message__pack(m, out->data + out->len);
	return true;
}

static bool pack_append_result(const struct raft_append_entries_result *r, struct buffer *out)
{
	Kds__V1__AppendEntriesResult m = KDS__V1__APPEND_ENTRIES_RESULT__INIT;
	m.term = r->term;
	m.rejected = r->rejected;
	m.last_log_index = r->last_log_index;
	m.features = r->features;
	m.capacity = r->capacity;
	Kds__V1__PeerMessage peer = KDS__V1__PEER_MESSAGE__INIT;
	peer.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES_RESULT;
	peer.append_entries_result = &m;
	return pack(&peer, out);
}

static bool pack_vote(const struct raft_request_vote *r, struct buffer *out)
{
	Kds__V1__RequestVote m = KDS__V1__REQUEST_VOTE__INIT;
	m.term = r->term;
	m.candidate_id = r->candidate_id;
	m.last_log_index = r->last_log_index;
	m.last_log_term = r->last_log_term;
	m.disrupt_leader = r->disrupt_leader;
	m.pre_vote = r->pre_vote;
	Kds__V1__PeerMessage peer = KDS__V1__PEER_MESSAGE__INIT;
	peer.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_REQUEST_VOTE;
	peer.request_vote = &m;
	return pack(&peer, out);
}

static bool pack_vote_result(const struct raft_request_vote_result *r, struct buffer *out)
{
	Kds__V1__RequestVoteResult m = KDS__V1__REQUEST_VOTE_RESULT__INIT;
	m.term = r->term;
	m.vote_granted = r->vote_granted;
	m.pre_vote = r->pre_vote;
	m.features = r->features;
	m.capacity = r->capacity;
	Kds__V1__PeerMessage peer = KDS__V1__PEER_MESSAGE__INIT;
	peer.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_REQUEST_VOTE_RESULT;
	peer.request_vote_result = &m;
	return pack(&peer, out);
}

static bool pack_timeout_now(const struct raft_timeout_now *r, struct buffer *out)
{
	Kds__V1__TimeoutNow m = KDS__V1__TIMEOUT_NOW__INIT;
	m.term = r->term;
	m.last_log_index = r->last_log_index;
	m.last_log_term = r->last_log_term;
	Kds__V1__PeerMessage peer = KDS__V1__PEER_MESSAGE__INIT;
	peer.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_TIMEOUT_NOW;
	peer.timeout_now = &m;
	return pack(&peer, out);
}

bool codec_pack(const struct raft_message *message, struct buffer *out)
{
	switch (message->type) {
	case RAFT_APPEND_ENTRIES_RESULT:
		return pack_append_result(&message->append_entries_result, out);
	case RAFT_REQUEST_VOTE:
		return pack_vote(&message->request_vote, out);
	case RAFT_REQUEST_VOTE_RESULT:
		return pack_vote_result(&message->request_vote_result, out);
	case RAFT_TIMEOUT_NOW:
		return pack_timeout_now(&message->timeout_now, out);
	default:
		return false;
	}
}

static bool reserve_out(struct codec *c, size_t n)
{
	if (n <= c->out_cap)
		return true;
	Kds__V1__LogEntry *entries = realloc(c->out, n * sizeof *entries);
	if (entries)
		c->out = entries;
	Kds__V1__LogEntry **pointers = realloc(c->out_pointers, n * sizeof *pointers);
	if (pointers)
		c->out_pointers = pointers;
	if (!entries || !pointers)
		return false;
	c->out_cap = n;
	return true;
}

bool codec_pack_append(struct codec *c, const struct raft_append_entries *m, const struct cached_entry *entries,
		       unsigned n, struct buffer *out)
{
	if (!reserve_out(c, n))
		return false;
	for (unsigned i = 0; i < n; i++) {
		Kds__V1__LogEntry *e = &c->out[i];
		kds__v1__log_entry__init(e);
		e->term = entries[i].term;
		e->type = (uint32_t)entries[i].type;
		e->data.data = (uint8_t *)entries[i].data.data; /* packing only reads */
		e->data.len = entries[i].data.len;
		c->out_pointers[i] = e;
	}
	Kds__V1__AppendEntries append = KDS__V1__APPEND_ENTRIES__INIT;
	append.term = m->term;
	append.prev_log_index = m->prev_log_index;
	append.prev_log_term = m->prev_log_term;
	append.leader_commit = m->leader_commit;
	append.n_entries = n;
	append.entries = c->out_pointers;
	Kds__V1__PeerMessage peer = KDS__V1__PEER_MESSAGE__INIT;
	peer.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES;
	peer.append_entries = &append;
	return pack(&peer, out);
}

/* Version 1 | u64 n | n times (u64 id | address, NUL | u8 role), padded to 8 bytes, little-endian. */
static bool configuration_in_bounds(struct slice data)
{
	const uint8_t *p = data.data;
	size_t left = data.len;
	if (left < 9 || p[0] != 1)
		return false;
	uint64_t n = 0;
	for (int i = 0; i < 8; i++)
		n |= (uint64_t)p[1 + i] << (8 * i);
	p += 9;
	left -= 9;
	if (n == 0 || n > SERVERS_MAX)
		return false;
	while (n-- > 0) {
		if (left < 10)
			return false;
		const uint8_t *end = memchr(p + 8, 0, left - 8);
		if (!end || end + 1 == p + left)
			return false;
		left -= (size_t)(end + 2 - p);
		p = end + 2;
	}
	return true;
}

bool codec_configuration_valid(struct slice data)
{
	if (!configuration_in_bounds(data))
		return false;
	const struct raft_buffer bytes = { .base = (void *)data.data, .len = data.len }; /* decoding only reads */
	struct raft_configuration decoded;
	if (raft_configuration_decode(&bytes, &decoded) != 0)
		return false; /* an id twice, a role that is none */
	raft_configuration_close(&decoded);
	return true;
}

static enum status_code impossible(struct status *st, const char *what)
{
	return status_set(st, STATUS_INVALID_ARGUMENT, "impossible message: %s", what);
}

static enum status_code unpack_entries(struct codec *c, const Kds__V1__AppendEntries *in, struct status *st)
{
	if (in->n_entries > c->in_cap) {
		struct raft_entry *entries = realloc(c->in, in->n_entries * sizeof *entries);
		if (!entries)
			return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory for %zu entries", in->n_entries);
		c->in = entries;
		c->in_cap = in->n_entries;
	}
	uint64_t before = in->prev_log_term;
	for (size_t i = 0; i < in->n_entries; i++) {
		const Kds__V1__LogEntry *e = in->entries[i];
		if (e->term == 0 || e->term < before || e->term > in->term)
			return impossible(st, "an entry's term");
		if (e->type < RAFT_COMMAND || e->type > RAFT_CHANGE)
			return impossible(st, "an entry's type");
		/* libraft 0.22.1 takes the index of the first entry for a change anywhere in the batch
		 * (replication.c:851). */
		if (e->type == RAFT_CHANGE &&
		    (i > 0 || !codec_configuration_valid((struct slice){ e->data.data, e->data.len })))
			return impossible(st, "a membership entry");
		c->in[i] = (struct raft_entry){
			.term = e->term,
			.type = (enum raft_entry_type)e->type,
			.buf = { .base = e->data.data, .len = e->data.len },
		};
		before = e->term;
	}
	return STATUS_OK;
}

static enum status_code unpack_append(struct codec *c, const Kds__V1__AppendEntries *in, struct status *st,
				      struct raft_append_entries *out)
{
	if (in->n_entries > CODEC_ENTRIES_MAX || in->term == 0 || in->prev_log_index > INDEX_MAX ||
	    (in->prev_log_index == 0) != (in->prev_log_term == 0) || in->prev_log_term > in->term)
		return impossible(st, "AppendEntries");
	enum status_code rc = unpack_entries(c, in, st);
	if (rc != STATUS_OK)
		return rc;
	*out = (struct raft_append_entries){
		.version = APPEND_VERSION,
		.term = in->term,
		.prev_log_index = in->prev_log_index,
		.prev_log_term = in->prev_log_term,
		.leader_commit = in->leader_commit,
		.entries = in->n_entries ? c->in : NULL,
		.n_entries = (unsigned)in->n_entries,
	};
	return STATUS_OK;
}

static enum status_code unpack_append_result(const Kds__V1__AppendEntriesResult *in, struct status *st,
					     struct raft_append_entries_result *out)
{
	if (in->term == 0 || in->rejected > INDEX_MAX || in->last_log_index > INDEX_MAX || in->features > UINT16_MAX ||
	    in->capacity > UINT16_MAX)
		return impossible(st, "AppendEntriesResult");
	*out = (struct raft_append_entries_result){
		.version = CODEC_APPEND_RESULT_VERSION,
		.term = in->term,
		.rejected = in->rejected,
		.last_log_index = in->last_log_index,
		.features = (unsigned short)in->features,
		.capacity = (unsigned short)in->capacity,
	};
	return STATUS_OK;
}

static enum status_code unpack_vote(const Kds__V1__RequestVote *in, raft_id from, struct status *st,
				    struct raft_request_vote *out)
{
	if (in->term == 0 || in->candidate_id != from || in->last_log_index > INDEX_MAX || in->last_log_term > in->term)
		return impossible(st, "RequestVote");
	*out = (struct raft_request_vote){
		.version = VOTE_VERSION,
		.term = in->term,
		.candidate_id = in->candidate_id,
		.last_log_index = in->last_log_index,
		.last_log_term = in->last_log_term,
		.disrupt_leader = in->disrupt_leader,
		.pre_vote = in->pre_vote,
	};
	return STATUS_OK;
}

static enum status_code unpack_vote_result(const Kds__V1__RequestVoteResult *in, struct status *st,
					   struct raft_request_vote_result *out)
{
	if (in->term == 0 || in->features > UINT16_MAX || in->capacity > UINT16_MAX)
		return impossible(st, "RequestVoteResult");
	*out = (struct raft_request_vote_result){
		.version = VOTE_VERSION,
		.term = in->term,
		.vote_granted = in->vote_granted,
		.pre_vote = in->pre_vote,
		.features = (unsigned short)in->features,
		.capacity = (unsigned short)in->capacity,
	};
	return STATUS_OK;
}

static enum status_code unpack_timeout_now(const Kds__V1__TimeoutNow *in, struct status *st,
					  struct raft_timeout_now *out)
{
	if (in->term == 0 || in->last_log_index > INDEX_MAX)
		return impossible(st, "TimeoutNow");
	*out = (struct raft_timeout_now){
		.term = in->term,
		.last_log_index = in->last_log_index,
		.last_log_term = in->last_log_term,
	};
	return STATUS_OK;
}

enum status_code codec_unpack(struct codec *c, const Kds__V1__PeerMessage *in, raft_id from, struct status *st,
			      struct raft_message *ret_message)
{
	struct raft_message m = { .server_id = from, .server_address = "" }; /* libraft copies it and we never ask */
	enum status_code rc;
	switch (in->message_case) {
	case KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES:
		m.type = RAFT_APPEND_ENTRIES;
		rc = unpack_append(c, in->append_entries, st, &m.append_entries);
		break;
	case KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES_RESULT:
		m.type = RAFT_APPEND_ENTRIES_RESULT;
		rc = unpack_append_result(in->append_entries_result, st, &m.append_entries_result);
		break;
	case KDS__V1__PEER_MESSAGE__MESSAGE_REQUEST_VOTE:
		m.type = RAFT_REQUEST_VOTE;
		rc = unpack_vote(in->request_vote, from, st, &m.request_vote);
		break;
	case KDS__V1__PEER_MESSAGE__MESSAGE_REQUEST_VOTE_RESULT:
		m.type = RAFT_REQUEST_VOTE_RESULT;
		rc = unpack_vote_result(in->request_vote_result, st, &m.request_vote_result);
		break;
	case KDS__V1__PEER_MESSAGE__MESSAGE_TIMEOUT_NOW:
		m.type = RAFT_TIMEOUT_NOW;
		rc = unpack_timeout_now(in->timeout_now, st, &m.timeout_now);
		break;
	default:
		rc = impossible(st, "of no kind that raft has");
		break;
	}
	if (rc == STATUS_OK)
		*ret_message = m;
	return rc;
}
