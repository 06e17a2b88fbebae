// links: service_serial
/* The state machine: blocks of serials, records, min_serial. */
#include "tests/support/state_fixture.h"

/* Blocks. */

static void test_state_allocate_never_hands_out_twice(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	uint64_t expected = 1;
	for (uint32_t i = 1; i < 300; i++) {
		uint64_t first = 0, last = 0;
		const char *ca = i % 3 ? "ca1" : "ca2";
		assert_int_equal(allocate_id(&r, ca, i, "", &first, &last), STATUS_OK);
		assert_int_equal(first, expected);
		assert_int_equal(last, expected + i - 1);
		expected = last + 1;
		if (i % 50 == 0)
			fixture_reopen(&r);
	}
	assert_int_equal(serial_status(&r).last_serial, expected - 1);
	fixture_close(&r);
}

static void test_state_allocate_checks_its_count(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	assert_int_equal(allocate_id(&r, "ca1", 0, "", NULL, NULL), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "count");
	assert_int_equal(allocate_id(&r, "ca1", 65537, "", NULL, NULL), STATUS_INVALID_ARGUMENT);
	assert_int_equal(allocate_id(&r, "", 1, "", NULL, NULL), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "requester");
	assert_int_equal(allocate_id(&r, "ca1", 65536, "", NULL, NULL), STATUS_OK);
	assert_int_equal(serial_status(&r).last_serial, 65536);
	fixture_close(&r);
}

static void test_state_allocate_ends_at_the_largest_serial(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	sql(&r, "UPDATE numbers SET last_serial = 9223372036854775800");
	fixture_reopen(&r);
	assert_int_equal(allocate_id(&r, "ca1", 8, "", NULL, NULL), STATUS_OUT_OF_RANGE);
	assert_int_equal(allocate_id(&r, "ca1", 7, "", NULL, NULL), STATUS_OK);
	assert_int_equal(allocate_id(&r, "ca1", 1, "", NULL, NULL), STATUS_OUT_OF_RANGE);
	assert_int_equal(serial_status(&r).last_serial, INT64_MAX);
	fixture_close(&r);
}

/* Two CAs in turn: 64 ranges each stay open, also after a restart. */
static void test_state_blocks_far_behind_are_closed(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	uint64_t first[70];
	for (int i = 0; i < 70; i++) {
		first[i] = allocate(&r, "ca1", 2);
		allocate(&r, "ca2", 1);
	}
	fixture_reopen(&r);
	for (int i = 0; i < 70; i++)
		assert_int_equal(record_serial(&r, "ca1", first[i], 1), i < 6 ? STATUS_FAILED_PRECONDITION : STATUS_OK);
	fixture_close(&r);
}

static void test_state_blocks_of_many_holders_are_bounded(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	char name[16];
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof name, "ca%d", i);
		allocate(&r, name, 1);
	}
	fixture_reopen(&r);
	/* 44 were closed: those that had allocated longest ago. */
	assert_int_equal(record_serial(&r, "ca0", 1, 1), STATUS_FAILED_PRECONDITION);
	assert_int_equal(record_serial(&r, "ca43", 44, 1), STATUS_FAILED_PRECONDITION);
	assert_int_equal(record_serial(&r, "ca44", 45, 1), STATUS_OK);
	assert_int_equal(record_serial(&r, "ca299", 300, 1), STATUS_OK);
	fixture_close(&r);
}

/* Records. */

static void test_state_record_needs_the_callers_block(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
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
	fixture_close(&r);
}

static void test_state_record_is_accepted_once(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	allocate(&r, "ca1", 10);
	assert_int_equal(record_serial(&r, "ca1", 5, 1), STATUS_OK);
	assert_int_equal(record_serial(&r, "ca1", 5, 1), STATUS_OK);
	assert_int_equal(record_serial(&r, "ca1", 5, 2), STATUS_ALREADY_EXISTS);
	fixture_reopen(&r);
	assert_int_equal(record_serial(&r, "ca1", 5, 2), STATUS_ALREADY_EXISTS);
	assert_int_equal(record_serial(&r, "ca1", 5, 1), STATUS_OK);
	assert_int_equal(serial_status(&r).issued, 1);
	fixture_close(&r);
}

static void test_state_record_checks_each_certificate(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
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
	fixture_close(&r);
}

static void test_state_record_limits_the_lifetime(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
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
	fixture_close(&r);
}

static void test_state_record_answers_one_by_one(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
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
	Kds__V1__RecordResponse *out =
	    kds__v1__record_response__unpack(NULL, r.result.answer.len, r.result.answer.data);
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
	fixture_close(&r);
}

static void test_state_records_are_kept_as_long_as_the_setting_says(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	allocate(&r, "ca1", 10);
	assert_int_equal(put_setting(&r, "records.retention", "30d"), STATUS_OK);
	assert_int_equal(record_serial(&r, "ca1", 1, 1), STATUS_OK); /* expires after three days */
	r.time_ms = NOW_MS + (uint64_t)33 * DAY_S * 1000;
	allocate(&r, "ca1", 1);
	assert_int_equal(serial_status(&r).issued, 1);
	fixture_reopen(&r); /* it is known from the tables too */
	r.time_ms += 1000;
	assert_int_equal(put_setting(&r, "records.retention", "31d"), STATUS_OK);
	assert_int_equal(serial_status(&r).issued, 0);
	/* Shorter again: with the next command. A value that this version does not allow counts as the default. */
	r.time_ms = NOW_MS;
	struct certificate c;
	make_certificate(&c, 2, 1);
	c.message.not_after = NOW_S + 40 * DAY_S;
	c.message.profile = "ca";
	assert_int_equal(record(&r, "ca1", &c), STATUS_OK);
	r.time_ms = NOW_MS + (uint64_t)41 * DAY_S * 1000;
	allocate(&r, "ca1", 1);
	assert_int_equal(serial_status(&r).issued, 1);
	assert_int_equal(put_setting(&r, "records.retention", "a while"), STATUS_OK);
	allocate(&r, "ca1", 1);
	assert_int_equal(serial_status(&r).issued, 0);
	fixture_close(&r);
}

/* Which holder makes room must not depend on the order in which this replica has them in memory. */
static void test_state_holders_of_nothing_go_by_name(void **arg)
{
	(void)arg;
	uint8_t digests[2][STATE_DIGEST_SIZE];
	for (int reopened = 0; reopened < 2; reopened++) {
		struct fixture r;
		char name[16];
		fixture_begin(&r);
		/* Both lose their only block when the record in it expires. */
		allocate(&r, "zeta", 1);
		allocate(&r, "alpha", 1);
		assert_int_equal(record_serial(&r, "zeta", 1, 1), STATUS_OK);
		assert_int_equal(record_serial(&r, "alpha", 2, 2), STATUS_OK);
		r.time_ms = NOW_MS + (uint64_t)10 * DAY_S * 1000;
		for (int i = 0; i < 254; i++) {
			snprintf(name, sizeof name, "ca%d", i);
			allocate(&r, name, 1);
		}
		assert_int_equal(serial_status(&r).issued, 0);
		if (reopened)
			fixture_reopen(&r); /* now they are in the order of their names */
		allocate(&r, "one more", 1);
		assert_int_equal(state_digest(r.state, &r.st, digests[reopened]), STATUS_OK);
		fixture_close(&r);
	}
	assert_memory_equal(digests[0], digests[1], sizeof digests[0]);
}

static void test_state_records_expire_and_stay_used(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
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
	fixture_reopen(&r);
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
	fixture_close(&r);
}

static void test_state_time_never_goes_back(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	allocate(&r, "ca1", 10);
	r.time_ms = NOW_MS + (uint64_t)DAY_S * 1000;
	allocate(&r, "ca1", 1);
	r.time_ms = NOW_MS; /* another leader, whose clock is behind */
	struct certificate c;
	make_certificate(&c, 1, 1);
	c.message.not_after = NOW_S + 60;
	assert_int_equal(record(&r, "ca1", &c), STATUS_FAILED_PRECONDITION);
	fixture_reopen(&r);
	assert_int_equal(record(&r, "ca1", &c), STATUS_FAILED_PRECONDITION);
	fixture_close(&r);
}

/* min_serial. */

static void test_state_min_serial_never_goes_down(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
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
	fixture_reopen(&r);
	assert_int_equal(serial_status(&r).min_serial, 101);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_ALL, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE__NOT_SET, 0), STATUS_INVALID_ARGUMENT);
	fixture_close(&r);
}

static void test_state_min_serial_latest_is_the_highest_issued(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
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
	fixture_close(&r);
}

static void test_state_min_serial_all_refuses_what_was_handed_out(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	allocate(&r, "ca1", 100);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_ALL, 1), STATUS_OK);
	assert_int_equal(serial_status(&r).min_serial, 101);
	assert_int_equal(record_serial(&r, "ca1", 100, 1), STATUS_FAILED_PRECONDITION);
	uint64_t first = allocate(&r, "ca1", 10);
	assert_int_equal(first, 101);
	assert_int_equal(record_serial(&r, "ca1", first, 1), STATUS_OK);
	fixture_close(&r);
}

static void test_state_min_serial_is_an_object_of_watches(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
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
	fixture_close(&r);
}

/* They are indexed in blocks of 16,384 serials: within one, across a boundary, over blocks without any of the subject or of
 * any at all. */
static void test_state_certificates_of_a_subject_lie_anywhere(void **arg)
{
	static const uint64_t of_node2[] = { 1, 2, 16383, 16384, 40000, 40001, 199999 };
	enum { N = sizeof of_node2 / sizeof *of_node2 };
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	for (int i = 0; i < 4; i++)
		allocate(&r, "ca1", 60000);
	assert_int_equal(record_serial(&r, "ca1", 20000, 1), STATUS_OK);
	for (unsigned i = 0; i < N; i++) {
		struct certificate c;
		make_certificate(&c, of_node2[i], (uint8_t)i);
		c.message.subject = "node2.example.com";
		assert_int_equal(record(&r, "ca1", &c), STATUS_OK);
	}
	uint64_t after = 0;
	for (unsigned seen = 0, limit = 1; seen < N; limit++) {
		Kds__V1__ListCertificatesResponse *l = certificates(&r, after, limit, "node2.example.com");
		assert_int_equal(l->n_certificates, N - seen < limit ? N - seen : limit);
		for (size_t i = 0; i < l->n_certificates; i++)
			assert_int_equal(l->certificates[i]->serial, of_node2[seen++]);
		assert_int_equal(l->more, seen < N);
		after = of_node2[seen - 1];
		kds__v1__list_certificates_response__free_unpacked(l, NULL);
	}
	Kds__V1__ListCertificatesResponse *l = certificates(&r, after, 0, "node2.example.com");
	assert_int_equal(l->n_certificates, 0);
	assert_false(l->more);
	kds__v1__list_certificates_response__free_unpacked(l, NULL);
	l = certificates(&r, INT64_MAX - 1, 0, "node2.example.com");
	assert_int_equal(l->n_certificates, 0);
	kds__v1__list_certificates_response__free_unpacked(l, NULL);
	fixture_close(&r);
}

static void test_state_certificates_are_listed_by_serial_and_subject(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
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
	fixture_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
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
		cmocka_unit_test(test_state_holders_of_nothing_go_by_name),
		cmocka_unit_test(test_state_records_expire_and_stay_used),
		cmocka_unit_test(test_state_records_are_kept_as_long_as_the_setting_says),
		cmocka_unit_test(test_state_time_never_goes_back),
		cmocka_unit_test(test_state_min_serial_never_goes_down),
		cmocka_unit_test(test_state_min_serial_latest_is_the_highest_issued),
		cmocka_unit_test(test_state_min_serial_all_refuses_what_was_handed_out),
		cmocka_unit_test(test_state_min_serial_is_an_object_of_watches),
		cmocka_unit_test(test_state_certificates_of_a_subject_lie_anywhere),
		cmocka_unit_test(test_state_certificates_are_listed_by_serial_and_subject),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
