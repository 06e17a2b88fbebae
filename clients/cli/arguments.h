/* The command line: which command is meant, with which options and arguments. Also all help. */
#ifndef CLI_ARGUMENTS_H
#define CLI_ARGUMENTS_H

#include "clients/cli/cli.h"

/* What to do with a command line that parsed. */
enum arguments_result {
	ARGUMENTS_RUN,  /* run cli->command */
	ARGUMENTS_DONE, /* help or the version was asked for, and printed */
};

/*
 * Options may stand anywhere, before and behind noun and verb; "--" ends them. Each is described by argp's option
 * tables and helped with argp_help(). argp_parse() itself is not used: it must know the options before it has seen the
 * noun, and its errors take two lines. INVALID_ARGUMENT: wrong usage, with where to look.
 */
enum status_code arguments_parse(int argc, char **argv, struct cli *cli, struct status *st,
				 enum arguments_result *ret_result) MUST_CHECK;

#endif
