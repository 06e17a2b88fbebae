#include "common/base/plain_name.h"

#include <string.h>

enum status_code plain_name_check(const char *name, const char *what, struct status *st)
{
	size_t len = strlen(name);
	if (len > 0 && len <= PLAIN_NAME_MAX && name[0] != '.' && name[0] != '-' &&
	    strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == len)
		return STATUS_OK;
	return status_set(st, STATUS_INVALID_ARGUMENT,
			  "the name of a %s has 1 to %d letters, digits, '.', '_' or '-' and begins with a letter, digit or"
			  " '_'",
			  what, PLAIN_NAME_MAX);
}
