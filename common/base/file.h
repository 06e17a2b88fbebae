/* Files written whole or not at all. All of it blocks. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "common/base/buffer.h"

/* A temporary in the same directory, fsync, rename (or link, when it must not replace), fsync of the directory.
 * ALREADY_EXISTS: `replace` is false and there is one. */
enum status_code file_write(const char *path, struct slice data, mode_t mode, bool replace,
			    struct status *st) MUST_CHECK;

/* The same for what comes in pieces. */
struct file_writer {
	char path[PATH_MAX], temporary[PATH_MAX];
	int fd; /* -1: not open */
	bool replace;
};
/* With `replace` false, one that is there is found at once, and again at the end. */
enum status_code file_writer_open(struct file_writer *w, const char *path, mode_t mode, bool replace,
				  struct status *st) MUST_CHECK;
enum status_code file_writer_put(struct file_writer *w, struct slice data, struct status *st) MUST_CHECK;
/* The file is there, durable, or an error is returned and nothing is left. Closes in any case. */
enum status_code file_writer_commit(struct file_writer *w, struct status *st) MUST_CHECK;
/* Leaves nothing, unless it was committed. Also for one that could not be opened. */
void file_writer_abort(struct file_writer *w);

/* Appends the file to `out`; refuses more than `max` bytes. NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION. */
enum status_code file_read(const char *path, size_t max, struct status *st, struct buffer *out) MUST_CHECK;
/* The same of one that is open, and stays so; `path` for messages. */
enum status_code file_read_open(int fd, const char *path, size_t max, struct status *st,
				struct buffer *out) MUST_CHECK;

#endif
