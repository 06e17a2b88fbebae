/*
 * What the files of the replica share (replica.h has what it is for).
 *
 *   replica.c           the turn: steps, disk, applying, answers
 *   replica_reads.c     linearizable reads: does this replica still lead?
 *   replica_messages.c  libraft's messages, packed with the entries that libraft only counts
 *   replica_election.c  who leads: standing for election, handing over
 *   replica_compact.c   the log's old end
 *   replica_snapshot.c  the state for a follower whose log ends before the leader's begins
 *   replica_members.c   the membership: read, changed, and what libraft forgets of it
 *   replica_start.c     from the store to a running libraft, and back
 */
#ifndef SERIAL_REPLICA_INTERNAL_H
#define SERIAL_REPLICA_INTERNAL_H

#include "services/serial/codec.h"
#include "services/serial/outbox.h"
#include "services/serial/replica.h"
#include "services/serial/snapshot_receive.h"
#include "services/serial/snapshot_send.h"
#include "services/serial/waiters.h"

/* The facts that these files rely on were found in exactly this version. */
_Static_assert(RAFT_VERSION_NUMBER == 2201, "kds-serial needs libraft 0.22.1");
#ifdef RAFT__LEGACY_no
#error "Debian's libraft is built with its legacy fields: RAFT__LEGACY_no would change the layout of struct raft"
#endif

/* The newest round in which the voters are asked whether this replica still leads (replica_reads.c). */
struct replica_round {
	/* Never used twice in a term, not even by a replica that was restarted and leads the same term again: they count from
	 * a random number on. */
	uint64_t number;
	uint64_t done;         /* the newest that was confirmed */
	bool open;             /* `number` is still being asked for */
	uint64_t asked_ms;     /* when, last */
	raft_index from_index; /* none begins before this entry is committed */
	raft_id confirmed[REPLICA_MEMBERS_MAX];
	size_t n;
};

struct replica {
	struct raft raft;
	struct replica_options options;
	struct store *store;
	struct state *state;
	struct codec *codec;
	struct entry_cache *cache;
	struct outbox outbox;
	struct waiters waiters;
	struct waiters reads; /* the index is the round's that they wait for */
	bool reads_wait;      /* some of them for one that has not begun yet */
	struct replica_round round;
	struct state_result result;
	uint64_t now_ms;

	raft_index last;     /* of the log, as libraft sees it */
	raft_index written;  /* up to here the log is durable */
	raft_index truncate; /* entries from here on must leave the disk first; 0: none */
	size_t unwritten_bytes;
	bool term_changed;   /* term or vote wait for the disk */
	raft_index applied;
	raft_term applied_term;
	raft_index compacted_at;   /* the log's last entry when it was compacted last */
	uint64_t appended_bytes;   /* since then */
	uint64_t members_version;
	raft_index members_committed, members_uncommitted; /* as the version saw them */
	bool in_transaction; /* with something applied */
	uint64_t commit_by_ms;
	bool changed;

	struct snapshot_senders *senders;
	struct snapshot_receiver *receiver;
	bool left_over;  /* tables of snapshots, or of states before them, are still to be emptied */
	bool installing; /* libraft wants a snapshot in the place of its log: this one */
	struct raft_snapshot_metadata installed;

	struct agreement_samples samples;
	Kds__V1__StateDigest told[AGREEMENT_TOLD]; /* of them, as messages */
	Kds__V1__StateDigest *told_list[AGREEMENT_TOLD];

	struct {
		engine_transfer_fn done; /* NULL: none is under way */
		void *arg;
		raft_id to;
		bool told; /* to start an election: it has the whole log */
		uint64_t until_ms;
	} transfer;

	/* The newest word of the leader whose commits are not applied yet, and that of the newest state (replica_fresh_ms()). */
	uint64_t heard_ms;     /* its last word of all */
	raft_term leader_term; /* the term in which a leader last spoke */
	uint64_t told_ms;
	raft_term told_term;
	raft_index told_commit;
	uint64_t fresh_ms;

	bool leads;
	bool begins_term;      /* to lead: nothing of this term may be in the log yet */
	uint64_t unix_ms;      /* replica_set_time() */
	uint64_t last_time_ms; /* of the newest command in the log, while we lead */

	/* The last AppendEntries that was packed: other followers mostly need the same. */
	struct raft_append_entries packed;
	size_t packed_first, packed_n; /* its records in the outbox; n 0: none */
	struct cached_entry batch[CODEC_ENTRIES_MAX];
	struct buffer stored; /* bytes of entries that came from the store */
};

/* One raft_step() and what it asks for. A failure ends the process. */
void replica_step(struct replica *r, struct raft_event *event);
/* The same for an event that libraft may refuse: its error, and nothing has changed. */
int replica_try_step(struct replica *r, struct raft_event *event) MUST_CHECK;
/* Opens a transaction, unless one is open. */
void replica_begin(struct replica *r);
/* Commits the open transaction, if there is one. */
void replica_commit(struct replica *r);
/* Answers UNAVAILABLE to the proposals that wait for an entry behind `behind`, and to all reads. */
void replica_fail(struct replica *r, raft_index behind, const char *why);

/* replica_election.c */

/* Of the last entry. 0: unknown. */
raft_term replica_last_term(const struct replica *r);
/* Tells whom the leadership goes to, once it has all entries. */
void replica_push_transfer(struct replica *r);
/* Answers a handover that has come to its end. */
void replica_follow_transfer(struct replica *r);
/* Answers it with UNAVAILABLE: the replica is stopping. */
/* replica_compact.c: at the end of a turn; and for entries that a peer sends. */
void replica_compact(struct replica *r);
void replica_skip_compacted(struct replica *r, struct raft_append_entries *m);

/* replica_snapshot.c. Opened is what replica_close_snapshots() frees, also when there was no memory. */
bool replica_open_snapshots(struct replica *r) MUST_CHECK;
void replica_close_snapshots(struct replica *r);
void replica_take_snapshot_part(struct replica *r, raft_id from, const Kds__V1__SnapshotPart *part);
void replica_take_snapshot_answer(struct replica *r, raft_id from, const Kds__V1__SnapshotAnswer *answer);
/* In every turn: parts to send, tables to empty. */
void replica_follow_snapshots(struct replica *r);
/* False: libraft takes nothing now (it hands over its leadership). Any other failure ends the process. */
bool replica_submit_entries(struct replica *r, struct raft_event *event) MUST_CHECK;
/* Proposes an entry that changes nothing. */
bool replica_submit_barrier(struct replica *r) MUST_CHECK;

/* replica_reads.c. This replica leads from now on: reads wait for the end of its log to be committed. */
void replica_lead_reads(struct replica *r);
void replica_fail_reads(struct replica *r, const char *why);
void replica_take_read_confirm(struct replica *r, raft_id from, const Kds__V1__ReadConfirm *confirm);
void replica_take_read_confirmed(struct replica *r, raft_id from, const Kds__V1__ReadConfirmed *confirmed);
/* In every turn: begins a round that reads wait for, or asks again. */
void replica_confirm_reads(struct replica *r);
/* Those whose round was confirmed; when all that is committed is applied. */
void replica_answer_reads(struct replica *r);
/* When a round is to be asked for again. */
uint64_t replica_reads_due(const struct replica *r);

/* replica_members.c: before libraft takes another membership from the leader. */
void replica_settle_members(struct replica *r, const struct raft_message *m);
/* After each step: was the membership replaced? */
void replica_follow_members(struct replica *r);
/* One voter alone, this one or the one before a change that is not committed: what its disk has is what is committed. */
bool replica_decides_alone(const struct replica *r);
/*
 * A standby votes, too, when it is asked: who asks may have it as a voter already, in an entry that has not come here yet
 * (Ongaro's thesis, §4.1), and of two voters both are needed. Whether the vote counts is for who asks to know. libraft
 * refuses it, so for the one step it is told that this is a voter (`lend`), and then the truth again. A standby never
 * gives its leader up either, and refuses who asks meanwhile: one that was silent for an election timeout leads no more.
 * False: it is no standby, and nothing was changed.
 */
bool replica_lend_vote(struct replica *r, const struct raft_message *m, bool lend);

/* replica_messages.c: into the outbox, unless the peer is not connected. */
void replica_pack(struct replica *r, const struct raft_message *m);

#endif
