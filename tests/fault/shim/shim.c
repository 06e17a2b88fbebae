/*
 * Preloaded (LD_PRELOAD) into a daemon by tests/fault/lib.sh: a disk that refuses, a clock that is off, a network that
 * leads elsewhere.
 *
 *   KDS_SHIM_CONTROL=FILE   "DISK CLOCK", read again at each call; a file that is being rewritten says what it said before
 *   KDS_SHIM_DIR=DIR        whose files are meant
 *   KDS_SHIM_CONNECT=P=Q    connections to port P go to port Q of the same host
 *
 * DISK: ok; full: nothing can be written (ENOSPC); bad: what is written fails (EIO); unsynced: fsync and fdatasync fail
 * (EIO). CLOCK: seconds that the wall clock is ahead.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* A function pointer from dlsym() is what POSIX has and ISO C forbids. */
enum disk { DISK_OK, DISK_FULL, DISK_BAD, DISK_UNSYNCED };

static struct {
	int control; /* -1: none */
	char dir[4096];
	unsigned from_port, to_port;
} shim = { .control = -1 };

/* The function that is shadowed here. */
static void *next(const char *name)
{
	void *f = dlsym(RTLD_NEXT, name);
	if (!f)
		abort();
	return f;
}
#define NEXT(type, name) (__extension__(type) next(name))

__attribute__((constructor)) static void start(void)
{
	const char *control = getenv("KDS_SHIM_CONTROL"), *dir = getenv("KDS_SHIM_DIR"), *ports = getenv("KDS_SHIM_CONNECT");
	if (control)
		shim.control = open(control, O_RDONLY | O_CLOEXEC);
	if (dir && !realpath(dir, shim.dir))
		abort();
	if (ports && sscanf(ports, "%u=%u", &shim.from_port, &shim.to_port) != 2)
		abort();
}

static void read_control(char disk[16], long *ret_clock)
{
	static _Thread_local char last_disk[16] = "ok";
	static _Thread_local long last_clock;
	char text[64] = "";
	int saved = errno;
	if (shim.control >= 0 && pread(shim.control, text, sizeof text - 1, 0) > 0 && strchr(text, '\n'))
		sscanf(text, "%15s %ld", last_disk, &last_clock);
	errno = saved;
	memcpy(disk, last_disk, sizeof last_disk);
	*ret_clock = last_clock;
}

static bool is_meant(int fd)
{
	char link[64], path[4096];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	int saved = errno;
	ssize_t n = readlink(link, path, sizeof path - 1);
	errno = saved;
	size_t len = strlen(shim.dir);
	return n > 0 && len > 0 && (size_t)n > len && memcmp(path, shim.dir, len) == 0 && path[len] == '/';
}

static enum disk disk_of(int fd)
{
	static const char *const names[] = { "ok", "full", "bad", "unsynced" };
	char disk[16];
	long clock;
	read_control(disk, &clock);
	for (int i = DISK_FULL; i <= DISK_UNSYNCED; i++)
		if (strcmp(disk, names[i]) == 0 && is_meant(fd))
			return (enum disk)i;
	return DISK_OK;
}

/* True: the call must fail, with errno set. */
static bool refuses_write(int fd)
{
	enum disk disk = disk_of(fd);
	if (disk == DISK_FULL)
		errno = ENOSPC;
	else if (disk == DISK_BAD)
		errno = EIO;
	return disk == DISK_FULL || disk == DISK_BAD;
}

static bool refuses_sync(int fd)
{
	if (disk_of(fd) != DISK_UNSYNCED)
		return false;
	errno = EIO;
	return true;
}

ssize_t write(int fd, const void *data, size_t n)
{
	return refuses_write(fd) ? -1 : NEXT(ssize_t(*)(int, const void *, size_t), "write")(fd, data, n);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
	return refuses_write(fd) ? -1 : NEXT(ssize_t(*)(int, const void *, size_t, off_t), "pwrite")(fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
	return refuses_write(fd) ? -1 : NEXT(ssize_t(*)(int, const void *, size_t, off64_t), "pwrite64")(fd, data, n, at);
}

ssize_t writev(int fd, const struct iovec *parts, int n)
{
	return refuses_write(fd) ? -1 : NEXT(ssize_t(*)(int, const struct iovec *, int), "writev")(fd, parts, n);
}

int ftruncate(int fd, off_t size)
{
	return refuses_write(fd) ? -1 : NEXT(int (*)(int, off_t), "ftruncate")(fd, size);
}

int ftruncate64(int fd, off64_t size)
{
	return refuses_write(fd) ? -1 : NEXT(int (*)(int, off64_t), "ftruncate64")(fd, size);
}

int posix_fallocate(int fd, off_t at, off_t n)
{
	return refuses_write(fd) ? errno : NEXT(int (*)(int, off_t, off_t), "posix_fallocate")(fd, at, n);
}

int posix_fallocate64(int fd, off64_t at, off64_t n)
{
	return refuses_write(fd) ? errno : NEXT(int (*)(int, off64_t, off64_t), "posix_fallocate64")(fd, at, n);
}

int fsync(int fd)
{
	return refuses_sync(fd) ? -1 : NEXT(int (*)(int), "fsync")(fd);
}

int fdatasync(int fd)
{
	return refuses_sync(fd) ? -1 : NEXT(int (*)(int), "fdatasync")(fd);
}

static long ahead(void)
{
	char disk[16];
	long clock;
	read_control(disk, &clock);
	return clock;
}

int clock_gettime(clockid_t which, struct timespec *t)
{
	int rv = NEXT(int (*)(clockid_t, struct timespec *), "clock_gettime")(which, t);
	if (rv == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
		t->tv_sec += ahead();
	return rv;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
	int rv = NEXT(int (*)(struct timeval *, void *), "gettimeofday")(t, zone);
	if (rv == 0)
		t->tv_sec += ahead();
	return rv;
}

time_t time(time_t *t)
{
	time_t now = NEXT(time_t(*)(time_t *), "time")(NULL) + ahead();
	if (t)
		*t = now;
	return now;
}

int connect(int fd, __CONST_SOCKADDR_ARG to, socklen_t len) /* as glibc declares it */
{
	const struct sockaddr *address = to.__sockaddr__;
	struct sockaddr_in other;
	if (shim.to_port != 0 && len >= sizeof other && address->sa_family == AF_INET) {
		memcpy(&other, address, sizeof other);
		if (ntohs(other.sin_port) == shim.from_port) {
			other.sin_port = htons((in_port_t)shim.to_port);
			address = (const struct sockaddr *)&other;
		}
	}
	return NEXT(int (*)(int, const struct sockaddr *, socklen_t), "connect")(fd, address, len);
}
