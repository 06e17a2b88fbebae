#include "tests/support/support.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *support_make_directory(void)
{
	const char *base = getenv("TMPDIR");
	char path[4096];
	snprintf(path, sizeof path, "%s/kds-test.XXXXXX", base ? base : "/tmp");
	assert_non_null(mkdtemp(path));
	char *copy = strdup(path);
	assert_non_null(copy);
	return copy;
}

static int remove_one(const char *path, const struct stat *sb, int type, struct FTW *ftw)
{
	(void)sb;
	(void)type;
	(void)ftw;
	return remove(path);
}

void support_remove_directory(char *path)
{
	if (path)
		nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(path);
}

const char *support_net(void)
{
	static char net[16];
	unsigned pid = (unsigned)getpid();
	snprintf(net, sizeof net, "127.%u.%u", 24 + pid % 32, pid / 32 % 256);
	return net;
}
