#include "services/serial/state_reader.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/backup/rows.h"
#include "common/base/clock.h"
#include "common/rpc/message.h"
#include "services/serial/state_internal.h"

struct state_reader {
	sqlite3 *db;
	bool attached; /* the connection is the caller's */
	enum state_reader_scope scope;
	struct numbers numbers;
	size_t table;        /* the next of state_tables, or behind them */
	sqlite3_stmt *rows;  /* of the table before it; NULL: all of them were read */
	struct buffer ready; /* packed, of which `taken` bytes were handed out */
	size_t taken;
};

static enum status_code failed(struct state_reader *r, struct status *st, const char *doing)
{
	return status_set(st, STATUS_INTERNAL, "%s: SQLite says: %s", doing, sqlite3_errmsg(r->db));
}

/* A transaction sees what was committed when its first statement reads. */
static enum status_code begin(struct state_reader *r, struct status *st)
{
	sqlite3_stmt *sql = NULL;
	if (sqlite3_prepare_v2(r->db, "SELECT " NUMBERS_COLUMNS " FROM numbers", -1, &sql, NULL) != SQLITE_OK)
		return failed(r, st, "read the state");
	int rv = sqlite3_step(sql);
	enum status_code rc = STATUS_OK;
	if (rv == SQLITE_ROW)
		state_numbers_read(sql, &r->numbers);
	else if (rv != SQLITE_DONE)
		rc = failed(r, st, "read the state's numbers");
	sqlite3_finalize(sql);
	if (rc == STATUS_OK && r->numbers.revision == 0)
		rc = status_set(st, STATUS_NOT_FOUND, "there is no state yet: the cluster's first entry was not applied");
	return rc;
}

static enum status_code begin_transaction(struct state_reader *r, struct status *st)
{
	sqlite3_busy_timeout(r->db, 2000);
	if (sqlite3_exec(r->db, "PRAGMA cache_size = -2048; PRAGMA trusted_schema = OFF; BEGIN", NULL, NULL, NULL) !=
	    SQLITE_OK)
		return failed(r, st, "read the state");
	return begin(r, st);
}

enum status_code state_reader_attach(sqlite3 *db, enum state_reader_scope scope, struct status *st,
				     struct state_reader **ret_reader)
{
	struct state_reader *r = calloc(1, sizeof *r);
	if (!r)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read the state: out of memory");
	*r = (struct state_reader){ .db = db, .attached = true, .scope = scope };
	enum status_code rc = begin(r, st);
	if (rc != STATUS_OK) {
		state_reader_close(r);
		return rc;
	}
	*ret_reader = r;
	return STATUS_OK;
}

enum status_code state_reader_open(const char *path, enum state_reader_scope scope, struct status *st,
				   struct state_reader **ret_reader)
{
	struct state_reader *r = calloc(1, sizeof *r);
	if (!r)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read %s: out of memory", path);
	r->scope = scope;
	enum status_code rc;
	int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
	if (sqlite3_open_v2(path, &r->db, flags, NULL) != SQLITE_OK)
		rc = status_set(st, STATUS_FAILED_PRECONDITION, "open %s: %s", path, sqlite3_errmsg(r->db));
	else
		rc = begin_transaction(r, st);
	if (rc != STATUS_OK) {
		state_reader_close(r);
		return rc;
	}
	*ret_reader = r;
	return STATUS_OK;
}

void state_reader_close(struct state_reader *r)
{
	if (!r)
		return;
	sqlite3_finalize(r->rows);
	if (!r->attached)
		sqlite3_close(r->db);
	buffer_wipe(&r->ready);
	free(r);
}

sqlite3 *state_reader_sqlite(struct state_reader *r)
{
	return r->db;
}

uint64_t state_reader_index(const struct state_reader *r)
{
	return r->numbers.applied;
}

unsigned state_reader_level(const struct state_reader *r)
{
	return (unsigned)r->numbers.level;
}

void state_reader_status(const struct state_reader *r, Kds__V1__SerialStatus *ret_status)
{
	state_numbers_status(&r->numbers, ret_status);
}

static enum status_code read_cluster(struct state_reader *r, struct status *st, Kds__V1__Object **ret_object)
{
	sqlite3_stmt *sql = NULL;
	if (sqlite3_prepare_v2(r->db, "SELECT value FROM objects WHERE key = 'cluster'", -1, &sql, NULL) != SQLITE_OK)
		return failed(r, st, "read the cluster's names");
	Kds__V1__Object *o = NULL;
	if (sqlite3_step(sql) == SQLITE_ROW) {
		struct slice value = state_column(sql, 0);
		o = kds__v1__object__unpack(NULL, value.len, value.data);
	}
	sqlite3_finalize(sql);
	if (!o || o->value_case != KDS__V1__OBJECT__VALUE_CLUSTER) {
		kds__v1__object__free_unpacked(o, NULL);
		return status_set(st, STATUS_DATA_LOSS, "the state has no description of its cluster, or a damaged one");
	}
	*ret_object = o;
	return STATUS_OK;
}

enum status_code state_reader_header(struct state_reader *r, const char *replica, struct status *st,
				     Kds__V1__BackupHeader **ret_header)
{
	Kds__V1__Object *cluster = NULL;
	enum status_code rc = read_cluster(r, st, &cluster);
	if (rc != STATUS_OK)
		return rc;
	Kds__V1__BackupHeader h = KDS__V1__BACKUP_HEADER__INIT;
	h.cluster = cluster->cluster;
	h.index = r->numbers.applied;
	h.revision = r->numbers.revision;
	h.last_serial = r->numbers.last_serial;
	h.highest_issued = r->numbers.highest_issued;
	h.min_serial = r->numbers.min_serial;
	h.issued = r->numbers.issued;
	h.time_ms = clock_unix_ms();
	h.version = (char *)KDS_VERSION; /* only read, as the next */
	h.replica = (char *)replica;
	/* A copy of its own. */
	struct buffer packed = { 0 };
	Kds__V1__BackupHeader *copy = NULL;
	if (message_pack(&h.base, &packed, st) == STATUS_OK)
		copy = kds__v1__backup_header__unpack(NULL, packed.len, packed.data);
	buffer_free(&packed);
	kds__v1__object__free_unpacked(cluster, NULL);
	if (!copy)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read the state: out of memory");
	*ret_header = copy;
	return STATUS_OK;
}

/* Columns in the order in which the table was made: the first is its key. */
static enum status_code begin_table(struct state_reader *r, const char *name, struct status *st)
{
	char sql[128], columns[512] = "";
	snprintf(sql, sizeof sql, "SELECT * FROM %s ORDER BY 1", name);
	if (sqlite3_prepare_v2(r->db, sql, -1, &r->rows, NULL) != SQLITE_OK)
		return failed(r, st, "read the state's tables");
	size_t len = 0;
	for (int i = 0; i < sqlite3_column_count(r->rows) && len < sizeof columns; i++)
		len += (size_t)snprintf(columns + len, sizeof columns - len, "%s%s", i ? "," : "",
					sqlite3_column_name(r->rows, i));
	if (len >= sizeof columns || !rows_put_table(&r->ready, name, columns))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read the state's tables: out of memory");
	return STATUS_OK;
}

static enum status_code put_row(struct state_reader *r, struct status *st)
{
	struct row_value values[ROWS_COLUMNS_MAX];
	int n = sqlite3_column_count(r->rows);
	for (int i = 0; i < n && i < ROWS_COLUMNS_MAX; i++) {
		struct row_value *v = &values[i];
		*v = (struct row_value){ 0 };
		switch (sqlite3_column_type(r->rows, i)) {
		case SQLITE_INTEGER:
			v->type = ROW_INTEGER;
			v->integer = sqlite3_column_int64(r->rows, i);
			break;
		case SQLITE_TEXT:
			v->type = ROW_TEXT;
			v->bytes = state_column(r->rows, i);
			break;
		case SQLITE_BLOB:
			v->type = ROW_BLOB;
			v->bytes = state_column(r->rows, i);
			break;
		default:
			return status_set(st, STATUS_DATA_LOSS, "the state's tables hold a value of an impossible type");
		}
	}
	if (n > ROWS_COLUMNS_MAX || !rows_put(&r->ready, values, (size_t)n))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read the state: out of memory for a row");
	return STATUS_OK;
}

/* Packs the next record; *ret_end: there is none. */
static enum status_code pack_next(struct state_reader *r, bool *ret_end, struct status *st)
{
	while (r->rows) {
		int rv = sqlite3_step(r->rows);
		if (rv == SQLITE_ROW)
			return put_row(r, st);
		if (rv != SQLITE_DONE)
			return failed(r, st, "read the state's rows");
		sqlite3_finalize(r->rows);
		r->rows = NULL;
	}
	while (r->table < STATE_TABLES) {
		const struct state_table *t = &state_tables[r->table++];
		if (t->level <= r->numbers.level && (r->scope == STATE_READER_ALL || t->lasting))
			return begin_table(r, t->name, st);
	}
	*ret_end = true;
	return STATUS_OK;
}

enum status_code state_reader_next(struct state_reader *r, size_t max, struct buffer *out, bool *ret_end,
				   struct status *st)
{
	bool end = false;
	while (!end && r->ready.len - r->taken < max) {
		/* Less than `max` is moved, also of a long row that goes out in many pieces. */
		buffer_consume(&r->ready, r->taken);
		r->taken = 0;
		enum status_code rc = pack_next(r, &end, st);
		if (rc != STATUS_OK)
			return rc;
	}
	size_t n = r->ready.len - r->taken;
	end = end && n <= max;
	n = n < max ? n : max;
	if (!buffer_append(out, r->ready.data ? r->ready.data + r->taken : NULL, n))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read the state: out of memory");
	r->taken += n;
	*ret_end = end;
	return STATUS_OK;
}
