// links: common_backup common_base
/* The stream of rows: what is put in comes out, however it is cut; and nothing else passes. */
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/backup/rows.h"

static struct row_value integer(int64_t value)
{
	return (struct row_value){ .type = ROW_INTEGER, .integer = value };
}

static struct row_value text(const char *value)
{
	return (struct row_value){ .type = ROW_TEXT, .bytes = { value, strlen(value) } };
}

static struct row_value blob(const char *value, size_t len)
{
	return (struct row_value){ .type = ROW_BLOB, .bytes = { value, len } };
}

static void make_stream(struct buffer *out)
{
	assert_true(rows_put_table(out, "numbers", "id,value"));
	const struct row_value first[] = { integer(INT64_MIN), blob("\0\1\2", 3) };
	assert_true(rows_put(out, first, 2));
	assert_true(rows_put_table(out, "empty", "x"));
	assert_true(rows_put_table(out, "words", "word,other"));
	const struct row_value second[] = { text(""), text("node1.example.com") };
	assert_true(rows_put(out, second, 2));
	const struct row_value third[] = { integer(-1), blob("", 0) };
	assert_true(rows_put(out, third, 2));
}

/* Puts what comes into a stream again. */
static enum status_code repeat(void *arg, const struct rows_record *record, struct status *st)
{
	struct buffer *out = arg;
	(void)st;
	if (!record->table) {
		assert_true(rows_put(out, record->values, record->n));
		return STATUS_OK;
	}
	char name[32], columns[32];
	snprintf(name, sizeof name, "%.*s", (int)record->values[0].bytes.len, (const char *)record->values[0].bytes.data);
	snprintf(columns, sizeof columns, "%.*s", (int)record->values[1].bytes.len,
		 (const char *)record->values[1].bytes.data);
	assert_true(rows_put_table(out, name, columns));
	return STATUS_OK;
}

static void test_rows_pieces_of_any_size_give_the_same(void **arg)
{
	(void)arg;
	struct buffer stream = { 0 };
	make_stream(&stream);
	for (size_t size = 1; size <= stream.len; size++) {
		struct rows_parser p = { 0 };
		struct buffer out = { 0 };
		struct status st;
		for (size_t at = 0; at < stream.len; at += size) {
			size_t n = stream.len - at < size ? stream.len - at : size;
			assert_int_equal(rows_feed(&p, (struct slice){ stream.data + at, n }, repeat, &out, &st), STATUS_OK);
		}
		assert_int_equal(rows_end(&p, &st), STATUS_OK);
		assert_int_equal(out.len, stream.len);
		assert_memory_equal(out.data, stream.data, stream.len);
		buffer_free(&out);
		rows_parser_fini(&p);
	}
	buffer_free(&stream);
}

static enum status_code feed(const void *data, size_t len)
{
	struct rows_parser p = { 0 };
	struct buffer out = { 0 };
	struct status st;
	enum status_code rc = rows_feed(&p, (struct slice){ data, len }, repeat, &out, &st);
	if (rc == STATUS_OK)
		rc = rows_end(&p, &st);
	buffer_free(&out);
	rows_parser_fini(&p);
	return rc;
}

static void test_rows_refuse_what_is_none(void **arg)
{
	(void)arg;
	static const struct {
		const char *what;
		size_t len;
		const char *bytes;
	} bad[] = {
		{ "a length of nothing", 4, "\0\0\0\0" },
		{ "a length beyond the limit", 5, "\xff\xff\xff\xff\2" },
		{ "an unknown kind", 5, "\0\0\0\1\3" },
		{ "an unknown type", 7, "\0\0\0\3\2\4\0" },
		{ "half an integer", 8, "\0\0\0\4\2\1\0\0" },
		{ "a text longer than the row", 12, "\0\0\0\10\2\2\0\0\0\3ab" },
		{ "a text with a NUL", 12, "\0\0\0\10\2\2\0\0\0\2a\0" },
		{ "a table of one value", 12, "\0\0\0\10\1\2\0\0\0\2ab" },
		{ "half a row", 6, "\0\0\0\12\2\1" },
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		if (feed(bad[i].bytes, bad[i].len) != STATUS_DATA_LOSS)
			fail_msg("%s passed", bad[i].what);
	assert_int_equal(feed("\0\0\0\10\2\2\0\0\0\2ab", 12), STATUS_OK);
}

static void test_rows_columns_are_bounded(void **arg)
{
	(void)arg;
	struct row_value values[ROWS_COLUMNS_MAX + 1];
	struct buffer stream = { 0 };
	for (size_t i = 0; i <= ROWS_COLUMNS_MAX; i++)
		values[i] = integer(1);
	assert_false(rows_put(&stream, values, ROWS_COLUMNS_MAX + 1));
	assert_true(rows_put(&stream, values, ROWS_COLUMNS_MAX));
	/* One more by hand: the length grows, a value follows. */
	static const uint8_t value[9] = { ROW_INTEGER };
	assert_true(buffer_append(&stream, value, sizeof value));
	stream.data[2] = (uint8_t)((stream.len - 4) >> 8);
	stream.data[3] = (uint8_t)(stream.len - 4);
	assert_int_equal(feed(stream.data, stream.len), STATUS_DATA_LOSS);
	buffer_free(&stream);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows_pieces_of_any_size_give_the_same),
		cmocka_unit_test(test_rows_refuse_what_is_none),
		cmocka_unit_test(test_rows_columns_are_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
