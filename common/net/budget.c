#include "common/net/budget.h"

static atomic_size_t limit = BUDGET_DEFAULT;
static atomic_size_t used;

void budget_set_limit(size_t bytes)
{
	atomic_store_explicit(&limit, bytes, memory_order_relaxed);
}

size_t budget_used(void)
{
	return atomic_load_explicit(&used, memory_order_relaxed);
}

void budget_charge(struct budget_account *account, size_t bytes)
{
	atomic_fetch_add_explicit(&used, bytes, memory_order_relaxed);
	if (account)
		atomic_fetch_add_explicit(&account->bytes, bytes, memory_order_relaxed);
}

bool budget_take(struct budget_account *account, size_t bytes)
{
	if (account) {
		size_t all = atomic_load_explicit(&limit, memory_order_relaxed), total = budget_used();
		size_t held = atomic_load_explicit(&account->bytes, memory_order_relaxed);
		size_t mine = account->service ? all : all - all / 4;
		size_t share = mine > total ? mine - total : 0;
		if (account->service && share < BUDGET_SERVICE_FLOOR)
			share = BUDGET_SERVICE_FLOOR;
		if (held > share || bytes > share - held)
			return false;
	}
	budget_charge(account, bytes);
	return true;
}

void budget_give(struct budget_account *account, size_t bytes)
{
	atomic_fetch_sub_explicit(&used, bytes, memory_order_relaxed);
	if (account)
		atomic_fetch_sub_explicit(&account->bytes, bytes, memory_order_relaxed);
}
