/*
 * Fills the state machine's tables from a stream of rows, as state_reader.h gave it: for a replica whose state begins
 * with a backup or a snapshot. Inside the caller's transaction; no state (state.h) is open on the database, and what
 * state_open() says of the result is the last check. One thread.
 */
#ifndef SERIAL_STATE_LOADER_H
#define SERIAL_STATE_LOADER_H

#include "services/serial/state_reader.h"

struct state_loader;

/* Makes the tables where there are none and empties them. `db` is borrowed. INTERNAL: SQLite's words. */
enum status_code state_loader_new(sqlite3 *db, enum state_reader_scope scope, struct status *st,
				  struct state_loader **ret_loader) MUST_CHECK;
/*
 * The same into tables of their own, which are made under names that begin with `prefix`: beside a state that is in use,
 * and over several transactions. snapshot_tables.h has what becomes of them.
 */
#define STATE_LOADER_PREFIX_MAX 32
enum status_code state_loader_stage(sqlite3 *db, const char *prefix, struct status *st,
				    struct state_loader **ret_loader) MUST_CHECK;
/* NULL is allowed. */
void state_loader_free(struct state_loader *l);

/* The stream's next bytes. DATA_LOSS: no such stream, or rows that no table takes; FAILED_PRECONDITION: a table that
 * this version does not know. */
enum status_code state_loader_feed(struct state_loader *l, struct slice piece, struct status *st) MUST_CHECK;
/* The stream has ended: DATA_LOSS unless every table was there. */
enum status_code state_loader_end(struct state_loader *l, struct status *st) MUST_CHECK;

/* How many were loaded. */
uint64_t state_loader_rows(const struct state_loader *l);

#endif
