// links: service_serial
/* The state machine: who changed what, and what is forgotten of the deleted. */
#include "tests/support/state_fixture.h"

#define TOMBSTONES 10000

static Kds__V1__HistoryResponse *history(struct fixture *r, const char *key, const char *prefix, uint64_t before,
					 uint32_t limit)
{
	Kds__V1__HistoryRequest in = KDS__V1__HISTORY_REQUEST__INIT;
	in.key = (char *)key;
	in.prefix = (char *)prefix;
	in.before_revision = before;
	in.limit = limit;
	struct buffer b = { 0 };
	assert_int_equal(state_history(r->state, &in, &r->st, &b), STATUS_OK);
	Kds__V1__HistoryResponse *out = kds__v1__history_response__unpack(NULL, b.len, b.data);
	assert_non_null(out);
	buffer_free(&b);
	return out;
}

/* Newest first: this key at this revision, by whom, and its revision before. */
static void check_entry(const Kds__V1__HistoryEntry *e, const char *key, uint64_t revision, const char *requester,
			uint64_t previous)
{
	assert_string_equal(e->object->key, key);
	assert_int_equal(e->object->revision, revision);
	assert_string_equal(e->requester, requester);
	assert_int_equal(e->previous_revision, previous);
}

static void test_state_history_tells_who_changed_what(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r); /* revisions 1 and 2: the cluster and min_serial */
	allocate(&r, "ca1", 10);
	assert_int_equal(put_setting(&r, "a", "1"), STATUS_OK);
	r.time_ms += 5000;
	assert_int_equal(put_setting(&r, "a", "2"), STATUS_OK);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 5), STATUS_OK);
	assert_int_equal(set_min(&r, KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL, 5), STATUS_OK); /* changes nothing */
	assert_int_equal(put_checked(&r, NULL, true, 7), STATUS_INVALID_ARGUMENT);
	assert_int_equal(delete_checked(&r, "setting/a", true, 3), STATUS_ABORTED);
	assert_int_equal(delete_checked(&r, "setting/a", false, 0), STATUS_OK);
	assert_int_equal(put_setting(&r, "a", "3"), STATUS_OK);
	fixture_reopen(&r);

	Kds__V1__HistoryResponse *h = history(&r, "", "", 0, 0);
	assert_int_equal(h->n_entries, 7);
	assert_false(h->more);
	assert_int_equal(h->revision, 7);
	check_entry(h->entries[0], "setting/a", 7, "admin", 0);
	check_entry(h->entries[1], "setting/a", 6, "admin", 4);
	assert_true(h->entries[1]->object->deleted);
	check_entry(h->entries[2], "serial/min", 5, "admin", 2);
	assert_int_equal(h->entries[2]->object->min_serial->value, 5);
	check_entry(h->entries[3], "setting/a", 4, "admin", 3);
	assert_string_equal(h->entries[3]->object->setting->value, "2");
	assert_int_equal(h->entries[3]->time_ms, NOW_MS + 5000);
	check_entry(h->entries[4], "setting/a", 3, "admin", 0);
	assert_string_equal(h->entries[4]->object->setting->value, "1");
	assert_int_equal(h->entries[4]->time_ms, NOW_MS);
	check_entry(h->entries[6], "cluster", 1, "", 0);
	kds__v1__history_response__free_unpacked(h, NULL);

	h = history(&r, "serial/min", "", 0, 0);
	assert_int_equal(h->n_entries, 2);
	kds__v1__history_response__free_unpacked(h, NULL);
	h = history(&r, "", "setting/", 7, 2);
	assert_int_equal(h->n_entries, 2);
	assert_true(h->more);
	check_entry(h->entries[1], "setting/a", 4, "admin", 3);
	uint64_t before = h->before_revision;
	kds__v1__history_response__free_unpacked(h, NULL);
	h = history(&r, "", "setting/", before, 2);
	assert_int_equal(h->n_entries, 1);
	assert_false(h->more);
	kds__v1__history_response__free_unpacked(h, NULL);
	fixture_close(&r);
}

/* Nor in what the tables hold. */
static void test_state_history_has_no_secrets_and_nothing_large(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	assert_int_equal(put_authority(&r, "default", 100), STATUS_OK);
	assert_int_equal(put_master_key(&r, NOW_MS, NOW_MS), STATUS_OK);
	char *value = calloc(1, 5001);
	assert_non_null(value);
	memset(value, 'x', 5000);
	assert_int_equal(put_setting(&r, "large", value), STATUS_OK);
	free(value);
	Kds__V1__HistoryResponse *h = history(&r, "", "", 0, 3);
	assert_string_equal(h->entries[0]->object->key, "setting/large");
	assert_int_equal(h->entries[0]->object->value_case, KDS__V1__OBJECT__VALUE__NOT_SET);
	assert_false(h->entries[0]->object->deleted);
	assert_int_equal(h->entries[1]->object->master_key->published_ms, NOW_MS);
	assert_int_equal(h->entries[1]->object->master_key->sealed_key.len, 0);
	assert_int_equal(h->entries[2]->object->certificate_authority->certificate.len, DER_SIZE);
	assert_int_equal(h->entries[2]->object->certificate_authority->sealed_key.len, 0);
	kds__v1__history_response__free_unpacked(h, NULL);
	/* The objects themselves kept theirs. */
	Kds__V1__Object *o = get_sealed(&r, "ca/default", STATE_SEALED_CA);
	assert_int_equal(o->certificate_authority->sealed_key.len, 100);
	kds__v1__object__free_unpacked(o, NULL);
	sqlite3_stmt *select;
	assert_int_equal(sqlite3_prepare_v2(r.db, "SELECT max(length(value)) FROM history", -1, &select, NULL), 0);
	assert_int_equal(sqlite3_step(select), SQLITE_ROW);
	assert_in_range(sqlite3_column_int(select, 0), 1, 99);
	sqlite3_finalize(select);
	fixture_close(&r);
}

static uint64_t count_history(struct fixture *r)
{
	sqlite3_stmt *select;
	assert_int_equal(sqlite3_prepare_v2(r->db, "SELECT count(*), max(revision) - min(revision) + 1 FROM history", -1,
					    &select, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(select), SQLITE_ROW);
	uint64_t n = (uint64_t)sqlite3_column_int64(select, 0);
	assert_int_equal(n, sqlite3_column_int64(select, 1)); /* without holes */
	sqlite3_finalize(select);
	return n;
}

static void test_state_history_is_as_long_as_the_setting_says(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	for (int i = 0; i < 300; i++)
		assert_int_equal(put_setting(&r, "a", "1"), STATUS_OK);
	assert_int_equal(count_history(&r), 302);
	assert_int_equal(put_setting(&r, "history.length", "100"), STATUS_OK);
	assert_int_equal(count_history(&r), 303 - 64); /* a bit at a time */
	for (int i = 0; i < 4; i++)
		assert_int_equal(put_setting(&r, "a", "1"), STATUS_OK);
	assert_int_equal(count_history(&r), 100);
	Kds__V1__HistoryResponse *h = history(&r, "", "", 0, 1000);
	assert_int_equal(h->n_entries, 100);
	assert_int_equal(h->entries[99]->object->revision, state_revision(r.state) - 99);
	kds__v1__history_response__free_unpacked(h, NULL);
	fixture_close(&r);
}

/* An answer looks at so many rows and no more, and says where to go on. */
static void test_state_history_looks_at_so_many_at_once(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	for (int i = 0; i < 5000; i++)
		assert_int_equal(put_setting(&r, "a", "1"), STATUS_OK);
	Kds__V1__HistoryResponse *h = history(&r, "cluster", "", 0, 0);
	assert_int_equal(h->n_entries, 0);
	assert_true(h->more);
	uint64_t before = h->before_revision;
	assert_int_equal(before, 5002 - 4096 + 1);
	kds__v1__history_response__free_unpacked(h, NULL);
	h = history(&r, "cluster", "", before, 0);
	assert_int_equal(h->n_entries, 1);
	assert_false(h->more);
	kds__v1__history_response__free_unpacked(h, NULL);
	Kds__V1__HistoryRequest in = KDS__V1__HISTORY_REQUEST__INIT;
	struct buffer b = { 0 };
	in.limit = 1001;
	assert_int_equal(state_history(r.state, &in, &r.st, &b), STATUS_INVALID_ARGUMENT);
	buffer_free(&b);
	fixture_close(&r);
}

static void put_and_delete(struct fixture *r, int i)
{
	char name[32], key[48];
	snprintf(name, sizeof name, "s%d", i);
	snprintf(key, sizeof key, "setting/s%d", i);
	assert_int_equal(put_setting(r, name, "1"), STATUS_OK);
	assert_int_equal(delete_checked(r, key, false, 0), STATUS_OK);
}

static Kds__V1__WatchResponse *changes_began(struct fixture *r, uint64_t since, uint64_t began)
{
	Kds__V1__WatchRequest in = KDS__V1__WATCH_REQUEST__INIT;
	in.since_revision = since;
	in.began = began;
	struct buffer b = { 0 };
	bool any;
	assert_int_equal(state_changes(r->state, &in, 0, &r->st, &b, &any), STATUS_OK);
	Kds__V1__WatchResponse *out = kds__v1__watch_response__unpack(NULL, b.len, b.data);
	assert_non_null(out);
	assert_true(any || !out->restart);
	buffer_free(&b);
	return out;
}

static bool restarts(struct fixture *r, uint64_t since, uint64_t began)
{
	Kds__V1__WatchResponse *w = changes_began(r, since, began);
	bool restart = w->restart;
	assert_true(!restart || w->n_objects == 0);
	kds__v1__watch_response__free_unpacked(w, NULL);
	return restart;
}

static uint64_t count_objects(struct fixture *r)
{
	sqlite3_stmt *select;
	assert_int_equal(sqlite3_prepare_v2(r->db, "SELECT count(*) FROM objects", -1, &select, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(select), SQLITE_ROW);
	uint64_t n = (uint64_t)sqlite3_column_int64(select, 0);
	sqlite3_finalize(select);
	return n;
}

static void test_state_deletions_are_compacted(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	put_setting(&r, "kept", "1"); /* revision 3 */
	for (int i = 0; i < TOMBSTONES; i++)
		put_and_delete(&r, i); /* the first deletion: revision 5 */
	assert_int_equal(count_objects(&r), TOMBSTONES + 3);
	assert_false(restarts(&r, 3, 0));
	/* One that is written again is no deletion any more. */
	put_setting(&r, "s0", "2");
	delete_checked(&r, "setting/s0", false, 0);
	assert_int_equal(count_objects(&r), TOMBSTONES + 3);
	assert_false(restarts(&r, 3, 0));

	put_and_delete(&r, TOMBSTONES); /* s1's deletion, revision 7, goes */
	assert_int_equal(count_objects(&r), TOMBSTONES + 3);
	assert_true(restarts(&r, 3, 0));
	assert_true(restarts(&r, 6, 0));
	assert_false(restarts(&r, 7, 0));
	assert_false(restarts(&r, 0, 0));
	put_and_delete(&r, TOMBSTONES + 1);
	assert_true(restarts(&r, 8, 0));
	assert_false(restarts(&r, 9, 0));
	fixture_reopen(&r);
	assert_true(restarts(&r, 8, 0));
	assert_false(restarts(&r, 9, 0));
	put_and_delete(&r, TOMBSTONES + 2);
	assert_int_equal(count_objects(&r), TOMBSTONES + 3);
	fixture_close(&r);
}

/* Reading the whole state takes several calls, from revisions that may long be compacted: it must come to an end. */
static void test_state_a_reader_of_the_whole_state_gets_through(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	char name[32];
	for (int i = 0; i < 5000; i++) {
		snprintf(name, sizeof name, "live%d", i);
		put_setting(&r, name, "1");
	}
	for (int i = 0; i < TOMBSTONES + 10; i++)
		put_and_delete(&r, i);
	uint64_t since = 0, began = 0, first_began = 0;
	size_t seen = 0;
	bool more = true;
	for (int calls = 0; more; calls++) {
		Kds__V1__WatchResponse *w = changes_began(&r, since, began);
		assert_false(w->restart);
		assert_true(calls < 10);
		for (size_t i = 0; i < w->n_objects; i++)
			seen += !w->objects[i]->deleted;
		since = w->revision;
		began = w->began;
		more = w->more;
		if (calls == 0) {
			first_began = began;
			assert_int_equal(began, state_revision(r.state));
			/* One that does not say when it began cannot be told from one that fell behind. */
			assert_true(restarts(&r, since, 0));
			/* What is deleted meanwhile it hears of, as long as that is known. */
			delete_checked(&r, "setting/live0", false, 0);
		}
		kds__v1__watch_response__free_unpacked(w, NULL);
	}
	assert_int_equal(seen, 5000 + 2);
	assert_int_equal(began, 0);
	/* And when it is not, it is told to start again. */
	for (int i = 0; i < TOMBSTONES + 1; i++)
		put_and_delete(&r, i);
	assert_true(restarts(&r, 4000, first_began));
	assert_true(restarts(&r, 4000, UINT64_MAX));
	fixture_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_history_tells_who_changed_what),
		cmocka_unit_test(test_state_history_has_no_secrets_and_nothing_large),
		cmocka_unit_test(test_state_history_is_as_long_as_the_setting_says),
		cmocka_unit_test(test_state_history_looks_at_so_many_at_once),
		cmocka_unit_test(test_state_deletions_are_compacted),
		cmocka_unit_test(test_state_a_reader_of_the_whole_state_gets_through),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
