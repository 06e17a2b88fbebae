/*
 * The state machine's tables as one stream of rows (common/backup/rows.h), read through a connection of its own from
 * one transaction: all of it is of one index, however long the reading takes, and the engine goes on writing meanwhile.
 * SQLite's write-ahead log grows until the reader is closed, so nobody keeps one for long.
 *
 * One thread at a time; any thread but for a database in memory. Blocks on the disk.
 */
#ifndef SERIAL_STATE_READER_H
#define SERIAL_STATE_READER_H

#include "services/serial/state.h"

struct state_reader;

/* What of the state is read. */
enum state_reader_scope {
	STATE_READER_ALL,    /* everything: what another replica needs to go on from here */
	STATE_READER_LASTING /* without the request ids, which mean nothing to another log: for backups */
};

/* Opens the database file and pins what is committed now. FAILED_PRECONDITION: cannot be read; NOT_FOUND: the state is
 * empty, no first entry was applied yet. */
enum status_code state_reader_open(const char *path, enum state_reader_scope scope, struct status *st,
				   struct state_reader **ret_reader) MUST_CHECK;
/* The same through the caller's connection and in its transaction: what is not committed yet, too. `db` is borrowed. */
enum status_code state_reader_attach(sqlite3 *db, enum state_reader_scope scope, struct status *st,
				     struct state_reader **ret_reader) MUST_CHECK;
/* NULL is allowed. */
void state_reader_close(struct state_reader *r);

/* The connection, for what else the same moment's database holds. Borrowed. */
sqlite3 *state_reader_sqlite(struct state_reader *r);
/* The index of the last command that was applied to what is read. */
uint64_t state_reader_index(const struct state_reader *r);
/* Its level (level.h). */
unsigned state_reader_level(const struct state_reader *r);
/* Its numbers; initialised by the callee. */
void state_reader_status(const struct state_reader *r, Kds__V1__SerialStatus *ret_status);
/* What a backup says of it; `replica`: who reads. The caller frees with kds__v1__backup_header__free_unpacked(). DATA_LOSS:
 * it does not say whose state it is. */
enum status_code state_reader_header(struct state_reader *r, const char *replica, struct status *st,
				     Kds__V1__BackupHeader **ret_header) MUST_CHECK;

/* Appends the stream's next bytes, `max` at most; fewer, with *ret_end, only at its end. INTERNAL: SQLite's words. */
enum status_code state_reader_next(struct state_reader *r, size_t max, struct buffer *out, bool *ret_end,
				   struct status *st) MUST_CHECK;

#endif
