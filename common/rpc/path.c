#include "common/rpc/path.h"

#include <stdio.h>
#include <string.h>

void path_prepend(char path[static PATH_MAX_LEN], const char *name, size_t index)
{
	char head[PATH_MAX_LEN];
	const char *dot = path[0] ? "." : "";
	int n = index == PATH_NO_INDEX ? snprintf(head, sizeof head, "%s%s", name, dot)
				       : snprintf(head, sizeof head, "%s[%zu]%s", name, index, dot);
	size_t len = n < PATH_MAX_LEN ? (size_t)n : PATH_MAX_LEN - 1;
	size_t keep = strlen(path);
	if (keep > PATH_MAX_LEN - 1 - len)
		keep = PATH_MAX_LEN - 1 - len;
	memmove(path + len, path, keep);
	memcpy(path, head, len);
	path[len + keep] = '\0';
}
