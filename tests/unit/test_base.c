// links: common_base
#include "tests/support/support.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/buffer.h"
#include "common/base/clock.h"
#include "common/base/crc32c.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/name_set.h"
#include "common/base/secret.h"
#include "common/base/tally.h"

static void test_status_keeps_code_and_message(void **state)
{
	(void)state;
	struct status st;
	assert_int_equal(status_set(&st, STATUS_NOT_FOUND, "no %s", "node"), STATUS_NOT_FOUND);
	assert_int_equal(st.code, STATUS_NOT_FOUND);
	assert_string_equal(st.message, "no node");
	assert_int_equal(status_prefix(&st, "sign %d", 7), STATUS_NOT_FOUND);
	assert_string_equal(st.message, "sign 7: no node");
	assert_int_equal(status_set(NULL, STATUS_ABORTED, "x"), STATUS_ABORTED);
	assert_string_equal(status_name(STATUS_UNAUTHENTICATED), "UNAUTHENTICATED");
	assert_string_equal(status_name((enum status_code)99), "CODE(99)");
}

static void test_status_truncates_between_characters(void **state)
{
	(void)state;
	char text[STATUS_MESSAGE_MAX * 2] = "";
	for (size_t i = 0; i + 2 < sizeof text; i += 2)
		memcpy(text + i, "\xC3\xA4", 3);
	struct status st;
	status_set(&st, STATUS_INTERNAL, "%s", text);
	size_t len = strlen(st.message);
	assert_true(len < STATUS_MESSAGE_MAX);
	assert_int_equal(len % 2, 0);
	status_set(&st, STATUS_INTERNAL, "x%s", text);
	assert_int_equal(strlen(st.message) % 2, 1);
}

static void test_buffer_grows_and_consumes(void **state)
{
	(void)state;
	struct buffer b = { 0 };
	assert_true(buffer_append(&b, "", 0));
	for (int i = 0; i < 1000; i++)
		assert_true(buffer_append(&b, "abcdef", 6));
	assert_int_equal(b.len, 6000);
	buffer_consume(&b, 4);
	assert_int_equal(b.len, 5996);
	assert_memory_equal(b.data, "efabcdef", 8);
	buffer_consume(&b, b.len);
	assert_int_equal(b.len, 0);
	assert_false(buffer_reserve(&b, SIZE_MAX / 2 + 1));
	buffer_wipe(&b);
	assert_null(b.data);
}

static void test_arena_keeps_to_its_budget(void **state)
{
	(void)state;
	struct arena *a = arena_new(100000);
	assert_non_null(a);
	uint8_t *first = arena_alloc(a, 10);
	uint8_t *large = arena_alloc(a, 50000);
	assert_non_null(first);
	assert_non_null(large);
	assert_int_equal((uintptr_t)large % 16, 0);
	memset(first, 1, 10);
	memset(large, 2, 50000);
	assert_int_equal(first[9], 1);
	assert_null(arena_alloc(a, 60000));
	assert_non_null(arena_alloc(a, 40000));
	assert_null(arena_alloc(a, SIZE_MAX));
	assert_null(arena_alloc(a, 20000));
	assert_int_equal(arena_used(a), 16 + 50000 + 40000);
	arena_wipe(a);
}

static void test_file_is_written_whole_or_not_at_all(void **state)
{
	(void)state;
	char *dir = support_make_directory();
	char path[4200];
	snprintf(path, sizeof path, "%s/x", dir);
	struct status st;
	assert_int_equal(file_write(path, (struct slice){ "one", 3 }, 0600, false, &st), STATUS_OK);
	assert_int_equal(file_write(path, (struct slice){ "two", 3 }, 0600, false, &st), STATUS_ALREADY_EXISTS);
	struct buffer b = { 0 };
	assert_int_equal(file_read(path, 10, &st, &b), STATUS_OK);
	assert_int_equal(b.len, 3);
	assert_memory_equal(b.data, "one", 3);
	assert_int_equal(file_write(path, (struct slice){ "three", 5 }, 0640, true, &st), STATUS_OK);
	struct stat sb;
	assert_int_equal(stat(path, &sb), 0);
	assert_int_equal(sb.st_mode & 07777, 0640);
	assert_int_equal(file_read(path, 4, &st, &b), STATUS_FAILED_PRECONDITION);
	assert_int_equal(b.len, 3);
	assert_int_equal(file_read(dir, 4, &st, &b), STATUS_FAILED_PRECONDITION);
	snprintf(path, sizeof path, "%s/none/x", dir);
	assert_int_equal(file_write(path, (struct slice){ "", 0 }, 0600, true, &st), STATUS_NOT_FOUND);
	assert_int_equal(file_read(path, 4, &st, &b), STATUS_NOT_FOUND);
	assert_non_null(strstr(st.message, path));
	buffer_free(&b);
	support_remove_directory(dir);
}

static void test_secret_file_must_be_private(void **state)
{
	(void)state;
	char *dir = support_make_directory();
	char path[4200];
	snprintf(path, sizeof path, "%s/key", dir);
	struct status st;
	uint8_t *data;
	size_t len;
	assert_int_equal(file_write(path, (struct slice){ "hush", 4 }, 0640, false, &st), STATUS_OK);
	assert_int_equal(secret_read_file(path, 10, &st, &data, &len), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "chmod 600"));
	assert_int_equal(chmod(path, 0600), 0);
	assert_int_equal(secret_read_file(path, 3, &st, &data, &len), STATUS_FAILED_PRECONDITION);
	assert_int_equal(secret_read_file(path, 4, &st, &data, &len), STATUS_OK);
	assert_int_equal(len, 4);
	assert_string_equal((char *)data, "hush");
	assert_true(secret_equal(data, "hush", 4));
	assert_false(secret_equal(data, "husH", 4));
	secret_free(data, len + 1);
	support_remove_directory(dir);
}

/* What the log writes to standard error for one message. */
static void capture_log(const char *message, char *out, size_t size)
{
	int pipes[2];
	assert_int_equal(pipe(pipes), 0);
	int saved = dup(STDERR_FILENO);
	dup2(pipes[1], STDERR_FILENO);
	log_error("said %s", message);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(pipes[1]);
	ssize_t n = read(pipes[0], out, size - 1);
	close(pipes[0]);
	assert_true(n > 0);
	out[n] = '\0';
}

static void test_log_lines_cannot_be_forged(void **state)
{
	(void)state;
	char line[2048];
	unsetenv("JOURNAL_STREAM");
	log_init("kds-test/x", LOG_LEVEL_INFO);
	capture_log("a\nb\x1B[0m", line, sizeof line);
	assert_non_null(strstr(line, " error kds-test/x: said a?b?[0m\n"));
	assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
	struct status st;
	enum log_level level = LOG_LEVEL_INFO;
	assert_int_equal(log_level_parse("debug", &st, &level), STATUS_OK);
	assert_int_equal(level, LOG_LEVEL_DEBUG);
	assert_int_equal(log_level_parse("loud", &st, &level), STATUS_INVALID_ARGUMENT);
}

static void test_clocks_agree_with_the_system(void **state)
{
	(void)state;
	uint64_t before = clock_monotonic_us();
	assert_true(clock_monotonic_ms() >= before / 1000);
	assert_true(clock_unix_ms() > 1700000000000);
}

/* RFC 3720 §B.4, and the usual check value. */
static void test_crc32c_is_the_standard_one(void **state)
{
	(void)state;
	uint8_t bytes[32] = { 0 };
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283u);
	assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x8a9136aau);
	memset(bytes, 0xff, sizeof bytes);
	assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x62a8ab43u);
	assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283u);
	assert_int_equal(crc32c(0, "", 0), 0);
}

static void test_tally_reports_what_was_added(void **state)
{
	(void)state;
	char text[1024], small[8];
	for (unsigned i = 0; i < TALLY_COUNT; i++)
		assert_non_null(tally_name((enum tally)i));
	(void)tally_report(text, sizeof text);
	assert_false(tally_report(text, sizeof text));
	uint64_t before = tally_sum(TALLY_IDLE);
	tally_add(TALLY_FRAME_SLOW);
	tally_add(TALLY_IDLE);
	tally_add(TALLY_IDLE);
	assert_true(tally_report(text, sizeof text));
	assert_string_equal(text, "frame-slow=1 idle=2");
	assert_int_equal(tally_sum(TALLY_IDLE), before + 2);
	tally_add(TALLY_FRAME_SLOW);
	assert_true(tally_report(small, sizeof small));
	assert_string_equal(small, "frame-s");
	assert_false(tally_report(text, sizeof text));
}

static void test_name_set_of_many(void **state)
{
	(void)state;
	struct name_set set = { 0 };
	char name[32];
	enum { N = 10000 };
	assert_false(name_set_has(&set, "node1"));
	name_set_remove(&set, "node1");
	for (int round = 0; round < 2; round++)
		for (int i = 0; i < N; i++) {
			snprintf(name, sizeof name, "node%d", i);
			assert_true(name_set_add(&set, name));
		}
	assert_int_equal(set.n, N);
	for (int i = 0; i < N; i += 2) {
		snprintf(name, sizeof name, "node%d", i);
		name_set_remove(&set, name);
	}
	for (int i = 0; i < N + 10; i++) {
		snprintf(name, sizeof name, "node%d", i);
		assert_int_equal(name_set_has(&set, name), i < N && i % 2 == 1);
	}
	assert_int_equal(set.n, N / 2);
	name_set_free(&set);
	assert_false(name_set_has(&set, "node1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_status_keeps_code_and_message),
		cmocka_unit_test(test_status_truncates_between_characters),
		cmocka_unit_test(test_buffer_grows_and_consumes),
		cmocka_unit_test(test_arena_keeps_to_its_budget),
		cmocka_unit_test(test_file_is_written_whole_or_not_at_all),
		cmocka_unit_test(test_secret_file_must_be_private),
		cmocka_unit_test(test_log_lines_cannot_be_forged),
		cmocka_unit_test(test_clocks_agree_with_the_system),
		cmocka_unit_test(test_crc32c_is_the_standard_one),
		cmocka_unit_test(test_name_set_of_many),
		cmocka_unit_test(test_tally_reports_what_was_added),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
