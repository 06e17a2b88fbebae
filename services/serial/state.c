#include "services/serial/state_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/message.h"

#define EXPIRE_PER_COMMAND 8

const struct state_table state_tables[STATE_TABLES] = {
	[STATE_TABLE_NUMBERS] = {
		.name = "numbers",
		.columns = "id INTEGER PRIMARY KEY CHECK (id = 1), applied INTEGER NOT NULL, time_ms INTEGER NOT NULL,"
			   " revision INTEGER NOT NULL, last_serial INTEGER NOT NULL, min_serial INTEGER NOT NULL,"
			   " highest_issued INTEGER NOT NULL, issued INTEGER NOT NULL, oldest_request INTEGER NOT NULL,"
			   " level INTEGER NOT NULL, tombstones INTEGER NOT NULL, compacted INTEGER NOT NULL,"
			   " digest BLOB NOT NULL",
		.key = "id",
		.lasting = true,
	},
	/* ranges: first and last of each, 8 bytes big-endian */
	[STATE_TABLE_BLOCKS] = {
		.name = "blocks",
		.columns = "holder TEXT PRIMARY KEY NOT NULL, ranges BLOB NOT NULL",
		.without_rowid = true,
		.key = "holder",
		.lasting = true,
	},
	[STATE_TABLE_ISSUED] = {
		.name = "issued",
		.columns = "serial INTEGER PRIMARY KEY, fingerprint BLOB NOT NULL, subject TEXT NOT NULL,"
			   " issuer_key_id BLOB NOT NULL, not_before INTEGER NOT NULL, not_after INTEGER NOT NULL,"
			   " profile TEXT NOT NULL, requester TEXT NOT NULL, recorded_ms INTEGER NOT NULL",
		.key = "serial",
		.lasting = true,
		/* Of one subject in one block of serials after the other: new records are neighbours there, as serials are,
		 * and share pages, while subjects alone would spread them over the whole index. */
		.indexes = { { "subject", "serial >> " SQL_NUMBER(ISSUED_BLOCK_BITS) ", subject" }, { "not_after", "not_after" } },
	},
	/* Who asked for it, of records that say so. request_hash: of requester and request id (state_asked.c); 0: no id. */
	[STATE_TABLE_ASKED] = {
		.name = "asked",
		.columns = "serial INTEGER PRIMARY KEY, requester_serial INTEGER NOT NULL, requester_issuer BLOB NOT NULL,"
			   " request_id BLOB NOT NULL, request_digest BLOB NOT NULL, request_hash INTEGER NOT NULL",
		.key = "serial",
		.level = LEVEL_ASKED,
		.lasting = true,
		.indexes = { { "request", "request_hash" } },
	},
	/* value: a packed Object; a deleted one stays, so that watchers learn of it */
	[STATE_TABLE_OBJECTS] = {
		.name = "objects",
		.columns = "key TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL UNIQUE, deleted INTEGER NOT NULL,"
			   " value BLOB NOT NULL",
		.key = "key",
		.lasting = true,
	},
	/* previous: the object's revision before; value: a packed Object without its sealed key */
	[STATE_TABLE_HISTORY] = {
		.name = "history",
		.columns = "revision INTEGER PRIMARY KEY, key TEXT NOT NULL, requester TEXT NOT NULL,"
			   " time_ms INTEGER NOT NULL, previous INTEGER NOT NULL, value BLOB NOT NULL",
		.key = "revision",
		.lasting = true,
	},
	/* a row for each transaction of this replica: state_requests.c */
	[STATE_TABLE_REQUESTS] = {
		.name = "requests",
		.columns = "last INTEGER PRIMARY KEY, entries BLOB NOT NULL",
		.key = "last",
	},
};

static const char *const statements[SQL_COUNT] = {
	[SQL_NUMBERS_GET] = "SELECT " NUMBERS_COLUMNS ", digest FROM numbers",
	[SQL_NUMBERS_PUT] = "INSERT OR REPLACE INTO numbers VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
	[SQL_BLOCKS_ALL] = "SELECT holder, ranges FROM blocks",
	[SQL_BLOCKS_PUT] = "INSERT OR REPLACE INTO blocks VALUES (?, ?)",
	[SQL_BLOCKS_DELETE] = "DELETE FROM blocks WHERE holder = ?",
	[SQL_ISSUED_GET] = "SELECT " RECORD_COLUMNS " FROM " RECORD_TABLES " WHERE issued.serial = ?",
	[SQL_ISSUED_INSERT] = "INSERT INTO issued VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
	[SQL_ISSUED_OLDEST] = "SELECT not_after, serial FROM issued ORDER BY not_after, serial LIMIT 1",
	[SQL_ISSUED_DELETE] = "DELETE FROM issued WHERE serial = ?",
	[SQL_ISSUED_LIST] = "SELECT " RECORD_COLUMNS " FROM " RECORD_TABLES " WHERE issued.serial > ? ORDER BY issued.serial",
	[SQL_ISSUED_LIST_SUBJECT] = "SELECT " RECORD_COLUMNS " FROM " RECORD_TABLES " WHERE issued.serial > ? AND subject = ?"
				    " AND issued.serial >> " SQL_NUMBER(ISSUED_BLOCK_BITS) " = ? ORDER BY issued.serial",
	[SQL_ISSUED_NEXT] = "SELECT serial FROM issued WHERE serial >= ? ORDER BY serial LIMIT 1",
	[SQL_ISSUED_LIVE] = "SELECT serial, subject, not_after, profile FROM issued WHERE serial >= ? AND not_after >= ?"
			    " AND profile <> 'ca' ORDER BY serial",
	[SQL_ASKED_INSERT] = "INSERT INTO asked VALUES (?, ?, ?, ?, ?, ?)",
	[SQL_ASKED_DELETE] = "DELETE FROM asked WHERE serial = ?",
	[SQL_ASKED_FIND] = "SELECT serial, request_id, request_digest, (SELECT requester FROM issued WHERE serial = asked.serial)"
			   " FROM asked WHERE request_hash = ? ORDER BY serial",
	[SQL_OBJECT_GET] = "SELECT revision, deleted, value FROM objects WHERE key = ?",
	[SQL_OBJECT_PUT] = "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)",
	[SQL_OBJECT_DROP] = "DELETE FROM objects WHERE revision = ?",
	[SQL_AUTHORITIES_COUNT] = "SELECT count(*) FROM objects WHERE key > 'ca/' AND key < 'ca0' AND NOT deleted",
	/* From behind the last that went: what is passed over on the way is passed over once. */
	[SQL_TOMBSTONE_OLDEST] = "SELECT revision FROM objects WHERE revision > ? AND deleted ORDER BY revision LIMIT 1",
	[SQL_HISTORY_PUT] = "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?)",
	[SQL_HISTORY_PRUNE] = "DELETE FROM history WHERE revision IN"
			      " (SELECT revision FROM history WHERE revision <= ? ORDER BY revision LIMIT ?)",
	[SQL_HISTORY_LIST] = "SELECT * FROM history WHERE revision < ? ORDER BY revision DESC",
	[SQL_OBJECTS_BETWEEN] = "SELECT value FROM objects WHERE key > ? AND key < ? AND NOT deleted",
	[SQL_OBJECTS_LIST] = "SELECT key, value FROM objects WHERE key >= ? AND key > ? AND NOT deleted ORDER BY key",
	[SQL_OBJECTS_SINCE] = "SELECT key, value, revision FROM objects WHERE revision > ? ORDER BY revision",
	[SQL_REQUESTS_ALL] = "SELECT last, entries FROM requests ORDER BY last",
	[SQL_REQUESTS_INSERT] = "INSERT INTO requests VALUES (?, ?)",
	[SQL_REQUESTS_DELETE] = "DELETE FROM requests WHERE last < ?",
};

enum status_code state_sql_failed(struct state *s, struct status *st, const char *doing)
{
	return status_set(st, STATUS_INTERNAL, "state: %s: SQLite says: %s", doing, sqlite3_errmsg(s->db));
}

enum status_code state_run(struct state *s, enum statement which, struct status *st, const char *doing)
{
	int rv = sqlite3_step(s->sql[which]);
	enum status_code rc = rv == SQLITE_DONE ? STATUS_OK : state_sql_failed(s, st, doing);
	sqlite3_reset(s->sql[which]);
	return rc;
}

struct slice state_column(sqlite3_stmt *sql, int column)
{
	const void *data = sqlite3_column_blob(sql, column);
	return (struct slice){ data ? data : "", (size_t)sqlite3_column_bytes(sql, column) };
}

/* The three cannot fail: parameter numbers are ours, and nothing is copied. */
void state_bind_uint(sqlite3_stmt *sql, int parameter, uint64_t value)
{
	sqlite3_bind_int64(sql, parameter, (sqlite3_int64)value);
}

void state_bind_blob(sqlite3_stmt *sql, int parameter, struct slice value)
{
	/* A NULL pointer would bind NULL, not the empty blob. */
	sqlite3_bind_blob64(sql, parameter, value.data ? value.data : "", value.len, SQLITE_STATIC);
}

void state_bind_text(sqlite3_stmt *sql, int parameter, const char *value)
{
	sqlite3_bind_text(sql, parameter, value, -1, SQLITE_STATIC);
}

void state_put_be(uint8_t *p, uint64_t value, int bytes)
{
	for (int i = bytes - 1; i >= 0; i--, value >>= 8)
		p[i] = (uint8_t)value;
}

uint64_t state_get_be(const uint8_t *p, int bytes)
{
	uint64_t value = 0;
	for (int i = 0; i < bytes; i++)
		value = value << 8 | p[i];
	return value;
}

enum status_code state_refuse(struct state_result *r, enum status_code code, const char *field, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	status_vset(&r->status, code, format, ap);
	va_end(ap);
	r->field = field ? field : "";
	r->answer.len = 0;
	return STATUS_OK;
}

enum status_code state_answer(struct state_result *r, const ProtobufCMessage *answer, struct status *st)
{
	r->answer.len = 0;
	if (message_pack(answer, &r->answer, st) == STATUS_OK)
		return STATUS_OK;
	return status_set(st, STATUS_INTERNAL, "state: out of memory for an answer");
}

void state_result_fini(struct state_result *r)
{
	buffer_wipe(&r->answer);
}

/* Nonzero turns the commit into an error: what it would leave out could never be found again. */
static int refuse_unflushed_commit(void *state)
{
	return ((struct state *)state)->dirty;
}

static bool table_exists(sqlite3 *db, const char *name)
{
	return sqlite3_table_column_metadata(db, NULL, name, NULL, NULL, NULL, NULL, NULL, NULL) == SQLITE_OK;
}

bool state_make_table(sqlite3 *db, const struct state_table *t, const char *name)
{
	char sql[1024];
	if (table_exists(db, name))
		return true;
	snprintf(sql, sizeof sql, "CREATE TABLE %s (%s)%s", name, t->columns, t->without_rowid ? " WITHOUT ROWID" : "");
	bool ok = sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK;
	for (int i = 0; ok && i < STATE_INDEXES_MAX && t->indexes[i].name; i++) {
		snprintf(sql, sizeof sql, "CREATE INDEX %s_by_%s ON %s (%s)", name, t->indexes[i].name, name,
			 t->indexes[i].on);
		ok = sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK;
	}
	return ok;
}

enum status_code state_make_tables(sqlite3 *db, struct status *st)
{
	/* One transaction when the caller has none: either all of them are there or none. */
	bool own = sqlite3_get_autocommit(db);
	bool ok = !own || sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK;
	for (size_t i = 0; ok && i < STATE_TABLES; i++)
		ok = state_make_table(db, &state_tables[i], state_tables[i].name);
	ok = ok && (!own || sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK);
	if (ok)
		return STATUS_OK;
	enum status_code rc =
	    status_set(st, STATUS_INTERNAL, "state: make the tables: SQLite says: %s", sqlite3_errmsg(db));
	if (own)
		sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

void state_numbers(const struct numbers *n, uint64_t ret_values[NUMBERS])
{
	const uint64_t values[NUMBERS] = { n->applied,        n->time_ms, n->revision,       n->last_serial, n->min_serial,
					   n->highest_issued, n->issued,  n->oldest_request, n->level,       n->tombstones,
					   n->compacted };
	memcpy(ret_values, values, sizeof values);
}

void state_numbers_read(sqlite3_stmt *sql, struct numbers *ret_numbers)
{
	struct numbers *n = ret_numbers;
	uint64_t *const fields[NUMBERS] = { &n->applied,        &n->time_ms, &n->revision,       &n->last_serial, &n->min_serial,
					    &n->highest_issued, &n->issued,  &n->oldest_request, &n->level,       &n->tombstones,
					    &n->compacted };
	for (int i = 0; i < NUMBERS; i++)
		*fields[i] = (uint64_t)sqlite3_column_int64(sql, i);
}

static enum status_code load_numbers(struct state *s, struct status *st)
{
	sqlite3_stmt *sql = s->sql[SQL_NUMBERS_GET];
	int rv = sqlite3_step(sql);
	struct slice digest = { 0 };
	enum status_code rc = STATUS_OK;
	if (rv == SQLITE_ROW) {
		state_numbers_read(sql, &s->numbers);
		digest = state_column(sql, NUMBERS);
	} else if (rv != SQLITE_DONE) {
		rc = state_sql_failed(s, st, "read the numbers");
	}
	if (rc == STATUS_OK)
		rc = level_check_state(s->numbers.level, st);
	if (rc == STATUS_OK)
		rc = digest_open(s, digest, st);
	sqlite3_reset(sql);
	return rc;
}

static enum status_code save_numbers(struct state *s, struct status *st)
{
	uint64_t values[NUMBERS];
	uint8_t digest[1 + STATE_DIGEST_SIZE] = { STATE_DIGEST_FORMAT };
	enum status_code rc = digest_total(s, st, digest + 1);
	if (rc != STATUS_OK)
		return rc;
	state_numbers(&s->numbers, values);
	for (int i = 0; i < NUMBERS; i++)
		state_bind_uint(s->sql[SQL_NUMBERS_PUT], i + 1, values[i]);
	state_bind_blob(s->sql[SQL_NUMBERS_PUT], NUMBERS + 1, (struct slice){ digest, sizeof digest });
	return state_run(s, SQL_NUMBERS_PUT, st, "write the numbers");
}

/* What reads need, from the tables into memory. */
static enum status_code load_state(struct state *s, struct status *st)
{
	settings_init(&s->settings);
	enum status_code rc = load_numbers(s, st);
	if (rc == STATUS_OK)
		rc = state_serial_load(s, st);
	if (rc == STATUS_OK)
		rc = state_records_load(s, st);
	if (rc == STATUS_OK)
		rc = state_objects_load(s, st);
	if (rc == STATUS_OK)
		rc = state_members_load(s, st);
	return rc == STATUS_OK ? requests_load(s, st) : rc;
}

static void unload_state(struct state *s)
{
	state_serial_unload(s);
	live_free(s->live);
	s->live = NULL;
	state_removed_free(s->removed);
	s->removed = NULL;
	requests_free(s->requests);
	s->requests = NULL;
	digest_close(s);
	s->digest = NULL;
	s->numbers = (struct numbers){ 0 };
}

enum status_code state_reload(struct state *s, struct status *st)
{
	unload_state(s);
	return load_state(s, st);
}

enum status_code state_open(sqlite3 *db, struct status *st, struct state **ret_state)
{
	struct state *s = calloc(1, sizeof *s);
	if (!s)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "open the state: out of memory");
	s->db = db;
	enum status_code rc = state_make_tables(db, st);
	for (unsigned i = 0; rc == STATUS_OK && i < SQL_COUNT; i++)
		if (sqlite3_prepare_v3(db, statements[i], -1, SQLITE_PREPARE_PERSISTENT, &s->sql[i], NULL) != SQLITE_OK)
			rc = state_sql_failed(s, st, "prepare a statement");
	if (rc == STATUS_OK)
		rc = load_state(s, st);
	if (rc != STATUS_OK) {
		state_close(s);
		return rc;
	}
	sqlite3_commit_hook(db, refuse_unflushed_commit, s);
	*ret_state = s;
	return STATUS_OK;
}

void state_close(struct state *s)
{
	if (!s)
		return;
	sqlite3_commit_hook(s->db, NULL, NULL);
	for (unsigned i = 0; i < SQL_COUNT; i++)
		sqlite3_finalize(s->sql[i]);
	unload_state(s);
	free(s->cluster);
	free(s->kds_name);
	buffer_wipe(&s->scratch);
	free(s);
}

static enum status_code raise_level(struct state *s, const Kds__V1__RaiseLevel *in, struct status *st,
				    struct state_result *r)
{
	if (level_check_state(in->level, st) != STATUS_OK)
		return STATUS_DATA_LOSS; /* others apply it */
	if (in->level > s->numbers.level)
		s->numbers.level = in->level;
	return state_answer(r, &in->base, st);
}

static enum status_code apply_operation(struct state *s, const Kds__V1__Command *c, struct arena *arena,
					struct status *st, struct state_result *r)
{
	const char *field = "";
	if (state_validate(c, &r->status, &field) != STATUS_OK) {
		r->field = field;
		return STATUS_OK;
	}
	if (c->op_case != KDS__V1__COMMAND__OP_GENESIS && s->numbers.revision == 0)
		return state_refuse(r, STATUS_FAILED_PRECONDITION, NULL,
				    "the cluster's first entry was not applied yet");
	if (c->version > s->numbers.level && s->numbers.revision > 0)
		return state_refuse(r, STATUS_FAILED_PRECONDITION, NULL,
				    "not all replicas run a version that can do this (level %" PRIu32 ", agreed: %" PRIu64
				    "): install it on each",
				    c->version, s->numbers.level);
	switch (c->op_case) {
	case KDS__V1__COMMAND__OP_GENESIS:
		return state_genesis(s, c->genesis, st, r);
	case KDS__V1__COMMAND__OP_ALLOCATE:
		return state_allocate(s, c, st, r);
	case KDS__V1__COMMAND__OP_RECORD:
		return state_record(s, c, arena, st, r);
	case KDS__V1__COMMAND__OP_SET_MIN:
		return state_set_min(s, c, st, r);
	case KDS__V1__COMMAND__OP_PUT:
		return state_put(s, c, st, r);
	case KDS__V1__COMMAND__OP_DELETE:
		return state_delete(s, c, st, r);
	case KDS__V1__COMMAND__OP_RAISE_LEVEL:
		return raise_level(s, c->raise_level, st, r);
	case KDS__V1__COMMAND__OP_ADD_REPLICA:
	case KDS__V1__COMMAND__OP_CHANGE_REPLICA:
	case KDS__V1__COMMAND__OP_NOTE_REPLICAS:
		return state_change_members(s, c, st, r);
	default:
		return status_set(st, STATUS_DATA_LOSS, "the log holds an operation that this version does not know");
	}
}

static enum status_code apply_command(struct state *s, const Kds__V1__Command *c, struct arena *arena,
				      struct status *st, struct state_result *r)
{
	if (c->time_ms > s->numbers.time_ms)
		s->numbers.time_ms = c->time_ms;
	/* More than a command can add, so that the table's size follows what has not expired. */
	size_t records = c->op_case == KDS__V1__COMMAND__OP_RECORD ? c->record->n_certificates : 0;
	enum status_code rc = state_expire_records(s, EXPIRE_PER_COMMAND + records, st);
	requests_expire(s);
	bool seen = false;
	/* It may have been removed while its command was on the way. */
	if (rc == STATUS_OK && c->version >= LEVEL_ASKED && state_requester_is_removed(s, c->requester))
		return state_refuse(r, STATUS_PERMISSION_DENIED, NULL, "%s was removed from the cluster", c->requester);
	if (rc == STATUS_OK && c->request_id.len > 0)
		rc = requests_find(s, c, st, r, &seen);
	if (rc != STATUS_OK || seen)
		return rc;
	s->requester = c->requester;
	rc = apply_operation(s, c, arena, st, r);
	s->requester = NULL;
	if (rc == STATUS_OK && c->request_id.len > 0)
		rc = requests_remember(s, c, r, st);
	return rc;
}

enum status_code state_apply(struct state *s, uint64_t index, struct slice command, struct status *st,
			     struct state_result *ret_result)
{
	ret_result->status = (struct status){ .code = STATUS_OK };
	ret_result->answer.len = 0;
	ret_result->field = "";
	if (index <= s->numbers.applied)
		return status_set(st, STATUS_DATA_LOSS,
				  "entry %" PRIu64 " of the log comes after %" PRIu64 " was applied", index,
				  s->numbers.applied);
	struct arena *arena = arena_new(COMMAND_MEMORY_MAX);
	if (!arena)
		return status_set(st, STATUS_INTERNAL, "apply entry %" PRIu64 ": out of memory", index);
	enum status_code rc;
	Kds__V1__Command *c = kds__v1__command__unpack(arena_allocator(arena), command.len, command.data);
	if (!c || c->version == 0 || c->version > level_known() || c->op_case == KDS__V1__COMMAND__OP__NOT_SET ||
	    !message_understood(&c->base)) {
		rc = status_set(st, STATUS_DATA_LOSS,
				"entry %" PRIu64
				" of the log is damaged or of a newer version: install the version that the"
				" other replicas run",
				index);
	} else {
		s->numbers.applied = index;
		s->dirty = true;
		rc = apply_command(s, c, arena, st, ret_result);
	}
	arena_free(arena);
	return rc;
}

enum status_code state_restore(struct state *s, const Kds__V1__BackupRestore *restore, uint64_t index,
			       struct status *st)
{
	struct numbers *n = &s->numbers;
	if (n->revision == 0 || restore->skip > SERIAL_MAX - 1 - n->last_serial ||
	    restore->skip > SERIAL_MAX - 1 - n->revision || restore->min_serial < n->min_serial ||
	    restore->min_serial > n->last_serial + restore->skip + 1)
		return status_set(st, STATUS_DATA_LOSS, "state: it cannot be restored as was decided");
	s->dirty = true;
	n->applied = index;
	n->last_serial += restore->skip;
	n->revision += restore->skip;
	n->min_serial = restore->min_serial;
	n->compacted = n->revision; /* whoever watched the state of before starts again */
	s->requester = "restore";
	enum status_code rc = state_close_blocks(s, st);
	if (rc == STATUS_OK)
		rc = state_restore_objects(s, st);
	return rc == STATUS_OK ? state_write_min(s, st) : rc;
}

enum status_code state_flush(struct state *s, struct status *st)
{
	if (!s->dirty)
		return STATUS_OK;
	enum status_code rc = state_serial_flush(s, st);
	if (rc == STATUS_OK)
		rc = requests_flush(s, st);
	if (rc == STATUS_OK)
		rc = save_numbers(s, st);
	if (rc == STATUS_OK)
		s->dirty = false;
	return rc;
}
