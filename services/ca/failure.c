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

enum status_code failure_of_record(const char *what, Kds__V1__RecordRefusal refusal, const char *why, struct status *st)
{
	switch (refusal) {
	case KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REQUESTER_BELOW_MIN:
		return status_set(st, STATUS_PERMISSION_DENIED,
				  "%s: %s; have an administrator sign a new certificate", what, why);
	case KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REQUESTER_UNKNOWN:
		return status_set(st, STATUS_PERMISSION_DENIED, "%s: %s; have an administrator add it", what, why);
	case KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_TOO_MANY:
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "%s: %s", what, why);
	case KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_ID_REUSED:
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: %s; use a new request id", what, why);
	case KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_EXPIRED:
		return status_set(st, STATUS_FAILED_PRECONDITION, "%s: %s; set the clock of this kds-ca's host", what, why);
	default:
		return status_set(st, STATUS_INTERNAL, "%s: the record was refused: %s", what, why);
	}
}

enum failure_remedy failure_remedy(Kds__V1__RecordRefusal refusal)
{
	switch (refusal) {
	case KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_NONE:
	case KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_NO_BLOCK:
	case KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_BELOW_MIN:
		return FAILURE_OTHER_BLOCK;
	case KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_TAKEN:
		return FAILURE_OTHER_SERIAL;
	default:
		return FAILURE_FINAL;
	}
}
