/*
 * The tables that a snapshot fills, beside those of the state that is in use. They have the state's names behind a prefix
 * of their own. To install them is to rename: the state's tables get out of the way, the snapshot's take their names.
 * What is left over (tables of the state before, and of transfers that did not end) is emptied a few rows at a time, so
 * that no turn is long. One thread.
 */
#ifndef SERIAL_SNAPSHOT_TABLES_H
#define SERIAL_SNAPSHOT_TABLES_H

#include <sqlite3.h>

#include "common/base/status.h"
#include "services/serial/state_loader.h"

/* A prefix that no table and no index has or had. INTERNAL: SQLite's words, in all three. */
enum status_code snapshot_tables_prefix(sqlite3 *db, struct status *st,
					char ret_prefix[STATE_LOADER_PREFIX_MAX]) MUST_CHECK;

/* In the caller's transaction, which then reloads the state (state_reload()). */
enum status_code snapshot_tables_install(sqlite3 *db, const char *prefix, struct status *st) MUST_CHECK;

/* Deletes some of the rows of what is left over, or an empty table, in the caller's transaction. `keep`: the prefix of a
 * transfer that goes on, or NULL. *ret_more: there may be more of it. */
enum status_code snapshot_tables_collect(sqlite3 *db, const char *keep, struct status *st, bool *ret_more) MUST_CHECK;

#endif
