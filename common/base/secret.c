#include "common/base/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "common/base/file_trust.h"

static size_t whole_pages(size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	return (size + page - 1) / page * page;
}

void *secret_alloc(size_t size)
{
	size_t len = whole_pages(size ? size : 1);
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	/* Best effort: an unprivileged process may be over RLIMIT_MEMLOCK, and works all the same. */
	(void)mlock(p, len);
	(void)madvise(p, len, MADV_DONTDUMP);
	return p;
}

void secret_free(void *p, size_t size)
{
	if (!p)
		return;
	size_t len = whole_pages(size ? size : 1);
	gnutls_memset(p, 0, len);
	munmap(p, len);
}

void secret_wipe(void *p, size_t size)
{
	if (p && size > 0)
		gnutls_memset(p, 0, size);
}

bool secret_equal(const void *a, const void *b, size_t size)
{
	return gnutls_memcmp(a, b, size) == 0;
}

enum status_code secret_random(void *p, size_t size, struct status *st)
{
	int rv = gnutls_rnd(GNUTLS_RND_KEY, p, size);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "random numbers: %s", gnutls_strerror(rv));
	return STATUS_OK;
}

static enum status_code read_open_file(int fd, const char *path, size_t max, struct status *st, uint8_t **ret_data,
				       size_t *ret_len)
{
	struct stat sb;
	if (fstat(fd, &sb) < 0 || !S_ISREG(sb.st_mode))
		return status_set(st, STATUS_FAILED_PRECONDITION, "%s: not a regular file", path);
	if (sb.st_mode & 077)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%s: mode %04o lets others at a secret; run: chmod 600 %s", path,
				  (unsigned)(sb.st_mode & 07777), path);
	enum status_code rc = file_trust_check(fd, path, st);
	if (rc != STATUS_OK)
		return rc;
	if ((uintmax_t)sb.st_size > max)
		return status_set(st, STATUS_FAILED_PRECONDITION, "%s: longer than %zu bytes", path, max);
	size_t size = (size_t)sb.st_size;
	uint8_t *data = secret_alloc(size + 1);
	if (!data)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "%s: out of memory", path);
	size_t len = 0;
	while (len < size) {
		ssize_t n = read(fd, data + len, size - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			secret_free(data, size + 1);
			return status_set(st, STATUS_UNAVAILABLE, "%s: %s", path,
					  n < 0 ? strerror(errno) : "shorter than it was; try again");
		}
		len += (size_t)n;
	}
	*ret_data = data;
	*ret_len = len;
	return STATUS_OK;
}

enum status_code secret_read_file(const char *path, size_t max, struct status *st, uint8_t **ret_data,
				  size_t *ret_len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return status_set(st, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_FAILED_PRECONDITION, "%s: %s", path,
				  strerror(errno));
	enum status_code rc = read_open_file(fd, path, max, st, ret_data, ret_len);
	close(fd);
	return rc;
}
