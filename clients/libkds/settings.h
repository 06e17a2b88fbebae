/* What an allocator works with: kds_options over the configuration file over defaults. */
#ifndef LIBKDS_SETTINGS_H
#define LIBKDS_SETTINGS_H

#include <kds/kds.h>

#include "common/base/status.h"

struct settings {
	char *cluster, *kds_name; /* kds_name: "" where no file says it */
	char *certificate, *key, *ca;
	char **addresses;
	size_t n_addresses;
	unsigned timeout_ms;
};

/* `options` may be NULL. INVALID_ARGUMENT, NOT_FOUND: what is missing, and where it may stand. Blocks on the file. */
enum status_code settings_read(const struct kds_options *options, struct status *st,
			       struct settings *ret_settings) MUST_CHECK;
void settings_free(struct settings *s);

#endif
