/* What store.c (a store in use) and store_open.c (opening, checks) share. */
#ifndef SERIAL_STORE_INTERNAL_H
#define SERIAL_STORE_INTERNAL_H

#include "services/serial/guard.h"
#include "services/serial/store.h"

enum statement {
	SQL_BEGIN,
	SQL_COMMIT,
	SQL_ROLLBACK,
	SQL_META,
	SQL_CONFIGURATION,
	SQL_APPEND,
	SQL_TAKE_PART,
	SQL_RECORD,
	SQL_RECORDS,
	SQL_GENESIS,
	SQL_TRUNCATE,
	SQL_TRUNCATED_BYTES,
	SQL_DROP,
	SQL_SIZES,
	SQL_READ,
	SQL_CHANGES,
	SQL_LAST_COMMAND,
	SQL_COUNT,
};

struct store {
	sqlite3 *db;
	sqlite3_stmt *sql[SQL_COUNT];
	char *dir, *path;
	int lock_fd;
	struct guard guard;
	struct store_start at; /* as of the last change, committed or not */
	struct store_run newest; /* the last entry that was appended or found, and its term */
	uint64_t log_bytes;    /* of the entries' data */
	bool meta_changed;
	uint64_t incarnation;
	bool takes_part;
	struct buffer configuration;
	struct store_run *runs;
	size_t n_runs;
};

static inline struct slice store_column(sqlite3_stmt *sql, int column)
{
	const void *data = sqlite3_column_blob(sql, column);
	return (struct slice){ data ? data : "", (size_t)sqlite3_column_bytes(sql, column) };
}

/* Columns of what reads entries: see store_row(). */
#define STORE_ROW "idx, term, type, data, checksum"
struct store_row {
	raft_index index;
	raft_term term;
	unsigned short type;
	struct slice data; /* borrowed until the statement's next step */
};
/* The row that `sql` stands on. False: it is damaged. */
bool store_row(sqlite3_stmt *sql, struct store_row *ret_row) MUST_CHECK;
uint32_t store_row_checksum(const struct store_row *row);

/* Remembers that entries from `first` on are of `term`. False: no memory. */
bool store_add_run(struct store *s, raft_index first, raft_term term) MUST_CHECK;

#endif
