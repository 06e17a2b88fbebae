/* In the place of services/serial/level_known.c: what a version to come would say. */
#include "services/serial/level.h"

unsigned level_known(void)
{
	return LEVEL_NEWEST + 1;
}
