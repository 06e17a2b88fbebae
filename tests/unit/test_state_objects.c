// links: service_serial
/* The state machine: configuration objects, lists and watches. */
#include "tests/support/state_fixture.h"

/* Objects. */

static void test_state_put_counts_revisions(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	assert_int_equal(put_setting(&r, "a", "1"), STATUS_OK);
	Kds__V1__Object *o = kds__v1__object__unpack(NULL, r.result.answer.len, r.result.answer.data);
	assert_non_null(o);
	assert_string_equal(o->key, "setting/a");
	assert_int_equal(o->revision, 3);
	kds__v1__object__free_unpacked(o, NULL);
	assert_int_equal(put_setting(&r, "a", "2"), STATUS_OK);
	fixture_reopen(&r);
	o = get_sealed(&r, "setting/a", 0);
	assert_non_null(o);
	assert_int_equal(o->revision, 4);
	assert_string_equal(o->setting->value, "2");
	kds__v1__object__free_unpacked(o, NULL);
	fixture_close(&r);
}

static void test_state_put_compares_and_sets(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	setting.name = "a";
	setting.value = "1";
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_SETTING;
	o.setting = &setting;
	assert_int_equal(put_checked(&r, &o, true, 5), STATUS_ABORTED);
	assert_int_equal(put_checked(&r, &o, true, 0), STATUS_OK);
	assert_int_equal(put_checked(&r, &o, true, 0), STATUS_ABORTED);
	assert_int_equal(put_checked(&r, &o, true, 2), STATUS_ABORTED);
	assert_int_equal(put_checked(&r, &o, true, 3), STATUS_OK);
	assert_int_equal(state_revision(r.state), 4);
	assert_int_equal(delete_checked(&r, "setting/a", true, 3), STATUS_ABORTED);
	assert_int_equal(delete_checked(&r, "setting/a", true, 4), STATUS_OK);
	/* Deleted is as good as never there. */
	assert_int_equal(put_checked(&r, &o, true, 0), STATUS_OK);
	fixture_close(&r);
}

static void test_state_delete_leaves_a_tombstone_for_watchers(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	assert_int_equal(put_setting(&r, "a", "1"), STATUS_OK);
	assert_int_equal(delete_checked(&r, "setting/a", false, 0), STATUS_OK);
	assert_int_equal(delete_checked(&r, "setting/a", false, 0), STATUS_NOT_FOUND);
	assert_int_equal(delete_checked(&r, "setting/b", false, 0), STATUS_NOT_FOUND);
	assert_null(get_sealed(&r, "setting/a", 0));
	assert_int_equal(r.st.code, STATUS_NOT_FOUND);
	Kds__V1__ListResponse *l = list(&r, "setting/", "", 0);
	assert_int_equal(l->n_objects, 0);
	kds__v1__list_response__free_unpacked(l, NULL);
	bool any;
	Kds__V1__WatchResponse *w = changes(&r, 2, NULL, &any);
	assert_int_equal(w->n_objects, 1);
	assert_string_equal(w->objects[0]->key, "setting/a");
	assert_true(w->objects[0]->deleted);
	assert_int_equal(w->objects[0]->value_case, KDS__V1__OBJECT__VALUE__NOT_SET);
	kds__v1__watch_response__free_unpacked(w, NULL);
	fixture_close(&r);
}

static void test_state_put_refuses_the_cluster_and_nothing(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	Kds__V1__Cluster cluster = KDS__V1__CLUSTER__INIT;
	cluster.name = "other.example.com";
	cluster.kds_name = "key.example.com";
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_CLUSTER;
	o.cluster = &cluster;
	assert_int_equal(put_checked(&r, &o, false, 0), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "object.cluster");
	o.value_case = KDS__V1__OBJECT__VALUE__NOT_SET;
	assert_int_equal(put_checked(&r, &o, false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_checked(&r, NULL, false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(delete_checked(&r, "cluster", false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(delete_checked(&r, "node/", false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(delete_checked(&r, "", false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(delete_checked(&r, "else/x", false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(state_revision(r.state), 2);
	fixture_close(&r);
}

static void test_state_put_checks_nodes(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	char *addresses[] = { "192.0.2.1", "2001:db8::1", "192.0.2.1" };
	char *groups[] = { "urn:example:prjA#10s", "urn:example:prjB", "urn:example:prjA" };
	assert_int_equal(put_node(&r, "node1.example.com", addresses, 2, groups, 2), STATUS_OK);
	assert_int_equal(put_node(&r, "Node1", NULL, 0, NULL, 0), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "object.node.name");
	assert_int_equal(put_node(&r, "key.example.com", NULL, 0, NULL, 0), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "object.node.name");
	assert_int_equal(put_node(&r, "node2.example.com", addresses, 3, groups, 2), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "object.node.addresses");
	char *no_address[] = { "192.0.2.300" };
	assert_int_equal(put_node(&r, "node2.example.com", no_address, 1, NULL, 0), STATUS_INVALID_ARGUMENT);
	/* The same group with another precision is the same group. */
	assert_int_equal(put_node(&r, "node2.example.com", NULL, 0, groups, 3), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "object.node.groups");
	char *no_group[] = { "kds://cluster.example.com/role/admin/x" };
	assert_int_equal(put_node(&r, "node2.example.com", NULL, 0, no_group, 1), STATUS_INVALID_ARGUMENT);
	assert_null(get_sealed(&r, "node/node2.example.com", 0));
	fixture_close(&r);
}

static void test_state_put_bounds_sizes(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	char *many[257], text[257][32];
	for (int i = 0; i < 257; i++) {
		snprintf(text[i], sizeof text[i], "urn:example:g%d", i);
		many[i] = text[i];
	}
	assert_int_equal(put_node(&r, "node1.example.com", NULL, 0, many, 257), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_node(&r, "node1.example.com", NULL, 0, many, 256), STATUS_OK);
	for (int i = 0; i < 65; i++)
		snprintf(text[i], sizeof text[i], "192.0.2.%d", i);
	assert_int_equal(put_node(&r, "node1.example.com", many, 65, NULL, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_node(&r, "node1.example.com", many, 64, NULL, 0), STATUS_OK);
	assert_int_equal(put_authority(&r, "default", 16 * 1024 + 1), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_authority(&r, "default", 16 * 1024), STATUS_OK);
	assert_int_equal(put_authority(&r, "a/b", 1), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_master_key(&r, 0, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_master_key(&r, 5, 4), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_master_key(&r, 5, 5), STATUS_OK);
	/* of a clock that is far ahead; its own command's time counts, not the one before */
	const uint64_t ahead = 2 * 3600 * 1000;
	assert_int_equal(put_master_key(&r, 6, r.time_ms + ahead + 1), STATUS_FAILED_PRECONDITION);
	assert_int_equal(put_master_key(&r, r.time_ms + ahead + 1, r.time_ms + ahead + 1), STATUS_FAILED_PRECONDITION);
	assert_int_equal(put_master_key(&r, 6, r.time_ms + ahead), STATUS_OK);
	r.time_ms++;
	assert_int_equal(put_master_key(&r, 6, r.time_ms + ahead), STATUS_OK);
	char *value = calloc(1, 64 * 1024 + 2);
	assert_non_null(value);
	memset(value, 'x', 64 * 1024 + 1);
	assert_int_equal(put_setting(&r, "big", value), STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.result.field, "object.setting.value");
	value[64 * 1024] = '\0';
	assert_int_equal(put_setting(&r, "big", value), STATUS_OK);
	free(value);
	assert_int_equal(put_setting(&r, "", "x"), STATUS_INVALID_ARGUMENT);
	assert_int_equal(put_setting(&r, "../x", "x"), STATUS_INVALID_ARGUMENT);
	fixture_close(&r);
}

static void test_state_sealed_keys_are_shown_by_kind(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	assert_int_equal(put_authority(&r, "default", 100), STATUS_OK);
	assert_int_equal(put_master_key(&r, 1234, 1234), STATUS_OK);
	for (unsigned sealed = 0; sealed < 4; sealed++) {
		Kds__V1__Object *ca = get_sealed(&r, "ca/default", sealed);
		Kds__V1__Object *key = get_sealed(&r, "masterkey/00000000000000001234", sealed);
		assert_non_null(ca);
		assert_non_null(key);
		assert_int_equal(ca->certificate_authority->sealed_key.len, sealed & STATE_SEALED_CA ? 100 : 0);
		assert_int_equal(ca->certificate_authority->certificate.len, DER_SIZE);
		assert_int_equal(key->master_key->sealed_key.len, sealed & STATE_SEALED_MASTERKEY ? 4 : 0);
		assert_int_equal(key->master_key->published_ms, 1234);
		kds__v1__object__free_unpacked(ca, NULL);
		kds__v1__object__free_unpacked(key, NULL);
	}
	bool any;
	Kds__V1__WatchResponse *w = changes(&r, 0, "masterkey/", &any);
	assert_int_equal(w->n_objects, 1);
	assert_int_equal(w->objects[0]->master_key->sealed_key.len, 0);
	kds__v1__watch_response__free_unpacked(w, NULL);
	Kds__V1__ListResponse *l = list(&r, "ca/", "", 0);
	assert_int_equal(l->n_objects, 1);
	assert_int_equal(l->objects[0]->certificate_authority->sealed_key.len, 0);
	kds__v1__list_response__free_unpacked(l, NULL);
	fixture_close(&r);
}

/* Lists and watches. */

static void test_state_list_pages_by_key(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	char name[32];
	for (int i = 9; i >= 0; i--) {
		snprintf(name, sizeof name, "n%d.example.com", i);
		assert_int_equal(put_node(&r, name, NULL, 0, NULL, 0), STATUS_OK);
	}
	put_setting(&r, "z", "1");
	char after[64] = "";
	size_t seen = 0;
	bool more = true;
	while (more) {
		Kds__V1__ListResponse *l = list(&r, "node/", after, 5);
		for (size_t i = 0; i < l->n_objects; i++) {
			assert_true(strcmp(l->objects[i]->key, after) > 0);
			snprintf(after, sizeof after, "%s", l->objects[i]->key);
			seen++;
		}
		more = l->more;
		assert_int_equal(l->revision, state_revision(r.state));
		kds__v1__list_response__free_unpacked(l, NULL);
	}
	assert_int_equal(seen, 10);
	Kds__V1__ListResponse *l = list(&r, "node/", "", 10);
	assert_false(l->more);
	kds__v1__list_response__free_unpacked(l, NULL);
	l = list(&r, "", "", 0);
	assert_int_equal(l->n_objects, 13); /* with the cluster, min_serial and the setting */
	kds__v1__list_response__free_unpacked(l, NULL);
	fixture_close(&r);
}

static void test_state_answers_are_bounded(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	char *value = calloc(1, 64 * 1024 + 1), name[16];
	assert_non_null(value);
	memset(value, 'x', 64 * 1024);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof name, "s%02d", i);
		assert_int_equal(put_setting(&r, name, value), STATUS_OK);
	}
	free(value);
	Kds__V1__ListResponse *l = list(&r, "setting/", "", 0);
	assert_in_range(l->n_objects, 8, 9);
	assert_true(l->more);
	size_t listed = l->n_objects;
	Kds__V1__ListResponse *rest = list(&r, "setting/", l->objects[listed - 1]->key, 0);
	assert_string_equal(rest->objects[0]->key, listed == 8 ? "setting/s08" : "setting/s09");
	kds__v1__list_response__free_unpacked(rest, NULL);
	kds__v1__list_response__free_unpacked(l, NULL);

	uint64_t since = 0;
	size_t seen = 0;
	for (bool more = true; more;) {
		bool any;
		Kds__V1__WatchResponse *w = changes(&r, since, "setting/", &any);
		assert_true(any);
		seen += w->n_objects;
		more = w->more;
		since = w->revision;
		if (w->n_objects > 0 && more)
			assert_int_equal(since, w->objects[w->n_objects - 1]->revision);
		kds__v1__watch_response__free_unpacked(w, NULL);
	}
	assert_int_equal(seen, 20);
	assert_int_equal(since, state_revision(r.state));
	fixture_close(&r);
}

static void test_state_watch_is_ordered_by_revision(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	put_setting(&r, "b", "1");
	put_setting(&r, "a", "1");
	put_setting(&r, "b", "2");
	put_node(&r, "n1.example.com", NULL, 0, NULL, 0);
	bool any;
	Kds__V1__WatchResponse *w = changes(&r, 2, "setting/", &any);
	assert_true(any);
	assert_int_equal(w->n_objects, 2);
	assert_string_equal(w->objects[0]->key, "setting/a");
	assert_string_equal(w->objects[1]->key, "setting/b");
	assert_string_equal(w->objects[1]->setting->value, "2");
	assert_int_equal(w->revision, 6);
	kds__v1__watch_response__free_unpacked(w, NULL);
	w = changes(&r, 5, "setting/", &any);
	assert_false(any);
	assert_int_equal(w->revision, 6);
	kds__v1__watch_response__free_unpacked(w, NULL);
	w = changes(&r, 7, "setting/", &any);
	assert_true(any);
	assert_true(w->restart);
	assert_int_equal(w->n_objects, 0);
	kds__v1__watch_response__free_unpacked(w, NULL);
	w = changes(&r, UINT64_MAX, NULL, &any);
	assert_true(w->restart);
	assert_int_equal(w->n_objects, 0);
	kds__v1__watch_response__free_unpacked(w, NULL);
	fixture_close(&r);
}

/* Whoever asks for little among much must not hold up the engine: the look ends, and goes on with the next call. */
static void test_state_watch_looks_at_so_many_at_once(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	char name[16];
	for (int i = 0; i < 9000; i++) {
		snprintf(name, sizeof name, "s%d", i);
		assert_int_equal(put_setting(&r, name, "x"), STATUS_OK);
	}
	assert_int_equal(put_node(&r, "n1.example.com", NULL, 0, NULL, 0), STATUS_OK);
	uint64_t since = 0;
	unsigned calls = 0;
	size_t seen = 0;
	for (bool more = true; more; calls++) {
		bool any;
		Kds__V1__WatchResponse *w = changes(&r, since, "node/", &any);
		assert_true(any);
		assert_true(w->revision > since);
		seen += w->n_objects;
		more = w->more;
		since = w->revision;
		kds__v1__watch_response__free_unpacked(w, NULL);
	}
	assert_int_equal(calls, 3);
	assert_int_equal(seen, 1);
	assert_int_equal(since, state_revision(r.state));
	fixture_close(&r);
}

/* What is deleted because it is old goes by the replicas' time. */
static void test_objects_delete_waits_for_the_replicas_time(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	assert_int_equal(put_setting(&r, "site.a", "b"), STATUS_OK);
	Kds__V1__DeleteRequest in = KDS__V1__DELETE_REQUEST__INIT;
	in.key = (char *)"setting/site.a";
	in.not_before_ms = r.time_ms + 1;
	Kds__V1__Command c = command("keydist1");
	c.op_case = KDS__V1__COMMAND__OP_DELETE;
	c.delete_ = &in;
	assert_int_equal(apply(&r, &c), STATUS_FAILED_PRECONDITION);
	r.time_ms++;
	assert_int_equal(apply(&r, &c), STATUS_OK);
	fixture_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_put_counts_revisions),
		cmocka_unit_test(test_state_put_compares_and_sets),
		cmocka_unit_test(test_state_delete_leaves_a_tombstone_for_watchers),
		cmocka_unit_test(test_state_put_refuses_the_cluster_and_nothing),
		cmocka_unit_test(test_state_put_checks_nodes),
		cmocka_unit_test(test_state_put_bounds_sizes),
		cmocka_unit_test(test_state_sealed_keys_are_shown_by_kind),
		cmocka_unit_test(test_state_list_pages_by_key),
		cmocka_unit_test(test_state_answers_are_bounded),
		cmocka_unit_test(test_state_watch_is_ordered_by_revision),
		cmocka_unit_test(test_state_watch_looks_at_so_many_at_once),
		cmocka_unit_test(test_objects_delete_waits_for_the_replicas_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
