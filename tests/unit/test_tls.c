// links: common_net common_x509 common_base
#include "tests/support/support.h"

#include <string.h>
#include <sys/stat.h>

#include <gnutls/x509.h>

#include "common/base/file.h"
#include "common/net/tls.h"
#include "tests/support/pki.h"

static int set_up(void **state)
{
	*state = pki_new();
	return 0;
}

static int tear_down(void **state)
{
	pki_free(*state);
	return 0;
}

static void refused(const char *certificate, const char *key, enum status_code code, const char *text)
{
	struct tls_credentials *c = NULL;
	struct status st;
	assert_int_equal(tls_credentials_load(certificate, key, TLS_MINIMUM_1_2, &st, &c), code);
	assert_null(c);
	if (!strstr(st.message, text))
		fail_msg("'%s' does not say '%s'", st.message, text);
}

static void test_tls_loads(void **state)
{
	const struct pki_leaf *leaf = pki_service(*state, "ca", "ca1");
	struct tls_credentials *c, *none;
	struct status st;
	assert_int_equal(tls_credentials_load(leaf->certificate, leaf->key, TLS_MINIMUM_1_3, &st, &c), STATUS_OK);
	assert_int_equal(tls_credentials_not_after(c), gnutls_x509_crt_get_expiration_time(leaf->crt));
	assert_non_null(tls_credentials_gnutls(c));
	assert_non_null(tls_credentials_priority(c));
	tls_credentials_unref(tls_credentials_ref(c));
	tls_credentials_unref(c);
	assert_int_equal(tls_credentials_load(NULL, NULL, TLS_MINIMUM_1_3, &st, &none), STATUS_OK);
	assert_int_equal(tls_credentials_not_after(none), INT64_MAX);
	tls_credentials_unref(none);
}

static void test_tls_refuses(void **state)
{
	struct pki *p = *state;
	const struct pki_leaf *leaf = pki_admin(p), *other = pki_admin(p);
	struct pki_spec spec = { .common_name = "old", .ca = PKI_INFRASTRUCTURE, .starts_in = -7200, .ends_in = -60 };
	const struct pki_leaf *expired = pki_issue(p, &spec);
	refused(leaf->certificate, other->key, STATUS_FAILED_PRECONDITION, "do not belong together");
	refused(expired->certificate, expired->key, STATUS_FAILED_PRECONDITION, "has expired");
	refused(leaf->certificate, NULL, STATUS_INVALID_ARGUMENT, "both files");
	refused(NULL, leaf->key, STATUS_INVALID_ARGUMENT, "both files");
	refused("/nonexistent.crt", leaf->key, STATUS_NOT_FOUND, "/nonexistent.crt");
	refused(leaf->certificate, "/nonexistent.key", STATUS_NOT_FOUND, "/nonexistent.key");
	refused(leaf->key, leaf->key, STATUS_FAILED_PRECONDITION, leaf->key);
	assert_int_equal(chmod(leaf->key, 0640), 0);
	refused(leaf->certificate, leaf->key, STATUS_FAILED_PRECONDITION, "chmod 600");
}

static void test_tls_refuses_what_no_peer_takes(void **state)
{
	struct pki *p = *state;
	struct status st;
	const struct pki_leaf *leaf = pki_admin(p);
	gnutls_datum_t pem;
	assert_int_equal(gnutls_x509_crt_sign2(leaf->crt, pki_ca_crt(p, PKI_INFRASTRUCTURE), pki_ca_key(p, PKI_INFRASTRUCTURE),
					       GNUTLS_DIG_SHA1, 0), 0);
	assert_int_equal(gnutls_x509_crt_export2(leaf->crt, GNUTLS_X509_FMT_PEM, &pem), 0);
	assert_int_equal(file_write(leaf->certificate, (struct slice){ pem.data, pem.size }, 0644, true, &st), STATUS_OK);
	refused(leaf->certificate, leaf->key, STATUS_FAILED_PRECONDITION, "peers would refuse it: a signature of the kind");
	gnutls_free(pem.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_tls_loads, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_tls_refuses, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_tls_refuses_what_no_peer_takes, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
