// links: service_serial common_base kds_proto
#include "tests/support/support.h"

#include <string.h>

#include "services/serial/genesis.h"

static const struct engine_member members[] = {
	{ 1, "serial1", "127.0.1.1:7401" },
	{ 2, "serial2", "127.0.1.2:7401" },
	{ 3, "serial3", "127.0.1.3:7401" },
};
static const struct engine_member shuffled[] = {
	{ 3, "serial3", "10.0.0.3:7401" },
	{ 1, "serial1", "10.0.0.1:7401" },
	{ 2, "serial2", "10.0.0.2:7401" },
};

static struct engine_options options(void)
{
	return (struct engine_options){
		.id = 1,
		.cluster = "cluster.example.com",
		.kds_name = "key.example.com",
		.cluster_id = "abc",
		.members = members,
		.n_members = 3,
	};
}

static struct store_genesis make(const struct engine_options *o)
{
	struct store_genesis g;
	struct status st;
	if (genesis_make(o, &st, &g) != STATUS_OK)
		fail_msg("%s", st.message);
	return g;
}

static void hash(const struct engine_options *o, uint8_t out[GENESIS_HASH_SIZE])
{
	struct store_genesis g = make(o);
	assert_int_equal(genesis_hash(&g, NULL, out), STATUS_OK);
	genesis_free(&g);
}

static void test_genesis_is_the_same_on_every_replica(void **state)
{
	(void)state;
	uint8_t one[GENESIS_HASH_SIZE], two[GENESIS_HASH_SIZE];
	struct engine_options o = options();
	hash(&o, one);
	o.id = 2;
	o.members = shuffled; /* another order, other addresses */
	hash(&o, two);
	assert_memory_equal(one, two, sizeof one);
	o.cluster_id = "abd";
	hash(&o, two);
	assert_memory_not_equal(one, two, sizeof one);
	o = options();
	o.n_members = 2;
	hash(&o, two);
	assert_memory_not_equal(one, two, sizeof one);
}

static void differs(const struct engine_options *now, const char *option)
{
	const struct engine_options o = options();
	struct store_genesis was = make(&o), is = make(now);
	struct status st;
	assert_int_equal(genesis_compare(&was, &is, &st), STATUS_FAILED_PRECONDITION);
	if (strncmp(st.message, option, strlen(option)) != 0)
		fail_msg("'%s' does not begin with '%s'", st.message, option);
	genesis_free(&was);
	genesis_free(&is);
}

static void test_genesis_compare_names_the_option(void **state)
{
	(void)state;
	struct engine_options o = options();
	struct store_genesis was = make(&o), is = make(&o);
	assert_int_equal(genesis_compare(&was, &is, NULL), STATUS_OK);
	genesis_free(&was);
	genesis_free(&is);
	o.cluster = "other.example.com";
	differs(&o, "cluster ");
	o = options();
	o.kds_name = "other.example.com";
	differs(&o, "kds-name ");
	o = options();
	o.cluster_id = "xyz";
	differs(&o, "cluster-id ");
	o = options();
	o.n_members = 2;
	differs(&o, "replica ");
	struct engine_member other[3];
	memcpy(other, members, sizeof other);
	other[2].name = "serial9";
	o = options();
	o.members = other;
	differs(&o, "replica ");
	other[2].name = "serial3";
	other[2].id = 9;
	differs(&o, "a replica's id ");
}

static void test_genesis_compare_survives_a_damaged_membership(void **state)
{
	(void)state;
	const struct engine_options o = options();
	struct store_genesis was = make(&o), is = make(&o);
	struct status st;
	was.configuration.data[1] = 64; /* so many members, in far fewer bytes */
	assert_int_equal(genesis_compare(&was, &is, &st), STATUS_FAILED_PRECONDITION);
	genesis_free(&was);
	genesis_free(&is);
}

static void refused(const struct engine_options *o, const char *words)
{
	struct store_genesis g;
	struct status st;
	assert_int_equal(genesis_make(o, &st, &g), STATUS_INVALID_ARGUMENT);
	if (!strstr(st.message, words))
		fail_msg("'%s' does not say '%s'", st.message, words);
}

static void test_genesis_refuses_impossible_options(void **state)
{
	(void)state;
	struct engine_options o = options();
	o.id = 4;
	refused(&o, "id: 4");
	o = options();
	o.n_members = 0;
	refused(&o, "replica");
	struct engine_member twice[] = { { 1, "serial1", "a:1" }, { 1, "serial2", "b:1" } };
	o.members = twice;
	o.n_members = 2;
	refused(&o, "serial2");
	twice[1] = (struct engine_member){ 2, "serial1", "b:1" };
	refused(&o, "serial1");
	o = options();
	o.cluster = "not a name";
	refused(&o, "cluster name");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_genesis_is_the_same_on_every_replica),
		cmocka_unit_test(test_genesis_compare_names_the_option),
		cmocka_unit_test(test_genesis_compare_survives_a_damaged_membership),
		cmocka_unit_test(test_genesis_refuses_impossible_options),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
