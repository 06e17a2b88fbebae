// links: service_ca
#include "tests/support/support.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "services/ca/keeper.h"

static char *directory;
static struct seal *seal;
static struct authority_draft draft;
static struct keeper *keeper;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool there; /* ca/default, in the configuration */

/* The follower, as far as the keeper asks it. */
Kds__V1__Object *follower_get(struct follower *f, const char *key)
{
	uint8_t packed[8192];
	Kds__V1__Object ca = KDS__V1__OBJECT__INIT;
	(void)f;
	assert_string_equal(key, "ca/default");
	pthread_mutex_lock(&lock);
	bool found = there;
	pthread_mutex_unlock(&lock);
	ca.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
	ca.certificate_authority = &draft.object;
	return found ? kds__v1__object__unpack(NULL, kds__v1__object__pack(&ca, packed), packed) : NULL;
}

static int set_up(void **state)
{
	(void)state;
	char path[4096];
	struct status st;
	directory = support_make_directory();
	snprintf(path, sizeof path, "%s/ca.seal", directory);
	assert_int_equal(seal_create_file(path, &st), STATUS_OK);
	assert_int_equal(seal_load(path, &st, &seal), STATUS_OK);
	assert_int_equal(authority_draft_make("default", "cluster.example.com", 1, (int64_t)(clock_unix_ms() / 1000), seal, &st,
					      &draft),
			 STATUS_OK);
	there = false;
	assert_int_equal(keeper_new("default", seal, &st, &keeper), STATUS_OK);
	assert_int_equal(keeper_start(keeper, NULL, &st), STATUS_OK);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	keeper_stop(keeper);
	keeper_free(keeper);
	authority_draft_fini(&draft);
	seal_free(seal);
	support_remove_directory(directory);
	return 0;
}

static void change(bool is_there)
{
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	object.key = (char *)"ca/default";
	object.deleted = !is_there;
	if (is_there) {
		object.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
		object.certificate_authority = &draft.object;
	}
	pthread_mutex_lock(&lock);
	there = is_there;
	pthread_mutex_unlock(&lock);
	keeper_changed(keeper, &object);
}

static enum status_code look(struct status *st)
{
	struct authority *a = NULL;
	enum status_code rc = keeper_authority(keeper, st, &a);
	authority_unref(a);
	return rc;
}

static void wait_for(enum status_code code, struct status *st)
{
	while (look(st) != code)
		usleep(1000);
}

static void test_keeper_says_what_to_run_where_there_is_no_ca(void **state)
{
	(void)state;
	struct status st = { 0 };
	assert_int_equal(look(&st), STATUS_UNAVAILABLE); /* nothing is known yet: another kds-ca may know more */
	keeper_synced(keeper);
	wait_for(STATUS_FAILED_PRECONDITION, &st);
	assert_non_null(strstr(st.message, "kds-cli ca create default"));
}

static void test_keeper_does_not_replace_a_ca_that_is_gone(void **state)
{
	(void)state;
	struct status st = { 0 };
	keeper_synced(keeper);
	change(true);
	keeper_wait(keeper, "default", clock_monotonic_ms() + 20000);
	assert_int_equal(look(&st), STATUS_OK);
	change(false);
	wait_for(STATUS_FAILED_PRECONDITION, &st); /* it has no channel to make another with */
	assert_non_null(strstr(st.message, "kds-cli ca create default"));
}

static void test_keeper_wait_ends(void **state)
{
	(void)state;
	struct status st;
	keeper_wait(keeper, "default", clock_monotonic_ms() + 20);
	keeper_wait(keeper, "other", clock_monotonic_ms() + 20);
	assert_int_not_equal(look(&st), STATUS_OK);
}

#define KEEPER_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		KEEPER_TEST(test_keeper_says_what_to_run_where_there_is_no_ca),
		KEEPER_TEST(test_keeper_does_not_replace_a_ca_that_is_gone),
		KEEPER_TEST(test_keeper_wait_ends),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
