#include "services/serial/snapshot_tables.h"

#include <stdio.h>
#include <string.h>

#include "services/serial/state_internal.h"

#define STAGED "staged_"
#define RETIRED "retired_"
#define ROWS_PER_CALL 256
#define NAME_MAX_BYTES 96

static enum status_code failed(sqlite3 *db, struct status *st, const char *doing)
{
	return status_set(st, STATUS_INTERNAL, "%s: SQLite says: %s", doing, sqlite3_errmsg(db));
}

enum status_code snapshot_tables_prefix(sqlite3 *db, struct status *st, char ret_prefix[STATE_LOADER_PREFIX_MAX])
{
	/* It goes up with every table that is made, renamed or dropped. */
	sqlite3_stmt *sql = NULL;
	if (sqlite3_prepare_v2(db, "PRAGMA schema_version", -1, &sql, NULL) != SQLITE_OK ||
	    sqlite3_step(sql) != SQLITE_ROW) {
		sqlite3_finalize(sql);
		return failed(db, st, "begin a snapshot");
	}
	snprintf(ret_prefix, STATE_LOADER_PREFIX_MAX, STAGED "%lld_", sqlite3_column_int64(sql, 0));
	sqlite3_finalize(sql);
	return STATUS_OK;
}

static bool rename_table(sqlite3 *db, const char *from, const char *to)
{
	char sql[2 * NAME_MAX_BYTES + 64];
	snprintf(sql, sizeof sql, "ALTER TABLE %s RENAME TO %s", from, to);
	return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK;
}

enum status_code snapshot_tables_install(sqlite3 *db, const char *prefix, struct status *st)
{
	char staged[NAME_MAX_BYTES], retired[NAME_MAX_BYTES];
	for (size_t i = 0; i < STATE_TABLES; i++) {
		const char *name = state_tables[i].name;
		snprintf(staged, sizeof staged, "%s%s", prefix, name);
		snprintf(retired, sizeof retired, RETIRED "%s%s", prefix + strlen(STAGED), name);
		if (!rename_table(db, name, retired) || !rename_table(db, staged, name))
			return failed(db, st, "put a snapshot in the state's place");
	}
	return STATUS_OK;
}

/* The name of one that is left over; "": there is none. */
static enum status_code find_left_over(sqlite3 *db, const char *keep, struct status *st, char name[NAME_MAX_BYTES])
{
	static const char query[] = "SELECT name FROM sqlite_schema WHERE type = 'table'"
				    " AND (name GLOB '" STAGED "*' OR name GLOB '" RETIRED "*')"
				    " AND substr(name, 1, length(?1)) <> ?1 LIMIT 1";
	sqlite3_stmt *sql = NULL;
	if (sqlite3_prepare_v2(db, query, -1, &sql, NULL) != SQLITE_OK)
		return failed(db, st, "look for what a snapshot left");
	sqlite3_bind_text(sql, 1, keep ? keep : "-", -1, SQLITE_STATIC);
	int rv = sqlite3_step(sql);
	snprintf(name, NAME_MAX_BYTES, "%s", rv == SQLITE_ROW ? (const char *)sqlite3_column_text(sql, 0) : "");
	sqlite3_finalize(sql);
	return rv == SQLITE_ROW || rv == SQLITE_DONE ? STATUS_OK : failed(db, st, "look for what a snapshot left");
}

/* Tables without row ids are small (state_internal.h). */
static bool is_small(const char *name)
{
	for (size_t i = 0; i < STATE_TABLES; i++) {
		size_t len = strlen(state_tables[i].name), from = strlen(name) - len;
		if (len < strlen(name) && name[from - 1] == '_' && strcmp(name + from, state_tables[i].name) == 0)
			return state_tables[i].without_rowid;
	}
	return false;
}

enum status_code snapshot_tables_collect(sqlite3 *db, const char *keep, struct status *st, bool *ret_more)
{
	char name[NAME_MAX_BYTES], sql[2 * NAME_MAX_BYTES + 128];
	enum status_code rc = find_left_over(db, keep, st, name);
	if (rc != STATUS_OK)
		return rc;
	*ret_more = name[0] != '\0';
	if (name[0] == '\0')
		return STATUS_OK;
	snprintf(sql, sizeof sql, "DELETE FROM %s WHERE rowid IN (SELECT rowid FROM %s LIMIT %d)", name, name,
		 ROWS_PER_CALL);
	if (!is_small(name) && sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return failed(db, st, "delete what a snapshot left");
	if (!is_small(name) && sqlite3_changes(db) > 0)
		return STATUS_OK;
	snprintf(sql, sizeof sql, "DROP TABLE %s", name);
	return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? STATUS_OK
								    : failed(db, st, "delete what a snapshot left");
}
