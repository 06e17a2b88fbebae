// links: service_serial
/* The state machine on SQLite in memory: what it accepts, refuses, answers, and that replicas agree. */
#include "tests/support/support.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/serial/state.h"

#define NOW_S 1700000000
#define NOW_MS ((uint64_t)NOW_S * 1000)
#define DAY_S (24 * 3600)

/* One replica: a database, its state, and where its log is. */
struct replica {
	sqlite3 *db;
	struct state *state;
	uint64_t index;
	uint64_t time_ms;
	struct state_result result;
	struct status st;
};

static void sql(struct replica *r, const char *text)
{
	assert_int_equal(sqlite3_exec(r->db, text, NULL, NULL, NULL), SQLITE_OK);
}

static void replica_open(struct replica *r)
{
	*r = (struct replica){ .time_ms = NOW_MS };
	assert_int_equal(sqlite3_open(":memory:", &r->db), SQLITE_OK);
	assert_int_equal(state_open(r->db, &r->st, &r->state), STATUS_OK);
}

static void replica_reopen(struct replica *r)
{
	state_close(r->state);
	r->state = NULL;
	assert_int_equal(state_open(r->db, &r->st, &r->state), STATUS_OK);
}

static void replica_close(struct replica *r)
{
	state_close(r->state);
	state_result_fini(&r->result);
	assert_int_equal(sqlite3_close(r->db), SQLITE_OK);
}

static enum status_code apply_raw(struct replica *r, const Kds__V1__Command *c)
{
	uint8_t *packed = malloc(kds__v1__command__get_packed_size(c));
	assert_non_null(packed);
	struct slice slice = { packed, kds__v1__command__pack(c, packed) };
	enum status_code rc = state_apply(r->state, ++r->index, slice, &r->st, &r->result);
	free(packed);
	return rc;
}

/* Applies in a transaction of its own; the result's code. */
static enum status_code apply(struct replica *r, Kds__V1__Command *c)
{
	c->version = 1;
	c->time_ms = r->time_ms;
	sql(r, "BEGIN");
	assert_int_equal(apply_raw(r, c), STATUS_OK);
	assert_int_equal(state_flush(r->state, &r->st), STATUS_OK);
	sql(r, "COMMIT");
	return r->result.status.code;
}

static Kds__V1__Command command(const char *requester)
{
	Kds__V1__Command c = KDS__V1__COMMAND__INIT;
	c.requester = (char *)requester;
	return c;
}

static void set_request_id(Kds__V1__Command *c, const char *id)
{
	c->request_id = (ProtobufCBinaryData){ strlen(id), (uint8_t *)id };
}

static enum status_code genesis_from(struct replica *r, uint64_t first_serial)
{
	Kds__V1__Cluster cluster = KDS__V1__CLUSTER__INIT;
	cluster.name = "cluster.example.com";
	cluster.kds_name = "key.example.com";
	cluster.cluster_id = "4fd2";
	Kds__V1__Genesis genesis = KDS__V1__GENESIS__INIT;
	genesis.cluster = &cluster;
	genesis.first_serial = first_serial;
	Kds__V1__Command c = command("");
	c.op_case = KDS__V1__COMMAND__OP_GENESIS;
	c.genesis = &genesis;
	return apply(r, &c);
}

static void replica_begin(struct replica *r)
{
	replica_open(r);
	assert_int_equal(genesis_from(r, 1), STATUS_OK);
}

static enum status_code allocate_id(struct replica *r, const char *ca, uint32_t count, const char *id, uint64_t *ret_first,
				    uint64_t *ret_last)
{
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = count;
	Kds__V1__Command c = command(ca);
	set_request_id(&c, id);
	c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	c.allocate = &in;
	if (apply(r, &c) != STATUS_OK)
		return r->result.status.code;
	Kds__V1__AllocateResponse *out =
	    kds__v1__allocate_response__unpack(NULL, r->result.answer.len, r->result.answer.data);
	assert_non_null(out);
	if (ret_first)
		*ret_first = out->first;
	if (ret_last)
		*ret_last = out->last;
	kds__v1__allocate_response__free_unpacked(out, NULL);
	return STATUS_OK;
}

static uint64_t allocate(struct replica *r, const char *ca, uint32_t count)
{
	uint64_t first = 0;
	assert_int_equal(allocate_id(r, ca, count, "", &first, NULL), STATUS_OK);
	return first;
}

/* A certificate whose fingerprint is made of `mark`. */
struct certificate {
	Kds__V1__IssuedCertificate message;
	uint8_t fingerprint[32];
	uint8_t issuer[20];
};

static void make_certificate(struct certificate *c, uint64_t serial, uint8_t mark)
{
	kds__v1__issued_certificate__init(&c->message);
	memset(c->fingerprint, mark, sizeof c->fingerprint);
	memset(c->issuer, 7, sizeof c->issuer);
	c->message.serial = serial;
	c->message.fingerprint = (ProtobufCBinaryData){ sizeof c->fingerprint, c->fingerprint };
	c->message.subject = "node1.example.com";
	c->message.issuer_key_id = (ProtobufCBinaryData){ sizeof c->issuer, c->issuer };
	c->message.not_before = NOW_S;
	c->message.not_after = NOW_S + 3 * DAY_S;
	c->message.profile = "node";
	c->message.requester = "admin";
}

/* Records one; the certificate's own code. */
static enum status_code record(struct replica *r, const char *ca, struct certificate *certificate)
{
	Kds__V1__IssuedCertificate *list[] = { &certificate->message };
	Kds__V1__RecordRequest in = KDS__V1__RECORD_REQUEST__INIT;
	in.n_certificates = 1;
	in.certificates = list;
	Kds__V1__Command c = command(ca);
	c.op_case = KDS__V1__COMMAND__OP_RECORD;
	c.record = &in;
	assert_int_equal(apply(r, &c), STATUS_OK);
	Kds__V1__RecordResponse *out = kds__v1__record_response__unpack(NULL, r->result.answer.len, r->result.answer.data);
	assert_non_null(out);
	assert_int_equal(out->n_results, 1);
	enum status_code rc = out->results[0]->code;
	status_set(&r->st, rc, "%s", out->results[0]->message);
	kds__v1__record_response__free_unpacked(out, NULL);
	return rc;
}

static enum status_code record_serial(struct replica *r, const char *ca, uint64_t serial, uint8_t mark)
{
	struct certificate c;
	make_certificate(&c, serial, mark);
	return record(r, ca, &c);
}

static enum status_code set_min(struct replica *r, Kds__V1__SetMinRequest__ValueCase which, uint64_t n)
{
	Kds__V1__SetMinRequest in = KDS__V1__SET_MIN_REQUEST__INIT;
	in.value_case = which;
	if (which == KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL)
		in.min_serial = n;
	else
		in.all = n != 0; /* the same storage as latest */
	Kds__V1__Command c = command("admin");
	c.op_case = KDS__V1__COMMAND__OP_SET_MIN;
	c.set_min = &in;
	return apply(r, &c);
}

static enum status_code put_checked(struct replica *r, Kds__V1__Object *o, bool check, uint64_t expected)
{
	Kds__V1__PutRequest in = KDS__V1__PUT_REQUEST__INIT;
	in.object = o;
	in.check_revision = check;
	in.expected_revision = expected;
	Kds__V1__Command c = command("admin");
	c.op_case = KDS__V1__COMMAND__OP_PUT;
	c.put = &in;
	return apply(r, &c);
}

static enum status_code put_setting(struct replica *r, const char *name, const char *value)
{
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	setting.name = (char *)name;
	setting.value = (char *)value;
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_SETTING;
	o.setting = &setting;
	return put_checked(r, &o, false, 0);
}

static enum status_code put_node(struct replica *r, const char *name, char **addresses, size_t n_addresses, char **groups,
				 size_t n_groups)
{
	Kds__V1__Node node = KDS__V1__NODE__INIT;
	node.name = (char *)name;
	node.addresses = addresses;
	node.n_addresses = n_addresses;
	node.groups = groups;
	node.n_groups = n_groups;
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_NODE;
	o.node = &node;
	return put_checked(r, &o, false, 0);
}

static enum status_code put_authority(struct replica *r, const char *name, size_t sealed_len)
{
	uint8_t *sealed = calloc(1, sealed_len + 1);
	assert_non_null(sealed);
	Kds__V1__CertificateAuthority a = KDS__V1__CERTIFICATE_AUTHORITY__INIT;
	a.name = (char *)name;
	a.certificate = (ProtobufCBinaryData){ 3, (uint8_t *)"der" };
	a.sealed_key = (ProtobufCBinaryData){ sealed_len, sealed };
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
	o.certificate_authority = &a;
	enum status_code rc = put_checked(r, &o, false, 0);
	free(sealed);
	return rc;
}

static enum status_code put_master_key(struct replica *r, uint64_t published_ms, uint64_t use_from_ms)
{
	Kds__V1__MasterKey m = KDS__V1__MASTER_KEY__INIT;
	m.published_ms = published_ms;
	m.use_from_ms = use_from_ms;
	m.sealed_key = (ProtobufCBinaryData){ 4, (uint8_t *)"seal" };
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_MASTER_KEY;
	o.master_key = &m;
	return put_checked(r, &o, false, 0);
}

static enum status_code delete_checked(struct replica *r, const char *key, bool check, uint64_t expected)
{
	Kds__V1__DeleteRequest in = KDS__V1__DELETE_REQUEST__INIT;
	in.key = (char *)key;
	in.check_revision = check;
	in.expected_revision = expected;
	Kds__V1__Command c = command("admin");
	c.op_case = KDS__V1__COMMAND__OP_DELETE;
	c.delete_ = &in;
	return apply(r, &c);
}

/* NULL: not there. The caller frees. */
static Kds__V1__Object *get_sealed(struct replica *r, const char *key, unsigned sealed)
{
	struct buffer b = { 0 };
	Kds__V1__Object *o = NULL;
	if (state_get(r->state, key, sealed, &r->st, &b) == STATUS_OK) {
		o = kds__v1__object__unpack(NULL, b.len, b.data);
		assert_non_null(o);
	}
	buffer_free(&b);
	return o;
}

static Kds__V1__ListResponse *list(struct replica *r, const char *prefix, const char *after, uint32_t limit)
{
	Kds__V1__ListRequest in = KDS__V1__LIST_REQUEST__INIT;
	in.prefix = (char *)prefix;
	in.after = (char *)after;
	in.limit = limit;
	struct buffer b = { 0 };
	assert_int_equal(state_list(r->state, &in, 0, &r->st, &b), STATUS_OK);
	Kds__V1__ListResponse *out = kds__v1__list_response__unpack(NULL, b.len, b.data);
	assert_non_null(out);
	buffer_free(&b);
	return out;
}

static Kds__V1__WatchResponse *changes(struct replica *r, uint64_t since, const char *prefix, bool *ret_any)
{
	char *prefixes[] = { (char *)prefix };
	Kds__V1__WatchRequest in = KDS__V1__WATCH_REQUEST__INIT;
	in.since_revision = since;
	in.prefixes = prefixes;
	in.n_prefixes = prefix ? 1 : 0;
	struct buffer b = { 0 };
	assert_int_equal(state_changes(r->state, &in, 0, &r->st, &b, ret_any), STATUS_OK);
	Kds__V1__WatchResponse *out = kds__v1__watch_response__unpack(NULL, b.len, b.data);
	assert_non_null(out);
	buffer_free(&b);
	return out;
}

static Kds__V1__ListCertificatesResponse *certificates(struct replica *r, uint64_t after, uint32_t limit,
						       const char *subject)
{
	Kds__V1__ListCertificatesRequest in = KDS__V1__LIST_CERTIFICATES_REQUEST__INIT;
	in.after_serial = after;
	in.limit = limit;
	in.subject = (char *)subject;
	struct buffer b = { 0 };
	assert_int_equal(state_certificates(r->state, &in, &r->st, &b), STATUS_OK);
	Kds__V1__ListCertificatesResponse *out = kds__v1__list_certificates_response__unpack(NULL, b.len, b.data);
	assert_non_null(out);
	buffer_free(&b);
	return out;
}

static Kds__V1__SerialStatus serial_status(struct replica *r)
{
	Kds__V1__SerialStatus s;
	state_serial_status(r->state, &s);
	return s;
}

/* Genesis. */

static void test_state_genesis_makes_the_cluster_once(void **arg)
{
	(void)arg;
	struct replica r;
	replica_open(&r);
	assert_string_equal(state_cluster_name(r.state), "");
	assert_int_equal(put_setting(&r, "a", "b"), STATUS_FAILED_PRECONDITION);
	assert_int_equal(genesis_from(&r, 100), STATUS_OK);
	assert_string_equal(state_cluster_name(r.state), "cluster.example.com");
	assert_int_equal(genesis_from(&r, 1), STATUS_FAILED_PRECONDITION);
	Kds__V1__SerialStatus s = serial_status(&r);
	assert_int_equal(s.last_serial, 99);
	assert_int_equal(s.min_serial, 100);
	assert_int_equal(s.revision, 2);
	replica_reopen(&r);
	assert_string_equal(state_cluster_name(r.state), "cluster.example.com");
	assert_int_equal(allocate(&r, "ca1", 5), 100);
	Kds__V1__Object *o = get_sealed(&r, "cluster", 0);
	assert_non_null(o);
	assert_int_equal(o->value_case, KDS__V1__OBJECT__VALUE_CLUSTER);
	assert_string_equal(o->cluster->kds_name, "key.example.com");
	kds__v1__object__free_unpacked(o, NULL);
	replica_close(&r);
}

static void test_state_genesis_refuses_bad_names(void **arg)
{
	(void)arg;
	struct replica r;
	replica_open(&r);
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
	replica_close(&r);
}

/* What stops a replica. */

static void test_state_apply_stops_at_what_it_does_not_know(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = 1;
	Kds__V1__Command c = command("ca1");
	c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	c.allocate = &in;
	c.version = 2;
	assert_int_equal(apply_raw(&r, &c), STATUS_DATA_LOSS);
	c.version = 1;
	c.op_case = KDS__V1__COMMAND__OP__NOT_SET;
	assert_int_equal(apply_raw(&r, &c), STATUS_DATA_LOSS);
	struct slice junk = { "\xff\xff\xff", 3 };
	assert_int_equal(state_apply(r.state, ++r.index, junk, &r.st, &r.result), STATUS_DATA_LOSS);
	/* An operation of a later version: field 99 instead of one of ours. */
	static const uint8_t newer[] = { 0x08, 1, 0x22, 1, 'x', 0x9a, 0x06, 0 };
	assert_int_equal(state_apply(r.state, ++r.index, (struct slice){ newer, sizeof newer }, &r.st, &r.result),
			 STATUS_DATA_LOSS);
	assert_int_equal(serial_status(&r).last_serial, 0);
	replica_close(&r);
}

static void test_state_apply_refuses_an_entry_twice(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 10);
	replica_reopen(&r);
	r.index--;
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = 10;
	Kds__V1__Command c = command("ca1");
	c.version = 1;
	c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	c.allocate = &in;
	assert_int_equal(apply_raw(&r, &c), STATUS_DATA_LOSS);
	assert_int_equal(serial_status(&r).last_serial, 10);
	replica_close(&r);
}

static void test_state_commit_without_flush_is_refused(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = 10;
	Kds__V1__Command c = command("ca1");
	c.version = 1;
	c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	c.allocate = &in;
	sql(&r, "BEGIN; CREATE TABLE t (a); INSERT INTO t VALUES (1)");
	assert_int_equal(apply_raw(&r, &c), STATUS_OK);
	assert_int_not_equal(sqlite3_exec(r.db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	replica_close(&r);
}

/* Blocks. */

static void test_state_allocate_never_hands_out_twice(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	uint64_t expected = 1;
	for (uint32_t i = 1; i < 300; i++) {
		uint64_t first, last;
		const char *ca = i % 3 ? "ca1" : "ca2";
		assert_int_equal(allocate_id(&r, ca, i, "", &first, &last), STATUS_OK);
		assert_int_equal(first, expected);
		assert_int_equal(last, expected + i - 1);
		expected = last + 1;
		if (i % 50 == 0)
			replica_reopen(&r);
	}
	assert_int_equal(serial_status(&r).last_serial, expected - 1);
	replica_close(&r);
}

static void test_state_allocate_checks_its_count(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	assert_int_equal(allocate_id(&r, "ca1", 0, "", NULL, NULL), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "count");
	assert_int_equal(allocate_id(&r, "ca1", 65537, "", NULL, NULL), STATUS_INVALID_ARGUMENT);
	assert_int_equal(allocate_id(&r, "", 1, "", NULL, NULL), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "requester");
	assert_int_equal(allocate_id(&r, "ca1", 65536, "", NULL, NULL), STATUS_OK);
	assert_int_equal(serial_status(&r).last_serial, 65536);
	replica_close(&r);
}

static void test_state_allocate_ends_at_the_largest_serial(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	sql(&r, "UPDATE numbers SET last_serial = 9223372036854775800");
	replica_reopen(&r);
	assert_int_equal(allocate_id(&r, "ca1", 8, "", NULL, NULL), STATUS_OUT_OF_RANGE);
	assert_int_equal(allocate_id(&r, "ca1", 7, "", NULL, NULL), STATUS_OK);
	assert_int_equal(allocate_id(&r, "ca1", 1, "", NULL, NULL), STATUS_OUT_OF_RANGE);
	assert_int_equal(serial_status(&r).last_serial, INT64_MAX);
	replica_close(&r);
}

/* Two CAs in turn: 64 ranges each stay open, also after a restart. */
static void test_state_blocks_far_behind_are_closed(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	uint64_t first[70];
	for (int i = 0; i < 70; i++) {
		first[i] = allocate(&r, "ca1", 2);
		allocate(&r, "ca2", 1);
	}
	replica_reopen(&r);
	for (int i = 0; i < 70; i++)
		assert_int_equal(record_serial(&r, "ca1", first[i], 1),
				 i < 6 ? STATUS_FAILED_PRECONDITION : STATUS_OK);
	replica_close(&r);
}

static void test_state_blocks_of_many_holders_are_bounded(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	char name[16];
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof name, "ca%d", i);
		allocate(&r, name, 1);
	}
	replica_reopen(&r);
	/* 44 were closed: those that had allocated longest ago. */
	assert_int_equal(record_serial(&r, "ca0", 1, 1), STATUS_FAILED_PRECONDITION);
	assert_int_equal(record_serial(&r, "ca43", 44, 1), STATUS_FAILED_PRECONDITION);
	assert_int_equal(record_serial(&r, "ca44", 45, 1), STATUS_OK);
	assert_int_equal(record_serial(&r, "ca299", 300, 1), STATUS_OK);
	replica_close(&r);
}

/* Records. */

static void test_state_record_needs_the_callers_block(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 10);
	allocate(&r, "ca2", 10);
	assert_int_equal(record_serial(&r, "ca1", 11, 1), STATUS_FAILED_PRECONDITION);
	assert_int_equal(record_serial(&r, "ca2", 10, 1), STATUS_FAILED_PRECONDITION);
	assert_int_equal(record_serial(&r, "ca1", 21, 1), STATUS_FAILED_PRECONDITION);
	assert_int_equal(record_serial(&r, "ca3", 1, 1), STATUS_FAILED_PRECONDITION);
	assert_int_equal(serial_status(&r).issued, 0);
	assert_int_equal(record_serial(&r, "ca1", 1, 1), STATUS_OK);
	assert_int_equal(record_serial(&r, "ca1", 10, 1), STATUS_OK);
	assert_int_equal(record_serial(&r, "ca2", 20, 1), STATUS_OK);
	assert_int_equal(record_serial(&r, "ca2", 11, 1), STATUS_OK);
	Kds__V1__SerialStatus s = serial_status(&r);
	assert_int_equal(s.issued, 4);
	assert_int_equal(s.highest_issued, 20);
	replica_close(&r);
}

static void test_state_record_is_accepted_once(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 10);
	assert_int_equal(record_serial(&r, "ca1", 5, 1), STATUS_OK);
	assert_int_equal(record_serial(&r, "ca1", 5, 1), STATUS_OK);
	assert_int_equal(record_serial(&r, "ca1", 5, 2), STATUS_ALREADY_EXISTS);
	replica_reopen(&r);
	assert_int_equal(record_serial(&r, "ca1", 5, 2), STATUS_ALREADY_EXISTS);
	assert_int_equal(record_serial(&r, "ca1", 5, 1), STATUS_OK);
	assert_int_equal(serial_status(&r).issued, 1);
	replica_close(&r);
}

static void test_state_record_checks_each_certificate(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 100);
	struct certificate c;

	make_certificate(&c, 0, 1);
	assert_int_equal(record(&r, "ca1", &c), STATUS_INVALID_ARGUMENT);
	make_certificate(&c, 1, 1);
	c.message.fingerprint.len = 31;
	assert_int_equal(record(&r, "ca1", &c), STATUS_INVALID_ARGUMENT);
	make_certificate(&c, 1, 1);
	c.message.subject = "";
	assert_int_equal(record(&r, "ca1", &c), STATUS_INVALID_ARGUMENT);
	make_certificate(&c, 1, 1);
	c.message.subject = "a\nb";
	assert_int_equal(record(&r, "ca1", &c), STATUS_INVALID_ARGUMENT);
	make_certificate(&c, 1, 1);
	c.message.issuer_key_id.len = 0;
	assert_int_equal(record(&r, "ca1", &c), STATUS_INVALID_ARGUMENT);
	make_certificate(&c, 1, 1);
	c.message.profile = "root";
	assert_int_equal(record(&r, "ca1", &c), STATUS_INVALID_ARGUMENT);
	make_certificate(&c, 1, 1);
	c.message.requester = "";
	assert_int_equal(record(&r, "ca1", &c), STATUS_INVALID_ARGUMENT);
	make_certificate(&c, 1, 1);
	c.message.not_after = c.message.not_before;
	assert_int_equal(record(&r, "ca1", &c), STATUS_INVALID_ARGUMENT);
	make_certificate(&c, 1, 1);
	c.message.not_before = INT64_MIN;
	assert_int_equal(record(&r, "ca1", &c), STATUS_INVALID_ARGUMENT);
	assert_int_equal(serial_status(&r).issued, 0);
	replica_close(&r);
}

static void test_state_record_limits_the_lifetime(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 100);
	struct certificate c;
	make_certificate(&c, 1, 1);
	c.message.not_after = c.message.not_before + 168 * 3600;
	assert_int_equal(record(&r, "ca1", &c), STATUS_INVALID_ARGUMENT);
	c.message.profile = "kds-client";
	assert_int_equal(record(&r, "ca1", &c), STATUS_INVALID_ARGUMENT);
	c.message.not_after--;
	assert_int_equal(record(&r, "ca1", &c), STATUS_OK);
	make_certificate(&c, 2, 1);
	c.message.profile = "ca";
	c.message.not_after = c.message.not_before + (int64_t)5 * 365 * DAY_S;
	assert_int_equal(record(&r, "ca1", &c), STATUS_OK);
	/* One that has expired already was never of use to anyone. */
	make_certificate(&c, 3, 1);
	c.message.not_before = NOW_S - 100;
	c.message.not_after = NOW_S - 1;
	assert_int_equal(record(&r, "ca1", &c), STATUS_FAILED_PRECONDITION);
	replica_close(&r);
}

static void test_state_record_answers_one_by_one(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 3);
	struct certificate c[4];
	Kds__V1__IssuedCertificate *pointers[4];
	for (int i = 0; i < 4; i++) {
		make_certificate(&c[i], (uint64_t)i + 1, (uint8_t)i);
		pointers[i] = &c[i].message;
	}
	c[1].message.profile = "x";
	Kds__V1__RecordRequest in = KDS__V1__RECORD_REQUEST__INIT;
	in.n_certificates = 4;
	in.certificates = pointers;
	Kds__V1__Command k = command("ca1");
	k.op_case = KDS__V1__COMMAND__OP_RECORD;
	k.record = &in;
	assert_int_equal(apply(&r, &k), STATUS_OK);
	Kds__V1__RecordResponse *out = kds__v1__record_response__unpack(NULL, r.result.answer.len, r.result.answer.data);
	assert_non_null(out);
	assert_int_equal(out->n_results, 4);
	assert_int_equal(out->results[0]->code, STATUS_OK);
	assert_int_equal(out->results[1]->code, STATUS_INVALID_ARGUMENT);
	assert_int_equal(out->results[2]->code, STATUS_OK);
	assert_int_equal(out->results[3]->code, STATUS_FAILED_PRECONDITION);
	kds__v1__record_response__free_unpacked(out, NULL);
	in.n_certificates = 0;
	assert_int_equal(apply(&r, &k), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "certificates");
	replica_close(&r);
}

static void test_state_records_expire_and_stay_used(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 100);
	for (uint64_t serial = 1; serial <= 20; serial++) {
		struct certificate c;
		make_certificate(&c, serial, 1);
		c.message.not_after = NOW_S + DAY_S + (int64_t)serial;
		assert_int_equal(record(&r, "ca1", &c), STATUS_OK);
	}
	/* The second of notAfter is still valid. */
	r.time_ms = NOW_MS + (DAY_S + 10) * 1000;
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 1), STATUS_OK);
	assert_int_equal(serial_status(&r).issued, 12);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 1), STATUS_OK);
	assert_int_equal(serial_status(&r).issued, 11);
	assert_int_equal(serial_status(&r).highest_issued, 20);
	replica_reopen(&r);
	/* Serial 9 expired and its record is gone: nobody gets it again, nor what was below it. */
	struct certificate c;
	make_certificate(&c, 9, 2);
	c.message.not_after = NOW_S + 2 * DAY_S;
	assert_int_equal(record(&r, "ca1", &c), STATUS_FAILED_PRECONDITION);
	make_certificate(&c, 21, 2);
	c.message.not_after = NOW_S + 2 * DAY_S;
	assert_int_equal(record(&r, "ca1", &c), STATUS_OK);
	r.time_ms = NOW_MS + (uint64_t)10 * DAY_S * 1000;
	for (int i = 0; i < 3; i++)
		allocate(&r, "ca1", 1);
	assert_int_equal(serial_status(&r).issued, 0);
	replica_close(&r);
}

static void test_state_time_never_goes_back(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 10);
	r.time_ms = NOW_MS + (uint64_t)DAY_S * 1000;
	allocate(&r, "ca1", 1);
	r.time_ms = NOW_MS; /* another leader, whose clock is behind */
	struct certificate c;
	make_certificate(&c, 1, 1);
	c.message.not_after = NOW_S + 60;
	assert_int_equal(record(&r, "ca1", &c), STATUS_FAILED_PRECONDITION);
	replica_reopen(&r);
	assert_int_equal(record(&r, "ca1", &c), STATUS_FAILED_PRECONDITION);
	replica_close(&r);
}

/* min_serial. */

static void test_state_min_serial_never_goes_down(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 100);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 50), STATUS_OK);
	assert_int_equal(serial_status(&r).min_serial, 50);
	uint64_t revision = state_revision(r.state);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 49), STATUS_FAILED_PRECONDITION);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 50), STATUS_OK);
	assert_int_equal(state_revision(r.state), revision);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 102), STATUS_OUT_OF_RANGE);
	assert_int_equal(serial_status(&r).min_serial, 50);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 101), STATUS_OK);
	replica_reopen(&r);
	assert_int_equal(serial_status(&r).min_serial, 101);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_ALL, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE__NOT_SET, 0), STATUS_INVALID_ARGUMENT);
	replica_close(&r);
}

static void test_state_min_serial_latest_is_the_highest_issued(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 100);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_LATEST, 1), STATUS_FAILED_PRECONDITION);
	assert_int_equal(record_serial(&r, "ca1", 7, 1), STATUS_OK);
	assert_int_equal(record_serial(&r, "ca1", 3, 1), STATUS_OK);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_LATEST, 1), STATUS_OK);
	assert_int_equal(serial_status(&r).min_serial, 7);
	/* In blocks too. */
	assert_int_equal(record_serial(&r, "ca1", 6, 1), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(r.st.message, "min_serial is 7"));
	assert_int_equal(record_serial(&r, "ca1", 8, 1), STATUS_OK);
	replica_close(&r);
}

static void test_state_min_serial_all_refuses_what_was_handed_out(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 100);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_ALL, 1), STATUS_OK);
	assert_int_equal(serial_status(&r).min_serial, 101);
	assert_int_equal(record_serial(&r, "ca1", 100, 1), STATUS_FAILED_PRECONDITION);
	uint64_t first = allocate(&r, "ca1", 10);
	assert_int_equal(first, 101);
	assert_int_equal(record_serial(&r, "ca1", first, 1), STATUS_OK);
	replica_close(&r);
}

static void test_state_min_serial_is_an_object_of_watches(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 10);
	uint64_t before = state_revision(r.state);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_ALL, 1), STATUS_OK);
	bool any;
	Kds__V1__WatchResponse *w = changes(&r, before, "serial/", &any);
	assert_true(any);
	assert_int_equal(w->n_objects, 1);
	assert_string_equal(w->objects[0]->key, "serial/min");
	assert_int_equal(w->objects[0]->min_serial->value, 11);
	assert_int_equal(w->revision, before + 1);
	kds__v1__watch_response__free_unpacked(w, NULL);

	Kds__V1__MinSerial value = KDS__V1__MIN_SERIAL__INIT;
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_MIN_SERIAL;
	o.min_serial = &value;
	assert_int_equal(put_checked(&r, &o, false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(delete_checked(&r, "serial/min", false, 0), STATUS_INVALID_ARGUMENT);
	replica_close(&r);
}

/* Objects. */

static void test_state_put_counts_revisions(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	assert_int_equal(put_setting(&r, "a", "1"), STATUS_OK);
	Kds__V1__Object *o = kds__v1__object__unpack(NULL, r.result.answer.len, r.result.answer.data);
	assert_non_null(o);
	assert_string_equal(o->key, "setting/a");
	assert_int_equal(o->revision, 3);
	kds__v1__object__free_unpacked(o, NULL);
	assert_int_equal(put_setting(&r, "a", "2"), STATUS_OK);
	replica_reopen(&r);
	o = get_sealed(&r, "setting/a", 0);
	assert_non_null(o);
	assert_int_equal(o->revision, 4);
	assert_string_equal(o->setting->value, "2");
	kds__v1__object__free_unpacked(o, NULL);
	replica_close(&r);
}

static void test_state_put_compares_and_sets(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	setting.name = "a";
	setting.value = "1";
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_SETTING;
	o.setting = &setting;
	assert_int_equal(put_checked(&r, &o, true, 5), STATUS_ABORTED);
	assert_int_equal(put_checked(&r, &o, true, 0), STATUS_OK);
	assert_int_equal(put_checked(&r, &o, true, 0), STATUS_ABORTED);
	assert_int_equal(put_checked(&r, &o, true, 2), STATUS_ABORTED);
	assert_int_equal(put_checked(&r, &o, true, 3), STATUS_OK);
	assert_int_equal(state_revision(r.state), 4);
	assert_int_equal(delete_checked(&r, "setting/a", true, 3), STATUS_ABORTED);
	assert_int_equal(delete_checked(&r, "setting/a", true, 4), STATUS_OK);
	/* Deleted is as good as never there. */
	assert_int_equal(put_checked(&r, &o, true, 0), STATUS_OK);
	replica_close(&r);
}

static void test_state_delete_leaves_a_tombstone_for_watchers(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	assert_int_equal(put_setting(&r, "a", "1"), STATUS_OK);
	assert_int_equal(delete_checked(&r, "setting/a", false, 0), STATUS_OK);
	assert_int_equal(delete_checked(&r, "setting/a", false, 0), STATUS_NOT_FOUND);
	assert_int_equal(delete_checked(&r, "setting/b", false, 0), STATUS_NOT_FOUND);
	assert_null(get_sealed(&r, "setting/a", 0));
	assert_int_equal(r.st.code, STATUS_NOT_FOUND);
	Kds__V1__ListResponse *l = list(&r, "setting/", "", 0);
	assert_int_equal(l->n_objects, 0);
	kds__v1__list_response__free_unpacked(l, NULL);
	bool any;
	Kds__V1__WatchResponse *w = changes(&r, 2, NULL, &any);
	assert_int_equal(w->n_objects, 1);
	assert_string_equal(w->objects[0]->key, "setting/a");
	assert_true(w->objects[0]->deleted);
	assert_int_equal(w->objects[0]->value_case, KDS__V1__OBJECT__VALUE__NOT_SET);
	kds__v1__watch_response__free_unpacked(w, NULL);
	replica_close(&r);
}

static void test_state_put_refuses_the_cluster_and_nothing(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	Kds__V1__Cluster cluster = KDS__V1__CLUSTER__INIT;
	cluster.name = "other.example.com";
	cluster.kds_name = "key.example.com";
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_CLUSTER;
	o.cluster = &cluster;
	assert_int_equal(put_checked(&r, &o, false, 0), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "object.cluster");
	o.value_case = KDS__V1__OBJECT__VALUE__NOT_SET;
	assert_int_equal(put_checked(&r, &o, false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_checked(&r, NULL, false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(delete_checked(&r, "cluster", false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(delete_checked(&r, "node/", false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(delete_checked(&r, "", false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(delete_checked(&r, "else/x", false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(state_revision(r.state), 2);
	replica_close(&r);
}

static void test_state_put_checks_nodes(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	char *addresses[] = { "192.0.2.1", "2001:db8::1", "192.0.2.1" };
	char *groups[] = { "urn:example:prjA#10s", "urn:example:prjB", "urn:example:prjA" };
	assert_int_equal(put_node(&r, "node1.example.com", addresses, 2, groups, 2), STATUS_OK);
	assert_int_equal(put_node(&r, "Node1", NULL, 0, NULL, 0), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "object.node.name");
	assert_int_equal(put_node(&r, "key.example.com", NULL, 0, NULL, 0), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "object.node.name");
	assert_int_equal(put_node(&r, "node2.example.com", addresses, 3, groups, 2), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "object.node.addresses");
	char *no_address[] = { "192.0.2.300" };
	assert_int_equal(put_node(&r, "node2.example.com", no_address, 1, NULL, 0), STATUS_INVALID_ARGUMENT);
	/* The same group with another precision is the same group. */
	assert_int_equal(put_node(&r, "node2.example.com", NULL, 0, groups, 3), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "object.node.groups");
	char *no_group[] = { "kds://cluster.example.com/role/admin/x" };
	assert_int_equal(put_node(&r, "node2.example.com", NULL, 0, no_group, 1), STATUS_INVALID_ARGUMENT);
	assert_null(get_sealed(&r, "node/node2.example.com", 0));
	replica_close(&r);
}

static void test_state_put_bounds_sizes(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	char *many[257], text[257][32];
	for (int i = 0; i < 257; i++) {
		snprintf(text[i], sizeof text[i], "urn:example:g%d", i);
		many[i] = text[i];
	}
	assert_int_equal(put_node(&r, "node1.example.com", NULL, 0, many, 257), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_node(&r, "node1.example.com", NULL, 0, many, 256), STATUS_OK);
	for (int i = 0; i < 65; i++)
		snprintf(text[i], sizeof text[i], "192.0.2.%d", i);
	assert_int_equal(put_node(&r, "node1.example.com", many, 65, NULL, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_node(&r, "node1.example.com", many, 64, NULL, 0), STATUS_OK);
	assert_int_equal(put_authority(&r, "default", 16 * 1024 + 1), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_authority(&r, "default", 16 * 1024), STATUS_OK);
	assert_int_equal(put_authority(&r, "a/b", 1), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_master_key(&r, 0, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_master_key(&r, 5, 4), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_master_key(&r, 5, 5), STATUS_OK);
	char *value = calloc(1, 64 * 1024 + 2);
	assert_non_null(value);
	memset(value, 'x', 64 * 1024 + 1);
	assert_int_equal(put_setting(&r, "big", value), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "object.setting.value");
	value[64 * 1024] = '\0';
	assert_int_equal(put_setting(&r, "big", value), STATUS_OK);
	free(value);
	assert_int_equal(put_setting(&r, "", "x"), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_setting(&r, "../x", "x"), STATUS_INVALID_ARGUMENT);
	replica_close(&r);
}

static void test_state_sealed_keys_are_shown_by_kind(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	assert_int_equal(put_authority(&r, "default", 100), STATUS_OK);
	assert_int_equal(put_master_key(&r, 1234, 1234), STATUS_OK);
	for (unsigned sealed = 0; sealed < 4; sealed++) {
		Kds__V1__Object *ca = get_sealed(&r, "ca/default", sealed);
		Kds__V1__Object *key = get_sealed(&r, "masterkey/00000000000000001234", sealed);
		assert_non_null(ca);
		assert_non_null(key);
		assert_int_equal(ca->certificate_authority->sealed_key.len, sealed & STATE_SEALED_CA ? 100 : 0);
		assert_int_equal(ca->certificate_authority->certificate.len, 3);
		assert_int_equal(key->master_key->sealed_key.len, sealed & STATE_SEALED_MASTERKEY ? 4 : 0);
		assert_int_equal(key->master_key->published_ms, 1234);
		kds__v1__object__free_unpacked(ca, NULL);
		kds__v1__object__free_unpacked(key, NULL);
	}
	bool any;
	Kds__V1__WatchResponse *w = changes(&r, 0, "masterkey/", &any);
	assert_int_equal(w->n_objects, 1);
	assert_int_equal(w->objects[0]->master_key->sealed_key.len, 0);
	kds__v1__watch_response__free_unpacked(w, NULL);
	Kds__V1__ListResponse *l = list(&r, "ca/", "", 0);
	assert_int_equal(l->n_objects, 1);
	assert_int_equal(l->objects[0]->certificate_authority->sealed_key.len, 0);
	kds__v1__list_response__free_unpacked(l, NULL);
	replica_close(&r);
}

/* Lists and watches. */

static void test_state_list_pages_by_key(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	char name[32];
	for (int i = 9; i >= 0; i--) {
		snprintf(name, sizeof name, "n%d.example.com", i);
		assert_int_equal(put_node(&r, name, NULL, 0, NULL, 0), STATUS_OK);
	}
	put_setting(&r, "z", "1");
	char after[64] = "";
	size_t seen = 0;
	bool more = true;
	while (more) {
		Kds__V1__ListResponse *l = list(&r, "node/", after, 5);
		for (size_t i = 0; i < l->n_objects; i++) {
			assert_true(strcmp(l->objects[i]->key, after) > 0);
			snprintf(after, sizeof after, "%s", l->objects[i]->key);
			seen++;
		}
		more = l->more;
		assert_int_equal(l->revision, state_revision(r.state));
		kds__v1__list_response__free_unpacked(l, NULL);
	}
	assert_int_equal(seen, 10);
	Kds__V1__ListResponse *l = list(&r, "node/", "", 10);
	assert_false(l->more);
	kds__v1__list_response__free_unpacked(l, NULL);
	l = list(&r, "", "", 0);
	assert_int_equal(l->n_objects, 13); /* with the cluster, min_serial and the setting */
	kds__v1__list_response__free_unpacked(l, NULL);
	replica_close(&r);
}

static void test_state_answers_are_bounded(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	char *value = calloc(1, 64 * 1024 + 1), name[16];
	assert_non_null(value);
	memset(value, 'x', 64 * 1024);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof name, "s%02d", i);
		assert_int_equal(put_setting(&r, name, value), STATUS_OK);
	}
	free(value);
	Kds__V1__ListResponse *l = list(&r, "setting/", "", 0);
	assert_in_range(l->n_objects, 8, 9);
	assert_true(l->more);
	size_t listed = l->n_objects;
	Kds__V1__ListResponse *rest = list(&r, "setting/", l->objects[listed - 1]->key, 0);
	assert_string_equal(rest->objects[0]->key, listed == 8 ? "setting/s08" : "setting/s09");
	kds__v1__list_response__free_unpacked(rest, NULL);
	kds__v1__list_response__free_unpacked(l, NULL);

	uint64_t since = 0;
	size_t seen = 0;
	for (bool more = true; more;) {
		bool any;
		Kds__V1__WatchResponse *w = changes(&r, since, "setting/", &any);
		assert_true(any);
		seen += w->n_objects;
		more = w->more;
		since = w->revision;
		if (w->n_objects > 0 && more)
			assert_int_equal(since, w->objects[w->n_objects - 1]->revision);
		kds__v1__watch_response__free_unpacked(w, NULL);
	}
	assert_int_equal(seen, 20);
	assert_int_equal(since, state_revision(r.state));
	replica_close(&r);
}

static void test_state_watch_is_ordered_by_revision(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	put_setting(&r, "b", "1");
	put_setting(&r, "a", "1");
	put_setting(&r, "b", "2");
	put_node(&r, "n1.example.com", NULL, 0, NULL, 0);
	bool any;
	Kds__V1__WatchResponse *w = changes(&r, 2, "setting/", &any);
	assert_true(any);
	assert_int_equal(w->n_objects, 2);
	assert_string_equal(w->objects[0]->key, "setting/a");
	assert_string_equal(w->objects[1]->key, "setting/b");
	assert_string_equal(w->objects[1]->setting->value, "2");
	assert_int_equal(w->revision, 6);
	kds__v1__watch_response__free_unpacked(w, NULL);
	w = changes(&r, 5, "setting/", &any);
	assert_false(any);
	assert_int_equal(w->revision, 6);
	kds__v1__watch_response__free_unpacked(w, NULL);
	w = changes(&r, 7, "setting/", &any);
	assert_true(any);
	assert_true(w->restart);
	assert_int_equal(w->n_objects, 0);
	kds__v1__watch_response__free_unpacked(w, NULL);
	w = changes(&r, UINT64_MAX, NULL, &any);
	assert_true(w->restart);
	assert_int_equal(w->n_objects, 0);
	kds__v1__watch_response__free_unpacked(w, NULL);
	replica_close(&r);
}

static void test_state_certificates_are_listed_by_serial_and_subject(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	allocate(&r, "ca1", 1000);
	for (uint64_t i = 250; i >= 1; i--) {
		struct certificate c;
		make_certificate(&c, i, (uint8_t)i);
		if (i % 10 == 0)
			c.message.subject = "node2.example.com";
		assert_int_equal(record(&r, "ca1", &c), STATUS_OK);
	}
	Kds__V1__ListCertificatesResponse *l = certificates(&r, 0, 0, "");
	assert_int_equal(l->n_certificates, 100);
	assert_true(l->more);
	assert_int_equal(l->certificates[0]->serial, 1);
	assert_int_equal(l->certificates[99]->serial, 100);
	assert_int_equal(l->certificates[4]->fingerprint.len, 32);
	assert_int_equal(l->certificates[4]->fingerprint.data[0], 5);
	assert_string_equal(l->certificates[4]->subject, "node1.example.com");
	assert_string_equal(l->certificates[4]->profile, "node");
	assert_string_equal(l->certificates[4]->requester, "admin");
	assert_int_equal(l->certificates[4]->not_before, NOW_S);
	assert_int_equal(l->certificates[4]->not_after, NOW_S + 3 * DAY_S);
	assert_int_equal(l->certificates[4]->recorded_ms, NOW_MS);
	kds__v1__list_certificates_response__free_unpacked(l, NULL);
	l = certificates(&r, 200, 0, "");
	assert_int_equal(l->n_certificates, 50);
	assert_false(l->more);
	kds__v1__list_certificates_response__free_unpacked(l, NULL);
	l = certificates(&r, 20, 3, "node2.example.com");
	assert_int_equal(l->n_certificates, 3);
	assert_true(l->more);
	assert_int_equal(l->certificates[0]->serial, 30);
	kds__v1__list_certificates_response__free_unpacked(l, NULL);
	l = certificates(&r, UINT64_MAX, 0, "");
	assert_int_equal(l->n_certificates, 0);
	kds__v1__list_certificates_response__free_unpacked(l, NULL);
	Kds__V1__ListCertificatesRequest in = KDS__V1__LIST_CERTIFICATES_REQUEST__INIT;
	in.limit = 1001;
	struct buffer b = { 0 };
	assert_int_equal(state_certificates(r.state, &in, &r.st, &b), STATUS_INVALID_ARGUMENT);
	replica_close(&r);
}

/* Request ids. */

static void test_state_request_ids_are_applied_once(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	uint64_t first, again;
	assert_int_equal(allocate_id(&r, "ca1", 10, "id-1", &first, NULL), STATUS_OK);
	assert_int_equal(allocate_id(&r, "ca1", 10, "id-1", &again, NULL), STATUS_OK);
	assert_int_equal(again, first);
	/* Another caller's same id is another request. */
	assert_int_equal(allocate_id(&r, "ca2", 10, "id-1", &again, NULL), STATUS_OK);
	assert_int_equal(again, first + 10);
	replica_reopen(&r);
	assert_int_equal(allocate_id(&r, "ca1", 10, "id-1", &again, NULL), STATUS_OK);
	assert_int_equal(again, first);
	assert_int_equal(allocate_id(&r, "ca1", 10, "id-2", &again, NULL), STATUS_OK);
	assert_int_equal(again, first + 20);
	assert_int_equal(allocate_id(&r, "ca1", 10, "this id is longer than 32 bytes are", NULL, NULL),
			 STATUS_INVALID_ARGUMENT);
	replica_close(&r);
}

static void test_state_request_ids_repeat_refusals(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	Kds__V1__DeleteRequest in = KDS__V1__DELETE_REQUEST__INIT;
	in.key = "setting/a";
	Kds__V1__Command c = command("admin");
	set_request_id(&c, "del");
	c.op_case = KDS__V1__COMMAND__OP_DELETE;
	c.delete_ = &in;
	assert_int_equal(apply(&r, &c), STATUS_NOT_FOUND);
	assert_int_equal(put_setting(&r, "a", "1"), STATUS_OK);
	replica_reopen(&r);
	assert_int_equal(apply(&r, &c), STATUS_NOT_FOUND);
	assert_string_equal(r.result.status.message, "there is no setting/a");
	Kds__V1__Object *o = get_sealed(&r, "setting/a", 0);
	assert_non_null(o);
	kds__v1__object__free_unpacked(o, NULL);
	replica_close(&r);
}

static void test_state_request_ids_are_forgotten_by_age(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
	uint64_t first, again;
	assert_int_equal(allocate_id(&r, "ca1", 1, "old", &first, NULL), STATUS_OK);
	r.time_ms = NOW_MS + 599999;
	assert_int_equal(allocate_id(&r, "ca1", 1, "old", &again, NULL), STATUS_OK);
	assert_int_equal(again, first);
	r.time_ms = NOW_MS + 600000;
	assert_int_equal(allocate_id(&r, "ca1", 1, "old", &again, NULL), STATUS_OK);
	assert_int_equal(again, first + 1);
	replica_reopen(&r);
	assert_int_equal(allocate_id(&r, "ca1", 1, "old", &again, NULL), STATUS_OK);
	assert_int_equal(again, first + 1);
	replica_close(&r);
}

static int count_rows(struct replica *r, const char *table)
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
	struct replica r;
	replica_begin(&r);
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
	replica_reopen(&r);
	uint64_t first;
	assert_int_equal(allocate_id(&r, "ca1", 1, "69999", &first, NULL), STATUS_OK);
	assert_int_equal(first, 70000);
	assert_int_equal(allocate_id(&r, "ca1", 1, "4464", &first, NULL), STATUS_OK);
	assert_int_equal(first, 4465);
	assert_int_equal(allocate_id(&r, "ca1", 1, "4463", &first, NULL), STATUS_OK);
	assert_int_equal(first, 70001);
	replica_close(&r);
}

/* A transaction that is larger than what is kept. */
static void test_state_request_ids_survive_one_huge_transaction(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
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
	replica_reopen(&r);
	uint64_t first;
	assert_int_equal(allocate_id(&r, "ca1", 1, "464", &first, NULL), STATUS_OK);
	assert_int_equal(first, 465);
	replica_close(&r);
}

static void test_state_open_refuses_damaged_request_ids(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
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
	replica_close(&r);
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

static void assert_same_text(struct replica *a, struct replica *b, const char *query)
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

/*
 * The same log on two replicas, of which one commits after each command and the other in batches and is started
 * anew now and then: same answers, same tables.
 */
static void test_state_replicas_agree_whatever_their_transactions(void **arg)
{
	(void)arg;
	struct replica a, b;
	replica_begin(&a);
	replica_begin(&b);
	random_state = 42;
	uint64_t time_ms = NOW_MS;
	unsigned accepted = 0;
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
		if (pick(50) > 0)
			continue;
		assert_int_equal(state_flush(b.state, &b.st), STATUS_OK);
		sql(&b, "COMMIT");
		if (pick(4) == 0)
			replica_reopen(&b);
		sql(&b, "BEGIN");
	}
	assert_int_equal(state_flush(b.state, &b.st), STATUS_OK);
	sql(&b, "COMMIT");
	assert_in_range(accepted, 5000, 20000);
	assert_in_range(serial_status(&a).issued, 1, 20000);
	assert_same_text(&a, &b, "SELECT * FROM numbers");
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
	replica_close(&a);
	replica_close(&b);
}

static void test_state_open_reports_a_database_that_fails(void **arg)
{
	(void)arg;
	struct replica r;
	replica_begin(&r);
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
	replica_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_genesis_makes_the_cluster_once),
		cmocka_unit_test(test_state_genesis_refuses_bad_names),
		cmocka_unit_test(test_state_apply_stops_at_what_it_does_not_know),
		cmocka_unit_test(test_state_apply_refuses_an_entry_twice),
		cmocka_unit_test(test_state_commit_without_flush_is_refused),
		cmocka_unit_test(test_state_allocate_never_hands_out_twice),
		cmocka_unit_test(test_state_allocate_checks_its_count),
		cmocka_unit_test(test_state_allocate_ends_at_the_largest_serial),
		cmocka_unit_test(test_state_blocks_far_behind_are_closed),
		cmocka_unit_test(test_state_blocks_of_many_holders_are_bounded),
		cmocka_unit_test(test_state_record_needs_the_callers_block),
		cmocka_unit_test(test_state_record_is_accepted_once),
		cmocka_unit_test(test_state_record_checks_each_certificate),
		cmocka_unit_test(test_state_record_limits_the_lifetime),
		cmocka_unit_test(test_state_record_answers_one_by_one),
		cmocka_unit_test(test_state_records_expire_and_stay_used),
		cmocka_unit_test(test_state_time_never_goes_back),
		cmocka_unit_test(test_state_min_serial_never_goes_down),
		cmocka_unit_test(test_state_min_serial_latest_is_the_highest_issued),
		cmocka_unit_test(test_state_min_serial_all_refuses_what_was_handed_out),
		cmocka_unit_test(test_state_min_serial_is_an_object_of_watches),
		cmocka_unit_test(test_state_put_counts_revisions),
		cmocka_unit_test(test_state_put_compares_and_sets),
		cmocka_unit_test(test_state_delete_leaves_a_tombstone_for_watchers),
		cmocka_unit_test(test_state_put_refuses_the_cluster_and_nothing),
		cmocka_unit_test(test_state_put_checks_nodes),
		cmocka_unit_test(test_state_put_bounds_sizes),
		cmocka_unit_test(test_state_sealed_keys_are_shown_by_kind),
		cmocka_unit_test(test_state_list_pages_by_key),
		cmocka_unit_test(test_state_answers_are_bounded),
		cmocka_unit_test(test_state_watch_is_ordered_by_revision),
		cmocka_unit_test(test_state_certificates_are_listed_by_serial_and_subject),
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
