#include "services/serial/replica_internal.h"

#include <stdio.h>

#include "common/base/log.h"

/* Entries of a turn before it is written in between: the cache holds them all, and some (replica_start.c). */
#define UNWRITTEN_BYTES_MAX ((size_t)4 << 20)
#define UNWRITTEN_ENTRIES_MAX 4096
#define LAZY_COMMIT_MS 10
#define BATCH_MAX 1024 /* proposals in one RAFT_SUBMIT */

/* The disk */

void replica_begin(struct replica *r)
{
	if (r->in_transaction)
		return;
	store_begin(r->store);
	r->in_transaction = true;
	r->commit_by_ms = r->now_ms + LAZY_COMMIT_MS;
}

void replica_commit(struct replica *r)
{
	struct status st;
	if (!r->in_transaction)
		return;
	if (state_flush(r->state, &st) != STATUS_OK)
		store_fatal(r->store, st.message);
	store_commit(r->store);
	r->in_transaction = false;
}

static bool must_write(const struct replica *r)
{
	return r->term_changed || r->truncate != 0 || r->written < r->last;
}

static void write_log(struct replica *r)
{
	if (!must_write(r))
		return;
	replica_begin(r);
	if (r->term_changed)
		store_set_term(r->store, raft_current_term(&r->raft), raft_voted_for(&r->raft));
	if (r->truncate != 0)
		store_truncate(r->store, r->truncate);
	bool appended = r->written < r->last;
	for (raft_index i = r->written + 1; i <= r->last; i++) {
		struct cached_entry e;
		if (!entry_cache_get(r->cache, i, &e))
			store_fatal(r->store, "write the log: an entry is missing");
		const struct raft_entry entry = {
			.term = e.term,
			.type = e.type,
			.buf = { .base = (void *)e.data.data, .len = e.data.len }, /* the store only reads */
		};
		store_append(r->store, i, &entry);
	}
	replica_commit(r);
	r->term_changed = false;
	r->truncate = 0;
	r->written = r->last;
	r->unwritten_bytes = 0;
	if (appended) {
		struct raft_event event = { .type = RAFT_PERSISTED_ENTRIES, .persisted_entries = { .index = r->written } };
		replica_step(r, &event);
	}
}

static void send_all(struct replica *r)
{
	outbox_send_all(&r->outbox, r->options.send, r->options.arg);
	r->packed_n = 0;
}

/* Steps */

static void take_entries(struct replica *r, raft_index index, const struct raft_entry *entries, unsigned n)
{
	if (index <= r->last) {
		/* A new leader's log differs from here on (Raft §5.3). */
		entry_cache_truncate(r->cache, index);
		r->last = index - 1;
		if (index <= r->written) {
			r->written = index - 1;
			if (r->truncate == 0 || index < r->truncate)
				r->truncate = index;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		const struct cached_entry e = {
			.term = entries[i].term,
			.type = entries[i].type,
			.data = { entries[i].buf.base, entries[i].buf.len },
		};
		if (!entry_cache_append(r->cache, index + i, &e, r->written + 1))
			store_fatal(r->store, "keep an entry in memory: too many wait for the disk");
		r->unwritten_bytes += entries[i].buf.len;
		r->appended_bytes += entries[i].buf.len;
		/* Ours and peers' entries have no batch; libraft's own barrier of a new leader has, and it is ours
		 * to free. */
		raft_free(entries[i].batch);
	}
	r->last = index + n - 1;
}

static void learn_last_time(struct replica *r)
{
	struct buffer packed = { 0 };
	r->last_time_ms = state_time_ms(r->state); /* where the log has no command left */
	if (store_read_last_command(r->store, &packed)) {
		Kds__V1__Command *c = kds__v1__command__unpack(NULL, packed.len, packed.data);
		if (!c)
			store_fatal(r->store, "read the last command's time: it does not unpack");
		r->last_time_ms = c->time_ms;
		kds__v1__command__free_unpacked(c, NULL);
	}
	buffer_free(&packed);
}

void replica_fail(struct replica *r, raft_index behind, const char *why)
{
	struct status st;
	status_set(&st, STATUS_UNAVAILABLE, "%s; try again", why);
	waiters_fail(&r->waiters, behind, &st);
	replica_fail_reads(r, why);
}

/* `committed`: the commit index before the step, so of this replica's own entries while it led. */
static void follow_role(struct replica *r, raft_index committed)
{
	bool leads = raft_state(&r->raft) == RAFT_LEADER;
	if (leads == r->leads)
		return;
	r->leads = r->begins_term = leads;
	if (leads) {
		log_info("leads term=%llu", raft_current_term(&r->raft));
		learn_last_time(r);
		replica_lead_reads(r);
	} else {
		log_info("leads no more term=%llu", raft_current_term(&r->raft));
		/* What was committed then is applied, and answered, in this very turn. What the step itself committed
		 * may be a new leader's, in the place of entries of ours (Raft §5.3). */
		replica_fail(r, committed,
			     "this replica stopped leading; it is unknown whether the request was carried out");
	}
}

int replica_try_step(struct replica *r, struct raft_event *event)
{
	struct raft_update u;
	raft_index committed = raft_commit_index(&r->raft);
	event->time = r->now_ms;
	int rv = raft_step(&r->raft, event, &u);
	if (rv != 0)
		return rv;
	if (u.flags & (RAFT_UPDATE_CURRENT_TERM | RAFT_UPDATE_VOTED_FOR))
		r->term_changed = true;
	if (u.flags & (RAFT_UPDATE_ENTRIES))
		take_entries(r, u.entries.index, u.entries.batch, u.entries.n);
	if (u.flags & (RAFT_UPDATE_SNAPSHOT)) {
		r->installing = true;
		r->installed = u.snapshot.metadata;
	}
	/* Packed at once: a later step of this turn may replace the entries. */
	if (u.flags & (RAFT_UPDATE_MESSAGES))
		for (unsigned i = 0; i < u.messages.n; i++)
			replica_pack(r, &u.messages.batch[i]);
	replica_follow_members(r);
	follow_role(r, committed);
	return 0;
}

/* For want of memory, or when the log contradicts the leader's. libraft's state is half changed then: there is no
 * going on. */
static _Noreturn void step_failed(struct replica *r, const struct raft_event *event, int rv)
{
	char doing[128];
	snprintf(doing, sizeof doing, "raft: event %d: %s", (int)event->type, raft_strerror(rv));
	store_fatal(r->store, doing);
}

void replica_step(struct replica *r, struct raft_event *event)
{
	int rv = replica_try_step(r, event);
	if (rv != 0)
		step_failed(r, event, rv);
}

/* Two leaders of one term cannot be; libraft only asserts it. */
static bool is_second_leader(struct replica *r, raft_id from, const struct raft_message *m)
{
	if (m->type != RAFT_APPEND_ENTRIES || !r->leads || m->append_entries.term != raft_current_term(&r->raft))
		return false;
	log_error("replica %llu claims to lead term %llu, which this replica leads; its message was dropped", from,
		  m->append_entries.term);
	return true;
}

/*
 * A rejection of an entry that the follower is known to have, of an older stream or overtaken. libraft 0.22.1 ignores
 * it in pipeline mode alone (progress.c, progressMaybeDecrement()): when it probes, next_index falls below match_index,
 * which it only asserts not to happen, and it never sends this follower an entry again.
 */
static bool is_late_rejection(struct replica *r, raft_id from, const struct raft_message *m)
{
	raft_index match;
	return m->type == RAFT_APPEND_ENTRIES_RESULT && m->append_entries_result.rejected != 0 && r->leads &&
	       m->append_entries_result.term == raft_current_term(&r->raft) &&
	       raft_match_index(&r->raft, from, &match) == 0 && m->append_entries_result.rejected <= match;
}

/* The leader has spoken: once what it had committed by then is applied here, our state is as of now. */
static void note_word(struct replica *r, const struct raft_message *m)
{
	if (m->type != RAFT_APPEND_ENTRIES || m->append_entries.term != raft_current_term(&r->raft))
		return;
	r->heard_ms = r->now_ms;
	r->leader_term = m->append_entries.term;
	if (r->told_ms != 0)
		return;
	r->told_ms = r->now_ms;
	r->told_term = m->append_entries.term;
	r->told_commit = m->append_entries.leader_commit;
}

/* What was committed before it led a leader knows once an entry of its own term is (Raft §8): until then its word is less
 * than it seems. */
static void note_fresh(struct replica *r)
{
	if (r->told_ms == 0 || r->applied < r->told_commit || r->applied_term < r->told_term)
		return;
	r->fresh_ms = r->told_ms;
	r->told_ms = 0;
}

void replica_receive(struct replica *r, raft_id from, const Kds__V1__PeerMessage *message, uint64_t now_ms)
{
	struct raft_message m;
	struct status st;
	r->now_ms = now_ms;
	if (message->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_SNAPSHOT_PART) {
		replica_take_snapshot_part(r, from, message->snapshot_part);
		return;
	}
	if (message->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_SNAPSHOT_ANSWER) {
		replica_take_snapshot_answer(r, from, message->snapshot_answer);
		return;
	}
	if (message->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRM) {
		replica_take_read_confirm(r, from, message->read_confirm);
		return;
	}
	if (message->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRMED) {
		replica_take_read_confirmed(r, from, message->read_confirmed);
		return;
	}
	if (codec_unpack(r->codec, message, from, &st, &m) != STATUS_OK) {
		log_warning("message from replica %llu was dropped: %s", from, st.message);
		return;
	}
	if (is_second_leader(r, from, &m) || is_late_rejection(r, from, &m))
		return;
	if (m.type == RAFT_APPEND_ENTRIES)
		replica_skip_compacted(r, &m.append_entries);
	replica_settle_members(r, &m);
	bool lent = replica_lend_vote(r, &m, true);
	struct raft_event event = { .type = RAFT_RECEIVE, .receive = { .message = &m } };
	replica_step(r, &event);
	if (lent)
		(void)replica_lend_vote(r, &m, false);
	note_word(r, &m);
	if (r->unwritten_bytes > UNWRITTEN_BYTES_MAX || r->last - r->written > UNWRITTEN_ENTRIES_MAX)
		replica_finish(r);
}

void replica_tick(struct replica *r, uint64_t now_ms)
{
	r->now_ms = now_ms;
	if (raft_timeout(&r->raft) <= now_ms) {
		struct raft_event event = { .type = RAFT_TIMEOUT };
		replica_step(r, &event);
	}
	if (r->commit_by_ms <= now_ms)
		replica_commit(r);
}

/* Proposals */

void replica_set_time(struct replica *r, uint64_t unix_ms)
{
	r->unix_ms = unix_ms;
}

/* Appends field 2, time_ms, to a packed command: fields may stand in any order. */
static size_t stamp(uint8_t *end, uint64_t time_ms)
{
	size_t n = 0;
	end[n++] = 2 << 3;
	while (time_ms >= 0x80) {
		end[n++] = (uint8_t)(time_ms | 0x80);
		time_ms >>= 7;
	}
	end[n++] = (uint8_t)time_ms;
	return n;
}

/* Why nothing can be proposed now; NULL: it can. */
static const char *refusal(struct replica *r)
{
	if (!r->leads)
		return "this replica does not lead";
	if (r->transfer.done)
		return "this replica hands its leadership over";
	/* libraft wants one membership change at a time, and nothing behind it in a batch. */
	if (r->raft.configuration_uncommitted_index != 0)
		return "the membership is being changed";
	return NULL;
}

static void refuse_proposals(const struct proposal *proposals, size_t n, const char *why)
{
	struct state_result result = { .field = "" };
	status_set(&result.status, STATUS_UNAVAILABLE, "%s; try again", why);
	for (size_t i = 0; i < n; i++)
		proposals[i].done(proposals[i].arg, &result);
}

bool replica_submit_entries(struct replica *r, struct raft_event *event)
{
	int rv = replica_try_step(r, event);
	if (rv != 0 && rv != RAFT_NOTLEADER)
		step_failed(r, event, rv);
	return rv == 0;
}

/* One RAFT_SUBMIT. */
static void submit_batch(struct replica *r, const struct proposal *proposals, size_t n, struct raft_entry *entries)
{
	if (r->last_time_ms < r->unix_ms)
		r->last_time_ms = r->unix_ms;
	for (size_t i = 0; i < n; i++) {
		size_t len = proposals[i].len;
		len += stamp(proposals[i].command + len, r->last_time_ms);
		entries[i] = (struct raft_entry){
			.term = raft_current_term(&r->raft),
			.type = RAFT_COMMAND,
			.buf = { .base = proposals[i].command, .len = len },
		};
	}
	raft_index first = r->last + 1;
	struct raft_event event = { .type = RAFT_SUBMIT, .submit = { .entries = entries, .n = (unsigned)n } };
	if (!waiters_reserve(&r->waiters, n) || !replica_submit_entries(r, &event)) {
		refuse_proposals(proposals, n, "this replica takes no proposals now");
		return;
	}
	for (size_t i = 0; i < n; i++) {
		const struct waiter w = { .index = first + i, .done = proposals[i].done, .arg = proposals[i].arg };
		waiters_add(&r->waiters, &w);
	}
}

void replica_submit(struct replica *r, const struct proposal *proposals, size_t n)
{
	struct raft_entry entries[BATCH_MAX];
	while (n > 0) {
		const char *why = refusal(r);
		if (why) {
			refuse_proposals(proposals, n, why);
			return;
		}
		size_t batch = 0, bytes = 0;
		while (batch < n && batch < BATCH_MAX && (batch == 0 || bytes + proposals[batch].len <= UNWRITTEN_BYTES_MAX))
			bytes += proposals[batch++].len;
		if (r->unwritten_bytes + bytes > 2 * UNWRITTEN_BYTES_MAX || r->last - r->written > UNWRITTEN_ENTRIES_MAX)
			replica_finish(r);
		submit_batch(r, proposals, batch, entries);
		proposals += batch;
		n -= batch;
	}
}

bool replica_submit_barrier(struct replica *r)
{
	static uint8_t nothing[8];
	if (r->transfer.done)
		return false;
	struct raft_entry entry = {
		.term = raft_current_term(&r->raft),
		.type = RAFT_BARRIER,
		.buf = { .base = nothing, .len = sizeof nothing },
	};
	struct raft_event event = { .type = RAFT_SUBMIT, .submit = { .entries = &entry, .n = 1 } };
	return replica_submit_entries(r, &event);
}

/*
 * A leader learns what is committed when an entry of its own term is (Raft §8), and so do those who listen to it. libraft
 * proposes one only where something in its log is not known to be committed.
 */
static void begin_term(struct replica *r)
{
	if (!r->begins_term)
		return;
	/* libraft takes none while it hands over: then it is tried again in the next turn. */
	r->begins_term = replica_last_term(r) != raft_current_term(&r->raft) && !replica_submit_barrier(r);
}

/* Applying */

static void apply_membership(struct replica *r, raft_index index, struct slice data)
{
	struct raft_event event = { .type = RAFT_CONFIGURATION, .configuration = { .index = index } };
	const struct raft_buffer encoded = { .base = (void *)data.data, .len = data.len }; /* decoding only reads */
	if (!codec_configuration_valid(data) || raft_configuration_decode(&encoded, &event.configuration.conf) != 0)
		store_fatal(r->store, "apply a membership: it does not decode");
	store_set_configuration(r->store, index, data);
	replica_step(r, &event); /* libraft owns what was decoded from now on */
}

static void answer(struct replica *r, raft_index index)
{
	struct waiter w;
	while (waiters_take(&r->waiters, index, &w))
		w.done(w.arg, &r->result);
}

void replica_sample(struct replica *r)
{
	struct agreement_sample sample = { .index = r->applied };
	struct status st;
	if (r->applied == 0 || agreement_find(&r->samples, r->applied))
		return;
	if (state_digest(r->state, &st, sample.digest) != STATUS_OK)
		store_fatal(r->store, st.message);
	agreement_keep(&r->samples, &sample);
}

static void apply_entry(void *arg, raft_index index, raft_term term, unsigned short type, struct slice data)
{
	struct replica *r = arg;
	if (type == RAFT_COMMAND) {
		struct status st;
		if (state_apply(r->state, index, data, &st, &r->result) != STATUS_OK)
			store_fatal(r->store, st.message);
		if (index <= 2 && r->result.status.code != STATUS_OK)
			store_fatal(r->store, r->result.status.message); /* without a genesis nothing can follow */
		r->changed = true;
	} else if (type == RAFT_CHANGE) {
		apply_membership(r, index, data);
	}
	r->applied = index;
	r->applied_term = term;
	store_set_applied(r->store, index, term);
	if (agreement_due(index))
		replica_sample(r);
	answer(r, index);
}

static void apply_entries(struct replica *r)
{
	while (r->applied < raft_commit_index(&r->raft)) {
		replica_begin(r);
		raft_index next = r->applied + 1, n = raft_commit_index(&r->raft) - r->applied;
		struct cached_entry e;
		if (entry_cache_get(r->cache, next, &e)) {
			apply_entry(r, next, e.term, (unsigned short)e.type, e.data);
			continue;
		}
		if (n > CODEC_ENTRIES_MAX)
			n = CODEC_ENTRIES_MAX;
		if (next > r->written)
			store_fatal(r->store, "apply: an entry is missing");
		if (n > r->written - r->applied)
			n = r->written - r->applied;
		if (!store_read(r->store, next, (unsigned)n, apply_entry, r))
			store_fatal(r->store, "apply: an entry is missing in the log");
	}
}

static void apply_committed(struct replica *r)
{
	if (r->applied == raft_commit_index(&r->raft))
		return;
	if (r->options.answering)
		r->options.answering(r->options.arg, true);
	apply_entries(r);
	if (r->options.answering)
		r->options.answering(r->options.arg, false);
}

void replica_finish(struct replica *r)
{
	do {
		begin_term(r);
		/* With one voter this disk alone decides what is committed: nobody may have what it could lose. */
		if (r->leads && !r->term_changed && !replica_decides_alone(r))
			outbox_send_appends(&r->outbox, r->options.send, r->options.arg);
		replica_confirm_reads(r); /* behind AppendEntries: these say who leads */
		apply_committed(r);
		replica_answer_reads(r);
		write_log(r);
	} while (must_write(r) || r->applied < raft_commit_index(&r->raft));
	note_fresh(r);
	replica_push_transfer(r);
	replica_follow_snapshots(r);
	replica_compact(r);
	send_all(r);
	replica_follow_transfer(r);
}

uint64_t replica_due(const struct replica *r)
{
	uint64_t due = raft_timeout(&r->raft);
	if (r->transfer.done && r->transfer.until_ms < due)
		due = r->transfer.until_ms;
	if (snapshot_senders_due(r->senders) < due)
		due = snapshot_senders_due(r->senders);
	if (replica_reads_due(r) < due)
		due = replica_reads_due(r);
	return r->in_transaction && r->commit_by_ms < due ? r->commit_by_ms : due;
}

/* What others may know */

size_t replica_waiting(const struct replica *r)
{
	return r->waiters.n + r->reads.n;
}

uint64_t replica_fresh_ms(struct replica *r)
{
	return r->leads && r->applied_term == raft_current_term(&r->raft) ? UINT64_MAX : r->fresh_ms;
}

bool replica_leads(struct replica *r)
{
	return r->leads;
}

size_t replica_voters(const struct replica *r, raft_id *ret_ids, size_t max)
{
	size_t n = 0;
	for (unsigned i = 0; i < r->raft.configuration.n && n < max; i++)
		if (r->raft.configuration.servers[i].role == RAFT_VOTER)
			ret_ids[n++] = r->raft.configuration.servers[i].id;
	return n;
}

static void tell_samples(struct replica *r, Kds__V1__ReplicaStatus *status)
{
	const struct agreement_sample *told[AGREEMENT_TOLD];
	size_t n = agreement_tell(&r->samples, told);
	for (size_t i = 0; i < n; i++) {
		kds__v1__state_digest__init(&r->told[i]);
		r->told[i].index = told[i]->index;
		r->told[i].digest = (ProtobufCBinaryData){ sizeof told[i]->digest, (uint8_t *)told[i]->digest };
		r->told_list[i] = &r->told[i];
	}
	status->n_digests = n;
	status->digests = r->told_list;
	status->digest_format = STATE_DIGEST_FORMAT;
}

const struct agreement_samples *replica_samples(const struct replica *r)
{
	return &r->samples;
}

/* A follower's libraft still names the leader of the term before when a candidate has begun another. */
static raft_id known_leader(struct replica *r)
{
	raft_id leader;
	const char *name;
	raft_leader(&r->raft, &leader, &name);
	return r->leads || r->leader_term == raft_current_term(&r->raft) ? leader : 0;
}

void replica_status(struct replica *r, Kds__V1__ReplicaStatus *status)
{
	static const Kds__V1__RaftRole roles[] = {
		[RAFT_UNAVAILABLE] = KDS__V1__RAFT_ROLE__RAFT_ROLE_UNKNOWN,
		[RAFT_FOLLOWER] = KDS__V1__RAFT_ROLE__RAFT_ROLE_FOLLOWER,
		[RAFT_CANDIDATE] = KDS__V1__RAFT_ROLE__RAFT_ROLE_CANDIDATE,
		[RAFT_LEADER] = KDS__V1__RAFT_ROLE__RAFT_ROLE_LEADER,
	};
	status->id = r->options.id;
	status->role = roles[raft_state(&r->raft)];
	status->term = raft_current_term(&r->raft);
	status->leader_id = known_leader(r);
	status->commit_index = raft_commit_index(&r->raft);
	status->applied_index = r->applied;
	status->last_index = r->last;
	status->last_term = replica_last_term(r);
	status->first_index = store_first(r->store);
	status->receives_percent = snapshot_receiver_percent(r->receiver);
	status->sends_snapshots = snapshot_senders_count(r->senders);
	tell_samples(r, status);
}

bool replica_take_changed(struct replica *r)
{
	bool changed = r->changed;
	r->changed = false;
	return changed;
}
