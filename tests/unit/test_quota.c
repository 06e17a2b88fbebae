// links: test_support common_rpc common_net kds_proto
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/quota.h"

#define SECOND UINT64_C(1000000)

static const struct quota_limits limits = {
	.all = { 80, 16, 8000 },
	.identity = {
		[QUOTA_NODES] = { 10, 2, 1000 },
		[QUOTA_SERVICES] = { 40, 8, 4000 },
		[QUOTA_ADMINS] = { 40, 8, 4000 },
	},
};

static struct identity *make(unsigned roles, const char *name)
{
	struct identity *id = identity_new();
	assert_non_null(id);
	free(id->common_name);
	free(id->role_name);
	id->common_name = strdup(name);
	id->role_name = strdup(name);
	assert_true(id->common_name && id->role_name);
	id->roles = roles;
	id->issuer_key_id_len = 4;
	return id;
}

static struct quota_account *open_as(struct quota *q, unsigned roles, const char *name, uint64_t now)
{
	struct identity *id = make(roles, name);
	struct quota_account *a = quota_open(q, id, now);
	identity_unref(id);
	return a;
}

static void take(struct quota *q, struct quota_account *a, enum quota_kind kind, size_t amount)
{
	assert_int_equal(quota_take(q, a, NULL, kind, amount), QUOTA_OK);
}

static void test_quota_one_account_for_an_identity(void **state)
{
	(void)state;
	struct quota *q = quota_new(&limits);
	assert_non_null(q);
	struct quota_account *node = open_as(q, PEER_NODE, "node1", 0), *other = open_as(q, PEER_NODE, "node2", 0);
	assert_ptr_equal(node, open_as(q, PEER_KDS_CLIENT, "node1", 0)); /* the same host's */
	assert_ptr_not_equal(node, other);
	assert_ptr_not_equal(node, open_as(q, PEER_CA, "node1", 0)); /* a service of that name */
	struct identity *elsewhere = make(PEER_NODE, "node1");
	elsewhere->issuer_key_id[0] = 1;
	assert_ptr_not_equal(node, quota_open(q, elsewhere, 0)); /* another CA's node */
	identity_unref(elsewhere);
	assert_ptr_equal(quota_open(q, NULL, 0), quota_open(q, NULL, 0));
	assert_ptr_equal(quota_reopen(node), node);
	for (int i = 0; i < 3; i++)
		quota_close(q, node);
	assert_ptr_not_equal(other, node);
	quota_free(q);
}

static void test_quota_bounds_what_one_holds(void **state)
{
	(void)state;
	struct quota *q = quota_new(&limits);
	struct quota_account *node = open_as(q, PEER_NODE, "node1", 0), *other = open_as(q, PEER_NODE, "node2", 0);
	take(q, node, QUOTA_CALLS, 10);
	assert_int_equal(quota_take(q, node, NULL, QUOTA_CALLS, 1), QUOTA_IDENTITY);
	take(q, node, QUOTA_WAITING, 2);
	assert_int_equal(quota_take(q, node, NULL, QUOTA_WAITING, 1), QUOTA_IDENTITY);
	assert_int_equal(quota_take(q, node, NULL, QUOTA_BYTES, 1001), QUOTA_IDENTITY);
	assert_int_equal(quota_take(q, node, NULL, QUOTA_BYTES, SIZE_MAX), QUOTA_IDENTITY);
	take(q, other, QUOTA_CALLS, 10);
	quota_give(q, node, NULL, QUOTA_CALLS, 1);
	take(q, node, QUOTA_CALLS, 1);
	assert_int_equal(quota_used(q, QUOTA_CALLS), 20);
	quota_free(q);
}

/* Of 80 each class keeps ten. */
static void test_quota_keeps_a_share_for_each_class(void **state)
{
	(void)state;
	struct quota *q = quota_new(&limits);
	struct quota_account *nodes[8], *ca = open_as(q, PEER_CA, "ca1", 0), *ca2 = open_as(q, PEER_CA, "ca2", 0);
	struct quota_account *admin = open_as(q, PEER_ADMIN, "admin", 0);
	for (int i = 0; i < 8; i++) {
		char name[16];
		snprintf(name, sizeof name, "node%d", i);
		nodes[i] = open_as(q, PEER_NODE, name, 0);
	}
	for (int i = 0; i < 6; i++)
		take(q, nodes[i], QUOTA_CALLS, 10);
	assert_int_equal(quota_take(q, nodes[6], NULL, QUOTA_CALLS, 1), QUOTA_FULL);
	take(q, ca, QUOTA_CALLS, 10);
	assert_int_equal(quota_take(q, ca, NULL, QUOTA_CALLS, 1), QUOTA_FULL); /* ten are left, an administrator's */
	take(q, admin, QUOTA_CALLS, 10);
	assert_int_equal(quota_take(q, admin, NULL, QUOTA_CALLS, 1), QUOTA_FULL);
	for (int i = 0; i < 6; i++)
		quota_give(q, nodes[i], NULL, QUOTA_CALLS, 10);
	take(q, ca, QUOTA_CALLS, 30);
	take(q, ca2, QUOTA_CALLS, 20); /* and ten are left for nodes */
	assert_int_equal(quota_take(q, ca2, NULL, QUOTA_CALLS, 1), QUOTA_FULL);
	take(q, nodes[7], QUOTA_CALLS, 10);
	quota_free(q);
}

/* What a replica passes on counts for both, and once in all. */
static void test_quota_counts_who_passes_on(void **state)
{
	(void)state;
	struct quota *q = quota_new(&limits);
	struct quota_account *replica = open_as(q, PEER_SERIAL, "serial1", 0), *ca = open_as(q, PEER_CA, "ca1", 0);
	struct quota_account *keydist = open_as(q, PEER_KEYDIST, "keydist1", 0);
	assert_int_equal(quota_take(q, ca, replica, QUOTA_CALLS, 30), QUOTA_OK);
	assert_int_equal(quota_used(q, QUOTA_CALLS), 30);
	assert_int_equal(quota_take(q, keydist, replica, QUOTA_CALLS, 11), QUOTA_IDENTITY);
	take(q, keydist, QUOTA_CALLS, 11);
	quota_give(q, ca, replica, QUOTA_CALLS, 30);
	assert_int_equal(quota_take(q, keydist, replica, QUOTA_CALLS, 20), QUOTA_OK);
	quota_free(q);
}

static unsigned ask_until_refused(struct quota *q, struct quota_account *a, uint64_t now, uint32_t *ret_wait)
{
	unsigned n = 0;
	while ((*ret_wait = quota_ask(q, a, 1, now)) == 0)
		n++;
	return n;
}

static void test_quota_rates(void **state)
{
	(void)state;
	struct quota *q = quota_new(&limits);
	uint64_t now = 1000 * SECOND;
	struct quota_account *node = open_as(q, PEER_NODE, "node1", now), *ca = open_as(q, PEER_CA, "ca1", now);
	uint32_t wait;
	for (int i = 0; i < 1000; i++)
		assert_int_equal(quota_ask(q, node, 1, now), 0); /* none is set */
	quota_set_rate(q, 1, 20);
	assert_int_equal(quota_rate(q, 1), 20);
	assert_int_equal(ask_until_refused(q, node, now, &wait), 200);
	assert_int_equal(wait, 50);
	assert_int_equal(quota_ask(q, node, 2, now), 0); /* another rate */
	for (int i = 0; i < 1000; i++)
		assert_int_equal(quota_ask(q, ca, 1, now), 0);
	/* It comes when it was told to, and not before. */
	now += 49 * 1000;
	assert_int_equal(quota_ask(q, node, 1, now), 1);
	now += 1000;
	assert_int_equal(ask_until_refused(q, node, now, &wait), 1);
	/* A rate that is changed is in force at once, both ways. */
	quota_set_rate(q, 1, 1);
	assert_int_equal(quota_ask(q, node, 1, now), 1000);
	quota_set_rate(q, 1, 1000);
	now += SECOND;
	assert_int_equal(ask_until_refused(q, node, now, &wait), 1000);
	quota_set_rate(q, 1, 0);
	assert_int_equal(quota_ask(q, node, 1, now), 0);
	quota_free(q);
}

/* Who leaves and comes again has not become another. */
static void test_quota_remembers_who_left(void **state)
{
	(void)state;
	struct quota *q = quota_new(&limits);
	uint64_t now = 1000 * SECOND;
	uint32_t wait;
	quota_set_rate(q, 1, 20);
	struct quota_account *a = open_as(q, PEER_NODE, "node1", now);
	assert_int_equal(ask_until_refused(q, a, now, &wait), 200);
	quota_close(q, a);
	a = open_as(q, PEER_NODE, "node1", now);
	assert_int_equal(ask_until_refused(q, a, now, &wait), 0);
	quota_close(q, a);
	a = open_as(q, PEER_NODE, "node1", now + 10 * SECOND);
	assert_int_equal(ask_until_refused(q, a, now + 10 * SECOND, &wait), 200);
	quota_free(q);
}

/* As many identities as one likes neither make the table grow nor get another's account forgotten. */
static void test_quota_bounds_its_accounts(void **state)
{
	(void)state;
	struct quota *q = quota_new(&limits);
	uint64_t now = 1000 * SECOND;
	uint32_t wait;
	quota_set_rate(q, 1, 1);
	char name[32];
	struct quota_account *victim = open_as(q, PEER_NODE, "victim", now), *last = NULL;
	assert_int_equal(ask_until_refused(q, victim, now, &wait), 10);
	quota_close(q, victim);
	for (unsigned i = 0; i < QUOTA_ACCOUNTS_MAX + 100; i++) {
		snprintf(name, sizeof name, "node%u", i);
		struct quota_account *a = open_as(q, PEER_NODE, name, now);
		wait = quota_ask(q, a, 1, now);
		/* Those that are too many share ten. */
		assert_true(i < QUOTA_ACCOUNTS_MAX - 1 + 10 ? wait == 0 : wait > 0);
		quota_close(q, a);
	}
	victim = open_as(q, PEER_NODE, "victim", now);
	assert_int_equal(ask_until_refused(q, victim, now, &wait), 0);
	/* Another class has its own to share; later there is room again. */
	last = open_as(q, PEER_ADMIN, "admin", now);
	take(q, last, QUOTA_CALLS, 40);
	quota_give(q, last, NULL, QUOTA_CALLS, 40);
	quota_close(q, last);
	now += 20 * SECOND;
	struct quota_account *one = open_as(q, PEER_NODE, "one", now), *two = open_as(q, PEER_NODE, "two", now);
	assert_ptr_not_equal(one, two);
	quota_free(q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_quota_one_account_for_an_identity),
		cmocka_unit_test(test_quota_bounds_what_one_holds),
		cmocka_unit_test(test_quota_keeps_a_share_for_each_class),
		cmocka_unit_test(test_quota_counts_who_passes_on),
		cmocka_unit_test(test_quota_rates),
		cmocka_unit_test(test_quota_remembers_who_left),
		cmocka_unit_test(test_quota_bounds_its_accounts),
	};
	return cmocka_run_group_tests_name("quota", tests, NULL, NULL);
}
