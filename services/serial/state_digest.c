/*
 * The digest of the state: the sum of SHA-256 over all rows, in four lanes modulo 2^64, so that it depends on the
 * content alone, not on the order of rows or on how commands shared transactions (Bellare and Micciancio, "A New
 * Paradigm for Collision-Free Hashing", 1997). It finds faults: a flipped bit, a lost write, a replica that went its
 * own way. It does not withstand an adversary who may choose rows (Wagner, "A Generalized Birthday Problem", 2002).
 *
 * The running digest follows every change of a row through SQLite's preupdate hook: whoever writes to a table of
 * state_tables needs to do nothing for it. Two tables differ:
 *   numbers   is one row that changes with every command: it is hashed when the digest is asked for
 *   requests  has rows that depend on how commands shared transactions: each entry counts as a row instead, from the
 *             moment it is remembered to the moment it is forgotten (digest_request())
 *
 * A scan reads the tables in pieces while they change. It sums up what lies behind its cursor: rows that change there
 * change both sums, rows that change ahead of it will be met as they are then. At the end both sums are equal, or what
 * is on the disk is not what was written.
 */
#include "services/serial/state_internal.h"

#include <gnutls/crypto.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LANES 4

struct sum {
	uint64_t lanes[LANES];
};

struct cursor {
	size_t table;      /* of state_tables; those before it were read */
	sqlite3_int64 key; /* rows of this one up to here were read, too */
	struct sum sum;
};

struct digest {
	gnutls_hash_hd_t hash;
	struct buffer row;
	struct sum sum; /* of all rows but that of `numbers` */
	bool failed;    /* a change could not be counted */
	struct cursor scan;
	sqlite3_stmt *sql[STATE_TABLES];
};

static void add(struct sum *s, const struct sum *row)
{
	for (int i = 0; i < LANES; i++)
		s->lanes[i] += row->lanes[i];
}

static void subtract(struct sum *s, const struct sum *row)
{
	for (int i = 0; i < LANES; i++)
		s->lanes[i] -= row->lanes[i];
}

/* Rows as bytes: the table's name with its NUL, then each value with its kind in front; what varies in length has its
 * length, too. False: no memory. */

static bool begin_row(struct digest *d, const char *table)
{
	d->row.len = 0;
	return buffer_append(&d->row, table, strlen(table) + 1);
}

static bool put_number(struct digest *d, uint8_t kind, uint64_t value)
{
	uint8_t bytes[9] = { kind };
	state_put_be(bytes + 1, value, 8);
	return buffer_append(&d->row, bytes, sizeof bytes);
}

static bool put_value(struct digest *d, sqlite3_value *value)
{
	int kind = sqlite3_value_type(value);
	if (kind == SQLITE_INTEGER)
		return put_number(d, (uint8_t)kind, (uint64_t)sqlite3_value_int64(value));
	const void *data = sqlite3_value_blob(value);
	size_t len = (size_t)sqlite3_value_bytes(value);
	return put_number(d, (uint8_t)kind, len) && (len == 0 || (data && buffer_append(&d->row, data, len)));
}

static bool hash_row(struct digest *d, struct sum *ret_sum)
{
	uint8_t hash[STATE_DIGEST_SIZE];
	if (gnutls_hash(d->hash, d->row.data, d->row.len) != 0)
		return false;
	gnutls_hash_output(d->hash, hash); /* and begins the next */
	for (int i = 0; i < LANES; i++)
		ret_sum->lanes[i] = state_get_be(hash + i * 8, 8);
	return true;
}

/* Changes */

static bool was_read(const struct digest *d, size_t table, sqlite3_int64 key)
{
	return table < d->scan.table || (table == d->scan.table && key <= d->scan.key);
}

/* What is in d->row comes or goes. */
static void count_row(struct digest *d, size_t table, sqlite3_int64 key, bool comes)
{
	void (*const change)(struct sum *, const struct sum *) = comes ? add : subtract;
	struct sum row;
	if (!hash_row(d, &row)) {
		d->failed = true;
		return;
	}
	change(&d->sum, &row);
	if (was_read(d, table, key))
		change(&d->scan.sum, &row);
}

static void count_change(struct digest *d, sqlite3 *db, size_t table, sqlite3_int64 key, bool comes)
{
	int (*const value_of)(sqlite3 *, int, sqlite3_value **) = comes ? sqlite3_preupdate_new : sqlite3_preupdate_old;
	bool ok = begin_row(d, state_tables[table].name);
	for (int i = 0; ok && i < sqlite3_preupdate_count(db); i++) {
		sqlite3_value *value;
		ok = value_of(db, i, &value) == SQLITE_OK && put_value(d, value);
	}
	if (ok)
		count_row(d, table, key, comes);
	else
		d->failed = true;
}

/* Which of state_tables; STATE_TABLES: none. */
static size_t find_table(const char *name)
{
	size_t i = 0;
	while (i < STATE_TABLES && strcmp(state_tables[i].name, name) != 0)
		i++;
	return i;
}

static void on_change(void *state, sqlite3 *db, int op, const char *database, const char *name, sqlite3_int64 old_key,
		      sqlite3_int64 new_key)
{
	struct digest *d = ((struct state *)state)->digest;
	size_t table = strcmp(database, "main") == 0 ? find_table(name) : STATE_TABLES;
	if (table == STATE_TABLES || table == STATE_TABLE_NUMBERS || table == STATE_TABLE_REQUESTS)
		return;
	if (state_tables[table].without_rowid)
		old_key = new_key = 0; /* so small that it is read all at once */
	if (op != SQLITE_INSERT)
		count_change(d, db, table, old_key, false);
	if (op != SQLITE_DELETE)
		count_change(d, db, table, new_key, true);
}

static bool put_request(struct digest *d, uint64_t number, struct slice entry)
{
	return begin_row(d, state_tables[STATE_TABLE_REQUESTS].name) && put_number(d, SQLITE_INTEGER, number) &&
	       buffer_append(&d->row, entry.data, entry.len);
}

void digest_request(struct state *s, uint64_t number, struct slice entry, bool comes)
{
	struct digest *d = s->digest;
	if (put_request(d, number, entry))
		count_row(d, STATE_TABLE_REQUESTS, (sqlite3_int64)number, comes);
	else
		d->failed = true;
}

/* The digest */

static bool hash_numbers(struct state *s, struct sum *ret_sum)
{
	struct digest *d = s->digest;
	uint64_t values[NUMBERS];
	state_numbers(&s->numbers, values);
	bool ok = begin_row(d, state_tables[STATE_TABLE_NUMBERS].name);
	for (int i = 0; ok && i < NUMBERS; i++)
		ok = put_number(d, SQLITE_INTEGER, values[i]);
	return ok && hash_row(d, ret_sum);
}

enum status_code digest_total(struct state *s, struct status *st, uint8_t ret_digest[STATE_DIGEST_SIZE])
{
	struct sum total;
	if (s->digest->failed || !hash_numbers(s, &total))
		return status_set(st, STATUS_INTERNAL, "state: out of memory for the digest");
	add(&total, &s->digest->sum);
	for (int i = 0; i < LANES; i++)
		state_put_be(ret_digest + i * 8, total.lanes[i], 8);
	return STATUS_OK;
}

enum status_code state_digest(struct state *s, struct status *st, uint8_t ret_digest[STATE_DIGEST_SIZE])
{
	enum status_code rc = state_flush(s, st);
	return rc == STATUS_OK ? digest_total(s, st, ret_digest) : rc;
}

/* The scan */

static void begin_scan(struct digest *d)
{
	d->scan = (struct cursor){ .key = INT64_MIN };
}

static enum status_code prepare(struct state *s, size_t table, struct status *st)
{
	sqlite3_stmt **sql = &s->digest->sql[table];
	char query[128];
	if (*sql)
		return STATUS_OK;
	if (state_tables[table].without_rowid)
		snprintf(query, sizeof query, "SELECT 0, * FROM %s", state_tables[table].name);
	else
		snprintf(query, sizeof query, "SELECT rowid, * FROM %s WHERE rowid > ? ORDER BY rowid",
			 state_tables[table].name);
	if (sqlite3_prepare_v3(s->db, query, -1, SQLITE_PREPARE_PERSISTENT, sql, NULL) != SQLITE_OK)
		return state_sql_failed(s, st, "prepare a scan");
	return STATUS_OK;
}

static bool read_row(struct digest *d, size_t table, sqlite3_stmt *sql)
{
	struct sum row;
	bool ok = begin_row(d, state_tables[table].name);
	for (int i = 1; ok && i < sqlite3_column_count(sql); i++)
		ok = put_value(d, sqlite3_column_value(sql, i));
	ok = ok && hash_row(d, &row);
	if (ok)
		add(&d->scan.sum, &row);
	return ok;
}

struct request_scan {
	struct digest *digest;
	uint64_t oldest;
	bool ok;
};

static void read_request(void *arg, uint64_t number, struct slice entry)
{
	struct request_scan *r = arg;
	struct sum row;
	if (number < r->oldest)
		return; /* forgotten; its row goes with the others in it */
	r->ok = r->ok && put_request(r->digest, number, entry) && hash_row(r->digest, &row);
	if (r->ok)
		add(&r->digest->scan.sum, &row);
}

/* A row that does not come apart is one that the sums will differ by. */
static bool read_requests(struct state *s, sqlite3_stmt *sql)
{
	struct request_scan r = { .digest = s->digest, .oldest = s->numbers.oldest_request, .ok = true };
	requests_each(state_column(sql, 2), (uint64_t)sqlite3_column_int64(sql, 0), read_request, &r);
	return r.ok;
}

/* At most `rows` more rows of the table at the cursor; *ret_end: it has no more. */
static enum status_code read_table(struct state *s, unsigned rows, struct status *st, bool *ret_end)
{
	struct digest *d = s->digest;
	size_t table = d->scan.table;
	enum status_code rc = prepare(s, table, st);
	if (rc != STATUS_OK)
		return rc;
	sqlite3_stmt *sql = d->sql[table];
	bool small = state_tables[table].without_rowid;
	if (!small)
		sqlite3_bind_int64(sql, 1, d->scan.key);
	int rv = SQLITE_ROW;
	for (unsigned n = 0; rc == STATUS_OK && (small || n < rows) && (rv = sqlite3_step(sql)) == SQLITE_ROW; n++) {
		bool ok = table == STATE_TABLE_REQUESTS ? read_requests(s, sql) : read_row(d, table, sql);
		if (!ok)
			rc = status_set(st, STATUS_INTERNAL, "state: out of memory for a scan");
		d->scan.key = sqlite3_column_int64(sql, 0);
	}
	if (rc == STATUS_OK && rv != SQLITE_ROW && rv != SQLITE_DONE)
		rc = state_sql_failed(s, st, "scan the state");
	sqlite3_reset(sql);
	*ret_end = rv == SQLITE_DONE;
	return rc;
}

/* Reads on; *ret_end: behind the last table. */
static enum status_code read_on(struct state *s, unsigned rows, struct status *st, bool *ret_end)
{
	struct cursor *scan = &s->digest->scan;
	bool end = true;
	enum status_code rc = STATUS_OK;
	/* One table a call: each costs no more than its rows. */
	if (scan->table != STATE_TABLE_NUMBERS)
		rc = read_table(s, rows, st, &end);
	if (rc == STATUS_OK && end) {
		scan->table++;
		scan->key = INT64_MIN;
	}
	*ret_end = scan->table == STATE_TABLES;
	return rc;
}

enum status_code state_scan_digest(struct state *s, unsigned rows, struct status *st, bool *ret_done)
{
	struct digest *d = s->digest;
	enum status_code rc = state_flush(s, st); /* what is on the disk must be what was counted */
	bool end = false;
	if (rc == STATUS_OK)
		rc = read_on(s, rows, st, &end);
	if (rc != STATUS_OK)
		return rc;
	*ret_done = end;
	if (!end)
		return STATUS_OK;
	bool equal = memcmp(&d->scan.sum, &d->sum, sizeof d->sum) == 0;
	begin_scan(d);
	return equal ? STATUS_OK
		     : status_set(st, STATUS_DATA_LOSS,
				  "the state on the disk is not what was written: its digest does not match");
}

/* Start and end */

/* What the tables hold is what counts. */
static enum status_code take_tables(struct state *s, struct status *st)
{
	struct digest *d = s->digest;
	enum status_code rc = STATUS_OK;
	for (bool end = false; rc == STATUS_OK && !end;)
		rc = read_on(s, UINT_MAX, st, &end);
	d->sum = d->scan.sum;
	begin_scan(d);
	return rc;
}

static enum status_code take_stored(struct state *s, const uint8_t *stored, struct status *st)
{
	struct digest *d = s->digest;
	struct sum numbers;
	if (!hash_numbers(s, &numbers))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "open the state: out of memory");
	for (int i = 0; i < LANES; i++)
		d->sum.lanes[i] = state_get_be(stored + i * 8, 8);
	subtract(&d->sum, &numbers);
	return STATUS_OK;
}

enum status_code digest_open(struct state *s, struct slice stored, struct status *st)
{
	struct digest *d = s->digest = calloc(1, sizeof *d);
	if (!d || gnutls_hash_init(&d->hash, GNUTLS_DIG_SHA256) != 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "open the state: out of memory");
	begin_scan(d);
	sqlite3_preupdate_hook(s->db, on_change, s);
	const uint8_t *format = stored.data;
	if (stored.len == 0 || *format != STATE_DIGEST_FORMAT)
		return take_tables(s, st);
	if (stored.len == 1 + STATE_DIGEST_SIZE)
		return take_stored(s, format + 1, st);
	return status_set(st, STATUS_DATA_LOSS, "state: the numbers are damaged: restore this replica");
}

void digest_close(struct state *s)
{
	struct digest *d = s->digest;
	if (!d)
		return;
	sqlite3_preupdate_hook(s->db, NULL, NULL);
	for (size_t i = 0; i < STATE_TABLES; i++)
		sqlite3_finalize(d->sql[i]);
	if (d->hash)
		gnutls_hash_deinit(d->hash, NULL);
	buffer_wipe(&d->row);
	free(d);
}
