#include "tests/fault/simulation/ending.h"

#include <setjmp.h>
#include <stddef.h>

#define STATUS_FATAL 3 /* store_fatal() */

static jmp_buf end;
static const struct disk *its_disk; /* NULL: no replica runs now */
static bool happened;

_Noreturn void __real__exit(int status);
_Noreturn void __wrap__exit(int status);

/* The linker puts it in the place of _exit(). */
_Noreturn void __wrap__exit(int status)
{
	if (status != STATUS_FATAL || !its_disk || !disk_has_refused(its_disk))
		__real__exit(status);
	happened = true;
	longjmp(end, 1);
}

bool ending_run(const struct disk *disk, void (*run)(void *arg), void *arg)
{
	its_disk = disk;
	if (setjmp(end) != 0) {
		its_disk = NULL;
		return false;
	}
	run(arg);
	its_disk = NULL;
	return true;
}

bool ending_happened(void)
{
	return happened;
}
