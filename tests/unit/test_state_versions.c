// links: service_serial common_backup
/*
 * What the version before left is read, what it would do is done, and what it must read is as it was: the state of the first
 * level, in tables, streams and backups (tests/support/state_level1.h).
 */
#include "tests/support/state_fixture.h"

#include "common/backup/check.h"
#include "services/serial/state_internal.h"
#include "services/serial/state_loader.h"
#include "tests/support/state_level1.h"

static struct status st;

static void ok(enum status_code rc)
{
	if (rc != STATUS_OK)
		fail_msg("%s", st.message);
}

static void from_hex(const char *hex, struct buffer *out)
{
	for (; *hex; hex += 2) {
		unsigned byte = 0;
		assert_int_equal(sscanf(hex, "%2x", &byte), 1);
		assert_true(buffer_append(out, &(uint8_t){ (uint8_t)byte }, 1));
	}
}

/* The database as it was left. */
static void open_former(struct fixture *r)
{
	*r = (struct fixture){ .version = LEVEL_FIRST };
	assert_int_equal(sqlite3_open(":memory:", &r->db), SQLITE_OK);
	for (size_t i = 0; i < sizeof state_level1_tables / sizeof *state_level1_tables; i++)
		sql(r, state_level1_tables[i]);
	if (state_open(r->db, &r->st, &r->state) != STATUS_OK)
		fail_msg("%s", r->st.message);
	r->index = state_applied(r->state);
	r->time_ms = state_time_ms(r->state);
}

static void get_digest(struct fixture *r, uint8_t digest[STATE_DIGEST_SIZE])
{
	sql(r, "BEGIN");
	ok(state_digest(r->state, &st, digest));
	sql(r, "COMMIT");
}

static void assert_digest_matches(struct fixture *r)
{
	bool done = false;
	sql(r, "BEGIN");
	while (!done)
		ok(state_scan_digest(r->state, 1000, &st, &done));
	sql(r, "COMMIT");
}

static int64_t query_number(struct fixture *r, const char *query)
{
	sqlite3_stmt *stmt = NULL;
	assert_int_equal(sqlite3_prepare_v2(r->db, query, -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	int64_t value = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	return value;
}

/* One that is valid at the state's time. */
static void make_certificate_now(struct fixture *r, struct certificate *c, uint64_t serial)
{
	make_certificate(c, serial, 1);
	c->message.not_after = (int64_t)(r->time_ms / 1000) + 1000;
	c->message.not_before = c->message.not_after - 2000;
}

static enum status_code record_now(struct fixture *r, const char *ca, uint64_t serial)
{
	struct certificate c;
	make_certificate_now(r, &c, serial);
	return record(r, ca, &c);
}

static void test_state_of_the_first_level_is_opened(void **arg)
{
	(void)arg;
	struct fixture r;
	open_former(&r);
	assert_int_equal(state_level(r.state), LEVEL_FIRST);
	assert_digest_matches(&r);
	Kds__V1__ListCertificatesResponse *l = certificates(&r, 0, 0, "");
	assert_int_equal(l->n_certificates, 2);
	assert_int_equal(l->certificates[1]->serial, 3);
	assert_string_equal(l->certificates[1]->requester, "admin");
	assert_int_equal(l->certificates[1]->requester_serial, 0);
	assert_int_equal(l->certificates[1]->request_id.len, 0);
	kds__v1__list_certificates_response__free_unpacked(l, NULL);
	/* Its CA goes on with its block, also when it is called otherwise. */
	assert_int_equal(record_now(&r, "ca1", 4), STATUS_OK);
	fixture_raise(&r, LEVEL_ASKED);
	assert_int_equal(record_now(&r, "ca/ca1", 5), STATUS_OK);
	assert_int_equal(record_now(&r, "ca/ca2", 6), STATUS_FAILED_PRECONDITION);
	assert_int_equal(allocate(&r, "ca/ca1", 10), 101);
	struct certificate c;
	make_certificate_now(&r, &c, 101);
	c.message.requester = "node/node1.example.com";
	c.message.requester_serial = 3;
	c.message.requester_issuer = c.message.issuer_key_id;
	assert_int_equal(record(&r, "ca/ca1", &c), STATUS_OK);
	assert_int_equal(query_number(&r, "SELECT count(*) FROM asked"), 1);
	fixture_reopen(&r);
	assert_digest_matches(&r);
	fixture_close(&r);
}

/* Replicas of both versions apply one log: all that it leads to is the same, digests too. */
static void test_state_a_log_of_the_first_level_leads_where_it_led(void **arg)
{
	(void)arg;
	struct fixture was, is;
	uint8_t digest_was[STATE_DIGEST_SIZE], digest_is[STATE_DIGEST_SIZE];
	open_former(&was);
	fixture_open(&is);
	sql(&is, "BEGIN");
	is.index = 1;
	for (size_t i = 0; i < sizeof state_level1_log / sizeof *state_level1_log; i++) {
		struct buffer entry = { 0 };
		from_hex(state_level1_log[i], &entry);
		ok(state_apply(is.state, ++is.index, (struct slice){ entry.data, entry.len }, &st, &is.result));
		buffer_free(&entry);
	}
	ok(state_flush(is.state, &st));
	sql(&is, "COMMIT");
	get_digest(&was, digest_was);
	get_digest(&is, digest_is);
	assert_int_equal(state_applied(is.state), state_applied(was.state));
	assert_memory_equal(digest_is, digest_was, sizeof digest_is);
	fixture_close(&was);
	fixture_close(&is);
}

/* The version before gets its database back: nothing in it is of a later one. */
static void test_state_below_its_level_a_table_stays_empty(void **arg)
{
	(void)arg;
	struct fixture r;
	open_former(&r);
	assert_int_equal(allocate(&r, "ca1", 10), 101);
	assert_int_equal(record_now(&r, "ca1", 101), STATUS_OK);
	for (size_t i = 0; i < STATE_TABLES; i++) {
		char query[128];
		snprintf(query, sizeof query, "SELECT count(*) FROM %s", state_tables[i].name);
		if (state_tables[i].level > LEVEL_FIRST)
			assert_int_equal(query_number(&r, query), 0);
	}
	fixture_close(&r);
}

/* Streams */

static bool holds_table(const struct buffer *stream, const char *name)
{
	return memmem(stream->data, stream->len, name, strlen(name)) != NULL;
}

static void read_stream(struct fixture *r, struct buffer *out)
{
	struct state_reader *reader = NULL;
	bool end = false;
	sql(r, "BEGIN");
	ok(state_reader_attach(r->db, STATE_READER_ALL, &st, &reader));
	while (!end)
		ok(state_reader_next(reader, 100, out, &end, &st));
	state_reader_close(reader);
	sql(r, "COMMIT");
}

static enum status_code load(sqlite3 *db, enum state_reader_scope scope, const struct buffer *stream)
{
	struct state_loader *l = NULL;
	assert_int_equal(sqlite3_exec(db, "BEGIN", NULL, NULL, NULL), SQLITE_OK);
	enum status_code rc = state_loader_new(db, scope, &st, &l);
	if (rc == STATUS_OK)
		rc = state_loader_feed(l, (struct slice){ stream->data, stream->len }, &st);
	if (rc == STATUS_OK)
		rc = state_loader_end(l, &st);
	state_loader_free(l);
	assert_int_equal(sqlite3_exec(db, rc == STATUS_OK ? "COMMIT" : "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
	return rc;
}

static void copy_through_stream(struct fixture *r, const struct buffer *stream)
{
	struct fixture copy = { .version = r->version };
	uint8_t x[STATE_DIGEST_SIZE], y[STATE_DIGEST_SIZE];
	assert_int_equal(sqlite3_open(":memory:", &copy.db), SQLITE_OK);
	ok(load(copy.db, STATE_READER_ALL, stream));
	ok(state_open(copy.db, &st, &copy.state));
	get_digest(r, x);
	get_digest(&copy, y);
	assert_memory_equal(x, y, sizeof x);
	assert_digest_matches(&copy);
	fixture_close(&copy);
}

static void test_state_streams_hold_what_their_level_knows(void **arg)
{
	(void)arg;
	struct fixture r;
	struct buffer first = { 0 }, second = { 0 };
	open_former(&r);
	read_stream(&r, &first);
	assert_false(holds_table(&first, "asked"));
	copy_through_stream(&r, &first);

	fixture_raise(&r, LEVEL_ASKED);
	assert_int_equal(allocate(&r, "ca/ca1", 10), 101);
	struct certificate c;
	make_certificate_now(&r, &c, 101);
	c.message.requester = "admin/admin";
	c.message.request_id = (ProtobufCBinaryData){ 2, (uint8_t *)"id" };
	c.message.request_digest = c.message.fingerprint;
	assert_int_equal(record(&r, "ca/ca1", &c), STATUS_OK);
	read_stream(&r, &second);
	assert_true(holds_table(&second, "asked"));
	copy_through_stream(&r, &second);
	fixture_close(&r);
	buffer_free(&first);
	buffer_free(&second);
}

/* A stream whose tables are not those of its level is no state. */
static void test_state_streams_of_mixed_levels_are_refused(void **arg)
{
	(void)arg;
	struct fixture r;
	struct buffer stream = { 0 };
	sqlite3 *db;
	open_former(&r);
	sql(&r, "UPDATE numbers SET level = 2"); /* the reader goes by it */
	read_stream(&r, &stream);
	sql(&r, "UPDATE numbers SET level = 1");
	fixture_close(&r);
	assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
	assert_int_equal(load(db, STATE_READER_ALL, &stream), STATUS_OK);
	/* The table under a name that nobody knows, or none of it. */
	uint8_t *name = memmem(stream.data, stream.len, "asked", 5);
	assert_non_null(name);
	name[0] = 'b';
	assert_int_equal(load(db, STATE_READER_ALL, &stream), STATUS_FAILED_PRECONDITION);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	buffer_free(&stream);

	open_former(&r);
	read_stream(&r, &stream);
	assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
	assert_int_equal(load(db, STATE_READER_ALL, &stream), STATUS_OK);
	/* Its level is the last but three of the numbers, each 9 bytes; then comes the digest. */
	uint8_t *digest = memmem(stream.data, stream.len, "\x01\x5c\x6b\xc6\x8d", 5);
	assert_non_null(digest);
	uint8_t *level = digest - 5 - 2 * 9 - 1;
	assert_int_equal(*level, LEVEL_FIRST);
	*level = LEVEL_ASKED;
	assert_int_equal(load(db, STATE_READER_ALL, &stream), STATUS_DATA_LOSS);
	assert_non_null(strstr(st.message, "asked is missing"));
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	fixture_close(&r);
	buffer_free(&stream);
}

static enum status_code keep_rows(void *arg, struct slice rows, struct status *status)
{
	(void)status;
	assert_true(buffer_append(arg, rows.data, rows.len));
	return STATUS_OK;
}

static void test_state_backups_of_the_first_level_are_loaded(void **arg)
{
	(void)arg;
	char *dir = support_make_directory(), path[600];
	struct buffer bytes = { 0 }, rows = { 0 };
	struct backup_summary summary = { 0 };
	snprintf(path, sizeof path, "%s/before.kdsb", dir);
	for (size_t i = 0; i < sizeof state_level1_backup / sizeof *state_level1_backup; i++)
		from_hex(state_level1_backup[i], &bytes);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(bytes.data, 1, bytes.len, f), bytes.len);
	assert_int_equal(fclose(f), 0);
	ok(backup_verify(path, &st, &summary));
	backup_summary_fini(&summary);
	ok(backup_file_read(path, keep_rows, &rows, &st, &summary));
	backup_summary_fini(&summary);

	struct fixture r = { .version = LEVEL_FIRST };
	assert_int_equal(sqlite3_open(":memory:", &r.db), SQLITE_OK);
	ok(load(r.db, STATE_READER_LASTING, &rows));
	ok(state_open(r.db, &st, &r.state));
	assert_int_equal(serial_status(&r).issued, 2);
	r.index = state_applied(r.state);
	r.time_ms = state_time_ms(r.state);
	fixture_raise(&r, LEVEL_NEWEST);
	assert_int_equal(allocate(&r, "ca/ca1", 1), 101);
	assert_digest_matches(&r);
	fixture_close(&r);
	buffer_free(&bytes);
	buffer_free(&rows);
	support_remove_directory(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_of_the_first_level_is_opened),
		cmocka_unit_test(test_state_a_log_of_the_first_level_leads_where_it_led),
		cmocka_unit_test(test_state_below_its_level_a_table_stays_empty),
		cmocka_unit_test(test_state_streams_hold_what_their_level_knows),
		cmocka_unit_test(test_state_streams_of_mixed_levels_are_refused),
		cmocka_unit_test(test_state_backups_of_the_first_level_are_loaded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
