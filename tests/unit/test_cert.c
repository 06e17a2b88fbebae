// links: common_x509
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/file.h"
#include "common/x509/cert.h"
#include "common/x509/key.h"

static char *directory;
static gnutls_x509_privkey_t ca_key, leaf_key;
static gnutls_privkey_t ca_signer;
static gnutls_pubkey_t leaf_public, ca_public;
static gnutls_x509_crt_t ca_crt;
static int64_t now;

static const char *in_directory(const char *name)
{
	static char path[4096];
	snprintf(path, sizeof path, "%s/%s", directory, name);
	return path;
}

static int run(const char *command)
{
	char line[8192];
	snprintf(line, sizeof line, "cd %s && { %s; } >out 2>&1", directory, command);
	return system(line);
}

static void save(gnutls_x509_crt_t crt, const char *name)
{
	struct buffer pem = { 0 };
	assert_int_equal(x509_to_pem(crt, NULL, &pem), STATUS_OK);
	assert_int_equal(file_write(in_directory(name), (struct slice){ pem.data, pem.len }, 0644, true, NULL), STATUS_OK);
	buffer_free(&pem);
}

static gnutls_pubkey_t public_of(gnutls_privkey_t key)
{
	gnutls_pubkey_t public;
	assert_int_equal(gnutls_pubkey_init(&public), 0);
	assert_int_equal(gnutls_pubkey_import_privkey(public, key, 0, 0), 0);
	return public;
}

static struct x509_template ca_template(void)
{
	return (struct x509_template){ .common_name = "test CA", .serial = 1, .not_before = now - 3600,
				       .not_after = now + 86400, .usage = X509_USAGE_CA, .path_len = 0 };
}

static int set_up(void **state)
{
	(void)state;
	now = time(NULL);
	directory = support_make_directory();
	assert_int_equal(x509_key_generate(NULL, &ca_key), STATUS_OK);
	assert_int_equal(x509_key_generate(NULL, &leaf_key), STATUS_OK);
	assert_int_equal(gnutls_privkey_init(&ca_signer), 0);
	assert_int_equal(gnutls_privkey_import_x509(ca_signer, ca_key, 0), 0);
	ca_public = public_of(ca_signer);
	gnutls_privkey_t leaf;
	assert_int_equal(gnutls_privkey_init(&leaf), 0);
	assert_int_equal(gnutls_privkey_import_x509(leaf, leaf_key, 0), 0);
	leaf_public = public_of(leaf);
	gnutls_privkey_deinit(leaf);
	struct x509_template t = ca_template();
	assert_int_equal(x509_build(&t, ca_public, &(struct x509_issuer){ .key = ca_signer }, NULL, &ca_crt), STATUS_OK);
	save(ca_crt, "ca.pem");
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	gnutls_x509_crt_deinit(ca_crt);
	gnutls_pubkey_deinit(ca_public);
	gnutls_pubkey_deinit(leaf_public);
	gnutls_privkey_deinit(ca_signer);
	gnutls_x509_privkey_deinit(ca_key);
	gnutls_x509_privkey_deinit(leaf_key);
	support_remove_directory(directory);
	return 0;
}

static const char *const dns_names[] = { "node1.example.com", "alias.example.com" };
static const char *const addresses[] = { "192.0.2.1", "2001:db8::1" };
static const char *const uris[] = { "urn:example:prjA#10s", "kds://cluster.example.com/role/ca/ca1" };

static struct x509_template leaf_template(void)
{
	return (struct x509_template){
		.common_name = "node1.example.com", .serial = 42,
		.not_before = now - 300, .not_after = now + 3600,
		.usage = X509_USAGE_SERVER | X509_USAGE_CLIENT,
		.dns_names = dns_names, .n_dns_names = 2,
		.addresses = addresses, .n_addresses = 2,
		.uris = uris, .n_uris = 2,
	};
}

static gnutls_x509_crt_t build_leaf(const struct x509_template *t)
{
	struct status st = { 0 };
	gnutls_x509_crt_t crt = NULL;
	struct x509_issuer issuer = { .certificate = ca_crt, .key = ca_signer };
	if (x509_build(t, leaf_public, &issuer, &st, &crt) != STATUS_OK)
		fail_msg("%s", st.message);
	return crt;
}

static void test_cert_passes_strict_verification(void **state)
{
	(void)state;
	struct x509_template t = leaf_template();
	gnutls_x509_crt_t crt = build_leaf(&t);
	save(crt, "leaf.pem");
	assert_int_equal(run("openssl verify -x509_strict -check_ss_sig -CAfile ca.pem ca.pem"), 0);
	assert_int_equal(run("openssl verify -x509_strict -purpose sslserver -verify_hostname alias.example.com "
			     "-CAfile ca.pem leaf.pem"),
			 0);
	assert_int_equal(run("openssl verify -x509_strict -purpose sslclient -verify_ip 2001:db8::1 -CAfile ca.pem leaf.pem"),
			 0);
	assert_int_not_equal(run("openssl verify -verify_hostname other.example.com -CAfile ca.pem leaf.pem"), 0);
	assert_int_equal(run("certtool --verify --load-ca-certificate ca.pem --infile leaf.pem"), 0);
	assert_int_equal(run("certtool -i --infile leaf.pem | grep -q 'Version: 3'"), 0);
	gnutls_x509_crt_deinit(crt);
}

static void test_cert_info_reads_what_was_built(void **state)
{
	(void)state;
	struct x509_template t = leaf_template();
	gnutls_x509_crt_t crt = build_leaf(&t);
	struct x509_info info, ca;
	struct status st = { 0 };
	assert_int_equal(x509_info_read(crt, &st, &info), STATUS_OK);
	assert_int_equal(x509_info_read(ca_crt, &st, &ca), STATUS_OK);
	assert_string_equal(info.common_name, "node1.example.com");
	assert_string_equal(info.issuer_name, "CN=test CA");
	assert_int_equal(info.n_dns_names, 2);
	assert_string_equal(info.dns_names[1], "alias.example.com");
	assert_int_equal(info.n_addresses, 2);
	assert_string_equal(info.addresses[0], "192.0.2.1");
	assert_string_equal(info.addresses[1], "2001:db8::1");
	assert_int_equal(info.n_uris, 2);
	assert_string_equal(info.uris[0], "urn:example:prjA#10s");
	assert_int_equal(x509_info_serial(&info), 42);
	assert_int_equal(info.not_before, now - 300);
	assert_int_equal(info.not_after, now + 3600);
	assert_false(info.ca);
	assert_int_equal(info.usage, X509_USAGE_SERVER | X509_USAGE_CLIENT);
	assert_int_equal(info.issuer_key_id_len, ca.key_id_len);
	assert_memory_equal(info.issuer_key_id, ca.key_id, ca.key_id_len);
	uint8_t id[20];
	assert_int_equal(x509_key_id(leaf_public, NULL, id), STATUS_OK);
	assert_int_equal(info.key_id_len, sizeof id);
	assert_memory_equal(info.key_id, id, sizeof id);
	assert_true(ca.ca);
	assert_true(ca.usage & X509_USAGE_CA);
	assert_memory_equal(ca.issuer_key_id, ca.key_id, ca.key_id_len);
	x509_info_free(&info);
	x509_info_free(&ca);
	gnutls_x509_crt_deinit(crt);
}

/* Criticality as RFC 5280 §4.2 says; a leaf carries no basicConstraints. */
static void test_cert_extensions_are_as_the_rfc_says(void **state)
{
	(void)state;
	static const char *const kds_name[] = { "key.example.com" };
	struct x509_template t = leaf_template();
	t.usage = X509_USAGE_CLIENT;
	t.dns_names = kds_name;
	t.n_dns_names = 1;
	gnutls_x509_crt_t crt = build_leaf(&t);
	save(crt, "client.pem");
	assert_int_equal(run("openssl x509 -in client.pem -noout -ext keyUsage | grep -A1 critical | "
			     "grep -qx ' *Digital Signature'"),
			 0);
	assert_int_equal(run("openssl x509 -in client.pem -noout -ext extendedKeyUsage | "
			     "grep -qx ' *TLS Web Client Authentication'"),
			 0);
	assert_int_not_equal(run("openssl x509 -in client.pem -noout -ext basicConstraints | grep -q CA:"), 0);
	assert_int_not_equal(run("openssl verify -purpose sslserver -CAfile ca.pem client.pem"), 0);
	assert_int_equal(run("openssl x509 -in ca.pem -noout -ext basicConstraints | grep -A1 critical | "
			     "grep -q 'CA:TRUE, pathlen:0'"),
			 0);
	assert_int_equal(run("openssl x509 -in ca.pem -noout -ext keyUsage | grep -A1 critical | "
			     "grep -qx ' *Certificate Sign, CRL Sign'"),
			 0);
	gnutls_x509_crt_deinit(crt);
}

static void test_cert_serial_is_positive_and_minimal(void **state)
{
	(void)state;
	static const struct {
		uint64_t serial;
		const char *der; /* content of the INTEGER */
		size_t len;
	} cases[] = {
		{ 1, "\x01", 1 },
		{ 127, "\x7f", 1 },
		{ 128, "\x00\x80", 2 },
		{ 255, "\x00\xff", 2 },
		{ 256, "\x01\x00", 2 },
		{ UINT64_C(0x7fffffffffffffff), "\x7f\xff\xff\xff\xff\xff\xff\xff", 8 },
		{ UINT64_C(0x8000000000000000), "\x00\x80\x00\x00\x00\x00\x00\x00\x00", 9 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct x509_template t = leaf_template();
		t.serial = cases[i].serial;
		gnutls_x509_crt_t crt = build_leaf(&t);
		struct buffer der = { 0 };
		assert_int_equal(x509_to_der(crt, NULL, &der), STATUS_OK);
		gnutls_x509_crt_t again = NULL;
		assert_int_equal(x509_import((struct slice){ der.data, der.len }, NULL, &again), STATUS_OK);
		uint8_t bytes[20];
		size_t len = sizeof bytes;
		assert_int_equal(gnutls_x509_crt_get_serial(again, bytes, &len), 0);
		assert_int_equal(len, cases[i].len);
		assert_memory_equal(bytes, cases[i].der, len);
		struct x509_info info;
		assert_int_equal(x509_info_read(again, NULL, &info), STATUS_OK);
		assert_true(x509_info_serial(&info) ==
			    (cases[i].serial >> 63 ? UINT64_MAX : cases[i].serial));
		x509_info_free(&info);
		gnutls_x509_crt_deinit(again);
		gnutls_x509_crt_deinit(crt);
		buffer_free(&der);
	}
}

static void test_cert_random_serials_differ(void **state)
{
	(void)state;
	struct x509_info a, b;
	struct x509_template t = leaf_template();
	t.serial = 0;
	gnutls_x509_crt_t crt = build_leaf(&t);
	assert_int_equal(x509_info_read(crt, NULL, &a), STATUS_OK);
	gnutls_x509_crt_deinit(crt);
	crt = build_leaf(&t);
	assert_int_equal(x509_info_read(crt, NULL, &b), STATUS_OK);
	gnutls_x509_crt_deinit(crt);
	assert_int_equal(a.serial_len, 16);
	assert_memory_not_equal(a.serial, b.serial, 16);
	assert_true(x509_info_serial(&a) == UINT64_MAX);
	x509_info_free(&a);
	x509_info_free(&b);
}

static void test_cert_build_refuses(void **state)
{
	(void)state;
	struct status st = { 0 };
	gnutls_x509_crt_t crt = NULL;
	struct x509_issuer issuer = { .certificate = ca_crt, .key = ca_signer };
	struct x509_template t = leaf_template();
	t.not_after = now + 86401;
	assert_int_equal(x509_build(&t, leaf_public, &issuer, &st, &crt), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "outlive"));
	t = leaf_template();
	t.not_after = t.not_before;
	assert_int_equal(x509_build(&t, leaf_public, &issuer, &st, &crt), STATUS_INVALID_ARGUMENT);
	t = leaf_template();
	t.common_name = "";
	assert_int_equal(x509_build(&t, leaf_public, &issuer, &st, &crt), STATUS_INVALID_ARGUMENT);
	t.common_name = "12345678901234567890123456789012345678901234567890123456789012345";
	assert_int_equal(x509_build(&t, leaf_public, &issuer, &st, &crt), STATUS_INVALID_ARGUMENT);
	t = leaf_template();
	t.addresses = dns_names;
	assert_int_equal(x509_build(&t, leaf_public, &issuer, &st, &crt), STATUS_INVALID_ARGUMENT);

	t = leaf_template();
	gnutls_x509_crt_t leaf = build_leaf(&t);
	t.not_after--;
	assert_int_equal(x509_build(&t, leaf_public, &(struct x509_issuer){ leaf, ca_signer }, &st, &crt),
			 STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "no CA"));
	gnutls_x509_crt_deinit(leaf);
	assert_null(crt);
}

/* What kds-ca signed once it can make again of its record, byte for byte. */
static void assert_reproducible(const struct x509_template *t, const struct x509_issuer *issuer)
{
	struct buffer der[2] = { 0 };
	for (int i = 0; i < 2; i++) {
		gnutls_x509_crt_t crt = NULL;
		assert_int_equal(x509_build(t, leaf_public, issuer, NULL, &crt), STATUS_OK);
		assert_int_equal(x509_to_der(crt, NULL, &der[i]), STATUS_OK);
		gnutls_x509_crt_deinit(crt);
	}
	assert_int_equal(der[0].len, der[1].len);
	assert_memory_equal(der[0].data, der[1].data, der[0].len);
	buffer_free(&der[0]);
	buffer_free(&der[1]);
}

static void test_cert_is_the_same_when_built_again(void **state)
{
	(void)state;
	struct x509_template t = leaf_template();
	assert_reproducible(&t, &(struct x509_issuer){ .certificate = ca_crt, .key = ca_signer });
}

/* The hash follows the issuer's key, and SKI is copied into AKI as it is, whoever made the CA. */
static void test_cert_works_under_foreign_cas(void **state)
{
	(void)state;
	const char *keys[] = { "rsa:2048", "ed25519", "ec -pkeyopt ec_paramgen_curve:P-384" };
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		char command[512];
		snprintf(command, sizeof command,
			 "umask 077; openssl req -x509 -newkey %s -nodes -keyout f.key -out f.pem -subj '/O=a/CN=foreign' -days 30 "
			 "-addext keyUsage=critical,keyCertSign -addext subjectKeyIdentifier=01020304 "
			 "-addext authorityKeyIdentifier=none",
			 keys[i]);
		assert_int_equal(run(command), 0);
		gnutls_x509_privkey_t key = NULL;
		struct x509_issuer issuer = { 0 };
		struct status st = { 0 };
		assert_int_equal(x509_key_load(in_directory("f.key"), NULL, &st, &key), STATUS_OK);
		assert_int_equal(x509_load(in_directory("f.pem"), &st, &issuer.certificate), STATUS_OK);
		assert_int_equal(gnutls_privkey_init(&issuer.key), 0);
		assert_int_equal(gnutls_privkey_import_x509(issuer.key, key, 0), 0);
		struct x509_template t = leaf_template();
		gnutls_x509_crt_t crt = NULL;
		if (x509_build(&t, leaf_public, &issuer, &st, &crt) != STATUS_OK)
			fail_msg("%s: %s", keys[i], st.message);
		save(crt, "foreign-leaf.pem");
		assert_int_equal(run("openssl verify -x509_strict -CAfile f.pem foreign-leaf.pem"), 0);
		assert_reproducible(&t, &issuer);
		gnutls_x509_crt_deinit(crt);
		gnutls_x509_crt_deinit(issuer.certificate);
		gnutls_privkey_deinit(issuer.key);
		gnutls_x509_privkey_deinit(key);
	}
}

static void test_cert_load_reads_files(void **state)
{
	(void)state;
	struct x509_template t = leaf_template();
	gnutls_x509_crt_t crt = build_leaf(&t), *list = NULL;
	save(crt, "leaf.pem");
	gnutls_x509_crt_deinit(crt);
	unsigned n = 0;
	struct status st = { 0 };
	assert_int_equal(run("cat leaf.pem ca.pem >chain.pem; echo nothing >nothing.pem; "
			     "for i in $(seq 65); do cat ca.pem; done >many.pem"),
			 0);
	assert_int_equal(x509_load_list(in_directory("chain.pem"), &st, &list, &n), STATUS_OK);
	assert_int_equal(n, 2);
	struct x509_info info;
	assert_int_equal(x509_info_read(list[0], &st, &info), STATUS_OK);
	assert_string_equal(info.common_name, "node1.example.com");
	x509_info_free(&info);
	x509_list_free(list, n);
	assert_int_equal(x509_load_list(in_directory("many.pem"), &st, &list, &n), STATUS_INVALID_ARGUMENT);
	assert_int_equal(x509_load_list(in_directory("nothing.pem"), &st, &list, &n), STATUS_INVALID_ARGUMENT);
	assert_int_equal(x509_load(in_directory("nothing.pem"), &st, &crt), STATUS_INVALID_ARGUMENT);
	assert_non_null(strstr(st.message, "nothing.pem"));
	assert_int_equal(x509_load(in_directory("missing.pem"), &st, &crt), STATUS_NOT_FOUND);
}

static void test_cert_info_refuses_hidden_characters(void **state)
{
	(void)state;
	const char *const nasty[] = { "urn:x\ny" };
	struct x509_template t = leaf_template();
	t.uris = nasty;
	t.n_uris = 1;
	struct status st = { 0 };
	struct x509_info info;
	gnutls_x509_crt_t crt = NULL;
	struct x509_issuer issuer = { .certificate = ca_crt, .key = ca_signer };
	/* GnuTLS may refuse to build it; what is built must not be read. */
	if (x509_build(&t, leaf_public, &issuer, &st, &crt) == STATUS_OK) {
		assert_int_equal(x509_info_read(crt, &st, &info), STATUS_INVALID_ARGUMENT);
		gnutls_x509_crt_deinit(crt);
	}
	t = leaf_template();
	t.common_name = "a\tb";
	crt = build_leaf(&t);
	assert_int_equal(x509_info_read(crt, &st, &info), STATUS_INVALID_ARGUMENT);
	gnutls_x509_crt_deinit(crt);
	assert_int_equal(run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -out nul.pem "
			     "-subj /CN=x -addext subjectAltName=DER:300782056100622e63"),
			 0);
	assert_int_equal(x509_load(in_directory("nul.pem"), &st, &crt), STATUS_OK);
	assert_int_equal(x509_info_read(crt, &st, &info), STATUS_INVALID_ARGUMENT);
	gnutls_x509_crt_deinit(crt);
}

static void test_cert_info_survives_damage(void **state)
{
	(void)state;
	struct x509_template t = leaf_template();
	gnutls_x509_crt_t crt = build_leaf(&t);
	struct buffer der = { 0 };
	assert_int_equal(x509_to_der(crt, NULL, &der), STATUS_OK);
	gnutls_x509_crt_deinit(crt);
	for (size_t i = 0; i < der.len; i++) {
		uint8_t was = der.data[i];
		der.data[i] = (uint8_t)(was ^ 0xff);
		struct x509_info info;
		if (x509_import((struct slice){ der.data, der.len }, NULL, &crt) == STATUS_OK) {
			if (x509_info_read(crt, NULL, &info) == STATUS_OK)
				x509_info_free(&info);
			gnutls_x509_crt_deinit(crt);
		}
		der.data[i] = was;
	}
	buffer_free(&der);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cert_passes_strict_verification),
		cmocka_unit_test(test_cert_info_reads_what_was_built),
		cmocka_unit_test(test_cert_extensions_are_as_the_rfc_says),
		cmocka_unit_test(test_cert_serial_is_positive_and_minimal),
		cmocka_unit_test(test_cert_random_serials_differ),
		cmocka_unit_test(test_cert_build_refuses),
		cmocka_unit_test(test_cert_is_the_same_when_built_again),
		cmocka_unit_test(test_cert_works_under_foreign_cas),
		cmocka_unit_test(test_cert_load_reads_files),
		cmocka_unit_test(test_cert_info_refuses_hidden_characters),
		cmocka_unit_test(test_cert_info_survives_damage),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
