/*
 * Who else could change a file that this process goes by: its configuration, the CAs it trusts, its certificate and keys.
 *
 * As OpenSSH's StrictModes on Debian: the file and its directory belong to root or to us, and neither they nor a directory on
 * the way, links included, may be written by others. What its owner's own group (the one of his name or number, which
 * has nobody else in it) may write is the owner's: so umask 0002 makes it. A directory that all may write is safe where it
 * is sticky (/tmp): others cannot rename there what is not theirs.
 */
#ifndef BASE_FILE_TRUST_H
#define BASE_FILE_TRUST_H

#include <sys/stat.h>

#include "common/base/buffer.h"

/*
 * Of an open file, or of a FIFO that has a name; `path` as it was opened. FAILED_PRECONDITION: says which file or directory,
 * and the chmod or chown. What else is no regular file (a pipe from the shell, a device) passes. Blocks.
 */
enum status_code file_trust_check(int fd, const char *path, struct status *st) MUST_CHECK;
/* The same of a directory in which this process keeps what it goes by. NOT_FOUND: there is none. */
enum status_code file_trust_check_directory(const char *path, struct status *st) MUST_CHECK;

/* file_read(), checked. */
enum status_code file_trust_read(const char *path, size_t max, struct status *st, struct buffer *out) MUST_CHECK;

#endif
