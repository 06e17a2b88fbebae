/* Parts of `kds-cli service' that are files of their own. */
#ifndef CLI_SERVICE_H
#define CLI_SERVICE_H

#include "clients/cli/cli.h"

#define SERVICE_KEY_PREFIX "service/" /* of the replicated objects */

/* A name in a role URI: what `init` makes ("serial1"), letters, digits, hyphens and dots. INVALID_ARGUMENT. */
enum status_code service_check_name(const char *name, struct status *st) MUST_CHECK;

/* add (service_add.c) */
extern const struct argp_option service_add_options[];
enum status_code service_run_add(struct cli *cli, struct status *st) MUST_CHECK;

#endif
