// links: service_serial
/* What is wrong in a view, and that nothing is where nothing is. */
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/serial/alarms.h"

#define N 3

/* A cluster of three where all is well; alarms are the only thing on the heap. */
struct world {
	Kds__V1__ViewResponse view;
	Kds__V1__Member members[N], *member_list[N];
	Kds__V1__ReplicaStatus statuses[N];
	Kds__V1__StateDigest digests[N], *digest_lists[N];
	uint8_t bytes[N][32];
	char names[N][16];
};

static void begin(struct world *w)
{
	memset(w, 0, sizeof *w);
	kds__v1__view_response__init(&w->view);
	for (int i = 0; i < N; i++) {
		Kds__V1__Member *m = w->member_list[i] = &w->members[i];
		Kds__V1__ReplicaStatus *s = m->status = &w->statuses[i];
		kds__v1__member__init(m);
		kds__v1__replica_status__init(s);
		kds__v1__state_digest__init(&w->digests[i]);
		m->status = s;
		snprintf(w->names[i], sizeof w->names[i], "serial%d", i + 1);
		m->id = s->id = (uint64_t)i + 1;
		m->name = w->names[i];
		m->voter = m->reachable = m->clock_known = true;
		s->version = (char *)"1.0";
		s->commit_index = s->applied_index = 500000;
		s->free_bytes = (uint64_t)50 << 30;
		s->total_bytes = (uint64_t)100 << 30;
		w->digests[i].index = 1024;
		w->digests[i].digest = (ProtobufCBinaryData){ sizeof w->bytes[i], w->bytes[i] };
		w->digest_lists[i] = &w->digests[i];
		s->digests = &w->digest_lists[i];
		s->n_digests = 1;
	}
	w->view.members = w->member_list;
	w->view.n_members = N;
	w->view.asked_id = w->view.leader_id = 1;
	w->view.quorum = true;
}

static void end(struct world *w)
{
	for (size_t i = 0; i < w->view.n_alarms; i++)
		kds__v1__alarm__free_unpacked(w->view.alarms[i], NULL);
	free(w->view.alarms);
}

/* Exactly one, of this kind and replica. */
static void assert_one(struct world *w, Kds__V1__AlarmKind kind, uint64_t replica, const char *words)
{
	assert_true(alarms_add(&w->view));
	assert_int_equal(w->view.n_alarms, 1);
	assert_int_equal(w->view.alarms[0]->kind, kind);
	assert_int_equal(w->view.alarms[0]->replica, replica);
	if (!strstr(w->view.alarms[0]->text, words))
		fail_msg("'%s' does not say '%s'", w->view.alarms[0]->text, words);
	end(w);
}

static void test_alarms_none_where_all_is_well(void **arg)
{
	(void)arg;
	struct world w;
	begin(&w);
	w.statuses[1].applied_index -= ALARM_LAG_ENTRIES;
	w.members[2].clock_offset_ms = ALARM_CLOCK_MS;
	assert_true(alarms_add(&w.view));
	assert_int_equal(w.view.n_alarms, 0);
	end(&w);
}

static void test_alarms_of_one_replica(void **arg)
{
	(void)arg;
	struct world w;
	begin(&w);
	w.members[1].reachable = false;
	assert_one(&w, KDS__V1__ALARM_KIND__ALARM_UNREACHABLE, 2, "serial2");
	begin(&w);
	w.statuses[1].applied_index -= ALARM_LAG_ENTRIES + 1;
	assert_one(&w, KDS__V1__ALARM_KIND__ALARM_LAGGING, 2, "10001 entries");
	begin(&w);
	w.members[2].clock_offset_ms = -ALARM_CLOCK_MS - 1;
	assert_one(&w, KDS__V1__ALARM_KIND__ALARM_CLOCK, 3, "2.0 s behind");
	begin(&w);
	w.statuses[0].free_bytes = ALARM_FREE_BYTES - 1;
	assert_one(&w, KDS__V1__ALARM_KIND__ALARM_DISK, 1, "1023 MiB");
	begin(&w);
	w.statuses[0].free_bytes = (uint64_t)9 << 30; /* of 100 */
	assert_one(&w, KDS__V1__ALARM_KIND__ALARM_DISK, 1, "make room");
}

/* The clock of the replica that answers is wrong, not those of all others. */
static void test_alarms_clock_blames_the_one_that_is_off(void **arg)
{
	(void)arg;
	struct world w;
	begin(&w);
	w.members[1].clock_offset_ms = w.members[2].clock_offset_ms = -3600000;
	assert_one(&w, KDS__V1__ALARM_KIND__ALARM_CLOCK, 1, "3600.0 s ahead");
}

static void test_alarms_of_the_cluster(void **arg)
{
	(void)arg;
	struct world w;
	begin(&w);
	w.view.quorum = false;
	assert_one(&w, KDS__V1__ALARM_KIND__ALARM_NO_QUORUM, 0, "no common leader");
	begin(&w);
	w.statuses[2].version = (char *)"1.1";
	assert_one(&w, KDS__V1__ALARM_KIND__ALARM_VERSIONS, 0, "1.0 and 1.1");
	begin(&w);
	w.view.quorum = false;
	w.members[1].reachable = w.members[2].reachable = false;
	assert_true(alarms_add(&w.view));
	assert_int_equal(w.view.n_alarms, 3);
	assert_non_null(strstr(w.view.alarms[0]->text, "1 of 3 voters"));
	assert_non_null(strstr(w.view.alarms[0]->text, "until 2 are"));
	end(&w);
}

static void test_alarms_digests_differ_at_equal_indexes(void **arg)
{
	(void)arg;
	struct world w;
	begin(&w);
	w.bytes[2][31] ^= 1;
	assert_true(alarms_add(&w.view));
	assert_int_equal(w.view.n_alarms, 2); /* from each of the other two */
	assert_int_equal(w.view.alarms[0]->kind, KDS__V1__ALARM_KIND__ALARM_DIGEST);
	assert_int_equal(w.view.alarms[0]->replica, 3);
	end(&w);
	begin(&w);
	w.bytes[2][31] ^= 1;
	w.digests[2].index = 2048;
	assert_true(alarms_add(&w.view));
	assert_int_equal(w.view.n_alarms, 0);
	end(&w);
	begin(&w);
	w.bytes[2][31] ^= 1;
	w.statuses[2].digest_format = 7;
	assert_true(alarms_add(&w.view));
	assert_int_equal(w.view.n_alarms, 0);
	end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_alarms_none_where_all_is_well),
		cmocka_unit_test(test_alarms_of_one_replica),
		cmocka_unit_test(test_alarms_clock_blames_the_one_that_is_off),
		cmocka_unit_test(test_alarms_of_the_cluster),
		cmocka_unit_test(test_alarms_digests_differ_at_equal_indexes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
