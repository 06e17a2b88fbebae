/*
 * The leader's end of snapshots (snapshot.h): one transfer for a follower, few at once. Each reads the state of one moment
 * through a connection of its own, a part in a turn at most, and holds no more than a few parts in memory: what the
 * follower has confirmed is forgotten, and only then more is read. Parts that get lost are sent again.
 *
 * While a transfer reads, SQLite's write-ahead log grows, and the log is kept from the snapshot's index on. So one whose
 * follower does not move on for 30 s is given up, and all are when either has more than 512 MiB.
 *
 * Knows no threads, sockets or clocks. One thread. Reads block on the disk.
 */
#ifndef SERIAL_SNAPSHOT_SEND_H
#define SERIAL_SNAPSHOT_SEND_H

#include "services/serial/store.h"
#include "state.pb-c.h"

struct snapshot_senders;

#define SNAPSHOT_TRANSFERS_MAX 2

struct snapshot_senders_options {
	struct store *store;
	size_t part_bytes; /* 0: SNAPSHOT_PART_BYTES */
	bool (*connected)(void *arg, raft_id to);
	/* Takes a packed PeerMessage. */
	void (*send)(void *arg, raft_id to, struct slice message);
	void *arg;
};

/* NULL: no memory. */
struct snapshot_senders *snapshot_senders_new(const struct snapshot_senders_options *options) MUST_CHECK;
/* NULL is allowed. */
void snapshot_senders_free(struct snapshot_senders *s);

/* libraft wants this follower to get the state. Again and again is as good as once. */
void snapshot_senders_want(struct snapshot_senders *s, raft_id to, uint64_t now_ms);
/* What a follower says. True: it has everything up to ret_applied, which is news. */
bool snapshot_senders_answer(struct snapshot_senders *s, raft_id from, const Kds__V1__SnapshotAnswer *answer,
			     uint64_t now_ms, raft_index *ret_applied) MUST_CHECK;
/* Reads and sends what is due. `term`: the one we lead. */
void snapshot_senders_turn(struct snapshot_senders *s, raft_term term, uint64_t now_ms);
/* When the next turn is due; UINT64_MAX: nothing is under way. */
uint64_t snapshot_senders_due(const struct snapshot_senders *s);
/* We lead no more. */
void snapshot_senders_stop(struct snapshot_senders *s);

/* Entries from here on must stay in the log: a follower will need them once it has its snapshot. UINT64_MAX: none. */
raft_index snapshot_senders_hold(const struct snapshot_senders *s);
/* A follower has everything up to here: nothing in front of it is held for it any more. */
void snapshot_senders_caught_up(struct snapshot_senders *s, raft_id to, raft_index match);
unsigned snapshot_senders_count(const struct snapshot_senders *s);

#endif
