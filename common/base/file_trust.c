#include "common/base/file_trust.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>

#include "common/base/file.h"

#define LINKS_MAX 40 /* as the kernel follows */
#define NAMES_MAX 16384 /* of one group's or user's entry */

/* Is nobody but `user` in the group? */
static bool is_own_group(uid_t user, gid_t group)
{
	struct passwd user_entry, *u = NULL;
	struct group group_entry, *g = NULL;
	char *names = malloc(2 * NAMES_MAX);
	if (!names)
		return false;
	bool whole = getpwuid_r(user, &user_entry, names, NAMES_MAX, &u) != ERANGE;
	whole = getgrgid_r(group, &group_entry, names + NAMES_MAX, NAMES_MAX, &g) != ERANGE && whole;
	/* On a host that does not know them, as in a container, the number alone tells. */
	bool own = u && g ? u->pw_gid == group && strcmp(u->pw_name, g->gr_name) == 0 : user == group;
	for (char **member = g ? g->gr_mem : NULL; member && *member; member++)
		own = own && u && strcmp(*member, u->pw_name) == 0;
	free(names);
	return own && whole; /* else it has more members than there is room for */
}

static bool others_may_write(const struct stat *sb)
{
	if (sb->st_mode & S_IWOTH)
		return true;
	return (sb->st_mode & S_IWGRP) && !is_own_group(sb->st_uid, sb->st_gid);
}

static enum status_code check_owner(const struct stat *sb, const char *path, struct status *st)
{
	if (sb->st_uid == 0 || sb->st_uid == geteuid())
		return STATUS_OK;
	return status_set(st, STATUS_FAILED_PRECONDITION,
			  "%s: belongs to user %lu, who could change it; run: chown %lu %s", path,
			  (unsigned long)sb->st_uid, (unsigned long)geteuid(), path);
}

static enum status_code check_mode(const struct stat *sb, const char *path, struct status *st)
{
	if (!others_may_write(sb) || (S_ISDIR(sb->st_mode) && (sb->st_mode & S_ISVTX)))
		return STATUS_OK;
	return status_set(st, STATUS_FAILED_PRECONDITION, "%s: mode %04o lets others change %s; run: chmod go-w %s", path,
			  (unsigned)(sb->st_mode & 07777), S_ISDIR(sb->st_mode) ? "what is in it" : "it", path);
}

static enum status_code unreadable(const char *path, struct status *st)
{
	return status_set(st, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_FAILED_PRECONDITION, "%s: %s", path,
			  strerror(errno));
}

static enum status_code check_way(const char *path, unsigned links, struct status *st);

/* A link on the way leads to a way of its own; who may not change it is known of the directory that it stands in, unless all
 * may make links there. */
static enum status_code check_link(const char *path, const struct stat *sb, unsigned links, struct status *st)
{
	char target[PATH_MAX], whole[2 * PATH_MAX];
	ssize_t n = readlink(path, target, sizeof target - 1);
	if (n < 0)
		return unreadable(path, st);
	target[n] = '\0';
	enum status_code rc = check_owner(sb, path, st);
	if (rc != STATUS_OK)
		return rc;
	if (links == LINKS_MAX)
		return status_set(st, STATUS_FAILED_PRECONDITION, "%s: %s", path, strerror(ELOOP));
	const char *slash = strrchr(path, '/');
	if (target[0] == '/')
		snprintf(whole, sizeof whole, "%s", target);
	else
		snprintf(whole, sizeof whole, "%.*s/%s", (int)(slash - path), path, target);
	return check_way(whole, links + 1, st);
}

static enum status_code check_step(const char *path, unsigned links, struct status *st)
{
	struct stat sb;
	if (lstat(path, &sb) < 0)
		return unreadable(path, st);
	if (S_ISLNK(sb.st_mode))
		return check_link(path, &sb, links, st);
	return S_ISDIR(sb.st_mode) ? check_mode(&sb, path, st) : STATUS_OK;
}

/* Every directory and link of an absolute path, the last part too. */
static enum status_code check_way(const char *path, unsigned links, struct status *st)
{
	char step[2 * PATH_MAX];
	enum status_code rc = check_step("/", links, st);
	for (const char *end = path; rc == STATUS_OK && *end;) {
		end += strspn(end, "/");
		end += strcspn(end, "/");
		snprintf(step, sizeof step, "%.*s", (int)(end - path), path);
		rc = check_step(step, links, st);
	}
	return rc;
}

static enum status_code check_absolute_way(const char *path, struct status *st)
{
	char here[PATH_MAX], whole[2 * PATH_MAX];
	if (path[0] == '/')
		return check_way(path, 0, st);
	if (!getcwd(here, sizeof here))
		return unreadable(path, st);
	snprintf(whole, sizeof whole, "%s/%s", here, path);
	return check_way(whole, 0, st);
}

/* The directory that the file stands in, behind all links. */
static enum status_code check_directory_of(const char *path, struct status *st)
{
	char real[PATH_MAX];
	struct stat sb;
	if (!realpath(path, real))
		return unreadable(path, st);
	char *slash = strrchr(real, '/');
	slash[slash == real] = '\0';
	if (stat(real, &sb) < 0)
		return unreadable(real, st);
	/* Of a sticky one it is enough that it is root's. */
	return check_owner(&sb, real, st);
}

/* A FIFO that anybody could have made where a file is looked for, other than a pipe from the shell. */
static bool is_named_pipe(int fd, const struct stat *sb)
{
	struct statfs fs;
	return S_ISFIFO(sb->st_mode) && (fstatfs(fd, &fs) < 0 || fs.f_type != PIPEFS_MAGIC);
}

enum status_code file_trust_check(int fd, const char *path, struct status *st)
{
	struct stat sb;
	if (fstat(fd, &sb) < 0)
		return unreadable(path, st);
	if (!S_ISREG(sb.st_mode) && !is_named_pipe(fd, &sb))
		return STATUS_OK;
	enum status_code rc = check_owner(&sb, path, st);
	if (rc == STATUS_OK)
		rc = check_mode(&sb, path, st);
	if (rc == STATUS_OK)
		rc = check_directory_of(path, st);
	if (rc == STATUS_OK)
		rc = check_absolute_way(path, st);
	return rc;
}

enum status_code file_trust_check_directory(const char *path, struct status *st)
{
	struct stat sb;
	if (stat(path, &sb) < 0)
		return unreadable(path, st);
	if (!S_ISDIR(sb.st_mode))
		return status_set(st, STATUS_FAILED_PRECONDITION, "%s: not a directory", path);
	enum status_code rc = check_owner(&sb, path, st);
	return rc == STATUS_OK ? check_absolute_way(path, st) : rc;
}

enum status_code file_trust_read(const char *path, size_t max, struct status *st, struct buffer *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return unreadable(path, st);
	enum status_code rc = file_trust_check(fd, path, st);
	if (rc == STATUS_OK)
		rc = file_read_open(fd, path, max, st, out);
	close(fd);
	return rc;
}
