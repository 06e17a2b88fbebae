// links: service_serial common_backup
/* A log that begins with a backup: what was decided holds, and what went wrong changes nothing. */
#include "tests/support/state_fixture.h"

#include "common/backup/check.h"
#include "services/serial/genesis.h"
#include "services/serial/restore.h"
#include "services/serial/state_reader.h"

static char *dir;
static char file[600];
static struct status st;

static const struct engine_member members[] = { { 1, "serial1", "a:7401" }, { 2, "serial2", "b:7401" } };
static const struct engine_options options = {
	.id = 1,
	.cluster = "cluster.example.com",
	.kds_name = "key.example.com",
	.cluster_id = "4fd2",
	.members = members,
	.n_members = 2,
};

static void ok(enum status_code rc)
{
	if (rc != STATUS_OK)
		fail_msg("%s", st.message);
}

/* The state of a store, for the fixture's functions. */
static struct store *open_store(const char *name)
{
	char path[600];
	struct store *s = NULL;
	const struct store_identity id = { options.cluster_id, options.id };
	snprintf(path, sizeof path, "%s/%s", dir, name);
	ok(store_open(path, &id, &st, &s));
	return s;
}

static void open_state(struct fixture *r, struct store *s)
{
	*r = (struct fixture){ .db = store_sqlite(s), .time_ms = NOW_MS, .version = LEVEL_FIRST };
	ok(state_open(r->db, &st, &r->state));
	r->index = state_applied(r->state);
}

static void close_state(struct fixture *r)
{
	state_close(r->state);
	state_result_fini(&r->result);
}

static void write_file(struct fixture *r, const Kds__V1__BackupRestore *decided)
{
	struct state_reader *reader = NULL;
	struct backup_writer *w = NULL;
	Kds__V1__BackupHeader *header = NULL;
	struct buffer rows = { 0 };
	uint8_t digest[BACKUP_DIGEST_SIZE];
	bool end = false;
	ok(state_reader_attach(r->db, STATE_READER_LASTING, &st, &reader));
	ok(state_reader_header(reader, "serial1", &st, &header));
	ok(backup_writer_new(file, true, &st, &w));
	ok(backup_writer_header(w, header, &st));
	ok(state_reader_next(reader, BACKUP_PAGE_MAX, &rows, &end, &st));
	assert_true(end);
	ok(backup_writer_rows(w, (struct slice){ rows.data, rows.len }, &st));
	if (decided)
		ok(backup_writer_restore(w, decided, &st));
	ok(backup_writer_end(w, &st, digest));
	backup_writer_free(w);
	buffer_free(&rows);
	kds__v1__backup_header__free_unpacked(header, NULL);
	state_reader_close(reader);
}

/* A cluster with something in every table; its backup as `decided`. */
static void make_file(const Kds__V1__BackupRestore *decided)
{
	struct fixture r;
	struct store *s = open_store("old");
	open_state(&r, s);
	if (r.index == 0) {
		ok(genesis_from(&r, 1));
		assert_int_equal(allocate_id(&r, "ca1", 1000, "id-1", NULL, NULL), STATUS_OK);
		ok(record_serial(&r, "ca1", 1, 1));
		ok(record_serial(&r, "ca1", 2, 2));
		ok(put_setting(&r, "site.a", "1"));
		ok(put_setting(&r, "site.gone", "1"));
		ok(delete_checked(&r, "setting/site.gone", false, 0));
	}
	write_file(&r, decided);
	close_state(&r);
	store_close(s);
}

static Kds__V1__BackupRestore decide(uint64_t min_serial, uint8_t id[16], uint8_t mark)
{
	Kds__V1__BackupRestore d = KDS__V1__BACKUP_RESTORE__INIT;
	memset(id, mark, 16);
	d.id = (ProtobufCBinaryData){ 16, id };
	d.skip = BACKUP_SKIP_MIN;
	d.min_serial = min_serial;
	return d;
}

static void genesis_of(struct store *s, uint8_t hash[GENESIS_HASH_SIZE])
{
	struct store_genesis g;
	assert_true(store_read_genesis(s, &g));
	ok(genesis_hash(&g, &st, hash));
	genesis_free(&g);
}

static int set_up(void **arg)
{
	(void)arg;
	dir = support_make_directory();
	snprintf(file, sizeof file, "%s/restore.kds", dir);
	return 0;
}

static int tear_down(void **arg)
{
	(void)arg;
	support_remove_directory(dir);
	return 0;
}

static void test_restore_does_what_was_decided(void **arg)
{
	(void)arg;
	uint8_t id[16];
	const Kds__V1__BackupRestore decided = decide(2, id, 7);
	struct fixture r;
	bool any = false;
	make_file(&decided);
	struct store *s = open_store("new");
	ok(restore_begin(s, file, &options, &st));
	/* As after a restart. */
	store_close(s);
	s = open_store("new");
	open_state(&r, s);
	struct store_start at;
	store_start_values(s, &at);
	assert_int_equal(at.last, 2);
	assert_int_equal(at.first, 3); /* nobody can have these entries without the state */
	assert_int_equal(at.applied, 2);
	assert_int_equal(r.index, 2);

	Kds__V1__SerialStatus now = serial_status(&r);
	assert_int_equal(now.last_serial, 1000 + BACKUP_SKIP_MIN);
	assert_int_equal(now.min_serial, 2);
	assert_int_equal(now.highest_issued, 2);
	assert_int_equal(now.issued, 2);
	/* No block of before takes a record, no serial of before is handed out; the request id means nothing any more. */
	assert_int_equal(record_serial(&r, "ca1", 3, 3), STATUS_FAILED_PRECONDITION);
	uint64_t first = 0;
	assert_int_equal(allocate_id(&r, "ca1", 10, "id-1", &first, NULL), STATUS_OK);
	assert_int_equal(first, 1000 + BACKUP_SKIP_MIN + 1);
	/* Objects are there; whoever watched before starts again, whatever revision it has seen. */
	Kds__V1__Object *o = get_sealed(&r, "setting/site.a", 0);
	assert_non_null(o);
	kds__v1__object__free_unpacked(o, NULL);
	for (uint64_t since = 1; since < BACKUP_SKIP_MIN; since += 99991) {
		Kds__V1__WatchResponse *w = changes(&r, since, NULL, &any);
		assert_true(w->restart);
		kds__v1__watch_response__free_unpacked(w, NULL);
	}
	Kds__V1__WatchResponse *w = changes(&r, 0, NULL, &any);
	assert_false(w->restart);
	assert_int_equal(w->n_objects, 3); /* cluster, setting/site.a, serial/min */
	kds__v1__watch_response__free_unpacked(w, NULL);
	bool done = false;
	while (!done)
		ok(state_scan_digest(r.state, 100, &st, &done));
	close_state(&r);
	store_close(s);
}

static void test_restore_is_the_same_on_every_replica(void **arg)
{
	(void)arg;
	uint8_t id[16], one[GENESIS_HASH_SIZE], two[GENESIS_HASH_SIZE], other[GENESIS_HASH_SIZE];
	uint8_t digest_one[STATE_DIGEST_SIZE], digest_two[STATE_DIGEST_SIZE];
	Kds__V1__BackupRestore decided = decide(2, id, 7);
	struct fixture r;
	make_file(&decided);
	struct store *s = open_store("one");
	ok(restore_begin(s, file, &options, &st));
	genesis_of(s, one);
	open_state(&r, s);
	ok(state_digest(r.state, &st, digest_one));
	close_state(&r);
	store_close(s);
	s = open_store("two");
	ok(restore_begin(s, file, &options, &st));
	genesis_of(s, two);
	open_state(&r, s);
	ok(state_digest(r.state, &st, digest_two));
	close_state(&r);
	store_close(s);
	assert_memory_equal(one, two, sizeof one);
	assert_memory_equal(digest_one, digest_two, sizeof digest_one);
	/* Another run of `backup restore` makes another cluster. */
	decided = decide(2, id, 8);
	make_file(&decided);
	s = open_store("other");
	ok(restore_begin(s, file, &options, &st));
	genesis_of(s, other);
	assert_memory_not_equal(one, other, sizeof one);
	store_close(s);
}

/* As `kds-serial --recover` does it: another log in the place of one that is there. */
static void test_restore_forgets_the_replicas_of_before(void **arg)
{
	(void)arg;
	uint8_t id[16];
	const Kds__V1__BackupRestore decided = decide(2, id, 7);
	const struct store_record before[] = { { 2, 22 }, { 3, 33 } };
	struct store_record records[4];
	make_file(&decided);
	struct store *s = open_store("survivor");
	store_take_part(s, before, 2);
	assert_int_equal(store_records(s, records, 4), 2);
	ok(restore_begin(s, file, &options, &st));
	assert_int_equal(store_records(s, records, 4), 0);
	assert_true(store_takes_part(s));
	store_close(s);
}

static void refuses(struct store *s, const struct engine_options *o, enum status_code code, const char *words)
{
	struct store_genesis g;
	struct store_start at;
	assert_int_equal(restore_begin(s, file, o, &st), code);
	if (!strstr(st.message, words))
		fail_msg("'%s' does not say '%s'", st.message, words);
	assert_false(store_read_genesis(s, &g));
	store_start_values(s, &at);
	assert_int_equal(at.last, 0);
}

static void test_restore_that_is_refused_changes_nothing(void **arg)
{
	(void)arg;
	uint8_t id[16];
	Kds__V1__BackupRestore decided = decide(2, id, 7);
	struct engine_options other = options;
	struct store *s = open_store("new");
	refuses(s, &options, STATUS_NOT_FOUND, "restore.kds");
	make_file(NULL);
	refuses(s, &options, STATUS_FAILED_PRECONDITION, "as it was saved");
	make_file(&decided);
	other.cluster_id = "another";
	refuses(s, &other, STATUS_FAILED_PRECONDITION, "another");
	decided.min_serial = 2000000;
	make_file(&decided);
	refuses(s, &options, STATUS_DATA_LOSS, "impossible");
	decided.min_serial = 2;
	make_file(&decided);
	ok(restore_begin(s, file, &options, &st));
	store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_restore_does_what_was_decided, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_restore_is_the_same_on_every_replica, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_restore_forgets_the_replicas_of_before, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_restore_that_is_refused_changes_nothing, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
