/*
 * The replica's disk: one SQLite database (WAL, synchronous=FULL) with the raft log, term and vote, and, in the same
 * transactions, the state machine's tables (state.h). Used by the engine's thread alone.
 *
 * Any SQLite error while the engine runs ends the process at once (store_fatal): a replica that cannot write must not vote.
 * Tables: meta(format, cluster_id, replica_id, term, vote, applied, acknowledged, ...), log(idx, term, type, data).
 */
#ifndef SERIAL_STORE_H
#define SERIAL_STORE_H

#include <raft.h>
#include <sqlite3.h>

#include "common/base/buffer.h"

struct store;

struct store_identity {
	const char *cluster_id;
	uint64_t replica_id;
};

/*
 * Opens DIR/replica.db, making it when there is none. FAILED_PRECONDITION with what to do: of another cluster or replica,
 * of a newer format, locked by another process, not a database; DATA_LOSS: log with a gap, or behind the highest index this
 * replica ever acknowledged (kept beside the database as well, so that a restored or swapped file is seen).
 */
enum status_code store_open(const char *dir, const struct store_identity *id, struct status *st,
			    struct store **ret_store) MUST_CHECK;
/* The same checks, opened read-only, nothing made: for --check-config. */
enum status_code store_check(const char *dir, const struct store_identity *id, struct status *st) MUST_CHECK;
void store_close(struct store *s);
sqlite3 *store_sqlite(struct store *s);

struct store_start {
	raft_term term;
	raft_id vote;
	raft_index first, last; /* of the log; last 0: empty */
	raft_index applied;     /* the state machine's */
};
void store_start_values(struct store *s, struct store_start *ret_start);

/* One transaction a turn. */
void store_begin(struct store *s);
void store_commit(struct store *s); /* durable when it returns */
void store_set_term(struct store *s, raft_term term, raft_id vote);
void store_truncate(struct store *s, raft_index from);              /* deletes entries >= from */
void store_append(struct store *s, raft_index index, const struct raft_entry *entry);
void store_set_applied(struct store *s, raft_index applied);
/* Entries [first, first + n): calls `each` in order; false: not all there. */
bool store_read(struct store *s, raft_index first, unsigned n,
		void (*each)(void *arg, raft_index index, raft_term term, unsigned short type, struct slice data),
		void *arg) MUST_CHECK;

/* Logs what failed with SQLite's words and what to do, and ends the process with status 3. */
_Noreturn void store_fatal(struct store *s, const char *doing);

#endif
