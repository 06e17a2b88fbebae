/* What the files of the noun `config` share: config.c (verbs), config_settings.c (list). */
#ifndef CLI_CONFIG_H
#define CLI_CONFIG_H

#include "clients/cli/cli.h"

/* Prints every setting there is, set or not, with its default and what it is for. */
enum status_code config_list_settings(struct cli *cli, struct status *st) MUST_CHECK;

#endif
