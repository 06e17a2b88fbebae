/*
 * A state machine on SQLite in memory, for the tests of services/serial/state*.c: commands made, applied, and their
 * answers unpacked. All of it inline: each test program uses some of it.
 */
#ifndef TESTS_STATE_FIXTURE_H
#define TESTS_STATE_FIXTURE_H

#include "tests/support/support.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gnutls/crypto.h>

#include "services/serial/level.h"
#include "services/serial/state.h"

#define NOW_S 1700000000
#define NOW_MS ((uint64_t)NOW_S * 1000)
#define DAY_S (24 * 3600)

/* One replica: a database, its state, and where its log is. */
struct fixture {
	sqlite3 *db;
	struct state *state;
	uint64_t index;
	uint64_t time_ms;
	unsigned version; /* of the commands */
	struct state_result result;
	struct status st;
	/* Of the last record. */
	Kds__V1__RecordRefusal refusal;
	uint64_t known;
	uint64_t authority; /* the serial of the CAs' certificate; 0: none was made */
};

static inline void sql(struct fixture *r, const char *text)
{
	assert_int_equal(sqlite3_exec(r->db, text, NULL, NULL, NULL), SQLITE_OK);
}

static inline void fixture_open(struct fixture *r)
{
	*r = (struct fixture){ .time_ms = NOW_MS, .version = LEVEL_FIRST };
	assert_int_equal(sqlite3_open(":memory:", &r->db), SQLITE_OK);
	assert_int_equal(state_open(r->db, &r->st, &r->state), STATUS_OK);
}

static inline void fixture_reopen(struct fixture *r)
{
	state_close(r->state);
	r->state = NULL;
	assert_int_equal(state_open(r->db, &r->st, &r->state), STATUS_OK);
}

static inline void fixture_close(struct fixture *r)
{
	state_close(r->state);
	state_result_fini(&r->result);
	assert_int_equal(sqlite3_close(r->db), SQLITE_OK);
}

static inline enum status_code apply_raw(struct fixture *r, const Kds__V1__Command *c)
{
	uint8_t *packed = malloc(kds__v1__command__get_packed_size(c));
	assert_non_null(packed);
	struct slice slice = { packed, kds__v1__command__pack(c, packed) };
	enum status_code rc = state_apply(r->state, ++r->index, slice, &r->st, &r->result);
	free(packed);
	return rc;
}

/* Applies in a transaction of its own; the result's code. */
static inline enum status_code apply(struct fixture *r, Kds__V1__Command *c)
{
	c->version = r->version;
	c->time_ms = r->time_ms;
	sql(r, "BEGIN");
	assert_int_equal(apply_raw(r, c), STATUS_OK);
	assert_int_equal(state_flush(r->state, &r->st), STATUS_OK);
	sql(r, "COMMIT");
	return r->result.status.code;
}

static inline Kds__V1__Command command(const char *requester)
{
	Kds__V1__Command c = KDS__V1__COMMAND__INIT;
	c.requester = (char *)requester;
	return c;
}

static inline void set_request_id(Kds__V1__Command *c, const char *id)
{
	c->request_id = (ProtobufCBinaryData){ strlen(id), (uint8_t *)id };
}

static inline enum status_code genesis_from(struct fixture *r, uint64_t first_serial)
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

/* The level of the state, and of commands from now on. */
static inline void fixture_raise(struct fixture *r, unsigned level)
{
	Kds__V1__RaiseLevel in = KDS__V1__RAISE_LEVEL__INIT;
	in.level = level;
	Kds__V1__Command c = command("kds-serial");
	c.op_case = KDS__V1__COMMAND__OP_RAISE_LEVEL;
	c.raise_level = &in;
	assert_int_equal(apply(r, &c), STATUS_OK);
	r->version = level;
}

static inline void fixture_begin_at(struct fixture *r, unsigned level)
{
	fixture_open(r);
	assert_int_equal(genesis_from(r, 1), STATUS_OK);
	if (level > LEVEL_FIRST)
		fixture_raise(r, level);
}

static inline void fixture_begin(struct fixture *r)
{
	fixture_begin_at(r, LEVEL_NEWEST);
}

static inline enum status_code allocate_id(struct fixture *r, const char *ca, uint32_t count, const char *id,
					   uint64_t *ret_first, uint64_t *ret_last)
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

static inline uint64_t allocate(struct fixture *r, const char *ca, uint32_t count)
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

static inline void make_certificate(struct certificate *c, uint64_t serial, uint8_t mark)
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
static inline enum status_code record(struct fixture *r, const char *ca, struct certificate *certificate)
{
	Kds__V1__IssuedCertificate *list[] = { &certificate->message };
	Kds__V1__RecordRequest in = KDS__V1__RECORD_REQUEST__INIT;
	in.n_certificates = 1;
	in.certificates = list;
	Kds__V1__Command c = command(ca);
	c.op_case = KDS__V1__COMMAND__OP_RECORD;
	c.record = &in;
	assert_int_equal(apply(r, &c), STATUS_OK);
	struct slice answer = { r->result.answer.data, r->result.answer.len };
	struct buffer explained = { 0 };
	assert_int_equal(state_explain(r->state, ca, &in, answer, &r->st, &explained), STATUS_OK);
	Kds__V1__RecordResponse *out = kds__v1__record_response__unpack(NULL, explained.len, explained.data);
	buffer_free(&explained);
	assert_non_null(out);
	assert_int_equal(out->n_results, 1);
	assert_int_equal(state_any_refused(answer, 1), out->results[0]->code != STATUS_OK);
	enum status_code rc = out->results[0]->code;
	r->refusal = out->results[0]->refusal;
	r->known = out->results[0]->known ? out->results[0]->known->serial : 0;
	status_set(&r->st, rc, "%s", out->results[0]->message);
	kds__v1__record_response__free_unpacked(out, NULL);
	return rc;
}

static inline enum status_code record_serial(struct fixture *r, const char *ca, uint64_t serial, uint8_t mark)
{
	struct certificate c;
	make_certificate(&c, serial, mark);
	return record(r, ca, &c);
}

static inline enum status_code set_min(struct fixture *r, Kds__V1__SetMinRequest__ValueCase which, uint64_t n)
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

static inline enum status_code put_checked(struct fixture *r, Kds__V1__Object *o, bool check, uint64_t expected)
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

static inline enum status_code put_setting(struct fixture *r, const char *name, const char *value)
{
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	setting.name = (char *)name;
	setting.value = (char *)value;
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_SETTING;
	o.setting = &setting;
	return put_checked(r, &o, false, 0);
}

static inline enum status_code put_node(struct fixture *r, const char *name, char **addresses, size_t n_addresses,
					char **groups, size_t n_groups)
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

/* What of a certificate the state machine reads, in DER: as far as its serial. */
#define DER_SIZE 19
static inline void make_der(uint64_t serial, uint8_t ret_der[DER_SIZE])
{
	static const uint8_t head[] = { 0x30, 17, 0x30, 15, 0xa0, 3, 2, 1, 2, 2, 8 };
	memcpy(ret_der, head, sizeof head);
	for (int i = 0; i < 8; i++)
		ret_der[sizeof head + (size_t)i] = (uint8_t)(serial >> (56 - 8 * i));
}

/* A record of that certificate, as a CA makes it. */
static inline enum status_code record_der(struct fixture *r, uint64_t serial, const char *profile)
{
	struct certificate c;
	uint8_t der[DER_SIZE];
	make_der(serial, der);
	make_certificate(&c, serial, 0);
	assert_int_equal(gnutls_hash_fast(GNUTLS_DIG_SHA256, der, sizeof der, c.fingerprint), 0);
	c.message.profile = (char *)profile;
	return record(r, "ca1", &c);
}

static inline enum status_code put_authority(struct fixture *r, const char *name, size_t sealed_len)
{
	uint8_t der[DER_SIZE];
	if (r->authority == 0) {
		r->authority = allocate(r, "ca1", 1);
		assert_int_equal(record_der(r, r->authority, "ca"), STATUS_OK);
	}
	make_der(r->authority, der);
	uint8_t *sealed = calloc(1, sealed_len + 1);
	assert_non_null(sealed);
	Kds__V1__CertificateAuthority a = KDS__V1__CERTIFICATE_AUTHORITY__INIT;
	a.name = (char *)name;
	a.certificate = (ProtobufCBinaryData){ sizeof der, der };
	a.sealed_key = (ProtobufCBinaryData){ sealed_len, sealed };
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
	o.certificate_authority = &a;
	enum status_code rc = put_checked(r, &o, false, 0);
	free(sealed);
	return rc;
}

static inline enum status_code put_master_key(struct fixture *r, uint64_t published_ms, uint64_t use_from_ms)
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

static inline enum status_code delete_checked(struct fixture *r, const char *key, bool check, uint64_t expected)
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
static inline Kds__V1__Object *get_sealed(struct fixture *r, const char *key, unsigned sealed)
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

static inline Kds__V1__ListResponse *list(struct fixture *r, const char *prefix, const char *after, uint32_t limit)
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

static inline Kds__V1__WatchResponse *changes(struct fixture *r, uint64_t since, const char *prefix, bool *ret_any)
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

static inline Kds__V1__ListCertificatesResponse *certificates(struct fixture *r, uint64_t after, uint32_t limit,
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

static inline Kds__V1__SerialStatus serial_status(struct fixture *r)
{
	Kds__V1__SerialStatus s;
	state_serial_status(r->state, &s);
	return s;
}

#endif
