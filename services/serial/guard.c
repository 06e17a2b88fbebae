#include "services/serial/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define GUARD_SIZE 128 /* one line, padded: less than a sector, so it is written whole or not at all */
#define GUARD_FORMAT "index %llu of-term %llu term %llu vote %llu"

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
	struct guard_mark *m = &g->mark;
	ssize_t n = pread(g->fd, line, GUARD_SIZE, 0);
	if (n < 0)
		rc = status_set(st, STATUS_FAILED_PRECONDITION, "read %s/acknowledged: %s", dir, strerror(errno));
	else if (line[0] != '\0' && sscanf(line, GUARD_FORMAT, &m->index, &m->entry_term, &m->term, &m->vote) != 4)
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
	const struct guard_mark *m = &g->mark;
	int n = snprintf(line, sizeof line, GUARD_FORMAT, m->index, m->entry_term, m->term, m->vote);
	memset(line + n, ' ', GUARD_SIZE - (size_t)n);
	line[GUARD_SIZE - 1] = '\n';
	ssize_t written = pwrite(g->fd, line, GUARD_SIZE, 0);
	if (written >= 0 && written != GUARD_SIZE)
		errno = ENOSPC;
	return written == GUARD_SIZE;
}

bool guard_raise(struct guard *g, const struct guard_mark *mark)
{
	const struct guard_mark *m = &g->mark;
	if (m->index == mark->index && m->entry_term == mark->entry_term && m->term == mark->term && m->vote == mark->vote)
		return true;
	g->mark = *mark;
	return write_line(g);
}

bool guard_lower(struct guard *g, raft_index index)
{
	if (g->mark.index <= index)
		return true;
	g->mark.index = index;
	g->mark.entry_term = 0;
	return write_line(g) && fdatasync(g->fd) == 0;
}
