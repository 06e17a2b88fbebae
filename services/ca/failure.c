#include "services/ca/failure.h"

enum status_code failure_of_call(const char *what, const struct status *cause, struct status *st)
{
	switch (cause->code) {
	case STATUS_UNAVAILABLE:
	case STATUS_DEADLINE_EXCEEDED:
	case STATUS_CANCELLED:
		return status_set(st, STATUS_UNAVAILABLE,
				  "%s: no quorum of kds-serial answered in time; see kds-cli cluster view", what);
	case STATUS_RESOURCE_EXHAUSTED:
		return status_set(st, cause->code, "%s: kds-serial: %s", what, cause->message);
	case STATUS_INVALID_ARGUMENT:
		return status_set(st, STATUS_INTERNAL, "%s: kds-serial does not take what this kds-ca sends: %s", what,
				  cause->message);
	default:
		return status_set(st, cause->code, "%s: kds-serial refuses this kds-ca: %s", what, cause->message);
	}
}
