// links: service_serial
/* The state machine as a whole: how it begins, what stops it, what it remembers, and that replicas agree. */
#include "tests/support/state_fixture.h"

/* Genesis. */

static void test_state_genesis_makes_the_cluster_once(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_open(&r);
	assert_string_equal(state_cluster_name(r.state), "");
	assert_int_equal(put_setting(&r, "a", "b"), STATUS_FAILED_PRECONDITION);
	assert_int_equal(genesis_from(&r, 100), STATUS_OK);
	assert_string_equal(state_cluster_name(r.state), "cluster.example.com");
	assert_int_equal(genesis_from(&r, 1), STATUS_FAILED_PRECONDITION);
	Kds__V1__SerialStatus s = serial_status(&r);
	assert_int_equal(s.last_serial, 99);
	assert_int_equal(s.min_serial, 100);
	assert_int_equal(s.revision, 2);
	fixture_reopen(&r);
	assert_string_equal(state_cluster_name(r.state), "cluster.example.com");
	assert_int_equal(allocate(&r, "ca1", 5), 100);
	Kds__V1__Object *o = get_sealed(&r, "cluster", 0);
	assert_non_null(o);
	assert_int_equal(o->value_case, KDS__V1__OBJECT__VALUE_CLUSTER);
	assert_string_equal(o->cluster->kds_name, "key.example.com");
	kds__v1__object__free_unpacked(o, NULL);
	fixture_close(&r);
}

static void test_state_genesis_refuses_bad_names(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_open(&r);
	Kds__V1__Cluster cluster = KDS__V1__CLUSTER__INIT;
	cluster.name = "cluster.example.com";
	cluster.kds_name = "key example";
	cluster.cluster_id = "1";
	Kds__V1__Genesis genesis = KDS__V1__GENESIS__INIT;
	genesis.first_serial = 1;
	Kds__V1__Command c = command("");
	c.op_case = KDS__V1__COMMAND__OP_GENESIS;
	c.genesis = &genesis;
	assert_int_equal(apply(&r, &c), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "genesis.cluster");
	genesis.cluster = &cluster;
	assert_int_equal(apply(&r, &c), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "genesis.cluster.kds_name");
	cluster.kds_name = "key.example.com";
	genesis.first_serial = 0;
	assert_int_equal(apply(&r, &c), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "genesis.first_serial");
	assert_int_equal(serial_status(&r).revision, 0);
	fixture_close(&r);
}

/* What stops a replica. */

static void test_state_apply_stops_at_what_it_does_not_know(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = 1;
	Kds__V1__Command c = command("ca1");
	c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	c.allocate = &in;
	c.version = level_known() + 1;
	assert_int_equal(apply_raw(&r, &c), STATUS_DATA_LOSS);
	c.version = 1;
	/* A field that a later version gave to an operation that we know. */
	static const uint8_t field[] = { 1 };
	ProtobufCMessageUnknownField unknown = { 77, PROTOBUF_C_WIRE_TYPE_VARINT, sizeof field, (uint8_t *)field };
	in.base.n_unknown_fields = 1;
	in.base.unknown_fields = &unknown;
	assert_int_equal(apply_raw(&r, &c), STATUS_DATA_LOSS);
	in.base.n_unknown_fields = 0;
	c.op_case = KDS__V1__COMMAND__OP__NOT_SET;
	assert_int_equal(apply_raw(&r, &c), STATUS_DATA_LOSS);
	struct slice junk = { "\xff\xff\xff", 3 };
	assert_int_equal(state_apply(r.state, ++r.index, junk, &r.st, &r.result), STATUS_DATA_LOSS);
	/* An operation of a later version: field 99 instead of one of ours. */
	static const uint8_t newer[] = { 0x08, 1, 0x22, 1, 'x', 0x9a, 0x06, 0 };
	assert_int_equal(state_apply(r.state, ++r.index, (struct slice){ newer, sizeof newer }, &r.st, &r.result),
			 STATUS_DATA_LOSS);
	assert_int_equal(serial_status(&r).last_serial, 0);
	fixture_close(&r);
}

static void test_state_level_is_raised_to_what_is_known(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin_at(&r, LEVEL_FIRST);
	assert_int_equal(state_level(r.state), LEVEL_FIRST);
	Kds__V1__RaiseLevel in = KDS__V1__RAISE_LEVEL__INIT;
	Kds__V1__Command c = command("kds-serial");
	c.version = 1;
	c.op_case = KDS__V1__COMMAND__OP_RAISE_LEVEL;
	c.raise_level = &in;
	assert_int_equal(apply_raw(&r, &c), STATUS_OK);
	assert_int_equal(r.result.status.code, STATUS_INVALID_ARGUMENT);
	in.level = level_known();
	assert_int_equal(apply_raw(&r, &c), STATUS_OK);
	assert_int_equal(r.result.status.code, STATUS_OK);
	in.level = level_known() + 1;
	assert_int_equal(apply_raw(&r, &c), STATUS_DATA_LOSS);
	assert_int_equal(state_level(r.state), level_known());
	fixture_close(&r);
}

static void test_state_open_refuses_a_level_it_does_not_know(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	state_close(r.state);
	r.state = NULL;
	sql(&r, "UPDATE numbers SET level = level + 1");
	assert_int_equal(state_open(r.db, &r.st, &r.state), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(r.st.message, "install the version"));
	sql(&r, "UPDATE numbers SET level = level - 1");
	assert_int_equal(state_open(r.db, &r.st, &r.state), STATUS_OK);
	fixture_close(&r);
}

static void test_state_apply_refuses_an_entry_twice(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	allocate(&r, "ca1", 10);
	fixture_reopen(&r);
	r.index--;
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = 10;
	Kds__V1__Command c = command("ca1");
	c.version = 1;
	c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	c.allocate = &in;
	assert_int_equal(apply_raw(&r, &c), STATUS_DATA_LOSS);
	assert_int_equal(serial_status(&r).last_serial, 10);
	fixture_close(&r);
}

static void test_state_commit_without_flush_is_refused(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = 10;
	Kds__V1__Command c = command("ca1");
	c.version = 1;
	c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	c.allocate = &in;
	sql(&r, "BEGIN; CREATE TABLE t (a); INSERT INTO t VALUES (1)");
	assert_int_equal(apply_raw(&r, &c), STATUS_OK);
	assert_int_not_equal(sqlite3_exec(r.db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	fixture_close(&r);
}

/* Request ids. */

static void test_state_request_ids_are_applied_once(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	uint64_t first = 0, again = 0;
	assert_int_equal(allocate_id(&r, "ca1", 10, "id-1", &first, NULL), STATUS_OK);
	assert_int_equal(allocate_id(&r, "ca1", 10, "id-1", &again, NULL), STATUS_OK);
	assert_int_equal(again, first);
	/* Another caller's same id is another request. */
	assert_int_equal(allocate_id(&r, "ca2", 10, "id-1", &again, NULL), STATUS_OK);
	assert_int_equal(again, first + 10);
	fixture_reopen(&r);
	assert_int_equal(allocate_id(&r, "ca1", 10, "id-1", &again, NULL), STATUS_OK);
	assert_int_equal(again, first);
	assert_int_equal(allocate_id(&r, "ca1", 10, "id-2", &again, NULL), STATUS_OK);
	assert_int_equal(again, first + 20);
	assert_int_equal(allocate_id(&r, "ca1", 10, "this id is longer than 32 bytes are", NULL, NULL),
			 STATUS_INVALID_ARGUMENT);
	fixture_close(&r);
}

static void test_state_request_ids_repeat_refusals(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	Kds__V1__DeleteRequest in = KDS__V1__DELETE_REQUEST__INIT;
	in.key = "setting/a";
	Kds__V1__Command c = command("admin");
	set_request_id(&c, "del");
	c.op_case = KDS__V1__COMMAND__OP_DELETE;
	c.delete_ = &in;
	assert_int_equal(apply(&r, &c), STATUS_NOT_FOUND);
	assert_int_equal(put_setting(&r, "a", "1"), STATUS_OK);
	fixture_reopen(&r);
	assert_int_equal(apply(&r, &c), STATUS_NOT_FOUND);
	assert_string_equal(r.result.status.message, "there is no setting/a");
	/* The same id for another operation is another request. */
	assert_int_equal(allocate_id(&r, "admin", 10, "del", NULL, NULL), STATUS_OK);
	Kds__V1__Object *o = get_sealed(&r, "setting/a", 0);
	assert_non_null(o);
	kds__v1__object__free_unpacked(o, NULL);
	fixture_close(&r);
}

/* Allocations with the request ids `from` to `to` - 1. */
static void allocate_many(struct fixture *r, int from, int to)
{
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = 1;
	Kds__V1__Command c = command("ca1");
	c.version = 1;
	c.time_ms = r->time_ms;
	c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	c.allocate = &in;
	char id[16];
	sql(r, "BEGIN");
	for (int i = from; i < to; i++) {
		snprintf(id, sizeof id, "%d", i);
		set_request_id(&c, id);
		assert_int_equal(apply_raw(r, &c), STATUS_OK);
	}
	assert_int_equal(state_flush(r->state, &r->st), STATUS_OK);
	sql(r, "COMMIT");
}

/* But not the newest 16,384: at a new leader whose clock is ahead, everything is old. */
static void test_state_request_ids_are_forgotten_by_age(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	uint64_t first = 0, again = 0;
	assert_int_equal(allocate_id(&r, "ca1", 1, "old", &first, NULL), STATUS_OK);
	r.time_ms = NOW_MS + 3600000;
	allocate_many(&r, 0, 16383);
	fixture_reopen(&r);
	assert_int_equal(allocate_id(&r, "ca1", 1, "old", &again, NULL), STATUS_OK);
	assert_int_equal(again, first);
	r.time_ms = NOW_MS + 599999;
	allocate_many(&r, 16383, 16384);
	fixture_reopen(&r);
	assert_int_equal(allocate_id(&r, "ca1", 1, "old", &again, NULL), STATUS_OK);
	assert_int_equal(again, first + 16385);
	fixture_close(&r);
	/* Younger ones stay in any number that is kept. */
	fixture_begin(&r);
	assert_int_equal(allocate_id(&r, "ca1", 1, "old", &first, NULL), STATUS_OK);
	r.time_ms = NOW_MS + 599999;
	allocate_many(&r, 0, 20000);
	assert_int_equal(allocate_id(&r, "ca1", 1, "old", &again, NULL), STATUS_OK);
	assert_int_equal(again, first);
	r.time_ms = NOW_MS + 600000;
	assert_int_equal(allocate_id(&r, "ca1", 1, "old", &again, NULL), STATUS_OK);
	assert_int_equal(again, first + 20001);
	fixture_close(&r);
}

static int count_rows(struct fixture *r, const char *table)
{
	char text[64];
	snprintf(text, sizeof text, "SELECT count(*) FROM %s", table);
	sqlite3_stmt *s;
	assert_int_equal(sqlite3_prepare_v2(r->db, text, -1, &s, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(s), SQLITE_ROW);
	int n = sqlite3_column_int(s, 0);
	sqlite3_finalize(s);
	return n;
}

/* 65,536 and no more, in memory and on disk. */
static void test_state_request_ids_are_bounded_in_number(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = 1;
	Kds__V1__Command c = command("ca1");
	c.version = 1;
	c.time_ms = NOW_MS;
	c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	c.allocate = &in;
	char id[16];
	sql(&r, "BEGIN");
	for (int i = 0; i < 70000; i++) {
		snprintf(id, sizeof id, "%d", i);
		set_request_id(&c, id);
		assert_int_equal(apply_raw(&r, &c), STATUS_OK);
		if (i % 100 == 99 || i == 69999) {
			assert_int_equal(state_flush(r.state, &r.st), STATUS_OK);
			sql(&r, "COMMIT; BEGIN");
		}
	}
	sql(&r, "COMMIT");
	assert_in_range(count_rows(&r, "requests"), 655, 657);
	fixture_reopen(&r);
	uint64_t first = 0;
	assert_int_equal(allocate_id(&r, "ca1", 1, "69999", &first, NULL), STATUS_OK);
	assert_int_equal(first, 70000);
	assert_int_equal(allocate_id(&r, "ca1", 1, "4464", &first, NULL), STATUS_OK);
	assert_int_equal(first, 4465);
	assert_int_equal(allocate_id(&r, "ca1", 1, "4463", &first, NULL), STATUS_OK);
	assert_int_equal(first, 70001);
	fixture_close(&r);
}

/* A transaction that is larger than what is kept. */
static void test_state_request_ids_survive_one_huge_transaction(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = 1;
	Kds__V1__Command c = command("ca1");
	c.version = 1;
	c.time_ms = NOW_MS;
	c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	c.allocate = &in;
	char id[16];
	sql(&r, "BEGIN");
	for (int i = 0; i < 66000; i++) {
		snprintf(id, sizeof id, "%d", i);
		set_request_id(&c, id);
		assert_int_equal(apply_raw(&r, &c), STATUS_OK);
	}
	assert_int_equal(state_flush(r.state, &r.st), STATUS_OK);
	sql(&r, "COMMIT");
	fixture_reopen(&r);
	uint64_t first = 0;
	assert_int_equal(allocate_id(&r, "ca1", 1, "464", &first, NULL), STATUS_OK);
	assert_int_equal(first, 465);
	fixture_close(&r);
}

static void test_state_open_refuses_damaged_request_ids(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	for (int i = 0; i < 3; i++) {
		char id[4] = { 'i', (char)('0' + i) };
		assert_int_equal(allocate_id(&r, "ca1", 1, id, NULL, NULL), STATUS_OK);
	}
	state_close(r.state);
	r.state = NULL;
	sql(&r, "DELETE FROM requests WHERE last = 1");
	assert_int_equal(state_open(r.db, &r.st, &r.state), STATUS_DATA_LOSS);
	sql(&r, "DELETE FROM requests; UPDATE numbers SET oldest_request = 3");
	assert_int_equal(state_open(r.db, &r.st, &r.state), STATUS_OK);
	fixture_close(&r);
}

/* Replicas. */

static uint32_t random_state;

static uint32_t pick(uint32_t n)
{
	random_state = random_state * 1664525u + 1013904223u;
	return (random_state >> 8) % n;
}

/* One of a few hundred thousand random commands, packed; many are refused. */
static size_t random_command(uint64_t time_ms, uint64_t last_serial, uint8_t *packed)
{
	static const char *const cas[] = { "ca1", "ca2", "ca3" };
	char id[8], name[16];
	Kds__V1__Command c = command(cas[pick(3)]);
	c.version = 1;
	c.time_ms = time_ms - pick(2000);
	snprintf(id, sizeof id, "%" PRIu32, pick(200));
	if (pick(2))
		set_request_id(&c, id);
	snprintf(name, sizeof name, "s%" PRIu32, pick(20));
	Kds__V1__AllocateRequest allocation = KDS__V1__ALLOCATE_REQUEST__INIT;
	Kds__V1__RecordRequest records = KDS__V1__RECORD_REQUEST__INIT;
	Kds__V1__SetMinRequest min = KDS__V1__SET_MIN_REQUEST__INIT;
	Kds__V1__PutRequest put = KDS__V1__PUT_REQUEST__INIT;
	Kds__V1__DeleteRequest deletion = KDS__V1__DELETE_REQUEST__INIT;
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	struct certificate certs[3];
	Kds__V1__IssuedCertificate *pointers[3];
	char key[32];
	switch (pick(20)) {
	case 0:
		c.op_case = KDS__V1__COMMAND__OP_SET_MIN;
		c.set_min = &min;
		min.value_case = KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL;
		min.min_serial = last_serial > 2000 ? last_serial - 2000 + pick(100) : 1;
		break;
	case 1:
	case 2:
		c.op_case = KDS__V1__COMMAND__OP_PUT;
		c.put = &put;
		put.object = &o;
		put.check_revision = pick(2) == 1;
		put.expected_revision = pick(3);
		o.value_case = KDS__V1__OBJECT__VALUE_SETTING;
		o.setting = &setting;
		setting.name = name;
		setting.value = id;
		break;
	case 3:
		c.op_case = KDS__V1__COMMAND__OP_DELETE;
		c.delete_ = &deletion;
		snprintf(key, sizeof key, "setting/%s", name);
		deletion.key = key;
		break;
	case 4:
	case 5:
	case 6:
	case 7:
		c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
		c.allocate = &allocation;
		allocation.count = pick(20);
		break;
	default:
		c.op_case = KDS__V1__COMMAND__OP_RECORD;
		c.record = &records;
		records.n_certificates = 1 + pick(3);
		records.certificates = pointers;
		for (size_t i = 0; i < records.n_certificates; i++) {
			uint64_t back = pick(300);
			make_certificate(&certs[i], last_serial > back ? last_serial - back : 1, (uint8_t)pick(3));
			certs[i].message.not_before = (int64_t)(time_ms / 1000);
			certs[i].message.not_after = (int64_t)(time_ms / 1000) + 1 + pick(3000);
			pointers[i] = &certs[i].message;
		}
		break;
	}
	return kds__v1__command__pack(&c, packed);
}

static void assert_same_text(struct fixture *a, struct fixture *b, const char *query)
{
	sqlite3_stmt *x, *y;
	assert_int_equal(sqlite3_prepare_v2(a->db, query, -1, &x, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(b->db, query, -1, &y, NULL), SQLITE_OK);
	for (;;) {
		int rv = sqlite3_step(x);
		assert_int_equal(sqlite3_step(y), rv);
		if (rv != SQLITE_ROW)
			break;
		for (int i = 0; i < sqlite3_column_count(x); i++) {
			int len = sqlite3_column_bytes(x, i);
			assert_int_equal(sqlite3_column_bytes(y, i), len);
			if (len > 0)
				assert_memory_equal(sqlite3_column_blob(x, i), sqlite3_column_blob(y, i), (size_t)len);
		}
	}
	sqlite3_finalize(x);
	sqlite3_finalize(y);
}

/* Reads on; 1: it has read all, and the running digest is that of the tables. */
static unsigned scan(struct fixture *r, unsigned rows)
{
	bool done = false;
	if (state_scan_digest(r->state, rows, &r->st, &done) != STATUS_OK)
		fail_msg("%s", r->st.message);
	return done;
}

/*
 * The same log on two replicas, of which one commits after each command and the other in batches and is started
 * anew now and then: same answers, same tables.
 */
static void test_state_replicas_agree_whatever_their_transactions(void **arg)
{
	(void)arg;
	struct fixture a, b;
	fixture_begin(&a);
	fixture_begin(&b);
	random_state = 42;
	uint64_t time_ms = NOW_MS;
	unsigned accepted = 0, scanned = 0;
	sql(&b, "BEGIN");
	for (int i = 0; i < 20000; i++) {
		uint8_t packed[4096];
		time_ms += pick(3000);
		struct slice command = { packed, random_command(time_ms, serial_status(&a).last_serial, packed) };
		uint64_t index = ++a.index;
		sql(&a, "BEGIN");
		assert_int_equal(state_apply(a.state, index, command, &a.st, &a.result), STATUS_OK);
		assert_int_equal(state_flush(a.state, &a.st), STATUS_OK);
		sql(&a, "COMMIT");
		assert_int_equal(state_apply(b.state, index, command, &b.st, &b.result), STATUS_OK);
		assert_int_equal(a.result.status.code, b.result.status.code);
		assert_string_equal(a.result.status.message, b.result.status.message);
		assert_int_equal(a.result.answer.len, b.result.answer.len);
		assert_memory_equal(a.result.answer.data, b.result.answer.data, a.result.answer.len);
		accepted += a.result.status.code == STATUS_OK;
		scanned += scan(&a, 1 + pick(20)) + (pick(10) == 0 ? scan(&b, 1 + pick(100)) : 0);
		if (pick(50) > 0)
			continue;
		assert_int_equal(state_flush(b.state, &b.st), STATUS_OK);
		sql(&b, "COMMIT");
		if (pick(4) == 0)
			fixture_reopen(&b);
		sql(&b, "BEGIN");
	}
	assert_int_equal(state_flush(b.state, &b.st), STATUS_OK);
	sql(&b, "COMMIT");
	assert_in_range(accepted, 5000, 20000);
	assert_in_range(scanned, 20, 20000);
	assert_in_range(serial_status(&a).issued, 1, 20000);
	assert_same_text(&a, &b, "SELECT * FROM numbers"); /* with the digest of all the others */
	assert_same_text(&a, &b, "SELECT * FROM blocks ORDER BY holder");
	assert_same_text(&a, &b, "SELECT * FROM issued ORDER BY serial");
	assert_same_text(&a, &b, "SELECT * FROM objects ORDER BY key");
	char query[128];
	snprintf(query, sizeof query, "SELECT count(*) = %" PRIu64 " FROM issued", serial_status(&a).issued);
	sqlite3_stmt *s;
	assert_int_equal(sqlite3_prepare_v2(a.db, query, -1, &s, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(s), SQLITE_ROW);
	assert_int_equal(sqlite3_column_int(s, 0), 1);
	sqlite3_finalize(s);
	fixture_close(&a);
	fixture_close(&b);
}

static void test_state_open_reports_a_database_that_fails(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	sqlite3_exec(r.db, "DROP TABLE issued", NULL, NULL, NULL);
	sql(&r, "CREATE TABLE issued (serial INTEGER PRIMARY KEY)");
	struct state *s = NULL;
	struct status st;
	assert_int_equal(state_open(r.db, &st, &s), STATUS_INTERNAL);
	assert_null(s);
	/* And while it runs: the replica must stop. */
	sqlite3_exec(r.db, "DROP TABLE objects", NULL, NULL, NULL);
	Kds__V1__DeleteRequest in = KDS__V1__DELETE_REQUEST__INIT;
	in.key = "setting/a";
	Kds__V1__Command c = command("admin");
	c.version = 1;
	c.op_case = KDS__V1__COMMAND__OP_DELETE;
	c.delete_ = &in;
	assert_int_equal(apply_raw(&r, &c), STATUS_INTERNAL);
	fixture_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_genesis_makes_the_cluster_once),
		cmocka_unit_test(test_state_genesis_refuses_bad_names),
		cmocka_unit_test(test_state_apply_stops_at_what_it_does_not_know),
		cmocka_unit_test(test_state_level_is_raised_to_what_is_known),
		cmocka_unit_test(test_state_open_refuses_a_level_it_does_not_know),
		cmocka_unit_test(test_state_apply_refuses_an_entry_twice),
		cmocka_unit_test(test_state_commit_without_flush_is_refused),
		cmocka_unit_test(test_state_request_ids_are_applied_once),
		cmocka_unit_test(test_state_request_ids_repeat_refusals),
		cmocka_unit_test(test_state_request_ids_are_forgotten_by_age),
		cmocka_unit_test(test_state_request_ids_are_bounded_in_number),
		cmocka_unit_test(test_state_request_ids_survive_one_huge_transaction),
		cmocka_unit_test(test_state_open_refuses_damaged_request_ids),
		cmocka_unit_test(test_state_replicas_agree_whatever_their_transactions),
		cmocka_unit_test(test_state_open_reports_a_database_that_fails),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
