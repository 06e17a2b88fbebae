/*
 * One replica of the log: libraft's core, the store as its disk, the state machine behind it. It knows no threads,
 * sockets or clocks of its own, so tests drive clusters of them by hand; the engine (engine.h) drives one in a process.
 *
 * Calls come in turns: any number of replica_receive(), replica_submit(), replica_read() and replica_tick(), then one
 * replica_finish(), which makes durable, applies, answers and sends, in the order that Raft's promises need:
 *   - a leader's AppendEntries leave first (its term is durable already; its own disk is one vote among others);
 *   - what is committed is applied, and its proposals are answered: a quorum has it on disk;
 *   - term, vote and entries become durable, with what was applied, in ONE transaction;
 *   - libraft hears of it, and everything else leaves.
 * A turn that only applied leaves its transaction open for the next one to join, for a short time: its entries are
 * durable in the log anyway.
 *
 * All raft_step() calls are in replica*.c. Failures that would make this replica differ from the others end the process
 * (store_fatal). One thread at a time.
 */
#ifndef SERIAL_REPLICA_H
#define SERIAL_REPLICA_H

#include "services/serial/agreement.h"
#include "services/serial/engine.h"
#include "services/serial/membership.h"

struct replica;

struct replica_options {
	raft_id id;
	/* With its first entries (store_create_log()), or empty: then it waits to be added to a cluster. Outlives the
	 * replica, as the state does. */
	struct store *store;
	struct state *state;
	unsigned election_ms, heartbeat_ms;
	size_t snapshot_part; /* bytes of the state in a part of a snapshot; 0: SNAPSHOT_PART_BYTES */
	unsigned log_tail; /* applied entries that the log keeps: replica_compact.c; 0: LOG_TAIL_DEFAULT */
	unsigned seed; /* random: of the election timeouts, and of what must not repeat behind a restart */
	uint64_t now_ms; /* monotonic, as in every call below */
	/* Is it worth packing anything for this peer? */
	bool (*connected)(void *arg, raft_id to);
	/* Sends a packed PeerMessage or drops it. */
	void (*send)(void *arg, raft_id to, struct slice message);
	/* Many answers may come now (true), those were all (false): they can share a write. NULL is allowed. */
	void (*answering)(void *arg, bool begins);
	void *arg;
};

/* Starts from what the store holds. */
enum status_code replica_new(const struct replica_options *options, struct status *st,
			     struct replica **ret_replica) MUST_CHECK;
/* Answers everything that waits with UNAVAILABLE, commits what is open, frees. NULL is allowed. */
void replica_free(struct replica *r);

#define PROPOSAL_STAMP_MAX 11 /* bytes behind the command that replica_submit() may fill */
struct proposal {
	uint8_t *command; /* packed, without time_ms */
	size_t len;       /* of the command; PROPOSAL_STAMP_MAX more are there */
	engine_done_fn done;
	void *arg;
};

void replica_receive(struct replica *r, raft_id from, const Kds__V1__PeerMessage *message, uint64_t now_ms);
/* The wall clock's time, of which the stamps of commands are made; 0: it is not known, the last one's is kept. Once a
 * turn, before replica_submit(). */
void replica_set_time(struct replica *r, uint64_t unix_ms);
/* Stamps the commands with the time, which never goes back, and proposes them. Each is answered once. */
void replica_submit(struct replica *r, const struct proposal *proposals, size_t n);
/* A linearizable read: runs in a replica_finish(), once a majority has confirmed that this replica still leads. */
void replica_read(struct replica *r, engine_read_fn read, void *arg);
/* As engine_transfer(); answered in a later replica_finish(), or at once when it cannot begin. */
void replica_transfer(struct replica *r, raft_id id, engine_transfer_fn done, void *arg);
/* Answers what is under way, if anything, with UNAVAILABLE. */
void replica_fail_transfer(struct replica *r);
/*
 * Stands for election at once, as one whom the leader has told to. For followers that have lost their leader (failover.h);
 * without a leader, or while entries wait for the disk, nothing happens. Safe at any time: votes are given as ever. Behind a
 * replica_finish(); what is to be sent leaves with the next.
 */
void replica_stand(struct replica *r);
/* Election and heartbeat timers; and the open transaction's. */
void replica_tick(struct replica *r, uint64_t now_ms);
void replica_finish(struct replica *r);
/* When replica_tick() is next due. */
uint64_t replica_due(const struct replica *r);

/* Proposals and reads that wait. */
size_t replica_waiting(const struct replica *r);
bool replica_leads(struct replica *r);
/* A time in the past: all that was committed then is applied here, as the leader told. 0: none has spoken yet. UINT64_MAX:
 * this replica leads, and has applied an entry of its own term: so it has all that is committed. */
uint64_t replica_fresh_ms(struct replica *r);
/* The membership as the log has it, the last entry of it perhaps not committed yet. `name` is borrowed until the next
 * call that is not of these. `match`: up to there it has our log; 0 unless we lead. */
struct replica_member {
	raft_id id;
	const char *name;
	bool voter;
	raft_index match;
};
#define REPLICA_MEMBERS_MAX 64
bool replica_is_voter(struct replica *r, raft_id id);
/* The ids of the voters, at most `max`. Returns how many. */
size_t replica_voters(const struct replica *r, raft_id *ret_ids, size_t max);
size_t replica_members(struct replica *r, struct replica_member ret_members[REPLICA_MEMBERS_MAX]);
/* Changes each time that the above does, but for `match`. */
uint64_t replica_members_version(const struct replica *r);
/* Is the membership that is in force not committed (or not applied) yet? */
bool replica_is_changing(const struct replica *r);
raft_index replica_last_index(const struct replica *r);
/*
 * Proposes another membership: as it is, with this member of it added or changed (or removed: `role` 0). One at a time,
 * and only once an entry of this leader's own term is applied (else two majorities might not meet: Ongaro, "bug in
 * single-server membership changes", raft-dev, 2015), for which this asks. False: not now, call again later.
 */
bool replica_change(struct replica *r, raft_id id, const char *name, enum membership_role role);
/* Fills id, role, term, leader_id, the indexes and the digests, which are borrowed until the next call. */
void replica_status(struct replica *r, Kds__V1__ReplicaStatus *status);
/* Takes the state's digest where it is now. */
void replica_sample(struct replica *r);
/* Those it took, here and at the indexes where all replicas do. Borrowed. */
const struct agreement_samples *replica_samples(const struct replica *r);
/* Was a command applied since the last call? */
bool replica_take_changed(struct replica *r);

#endif
