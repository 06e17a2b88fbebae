// links: service_serial
/* A state read as a stream and loaded elsewhere is the same state; the reading sees one moment. */
#include "tests/support/state_fixture.h"

#include "services/serial/state_loader.h"

static char *dir;
static char path[600];

static int set_up(void **arg)
{
	(void)arg;
	dir = support_make_directory();
	snprintf(path, sizeof path, "%s/replica.db", dir);
	return 0;
}

static int tear_down(void **arg)
{
	(void)arg;
	support_remove_directory(dir);
	return 0;
}

/* A state in a file, as a replica has it, with something in every table. */
static void make_state(struct fixture *r)
{
	*r = (struct fixture){ .time_ms = NOW_MS, .version = LEVEL_FIRST };
	assert_int_equal(sqlite3_open(path, &r->db), SQLITE_OK);
	sql(r, "PRAGMA journal_mode = WAL");
	assert_int_equal(state_open(r->db, &r->st, &r->state), STATUS_OK);
	assert_int_equal(genesis_from(r, 1), STATUS_OK);
	assert_int_equal(allocate_id(r, "ca1", 100, "id-1", NULL, NULL), STATUS_OK);
	for (uint64_t serial = 1; serial <= 50; serial++)
		assert_int_equal(record_serial(r, "ca1", serial, (uint8_t)serial), STATUS_OK);
	assert_int_equal(put_setting(r, "a", "1"), STATUS_OK);
	assert_int_equal(set_min(r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 7), STATUS_OK);
}

static void read_all(struct state_reader *r, size_t page, struct buffer *out)
{
	struct status st;
	bool end = false;
	while (!end) {
		size_t before = out->len;
		assert_int_equal(state_reader_next(r, page, out, &end, &st), STATUS_OK);
		assert_true(end || out->len - before == page);
		assert_true(out->len - before <= page);
	}
}

static struct state_reader *open_reader(enum state_reader_scope scope)
{
	struct state_reader *r = NULL;
	struct status st;
	if (state_reader_open(path, scope, &st, &r) != STATUS_OK)
		fail_msg("%s", st.message);
	return r;
}

static void read_database(enum state_reader_scope scope, size_t page, struct buffer *out)
{
	struct state_reader *r = open_reader(scope);
	read_all(r, page, out);
	state_reader_close(r);
}

static enum status_code load(sqlite3 *db, enum state_reader_scope scope, const struct buffer *stream, size_t piece,
			     struct status *st)
{
	struct state_loader *l = NULL;
	assert_int_equal(sqlite3_exec(db, "BEGIN", NULL, NULL, NULL), SQLITE_OK);
	enum status_code rc = state_loader_new(db, scope, st, &l);
	for (size_t at = 0; rc == STATUS_OK && at < stream->len; at += piece) {
		size_t n = stream->len - at < piece ? stream->len - at : piece;
		rc = state_loader_feed(l, (struct slice){ stream->data + at, n }, st);
	}
	if (rc == STATUS_OK)
		rc = state_loader_end(l, st);
	state_loader_free(l);
	assert_int_equal(sqlite3_exec(db, rc == STATUS_OK ? "COMMIT" : "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
	return rc;
}

/* The running digest is that of what the tables hold. */
static void assert_digest_matches(struct state *s)
{
	struct status st;
	bool done = false;
	while (!done)
		if (state_scan_digest(s, 10, &st, &done) != STATUS_OK)
			fail_msg("%s", st.message);
}

static void test_state_reader_and_loader_keep_everything(void **arg)
{
	(void)arg;
	struct fixture r, copy;
	struct buffer stream = { 0 }, again = { 0 };
	make_state(&r);
	read_database(STATE_READER_ALL, 100, &stream);
	fixture_close(&r);

	snprintf(path, sizeof path, "%s/copy.db", dir);
	copy = (struct fixture){ .time_ms = NOW_MS, .version = LEVEL_FIRST };
	assert_int_equal(sqlite3_open(path, &copy.db), SQLITE_OK);
	struct status st;
	if (load(copy.db, STATE_READER_ALL, &stream, 33, &st) != STATUS_OK)
		fail_msg("%s", st.message);
	assert_int_equal(state_open(copy.db, &copy.st, &copy.state), STATUS_OK);
	read_database(STATE_READER_ALL, 4096, &again);
	assert_int_equal(again.len, stream.len);
	assert_memory_equal(again.data, stream.data, stream.len);

	assert_digest_matches(copy.state);
	/* It goes on where the first was. */
	copy.index = state_applied(copy.state);
	assert_int_equal(serial_status(&copy).issued, 50);
	assert_int_equal(record_serial(&copy, "ca1", 6, 99), STATUS_FAILED_PRECONDITION);
	assert_int_equal(allocate(&copy, "ca1", 1), 101);
	uint64_t first = 0;
	assert_int_equal(allocate_id(&copy, "ca1", 100, "id-1", &first, NULL), STATUS_OK);
	assert_int_equal(first, 1); /* the first answer */
	fixture_close(&copy);
	buffer_free(&stream);
	buffer_free(&again);
}

static void test_state_reader_sees_one_moment(void **arg)
{
	(void)arg;
	struct fixture r;
	struct buffer before = { 0 }, during = { 0 };
	make_state(&r);
	read_database(STATE_READER_ALL, 4096, &before);
	struct state_reader *reader = open_reader(STATE_READER_ALL);
	uint64_t index = state_reader_index(reader);
	assert_int_equal(index, state_applied(r.state));
	assert_int_equal(record_serial(&r, "ca1", 60, 60), STATUS_OK);
	assert_int_equal(put_setting(&r, "b", "2"), STATUS_OK);
	read_all(reader, 64, &during);
	assert_int_equal(state_reader_index(reader), index);
	state_reader_close(reader);
	assert_int_equal(during.len, before.len);
	assert_memory_equal(during.data, before.data, before.len);
	fixture_close(&r);
	buffer_free(&before);
	buffer_free(&during);
}

static void test_state_reader_lasting_leaves_request_ids_out(void **arg)
{
	(void)arg;
	struct fixture r;
	struct buffer all = { 0 }, lasting = { 0 };
	make_state(&r);
	read_database(STATE_READER_ALL, 4096, &all);
	read_database(STATE_READER_LASTING, 4096, &lasting);
	assert_non_null(memmem(all.data, all.len, "requests", 8));
	assert_null(memmem(lasting.data, lasting.len, "requests", 8));
	/* Of another scope it is refused. */
	sqlite3 *db;
	struct status st;
	assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
	assert_int_equal(load(db, STATE_READER_ALL, &lasting, 4096, &st), STATUS_DATA_LOSS);
	assert_int_equal(load(db, STATE_READER_LASTING, &all, 4096, &st), STATUS_FAILED_PRECONDITION);
	assert_int_equal(load(db, STATE_READER_LASTING, &lasting, 4096, &st), STATUS_OK);
	struct state *s = NULL;
	assert_int_equal(state_open(db, &st, &s), STATUS_OK);
	assert_digest_matches(s);
	state_close(s);
	sqlite3_close(db);
	fixture_close(&r);
	buffer_free(&all);
	buffer_free(&lasting);
}

/* A row that is longer than a page goes out in pieces. */
static void test_state_reader_cuts_long_rows(void **arg)
{
	(void)arg;
	struct fixture r;
	struct buffer small = { 0 }, large = { 0 };
	make_state(&r);
	assert_int_equal(put_authority(&r, "default", 4000), STATUS_OK);
	read_database(STATE_READER_ALL, 500, &small);
	read_database(STATE_READER_ALL, 1 << 20, &large);
	assert_int_equal(small.len, large.len);
	assert_memory_equal(small.data, large.data, large.len);
	fixture_close(&r);
	buffer_free(&small);
	buffer_free(&large);
}

static void test_state_reader_needs_a_state(void **arg)
{
	(void)arg;
	struct fixture r = { 0 };
	struct state_reader *reader = NULL;
	assert_int_equal(state_reader_open(path, STATE_READER_ALL, &r.st, &reader), STATUS_FAILED_PRECONDITION);
	assert_int_equal(sqlite3_open(path, &r.db), SQLITE_OK);
	assert_int_equal(state_open(r.db, &r.st, &r.state), STATUS_OK);
	assert_int_equal(state_reader_open(path, STATE_READER_ALL, &r.st, &reader), STATUS_NOT_FOUND);
	fixture_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_state_reader_and_loader_keep_everything, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_state_reader_sees_one_moment, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_state_reader_lasting_leaves_request_ids_out, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_state_reader_cuts_long_rows, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_state_reader_needs_a_state, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
