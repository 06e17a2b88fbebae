#include "services/serial/state_loader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/backup/rows.h"
#include "services/serial/state_internal.h"

#define TABLE_NAME_MAX 64

struct state_loader {
	sqlite3 *db;
	enum state_reader_scope scope;
	char prefix[STATE_LOADER_PREFIX_MAX]; /* of the tables' names */
	uint64_t rows;
	struct rows_parser parser;
	size_t table;         /* the next of state_tables to come */
	unsigned found;       /* bits: those that came */
	sqlite3_stmt *insert; /* into the one before it; NULL: none yet */
	int columns;
};

static enum status_code failed(struct state_loader *l, struct status *st, const char *doing)
{
	return status_set(st, STATUS_INTERNAL, "%s: SQLite says: %s", doing, sqlite3_errmsg(l->db));
}

static struct state_loader *new_loader(sqlite3 *db, enum state_reader_scope scope, const char *prefix)
{
	struct state_loader *l = calloc(1, sizeof *l);
	if (!l)
		return NULL;
	l->db = db;
	l->scope = scope;
	snprintf(l->prefix, sizeof l->prefix, "%s", prefix);
	return l;
}

static void table_name(const struct state_loader *l, const struct state_table *t, char name[TABLE_NAME_MAX])
{
	snprintf(name, TABLE_NAME_MAX, "%s%s", l->prefix, t->name);
}

enum status_code state_loader_new(sqlite3 *db, enum state_reader_scope scope, struct status *st,
				  struct state_loader **ret_loader)
{
	struct state_loader *l = new_loader(db, scope, "");
	if (!l)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "load the state: out of memory");
	enum status_code rc = state_make_tables(db, st);
	for (size_t i = 0; rc == STATUS_OK && i < STATE_TABLES; i++) {
		char sql[128];
		snprintf(sql, sizeof sql, "DELETE FROM %s", state_tables[i].name);
		if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
			rc = failed(l, st, "empty the state's tables");
	}
	if (rc != STATUS_OK) {
		state_loader_free(l);
		return rc;
	}
	*ret_loader = l;
	return STATUS_OK;
}

enum status_code state_loader_stage(sqlite3 *db, const char *prefix, struct status *st,
				    struct state_loader **ret_loader)
{
	struct state_loader *l = new_loader(db, STATE_READER_ALL, prefix);
	if (!l)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "load the state: out of memory");
	char name[TABLE_NAME_MAX];
	for (size_t i = 0; i < STATE_TABLES; i++) {
		table_name(l, &state_tables[i], name);
		if (state_make_table(db, &state_tables[i], name))
			continue;
		enum status_code rc = failed(l, st, "make the tables of a snapshot");
		state_loader_free(l);
		return rc;
	}
	*ret_loader = l;
	return STATUS_OK;
}

void state_loader_free(struct state_loader *l)
{
	if (!l)
		return;
	sqlite3_finalize(l->insert);
	rows_parser_fini(&l->parser);
	free(l);
}

/* The next table that a stream of this scope holds; NULL: that was all. */
static const struct state_table *next_table(const struct state_loader *l)
{
	size_t i = l->table;
	while (i < STATE_TABLES && l->scope != STATE_READER_ALL && !state_tables[i].lasting)
		i++;
	return i < STATE_TABLES ? &state_tables[i] : NULL;
}

/* "a,b,c" as the database has them. */
static enum status_code check_columns(struct state_loader *l, const char *name, const struct row_value *columns,
				      struct status *st)
{
	char sql[128], have[512] = "";
	sqlite3_stmt *select = NULL;
	snprintf(sql, sizeof sql, "SELECT * FROM %s", name);
	if (sqlite3_prepare_v2(l->db, sql, -1, &select, NULL) != SQLITE_OK)
		return failed(l, st, "look at the state's tables");
	size_t len = 0;
	l->columns = sqlite3_column_count(select);
	for (int i = 0; i < l->columns && len < sizeof have; i++)
		len += (size_t)snprintf(have + len, sizeof have - len, "%s%s", i ? "," : "", sqlite3_column_name(select, i));
	sqlite3_finalize(select);
	if (len < sizeof have && row_is_text(columns, have))
		return STATUS_OK;
	return status_set(st, STATUS_FAILED_PRECONDITION,
			  "the table %s has other columns than this version knows; use the version that wrote it", name);
}

static enum status_code begin_table(struct state_loader *l, const struct row_value *name,
				    const struct row_value *columns, struct status *st)
{
	const struct state_table *t = next_table(l);
	/* One of a higher level than the state's; state_loader_end() looks whether it is. */
	for (; t && t->level > 0 && !row_is_text(name, t->name); t = next_table(l))
		l->table = (size_t)(t - state_tables) + 1;
	if (!t || !row_is_text(name, t->name))
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "it holds the table '%.*s', where this version expects %s%s; use the version that wrote it",
				  (int)(name->bytes.len < 40 ? name->bytes.len : 40), (const char *)name->bytes.data,
				  t ? "the table " : "none", t ? t->name : "");
	char sql[256], into[TABLE_NAME_MAX];
	table_name(l, t, into);
	enum status_code rc = check_columns(l, into, columns, st);
	if (rc != STATUS_OK)
		return rc;
	int len = snprintf(sql, sizeof sql, "INSERT INTO %s VALUES (?", into);
	for (int i = 1; i < l->columns; i++)
		len += snprintf(sql + len, sizeof sql - (size_t)len, ", ?");
	snprintf(sql + len, sizeof sql - (size_t)len, ")");
	sqlite3_finalize(l->insert);
	l->insert = NULL;
	if (sqlite3_prepare_v2(l->db, sql, -1, &l->insert, NULL) != SQLITE_OK)
		return failed(l, st, "load the state");
	l->found |= 1u << (t - state_tables);
	l->table = (size_t)(t - state_tables) + 1;
	return STATUS_OK;
}

static void bind(sqlite3_stmt *sql, int parameter, const struct row_value *v)
{
	const char *bytes = v->bytes.data;
	if (v->type == ROW_INTEGER)
		sqlite3_bind_int64(sql, parameter, v->integer);
	else if (v->type == ROW_TEXT)
		sqlite3_bind_text64(sql, parameter, bytes, v->bytes.len, SQLITE_STATIC, SQLITE_UTF8);
	else
		state_bind_blob(sql, parameter, v->bytes);
}

static enum status_code load_record(void *arg, const struct rows_record *record, struct status *st)
{
	struct state_loader *l = arg;
	if (record->table)
		return begin_table(l, &record->values[0], &record->values[1], st);
	if (!l->insert || record->n != (size_t)l->columns)
		return status_set(st, STATUS_DATA_LOSS, "a row has %zu values, its table has %d columns", record->n,
				  l->insert ? l->columns : 0);
	for (int i = 0; i < l->columns; i++)
		bind(l->insert, i + 1, &record->values[i]);
	enum status_code rc = STATUS_OK;
	if (sqlite3_step(l->insert) != SQLITE_DONE)
		rc = (sqlite3_errcode(l->db) & 0xff) == SQLITE_CONSTRAINT
			 ? status_set(st, STATUS_DATA_LOSS, "a row contradicts another: %s", sqlite3_errmsg(l->db))
			 : failed(l, st, "load a row");
	sqlite3_reset(l->insert);
	l->rows++;
	return rc;
}

enum status_code state_loader_feed(struct state_loader *l, struct slice piece, struct status *st)
{
	return rows_feed(&l->parser, piece, load_record, l, st);
}

/* What was loaded is of this level; UINT64_MAX: it has no numbers. */
static enum status_code read_level(struct state_loader *l, struct status *st, uint64_t *ret_level)
{
	char query[128], numbers[TABLE_NAME_MAX];
	sqlite3_stmt *sql = NULL;
	table_name(l, &state_tables[STATE_TABLE_NUMBERS], numbers);
	snprintf(query, sizeof query, "SELECT level FROM %s", numbers);
	if (sqlite3_prepare_v2(l->db, query, -1, &sql, NULL) != SQLITE_OK)
		return failed(l, st, "look at the state's numbers");
	*ret_level = sqlite3_step(sql) == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(sql, 0) : UINT64_MAX;
	sqlite3_finalize(sql);
	return STATUS_OK;
}

static enum status_code check_tables(struct state_loader *l, struct status *st)
{
	uint64_t level = 0;
	enum status_code rc = read_level(l, st, &level);
	for (size_t i = 0; rc == STATUS_OK && i < STATE_TABLES; i++) {
		const struct state_table *t = &state_tables[i];
		bool expected = t->level <= level && (l->scope == STATE_READER_ALL || t->lasting);
		if (expected != (l->found >> i & 1))
			rc = status_set(st, STATUS_DATA_LOSS, "the table %s %s", t->name,
					expected ? "is missing" : "is of another version than the rest");
	}
	return rc;
}

enum status_code state_loader_end(struct state_loader *l, struct status *st)
{
	enum status_code rc = rows_end(&l->parser, st);
	if (rc == STATUS_OK)
		rc = check_tables(l, st);
	/* The digest is that of all tables. Where some were left out state_open() makes a new one. */
	if (rc == STATUS_OK && l->scope != STATE_READER_ALL &&
	    sqlite3_exec(l->db, "UPDATE numbers SET digest = x''", NULL, NULL, NULL) != SQLITE_OK)
		rc = failed(l, st, "load the state");
	return rc;
}

uint64_t state_loader_rows(const struct state_loader *l)
{
	return l->rows;
}
