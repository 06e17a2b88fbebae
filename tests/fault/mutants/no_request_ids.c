// wraps: requests_find
/* A request that comes again is carried out again. */
#include "services/serial/state_internal.h"

enum status_code __wrap_requests_find(struct state *s, const Kds__V1__Command *c, struct status *st,
				      struct state_result *r, bool *ret_seen);

enum status_code __wrap_requests_find(struct state *s, const Kds__V1__Command *c, struct status *st,
				      struct state_result *r, bool *ret_seen)
{
	(void)s;
	(void)c;
	(void)st;
	(void)r;
	*ret_seen = false;
	return STATUS_OK;
}
