// links: service_ca
#include "tests/support/support.h"

#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "services/ca/authority.h"
#include "services/ca/maker.h"
#include "tests/support/pki.h"
#include "tests/unit/fake_channel.h"

static struct rpc_channel channel;
static char *directory;
static struct seal *seal;
static struct serials *serials;
static struct maker *maker;
static struct identity *caller;
static struct pki *pki;
static struct trust *trust;

static int group_set_up(void **state)
{
	(void)state;
	char path[4096];
	struct status st;
	directory = support_make_directory();
	snprintf(path, sizeof path, "%s/ca.seal", directory);
	pki = pki_new();
	const struct slice infrastructure = pki_ca_pem(pki, PKI_INFRASTRUCTURE);
	assert_int_equal(trust_new(PKI_CLUSTER, PKI_KDS_NAME, &infrastructure, &st, &trust), STATUS_OK);
	caller = identity_new();
	caller->roles = PEER_ADMIN;
	free(caller->role_name);
	caller->role_name = strdup("alice");
	return seal_create_file(path, &st) == STATUS_OK && seal_load(path, &st, &seal) == STATUS_OK ? 0 : -1;
}

static int group_tear_down(void **state)
{
	(void)state;
	identity_unref(caller);
	trust_free(trust);
	pki_free(pki);
	seal_free(seal);
	support_remove_directory(directory);
	return 0;
}

/* The next call, which must be of this method. */
static struct fake_call *next_call(const char *method)
{
	struct fake_call *c = fake_channel_take(&channel, 20000);
	assert_non_null(c);
	assert_string_equal(c->method, method);
	return c;
}

static int set_up(void **state)
{
	(void)state;
	fake_channel_init(&channel);
	assert_int_equal(serials_start(&channel, 100, NULL, &serials), STATUS_OK);
	Kds__V1__AllocateResponse block = KDS__V1__ALLOCATE_RESPONSE__INIT;
	block.first = 7;
	block.last = 106;
	fake_call_answer(next_call("Allocate"), &block.base);
	return maker_start(&channel, serials, seal, trust, NULL, &maker) == STATUS_OK ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	maker_stop(maker);
	for (struct fake_call *c; (c = fake_channel_take(&channel, 0));)
		fake_call_fail(c, STATUS_CANCELLED);
	serials_stop(serials);
	fake_channel_fini(&channel);
	return 0;
}

/* One request and what came of it. */
struct asked {
	atomic_uint answers;
	struct status status;
	char field[32];
	uint8_t certificate[4096];
	size_t len;
};

static void asked_done(void *arg, const struct maker_result *result)
{
	struct asked *a = arg;
	a->status = result->status;
	snprintf(a->field, sizeof a->field, "%s", result->field);
	a->len = result->certificate.len;
	assert_true(a->len <= sizeof a->certificate);
	if (a->len > 0)
		memcpy(a->certificate, result->certificate.data, a->len);
	atomic_fetch_add(&a->answers, 1);
}

static void submit_named(struct asked *a, const char *common_name, unsigned ms)
{
	memset(a, 0, sizeof *a);
	maker_submit(maker, &(struct maker_request){
		.name = "default",
		.common_name = common_name,
		.caller = caller,
		.request_id = { "the id", 6 },
		.deadline_ms = clock_monotonic_ms() + ms,
		.done = asked_done,
		.arg = a,
	});
}

static void submit(struct asked *a, unsigned ms)
{
	submit_named(a, "cluster.example.com", ms);
}

static void wait_answer(struct asked *a)
{
	while (atomic_load(&a->answers) == 0)
		usleep(500);
}

static void answer_list(const char *name, const struct authority_draft *there)
{
	Kds__V1__Object object = KDS__V1__OBJECT__INIT, *list[] = { &object };
	Kds__V1__CertificateAuthority ca = KDS__V1__CERTIFICATE_AUTHORITY__INIT;
	Kds__V1__ListResponse response = KDS__V1__LIST_RESPONSE__INIT;
	if (there) {
		ca = there->object;
		ca.name = (char *)(uintptr_t)name;
		object.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
		object.certificate_authority = &ca;
		response.n_objects = 1;
		response.objects = list;
	}
	fake_call_answer(next_call("List"), &response.base);
}

static void answer_record(struct fake_call *c, Kds__V1__RecordRefusal refusal)
{
	Kds__V1__RecordResult result = KDS__V1__RECORD_RESULT__INIT, *list[] = { &result };
	Kds__V1__RecordResponse response = KDS__V1__RECORD_RESPONSE__INIT;
	result.refusal = refusal;
	result.code = refusal ? STATUS_FAILED_PRECONDITION : STATUS_OK;
	result.message = (char *)(refusal ? "refused" : "");
	response.n_results = 1;
	response.results = list;
	fake_call_answer(c, &response.base);
}

static const Kds__V1__IssuedCertificate *record_in(const struct fake_call *c)
{
	return ((Kds__V1__RecordRequest *)c->input)->certificates[0];
}

static void test_maker_records_before_it_puts(void **state)
{
	(void)state;
	struct asked a;
	submit(&a, 60000);
	answer_list(NULL, NULL);
	struct fake_call *c = next_call("Record");
	assert_int_equal(record_in(c)->serial, 7);
	assert_string_equal(record_in(c)->requester, "admin/alice");
	assert_string_equal(record_in(c)->profile, "ca");
	assert_int_equal(record_in(c)->request_id.len, 6);
	assert_int_equal(record_in(c)->request_digest.len, 32);
	assert_null(fake_channel_take(&channel, 50)); /* nothing else before that is answered */
	answer_record(c, 0);
	c = next_call("Put");
	const Kds__V1__PutRequest *put = (Kds__V1__PutRequest *)c->input;
	assert_true(put->check_revision);
	assert_int_equal(put->expected_revision, 0);
	assert_int_equal(atomic_load(&a.answers), 0);
	struct authority *opened = NULL;
	assert_int_equal(authority_open(put->object->certificate_authority, seal, NULL, &opened), STATUS_OK);
	Kds__V1__Object answer = KDS__V1__OBJECT__INIT;
	fake_call_answer(c, &answer.base);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_OK);
	assert_int_equal(a.len, authority_certificate(opened).len);
	assert_memory_equal(a.certificate, authority_certificate(opened).data, a.len);
	authority_unref(opened);
}

/* Every answer is lost once: the same draft and ids, so that one CA comes of it. */
static void test_maker_repeats_what_it_has_no_answer_to(void **state)
{
	(void)state;
	struct asked a;
	uint8_t fingerprint[32], id[16];
	submit(&a, 60000);
	fake_call_fail(next_call("List"), STATUS_UNAVAILABLE);
	answer_list(NULL, NULL);
	struct fake_call *c = next_call("Record");
	memcpy(fingerprint, record_in(c)->fingerprint.data, 32);
	fake_call_fail(c, STATUS_DEADLINE_EXCEEDED);
	c = next_call("Record");
	assert_memory_equal(record_in(c)->fingerprint.data, fingerprint, 32);
	answer_record(c, 0);
	c = next_call("Put");
	memcpy(id, c->request_id, 16);
	fake_call_fail(c, STATUS_DEADLINE_EXCEEDED);
	c = next_call("Put");
	assert_int_equal(c->request_id_len, 16);
	assert_memory_equal(c->request_id, id, 16);
	Kds__V1__Object answer = KDS__V1__OBJECT__INIT;
	fake_call_answer(c, &answer.base);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_OK);
}

static void test_maker_gives_up_in_time(void **state)
{
	(void)state;
	struct asked a;
	submit(&a, 700);
	for (unsigned i = 0; atomic_load(&a.answers) == 0; i++) {
		struct fake_call *c = fake_channel_take(&channel, 100);
		if (c)
			fake_call_fail(c, STATUS_DEADLINE_EXCEEDED);
		usleep(10000);
	}
	assert_int_equal(a.status.code, STATUS_UNAVAILABLE);
}

static void test_maker_takes_another_serial_where_that_is_what_was_refused(void **state)
{
	(void)state;
	struct asked a;
	submit(&a, 60000);
	answer_list(NULL, NULL);
	answer_record(next_call("Record"), KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_TAKEN);
	struct fake_call *c = next_call("Record");
	assert_int_equal(record_in(c)->serial, 8);
	answer_record(c, KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_NO_BLOCK);
	Kds__V1__AllocateResponse block = KDS__V1__ALLOCATE_RESPONSE__INIT;
	block.first = 1001;
	block.last = 1100;
	fake_call_answer(next_call("Allocate"), &block.base);
	c = next_call("Record");
	assert_int_equal(record_in(c)->serial, 1001);
	answer_record(c, KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REPEATED);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_ABORTED);
	assert_non_null(strstr(a.status.message, "new request id"));

	submit(&a, 60000);
	answer_list(NULL, NULL);
	answer_record(next_call("Record"), KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REQUESTER_UNKNOWN);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_PERMISSION_DENIED);
}

static void answer_records(const struct authority_draft *draft, const char *id, ProtobufCBinaryData digest)
{
	struct fake_call *c = next_call("ListCertificates");
	assert_int_equal(((Kds__V1__ListCertificatesRequest *)c->input)->after_serial, 4);
	Kds__V1__IssuedCertificate record = draft->record, *list[] = { &record };
	Kds__V1__ListCertificatesResponse response = KDS__V1__LIST_CERTIFICATES_RESPONSE__INIT;
	record.requester = (char *)"admin/alice";
	record.request_id = (ProtobufCBinaryData){ .data = (uint8_t *)(uintptr_t)id, .len = strlen(id) };
	record.request_digest = digest;
	response.n_certificates = 1;
	response.certificates = list;
	fake_call_answer(c, &response.base);
}

static void test_maker_knows_its_own_request_again(void **state)
{
	(void)state;
	struct asked a;
	struct authority_draft draft;
	uint8_t digest[32], other[32] = { 1 };
	assert_int_equal(authority_draft_make("default", "cluster.example.com", 5, (int64_t)(clock_unix_ms() / 1000), seal, NULL,
					      &draft),
			 STATUS_OK);
	submit(&a, 60000); /* to learn the digest */
	answer_list(NULL, NULL);
	struct fake_call *c = next_call("Record");
	memcpy(digest, record_in(c)->request_digest.data, 32);
	answer_record(c, KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_TOO_MANY);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_RESOURCE_EXHAUSTED);

	submit(&a, 60000);
	answer_list("default", &draft);
	answer_records(&draft, "the id", (ProtobufCBinaryData){ .data = digest, .len = 32 });
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_OK);
	assert_int_equal(a.len, draft.object.certificate.len);
	assert_memory_equal(a.certificate, draft.object.certificate.data, a.len);

	submit(&a, 60000);
	answer_list("default", &draft);
	answer_records(&draft, "the id", (ProtobufCBinaryData){ .data = other, .len = 32 });
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_INVALID_ARGUMENT);

	submit(&a, 60000);
	answer_list("default", &draft);
	answer_records(&draft, "another", (ProtobufCBinaryData){ .data = digest, .len = 32 });
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_ALREADY_EXISTS);

	submit(&a, 60000);
	answer_list("second", &draft); /* its common name is taken */
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_INVALID_ARGUMENT);
	assert_string_equal(a.field, "common_name");
	authority_draft_fini(&draft);
}

/* It would be the end of the trust in every CA of the cluster: two keys of one name. */
static void test_maker_makes_none_of_the_infrastructure_cas_name(void **state)
{
	(void)state;
	struct asked a;
	char name[256];
	size_t len = sizeof name;
	assert_int_equal(gnutls_x509_crt_get_dn_by_oid(pki_ca_crt(pki, PKI_INFRASTRUCTURE), GNUTLS_OID_X520_COMMON_NAME, 0, 0,
						       name, &len), 0);
	submit_named(&a, name, 60000);
	answer_list(NULL, NULL);
	wait_answer(&a);
	assert_int_equal(a.status.code, STATUS_INVALID_ARGUMENT);
	assert_string_equal(a.field, "common_name");
	assert_non_null(strstr(a.status.message, "give each a name of its own"));
	assert_null(fake_channel_take(&channel, 0)); /* nothing is on record */
}

#define MAKER_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		MAKER_TEST(test_maker_records_before_it_puts),
		MAKER_TEST(test_maker_repeats_what_it_has_no_answer_to),
		MAKER_TEST(test_maker_gives_up_in_time),
		MAKER_TEST(test_maker_takes_another_serial_where_that_is_what_was_refused),
		MAKER_TEST(test_maker_knows_its_own_request_again),
		MAKER_TEST(test_maker_makes_none_of_the_infrastructure_cas_name),
	};
	return cmocka_run_group_tests(tests, group_set_up, group_tear_down);
}
