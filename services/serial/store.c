#include "services/serial/store_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/crc32c.h"
#include "common/base/file.h"
#include "common/base/log.h"

_Noreturn void store_fatal(struct store *s, const char *doing)
{
	int code = s->db ? sqlite3_errcode(s->db) : SQLITE_OK;
	if (code != SQLITE_OK && code != SQLITE_ROW && code != SQLITE_DONE)
		log_error("%s: %s/replica.db: %s; stopping at once, because a replica that cannot write must not vote: check "
			  "the disk, then start it again",
			  doing, s->dir, sqlite3_errmsg(s->db));
	else
		log_error("%s: stopping at once, before this replica differs from the others", doing);
	_exit(3);
}

static _Noreturn void guard_failed(struct store *s)
{
	log_error("write %s/acknowledged: %s; stopping at once, because a replica that cannot write must not vote: check the "
		  "disk, then start it again",
		  s->dir, strerror(errno));
	_exit(3);
}

_Noreturn void store_condemn(struct store *s, const char *why)
{
	char path[4200];
	struct status st;
	snprintf(path, sizeof path, "%s/condemned", s->dir);
	if (file_write(path, (struct slice){ why, strlen(why) }, 0600, true, &st) != STATUS_OK)
		log_error("%s", st.message);
	log_error("%s/replica.db: %s; stopping for good, before this replica answers anybody wrongly: check disk and memory of "
		  "this host, then bring the replica back under a new id",
		  s->dir, why);
	_exit(4);
}

static void must(struct store *s, int rv, const char *doing)
{
	if (rv != SQLITE_OK && rv != SQLITE_DONE)
		store_fatal(s, doing);
}

/* Runs a statement that returns no row. */
static void run(struct store *s, enum statement which, const char *doing)
{
	must(s, sqlite3_step(s->sql[which]), doing);
	sqlite3_reset(s->sql[which]);
}

static void must_row(struct store *s, enum statement which, const char *doing)
{
	if (sqlite3_step(s->sql[which]) != SQLITE_ROW)
		store_fatal(s, doing);
}

static void bind_uint(struct store *s, enum statement which, int parameter, uint64_t value)
{
	must(s, sqlite3_bind_int64(s->sql[which], parameter, (sqlite3_int64)value), "bind a number");
}

static void bind_blob(struct store *s, enum statement which, int parameter, const void *data, size_t len)
{
	/* A NULL pointer would bind NULL, not the empty blob. */
	must(s, sqlite3_bind_blob64(s->sql[which], parameter, data ? data : "", len, SQLITE_STATIC), "bind bytes");
}

sqlite3 *store_sqlite(struct store *s)
{
	return s->db;
}

void store_start_values(struct store *s, struct store_start *ret_start)
{
	*ret_start = s->at;
}

uint64_t store_incarnation(struct store *s)
{
	return s->incarnation;
}

bool store_takes_part(struct store *s)
{
	return s->takes_part;
}

void store_take_part(struct store *s, const struct store_record *records, size_t n)
{
	bool own = sqlite3_get_autocommit(s->db) != 0;
	if (own)
		store_begin(s);
	for (size_t i = 0; i < n; i++) {
		bind_uint(s, SQL_RECORD, 1, records[i].id);
		bind_uint(s, SQL_RECORD, 2, records[i].incarnation);
		run(s, SQL_RECORD, "write down the other replicas");
	}
	run(s, SQL_TAKE_PART, "write down that this replica takes part");
	if (own)
		store_commit(s);
	s->takes_part = true;
}

size_t store_records(struct store *s, struct store_record *ret_records, size_t max)
{
	sqlite3_stmt *sql = s->sql[SQL_RECORDS];
	size_t n = 0;
	int rv = SQLITE_DONE;
	while (n < max && (rv = sqlite3_step(sql)) == SQLITE_ROW)
		ret_records[n++] = (struct store_record){ (uint64_t)sqlite3_column_int64(sql, 0),
							  (uint64_t)sqlite3_column_int64(sql, 1) };
	if (n < max)
		must(s, rv, "read the other replicas");
	sqlite3_reset(sql);
	return n;
}

struct slice store_configuration(struct store *s)
{
	return (struct slice){ s->configuration.data, s->configuration.len };
}

const struct store_run *store_runs(struct store *s, size_t *ret_n)
{
	*ret_n = s->n_runs;
	return s->runs;
}

void store_begin(struct store *s)
{
	run(s, SQL_BEGIN, "begin a transaction");
}

void store_commit(struct store *s)
{
	if (s->meta_changed) {
		bind_uint(s, SQL_META, 1, s->at.term);
		bind_uint(s, SQL_META, 2, s->at.vote);
		bind_uint(s, SQL_META, 3, s->at.applied);
		bind_uint(s, SQL_META, 4, s->at.applied_term);
		run(s, SQL_META, "write term, vote and applied index");
		s->meta_changed = false;
	}
	run(s, SQL_COMMIT, "commit");
	const struct guard_mark mark = {
		.index = s->at.last,
		.entry_term = s->newest.first == s->at.last ? s->newest.term : 0,
		.term = s->at.term,
		.vote = s->at.vote,
	};
	if (!guard_raise(&s->guard, &mark))
		guard_failed(s);
}

void store_rollback(struct store *s)
{
	run(s, SQL_ROLLBACK, "roll back");
}

void store_set_term(struct store *s, raft_term term, raft_id vote)
{
	s->at.term = term;
	s->at.vote = vote;
	s->meta_changed = true;
}

void store_truncate(struct store *s, raft_index from)
{
	if (!guard_lower(&s->guard, from - 1))
		guard_failed(s);
	bind_uint(s, SQL_TRUNCATED_BYTES, 1, from);
	must_row(s, SQL_TRUNCATED_BYTES, "read the log");
	s->log_bytes -= (uint64_t)sqlite3_column_int64(s->sql[SQL_TRUNCATED_BYTES], 0);
	sqlite3_reset(s->sql[SQL_TRUNCATED_BYTES]);
	bind_uint(s, SQL_TRUNCATE, 1, from);
	run(s, SQL_TRUNCATE, "shorten the log");
	s->at.last = from - 1;
}

/* A replica that was added gets the first entries from the others, in the log or with a snapshot. */
static void keep_genesis(struct store *s, raft_index index, const void *data, size_t len)
{
	bind_uint(s, SQL_GENESIS, 1, index);
	bind_blob(s, SQL_GENESIS, 2, data, len);
	run(s, SQL_GENESIS, "keep the first entries");
}

void store_append(struct store *s, raft_index index, const struct raft_entry *entry)
{
	const struct store_row row = {
		.index = index,
		.term = entry->term,
		.type = (unsigned short)entry->type,
		.data = { entry->buf.base, entry->buf.len },
	};
	bind_uint(s, SQL_APPEND, 1, row.index);
	bind_uint(s, SQL_APPEND, 2, row.term);
	bind_uint(s, SQL_APPEND, 3, row.type);
	bind_blob(s, SQL_APPEND, 4, row.data.data, row.data.len);
	bind_uint(s, SQL_APPEND, 5, store_row_checksum(&row));
	run(s, SQL_APPEND, "append to the log");
	s->newest = (struct store_run){ index, entry->term };
	if (index <= 2)
		keep_genesis(s, index, entry->buf.base, entry->buf.len);
	if (s->at.last == 0)
		s->at.first = index;
	s->at.last = index;
	s->log_bytes += entry->buf.len;
}

raft_index store_first(const struct store *s)
{
	return s->at.first;
}

uint64_t store_log_bytes(const struct store *s)
{
	return s->log_bytes;
}

void store_sizes(struct store *s, store_size_fn each, void *arg)
{
	sqlite3_stmt *sql = s->sql[SQL_SIZES];
	bool more = true;
	int rv = SQLITE_DONE;
	while (more && (rv = sqlite3_step(sql)) == SQLITE_ROW)
		more = each(arg, (raft_index)sqlite3_column_int64(sql, 0), (size_t)sqlite3_column_int64(sql, 1));
	if (more)
		must(s, rv, "read the log");
	sqlite3_reset(sql);
}

void store_drop(struct store *s, raft_index first, uint64_t bytes)
{
	bind_uint(s, SQL_DROP, 1, first);
	run(s, SQL_DROP, "compact the log");
	s->log_bytes -= bytes;
	s->at.first = first;
}

void store_set_applied(struct store *s, raft_index applied, raft_term term)
{
	s->at.applied = applied;
	s->at.applied_term = term;
	s->meta_changed = true;
}

void store_set_configuration(struct store *s, raft_index index, struct slice configuration)
{
	struct buffer copy = { 0 };
	if (!buffer_append(&copy, configuration.data, configuration.len))
		store_fatal(s, "keep the membership: out of memory");
	buffer_free(&s->configuration);
	s->configuration = copy;
	s->at.configuration_index = index;
	bind_uint(s, SQL_CONFIGURATION, 1, index);
	bind_blob(s, SQL_CONFIGURATION, 2, copy.data, copy.len);
	run(s, SQL_CONFIGURATION, "write the membership");
}

uint32_t store_row_checksum(const struct store_row *row)
{
	uint8_t head[18];
	for (int i = 0; i < 8; i++) {
		head[i] = (uint8_t)(row->index >> (56 - 8 * i));
		head[8 + i] = (uint8_t)(row->term >> (56 - 8 * i));
	}
	head[16] = (uint8_t)(row->type >> 8);
	head[17] = (uint8_t)row->type;
	return crc32c(crc32c(0, head, sizeof head), row->data.data, row->data.len);
}

bool store_row(sqlite3_stmt *sql, struct store_row *ret_row)
{
	const struct store_row row = {
		.index = (raft_index)sqlite3_column_int64(sql, 0),
		.term = (raft_term)sqlite3_column_int64(sql, 1),
		.type = (unsigned short)sqlite3_column_int(sql, 2),
		.data = store_column(sql, 3),
	};
	*ret_row = row;
	return sqlite3_column_int64(sql, 4) == store_row_checksum(&row);
}

static _Noreturn void damaged(struct store *s, raft_index index)
{
	log_error("%s/replica.db: entry %llu of the log is damaged; check the disk, and bring this replica back under a new id",
		  s->dir, index);
	store_fatal(s, "read the log");
}

/* Entries to `each`, at most n of them; how many there were. */
static unsigned each_entry(struct store *s, enum statement which, unsigned n, store_entry_fn each, void *arg)
{
	sqlite3_stmt *sql = s->sql[which];
	unsigned done = 0;
	int rv = SQLITE_DONE;
	while (done < n && (rv = sqlite3_step(sql)) == SQLITE_ROW) {
		struct store_row row;
		if (!store_row(sql, &row))
			damaged(s, row.index);
		each(arg, row.index, row.term, row.type, row.data);
		done++;
	}
	if (done < n)
		must(s, rv, "read the log");
	sqlite3_reset(sql);
	return done;
}

bool store_read(struct store *s, raft_index first, unsigned n, store_entry_fn each, void *arg)
{
	if (first < s->at.first || first + n - 1 > s->at.last)
		return false; /* it has no gap: what lies between is there */
	bind_uint(s, SQL_READ, 1, first);
	return each_entry(s, SQL_READ, n, each, arg) == n;
}

void store_read_changes(struct store *s, raft_index after, store_entry_fn each, void *arg)
{
	bind_uint(s, SQL_CHANGES, 1, after);
	each_entry(s, SQL_CHANGES, UINT32_MAX, each, arg);
}

struct copy {
	struct store *store;
	struct buffer *out;
};

static void copy_data(void *arg, raft_index index, raft_term term, unsigned short type, struct slice data)
{
	const struct copy *c = arg;
	(void)index;
	(void)term;
	(void)type;
	if (!buffer_append(c->out, data.data, data.len))
		store_fatal(c->store, "read the last command: out of memory");
}

bool store_read_last_command(struct store *s, struct buffer *out)
{
	struct copy c = { s, out };
	return each_entry(s, SQL_LAST_COMMAND, 1, copy_data, &c) == 1;
}

void store_create_log(struct store *s, const struct store_genesis *genesis)
{
	const struct buffer *const data[] = { &genesis->configuration, &genesis->command };
	const enum raft_entry_type types[] = { RAFT_CHANGE, RAFT_COMMAND };
	store_begin(s);
	for (raft_index i = 0; i < 2; i++) {
		const struct raft_entry entry = {
			.term = 1,
			.type = types[i],
			.buf = { .base = data[i]->data, .len = data[i]->len },
		};
		store_append(s, i + 1, &entry);
	}
	if (s->n_runs == 0 && !store_add_run(s, 1, 1))
		store_fatal(s, "write the first entries: out of memory");
	store_set_term(s, 1, 0);
	store_commit(s);
}

bool store_read_genesis(struct store *s, struct store_genesis *ret_genesis)
{
	struct store_genesis genesis = { 0 };
	struct buffer *const out[] = { &genesis.configuration, &genesis.command };
	sqlite3_stmt *sql = NULL;
	must(s, sqlite3_prepare_v2(s->db, "SELECT data FROM genesis ORDER BY idx", -1, &sql, NULL), "prepare");
	int rv = SQLITE_DONE;
	size_t n = 0;
	while (n < 2 && (rv = sqlite3_step(sql)) == SQLITE_ROW) {
		struct slice data = store_column(sql, 0);
		if (!buffer_append(out[n++], data.data, data.len))
			store_fatal(s, "read the first entries: out of memory");
	}
	if (n < 2)
		must(s, rv, "read the first entries");
	sqlite3_finalize(sql);
	if (n == 2) {
		*ret_genesis = genesis;
		return true;
	}
	buffer_free(&genesis.configuration);
	buffer_free(&genesis.command);
	return false;
}

/* A snapshot's moment */

static enum status_code read_failed(sqlite3 *db, struct status *st)
{
	return status_set(st, STATUS_INTERNAL, "read where the state stands: SQLite says: %s", sqlite3_errmsg(db));
}

static enum status_code read_meta(sqlite3 *db, struct status *st, struct store_head *h)
{
	sqlite3_stmt *sql = NULL;
	static const char query[] = "SELECT applied, applied_term, configuration_index, configuration FROM meta";
	if (sqlite3_prepare_v2(db, query, -1, &sql, NULL) != SQLITE_OK || sqlite3_step(sql) != SQLITE_ROW) {
		sqlite3_finalize(sql);
		return read_failed(db, st);
	}
	h->index = (raft_index)sqlite3_column_int64(sql, 0);
	h->term = (raft_term)sqlite3_column_int64(sql, 1);
	h->configuration_index = (raft_index)sqlite3_column_int64(sql, 2);
	struct slice configuration = store_column(sql, 3);
	enum status_code rc = STATUS_OK;
	if (h->index == 0)
		rc = status_set(st, STATUS_NOT_FOUND, "nothing was applied yet");
	else if (!buffer_append(&h->configuration, configuration.data, configuration.len))
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "read where the state stands: out of memory");
	sqlite3_finalize(sql);
	return rc;
}

static enum status_code read_genesis(sqlite3 *db, struct status *st, struct store_genesis *g)
{
	struct buffer *const out[] = { &g->configuration, &g->command };
	sqlite3_stmt *sql = NULL;
	if (sqlite3_prepare_v2(db, "SELECT data FROM genesis ORDER BY idx", -1, &sql, NULL) != SQLITE_OK)
		return read_failed(db, st);
	enum status_code rc = STATUS_OK;
	for (int i = 0; rc == STATUS_OK && i < 2; i++) {
		struct slice data = { 0 };
		if (sqlite3_step(sql) == SQLITE_ROW)
			data = store_column(sql, 0);
		else
			rc = read_failed(db, st);
		if (rc == STATUS_OK && !buffer_append(out[i], data.data, data.len))
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "read the first entries: out of memory");
	}
	sqlite3_finalize(sql);
	return rc;
}

enum status_code store_read_head(sqlite3 *db, struct status *st, struct store_head *ret_head)
{
	struct store_head h = { 0 };
	enum status_code rc = read_meta(db, st, &h);
	if (rc == STATUS_OK)
		rc = read_genesis(db, st, &h.genesis);
	if (rc == STATUS_OK)
		*ret_head = h;
	else
		store_head_free(&h);
	return rc;
}

void store_head_free(struct store_head *h)
{
	buffer_free(&h->configuration);
	buffer_free(&h->genesis.configuration);
	buffer_free(&h->genesis.command);
	*h = (struct store_head){ 0 };
}

void store_restart_log(struct store *s, const struct store_head *head)
{
	if (s->at.last > head->index)
		store_truncate(s, head->index + 1);
	must(s, sqlite3_exec(s->db, "DELETE FROM log", NULL, NULL, NULL), "replace the log");
	s->log_bytes = 0;
	s->at.first = head->index + 1;
	s->at.last = head->index;
	s->newest = (struct store_run){ head->index, head->term };
	keep_genesis(s, 1, head->genesis.configuration.data, head->genesis.configuration.len);
	keep_genesis(s, 2, head->genesis.command.data, head->genesis.command.len);
	store_set_applied(s, head->index, head->term);
	store_set_configuration(s, head->configuration_index,
				(struct slice){ head->configuration.data, head->configuration.len });
}

void store_replace_log(struct store *s, const struct store_genesis *genesis)
{
	const struct store_head head = {
		.index = 2,
		.term = 1,
		.configuration_index = 1,
		.configuration = genesis->configuration,
		.genesis = *genesis,
	};
	/* Nor does it know the replicas of before: others may get their ids. */
	must(s, sqlite3_exec(s->db, "DELETE FROM genesis; DELETE FROM record", NULL, NULL, NULL), "replace the log");
	store_restart_log(s, &head);
	s->n_runs = 0;
	/* Terms go on: what was voted for in one of them is not voted for again. */
	store_set_term(s, s->at.term + 1, 0);
}

const char *store_path(const struct store *s)
{
	return s->path;
}

uint64_t store_wal_bytes(struct store *s)
{
	sqlite3_file *file = NULL;
	sqlite3_int64 size = 0;
	if (sqlite3_file_control(s->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &file) != SQLITE_OK || !file ||
	    !file->pMethods || file->pMethods->xFileSize(file, &size) != SQLITE_OK)
		return 0;
	return (uint64_t)size;
}
