#include "services/serial/level.h"

/* On its own, so that tests can link a replica of a version to come (tests/CMakeLists.txt). */
unsigned level_known(void)
{
	return LEVEL_NEWEST;
}
