// links: service_keydist
#include "tests/support/support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/keydist/masterkeys.h"

#define HOUR UINT64_C(3600000)
#define INTERVAL (24 * HOUR)
#define LIFESPAN (168 * HOUR)
#define AHEAD UINT64_C(10000)
#define TURN UINT64_C(10000)
#define DAY0 (UINT64_C(1700006400000)) /* a multiple of INTERVAL */

static const struct masterkeys_times times = { INTERVAL, LIFESPAN, AHEAD };

struct fixture {
	char *directory;
	struct seal *seal, *other_seal;
	struct masterkeys *keys;
};

static struct seal *make_seal(const char *directory, const char *name)
{
	char path[4096];
	struct status st;
	struct seal *seal;
	snprintf(path, sizeof path, "%s/%s", directory, name);
	assert_int_equal(seal_create_file(path, &st), STATUS_OK);
	assert_int_equal(seal_load(path, &st, &seal), STATUS_OK);
	return seal;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	struct status st;
	assert_non_null(f);
	f->directory = support_make_directory();
	f->seal = make_seal(f->directory, "a.seal");
	f->other_seal = make_seal(f->directory, "b.seal");
	assert_int_equal(masterkeys_new(f->seal, &st, &f->keys), STATUS_OK);
	masterkeys_set_times(f->keys, &times);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	masterkeys_free(f->keys);
	seal_free(f->seal);
	seal_free(f->other_seal);
	support_remove_directory(f->directory);
	free(f);
	return 0;
}

static enum status_code put_sealed(struct fixture *f, const struct seal *seal, const char *purpose, uint64_t published,
				   uint64_t use_from, size_t len)
{
	uint8_t clear[MASTER_KEY_SIZE + 1];
	struct buffer sealed = { 0 };
	struct status st;
	memset(clear, (int)(published / INTERVAL & 0xFF), sizeof clear);
	assert_int_equal(seal_close(seal, purpose, (struct slice){ clear, len }, &st, &sealed), STATUS_OK);
	Kds__V1__MasterKey key = KDS__V1__MASTER_KEY__INIT;
	key.published_ms = published;
	key.use_from_ms = use_from;
	key.sealed_key = (ProtobufCBinaryData){ .data = sealed.data, .len = sealed.len };
	enum status_code rc = masterkeys_put(f->keys, &key, &st);
	buffer_free(&sealed);
	return rc;
}

static void put(struct fixture *f, uint64_t published, uint64_t use_from)
{
	char purpose[MASTERKEY_OBJECT_KEY_MAX];
	masterkey_object_key(published, purpose);
	assert_int_equal(put_sealed(f, f->seal, purpose, published, use_from, MASTER_KEY_SIZE), STATUS_OK);
}

static uint64_t current(struct fixture *f, uint64_t now)
{
	struct masterkey key = { 0 };
	return masterkeys_current(f->keys, now, &key) ? key.published_ms : 0;
}

static bool finds(struct fixture *f, uint64_t published, uint64_t now)
{
	struct masterkey key;
	if (!masterkeys_find(f->keys, published, now, &key))
		return false;
	assert_true(key.published_ms == published);
	for (size_t i = 0; i < MASTER_KEY_SIZE; i++)
		assert_int_equal(key.key[i], (int)(published / INTERVAL & 0xFF));
	return true;
}

static struct masterkeys_plan plan(struct fixture *f, uint64_t now)
{
	struct masterkeys_plan p;
	masterkeys_plan(f->keys, now, &p);
	return p;
}

static void test_masterkeys_object_keys(void **state)
{
	(void)state;
	char key[MASTERKEY_OBJECT_KEY_MAX];
	uint64_t published;
	assert_string_equal(masterkey_object_key(1700000000000, key), "masterkey/00000001700000000000");
	assert_true(masterkey_parse_object_key(key, &published));
	assert_true(published == 1700000000000);
	assert_true(masterkey_parse_object_key(masterkey_object_key(UINT64_MAX, key), &published));
	assert_true(published == UINT64_MAX);
	assert_false(masterkey_parse_object_key("masterkey/1700000000000", &published));
	assert_false(masterkey_parse_object_key("masterkey/0000000170000000000x", &published));
	assert_false(masterkey_parse_object_key("masterkey/", &published));
	assert_false(masterkey_parse_object_key("ca/00000001700000000000", &published));
}

static void test_masterkeys_first_is_usable_at_once(void **state)
{
	struct fixture *f = *state;
	assert_true(current(f, DAY0) == 0);
	struct masterkeys_plan p = plan(f, DAY0 + HOUR);
	assert_true(p.publish);
	assert_false(p.destroy);
	assert_true(p.publish_ms == DAY0);
	assert_true(p.use_from_ms == DAY0 + HOUR);
	put(f, p.publish_ms, p.use_from_ms);
	assert_true(current(f, DAY0 + HOUR) == DAY0);
	assert_true(current(f, DAY0) == DAY0); /* a clock behind the publisher's: better this than none */
	assert_false(plan(f, DAY0 + INTERVAL - 1).publish);
}

static void test_masterkeys_next_is_published_ahead(void **state)
{
	struct fixture *f = *state;
	put(f, DAY0, DAY0);
	assert_false(plan(f, DAY0 + INTERVAL + TURN - 1).publish); /* others may be first who cannot open ours */
	struct masterkeys_plan p = plan(f, DAY0 + INTERVAL + TURN + 5);
	assert_true(p.publish);
	assert_true(p.publish_ms == DAY0 + INTERVAL);
	assert_true(p.use_from_ms == DAY0 + INTERVAL + TURN + 5 + AHEAD);
	put(f, p.publish_ms, p.use_from_ms);
	assert_true(current(f, p.use_from_ms - 1) == DAY0);
	assert_true(current(f, p.use_from_ms) == DAY0 + INTERVAL);
	assert_true(finds(f, DAY0, p.use_from_ms));
	assert_true(finds(f, DAY0 + INTERVAL, DAY0)); /* a sender may be ahead of us */
	assert_false(plan(f, p.use_from_ms).publish);
}

/* Two distributors at different moments of one interval make the same object key. */
static void test_masterkeys_indexes_collide(void **state)
{
	struct fixture *f = *state;
	put(f, DAY0, DAY0);
	assert_true(plan(f, DAY0 + INTERVAL).publish_ms == plan(f, DAY0 + 2 * INTERVAL - 1).publish_ms);
}

static void test_masterkeys_skipped_intervals(void **state)
{
	struct fixture *f = *state;
	put(f, DAY0, DAY0);
	struct masterkeys_plan p = plan(f, DAY0 + 5 * INTERVAL + TURN);
	assert_true(p.publish);
	assert_true(p.publish_ms == DAY0 + 5 * INTERVAL);
}

static void test_masterkeys_lifespan(void **state)
{
	struct fixture *f = *state;
	for (uint64_t day = 0; day <= 7; day++)
		put(f, DAY0 + day * INTERVAL, DAY0 + day * INTERVAL + AHEAD);
	uint64_t end = DAY0 + LIFESPAN;

	assert_true(finds(f, DAY0, end - 1));
	assert_false(plan(f, end - 1).destroy);
	masterkeys_expire(f->keys, end - 1);
	assert_true(finds(f, DAY0, end - 1));

	assert_false(finds(f, DAY0, end)); /* to the millisecond, whenever the rotation comes by */
	struct masterkeys_plan p = plan(f, end);
	assert_true(p.destroy);
	assert_true(p.destroy_ms == DAY0 && p.over_ms == end);
	masterkeys_expire(f->keys, end);
	assert_false(finds(f, DAY0, end - 1)); /* wiped: no way back */
	assert_true(plan(f, end).destroy);     /* until the replicas have forgotten it as well */
	masterkeys_remove(f->keys, DAY0);
	assert_false(plan(f, end).destroy);
	assert_true(finds(f, DAY0 + INTERVAL, end));
}

static void test_masterkeys_times_change(void **state)
{
	struct fixture *f = *state;
	uint64_t now = DAY0 + INTERVAL + HOUR;
	const struct masterkeys_times unknown = { 0 };
	masterkeys_set_times(f->keys, &unknown);
	put(f, DAY0, DAY0);
	put(f, DAY0 + INTERVAL, DAY0 + INTERVAL);
	/* Before they are known nothing is done: what goes cannot come back. */
	struct masterkeys_plan p = plan(f, now + 1000 * LIFESPAN);
	assert_false(p.publish || p.destroy);
	masterkeys_expire(f->keys, now + 1000 * LIFESPAN);
	assert_true(finds(f, DAY0, now + 1000 * LIFESPAN));

	const struct masterkeys_times hourly = { .interval_ms = HOUR, .lifespan_ms = 12 * HOUR, .publish_ahead_ms = 7 };
	masterkeys_set_times(f->keys, &hourly);
	p = plan(f, now + TURN);
	assert_true(p.publish && p.publish_ms == now && p.use_from_ms == now + TURN + 7);
	p = plan(f, now);
	assert_true(p.destroy && p.destroy_ms == DAY0);
	assert_false(finds(f, DAY0, now));
	masterkeys_set_times(f->keys, &times);
	p = plan(f, now);
	assert_false(p.publish || p.destroy);
	assert_true(finds(f, DAY0, now));
}

static void test_masterkeys_newest_never_goes(void **state)
{
	struct fixture *f = *state;
	uint64_t later = DAY0 + 100 * INTERVAL;
	put(f, DAY0, DAY0);
	masterkeys_expire(f->keys, later);
	assert_true(current(f, later) == DAY0);
	assert_true(finds(f, DAY0, later));
	assert_false(plan(f, later).destroy);

	put(f, later, later + AHEAD); /* there, but not in use yet */
	masterkeys_expire(f->keys, later);
	assert_true(current(f, later) == DAY0);
	assert_false(plan(f, later).destroy);
	masterkeys_expire(f->keys, later + AHEAD);
	assert_true(current(f, later + AHEAD) == later);
	assert_true(plan(f, later + AHEAD).destroy_ms == DAY0);
}

static void test_masterkeys_clock_behind(void **state)
{
	struct fixture *f = *state;
	put(f, DAY0, DAY0);
	put(f, DAY0 + INTERVAL, DAY0 + INTERVAL + AHEAD);
	masterkeys_expire(f->keys, 1000);
	assert_true(finds(f, DAY0, 1000));
	assert_true(current(f, 1000) == DAY0);
	assert_false(plan(f, 1000).publish);
	assert_false(plan(f, 1000).destroy);
}

static void test_masterkeys_that_cannot_be_unsealed(void **state)
{
	struct fixture *f = *state;
	char purpose[MASTERKEY_OBJECT_KEY_MAX];
	masterkey_object_key(DAY0, purpose);
	assert_int_equal(put_sealed(f, f->other_seal, purpose, DAY0, DAY0, MASTER_KEY_SIZE),
			 STATUS_FAILED_PRECONDITION);
	assert_false(finds(f, DAY0, DAY0));
	assert_true(current(f, DAY0) == 0);
	assert_true(masterkeys_newest(f->keys) == DAY0);
	uint64_t newest = 0;
	assert_int_equal(masterkeys_count_sealed(f->keys, &newest), 1);
	assert_true(newest == DAY0);
	assert_false(plan(f, DAY0 + INTERVAL - 1).publish); /* one an interval, whoever can open it */

	put(f, DAY0, DAY0); /* the right file came, and the state again */
	assert_true(finds(f, DAY0, DAY0));
	assert_true(plan(f, DAY0 + 3 * INTERVAL + TURN).publish);
	assert_int_equal(masterkeys_count_sealed(f->keys, &newest), 0);
}

static void put_foreign(struct fixture *f, uint64_t published)
{
	char purpose[MASTERKEY_OBJECT_KEY_MAX];
	masterkey_object_key(published, purpose);
	assert_int_equal(put_sealed(f, f->other_seal, purpose, published, published, MASTER_KEY_SIZE),
			 STATUS_FAILED_PRECONDITION);
}

/* However many there are, those that are of use have room. */
static void test_masterkeys_have_room_beside_what_cannot_be_unsealed(void **state)
{
	struct fixture *f = *state;
	char purpose[MASTERKEY_OBJECT_KEY_MAX];
	for (uint64_t i = 0; i < 3000; i++) {
		masterkey_object_key(DAY0 + i, purpose);
		assert_int_not_equal(put_sealed(f, f->other_seal, purpose, DAY0 + i, DAY0, MASTER_KEY_SIZE), STATUS_OK);
	}
	put(f, DAY0 + INTERVAL, DAY0 + INTERVAL);
	put(f, DAY0 + 2 * INTERVAL, DAY0 + 2 * INTERVAL);
	put(f, DAY0 - INTERVAL, DAY0 - INTERVAL);
	assert_int_equal(current(f, DAY0 + 2 * INTERVAL), DAY0 + 2 * INTERVAL);
	for (uint64_t at = DAY0 - INTERVAL; at <= DAY0 + 2 * INTERVAL; at += INTERVAL)
		assert_true(at == DAY0 || finds(f, at, DAY0 + 2 * INTERVAL));
	uint64_t newest;
	size_t sealed = masterkeys_count_sealed(f->keys, &newest);
	masterkeys_remove(f->keys, newest);
	assert_int_equal(masterkeys_count_sealed(f->keys, &newest), sealed - 1);
}

static void test_masterkeys_passes_over_what_it_cannot_open(void **state)
{
	struct fixture *f = *state;
	put(f, DAY0, DAY0);
	put_foreign(f, DAY0 + INTERVAL);
	assert_true(current(f, DAY0 + INTERVAL) == DAY0); /* the newest that can be used */
	assert_false(plan(f, DAY0 + 2 * INTERVAL - 1).publish);
	struct masterkeys_plan p = plan(f, DAY0 + 2 * INTERVAL);
	assert_true(p.publish && p.publish_ms == DAY0 + 2 * INTERVAL && p.use_from_ms == p.publish_ms + AHEAD);

	/* Then it is the others' turn; if they are no more, it is ours again. */
	put(f, p.publish_ms, p.use_from_ms);
	assert_false(plan(f, DAY0 + 3 * INTERVAL + TURN - 1).publish);
	p = plan(f, DAY0 + 3 * INTERVAL + TURN);
	assert_true(p.publish && p.publish_ms == DAY0 + 3 * INTERVAL);
}

static void test_masterkeys_keeps_for_others_what_it_cannot_open(void **state)
{
	struct fixture *f = *state;
	put_foreign(f, DAY0);
	for (uint64_t day = 1; day <= 7; day++)
		put(f, DAY0 + day * INTERVAL, DAY0 + day * INTERVAL);
	assert_false(plan(f, DAY0 + LIFESPAN - 1).destroy);
	struct masterkeys_plan p = plan(f, DAY0 + LIFESPAN);
	assert_true(p.destroy && p.destroy_ms == DAY0 && p.over_ms == DAY0 + LIFESPAN);
}

/* Two distributors, each with its own sealing key, over many intervals: one key an interval, and neither goes without. */
static void test_masterkeys_of_two_seals_take_turns(void **state)
{
	struct fixture *f = *state;
	struct masterkeys *both[2] = { f->keys, NULL };
	const struct seal *seals[2] = { f->seal, f->other_seal };
	unsigned published[2] = { 0, 0 };
	struct status st;
	assert_int_equal(masterkeys_new(f->other_seal, &st, &both[1]), STATUS_OK);
	masterkeys_set_times(both[1], &times);
	for (uint64_t now = DAY0; now < DAY0 + 40 * INTERVAL; now += 5000) {
		/* The first always looks a moment before the second. */
		for (size_t i = 0; i < 2; i++) {
			struct masterkeys_plan p;
			masterkeys_plan(both[i], now, &p);
			if (!p.publish)
				continue;
			published[i]++;
			f->keys = both[i];
			char purpose[MASTERKEY_OBJECT_KEY_MAX];
			masterkey_object_key(p.publish_ms, purpose);
			assert_int_equal(put_sealed(f, seals[i], purpose, p.publish_ms, p.use_from_ms, MASTER_KEY_SIZE),
					 STATUS_OK);
			f->keys = both[1 - i];
			assert_int_equal(put_sealed(f, seals[i], purpose, p.publish_ms, p.use_from_ms, MASTER_KEY_SIZE),
					 STATUS_FAILED_PRECONDITION);
		}
	}
	f->keys = both[0];
	assert_int_equal(published[0] + published[1], 40);
	assert_in_range(published[0], 19, 21);
	masterkeys_free(both[1]);
}

static void test_masterkeys_are_bound_to_their_index(void **state)
{
	struct fixture *f = *state;
	char purpose[MASTERKEY_OBJECT_KEY_MAX];
	masterkey_object_key(DAY0, purpose);
	assert_int_equal(put_sealed(f, f->seal, purpose, DAY0 + 1, DAY0, MASTER_KEY_SIZE), STATUS_DATA_LOSS);
	assert_int_equal(put_sealed(f, f->seal, purpose, DAY0, DAY0, MASTER_KEY_SIZE - 1), STATUS_DATA_LOSS);
	assert_int_equal(put_sealed(f, f->seal, purpose, DAY0, DAY0, MASTER_KEY_SIZE + 1), STATUS_DATA_LOSS);
	assert_true(current(f, DAY0) == 0);
}

static void test_masterkeys_list(void **state)
{
	struct fixture *f = *state;
	struct masterkey_info list[8];
	assert_int_equal(masterkeys_list(f->keys, DAY0, list, 8), 0);
	put(f, DAY0 + INTERVAL, DAY0 + INTERVAL + AHEAD); /* in any order */
	put(f, DAY0, DAY0);
	assert_int_equal(masterkeys_list(f->keys, DAY0 + INTERVAL, list, 8), 2);
	assert_true(list[0].published_ms == DAY0 && list[0].use_from_ms == DAY0 && list[0].current);
	assert_true(list[1].published_ms == DAY0 + INTERVAL && !list[1].current);
	assert_int_equal(masterkeys_list(f->keys, DAY0, list, 1), 1);
}

static void test_masterkeys_many(void **state)
{
	struct fixture *f = *state;
	for (uint64_t i = 0; i < 300; i++) /* beyond the first block, in no order */
		put(f, DAY0 + (i * 7919 % 300) * INTERVAL, DAY0);
	for (uint64_t i = 0; i < 300; i++)
		assert_true(finds(f, DAY0 + i * INTERVAL, DAY0));
	for (uint64_t i = 0; i < 300; i += 2)
		masterkeys_remove(f->keys, DAY0 + i * INTERVAL);
	masterkeys_remove(f->keys, 12345); /* never was */
	for (uint64_t i = 0; i < 300; i++)
		assert_int_equal(finds(f, DAY0 + i * INTERVAL, DAY0), i % 2 == 1);
}

struct reader {
	struct fixture *fixture;
	atomic_bool stop;
};

static void *read_on(void *arg)
{
	struct reader *r = arg;
	while (!atomic_load(&r->stop)) {
		(void)finds(r->fixture, DAY0 + 3 * INTERVAL, DAY0);
		(void)current(r->fixture, DAY0);
	}
	return NULL;
}

static void test_masterkeys_readers_and_a_writer(void **state)
{
	struct reader r = { .fixture = *state };
	pthread_t threads[2];
	for (size_t i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_on, &r), 0);
	for (unsigned round = 0; round < 3; round++) {
		for (uint64_t i = 0; i < 60; i++)
			put(r.fixture, DAY0 + i * INTERVAL, DAY0);
		masterkeys_expire(r.fixture->keys, DAY0 + 50 * INTERVAL);
		for (uint64_t i = 0; i < 60; i++)
			masterkeys_remove(r.fixture->keys, DAY0 + i * INTERVAL);
	}
	atomic_store(&r.stop, true);
	for (size_t i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_true(masterkeys_newest(r.fixture->keys) == 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_masterkeys_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_masterkeys_object_keys),
		TEST(first_is_usable_at_once),
		TEST(next_is_published_ahead),
		TEST(indexes_collide),
		TEST(skipped_intervals),
		TEST(lifespan),
		TEST(times_change),
		TEST(newest_never_goes),
		TEST(clock_behind),
		TEST(that_cannot_be_unsealed),
		TEST(have_room_beside_what_cannot_be_unsealed),
		TEST(passes_over_what_it_cannot_open),
		TEST(keeps_for_others_what_it_cannot_open),
		TEST(of_two_seals_take_turns),
		TEST(are_bound_to_their_index),
		TEST(list),
		TEST(many),
		TEST(readers_and_a_writer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
