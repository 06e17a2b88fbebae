// links: service_serial common_base
#include "tests/support/support.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/file.h"
#include "services/serial/store.h"

struct fixture {
	char *dir;
	char data[512], database[600], guard[600];
};

static const struct store_identity ours = { .cluster_id = "cluster-1", .replica_id = 2 };

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	assert_non_null(f);
	f->dir = support_make_directory();
	snprintf(f->data, sizeof f->data, "%s/data", f->dir);
	snprintf(f->database, sizeof f->database, "%s/replica.db", f->data);
	snprintf(f->guard, sizeof f->guard, "%s/acknowledged", f->data);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	support_remove_directory(f->dir);
	free(f);
	return 0;
}

static struct store *open_ok(struct fixture *f)
{
	struct store *s;
	struct status st;
	if (store_open(f->data, &ours, &st, &s) != STATUS_OK)
		fail_msg("%s", st.message);
	return s;
}

/* Opening must fail, and checking must say the same. */
static void refuses(struct fixture *f, const struct store_identity *id, enum status_code code, const char *words)
{
	struct store *s;
	struct status st;
	assert_int_equal(store_open(f->data, id, &st, &s), code);
	if (!strstr(st.message, words))
		fail_msg("'%s' does not say '%s'", st.message, words);
	assert_int_equal(store_check(f->data, id, &st), code);
	if (!strstr(st.message, words))
		fail_msg("'%s' does not say '%s'", st.message, words);
}

static void run_sql(struct fixture *f, const char *sql)
{
	sqlite3 *db;
	assert_int_equal(sqlite3_open(f->database, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

static void append(struct store *s, raft_index first, raft_index last, raft_term term)
{
	for (raft_index i = first; i <= last; i++) {
		char text[32];
		int n = snprintf(text, sizeof text, "entry %llu of %llu", i, term);
		const struct raft_entry e = {
			.term = term,
			.type = i % 10 == 0 ? RAFT_BARRIER : RAFT_COMMAND,
			.buf = { .base = text, .len = (size_t)n },
		};
		store_append(s, i, &e);
	}
}

static void create(struct store *s)
{
	struct store_genesis g = { 0 };
	assert_true(buffer_append(&g.configuration, "members", 7));
	assert_true(buffer_append(&g.command, "genesis", 7));
	store_create_log(s, &g);
	buffer_free(&g.configuration);
	buffer_free(&g.command);
}

/* Log 1 to `last`, term 3, voted for 1. */
static void fill(struct fixture *f, raft_index last)
{
	struct store *s = open_ok(f);
	create(s);
	store_begin(s);
	store_set_term(s, 3, 1);
	append(s, 3, last, 3);
	store_set_applied(s, 2, 1);
	store_set_configuration(s, 1, (struct slice){ "members", 7 });
	store_commit(s);
	store_close(s);
}

struct seen {
	raft_index first, last;
	unsigned n;
	char text[64]; /* of the last */
};

static void see(void *arg, raft_index index, raft_term term, unsigned short type, struct slice data)
{
	struct seen *seen = arg;
	(void)term;
	(void)type;
	if (seen->n++ == 0)
		seen->first = index;
	else
		assert_int_equal(index, seen->last + 1);
	seen->last = index;
	snprintf(seen->text, sizeof seen->text, "%.*s", (int)data.len, (const char *)data.data);
}

static void test_store_keeps_what_was_committed(void **state)
{
	struct fixture *f = *state;
	fill(f, 100);
	struct stat sb;
	assert_int_equal(stat(f->database, &sb), 0);
	assert_int_equal(sb.st_mode & 0777, 0600);
	struct store *s = open_ok(f);
	struct store_start at;
	store_start_values(s, &at);
	assert_int_equal(at.term, 3);
	assert_int_equal(at.vote, 1);
	assert_int_equal(at.first, 1);
	assert_int_equal(at.last, 100);
	assert_int_equal(at.applied, 2);
	assert_int_equal(at.applied_term, 1);
	assert_int_equal(at.configuration_index, 1);
	assert_memory_equal(store_configuration(s).data, "members", 7);
	size_t n;
	const struct store_run *runs = store_runs(s, &n);
	assert_int_equal(n, 2);
	assert_int_equal(runs[0].first, 1);
	assert_int_equal(runs[0].term, 1);
	assert_int_equal(runs[1].first, 3);
	assert_int_equal(runs[1].term, 3);
	struct store_genesis g;
	assert_true(store_read_genesis(s, &g));
	assert_memory_equal(g.command.data, "genesis", 7);
	buffer_free(&g.configuration);
	buffer_free(&g.command);
	store_close(s);
}

static void test_store_forgets_what_was_not_committed(void **state)
{
	struct fixture *f = *state;
	fill(f, 10);
	struct store *s = open_ok(f);
	store_begin(s);
	append(s, 11, 20, 3);
	store_set_term(s, 9, 2);
	store_close(s);
	s = open_ok(f);
	struct store_start at;
	store_start_values(s, &at);
	assert_int_equal(at.last, 10);
	assert_int_equal(at.term, 3);
	store_close(s);
}

static void test_store_reads_ranges(void **state)
{
	struct fixture *f = *state;
	fill(f, 100);
	struct store *s = open_ok(f);
	struct seen seen = { 0 };
	assert_true(store_read(s, 40, 20, see, &seen));
	assert_int_equal(seen.n, 20);
	assert_int_equal(seen.first, 40);
	assert_int_equal(seen.last, 59);
	assert_string_equal(seen.text, "entry 59 of 3");
	assert_false(store_read(s, 90, 20, see, &seen));
	assert_false(store_read(s, 0, 1, see, &seen));
	seen = (struct seen){ 0 };
	store_read_changes(s, 0, see, &seen);
	assert_int_equal(seen.n, 1);
	assert_string_equal(seen.text, "members");
	seen = (struct seen){ 0 };
	store_read_changes(s, 1, see, &seen);
	assert_int_equal(seen.n, 0);
	struct buffer command = { 0 };
	assert_true(store_read_last_command(s, &command)); /* 100 is a barrier */
	assert_int_equal(command.len, strlen("entry 99 of 3"));
	assert_memory_equal(command.data, "entry 99 of 3", command.len);
	buffer_free(&command);
	store_close(s);
}

static void test_store_shortened_log_is_no_loss(void **state)
{
	struct fixture *f = *state;
	fill(f, 100);
	struct store *s = open_ok(f);
	store_begin(s);
	store_set_term(s, 4, 0);
	store_truncate(s, 50);
	append(s, 50, 50, 4);
	/* A crash now: the guard must not know of more than the database that may or may not have been committed. */
	struct buffer guard = { 0 };
	struct status st;
	assert_int_equal(file_read(f->guard, 128, &st, &guard), STATUS_OK);
	assert_int_equal(strtoul((const char *)guard.data + strlen("index "), NULL, 10), 49);
	buffer_free(&guard);
	store_commit(s);
	struct seen seen = { 0 };
	assert_true(store_read(s, 49, 2, see, &seen));
	assert_string_equal(seen.text, "entry 50 of 4");
	store_close(s);
	store_close(open_ok(f));
}

static void test_store_refuses_another_owner(void **state)
{
	struct fixture *f = *state;
	fill(f, 10);
	refuses(f, &(struct store_identity){ .cluster_id = "cluster-2", .replica_id = 2 }, STATUS_FAILED_PRECONDITION,
		"cluster-1");
	refuses(f, &(struct store_identity){ .cluster_id = "cluster-1", .replica_id = 3 }, STATUS_FAILED_PRECONDITION,
		"replica 2");
}

static void test_store_refuses_what_is_no_database_of_ours(void **state)
{
	struct fixture *f = *state;
	struct status st;
	assert_int_equal(mkdir(f->data, 0700), 0);
	char junk[8192];
	memset(junk, 'x', sizeof junk);
	assert_int_equal(file_write(f->database, (struct slice){ junk, sizeof junk }, 0600, true, &st), STATUS_OK);
	refuses(f, &ours, STATUS_FAILED_PRECONDITION, "not a database of kds-serial");
	unlink(f->database);
	run_sql(f, "CREATE TABLE other (x)");
	refuses(f, &ours, STATUS_FAILED_PRECONDITION, "not a database of kds-serial");
}

static void test_store_refuses_another_format(void **state)
{
	struct fixture *f = *state;
	fill(f, 10);
	run_sql(f, "PRAGMA user_version = 3");
	refuses(f, &ours, STATUS_FAILED_PRECONDITION, "format 3");
	run_sql(f, "PRAGMA user_version = 1");
	refuses(f, &ours, STATUS_FAILED_PRECONDITION, "format 1");
}

static void test_store_refuses_a_second_process(void **state)
{
	struct fixture *f = *state;
	struct store *s = open_ok(f), *second;
	struct status st;
	create(s);
	assert_int_equal(store_open(f->data, &ours, &st, &second), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "another process"));
	/* Checking is allowed beside it. */
	if (store_check(f->data, &ours, &st) != STATUS_OK)
		fail_msg("%s", st.message);
	store_close(s);
}

static void test_store_refuses_a_gap(void **state)
{
	struct fixture *f = *state;
	fill(f, 10);
	run_sql(f, "DELETE FROM log WHERE idx = 5");
	refuses(f, &ours, STATUS_DATA_LOSS, "from entry 4 to 6");
}

static void test_store_refuses_a_term_that_goes_back(void **state)
{
	struct fixture *f = *state;
	fill(f, 10);
	run_sql(f, "UPDATE log SET term = 2 WHERE idx = 7");
	refuses(f, &ours, STATUS_DATA_LOSS, "entry 7");
}

static void test_store_refuses_a_log_behind_its_state(void **state)
{
	struct fixture *f = *state;
	fill(f, 10);
	run_sql(f, "UPDATE meta SET applied = 11");
	refuses(f, &ours, STATUS_DATA_LOSS, "the state is at 11");
}

static void test_store_refuses_an_older_database(void **state)
{
	struct fixture *f = *state;
	struct buffer copy = { 0 };
	struct status st;
	fill(f, 10);
	assert_int_equal(file_read(f->database, 1 << 24, &st, &copy), STATUS_OK);
	struct store *s = open_ok(f);
	store_begin(s);
	append(s, 11, 12, 3);
	store_commit(s);
	store_close(s);
	assert_int_equal(file_write(f->database, (struct slice){ copy.data, copy.len }, 0600, true, &st), STATUS_OK);
	refuses(f, &ours, STATUS_DATA_LOSS, "acknowledged 12");
	refuses(f, &ours, STATUS_DATA_LOSS, "acknowledged 12"); /* being refused changes nothing */
	buffer_free(&copy);
	/* Gone altogether is the same. */
	unlink(f->database);
	refuses(f, &ours, STATUS_DATA_LOSS, "acknowledged 12");
}

static void test_store_refuses_an_older_term(void **state)
{
	struct fixture *f = *state;
	struct buffer copy = { 0 };
	struct status st;
	fill(f, 10);
	assert_int_equal(file_read(f->database, 1 << 24, &st, &copy), STATUS_OK);
	struct store *s = open_ok(f);
	store_begin(s);
	store_set_term(s, 8, 1); /* a vote that must not be given twice */
	store_commit(s);
	store_close(s);
	assert_int_equal(file_write(f->database, (struct slice){ copy.data, copy.len }, 0600, true, &st), STATUS_OK);
	buffer_free(&copy);
	refuses(f, &ours, STATUS_DATA_LOSS, "of term 8");
}

/* In a process that ends without closing: what kill -9 leaves. */
static void die_after(struct fixture *f, void (*change)(struct store *s))
{
	pid_t pid = fork();
	if (pid == 0) {
		struct store *s;
		struct status st;
		if (store_open(f->data, &ours, &st, &s) != STATUS_OK)
			_exit(99);
		store_begin(s);
		change(s);
		store_commit(s);
		_exit(0);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void append_two(struct store *s)
{
	append(s, 11, 12, 3);
}

static void vote(struct store *s)
{
	store_set_term(s, 4, 2);
}

static void replace_two(struct store *s)
{
	store_set_term(s, 4, 2);
	store_truncate(s, 9);
	append(s, 9, 10, 4);
}

/* What the newest commit wrote, however little. */
static void lose_wal(struct fixture *f)
{
	char wal[640];
	snprintf(wal, sizeof wal, "%s-wal", f->database);
	assert_int_equal(truncate(wal, 0), 0);
}

static void test_store_refuses_a_lost_commit(void **state)
{
	struct fixture *f = *state;
	fill(f, 10);
	die_after(f, append_two);
	store_close(open_ok(f)); /* it is there */
	die_after(f, vote);
	lose_wal(f);
	refuses(f, &ours, STATUS_DATA_LOSS, "of term 4");
}

static void test_store_refuses_a_torn_commit(void **state)
{
	struct fixture *f = *state;
	char wal[640];
	struct stat sb;
	fill(f, 10);
	die_after(f, append_two);
	snprintf(wal, sizeof wal, "%s-wal", f->database);
	assert_int_equal(stat(wal, &sb), 0);
	assert_int_equal(truncate(wal, sb.st_size - 1), 0);
	refuses(f, &ours, STATUS_DATA_LOSS, "acknowledged 12");
}

/* As long as before, and of the same term: only the entries are others. */
static void test_store_refuses_replaced_entries_that_came_back(void **state)
{
	struct fixture *f = *state;
	fill(f, 10);
	die_after(f, replace_two);
	lose_wal(f);
	run_sql(f, "UPDATE meta SET term = 4, vote = 2");
	refuses(f, &ours, STATUS_DATA_LOSS, "acknowledged that of term 4");
}

static void test_store_refuses_a_forgotten_vote(void **state)
{
	struct fixture *f = *state;
	fill(f, 10);
	die_after(f, vote);
	run_sql(f, "UPDATE meta SET vote = 0");
	refuses(f, &ours, STATUS_DATA_LOSS, "vote for replica 2 in term 4");
	run_sql(f, "UPDATE meta SET vote = 1");
	refuses(f, &ours, STATUS_DATA_LOSS, "vote for replica 2 in term 4");
	run_sql(f, "UPDATE meta SET vote = 0, term = 5"); /* a later term's */
	store_close(open_ok(f));
}

static void test_store_refuses_a_damaged_entry(void **state)
{
	static const char *const damages[] = {
		"UPDATE log SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE idx = 7",
		"UPDATE log SET data = x'' WHERE idx = 7",
		"UPDATE log SET type = 2 WHERE idx = 7",
		"UPDATE log SET checksum = checksum + 1 WHERE idx = 7",
		"UPDATE log SET checksum = checksum + 4294967296 WHERE idx = 7",
	};
	struct fixture *f = *state;
	fill(f, 10);
	struct buffer copy = { 0 };
	struct status st;
	assert_int_equal(file_read(f->database, 1 << 24, &st, &copy), STATUS_OK);
	for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
		run_sql(f, damages[i]);
		refuses(f, &ours, STATUS_DATA_LOSS, "entry 7 of the log is damaged");
		assert_int_equal(file_write(f->database, (struct slice){ copy.data, copy.len }, 0600, true, &st), STATUS_OK);
	}
	buffer_free(&copy);
	store_close(open_ok(f));
}

/* Damage while it runs: what is read then must not go to other replicas. */
static void read_damaged(struct fixture *f)
{
	struct store *s;
	struct seen seen = { 0 };
	if (store_open(f->data, &ours, NULL, &s) != STATUS_OK)
		_exit(99);
	run_sql(f, "UPDATE log SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE idx = 7");
	bool whole = store_read(s, 1, 6, see, &seen);
	_exit(whole && store_read(s, 7, 1, see, &seen) ? 98 : 97);
}

static void test_store_refuses_a_damaged_guard_but_not_an_empty_one(void **state)
{
	struct fixture *f = *state;
	struct status st;
	fill(f, 10);
	assert_int_equal(file_write(f->guard, (struct slice){ "rubbish", 7 }, 0600, true, &st), STATUS_OK);
	refuses(f, &ours, STATUS_DATA_LOSS, "acknowledged is damaged");
	assert_int_equal(file_write(f->guard, (struct slice){ "", 0 }, 0600, true, &st), STATUS_OK);
	store_close(open_ok(f));
}

static void test_store_check_makes_nothing(void **state)
{
	struct fixture *f = *state;
	struct status st;
	assert_int_equal(store_check(f->data, &ours, &st), STATUS_OK);
	assert_int_equal(access(f->data, F_OK), -1);
	fill(f, 10);
	char wal[640];
	snprintf(wal, sizeof wal, "%s-wal", f->database);
	assert_int_equal(access(wal, F_OK), -1);
	assert_int_equal(store_check(f->data, &ours, &st), STATUS_OK);
	assert_int_equal(access(wal, F_OK), -1);
}

/* The log may begin anywhere: what a compaction leaves behind. */
static void test_store_log_may_begin_later(void **state)
{
	struct fixture *f = *state;
	fill(f, 100);
	run_sql(f, "DELETE FROM log WHERE idx <= 60; UPDATE meta SET applied = 80, applied_term = 3");
	struct store *s = open_ok(f);
	struct store_start at;
	store_start_values(s, &at);
	assert_int_equal(at.first, 61);
	assert_int_equal(at.last, 100);
	struct seen seen = { 0 };
	assert_false(store_read(s, 60, 1, see, &seen));
	assert_true(store_read(s, 61, 40, see, &seen));
	store_close(s);
	/* But not behind what was applied. */
	run_sql(f, "DELETE FROM log WHERE idx <= 81");
	refuses(f, &ours, STATUS_DATA_LOSS, "82 to 100");
}

struct sizes {
	raft_index before; /* wanted */
	raft_index first, last;
	uint64_t bytes;
};

static bool add_size(void *arg, raft_index index, size_t bytes)
{
	struct sizes *z = arg;
	if (index >= z->before)
		return false;
	if (z->first == 0)
		z->first = index;
	z->last = index;
	z->bytes += bytes;
	return true;
}

static void test_store_drops_the_oldest_entries(void **state)
{
	struct fixture *f = *state;
	fill(f, 100);
	struct store *s = open_ok(f);
	struct sizes all = { .before = 1000 }, old = { .before = 51 }, left = { .before = 1000 };
	store_sizes(s, add_size, &all);
	assert_int_equal(all.first, 1);
	assert_int_equal(all.last, 100);
	assert_int_equal(store_log_bytes(s), all.bytes);
	store_sizes(s, add_size, &old);
	assert_int_equal(old.last, 50);
	store_begin(s);
	store_set_applied(s, 80, 3);
	store_drop(s, 51, old.bytes);
	store_commit(s);
	for (int again = 0; again < 2; again++) {
		struct seen seen = { 0 };
		assert_int_equal(store_first(s), 51);
		assert_int_equal(store_log_bytes(s), all.bytes - old.bytes);
		assert_false(store_read(s, 50, 1, see, &seen));
		assert_true(store_read(s, 51, 50, see, &seen));
		store_close(s);
		s = open_ok(f);
	}
	store_begin(s);
	store_truncate(s, 91);
	store_commit(s);
	store_sizes(s, add_size, &left);
	assert_int_equal(left.first, 51);
	assert_int_equal(left.last, 90);
	assert_int_equal(store_log_bytes(s), left.bytes);
	struct store_genesis g = { 0 };
	assert_true(store_read_genesis(s, &g)); /* how the log began is kept */
	buffer_free(&g.configuration);
	buffer_free(&g.command);
	store_close(s);
}

/* As an installed snapshot leaves it: no entry, but a place where the next one goes. */
static void restart_at(struct fixture *f, raft_index index)
{
	struct store *s = open_ok(f);
	struct store_head h = { .index = index, .term = 3, .configuration_index = 7 };
	assert_true(buffer_append(&h.configuration, "members 7", 9));
	assert_true(buffer_append(&h.genesis.configuration, "members", 7));
	assert_true(buffer_append(&h.genesis.command, "genesis", 7));
	store_begin(s);
	store_restart_log(s, &h);
	store_commit(s);
	store_head_free(&h);
	store_close(s);
}

static void expect_head(struct store *s, raft_index index)
{
	struct store_head h = { 0 };
	struct status st;
	assert_int_equal(store_read_head(store_sqlite(s), &st, &h), STATUS_OK);
	assert_int_equal(h.index, index);
	assert_int_equal(h.term, 3);
	assert_int_equal(h.configuration_index, 7);
	assert_int_equal(h.configuration.len, 9);
	assert_int_equal(h.genesis.command.len, 7);
	store_head_free(&h);
}

static void restart_and_append(struct fixture *f, raft_index index)
{
	struct store_start at;
	restart_at(f, index);
	struct store *s = open_ok(f);
	store_start_values(s, &at);
	assert_int_equal(at.first, index + 1);
	assert_int_equal(at.last, index);
	assert_int_equal(at.applied, index);
	assert_int_equal(store_log_bytes(s), 0);
	expect_head(s, index);
	store_begin(s);
	append(s, index + 1, index + 5, 3);
	store_commit(s);
	store_close(s);
	s = open_ok(f);
	store_start_values(s, &at);
	assert_int_equal(at.first, index + 1);
	assert_int_equal(at.last, index + 5);
	store_close(s);
}

static void test_store_log_restarts_behind_a_snapshot(void **state)
{
	struct fixture *f = *state;
	fill(f, 100);
	restart_and_append(f, 500); /* behind all that it had */
	restart_and_append(f, 502); /* in front of its end: the guard gives way */
}

/* A log that is gone is no compacted one. */
static void test_store_refuses_a_log_that_is_gone(void **state)
{
	struct fixture *f = *state;
	fill(f, 100);
	run_sql(f, "DELETE FROM log; UPDATE meta SET applied = 80, applied_term = 3");
	refuses(f, &ours, STATUS_DATA_LOSS, "ends at entry 80");
}

static void write_twice(struct fixture *f)
{
	struct store *s;
	if (store_open(f->data, &ours, NULL, &s) != STATUS_OK)
		_exit(99);
	store_begin(s);
	append(s, 10, 10, 3); /* there is one */
	_exit(98);
}

static void test_store_error_ends_the_process(void **state)
{
	void (*const errors[])(struct fixture *f) = { write_twice, read_damaged };
	struct fixture *f = *state;
	fill(f, 10);
	for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			int null = open("/dev/null", O_WRONLY);
			dup2(null, STDERR_FILENO);
			errors[i](f);
		}
		int status = 0;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 3);
	}
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_store_keeps_what_was_committed),
		T(test_store_forgets_what_was_not_committed),
		T(test_store_reads_ranges),
		T(test_store_shortened_log_is_no_loss),
		T(test_store_refuses_another_owner),
		T(test_store_refuses_what_is_no_database_of_ours),
		T(test_store_refuses_another_format),
		T(test_store_refuses_a_second_process),
		T(test_store_refuses_a_gap),
		T(test_store_refuses_a_term_that_goes_back),
		T(test_store_refuses_a_log_behind_its_state),
		T(test_store_refuses_an_older_database),
		T(test_store_refuses_an_older_term),
		T(test_store_refuses_a_lost_commit),
		T(test_store_refuses_a_torn_commit),
		T(test_store_refuses_replaced_entries_that_came_back),
		T(test_store_refuses_a_forgotten_vote),
		T(test_store_refuses_a_damaged_entry),
		T(test_store_refuses_a_damaged_guard_but_not_an_empty_one),
		T(test_store_check_makes_nothing),
		T(test_store_log_may_begin_later),
		T(test_store_drops_the_oldest_entries),
		T(test_store_log_restarts_behind_a_snapshot),
		T(test_store_refuses_a_log_that_is_gone),
		T(test_store_error_ends_the_process),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
