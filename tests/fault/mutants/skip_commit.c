// wraps: store_commit
/* Now and then a turn's transaction is not written, and nobody hears of it. */
#include "services/serial/store.h"

void __real_store_commit(struct store *s);
void __wrap_store_commit(struct store *s);

void __wrap_store_commit(struct store *s)
{
	static unsigned n;
	if (++n % 50 == 0)
		sqlite3_exec(store_sqlite(s), "ROLLBACK", NULL, NULL, NULL);
	else
		__real_store_commit(s);
}
