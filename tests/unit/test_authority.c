// links: service_ca
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/file.h"
#include "common/x509/key.h"
#include "services/ca/authority.h"

static char *directory;
static struct seal *seal;
static struct authority_draft draft;

static const char *in_directory(const char *name)
{
	static char path[4096];
	snprintf(path, sizeof path, "%s/%s", directory, name);
	return path;
}

static int set_up(void **state)
{
	(void)state;
	struct status st;
	directory = support_make_directory();
	if (seal_create_file(in_directory("ca.seal"), &st) != STATUS_OK ||
	    seal_load(in_directory("ca.seal"), &st, &seal) != STATUS_OK ||
	    authority_draft_make("default", "cluster.example.com", 7, time(NULL), seal, &st, &draft) != STATUS_OK) {
		print_error("%s\n", st.message);
		return -1;
	}
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	authority_draft_fini(&draft);
	seal_free(seal);
	support_remove_directory(directory);
	return 0;
}

static void test_authority_opens_what_was_made(void **state)
{
	(void)state;
	struct authority *a = NULL;
	struct status st;
	if (authority_open(&draft.object, seal, &st, &a) != STATUS_OK)
		fail_msg("%s", st.message);
	struct x509_info info;
	assert_int_equal(x509_info_read(authority_issuer(a)->certificate, NULL, &info), STATUS_OK);
	assert_true(info.ca);
	assert_string_equal(info.common_name, "cluster.example.com");
	assert_int_equal(x509_info_serial(&info), 7);
	assert_int_equal(info.not_after, authority_not_after(a));
	assert_true(info.not_after > time(NULL) + (int64_t)4 * 365 * 86400);
	assert_int_equal(authority_key_id(a).len, 20);
	assert_memory_equal(authority_key_id(a).data, info.key_id, 20);
	assert_int_equal(authority_chain(a).len, 0); /* self-signed: the peers' anchor itself */
	assert_int_equal(authority_certificate(a).len, draft.object.certificate.len);

	assert_int_equal(draft.record.serial, 7);
	assert_string_equal(draft.record.profile, "ca");
	assert_string_equal(draft.record.subject, "cluster.example.com");
	assert_memory_equal(draft.record.fingerprint.data, info.fingerprint, 32);
	assert_int_equal(draft.record.not_after, info.not_after);
	x509_info_free(&info);

	struct authority *second = authority_ref(a);
	authority_unref(a);
	assert_int_equal(authority_key_id(second).len, 20);
	authority_unref(second);
}

static void test_authority_certificate_passes_openssl(void **state)
{
	(void)state;
	gnutls_x509_crt_t crt;
	struct buffer pem = { 0 };
	struct slice der = { draft.object.certificate.data, draft.object.certificate.len };
	assert_int_equal(x509_import(der, NULL, &crt), STATUS_OK);
	assert_int_equal(x509_to_pem(crt, NULL, &pem), STATUS_OK);
	assert_int_equal(file_write(in_directory("ca.pem"), (struct slice){ pem.data, pem.len }, 0644, true, NULL), STATUS_OK);
	buffer_free(&pem);
	gnutls_x509_crt_deinit(crt);
	char command[8400];
	const char *path = in_directory("ca.pem");
	snprintf(command, sizeof command, "openssl verify -x509_strict -check_ss_sig -CAfile %s %s >/dev/null", path, path);
	assert_int_equal(system(command), 0);
}

/* What is sealed shows nothing of the key. */
static void test_authority_key_is_sealed(void **state)
{
	(void)state;
	struct buffer clear = { 0 };
	struct slice sealed = { draft.object.sealed_key.data, draft.object.sealed_key.len };
	assert_int_equal(seal_open(seal, "ca/default", sealed, NULL, &clear), STATUS_OK);
	assert_null(memmem(sealed.data, sealed.len, clear.data, 16));
	buffer_wipe(&clear);
	assert_int_equal(seal_open(seal, "ca/other", sealed, NULL, &clear), STATUS_DATA_LOSS);
	buffer_wipe(&clear);
}

static enum status_code open_changed(const Kds__V1__CertificateAuthority *object, const struct seal *s, struct status *st)
{
	struct authority *a = NULL;
	enum status_code rc = authority_open(object, s, st, &a);
	authority_unref(a);
	return rc;
}

static void test_authority_refuses_another_sealing_key(void **state)
{
	(void)state;
	struct seal *other;
	struct status st;
	assert_int_equal(seal_create_file(in_directory("other.seal"), NULL), STATUS_OK);
	assert_int_equal(seal_load(in_directory("other.seal"), NULL, &other), STATUS_OK);
	assert_int_equal(open_changed(&draft.object, other, &st), STATUS_UNAVAILABLE);
	assert_non_null(strstr(st.message, "other.seal does not open ca/default"));
	assert_non_null(strstr(st.message, "copy"));
	seal_free(other);
}

static void test_authority_refuses_what_does_not_belong_together(void **state)
{
	(void)state;
	struct status st;
	struct authority_draft second;
	assert_int_equal(authority_draft_make("default", "cluster.example.com", 8, time(NULL), seal, NULL, &second), STATUS_OK);
	Kds__V1__CertificateAuthority mixed = draft.object;
	mixed.sealed_key = second.object.sealed_key;
	assert_int_equal(open_changed(&mixed, seal, &st), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "do not belong together"));
	mixed = draft.object;
	mixed.name = (char *)"other"; /* a key cannot be moved to another CA's name */
	assert_int_equal(open_changed(&mixed, seal, &st), STATUS_DATA_LOSS);
	mixed = draft.object;
	mixed.sealed_key.len = 0;
	assert_int_equal(open_changed(&mixed, seal, &st), STATUS_FAILED_PRECONDITION);
	mixed = draft.object;
	mixed.certificate.len = 10;
	assert_int_equal(open_changed(&mixed, seal, &st), STATUS_INVALID_ARGUMENT);
	mixed = draft.object;
	mixed.retired = 1;
	assert_int_equal(open_changed(&mixed, seal, &st), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "retired"));
	authority_draft_fini(&second);
}

static void test_authority_refuses_an_expired_certificate(void **state)
{
	(void)state;
	struct status st;
	struct authority_draft old;
	int64_t then = time(NULL) - (int64_t)AUTHORITY_YEARS * 366 * 86400;
	assert_int_equal(authority_draft_make("default", "cluster.example.com", 8, then, seal, NULL, &old), STATUS_OK);
	assert_int_equal(open_changed(&old.object, seal, &st), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "expired"));
	authority_draft_fini(&old);
	assert_int_equal(authority_draft_make("default", "", 8, 0, seal, &st, &old), STATUS_INVALID_ARGUMENT);
	assert_int_equal(authority_draft_make("default", "x", 0, 0, seal, &st, &old), STATUS_INVALID_ARGUMENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_authority_opens_what_was_made),
		cmocka_unit_test(test_authority_certificate_passes_openssl),
		cmocka_unit_test(test_authority_key_is_sealed),
		cmocka_unit_test(test_authority_refuses_another_sealing_key),
		cmocka_unit_test(test_authority_refuses_what_does_not_belong_together),
		cmocka_unit_test(test_authority_refuses_an_expired_certificate),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
