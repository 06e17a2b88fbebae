/*
 * The follower's end of snapshots (snapshot.h): takes the parts in order, checks the chain, and loads their rows into
 * tables of their own (snapshot_tables.h), each part in whatever transaction is open. The state in use is not touched
 * until all of it is there. What came is not resumed after a restart: the transfer begins again.
 *
 * Knows no threads, sockets or clocks. One thread. Blocks on the disk.
 */
#ifndef SERIAL_SNAPSHOT_RECEIVE_H
#define SERIAL_SNAPSHOT_RECEIVE_H

#include "services/serial/snapshot.h"
#include "state.pb-c.h"

struct snapshot_receiver;

/* `db` is borrowed. NULL: no memory. */
struct snapshot_receiver *snapshot_receiver_new(sqlite3 *db) MUST_CHECK;
/* NULL is allowed. */
void snapshot_receiver_free(struct snapshot_receiver *rc);

enum snapshot_step {
	SNAPSHOT_IGNORED,  /* of a chain that was given up, or impossible */
	SNAPSHOT_WAITING,  /* taken, or known already: snapshot_receiver_next() says what is to come */
	SNAPSHOT_KNOWN,    /* all of it was applied here already */
	SNAPSHOT_REFUSED,  /* it will not do, however often it is sent */
	SNAPSHOT_COMPLETE, /* all is there: snapshot_receiver_head(), snapshot_receiver_prefix() */
};
/*
 * A part from the leader of its term, in an open transaction. Part 0 of a newer chain ends the one that was under way.
 * `applied`: what the state in use has. INTERNAL: SQLite failed; all else that is wrong is in the step.
 */
enum status_code snapshot_receiver_take(struct snapshot_receiver *rc, raft_index applied,
					const Kds__V1__SnapshotPart *part, uint64_t now_ms, struct status *st,
					enum snapshot_step *ret_step) MUST_CHECK;
/* The part that it wants. 0: nothing is under way. */
uint64_t snapshot_receiver_next(const struct snapshot_receiver *rc);
const struct store_head *snapshot_receiver_head(const struct snapshot_receiver *rc);
/* Of the tables' names; NULL: nothing is under way. */
const char *snapshot_receiver_prefix(const struct snapshot_receiver *rc);
/* Roughly, of what is under way; at least 1. 0: nothing is. */
unsigned snapshot_receiver_percent(const struct snapshot_receiver *rc);
/* It was installed, or is of no use any more. */
void snapshot_receiver_end(struct snapshot_receiver *rc);
/* Ends one that has not gone on for a minute. True: it did. */
bool snapshot_receiver_tick(struct snapshot_receiver *rc, uint64_t now_ms);

#endif
