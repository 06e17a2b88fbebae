// links: service_serial common_base
#include "tests/support/support.h"

#include <stdlib.h>
#include <string.h>

#include "services/serial/entry_cache.h"

static bool append(struct entry_cache *c, raft_index index, size_t len, raft_index keep)
{
	uint8_t data[4096];
	memset(data, (int)(index & 0xff), sizeof data);
	const struct cached_entry e = { .term = index / 10 + 1, .type = RAFT_COMMAND, .data = { data, len } };
	return entry_cache_append(c, index, &e, keep);
}

static void is_there(struct entry_cache *c, raft_index index, size_t len)
{
	struct cached_entry e;
	assert_true(entry_cache_get(c, index, &e));
	assert_int_equal(e.term, index / 10 + 1);
	assert_int_equal(e.data.len, len);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(((const uint8_t *)e.data.data)[i], index & 0xff);
}

static void is_gone(struct entry_cache *c, raft_index index)
{
	struct cached_entry e;
	assert_false(entry_cache_get(c, index, &e));
}

static void test_entry_cache_oldest_make_room(void **state)
{
	(void)state;
	struct entry_cache *c = entry_cache_new(8, 1000);
	assert_non_null(c);
	for (raft_index i = 100; i < 120; i++)
		assert_true(append(c, i, 10, UINT64_MAX));
	is_gone(c, 111); /* eight slots */
	for (raft_index i = 112; i < 120; i++)
		is_there(c, i, 10);
	is_gone(c, 120);
	assert_true(append(c, 120, 900, UINT64_MAX)); /* and a thousand bytes */
	is_there(c, 120, 900);
	is_gone(c, 112);
	entry_cache_free(c);
}

static void test_entry_cache_keeps_what_waits_for_the_disk(void **state)
{
	(void)state;
	struct entry_cache *c = entry_cache_new(8, 1000);
	assert_non_null(c);
	for (raft_index i = 1; i <= 8; i++)
		assert_true(append(c, i, 10, 5));
	assert_true(append(c, 9, 10, 5));
	assert_true(append(c, 12 - 2, 10, 5));
	is_gone(c, 2);
	assert_true(append(c, 11, 10, 5));
	assert_true(append(c, 12, 10, 5));
	assert_false(append(c, 13, 10, 5)); /* 5 to 12 fill the slots */
	is_there(c, 5, 10);
	is_there(c, 12, 10);
	assert_true(append(c, 13, 10, 6));
	entry_cache_free(c);
}

static void test_entry_cache_truncates(void **state)
{
	(void)state;
	struct entry_cache *c = entry_cache_new(8, 1000);
	assert_non_null(c);
	for (raft_index i = 1; i <= 6; i++)
		assert_true(append(c, i, 100, 1));
	entry_cache_truncate(c, 4);
	is_there(c, 3, 100);
	is_gone(c, 4);
	assert_true(append(c, 4, 50, 1));
	is_there(c, 4, 50);
	entry_cache_truncate(c, 1);
	is_gone(c, 1);
	assert_true(append(c, 50, 10, 50)); /* empty: may begin anywhere */
	is_there(c, 50, 10);
	entry_cache_truncate(c, 20); /* before all it has */
	is_gone(c, 50);
	assert_true(append(c, 20, 10, 20));
	is_there(c, 20, 10);
	entry_cache_free(c);
}

/* Every length and order against what it must hold. */
static void test_entry_cache_agrees_with_a_model(void **state)
{
	(void)state;
	static size_t lengths[100000];
	struct entry_cache *c = entry_cache_new(64, 5000);
	assert_non_null(c);
	unsigned random = 7;
	raft_index last = 0, written = 0;
	for (int step = 0; step < 50000; step++) {
		random = random * 1103515245 + 12345;
		unsigned r = random >> 8;
		if (r % 10 == 0 && last > written + 1) {
			last = written + 1 + r % (last - written);
			entry_cache_truncate(c, last + 1);
		} else if (r % 7 == 0) {
			written = last;
		}
		size_t len = r % 13 == 0 ? 0 : r % 400;
		if (!append(c, last + 1, len, written + 1)) {
			written = last;
			assert_true(append(c, last + 1, len, written + 1));
		}
		lengths[++last] = len;
		for (raft_index i = written + 1; i <= last; i++)
			is_there(c, i, lengths[i]);
	}
	entry_cache_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_entry_cache_oldest_make_room),
		cmocka_unit_test(test_entry_cache_keeps_what_waits_for_the_disk),
		cmocka_unit_test(test_entry_cache_truncates),
		cmocka_unit_test(test_entry_cache_agrees_with_a_model),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
