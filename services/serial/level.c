#include "services/serial/level.h"

#include <inttypes.h>

enum status_code level_check_state(uint64_t level, struct status *st)
{
	if (level <= level_known())
		return STATUS_OK;
	return status_set(st, STATUS_FAILED_PRECONDITION,
			  "the replicas have agreed on commands of level %" PRIu64
			  ", this kds-serial knows those up to %u: install the version that the other replicas run",
			  level, level_known());
}
