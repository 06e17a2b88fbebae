/*
 * Configuration files in libconfuse's syntax, with errors that name file, line and option. Daemons read theirs through
 * options.h; programs that have no daemon's options (libkds) use this.
 */
#ifndef DAEMON_CONFIG_FILE_H
#define DAEMON_CONFIG_FILE_H

#include <confuse.h>

#include "common/base/status.h"

/*
 * Parses `path` as `options` (ended by CFG_END(), copied) say. NOT_FOUND, PERMISSION_DENIED: cannot be opened;
 * FAILED_PRECONDITION: others could change it (file_trust.h);
 * INVALID_ARGUMENT: "FILE:LINE: no such option 'x'" and the like. Blocks. Any thread, one at a time inside.
 * The caller frees with cfg_free().
 */
enum status_code config_file_parse(const char *path, const cfg_opt_t *options, struct status *st,
				   cfg_t **ret_cfg) MUST_CHECK;

/* `value` as seen from the directory of `config_file`, absolute. The caller frees. NULL: no memory or no directory. */
char *config_file_path(const char *config_file, const char *value) MUST_CHECK;

/* "host", "host:port", "v6", "[v6]" or "[v6]:port" with a port added where there is none. The caller frees.
 * NULL: no memory. */
char *config_file_address(const char *text, unsigned default_port) MUST_CHECK;

/* A list option as an array of addresses, `*ret_n` long, freed with config_file_free_list(). NULL: no memory. */
char **config_file_addresses(cfg_t *cfg, const char *option, unsigned default_port, size_t *ret_n) MUST_CHECK;
void config_file_free_list(char **list, size_t n);

#endif
