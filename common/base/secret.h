/*
 * Secrets in memory: locked against swapping where the limit allows, left out of core dumps, wiped when freed.
 */
#ifndef BASE_SECRET_H
#define BASE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/status.h"

/* Pages of its own, zeroed. NULL: no memory. */
void *secret_alloc(size_t size) MUST_CHECK;
/* `size` as it was asked for. NULL is allowed. */
void secret_free(void *p, size_t size);
/* Wipes in a way that no compiler leaves out. */
void secret_wipe(void *p, size_t size);
/* Constant time in `size`. */
bool secret_equal(const void *a, const void *b, size_t size) MUST_CHECK;
/* Fills from the system's generator. */
enum status_code secret_random(void *p, size_t size, struct status *st) MUST_CHECK;

/*
 * Reads a file whose content is secret into secret memory, at most `max` bytes, NUL behind it (not counted).
 * Refuses (FAILED_PRECONDITION) a file that group or others may read or write, as OpenSSH does, and one that others could
 * put there (file_trust.h). Blocks.
 * The caller frees with secret_free(ret_data, ret_len + 1).
 */
enum status_code secret_read_file(const char *path, size_t max, struct status *st, uint8_t **ret_data,
				  size_t *ret_len) MUST_CHECK;

#endif
