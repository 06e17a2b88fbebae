// links: common_net common_x509 common_base
#include "tests/support/support.h"

#include "common/net/budget.h"

#define MIB ((size_t)1 << 20)
#define STEP ((size_t)64 << 10)

static size_t take_all(struct budget_account *a)
{
	while (budget_take(a, STEP))
		;
	return atomic_load(&a->bytes);
}

static void give_all(struct budget_account *a)
{
	budget_give(a, atomic_load(&a->bytes));
	assert_int_equal(atomic_load(&a->bytes), 0);
}

static int reset(void **state)
{
	(void)state;
	budget_set_limit(64 * MIB);
	return budget_used() == 0 ? 0 : -1;
}

/* The greedy stop at half of what nodes may have, and there is room for whoever comes next. */
static void test_budget_greedy(void **state)
{
	(void)state;
	struct budget_account greedy = { 0 }, another = { 0 }, modest = { 0 };
	assert_int_equal(take_all(&greedy), 24 * MIB);
	assert_true(budget_take(&modest, MIB));
	assert_false(budget_take(&greedy, STEP));
	assert_true(take_all(&another) >= 11 * MIB);
	assert_true(budget_take(&modest, MIB));
	give_all(&another);
	give_all(&greedy);
	give_all(&modest);
	assert_int_equal(budget_used(), 0);
}

/* Those that must ask anew for what they hold, as time makes them, come to equal parts. */
static void test_budget_shares(void **state)
{
	(void)state;
	enum { N = 5 };
	struct budget_account a[N + 1] = { 0 };
	for (int round = 0; round < 50; round++) {
		for (int i = 0; i < N; i++) {
			budget_give(&a[i], atomic_load(&a[i].bytes) / 2);
			take_all(&a[i]);
		}
	}
	for (int i = 0; i < N; i++)
		assert_in_range(atomic_load(&a[i].bytes), 7 * MIB, 9 * MIB); /* 48 MiB by N + 1 */
	assert_true(take_all(&a[N]) >= 3 * MIB);
	for (int i = 0; i <= N; i++)
		give_all(&a[i]);
}

/* Whatever nodes hold, and what cannot be refused: services go on. */
static void test_budget_services(void **state)
{
	(void)state;
	struct budget_account nodes[20] = { 0 }, service = { .service = true };
	for (int i = 0; i < 20; i++)
		take_all(&nodes[i]);
	assert_true(budget_used() <= 48 * MIB);
	assert_true(take_all(&service) >= BUDGET_SERVICE_FLOOR);
	give_all(&service);
	budget_charge(NULL, 100 * MIB);
	assert_false(budget_take(&nodes[0], 1));
	assert_true(budget_take(NULL, 1));
	budget_give(NULL, 1);
	assert_int_equal(take_all(&service), BUDGET_SERVICE_FLOOR);
	budget_give(NULL, 100 * MIB);
	give_all(&service);
	for (int i = 0; i < 20; i++)
		give_all(&nodes[i]);
	assert_int_equal(budget_used(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_budget_greedy, reset),
		cmocka_unit_test_setup(test_budget_shares, reset),
		cmocka_unit_test_setup(test_budget_services, reset),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
