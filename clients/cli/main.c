#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/cli/arguments.h"
#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/base/log.h"
#include "common/daemon/process.h"

/* One line: what was being done, what went wrong, what to do about it. */
static void print_error(const struct cli *cli, const struct status *st)
{
	char message[STATUS_MESSAGE_MAX];
	snprintf(message, sizeof message, "%s", st->message[0] ? st->message : status_name(st->code));
	output_sanitize(message);
	const struct cli_command *command = cli->command;
	fprintf(stderr, "kds-cli: %s%s%s%s%s\n", command ? cli->noun->name : "", command && command->verb ? " " : "",
		command && command->verb ? command->verb : "", command ? ": " : "", message);
}

int main(int argc, char **argv)
{
	static struct cli cli;
	struct status st = { .code = STATUS_OK };
	enum arguments_result what = ARGUMENTS_DONE;
	process_refuse_dumps(); /* it reads passphrases and keys */
	log_init("kds-cli", LOG_LEVEL_ERROR);
	enum status_code rc = arguments_parse(argc, argv, &cli, &st, &what);
	if (rc == STATUS_OK && what == ARGUMENTS_RUN) {
		if (cli.verbose)
			log_init("kds-cli", LOG_LEVEL_DEBUG);
		rc = cli.command->run(&cli, &st);
		session_close(cli.session);
	}
	/* A full disk behind a redirection shows only now. */
	if (rc == STATUS_OK && (fflush(stdout) != 0 || ferror(stdout)))
		rc = status_set(&st, STATUS_INTERNAL, "write standard output: %s", strerror(errno));
	if (rc != STATUS_OK)
		print_error(&cli, &st);
	return rc == STATUS_OK && cli.no ? 1 : cli_exit_status(rc);
}
