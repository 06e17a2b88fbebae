#include "services/serial/store_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/file_trust.h"
#include "common/base/log.h"
#include "common/base/secret.h"

#define APPLICATION_ID 0x4b445331 /* "KDS1": how file(1) and we know our own databases */
#define FORMAT 2 /* 1: before entries had checksums */

static const char schema[] =
    "CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), cluster_id TEXT NOT NULL, replica_id INTEGER NOT NULL,"
    " term INTEGER NOT NULL, vote INTEGER NOT NULL, applied INTEGER NOT NULL, applied_term INTEGER NOT NULL,"
    " configuration_index INTEGER NOT NULL, configuration BLOB NOT NULL, incarnation INTEGER NOT NULL,"
    " takes_part INTEGER NOT NULL) STRICT;"
    "CREATE TABLE record (id INTEGER PRIMARY KEY, incarnation INTEGER NOT NULL) STRICT;"
    "CREATE TABLE genesis (idx INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;"
    "CREATE TABLE log (idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, type INTEGER NOT NULL,"
    " data BLOB NOT NULL, checksum INTEGER NOT NULL) STRICT;"
    "CREATE INDEX log_changes ON log (idx) WHERE type = 3;";

static const char *const statements[SQL_COUNT] = {
	[SQL_BEGIN] = "BEGIN IMMEDIATE",
	[SQL_COMMIT] = "COMMIT",
	[SQL_ROLLBACK] = "ROLLBACK",
	[SQL_META] = "UPDATE meta SET term = ?, vote = ?, applied = ?, applied_term = ?",
	[SQL_CONFIGURATION] = "UPDATE meta SET configuration_index = ?, configuration = ?",
	[SQL_TAKE_PART] = "UPDATE meta SET takes_part = 1",
	[SQL_RECORD] = "INSERT OR REPLACE INTO record VALUES (?, ?)",
	[SQL_RECORDS] = "SELECT id, incarnation FROM record ORDER BY id",
	[SQL_GENESIS] = "INSERT OR REPLACE INTO genesis VALUES (?, ?)",
	[SQL_APPEND] = "INSERT INTO log VALUES (?, ?, ?, ?, ?)",
	[SQL_TRUNCATE] = "DELETE FROM log WHERE idx >= ?",
	[SQL_READ] = "SELECT " STORE_ROW " FROM log WHERE idx >= ? ORDER BY idx",
	[SQL_CHANGES] = "SELECT " STORE_ROW " FROM log WHERE type = 3 AND idx > ? ORDER BY idx",
	[SQL_LAST_COMMAND] = "SELECT " STORE_ROW " FROM log WHERE type = 1 ORDER BY idx DESC LIMIT 1",
	[SQL_TRUNCATED_BYTES] = "SELECT coalesce(sum(length(data)), 0) FROM log WHERE idx >= ?",
	[SQL_DROP] = "DELETE FROM log WHERE idx < ?",
	[SQL_SIZES] = "SELECT idx, length(data) FROM log ORDER BY idx",
};

static enum status_code refuse_sqlite(struct store *s, struct status *st, const char *doing)
{
	int code = sqlite3_errcode(s->db) & 0xff;
	if (code == SQLITE_NOTADB)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%s/replica.db is not a database of kds-serial; move it away or correct data-dir", s->dir);
	if (code == SQLITE_CORRUPT)
		return status_set(st, STATUS_DATA_LOSS,
				  "%s/replica.db is damaged (%s); bring this replica back under a new id", s->dir,
				  sqlite3_errmsg(s->db));
	return status_set(st, STATUS_FAILED_PRECONDITION, "%s %s/replica.db: %s", doing, s->dir, sqlite3_errmsg(s->db));
}

static enum status_code lock_directory(struct store *s, struct status *st)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/lock", s->dir);
	s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
	if (s->lock_fd < 0)
		return status_set(st, STATUS_FAILED_PRECONDITION, "open %s: %s; kds-serial must be able to write in data-dir",
				  path, strerror(errno));
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0)
		return STATUS_OK;
	if (errno == EWOULDBLOCK)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%s is locked: another process runs on this data-dir; stop it first", path);
	return status_set(st, STATUS_FAILED_PRECONDITION, "lock %s: %s", path, strerror(errno));
}

/* The database file with the right mode, durable in its directory, before SQLite sees it. */
static enum status_code make_file(struct store *s, const char *path, struct status *st)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
	if (fd < 0)
		return status_set(st, STATUS_FAILED_PRECONDITION, "open %s: %s", path, strerror(errno));
	close(fd);
	fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0) {
		int error = errno;
		if (fd >= 0)
			close(fd);
		return status_set(st, STATUS_FAILED_PRECONDITION, "sync %s: %s", s->dir, strerror(error));
	}
	close(fd);
	return STATUS_OK;
}

static enum status_code open_database(struct store *s, bool read_only, struct status *st)
{
	char path[4096], uri[4200];
	snprintf(path, sizeof path, "%s/replica.db", s->dir);
	int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
	if (!read_only) {
		enum status_code rc = make_file(s, path, st);
		if (rc != STATUS_OK)
			return rc;
		if (sqlite3_open_v2(path, &s->db, flags | SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
			return refuse_sqlite(s, st, "open");
	} else {
		/* Without a -wal nobody has it open: immutable leaves no file behind. */
		snprintf(uri, sizeof uri, "%s-wal", path);
		bool alone = access(uri, F_OK) < 0;
		snprintf(uri, sizeof uri, "file:%s%s", path, alone ? "?immutable=1" : "");
		if (sqlite3_open_v2(uri, &s->db, flags | SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL) != SQLITE_OK)
			return refuse_sqlite(s, st, "open");
	}
	sqlite3_busy_timeout(s->db, 2000); /* somebody looks at it with the sqlite3 tool */
	return STATUS_OK;
}

static enum status_code read_pragma(struct store *s, const char *sql, int64_t *ret_value, struct status *st)
{
	sqlite3_stmt *stmt = NULL;
	enum status_code rc = STATUS_OK;
	if (sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL) != SQLITE_OK || sqlite3_step(stmt) != SQLITE_ROW)
		rc = refuse_sqlite(s, st, "read");
	else
		*ret_value = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	return rc;
}

static enum status_code create_tables(struct store *s, const struct store_identity *id, struct status *st)
{
	char pragmas[128];
	snprintf(pragmas, sizeof pragmas, "PRAGMA application_id = %d; PRAGMA user_version = %d;", APPLICATION_ID, FORMAT);
	sqlite3_stmt *stmt = NULL;
	int64_t incarnation = 0;
	if (secret_random(&incarnation, sizeof incarnation, st) != STATUS_OK)
		return st->code;
	bool ok = sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK &&
		  sqlite3_exec(s->db, pragmas, NULL, NULL, NULL) == SQLITE_OK &&
		  sqlite3_exec(s->db, schema, NULL, NULL, NULL) == SQLITE_OK &&
		  sqlite3_prepare_v2(s->db, "INSERT INTO meta VALUES (1, ?, ?, 0, 0, 0, 0, 0, x'', ?, 0)", -1, &stmt, NULL) ==
		      SQLITE_OK &&
		  sqlite3_bind_text(stmt, 1, id->cluster_id, -1, SQLITE_STATIC) == SQLITE_OK &&
		  sqlite3_bind_int64(stmt, 2, (sqlite3_int64)id->replica_id) == SQLITE_OK &&
		  sqlite3_bind_int64(stmt, 3, incarnation | 1) == SQLITE_OK && /* never 0 */
		  sqlite3_step(stmt) == SQLITE_DONE && sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK;
	enum status_code rc = ok ? STATUS_OK : refuse_sqlite(s, st, "make");
	sqlite3_finalize(stmt);
	return rc;
}

/* Is the database ours? *ret_empty: nothing was ever in it. */
static enum status_code check_format(struct store *s, bool *ret_empty, struct status *st)
{
	int64_t application = 0, format = 0, tables = 0;
	enum status_code rc = read_pragma(s, "PRAGMA application_id", &application, st);
	if (rc == STATUS_OK)
		rc = read_pragma(s, "PRAGMA user_version", &format, st);
	if (rc == STATUS_OK)
		rc = read_pragma(s, "SELECT count(*) FROM sqlite_schema", &tables, st);
	if (rc != STATUS_OK)
		return rc;
	*ret_empty = application == 0 && tables == 0;
	if (*ret_empty)
		return STATUS_OK;
	if (application != APPLICATION_ID)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%s/replica.db is not a database of kds-serial; move it away or correct data-dir", s->dir);
	if (format != FORMAT)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%s/replica.db has format %" PRId64 ", this kds-serial knows %d; install the version that "
				  "wrote it",
				  s->dir, format, FORMAT);
	return STATUS_OK;
}

static enum status_code load_meta(struct store *s, const struct store_identity *id, struct status *st)
{
	sqlite3_stmt *stmt = NULL;
	enum status_code rc = STATUS_OK;
	if (sqlite3_prepare_v2(s->db, "SELECT * FROM meta", -1, &stmt, NULL) != SQLITE_OK ||
	    sqlite3_step(stmt) != SQLITE_ROW) {
		rc = refuse_sqlite(s, st, "read");
		goto out;
	}
	const char *cluster = (const char *)sqlite3_column_text(stmt, 1);
	uint64_t replica = (uint64_t)sqlite3_column_int64(stmt, 2);
	if (!cluster || strcmp(cluster, id->cluster_id) != 0)
		rc = status_set(st, STATUS_FAILED_PRECONDITION,
				"%s/replica.db belongs to the cluster with id %.64s; correct data-dir or cluster-id", s->dir,
				cluster ? cluster : "");
	else if (replica != id->replica_id)
		rc = status_set(st, STATUS_FAILED_PRECONDITION,
				"%s/replica.db belongs to replica %" PRIu64 ", not %" PRIu64 "; correct data-dir or id", s->dir,
				replica, id->replica_id);
	if (rc != STATUS_OK)
		goto out;
	s->at.term = (raft_term)sqlite3_column_int64(stmt, 3);
	s->at.vote = (raft_id)sqlite3_column_int64(stmt, 4);
	s->at.applied = (raft_index)sqlite3_column_int64(stmt, 5);
	s->at.applied_term = (raft_term)sqlite3_column_int64(stmt, 6);
	s->at.configuration_index = (raft_index)sqlite3_column_int64(stmt, 7);
	s->incarnation = (uint64_t)sqlite3_column_int64(stmt, 9);
	s->takes_part = sqlite3_column_int(stmt, 10) != 0;
	struct slice configuration = store_column(stmt, 8);
	if (!buffer_append(&s->configuration, configuration.data, configuration.len))
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "read %s/replica.db: out of memory", s->dir);
out:
	sqlite3_finalize(stmt);
	return rc;
}

bool store_add_run(struct store *s, raft_index first, raft_term term)
{
	/* Powers of two are where the array is full. */
	if ((s->n_runs & (s->n_runs - 1)) == 0) {
		struct store_run *runs = realloc(s->runs, (s->n_runs ? s->n_runs * 2 : 1) * sizeof *runs);
		if (!runs)
			return false;
		s->runs = runs;
	}
	s->runs[s->n_runs++] = (struct store_run){ first, term };
	return true;
}

/* Walks the log once: no gap, terms that only grow, nothing damaged. */
static enum status_code scan_log(struct store *s, struct status *st)
{
	sqlite3_stmt *stmt = NULL;
	enum status_code rc = STATUS_OK;
	if (sqlite3_prepare_v2(s->db, "SELECT " STORE_ROW " FROM log ORDER BY idx", -1, &stmt, NULL) != SQLITE_OK)
		return refuse_sqlite(s, st, "read");
	raft_term before = 0;
	int rv;
	while (rc == STATUS_OK && (rv = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct store_row row;
		bool whole = store_row(stmt, &row);
		raft_index index = row.index;
		raft_term term = row.term;
		if (s->at.last == 0)
			s->at.first = index;
		else if (index != s->at.last + 1)
			rc = status_set(st, STATUS_DATA_LOSS,
					"%s/replica.db: the log goes from entry %llu to %llu; bring this replica back under a "
					"new id",
					s->dir, s->at.last, index);
		if (rc == STATUS_OK && (term < before || term > s->at.term))
			rc = status_set(st, STATUS_DATA_LOSS,
					"%s/replica.db: entry %llu has the impossible term %llu; bring this replica back under "
					"a new id",
					s->dir, index, term);
		if (rc == STATUS_OK && !whole)
			rc = status_set(st, STATUS_DATA_LOSS,
					"%s/replica.db: entry %llu of the log is damaged; check the disk, and bring this "
					"replica back under a new id",
					s->dir, index);
		s->at.last = index;
		s->newest = (struct store_run){ index, term };
		s->log_bytes += row.data.len;
		if (rc == STATUS_OK && term != before && !store_add_run(s, index, term))
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "read %s/replica.db: out of memory", s->dir);
		before = term;
	}
	if (rc == STATUS_OK && rv != SQLITE_DONE)
		rc = refuse_sqlite(s, st, "read");
	if (s->at.last == 0) {
		/* All of it was compacted, or there never was any. */
		s->at.first = s->at.applied + 1;
		s->at.last = s->at.applied;
		s->newest = (struct store_run){ s->at.applied, s->at.applied_term };
	}
	sqlite3_finalize(stmt);
	return rc;
}

/* 0: it is not in the log. */
static raft_term term_of(const struct store *s, raft_index index)
{
	raft_term term = 0;
	if (index < s->at.first || index > s->at.last)
		return 0;
	for (size_t i = 0; i < s->n_runs && s->runs[i].first <= index; i++)
		term = s->runs[i].term;
	return term;
}

/* Is all in the database that this replica may have promised? */
#define OLDER                                                                                              \
	"the database is older than the file 'acknowledged'; put the right one back, or bring this replica " \
	"back under a new id"
static enum status_code check_guard(struct store *s, struct status *st)
{
	const struct guard_mark *m = &s->guard.mark;
	if (s->at.last < m->index || s->at.term < m->term)
		return status_set(st, STATUS_DATA_LOSS,
				  "%s/replica.db ends at entry %llu of term %llu, but this replica acknowledged %llu of term "
				  "%llu: " OLDER,
				  s->dir, s->at.last, s->at.term, m->index, m->term);
	raft_term entry = term_of(s, m->index);
	if (entry != 0 && entry < m->entry_term)
		return status_set(st, STATUS_DATA_LOSS,
				  "%s/replica.db holds entry %llu of term %llu, but this replica acknowledged that of term "
				  "%llu: " OLDER,
				  s->dir, m->index, entry, m->entry_term);
	if (s->at.term == m->term && m->vote != 0 && s->at.vote != m->vote)
		return status_set(st, STATUS_DATA_LOSS,
				  "%s/replica.db does not hold this replica's vote for replica %llu in term %llu: " OLDER,
				  s->dir, m->vote, m->term);
	return STATUS_OK;
}

static enum status_code check_log(struct store *s, struct status *st)
{
	enum status_code rc = check_guard(s, st);
	if (rc != STATUS_OK)
		return rc;
	if (s->at.applied > s->at.last || (s->at.last > 0 && s->at.first > s->at.applied + 1))
		return status_set(st, STATUS_DATA_LOSS,
				  "%s/replica.db: the log holds entries %llu to %llu, the state is at %llu; bring this replica "
				  "back under a new id",
				  s->dir, s->at.first, s->at.last, s->at.applied);
	return STATUS_OK;
}

static enum status_code check_condemned(struct store *s, struct status *st)
{
	char path[4200];
	struct buffer why = { 0 };
	snprintf(path, sizeof path, "%s/condemned", s->dir);
	enum status_code rc = file_read(path, 1024, st, &why);
	if (rc == STATUS_OK)
		rc = status_set(st, STATUS_DATA_LOSS,
				"%s: this replica stopped for good: %.*s; check disk and memory of this host, then bring the "
				"replica back under a new id",
				path, (int)why.len, (const char *)why.data);
	else if (rc == STATUS_NOT_FOUND)
		rc = STATUS_OK;
	buffer_free(&why);
	return rc;
}

static enum status_code load(struct store *s, const struct store_identity *id, bool read_only, struct status *st)
{
	enum status_code rc = check_condemned(s, st);
	if (rc == STATUS_OK)
		rc = guard_read(&s->guard, s->dir, st);
	if (rc == STATUS_OK)
		rc = open_database(s, read_only, st);
	bool empty = false;
	if (rc == STATUS_OK)
		rc = check_format(s, &empty, st);
	if (rc != STATUS_OK)
		return rc;
	/* FULL: a commit is on the disk when it returns. Checkpoints of 4,000 pages (16 MiB) keep them rare and
	 * bounded. */
	if (!read_only && sqlite3_exec(s->db,
				       "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;"
				       "PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -16384;"
				       "PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;",
				       NULL, NULL, NULL) != SQLITE_OK)
		return refuse_sqlite(s, st, "set up");
	if (empty && !read_only)
		rc = create_tables(s, id, st);
	if (rc == STATUS_OK && (!empty || !read_only))
		rc = load_meta(s, id, st);
	if (rc == STATUS_OK && !empty)
		rc = scan_log(s, st);
	if (rc == STATUS_OK)
		rc = check_log(s, st);
	return rc;
}

/*
 * Writes what the write-ahead log holds into the database, and so anew to the disk. After an fsync that failed Linux may
 * take pages for written that are not on the disk: reading them back, from memory, proves nothing.
 */
static enum status_code rewrite(struct store *s, struct status *st)
{
	int rv = sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	if (rv == SQLITE_OK || rv == SQLITE_BUSY) /* somebody else reads it: as far as that allows */
		return STATUS_OK;
	return refuse_sqlite(s, st, "write");
}

static struct store *store_new(const char *dir)
{
	struct store *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->lock_fd = -1;
	s->guard.fd = -1;
	s->dir = strdup(dir);
	if (!s->dir || asprintf(&s->path, "%s/replica.db", dir) < 0) {
		free(s->dir);
		free(s);
		return NULL;
	}
	return s;
}

enum status_code store_open(const char *dir, const struct store_identity *id, struct status *st,
			    struct store **ret_store)
{
	if (strlen(dir) > 4000)
		return status_set(st, STATUS_INVALID_ARGUMENT, "data-dir '%.64s...' is too long", dir);
	struct store *s = store_new(dir);
	if (!s)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "open %s: out of memory", dir);
	enum status_code rc = STATUS_OK;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		rc = status_set(st, STATUS_FAILED_PRECONDITION, "make data-dir %s: %s", dir, strerror(errno));
	if (rc == STATUS_OK)
		rc = file_trust_check_directory(dir, st);
	if (rc == STATUS_OK)
		rc = lock_directory(s, st);
	if (rc == STATUS_OK)
		rc = load(s, id, false, st);
	if (rc == STATUS_OK)
		rc = rewrite(s, st);
	if (rc == STATUS_OK)
		rc = guard_open(&s->guard, dir, st);
	for (unsigned i = 0; rc == STATUS_OK && i < SQL_COUNT; i++)
		if (sqlite3_prepare_v3(s->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT, &s->sql[i], NULL) != SQLITE_OK)
			rc = refuse_sqlite(s, st, "prepare statements for");
	if (rc != STATUS_OK) {
		guard_close(&s->guard); /* what was refused must not move the guard */
		store_close(s);
		return rc;
	}
	*ret_store = s;
	return STATUS_OK;
}

static enum status_code check_files(struct store *s, const char *dir, const struct store_identity *id, struct status *st)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/replica.db", dir);
	enum status_code rc = file_trust_check_directory(dir, st);
	if (rc != STATUS_OK && rc != STATUS_NOT_FOUND)
		return rc;
	if (access(path, F_OK) == 0)
		return load(s, id, true, st);
	/* A first start; unless the guard knows of more. */
	rc = guard_read(&s->guard, dir, st);
	return rc == STATUS_OK ? check_log(s, st) : rc;
}

enum status_code store_check(const char *dir, const struct store_identity *id, struct status *st)
{
	if (strlen(dir) > 4000)
		return status_set(st, STATUS_INVALID_ARGUMENT, "data-dir '%.64s...' is too long", dir);
	struct store *s = store_new(dir);
	if (!s)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "check %s: out of memory", dir);
	enum status_code rc = check_files(s, dir, id, st);
	guard_close(&s->guard);
	store_close(s);
	return rc;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	guard_close(&s->guard);
	for (unsigned i = 0; i < SQL_COUNT; i++)
		sqlite3_finalize(s->sql[i]);
	sqlite3_close(s->db);
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	buffer_free(&s->configuration);
	free(s->runs);
	free(s->path);
	free(s->dir);
	free(s);
}
