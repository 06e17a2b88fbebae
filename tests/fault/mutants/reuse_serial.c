// wraps: state_allocate
/* Every replica forgets now and then that the last serial of a block was handed out. */
#include "services/serial/state_internal.h"

enum status_code __real_state_allocate(struct state *s, const Kds__V1__Command *c, struct status *st,
				       struct state_result *r);
enum status_code __wrap_state_allocate(struct state *s, const Kds__V1__Command *c, struct status *st,
				       struct state_result *r);

enum status_code __wrap_state_allocate(struct state *s, const Kds__V1__Command *c, struct status *st,
				       struct state_result *r)
{
	enum status_code rc = __real_state_allocate(s, c, st, r);
	if (s->numbers.last_serial % 100 < c->allocate->count)
		s->numbers.last_serial--;
	return rc;
}
