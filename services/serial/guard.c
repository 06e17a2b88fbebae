#include "services/serial/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"

#define GUARD_SIZE 64 /* one line, padded: less than a sector, so it is written whole or not at all */
#define GUARD_EVERY_MS 1000

static enum status_code open_file(struct guard *g, const char *dir, int flags, struct status *st)
{
	char path[4096];
	int n = snprintf(path, sizeof path, "%s/acknowledged", dir);
	if (n < 0 || (size_t)n >= sizeof path)
		return status_set(st, STATUS_INVALID_ARGUMENT, "data-dir '%.64s...' is too long", dir);
	g->fd = open(path, flags | O_CLOEXEC | O_NOCTTY, 0600);
	if (g->fd < 0)
		return status_set(st, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_FAILED_PRECONDITION, "open %s: %s", path,
				  strerror(errno));
	return STATUS_OK;
}

enum status_code guard_read(struct guard *g, const char *dir, struct status *st)
{
	*g = (struct guard){ .fd = -1 };
	struct status why;
	enum status_code rc = open_file(g, dir, O_RDONLY, &why);
	if (rc == STATUS_NOT_FOUND)
		return STATUS_OK;
	if (rc != STATUS_OK)
		return status_set(st, rc, "%s", why.message);
	char line[GUARD_SIZE + 1] = "";
	ssize_t n = pread(g->fd, line, GUARD_SIZE, 0);
	if (n < 0)
		rc = status_set(st, STATUS_FAILED_PRECONDITION, "read %s/acknowledged: %s", dir, strerror(errno));
	else if (line[0] != '\0' && sscanf(line, "index %llu term %llu", &g->index, &g->term) != 2)
		rc = status_set(st, STATUS_DATA_LOSS,
				"%s/acknowledged is damaged; check the disk, then remove this file and start again", dir);
	guard_close(g);
	return rc;
}

enum status_code guard_open(struct guard *g, const char *dir, struct status *st)
{
	return open_file(g, dir, O_RDWR | O_CREAT, st);
}

void guard_close(struct guard *g)
{
	if (g->fd >= 0)
		close(g->fd);
	g->fd = -1;
}

static bool write_line(struct guard *g)
{
	char line[GUARD_SIZE + 1];
	int n = snprintf(line, sizeof line, "index %llu term %llu", g->index, g->term);
	memset(line + n, ' ', GUARD_SIZE - (size_t)n);
	line[GUARD_SIZE - 1] = '\n';
	g->written_ms = clock_monotonic_ms();
	ssize_t written = pwrite(g->fd, line, GUARD_SIZE, 0);
	if (written >= 0 && written != GUARD_SIZE)
		errno = ENOSPC;
	return written == GUARD_SIZE;
}

bool guard_raise(struct guard *g, raft_index index, raft_term term)
{
	g->index = index;
	g->term = term;
	return clock_monotonic_ms() - g->written_ms < GUARD_EVERY_MS || write_line(g);
}

bool guard_lower(struct guard *g, raft_index index)
{
	if (g->index <= index)
		return true;
	g->index = index;
	return write_line(g) && fdatasync(g->fd) == 0;
}

bool guard_flush(struct guard *g)
{
	return g->fd < 0 || write_line(g);
}
