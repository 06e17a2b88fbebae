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
	return fsync(fd);
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

enum status_code file_write(const char *path, struct slice data, mode_t mode, bool replace, struct status *st)
{
	char temporary[PATH_MAX];
	int n = snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
	if (n < 0 || (size_t)n >= sizeof temporary)
		return status_set(st, STATUS_INVALID_ARGUMENT, "write %s: path too long", path);
	int fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return failed(st, "write", path);
	int rv = fchmod(fd, mode);
	if (rv == 0)
		rv = write_all(fd, data);
	if (close(fd) < 0)
		rv = -1;
	/* link() refuses an existing name in one step, as rename() cannot. */
	if (rv == 0)
		rv = replace ? rename(temporary, path) : link(temporary, path);
	enum status_code rc = STATUS_OK;
	if (rv < 0)
		rc = errno == EEXIST ? status_set(st, STATUS_ALREADY_EXISTS, "%s is there already; move it away first", path)
				     : failed(st, "write", path);
	if (rc != STATUS_OK || !replace)
		unlink(temporary);
	if (rc == STATUS_OK && sync_directory_of(path) < 0)
		rc = failed(st, "sync the directory of", path);
	return rc;
}

enum status_code file_read(const char *path, size_t max, struct status *st, struct buffer *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return failed(st, "read", path);
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
	close(fd);
	if (rc != STATUS_OK)
		out->len = before;
	return rc;
}
