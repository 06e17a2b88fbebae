/* Files written whole or not at all. Both block. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/base/buffer.h"

/* A temporary in the same directory, fsync, rename (or link, when it must not replace), fsync of the directory.
 * ALREADY_EXISTS: `replace` is false and there is one. */
enum status_code file_write(const char *path, struct slice data, mode_t mode, bool replace,
			    struct status *st) MUST_CHECK;

/* Appends the file to `out`; refuses more than `max` bytes. NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION. */
enum status_code file_read(const char *path, size_t max, struct status *st, struct buffer *out) MUST_CHECK;

#endif
