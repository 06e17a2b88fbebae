/* kds-cli cluster: the verbs that show and change which replicas there are. cluster.c lists them. */
#ifndef CLI_MEMBERS_H
#define CLI_MEMBERS_H

#include "clients/cli/cli.h"

enum status_code members_run_list(struct cli *cli, struct status *st) MUST_CHECK;
enum status_code members_run_add(struct cli *cli, struct status *st) MUST_CHECK;
enum status_code members_run_remove(struct cli *cli, struct status *st) MUST_CHECK;
enum status_code members_run_promote(struct cli *cli, struct status *st) MUST_CHECK;
enum status_code members_run_demote(struct cli *cli, struct status *st) MUST_CHECK;
enum status_code members_run_transfer(struct cli *cli, struct status *st) MUST_CHECK;

extern const struct argp_option members_add_options[], members_wait_options[];

#endif
