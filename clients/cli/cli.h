/*
 * kds-cli: what one run of the command is, and what its nouns share.
 *
 * A file a noun: it exports one struct cli_noun, whose verbs get the context below and answer with a status. main.c
 * prints a failure as one line and makes an exit status of it (cli_exit_status()).
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/status.h"

#define CLI_ARGS_MAX 16
#define CLI_OPTIONS_MAX 256
#define CLI_INPUT_MAX (1 << 20) /* bytes of an input file */

/* The keys of all long options. An option has the same name, and takes a value or none, wherever it is allowed: it may
 * stand before the noun, when it is not yet known whose it is. */
enum cli_option {
	OPT_CONFIG = 256,
	OPT_JSON,
	OPT_TIMEOUT,
	OPT_CERT,
	OPT_KEY,
	OPT_CA,
	OPT_ADDRESS,
	OPT_ALL,
	OPT_BEFORE,
	OPT_CA_HOST,
	OPT_CA_KEY,
	OPT_CLUSTER,
	OPT_COMMON_NAME,
	OPT_UNDO,
	OPT_COUNT,
	OPT_DIR,
	OPT_EXPECT,
	OPT_FORCE,
	OPT_GROUP,
	OPT_KDS_NAME,
	OPT_KEYDIST_HOST,
	OPT_LIFETIME,
	OPT_LISTEN,
	OPT_LOCAL,
	OPT_MIN_SERIAL,
	OPT_NAME,
	OPT_NEW_CA,
	OPT_NODE,
	OPT_OUT,
	OPT_PEER_ADDRESS,
	OPT_PASSPHRASE_FILE,
	OPT_PROFILE,
	OPT_REPLACE,
	OPT_REPLICAS,
	OPT_SEAL,
	OPT_SINCE,
	OPT_SKIP,
	OPT_STANDBY,
	OPT_SUBJECT,
	OPT_WAIT,
};

struct cli;
struct session;

struct cli_command {
	const char *verb;                  /* "sign"; NULL: the noun is the command, as in "init" */
	const char *arguments;             /* "FILE.csr", for the usage line; "" */
	const char *purpose;               /* one sentence */
	const char *examples;              /* further help, one example a line */
	const struct argp_option *options; /* its own, ended by { 0 }; NULL: none */
	unsigned min_args, max_args;
	bool offline; /* needs no server and no configuration */
	enum status_code (*run)(struct cli *cli, struct status *st);
};

struct cli_noun {
	const char *name;
	const char *purpose;
	const struct cli_command *commands;
	size_t n_commands;
};

/* In the order in which --help lists them. */
extern const struct cli_noun cli_init, cli_cluster, cli_config, cli_node, cli_cert, cli_serial, cli_ca, cli_key,
    cli_service, cli_backup, cli_call, cli_describe;
extern const struct cli_noun *const cli_nouns[];
extern const size_t cli_n_nouns;

/* One run. Strings are borrowed from argv. */
struct cli {
	const struct cli_noun *noun;
	const struct cli_command *command;
	const char *args[CLI_ARGS_MAX]; /* behind noun and verb */
	size_t n_args;
	struct {
		int option;
		const char *value; /* "" for one that takes none */
	} given[CLI_OPTIONS_MAX];
	size_t n_given;
	bool json, quiet, verbose;
	unsigned timeout_ms;     /* 0: as configured */
	bool no;                 /* a predicate's answer: exit status 1 */
	struct session *session; /* session.h; made when first used */
};

/*
 * Options (cli.c). The last one given counts where one is asked for; NULL: not given.
 */
bool cli_has(const struct cli *cli, int option);
const char *cli_value(const struct cli *cli, int option);
/* Fills `values` (room for CLI_OPTIONS_MAX) with every value of a repeated option; returns how many. */
size_t cli_values(const struct cli *cli, int option, char **values);
/* The same as a decimal number from `min` to `max`; unless_given when it was not. INVALID_ARGUMENT. */
enum status_code cli_number(const struct cli *cli, int option, uint64_t min, uint64_t max, uint64_t unless_given,
			    struct status *st, uint64_t *ret_number) MUST_CHECK;
/* A decimal number; `what` names it in the error. */
enum status_code cli_parse_number(const char *text, const char *what, uint64_t min, uint64_t max, struct status *st,
				  uint64_t *ret_number) MUST_CHECK;

/* What the caller named and cannot be read or parsed is bad input (exit status 2), whatever the reason. Returns the
 * code. */
enum status_code cli_bad_input(struct status *st);
/* Reads a file, or standard input for "-", behind what is in `out`. */
enum status_code cli_read_input(const char *path, struct status *st, struct buffer *out) MUST_CHECK;
/* Writes to --out FILE (replacing it, mode 0644), or to standard output without that option. */
enum status_code cli_write_output(const struct cli *cli, struct slice data, struct status *st) MUST_CHECK;

/* One line on standard error, unless --quiet; and only with --verbose. */
void cli_notice(const struct cli *cli, const char *format, ...) PRINTF_LIKE(2, 3);
void cli_detail(const struct cli *cli, const char *format, ...) PRINTF_LIKE(2, 3);

/* The exit status that the contract gives to a code. */
int cli_exit_status(enum status_code code);

#endif
