// links: service_serial
/* Records that say who asked: who may, what a request id is worth, how many certificates anyone has; and older levels. */
#include "tests/support/state_fixture.h"

#include "services/serial/state_loader.h"

#define REFUSED(which) KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_##which
#define NODE "node1.example.com"

/* One that a node asked for itself, with the certificate of this serial. */
static void make_asked(struct certificate *c, uint64_t serial, uint64_t requester_serial)
{
	make_certificate(c, serial, (uint8_t)serial);
	c->message.requester = "node/" NODE;
	c->message.requester_serial = requester_serial;
	c->message.requester_issuer = c->message.issuer_key_id;
}

static void set_request(struct certificate *c, const char *id, uint8_t digest)
{
	static uint8_t digests[256][32];
	memset(digests[digest], digest, 32);
	c->message.request_id = (ProtobufCBinaryData){ strlen(id), (uint8_t *)id };
	c->message.request_digest = (ProtobufCBinaryData){ 32, digests[digest] };
}

/* The refusal of a record by ca/ca1. */
static Kds__V1__RecordRefusal refusal(struct fixture *r, struct certificate *c)
{
	record(r, "ca/ca1", c);
	return r->refusal;
}

static Kds__V1__RecordRefusal ask(struct fixture *r, uint64_t serial, uint64_t requester_serial, const char *id,
				  uint8_t digest)
{
	struct certificate c;
	make_asked(&c, serial, requester_serial);
	if (*id)
		set_request(&c, id, digest);
	return refusal(r, &c);
}

static void begin(struct fixture *r, unsigned level)
{
	fixture_begin_at(r, level);
	assert_int_equal(put_node(r, NODE, NULL, 0, NULL, 0), STATUS_OK);
	assert_int_equal(allocate(r, "ca/ca1", 1000), 1);
}

static void put_service(struct fixture *r, const char *name, bool removed)
{
	Kds__V1__Service service = KDS__V1__SERVICE__INIT;
	service.name = (char *)name;
	service.removed = removed;
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_SERVICE;
	o.service = &service;
	assert_int_equal(put_checked(r, &o, false, 0), STATUS_OK);
}

static void assert_digest_matches(struct fixture *r)
{
	bool done = false;
	sql(r, "BEGIN");
	while (!done)
		if (state_scan_digest(r->state, 1000, &r->st, &done) != STATUS_OK)
			fail_msg("%s", r->st.message);
	sql(r, "COMMIT");
}

static void test_state_asked_by_a_node_below_min_serial(void **arg)
{
	(void)arg;
	struct fixture r;
	begin(&r, LEVEL_NEWEST);
	assert_int_equal(ask(&r, 20, 9, "", 0), REFUSED(NONE));
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 10), STATUS_OK);
	assert_int_equal(ask(&r, 21, 9, "", 0), REFUSED(REQUESTER_BELOW_MIN));
	assert_int_equal(r.st.code, STATUS_PERMISSION_DENIED);
	assert_non_null(strstr(r.st.message, "min_serial is 10"));
	/* Not even what it has: it was not handed out yet, or is the thief's. */
	assert_int_equal(ask(&r, 20, 9, "", 0), REFUSED(REQUESTER_BELOW_MIN));
	assert_int_equal(ask(&r, 21, 10, "", 0), REFUSED(NONE));
	fixture_close(&r);
}

static void test_state_asked_by_who_is_not_in_the_cluster(void **arg)
{
	(void)arg;
	struct fixture r;
	struct certificate c;
	begin(&r, LEVEL_NEWEST);
	assert_int_equal(ask(&r, 20, 9, "", 0), REFUSED(NONE));
	assert_int_equal(delete_checked(&r, "node/" NODE, false, 0), STATUS_OK);
	assert_int_equal(ask(&r, 21, 9, "", 0), REFUSED(REQUESTER_UNKNOWN));
	assert_int_equal(put_node(&r, NODE, NULL, 0, NULL, 0), STATUS_OK);
	assert_int_equal(ask(&r, 21, 9, "", 0), REFUSED(NONE));

	make_certificate(&c, 30, 1);
	c.message.requester = "admin/other";
	put_service(&r, "other", true);
	assert_int_equal(refusal(&r, &c), REFUSED(REQUESTER_UNKNOWN));
	fixture_reopen(&r);
	assert_int_equal(refusal(&r, &c), REFUSED(REQUESTER_UNKNOWN));
	put_service(&r, "other", false);
	assert_int_equal(refusal(&r, &c), REFUSED(NONE));
	fixture_close(&r);
}

/* Else it would take what the others refuse. */
static void test_state_does_not_open_without_a_removed_service(void **arg)
{
	(void)arg;
	struct fixture r;
	begin(&r, LEVEL_NEWEST);
	put_service(&r, "other", true);
	sql(&r, "UPDATE objects SET value = x'ff' WHERE key = 'service/other'");
	state_close(r.state);
	r.state = NULL;
	assert_int_equal(state_open(r.db, &r.st, &r.state), STATUS_DATA_LOSS);
	fixture_close(&r);
}

static void test_state_commands_of_a_removed_service_are_refused(void **arg)
{
	(void)arg;
	struct fixture r;
	begin(&r, LEVEL_NEWEST);
	for (char name[] = "ca0"; name[2] <= '9'; name[2]++)
		put_service(&r, name, name[2] % 2);
	for (char who[] = "ca/ca0"; who[5] <= '9'; who[5]++)
		assert_int_equal(allocate_id(&r, who, 1, "", NULL, NULL), who[5] % 2 ? STATUS_PERMISSION_DENIED : STATUS_OK);
	fixture_close(&r);
}

static void test_state_asked_for_oneself_alone(void **arg)
{
	(void)arg;
	struct fixture r;
	struct certificate c;
	begin(&r, LEVEL_NEWEST);
	assert_int_equal(put_node(&r, "node2.example.com", NULL, 0, NULL, 0), STATUS_OK);
	make_asked(&c, 20, 9);
	c.message.subject = "node2.example.com";
	assert_int_equal(refusal(&r, &c), REFUSED(INVALID));
	assert_non_null(strstr(r.st.message, "for itself"));
	make_asked(&c, 20, 9);
	c.message.profile = "ca";
	assert_int_equal(refusal(&r, &c), REFUSED(INVALID));
	assert_int_equal(ask(&r, 20, 0, "", 0), REFUSED(INVALID));
	assert_non_null(strstr(r.st.message, "requester_serial"));
	make_asked(&c, 20, 9);
	c.message.requester_issuer.len = 0;
	assert_int_equal(refusal(&r, &c), REFUSED(INVALID));
	make_asked(&c, 20, 9);
	set_request(&c, "id", 1);
	c.message.request_digest.len = 31;
	assert_int_equal(refusal(&r, &c), REFUSED(INVALID));
	make_asked(&c, 20, 9);
	set_request(&c, "0123456789012345678901234567890123", 1);
	assert_int_equal(refusal(&r, &c), REFUSED(INVALID));
	make_certificate(&c, 20, 1);
	c.message.requester_serial = 9;
	assert_int_equal(refusal(&r, &c), REFUSED(INVALID));
	assert_int_equal(serial_status(&r).issued, 0);
	fixture_close(&r);
}

static void test_state_request_ids_are_answered_once(void **arg)
{
	(void)arg;
	struct fixture r;
	struct certificate c;
	begin(&r, LEVEL_NEWEST);
	assert_int_equal(ask(&r, 20, 9, "one", 1), REFUSED(NONE));
	assert_int_equal(ask(&r, 20, 9, "one", 1), REFUSED(NONE)); /* the same record */
	assert_int_equal(ask(&r, 21, 9, "one", 1), REFUSED(REPEATED));
	assert_int_equal(r.known, 20);
	assert_int_equal(r.st.code, STATUS_ALREADY_EXISTS);
	assert_int_equal(ask(&r, 21, 9, "one", 2), REFUSED(ID_REUSED));
	assert_int_equal(r.known, 0);
	assert_int_equal(ask(&r, 21, 9, "two", 1), REFUSED(NONE));
	fixture_reopen(&r);
	assert_int_equal(ask(&r, 22, 9, "one", 1), REFUSED(REPEATED));
	/* Whatever becomes of the serial that the repeat brings: another's, or none of ours. */
	assert_int_equal(ask(&r, 5000, 9, "one", 1), REFUSED(REPEATED));
	/* Another requester's is another request. */
	make_certificate(&c, 23, 1);
	c.message.requester = "admin/admin";
	set_request(&c, "one", 1);
	assert_int_equal(refusal(&r, &c), REFUSED(NONE));
	assert_int_equal(serial_status(&r).issued, 3);
	Kds__V1__ListCertificatesResponse *l = certificates(&r, 0, 0, NODE);
	assert_int_equal(l->n_certificates, 3);
	assert_string_equal(l->certificates[0]->requester, "node/" NODE);
	assert_int_equal(l->certificates[0]->requester_serial, 9);
	assert_int_equal(l->certificates[0]->requester_issuer.len, 20);
	assert_memory_equal(l->certificates[0]->request_id.data, "one", 3);
	assert_int_equal(l->certificates[0]->request_digest.len, 32);
	kds__v1__list_certificates_response__free_unpacked(l, NULL);
	assert_digest_matches(&r);
	fixture_close(&r);
}

/* Who stole an id must not bring back what was refused. */
static void test_state_request_ids_below_min_serial_are_refused(void **arg)
{
	(void)arg;
	struct fixture r;
	begin(&r, LEVEL_NEWEST);
	assert_int_equal(ask(&r, 20, 9, "one", 1), REFUSED(NONE));
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 30), STATUS_OK);
	assert_int_equal(ask(&r, 40, 31, "one", 1), REFUSED(REQUESTER_BELOW_MIN));
	assert_int_equal(ask(&r, 40, 31, "two", 1), REFUSED(NONE));
	fixture_close(&r);
}

static void test_state_request_ids_go_with_their_record(void **arg)
{
	(void)arg;
	struct fixture r;
	struct certificate c;
	begin(&r, LEVEL_NEWEST);
	assert_int_equal(ask(&r, 20, 9, "one", 1), REFUSED(NONE));
	r.time_ms += (uint64_t)4 * DAY_S * 1000;
	make_asked(&c, 21, 9);
	set_request(&c, "one", 1);
	c.message.not_before += 4 * DAY_S;
	c.message.not_after += 4 * DAY_S;
	assert_int_equal(refusal(&r, &c), REFUSED(NONE));
	assert_int_equal(serial_status(&r).issued, 1);
	sql(&r, "CREATE TEMP TABLE one (n CHECK (n = 1)); INSERT INTO one SELECT count(*) FROM asked");
	assert_digest_matches(&r);
	fixture_close(&r);
}

/* All of the answer is codes and numbers: texts differ from version to version, digests must not. */
static void test_state_results_hold_no_texts(void **arg)
{
	(void)arg;
	struct fixture r;
	struct certificate c;
	begin(&r, LEVEL_NEWEST);
	make_certificate(&c, 5000, 1);
	Kds__V1__IssuedCertificate *list[] = { &c.message };
	Kds__V1__RecordRequest in = KDS__V1__RECORD_REQUEST__INIT;
	in.n_certificates = 1;
	in.certificates = list;
	Kds__V1__Command command_of_it = command("ca/ca1");
	command_of_it.op_case = KDS__V1__COMMAND__OP_RECORD;
	command_of_it.record = &in;
	assert_int_equal(apply(&r, &command_of_it), STATUS_OK);
	Kds__V1__RecordResponse *out = kds__v1__record_response__unpack(NULL, r.result.answer.len, r.result.answer.data);
	assert_int_equal(out->results[0]->refusal, REFUSED(NO_BLOCK));
	assert_string_equal(out->results[0]->message, "");
	kds__v1__record_response__free_unpacked(out, NULL);
	fixture_close(&r);
}

static Kds__V1__RecordRefusal issue_until(struct fixture *r, uint64_t serial, const char *profile, int64_t not_after)
{
	struct certificate c;
	make_certificate(&c, serial, (uint8_t)serial);
	c.message.profile = (char *)profile;
	c.message.not_after = not_after;
	c.message.not_before = not_after - DAY_S;
	return refusal(r, &c);
}

static void test_state_live_certificates_are_bounded(void **arg)
{
	(void)arg;
	struct fixture r;
	uint64_t serial = 1;
	begin(&r, LEVEL_NEWEST);
	assert_int_equal(put_setting(&r, "limit.live-certificates", "5"), STATUS_OK);
	for (int i = 0; i < 5; i++)
		assert_int_equal(issue_until(&r, serial++, "node", NOW_S + 100 + i), REFUSED(NONE));
	assert_int_equal(issue_until(&r, serial, "node", NOW_S + 200), REFUSED(TOO_MANY));
	assert_int_equal(r.st.code, STATUS_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(r.st.message, "has 5 live certificates of the profile node"));
	assert_non_null(strstr(r.st.message, "limit.live-certificates"));
	assert_int_equal(issue_until(&r, serial - 1, "node", NOW_S + 104), REFUSED(NONE)); /* no new one */
	assert_int_equal(issue_until(&r, serial++, "kds-client", NOW_S + 200), REFUSED(NONE));
	for (int i = 0; i < 10; i++)
		assert_int_equal(issue_until(&r, serial++, "ca", NOW_S + 200), REFUSED(NONE));
	fixture_reopen(&r);
	assert_int_equal(issue_until(&r, serial, "node", NOW_S + 200), REFUSED(TOO_MANY));
	/* Each that expires makes room for one; notAfter itself is valid. Records that are kept longer do not count. */
	assert_int_equal(put_setting(&r, "records.retention", "365d"), STATUS_OK);
	r.time_ms = NOW_MS + 100 * 1000;
	assert_int_equal(issue_until(&r, serial, "node", NOW_S + 200), REFUSED(TOO_MANY));
	r.time_ms = NOW_MS + 101 * 1000;
	assert_int_equal(issue_until(&r, serial++, "node", NOW_S + 200), REFUSED(NONE));
	assert_int_equal(issue_until(&r, serial, "node", NOW_S + 200), REFUSED(TOO_MANY));
	fixture_reopen(&r);
	assert_int_equal(issue_until(&r, serial, "node", NOW_S + 200), REFUSED(TOO_MANY));
	r.time_ms = NOW_MS + 103 * 1000;
	for (int i = 0; i < 2; i++)
		assert_int_equal(issue_until(&r, serial++, "node", NOW_S + 200), REFUSED(NONE));
	assert_int_equal(issue_until(&r, serial, "node", NOW_S + 200), REFUSED(TOO_MANY));
	/* What is refused is not live. */
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, serial), STATUS_OK);
	for (int i = 0; i < 5; i++)
		assert_int_equal(issue_until(&r, serial++, "node", NOW_S + 200), REFUSED(NONE));
	assert_int_equal(issue_until(&r, serial, "node", NOW_S + 200), REFUSED(TOO_MANY));
	assert_int_equal(put_setting(&r, "limit.live-certificates", "6"), STATUS_OK);
	assert_int_equal(issue_until(&r, serial, "node", NOW_S + 200), REFUSED(NONE));
	fixture_close(&r);
}

/* Many subjects, most of which go: what is counted in memory is what a list of all says. */
static void test_state_live_certificates_of_many_subjects(void **arg)
{
	(void)arg;
	enum { SUBJECTS = 6001, LIVE_MAX = 2, ALL = 9 };
	static int64_t until[SUBJECTS][ALL];
	struct fixture r;
	struct certificate c;
	char name[64];
	uint64_t serial = 1;
	unsigned refused = 0;
	fixture_begin(&r);
	assert_int_equal(put_setting(&r, "limit.live-certificates", "2"), STATUS_OK);
	allocate(&r, "ca/ca1", 65536);
	for (int64_t round = 0; round < ALL; round++) {
		int64_t now = NOW_S + round * 1000;
		r.time_ms = (uint64_t)now * 1000;
		for (int64_t i = 0; i < 2000; i++) {
			int64_t subject = i * (round % 3 + 1), live = 0;
			for (int k = 0; k < ALL; k++)
				live += until[subject][k] >= now;
			snprintf(name, sizeof name, "n%d.example.com", (int)subject);
			make_certificate(&c, serial, 1);
			c.message.subject = name;
			c.message.not_after = now + (i % 3 ? 999 : 2500);
			assert_int_equal(refusal(&r, &c), live >= LIVE_MAX ? REFUSED(TOO_MANY) : REFUSED(NONE));
			refused += live >= LIVE_MAX;
			if (live >= LIVE_MAX)
				continue;
			until[subject][round] = c.message.not_after;
			serial++;
		}
		if (round % 2)
			fixture_reopen(&r);
	}
	assert_in_range(refused, 100, 10000);
	fixture_close(&r);
}

static void test_state_set_min_closes_blocks(void **arg)
{
	(void)arg;
	struct fixture r;
	begin(&r, LEVEL_NEWEST);
	allocate(&r, "ca/ca2", 10); /* 1001 to 1010 */
	allocate(&r, "ca/ca1", 10); /* 1011 to 1020 */
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 1005), STATUS_OK);
	sql(&r, "CREATE TEMP TABLE t (n CHECK (n = 16)); INSERT INTO t SELECT length(ranges) FROM blocks");
	assert_int_equal(record_serial(&r, "ca/ca2", 1005, 1), STATUS_OK);
	assert_int_equal(record_serial(&r, "ca/ca1", 1011, 1), STATUS_OK);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_ALL, 1), STATUS_OK);
	sql(&r, "CREATE TEMP TABLE u (n CHECK (n = 0)); INSERT INTO u SELECT length(ranges) FROM blocks");
	fixture_reopen(&r);
	assert_int_equal(record_serial(&r, "ca/ca1", 1012, 1), STATUS_FAILED_PRECONDITION);
	assert_int_equal(allocate(&r, "ca/ca1", 10), 1021);
	assert_int_equal(record_serial(&r, "ca/ca1", 1021, 1), STATUS_OK);
	assert_digest_matches(&r);
	fixture_close(&r);
}

static enum status_code put_ca_with(struct fixture *r, const char *name, uint64_t serial, bool retired, const char *key)
{
	uint8_t der[DER_SIZE];
	make_der(serial, der);
	Kds__V1__CertificateAuthority a = KDS__V1__CERTIFICATE_AUTHORITY__INIT;
	a.name = (char *)name;
	a.certificate = (ProtobufCBinaryData){ sizeof der, der };
	a.sealed_key = (ProtobufCBinaryData){ strlen(key), (uint8_t *)(uintptr_t)key };
	a.retired = retired;
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
	o.certificate_authority = &a;
	return put_checked(r, &o, false, 0);
}

static enum status_code put_ca(struct fixture *r, const char *name, uint64_t serial, bool retired)
{
	return put_ca_with(r, name, serial, retired, "sealed");
}

/* The key as the hosts of kds-ca see it; the caller frees. */
static Kds__V1__Object *get_ca(struct fixture *r, unsigned sealed)
{
	struct buffer out = { 0 };
	assert_int_equal(state_get(r->state, "ca/x", sealed, &r->st, &out), STATUS_OK);
	Kds__V1__Object *o = kds__v1__object__unpack(NULL, out.len, out.data);
	assert_non_null(o);
	buffer_free(&out);
	return o;
}

static void test_state_a_ca_keeps_its_key(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	allocate(&r, "ca1", 10);
	assert_int_equal(record_der(&r, 5, "ca"), STATUS_OK);
	assert_int_equal(put_ca(&r, "x", 5, false), STATUS_OK);
	/* Overwritten it would be lost. */
	assert_int_equal(put_ca_with(&r, "x", 5, false, "another"), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(r.result.status.message, "and the key"));
	/* Who may not see it leaves it out, and is not told it. */
	assert_int_equal(put_ca_with(&r, "x", 5, true, ""), STATUS_OK);
	Kds__V1__Object *answer = kds__v1__object__unpack(NULL, r.result.answer.len, r.result.answer.data);
	assert_non_null(answer);
	assert_true(answer->certificate_authority->retired);
	assert_int_equal(answer->certificate_authority->sealed_key.len, 0);
	kds__v1__object__free_unpacked(answer, NULL);
	Kds__V1__Object *o = get_ca(&r, STATE_SEALED_CA);
	assert_true(o->certificate_authority->retired);
	assert_int_equal(o->certificate_authority->sealed_key.len, 6);
	assert_memory_equal(o->certificate_authority->sealed_key.data, "sealed", 6);
	kds__v1__object__free_unpacked(o, NULL);
	assert_digest_matches(&r);
	fixture_close(&r);
}

/* Each costs every daemon something at every handshake: who may enter one does not decide how many. */
static void test_state_a_cluster_has_so_many_cas(void **arg)
{
	(void)arg;
	struct fixture r;
	char name[16];
	fixture_begin(&r);
	allocate(&r, "ca1", 40);
	for (unsigned i = 1; i <= 33; i++) {
		snprintf(name, sizeof name, "x%u", i);
		assert_int_equal(record_der(&r, i, "ca"), STATUS_OK);
		assert_int_equal(put_ca(&r, name, i, false), i <= 32 ? STATUS_OK : STATUS_FAILED_PRECONDITION);
	}
	assert_non_null(strstr(r.result.status.message, "there are 32 CAs"));
	assert_int_equal(put_ca(&r, "x7", 7, true), STATUS_OK);
	assert_int_equal(put_ca(&r, "x33", 33, false), STATUS_FAILED_PRECONDITION);
	assert_int_equal(delete_checked(&r, "ca/x7", false, 0), STATUS_OK);
	assert_int_equal(put_ca(&r, "x33", 33, false), STATUS_OK);
	assert_digest_matches(&r);
	fixture_close(&r);
}

static void test_state_a_ca_comes_and_goes_on_purpose(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	allocate(&r, "ca1", 10);
	assert_int_equal(put_ca(&r, "x", 5, false), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(r.result.status.message, "no record"));
	assert_int_equal(record_der(&r, 4, "node"), STATUS_OK);
	assert_int_equal(put_ca(&r, "x", 4, false), STATUS_FAILED_PRECONDITION);
	assert_int_equal(record_serial(&r, "ca1", 6, 1), STATUS_OK); /* of another certificate */
	assert_int_equal(put_ca(&r, "x", 6, false), STATUS_FAILED_PRECONDITION);
	assert_int_equal(record_der(&r, 5, "ca"), STATUS_OK);
	assert_int_equal(put_ca(&r, "x", 5, false), STATUS_OK);
	/* Another certificate under its name. */
	assert_int_equal(record_der(&r, 7, "ca"), STATUS_OK);
	assert_int_equal(put_ca(&r, "x", 7, false), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(r.result.status.message, "under another name"));
	assert_int_equal(delete_checked(&r, "ca/x", false, 0), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(r.result.status.message, "retire it first"));
	assert_int_equal(put_ca(&r, "x", 5, true), STATUS_OK);
	assert_int_equal(delete_checked(&r, "ca/x", false, 0), STATUS_OK);
	assert_int_equal(delete_checked(&r, "ca/x", false, 0), STATUS_NOT_FOUND);
	fixture_close(&r);
}

/* What stands for a certificate may be anything. */
static void test_state_a_ca_certificate_of_junk_is_refused(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	uint8_t der[DER_SIZE];
	make_der(5, der);
	for (size_t len = 1; len <= DER_SIZE; len++)
		for (size_t at = 0; at < len; at++) {
			uint8_t junk[DER_SIZE];
			memcpy(junk, der, sizeof junk);
			junk[at] ^= 0x81;
			Kds__V1__CertificateAuthority a = KDS__V1__CERTIFICATE_AUTHORITY__INIT;
			a.name = "x";
			a.certificate = (ProtobufCBinaryData){ len, junk };
			Kds__V1__Object o = KDS__V1__OBJECT__INIT;
			o.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
			o.certificate_authority = &a;
			assert_int_equal(put_checked(&r, &o, false, 0), STATUS_FAILED_PRECONDITION);
		}
	fixture_close(&r);
}

/* Before all replicas know the level, commands are applied as those that do not know it apply them. */
static void test_state_commands_of_the_first_level_stay_as_they_were(void **arg)
{
	(void)arg;
	struct fixture r;
	struct certificate c;
	for (unsigned level = LEVEL_FIRST; level <= LEVEL_NEWEST; level++) {
		begin(&r, level);
		r.version = LEVEL_FIRST;
		make_certificate(&c, 20, 1);
		c.message.requester = "node/nobody.example.com";
		assert_int_equal(record(&r, "ca/ca1", &c), STATUS_OK);
		make_certificate(&c, 5000, 1);
		assert_int_equal(record(&r, "ca/ca1", &c), STATUS_FAILED_PRECONDITION);
		assert_int_equal(r.refusal, REFUSED(NONE));
		assert_string_equal(r.st.message, "serial 5000 is in no open block of ca/ca1: take a serial from a new block");
		put_service(&r, "ca1", true);
		assert_int_equal(allocate(&r, "ca/ca1", 10), 1001);
		assert_int_equal(put_setting(&r, "limit.live-certificates", "1"), STATUS_OK);
		assert_int_equal(record_serial(&r, "ca/ca1", 21, 1), STATUS_OK);
		assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_ALL, 1), STATUS_OK);
		sql(&r, "CREATE TEMP TABLE t (n CHECK (n = 16)); INSERT INTO t SELECT length(ranges) FROM blocks");
		fixture_close(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_asked_by_a_node_below_min_serial),
		cmocka_unit_test(test_state_asked_by_who_is_not_in_the_cluster),
		cmocka_unit_test(test_state_does_not_open_without_a_removed_service),
		cmocka_unit_test(test_state_commands_of_a_removed_service_are_refused),
		cmocka_unit_test(test_state_asked_for_oneself_alone),
		cmocka_unit_test(test_state_request_ids_are_answered_once),
		cmocka_unit_test(test_state_request_ids_below_min_serial_are_refused),
		cmocka_unit_test(test_state_request_ids_go_with_their_record),
		cmocka_unit_test(test_state_results_hold_no_texts),
		cmocka_unit_test(test_state_live_certificates_are_bounded),
		cmocka_unit_test(test_state_live_certificates_of_many_subjects),
		cmocka_unit_test(test_state_set_min_closes_blocks),
		cmocka_unit_test(test_state_a_ca_comes_and_goes_on_purpose),
		cmocka_unit_test(test_state_a_cluster_has_so_many_cas),
		cmocka_unit_test(test_state_a_ca_keeps_its_key),
		cmocka_unit_test(test_state_a_ca_certificate_of_junk_is_refused),
		cmocka_unit_test(test_state_commands_of_the_first_level_stay_as_they_were),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
