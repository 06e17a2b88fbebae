/*
 * The replica's disk: one SQLite database (WAL, synchronous=FULL) with the raft log, term and vote, and, in the same
 * transactions, the state machine's tables (state.h). Used by one thread at a time: the engine's, once it runs.
 *
 * Any SQLite error while the engine runs ends the process at once (store_fatal): a replica that cannot write must not
 * vote.
 *
 * DIR holds replica.db (with its -wal and -shm), `lock` (flock(2): one process a directory), and `acknowledged`, the
 * guard against a lost, torn, swapped or restored database: the last entry, term and vote that this replica may have
 * acknowledged. It is written behind each commit, without fsync. So it is exact when a process dies, and a lower bound
 * after a loss of power, and costs next to nothing; a database that contradicts it is refused, because what this replica
 * promised to others is not in it. (Raft may shorten a log: then the guard is lowered, with fsync, before the
 * transaction that does so.)
 *
 * Tables: meta (one row: whose it is, term, vote, applied index and its configuration), genesis (the entries that began
 * the log, kept when the log is compacted), log (idx, term, type, data, checksum). The log begins where it was compacted
 * to, never behind what was applied. The checksum (CRC-32C of the rest of the row) is looked at whenever the entry is
 * read: what a disk changed must neither be applied nor reach another replica.
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
 * Opens DIR/replica.db, making it (and DIR) when there is none. FAILED_PRECONDITION with what to do: of another cluster
 * or replica, of a newer format, locked by another process, not a database; DATA_LOSS: log with a gap, or behind the
 * highest index this replica ever acknowledged, or with a damaged entry, or condemned (store_condemn()). Blocks; reads the
 * whole log once.
 */
enum status_code store_open(const char *dir, const struct store_identity *id, struct status *st,
			    struct store **ret_store) MUST_CHECK;
/* The same checks, opened read-only, nothing made, also while a process runs on it: for --check-config. */
enum status_code store_check(const char *dir, const struct store_identity *id, struct status *st) MUST_CHECK;
void store_close(struct store *s);
sqlite3 *store_sqlite(struct store *s);

struct store_start {
	raft_term term;
	raft_id vote;
	raft_index first, last; /* of the log; last 0: it never had an entry; last < first: it holds none now */
	raft_index applied;     /* the state machine's */
	raft_term applied_term;
	raft_index configuration_index; /* of the last membership that was applied; 0: none */
};
void store_start_values(struct store *s, struct store_start *ret_start);
/* A number that no other data directory has: made with it, at random, not 0. */
uint64_t store_incarnation(struct store *s);
/*
 * Does this replica take part (admission.h)? Then the incarnations of the others that began the cluster are on record.
 * store_take_part() joins the open transaction, if there is one: nothing that this replica promises is durable before it.
 */
struct store_record {
	uint64_t id, incarnation;
};
bool store_takes_part(struct store *s);
void store_take_part(struct store *s, const struct store_record *records, size_t n);
/* At most `max`; returns how many. */
size_t store_records(struct store *s, struct store_record *ret_records, size_t max);
/* That membership, encoded by libraft. Borrowed until the next store_set_configuration(). */
struct slice store_configuration(struct store *s);

/* The terms of the log as it was opened: entries from `first` up to the next run are of `term`. Borrowed. */
struct store_run {
	raft_index first;
	raft_term term;
};
const struct store_run *store_runs(struct store *s, size_t *ret_n);

/* The first entries of every replica's log, in order from index 1, all of term 1. */
struct store_genesis {
	struct buffer configuration; /* RAFT_CHANGE */
	struct buffer command;       /* RAFT_COMMAND */
};
/* Into an empty store: log entries 1 and 2, which are kept as the genesis, term 1. One transaction. */
void store_create_log(struct store *s, const struct store_genesis *genesis);
/* In the open transaction: a log that began with this genesis and holds nothing behind it, in the place of what was
 * there. The genesis counts as applied: a state of its own stands for it. Before the log is in use. */
void store_replace_log(struct store *s, const struct store_genesis *genesis);
/* False: there is none yet. The caller frees both buffers. */
bool store_read_genesis(struct store *s, struct store_genesis *ret_genesis) MUST_CHECK;

/* Where a state stands, and how its log began: what a snapshot says of itself. */
struct store_head {
	raft_index index; /* everything up to here was applied */
	raft_term term;   /* of that entry */
	raft_index configuration_index;
	struct buffer configuration;
	struct store_genesis genesis;
};
/* Through any connection to a replica's database. INTERNAL: SQLite's words; NOT_FOUND: nothing was applied. */
enum status_code store_read_head(sqlite3 *db, struct status *st, struct store_head *ret_head) MUST_CHECK;
void store_head_free(struct store_head *h);
/* In the open transaction: the log holds nothing and goes on behind the head's index, which was applied. */
void store_restart_log(struct store *s, const struct store_head *head);

/* The path of the database; and the bytes of its write-ahead log, which grows while a reader holds it. */
const char *store_path(const struct store *s);
uint64_t store_wal_bytes(struct store *s);

/* One transaction a turn. */
void store_begin(struct store *s);
void store_commit(struct store *s); /* durable when it returns */
void store_rollback(struct store *s); /* of a transaction that changed nothing but the state's tables */
void store_set_term(struct store *s, raft_term term, raft_id vote);
void store_truncate(struct store *s, raft_index from);              /* deletes entries >= from */
/* Deletes entries < first, whose data has so many bytes as store_sizes() says. */
void store_drop(struct store *s, raft_index first, uint64_t bytes);
void store_append(struct store *s, raft_index index, const struct raft_entry *entry);
void store_set_applied(struct store *s, raft_index applied, raft_term term);
void store_set_configuration(struct store *s, raft_index index, struct slice configuration);

typedef void (*store_entry_fn)(void *arg, raft_index index, raft_term term, unsigned short type, struct slice data);
/* Entries [first, first + n): calls `each` in order; false: not all there. `data` is borrowed for the call. */
bool store_read(struct store *s, raft_index first, unsigned n, store_entry_fn each, void *arg) MUST_CHECK;
/* Of the first entry in the log, or where the next one will be. */
raft_index store_first(const struct store *s);
/* Of all entries' data. */
uint64_t store_log_bytes(const struct store *s);
/* The oldest entries and the sizes of their data, in order, until `each` says false. */
typedef bool (*store_size_fn)(void *arg, raft_index index, size_t bytes);
void store_sizes(struct store *s, store_size_fn each, void *arg);
/* The membership entries behind `after`. */
void store_read_changes(struct store *s, raft_index after, store_entry_fn each, void *arg);
/* Appends the newest RAFT_COMMAND's bytes; false: the log has none. */
bool store_read_last_command(struct store *s, struct buffer *out) MUST_CHECK;

/* This replica's state is wrong: says so in DIR/condemned, so that it is never started again on this directory, and ends
 * the process with status 4. */
_Noreturn void store_condemn(struct store *s, const char *why);
/* Logs what failed with SQLite's words and what to do, and ends the process with status 3. */
_Noreturn void store_fatal(struct store *s, const char *doing);

#endif
