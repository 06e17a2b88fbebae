/* Passphrases: from a file, standard input or the terminal, into secret memory; never from argv or the environment. */
#ifndef CLI_PASSPHRASE_H
#define CLI_PASSPHRASE_H

#include <stdbool.h>

#include "common/base/status.h"

/*
 * The first line of `file`, which others may not read. "-": of standard input; where that is a terminal, asks for it
 * without echo, twice to make a new one. INVALID_ARGUMENT: cannot be had, or empty. Blocks.
 * The caller frees with passphrase_free().
 */
enum status_code passphrase_read(const char *file, bool make, struct status *st, char **ret_passphrase) MUST_CHECK;
/* 192 random bits in base64. */
enum status_code passphrase_random(struct status *st, char **ret_passphrase) MUST_CHECK;
/* Wipes. NULL is allowed. */
void passphrase_free(char *passphrase);

#endif
