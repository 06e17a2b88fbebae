#include "clients/cli/cli.h"

const struct cli_noun *const cli_nouns[] = {
	&cli_init,   &cli_cluster, &cli_config,  &cli_node, &cli_cert,     &cli_key,
	&cli_serial, &cli_ca,      &cli_service, &cli_backup, &cli_call, &cli_describe,
};
const size_t cli_n_nouns = sizeof cli_nouns / sizeof cli_nouns[0];
