// links: common_x509
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/file.h"
#include "common/x509/seal.h"

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

static struct seal *new_seal(const char *name)
{
	struct seal *s = NULL;
	assert_int_equal(seal_create_file(in_directory(name), NULL), STATUS_OK);
	assert_int_equal(seal_load(in_directory(name), NULL, &s), STATUS_OK);
	return s;
}

static const struct slice secret = { "a private key", 13 };

static void test_seal_opens_what_it_closed(void **state)
{
	(void)state;
	struct seal *s = new_seal("a.seal");
	struct buffer sealed = { 0 }, clear = { 0 };
	assert_int_equal(seal_close(s, "ca/default", secret, NULL, &sealed), STATUS_OK);
	assert_int_equal(sealed.len, 1 + 8 + 12 + 13 + 16);
	assert_null(memmem(sealed.data, sealed.len, secret.data, secret.len));
	assert_int_equal(seal_open(s, "ca/default", (struct slice){ sealed.data, sealed.len }, NULL, &clear), STATUS_OK);
	assert_int_equal(clear.len, secret.len);
	assert_memory_equal(clear.data, secret.data, secret.len);
	buffer_wipe(&clear);

	struct buffer again = { 0 };
	assert_int_equal(seal_close(s, "ca/default", secret, NULL, &again), STATUS_OK);
	assert_memory_not_equal(again.data, sealed.data, sealed.len); /* a nonce of its own */
	buffer_free(&again);
	buffer_free(&sealed);
	seal_free(s);
}

static void test_seal_refuses_another_purpose_and_damage(void **state)
{
	(void)state;
	struct seal *s = new_seal("b.seal");
	struct buffer sealed = { 0 }, clear = { 0 };
	struct status st = { 0 };
	assert_int_equal(seal_close(s, "ca/default", secret, NULL, &sealed), STATUS_OK);
	struct slice all = { sealed.data, sealed.len };
	assert_int_equal(seal_open(s, "ca/other", all, &st, &clear), STATUS_DATA_LOSS);
	for (size_t i = 0; i < sealed.len; i++) {
		sealed.data[i] ^= 0x80;
		assert_int_not_equal(seal_open(s, "ca/default", all, &st, &clear), STATUS_OK);
		sealed.data[i] ^= 0x80;
	}
	for (size_t len = 0; len < sealed.len; len++)
		assert_int_equal(seal_open(s, "ca/default", (struct slice){ sealed.data, len }, &st, &clear),
				 STATUS_DATA_LOSS);
	assert_int_equal(clear.len, 0);
	buffer_wipe(&clear);
	buffer_free(&sealed);
	seal_free(s);
}

static void test_seal_names_the_key_that_is_missing(void **state)
{
	(void)state;
	struct seal *mine = new_seal("mine.seal"), *other = new_seal("other.seal");
	struct buffer sealed = { 0 }, clear = { 0 };
	struct status st = { 0 };
	assert_int_equal(seal_close(other, "ca/default", secret, NULL, &sealed), STATUS_OK);
	assert_int_equal(seal_open(mine, "ca/default", (struct slice){ sealed.data, sealed.len }, &st, &clear),
			 STATUS_FAILED_PRECONDITION);
	char line[32];
	struct buffer file = { 0 };
	assert_int_equal(file_read(in_directory("other.seal"), 4096, NULL, &file), STATUS_OK);
	snprintf(line, sizeof line, "%.16s", (const char *)file.data + strlen("kds-seal-1 "));
	assert_non_null(strstr(st.message, line));
	assert_non_null(strstr(st.message, "mine.seal"));
	buffer_free(&file);
	buffer_free(&sealed);
	seal_free(mine);
	seal_free(other);
}

static void test_seal_rotates(void **state)
{
	(void)state;
	struct seal *old = new_seal("old.seal"), *new = new_seal("new.seal"), *both = NULL;
	struct buffer file = { 0 };
	assert_true(buffer_append(&file, "# the newest first\n\n", 20));
	assert_int_equal(file_read(in_directory("new.seal"), 4096, NULL, &file), STATUS_OK);
	assert_int_equal(file_read(in_directory("old.seal"), 4096, NULL, &file), STATUS_OK);
	assert_int_equal(file_write(in_directory("both.seal"), (struct slice){ file.data, file.len }, 0600, false, NULL),
			 STATUS_OK);
	assert_int_equal(seal_load(in_directory("both.seal"), NULL, &both), STATUS_OK);

	struct buffer sealed = { 0 }, clear = { 0 };
	assert_int_equal(seal_close(old, "x", secret, NULL, &sealed), STATUS_OK);
	assert_int_equal(seal_open(both, "x", (struct slice){ sealed.data, sealed.len }, NULL, &clear), STATUS_OK);
	sealed.len = 0;
	assert_int_equal(seal_close(both, "x", secret, NULL, &sealed), STATUS_OK);
	assert_int_equal(seal_open(new, "x", (struct slice){ sealed.data, sealed.len }, NULL, &clear), STATUS_OK);
	assert_int_equal(seal_open(old, "x", (struct slice){ sealed.data, sealed.len }, NULL, &clear),
			 STATUS_FAILED_PRECONDITION);
	buffer_wipe(&clear);
	buffer_free(&sealed);
	buffer_free(&file);
	seal_free(old);
	seal_free(new);
	seal_free(both);
}

static void test_seal_file_is_checked(void **state)
{
	(void)state;
	struct seal *s = NULL;
	struct status st = { 0 };
	assert_int_equal(seal_load(in_directory("missing.seal"), &st, &s), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "copy it"));

	const char *path = in_directory("open.seal");
	assert_int_equal(seal_create_file(path, NULL), STATUS_OK);
	struct stat sb;
	assert_int_equal(stat(path, &sb), 0);
	assert_int_equal(sb.st_mode & 07777, 0600);
	assert_int_equal(seal_create_file(path, NULL), STATUS_ALREADY_EXISTS);
	assert_int_equal(chmod(path, 0644), 0);
	assert_int_equal(seal_load(path, &st, &s), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "chmod 600"));
	assert_int_equal(chmod(path, 0600), 0);

	/* Any one character less or changed is seen. */
	struct buffer good = { 0 };
	assert_int_equal(file_read(path, 4096, NULL, &good), STATUS_OK);
	for (size_t i = 0; i + 1 < good.len; i++) {
		uint8_t was = good.data[i];
		good.data[i] = was == 'b' ? 'c' : 'b';
		struct slice text = { good.data, good.len };
		assert_int_equal(file_write(in_directory("bad.seal"), text, 0600, true, NULL), STATUS_OK);
		if (seal_load(in_directory("bad.seal"), &st, &s) != STATUS_FAILED_PRECONDITION)
			fail_msg("a change at %zu was not seen", i);
		good.data[i] = was;
	}
	assert_int_equal(file_write(in_directory("bad.seal"), (struct slice){ "", 0 }, 0600, true, NULL), STATUS_OK);
	assert_int_equal(seal_load(in_directory("bad.seal"), &st, &s), STATUS_FAILED_PRECONDITION);
	assert_null(s);
	buffer_free(&good);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_seal_opens_what_it_closed),
		cmocka_unit_test(test_seal_refuses_another_purpose_and_damage),
		cmocka_unit_test(test_seal_names_the_key_that_is_missing),
		cmocka_unit_test(test_seal_rotates),
		cmocka_unit_test(test_seal_file_is_checked),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
