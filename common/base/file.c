#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum status_code code_of(int error)
{
	switch (error) {
	case ENOENT:
		return STATUS_NOT_FOUND;
	case EEXIST:
		return STATUS_ALREADY_EXISTS;
	case EACCES:
	case EPERM:
	case EROFS:
		return STATUS_PERMISSION_DENIED;
	case ENOSPC:
	case EDQUOT:
		return STATUS_RESOURCE_EXHAUSTED;
	default:
		return STATUS_FAILED_PRECONDITION;
	}
}

static enum status_code failed(struct status *st, const char *what, const char *path)
{
	int error = errno;
	return status_set(st, code_of(error), "%s %s: %s", what, path, strerror(error));
}

static int write_all(int fd, struct slice data)
{
	const char *p = data.data;
	size_t left = data.len;
	while (left > 0) {
		ssize_t n = write(fd, p, left);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		p += n;
		left -= (size_t)n;
	}
	return 0;
}

static int sync_directory_of(const char *path)
{
	char copy[PATH_MAX];
	snprintf(copy, sizeof copy, "%s", path);
	int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	int rv = fsync(fd);
	close(fd);
	return rv;
}

static enum status_code exists(const char *path, struct status *st)
{
	return status_set(st, STATUS_ALREADY_EXISTS, "%s is there already; move it away first", path);
}

enum status_code file_writer_open(struct file_writer *w, const char *path, mode_t mode, bool replace,
				  struct status *st)
{
	w->fd = -1;
	w->replace = replace;
	int n = snprintf(w->temporary, sizeof w->temporary, "%s.XXXXXX", path);
	if (n < 0 || (size_t)n >= sizeof w->temporary)
		return status_set(st, STATUS_INVALID_ARGUMENT, "write %s: path too long", path);
	snprintf(w->path, sizeof w->path, "%s", path);
	if (!replace && access(path, F_OK) == 0)
		return exists(path, st);
	w->fd = mkostemp(w->temporary, O_CLOEXEC);
	if (w->fd < 0)
		return failed(st, "write", path);
	if (fchmod(w->fd, mode) == 0)
		return STATUS_OK;
	enum status_code rc = failed(st, "write", path);
	file_writer_abort(w);
	return rc;
}

enum status_code file_writer_put(struct file_writer *w, struct slice data, struct status *st)
{
	return write_all(w->fd, data) == 0 ? STATUS_OK : failed(st, "write", w->path);
}

enum status_code file_writer_commit(struct file_writer *w, struct status *st)
{
	int rv = fsync(w->fd);
	if (close(w->fd) < 0)
		rv = -1;
	w->fd = -1;
	/* link() refuses an existing name in one step, as rename() cannot. */
	if (rv == 0)
		rv = w->replace ? rename(w->temporary, w->path) : link(w->temporary, w->path);
	enum status_code rc = STATUS_OK;
	if (rv < 0)
		rc = errno == EEXIST ? exists(w->path, st) : failed(st, "write", w->path);
	if (rc != STATUS_OK || !w->replace)
		unlink(w->temporary);
	if (rc == STATUS_OK && sync_directory_of(w->path) < 0)
		rc = failed(st, "sync the directory of", w->path);
	return rc;
}

void file_writer_abort(struct file_writer *w)
{
	if (w->fd < 0)
		return;
	close(w->fd);
	unlink(w->temporary);
	w->fd = -1;
}

enum status_code file_write(const char *path, struct slice data, mode_t mode, bool replace, struct status *st)
{
	struct file_writer w;
	enum status_code rc = file_writer_open(&w, path, mode, replace, st);
	if (rc != STATUS_OK)
		return rc;
	rc = file_writer_put(&w, data, st);
	if (rc == STATUS_OK)
		rc = file_writer_commit(&w, st);
	file_writer_abort(&w);
	return rc;
}

enum status_code file_read_open(int fd, const char *path, size_t max, struct status *st, struct buffer *out)
{
	enum status_code rc = STATUS_OK;
	struct stat sb;
	size_t before = out->len;
	if (fstat(fd, &sb) < 0)
		rc = failed(st, "read", path);
	else if (S_ISDIR(sb.st_mode))
		rc = status_set(st, STATUS_FAILED_PRECONDITION, "read %s: it is a directory", path);
	while (rc == STATUS_OK) {
		if (!buffer_reserve(out, 4096)) {
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "read %s: out of memory", path);
			break;
		}
		ssize_t n = read(fd, out->data + out->len, 4096);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = failed(st, "read", path);
		if (n <= 0)
			break;
		out->len += (size_t)n;
		if (out->len - before > max)
			rc = status_set(st, STATUS_FAILED_PRECONDITION, "read %s: longer than %zu bytes", path, max);
	}
	if (rc != STATUS_OK)
		out->len = before;
	return rc;
}

enum status_code file_read(const char *path, size_t max, struct status *st, struct buffer *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return failed(st, "read", path);
	enum status_code rc = file_read_open(fd, path, max, st, out);
	close(fd);
	return rc;
}
