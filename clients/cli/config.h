/* What the files of the noun `config` share: config.c (the verbs), and one file for each of the larger ones. */
#ifndef CLI_CONFIG_H
#define CLI_CONFIG_H

#include "clients/cli/cli.h"

/* Prints every setting there is, set or not, with its default and what it is for. */
enum status_code config_list_settings(struct cli *cli, struct status *st) MUST_CHECK;
/* Prints who changed an object, or with NULL any, newest first. */
enum status_code config_print_history(struct cli *cli, const char *key, struct status *st) MUST_CHECK;
/* Prints changes until it is interrupted, or --count of them are printed; goes on after a failover. */
enum status_code config_watch(struct cli *cli, struct status *st) MUST_CHECK;

#endif
