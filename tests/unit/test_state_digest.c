// links: service_serial
/* The digest of the state: what it depends on, and that a scan finds what was changed behind its back. */
#include "tests/support/state_fixture.h"

static void digest_of(struct fixture *r, uint8_t ret_digest[STATE_DIGEST_SIZE])
{
	assert_int_equal(state_digest(r->state, &r->st, ret_digest), STATUS_OK);
}

/* To the end, and at least one whole round. */
static enum status_code scan_all(struct fixture *r)
{
	bool done = false;
	enum status_code rc = STATUS_OK;
	for (int round = 0; rc == STATUS_OK && round < 2; round++)
		for (done = false; rc == STATUS_OK && !done;)
			rc = state_scan_digest(r->state, 3, &r->st, &done);
	return rc;
}

/* Something in every table. */
static void fill(struct fixture *r)
{
	fixture_begin(r);
	allocate(r, "ca1", 100);
	allocate(r, "ca2", 100);
	for (uint64_t serial = 1; serial <= 10; serial++)
		assert_int_equal(record_serial(r, "ca1", serial, 1), STATUS_OK);
	assert_int_equal(put_setting(r, "colour", "green"), STATUS_OK);
	assert_int_equal(put_setting(r, "colour", "blue"), STATUS_OK);
	assert_int_equal(allocate_id(r, "ca1", 1, "id-1", NULL, NULL), STATUS_OK);
	assert_int_equal(allocate_id(r, "ca2", 1, "id-2", NULL, NULL), STATUS_OK);
	assert_int_equal(allocate_id(r, "ca2", 1, "id-3", NULL, NULL), STATUS_OK);
}

static void test_digest_is_that_of_the_content(void **arg)
{
	(void)arg;
	struct fixture a, b;
	uint8_t x[STATE_DIGEST_SIZE], y[STATE_DIGEST_SIZE];
	fill(&a);
	fill(&b);
	digest_of(&a, x);
	digest_of(&b, y);
	assert_memory_equal(x, y, sizeof x);
	assert_int_equal(put_setting(&a, "colour", "red"), STATUS_OK);
	digest_of(&a, x);
	assert_memory_not_equal(x, y, sizeof x);
	fixture_reopen(&a);
	digest_of(&a, y);
	assert_memory_equal(x, y, sizeof x);
	fixture_close(&a);
	fixture_close(&b);
}

static void test_digest_scan_finds_nothing_wrong_where_nothing_is(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_open(&r);
	assert_int_equal(scan_all(&r), STATUS_OK);
	fixture_close(&r);
	fill(&r);
	assert_int_equal(scan_all(&r), STATUS_OK);
	fixture_reopen(&r);
	assert_int_equal(scan_all(&r), STATUS_OK);
	/* All records expire, and the request ids. */
	r.time_ms += (uint64_t)9 * DAY_S * 1000;
	allocate(&r, "ca1", 1);
	allocate(&r, "ca1", 1);
	assert_int_equal(serial_status(&r).issued, 0);
	assert_int_equal(scan_all(&r), STATUS_OK);
	fixture_close(&r);
}

static void test_digest_scan_finds_every_change(void **arg)
{
	(void)arg;
	static const char *const changes[] = {
		"UPDATE numbers SET last_serial = last_serial + 1",
		"UPDATE numbers SET digest = CAST(substr(digest, 1, 1) || zeroblob(32) AS BLOB)",
		"UPDATE blocks SET ranges = x'00000000000000010000000000000065' WHERE holder = 'ca2'",
		"UPDATE issued SET subject = 'other' WHERE serial = 7",
		"UPDATE issued SET not_after = not_after + 1 WHERE serial = 10",
		"DELETE FROM issued WHERE serial = 1",
		"UPDATE objects SET value = value || x'980601' WHERE key = 'setting/colour'",
		"UPDATE objects SET deleted = 1 WHERE key = 'setting/colour'",
		"UPDATE requests SET entries = substr(entries, 1, length(entries) - 1) || x'7f' WHERE last = 2",
		"DELETE FROM requests WHERE last = (SELECT max(last) FROM requests)",
	};
	for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
		struct fixture r;
		fill(&r);
		state_close(r.state);
		sql(&r, changes[i]);
		assert_int_equal(sqlite3_changes(r.db), 1);
		assert_int_equal(state_open(r.db, &r.st, &r.state), STATUS_OK);
		if (scan_all(&r) != STATUS_DATA_LOSS)
			fail_msg("not found: %s", changes[i]);
		/* What comes later does not cover it up. */
		allocate(&r, "ca1", 1);
		assert_int_equal(scan_all(&r), STATUS_DATA_LOSS);
		fixture_close(&r);
	}
}

/* Versions that compute it differently work in one cluster, and follow each other on a database. */
static void test_digest_of_another_format_is_made_anew(void **arg)
{
	(void)arg;
	struct fixture r;
	uint8_t before[STATE_DIGEST_SIZE], after[STATE_DIGEST_SIZE];
	fill(&r);
	digest_of(&r, before);
	state_close(r.state);
	sql(&r, "UPDATE numbers SET digest = x'ff' || 'as another version has it'");
	assert_int_equal(state_open(r.db, &r.st, &r.state), STATUS_OK);
	digest_of(&r, after);
	assert_memory_equal(before, after, sizeof before);
	assert_int_equal(scan_all(&r), STATUS_OK);
	allocate(&r, "ca1", 1);
	fixture_reopen(&r);
	assert_int_equal(scan_all(&r), STATUS_OK);
	fixture_close(&r);
}

/* A row that is replaced or deleted takes with it what is there, not what was written. */
static void test_digest_scan_finds_a_change_that_is_gone(void **arg)
{
	(void)arg;
	struct fixture r;
	fill(&r);
	state_close(r.state);
	/* A field that is unknown: what does not unpack at all is refused as it is opened. */
	sql(&r, "UPDATE objects SET value = value || x'980601' WHERE key = 'setting/colour'");
	assert_int_equal(state_open(r.db, &r.st, &r.state), STATUS_OK);
	assert_int_equal(put_setting(&r, "colour", "red"), STATUS_OK);
	assert_int_equal(scan_all(&r), STATUS_DATA_LOSS);
	fixture_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_digest_is_that_of_the_content),
		cmocka_unit_test(test_digest_scan_finds_nothing_wrong_where_nothing_is),
		cmocka_unit_test(test_digest_scan_finds_every_change),
		cmocka_unit_test(test_digest_of_another_format_is_made_anew),
		cmocka_unit_test(test_digest_scan_finds_a_change_that_is_gone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
