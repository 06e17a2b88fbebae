// wraps: state_put
/* Compare-and-set does not compare. */
#include "services/serial/state_internal.h"

enum status_code __real_state_put(struct state *s, const Kds__V1__Command *c, struct status *st, struct state_result *r);
enum status_code __wrap_state_put(struct state *s, const Kds__V1__Command *c, struct status *st, struct state_result *r);

enum status_code __wrap_state_put(struct state *s, const Kds__V1__Command *c, struct status *st, struct state_result *r)
{
	Kds__V1__PutRequest any = *c->put;
	Kds__V1__Command command = *c;
	any.check_revision = false;
	command.put = &any;
	return __real_state_put(s, &command, st, r);
}
