/*
 * Linearizable reads without the disk: ReadIndex (Ongaro's thesis, §6.4). The leader asks the voters whether they are still
 * in its term; when a majority is, itself included, it answers all reads that came before it asked. One round is under way
 * at a time, and the reads that come meanwhile share the next. Which messages get lost is asked again.
 *
 * Why what such a read sees holds all that was answered before the read came:
 *   - Entries of earlier terms: a new leader has all that were committed (Raft §5.4.3), but knows it of none behind its
 *     commit index. Reads wait until that has reached the end of the log that it began to lead with. (libraft puts a barrier
 *     of the new term there, unless all is committed already.)
 *   - Entries of its own term: none is answered before its own commit index covers it, and a turn applies all up to there
 *     before it answers reads. So the state is at least that of when the round began.
 *   - Entries of later terms: there are none. A voter that confirms is in the leader's term after the round began, and
 *     terms never go back past a vote. The first leader of a later term needs the votes of a majority, which has a voter in
 *     common with the one that confirms: that one gave its vote after it confirmed. So the later leader was elected after
 *     the reads came.
 * The last one is the argument for an entry that is proposed when the round begins and is then found committed, and so it
 * holds wherever that does:
 *   - Changes of the membership: as for entries, a majority of the newest membership in the leader's log is needed, and only
 *     its voters count. The first leader of a later term has the last committed one, or that newest one, of which any two
 *     majorities meet. Ids are never used twice, so a voter is always the same one.
 *   - Elections out of turn (replica_stand()) and handovers: whoever wins has had votes in a higher term. Nothing here
 *     counts on anybody's patience or clock: it is no lease.
 *   - A leader that was stopped and goes on: what it then finds in its inbox confirms the round before the stop, and the
 *     reads of that one came before it. Later ones need another round.
 *   - Snapshots: only followers take any.
 *
 * Neither message promises anything about a disk, so both leave at once. In the leader's term a follower is as soon as its
 * memory says so: a vote in a later one leaves only when that term is durable, so after a crash, too, it is in no term below
 * one that it has voted in. A follower that has moved on to a later term, durable or not, is silent.
 */
#include "services/serial/replica_internal.h"

#include <string.h>

#include "common/base/log.h"

/* Rounds */

static void send_message(struct replica *r, raft_id to, const Kds__V1__PeerMessage *m)
{
	uint8_t bytes[64]; /* two numbers and what frames them */
	size_t n = kds__v1__peer_message__get_packed_size(m);
	if (n <= sizeof bytes && r->options.connected(r->options.arg, to)) {
		kds__v1__peer_message__pack(m, bytes);
		r->options.send(r->options.arg, to, (struct slice){ bytes, n });
	}
}

static bool has_confirmed(const struct replica_round *round, raft_id id)
{
	for (size_t i = 0; i < round->n; i++)
		if (round->confirmed[i] == id)
			return true;
	return false;
}

/* Asks those that have not confirmed yet. */
static void ask(struct replica *r)
{
	Kds__V1__ReadConfirm confirm = KDS__V1__READ_CONFIRM__INIT;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	confirm.term = raft_current_term(&r->raft);
	confirm.round = r->round.number;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRM;
	m.read_confirm = &confirm;
	for (unsigned i = 0; i < r->raft.configuration.n; i++) {
		const struct raft_server *server = &r->raft.configuration.servers[i];
		if (server->role == RAFT_VOTER && server->id != r->options.id && !has_confirmed(&r->round, server->id))
			send_message(r, server->id, &m);
	}
	r->round.asked_ms = r->now_ms;
}

/* Has a majority of the newest membership, this replica with it, confirmed the round? */
static bool is_confirmed(const struct replica *r)
{
	const struct raft_configuration *members = &r->raft.configuration;
	unsigned voters = 0, n = 0;
	for (unsigned i = 0; i < members->n; i++) {
		const struct raft_server *server = &members->servers[i];
		if (server->role != RAFT_VOTER)
			continue;
		voters++;
		n += server->id == r->options.id || has_confirmed(&r->round, server->id);
	}
	return n > voters / 2;
}

static void end_round_if_confirmed(struct replica *r)
{
	if (!r->round.open || !is_confirmed(r))
		return;
	r->round.open = false;
	r->round.done = r->round.number;
}

static void begin_round(struct replica *r)
{
	r->round.open = true;
	r->round.number++;
	r->round.n = 0;
	ask(r);
	end_round_if_confirmed(r); /* with one voter nobody needs to be asked */
}

void replica_confirm_reads(struct replica *r)
{
	if (!r->leads)
		return;
	end_round_if_confirmed(r); /* the membership may have shrunk */
	if (r->round.open && r->now_ms - r->round.asked_ms >= r->options.heartbeat_ms)
		ask(r);
	/* Those of the last round are still there, in front. */
	if (!r->round.open && r->reads_wait && raft_commit_index(&r->raft) >= r->round.from_index) {
		r->reads_wait = false;
		begin_round(r);
	}
}

uint64_t replica_reads_due(const struct replica *r)
{
	return r->round.open ? r->round.asked_ms + r->options.heartbeat_ms : UINT64_MAX;
}

void replica_lead_reads(struct replica *r)
{
	r->round.from_index = r->last;
}

void replica_fail_reads(struct replica *r, const char *why)
{
	struct status st;
	status_set(&st, STATUS_UNAVAILABLE, "%s; try again", why);
	r->round.open = r->reads_wait = false;
	waiters_fail(&r->reads, 0, &st);
}

/* Messages */

void replica_take_read_confirm(struct replica *r, raft_id from, const Kds__V1__ReadConfirm *confirm)
{
	raft_id leader;
	const char *name;
	raft_leader(&r->raft, &leader, &name);
	if (leader != from || r->leads || confirm->term != raft_current_term(&r->raft))
		return;
	Kds__V1__ReadConfirmed confirmed = KDS__V1__READ_CONFIRMED__INIT;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	confirmed.term = confirm->term;
	confirmed.round = confirm->round;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRMED;
	m.read_confirmed = &confirmed;
	send_message(r, from, &m);
}

void replica_take_read_confirmed(struct replica *r, raft_id from, const Kds__V1__ReadConfirmed *confirmed)
{
	struct replica_round *round = &r->round;
	if (!r->leads || !round->open || confirmed->term != raft_current_term(&r->raft) ||
	    confirmed->round != round->number || !replica_is_voter(r, from) || has_confirmed(round, from) ||
	    round->n == REPLICA_MEMBERS_MAX)
		return;
	round->confirmed[round->n++] = from;
	end_round_if_confirmed(r);
}

/* Reads */

void replica_read(struct replica *r, engine_read_fn read, void *arg)
{
	/* A round that is under way was begun before it came. */
	const struct waiter w = { .index = r->round.number + 1, .read = read, .arg = arg };
	struct status st;
	if (!r->leads) {
		status_set(&st, STATUS_UNAVAILABLE, "this replica does not lead; try again");
	} else if (!waiters_reserve(&r->reads, 1)) {
		status_set(&st, STATUS_RESOURCE_EXHAUSTED, "out of memory for a read");
	} else {
		waiters_add(&r->reads, &w);
		r->reads_wait = true;
		return;
	}
	waiter_fail(&w, &st);
}

void replica_answer_reads(struct replica *r)
{
	static const struct status ok;
	struct waiter w;
	if (r->reads.n == 0 || !waiters_take(&r->reads, r->round.done, &w))
		return;
	if (r->options.answering)
		r->options.answering(r->options.arg, true);
	do
		w.read(w.arg, r->state, &ok);
	while (waiters_take(&r->reads, r->round.done, &w));
	if (r->options.answering)
		r->options.answering(r->options.arg, false);
}
