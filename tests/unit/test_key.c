// links: common_x509
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/file.h"
#include "common/x509/cert.h"
#include "common/x509/key.h"

static char *directory;

static int make_directory(void **state)
{
	(void)state;
	directory = support_make_directory();
	return 0;
}

static int remove_directory(void **state)
{
	(void)state;
	support_remove_directory(directory);
	return 0;
}

static const char *in_directory(const char *name)
{
	static char path[4096];
	snprintf(path, sizeof path, "%s/%s", directory, name);
	return path;
}

/* Runs a shell command in the test's directory; its exit status. */
static int run(const char *command)
{
	char line[8192];
	snprintf(line, sizeof line, "cd %s && { %s; } >out 2>&1", directory, command);
	return system(line);
}

static gnutls_x509_privkey_t new_key(void)
{
	gnutls_x509_privkey_t key = NULL;
	assert_int_equal(x509_key_generate(NULL, &key), STATUS_OK);
	return key;
}

static void assert_same_key(gnutls_x509_privkey_t a, gnutls_x509_privkey_t b)
{
	uint8_t id_a[32], id_b[32];
	size_t len_a = sizeof id_a, len_b = sizeof id_b;
	assert_int_equal(gnutls_x509_privkey_get_key_id(a, GNUTLS_KEYID_USE_SHA256, id_a, &len_a), 0);
	assert_int_equal(gnutls_x509_privkey_get_key_id(b, GNUTLS_KEYID_USE_SHA256, id_b, &len_b), 0);
	assert_memory_equal(id_a, id_b, sizeof id_a);
}

static void test_key_survives_a_file(void **state)
{
	(void)state;
	gnutls_x509_privkey_t key = new_key(), again = NULL;
	struct status st = { 0 };
	const char *path = in_directory("plain.key");
	assert_int_equal(x509_key_save(key, NULL, path, &st), STATUS_OK);
	struct stat sb;
	assert_int_equal(stat(path, &sb), 0);
	assert_int_equal(sb.st_mode & 07777, 0600);
	assert_int_equal(x509_key_load(path, NULL, &st, &again), STATUS_OK);
	assert_same_key(key, again);
	assert_int_equal(run("openssl pkey -in plain.key -check -noout"), 0);
	assert_int_equal(x509_key_save(key, NULL, path, &st), STATUS_ALREADY_EXISTS);
	gnutls_x509_privkey_deinit(key);
	gnutls_x509_privkey_deinit(again);
}

static void test_key_survives_an_encrypted_file(void **state)
{
	(void)state;
	gnutls_x509_privkey_t key = new_key(), again = NULL;
	struct status st = { 0 };
	const char *path = in_directory("encrypted.key");
	assert_int_equal(x509_key_save(key, "correct horse", path, &st), STATUS_OK);
	assert_int_equal(x509_key_load(path, "correct horse", &st, &again), STATUS_OK);
	assert_same_key(key, again);
	gnutls_x509_privkey_deinit(again);
	again = NULL;
	assert_int_equal(x509_key_load(path, NULL, &st, &again), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "encrypted"));
	assert_int_equal(x509_key_load(path, "wrong", &st, &again), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "passphrase does not open"));
	assert_null(again);
	assert_int_equal(run("openssl pkey -in encrypted.key -passin 'pass:correct horse' -check -noout"), 0);
	assert_int_equal(run("grep -q 'BEGIN ENCRYPTED PRIVATE KEY' encrypted.key"), 0);
	gnutls_x509_privkey_deinit(key);
}

static void test_key_opens_what_openssl_made(void **state)
{
	(void)state;
	gnutls_x509_privkey_t key = NULL;
	struct status st = { 0 };
	assert_int_equal(run("umask 077; openssl ecparam -name prime256v1 -genkey -noout -out sec1.key"), 0);
	assert_int_equal(x509_key_load(in_directory("sec1.key"), NULL, &st, &key), STATUS_OK);
	gnutls_x509_privkey_deinit(key);
	/* A passphrase that the key does not need is no error: one file holds it for several keys. */
	assert_int_equal(x509_key_load(in_directory("sec1.key"), "not needed", &st, &key), STATUS_OK);
	gnutls_x509_privkey_deinit(key);
	assert_int_equal(run("umask 077; openssl pkcs8 -topk8 -in sec1.key -passout pass:x -v2 aes-256-cbc -out p8.key"), 0);
	assert_int_equal(x509_key_load(in_directory("p8.key"), "x", &st, &key), STATUS_OK);
	gnutls_x509_privkey_deinit(key);
}

static void test_key_refuses_an_open_or_broken_file(void **state)
{
	(void)state;
	gnutls_x509_privkey_t key = new_key(), again = NULL;
	struct status st = { 0 };
	const char *path = in_directory("open.key");
	assert_int_equal(x509_key_save(key, NULL, path, NULL), STATUS_OK);
	assert_int_equal(chmod(path, 0640), 0);
	assert_int_equal(x509_key_load(path, NULL, &st, &again), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "chmod 600"));
	assert_int_equal(x509_key_load(in_directory("missing.key"), NULL, &st, &again), STATUS_NOT_FOUND);
	path = in_directory("text.key");
	assert_int_equal(file_write(path, (struct slice){ "hello\n", 6 }, 0600, false, NULL), STATUS_OK);
	assert_int_equal(x509_key_load(path, NULL, &st, &again), STATUS_FAILED_PRECONDITION);
	assert_null(again);
	gnutls_x509_privkey_deinit(key);
}

static void test_key_survives_export(void **state)
{
	(void)state;
	gnutls_x509_privkey_t key = new_key(), again = NULL;
	struct buffer der = { 0 };
	assert_int_equal(x509_key_export(key, NULL, &der), STATUS_OK);
	assert_int_equal(x509_key_import((struct slice){ der.data, der.len }, NULL, &again), STATUS_OK);
	assert_same_key(key, again);
	gnutls_x509_privkey_deinit(again);
	assert_int_equal(x509_key_import((struct slice){ der.data, der.len / 2 }, NULL, &again),
			 STATUS_INVALID_ARGUMENT);
	gnutls_x509_privkey_deinit(key);
	buffer_wipe(&der);
}

/* OpenSSL's subjectKeyIdentifier=hash is RFC 5280's first method. */
static void test_key_id_is_openssls(void **state)
{
	(void)state;
	const char *make[] = {
		"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -out c -subj /CN=x",
		"openssl req -x509 -newkey rsa:2048 -nodes -keyout k -out c -subj /CN=x",
		"openssl req -x509 -newkey ed25519 -nodes -keyout k -out c -subj /CN=x",
	};
	for (size_t i = 0; i < sizeof make / sizeof make[0]; i++) {
		assert_int_equal(run(make[i]), 0);
		gnutls_x509_crt_t crt = NULL;
		assert_int_equal(x509_load(in_directory("c"), NULL, &crt), STATUS_OK);
		gnutls_pubkey_t key;
		assert_int_equal(gnutls_pubkey_init(&key), 0);
		assert_int_equal(gnutls_pubkey_import_x509(key, crt, 0), 0);
		uint8_t ours[20], theirs[64];
		size_t len = sizeof theirs;
		assert_int_equal(x509_key_id(key, NULL, ours), STATUS_OK);
		assert_int_equal(gnutls_x509_crt_get_subject_key_id(crt, theirs, &len, NULL), 0);
		assert_int_equal(len, sizeof ours);
		assert_memory_equal(ours, theirs, sizeof ours);
		gnutls_pubkey_deinit(key);
		gnutls_x509_crt_deinit(crt);
	}
}

static void test_key_request_passes_both_tools(void **state)
{
	(void)state;
	gnutls_x509_privkey_t key = new_key();
	struct buffer pem = { 0 };
	assert_int_equal(x509_request_make(key, "node1.example.com", NULL, &pem), STATUS_OK);
	struct slice request = { pem.data, pem.len };
	assert_int_equal(file_write(in_directory("r.csr"), request, 0644, true, NULL), STATUS_OK);
	assert_int_equal(run("openssl req -in r.csr -verify -noout -subject -nameopt RFC2253 | grep -q 'CN=node1.example.com'"), 0);
	assert_int_equal(run("certtool --crq-info --infile r.csr | grep -q 'Self signature: verified'"), 0);

	gnutls_pubkey_t verified = NULL;
	assert_int_equal(x509_request_verify(request, NULL, &verified), STATUS_OK);
	uint8_t of_request[32], of_key[32];
	size_t request_len = sizeof of_request, key_len = sizeof of_key;
	assert_int_equal(gnutls_pubkey_get_key_id(verified, GNUTLS_KEYID_USE_SHA256, of_request, &request_len), 0);
	assert_int_equal(gnutls_x509_privkey_get_key_id(key, GNUTLS_KEYID_USE_SHA256, of_key, &key_len), 0);
	assert_memory_equal(of_request, of_key, sizeof of_key);
	gnutls_pubkey_deinit(verified);
	gnutls_x509_privkey_deinit(key);
	buffer_free(&pem);
}

/* What verifying the file of a request answers. */
static enum status_code verify_file(const char *name, struct status *st)
{
	struct buffer data = { 0 };
	assert_int_equal(file_read(in_directory(name), 1 << 20, NULL, &data), STATUS_OK);
	gnutls_pubkey_t key = NULL;
	enum status_code rc = x509_request_verify((struct slice){ data.data, data.len }, st, &key);
	if (key)
		gnutls_pubkey_deinit(key);
	buffer_free(&data);
	return rc;
}

static void test_key_request_takes_the_listed_keys(void **state)
{
	(void)state;
	const char *good[] = { "rsa:2048", "rsa:2048 -pkeyopt rsa_keygen_pubexp:18446744073709551557", "ed25519", "ec -pkeyopt ec_paramgen_curve:P-384",
			       "ec -pkeyopt ec_paramgen_curve:P-521" };
	const char *bad[] = { "rsa:1024", "rsa:2048 -sha1", "rsa:2048 -sha224", "rsa:2048 -pkeyopt rsa_keygen_pubexp:3",
			      "ec -pkeyopt ec_paramgen_curve:P-256 -sha1", "ec -pkeyopt ec_paramgen_curve:secp256k1", "ec -pkeyopt ec_paramgen_curve:P-192",
			      "ed448", "rsa:2048 -pkeyopt rsa_keygen_pubexp:18446744073709551629" };
	char command[512];
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		snprintf(command, sizeof command, "openssl req -new -newkey %s -nodes -keyout k -out r -subj /CN=x", good[i]);
		assert_int_equal(run(command), 0);
		assert_int_equal(verify_file("r", NULL), STATUS_OK);
		assert_int_equal(run("openssl req -in r -outform DER -out r.der"), 0);
		assert_int_equal(verify_file("r.der", NULL), STATUS_OK);
	}
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		snprintf(command, sizeof command, "openssl req -new -newkey %s -nodes -keyout k -out r -subj /CN=x", bad[i]);
		assert_int_equal(run(command), 0);
		struct status st = { 0 };
		if (verify_file("r", &st) != STATUS_INVALID_ARGUMENT)
			fail_msg("accepted: %s", bad[i]);
		assert_non_null(strstr(st.message, "certificate request"));
	}
}

static void test_key_request_refuses_forgeries(void **state)
{
	(void)state;
	struct status st = { 0 };
	gnutls_pubkey_t key = NULL;
	assert_int_equal(run("openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -subj /CN=x "
			     "-outform DER -out r"),
			 0);
	struct buffer data = { 0 };
	assert_int_equal(file_read(in_directory("r"), 1 << 20, NULL, &data), STATUS_OK);
	/* No bit of it may change: header, name, key, signature. */
	unsigned taken = 0;
	for (size_t i = 0; i < data.len; i++) {
		data.data[i] ^= 1;
		if (x509_request_verify((struct slice){ data.data, data.len }, &st, &key) == STATUS_OK) {
			gnutls_pubkey_deinit(key);
			taken++;
		}
		data.data[i] ^= 1;
	}
	assert_int_equal(taken, 0);
	for (size_t len = 0; len < data.len; len++)
		assert_int_equal(x509_request_verify((struct slice){ data.data, len }, &st, &key),
				 STATUS_INVALID_ARGUMENT);
	buffer_free(&data);
	static char big[17 * 1024];
	assert_int_equal(x509_request_verify((struct slice){ big, sizeof big }, &st, &key), STATUS_INVALID_ARGUMENT);
	assert_int_equal(x509_request_verify((struct slice){ "", 0 }, &st, &key), STATUS_INVALID_ARGUMENT);
}

static void test_key_matches_its_certificate_alone(void **state)
{
	(void)state;
	assert_int_equal(run("umask 077; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout m.key "
			     "-out m.crt -subj /CN=x"),
			 0);
	gnutls_x509_privkey_t key = NULL, other = new_key();
	gnutls_x509_crt_t crt = NULL;
	int match = -1;
	assert_int_equal(x509_key_load(in_directory("m.key"), NULL, NULL, &key), STATUS_OK);
	assert_int_equal(x509_load(in_directory("m.crt"), NULL, &crt), STATUS_OK);
	assert_int_equal(x509_key_matches(key, crt, NULL, &match), STATUS_OK);
	assert_int_equal(match, 1);
	assert_int_equal(x509_key_matches(other, crt, NULL, &match), STATUS_OK);
	assert_int_equal(match, 0);
	gnutls_x509_privkey_deinit(key);
	gnutls_x509_privkey_deinit(other);
	gnutls_x509_crt_deinit(crt);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_key_survives_a_file),
		cmocka_unit_test(test_key_survives_an_encrypted_file),
		cmocka_unit_test(test_key_opens_what_openssl_made),
		cmocka_unit_test(test_key_refuses_an_open_or_broken_file),
		cmocka_unit_test(test_key_survives_export),
		cmocka_unit_test(test_key_id_is_openssls),
		cmocka_unit_test(test_key_request_passes_both_tools),
		cmocka_unit_test(test_key_request_takes_the_listed_keys),
		cmocka_unit_test(test_key_request_refuses_forgeries),
		cmocka_unit_test(test_key_matches_its_certificate_alone),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
