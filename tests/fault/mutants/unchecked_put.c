// wraps: state_put
/* Compare-and-set does not compare. */
#include "services/serial/state_internal.h"

enum status_code __real_state_put(struct state *s, const Kds__V1__PutRequest *in, struct status *st,
				  struct state_result *r);
enum status_code __wrap_state_put(struct state *s, const Kds__V1__PutRequest *in, struct status *st,
				  struct state_result *r);

enum status_code __wrap_state_put(struct state *s, const Kds__V1__PutRequest *in, struct status *st,
				  struct state_result *r)
{
	Kds__V1__PutRequest any = *in;
	any.check_revision = false;
	return __real_state_put(s, &any, st, r);
}
