#include "clients/cli/arguments.h"

#include <stdio.h>
#include <string.h>

static const struct argp_option common_options[] = {
	{ "json", OPT_JSON, NULL, 0, "Print the answer as one JSON document", 1 },
	{ "quiet", 'q', NULL, 0, "No progress, no warnings", 1 },
	{ "verbose", 'v', NULL, 0, "Say what is being done", 1 },
	{ "help", 'h', NULL, 0, "This help; behind a noun or verb, about it", 1 },
	{ "version", 'V', NULL, 0, "The version", 1 },
	{ 0 },
};

static const struct argp_option connection_options[] = {
	{ "config", OPT_CONFIG, "FILE", 0,
	  "Configuration (default: $KDS_CONFIG, ~/.config/kds/cli.conf, /etc/kds/cli.conf)", 1 },
	{ "timeout", OPT_TIMEOUT, "SECONDS", 0, "How long to wait for an answer", 1 },
	{ "cert", OPT_CERT, "FILE", 0, "Act with this certificate instead of the configured one", 1 },
	{ "key", OPT_KEY, "FILE", 0, "The private key to --cert", 1 },
	{ "ca", OPT_CA, "FILE", 0, "The infrastructure CA to trust", 1 },
	{ 0 },
};

static const struct argp common_argp = { .options = common_options };
static const struct argp connection_argp = { .options = connection_options };

static bool names(const struct argp_option *o, const char *name, size_t len)
{
	return strlen(o->name) == len && memcmp(o->name, name, len) == 0;
}

static const struct argp_option *find_in(const struct argp_option *options, const char *name, size_t len, int key)
{
	for (const struct argp_option *o = options; o && o->name; o++) {
		if (name ? names(o, name, len) : o->key == key)
			return o;
	}
	return NULL;
}

/* Those that stand with every command. */
static const struct argp_option *find_global(const char *name, size_t len, int key)
{
	const struct argp_option *o = find_in(common_options, name, len, key);
	return o ? o : find_in(connection_options, name, len, key);
}

/* By long name, or by key where name is NULL. Looks at every command's options: whose it is, is checked at the end. */
static const struct argp_option *find_option(const char *name, size_t len, int key)
{
	const struct argp_option *o = find_global(name, len, key);
	for (size_t i = 0; !o && i < cli_n_nouns; i++) {
		for (size_t j = 0; !o && j < cli_nouns[i]->n_commands; j++)
			o = find_in(cli_nouns[i]->commands[j].options, name, len, key);
	}
	return o;
}

static enum status_code give(struct cli *cli, const struct argp_option *o, const char *value, struct status *st)
{
	if (cli->n_given == CLI_OPTIONS_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "more than %d options", CLI_OPTIONS_MAX);
	cli->given[cli->n_given].option = o->key;
	cli->given[cli->n_given].value = value ? value : "";
	cli->n_given++;
	return STATUS_OK;
}

/* "--name", "--name=value" or "--name value"; *i moves behind what was taken. */
static enum status_code take_long(struct cli *cli, int argc, char **argv, int *i, struct status *st)
{
	const char *name = argv[*i] + 2;
	size_t len = strcspn(name, "=");
	const char *value = name[len] == '=' ? name + len + 1 : NULL;
	const struct argp_option *o = find_option(name, len, 0);
	++*i;
	if (!o)
		return status_set(st, STATUS_INVALID_ARGUMENT, "unknown option --%.*s", (int)len, name);
	if (value && !o->arg)
		return status_set(st, STATUS_INVALID_ARGUMENT, "option --%s takes no value", o->name);
	if (o->arg && !value) {
		if (*i >= argc)
			return status_set(st, STATUS_INVALID_ARGUMENT, "option --%s needs a value: --%s %s", o->name,
					  o->name, o->arg);
		value = argv[(*i)++];
	}
	return give(cli, o, value, st);
}

/* "-qv": short options take no values. */
static enum status_code take_short(struct cli *cli, const char *letters, struct status *st)
{
	for (; *letters; letters++) {
		const struct argp_option *o = (unsigned char)*letters < 128 ? find_option(NULL, 0, *letters) : NULL;
		if (!o)
			return status_set(st, STATUS_INVALID_ARGUMENT, "unknown option -%c", *letters);
		if (give(cli, o, NULL, st) != STATUS_OK)
			return st->code;
	}
	return STATUS_OK;
}

/* The first words are noun and verb, the others arguments. */
static enum status_code take_word(struct cli *cli, const char *word, struct status *st)
{
	if (!cli->noun) {
		for (size_t i = 0; i < cli_n_nouns; i++) {
			if (strcmp(cli_nouns[i]->name, word) == 0)
				cli->noun = cli_nouns[i];
		}
		if (!cli->noun)
			return status_set(st, STATUS_INVALID_ARGUMENT, "there is no '%s'", word);
		if (!cli->noun->commands[0].verb)
			cli->command = &cli->noun->commands[0];
		return STATUS_OK;
	}
	if (!cli->command) {
		for (size_t i = 0; i < cli->noun->n_commands; i++) {
			if (strcmp(cli->noun->commands[i].verb, word) == 0)
				cli->command = &cli->noun->commands[i];
		}
		return cli->command
			   ? STATUS_OK
			   : status_set(st, STATUS_INVALID_ARGUMENT, "there is no '%s %s'", cli->noun->name, word);
	}
	if (cli->n_args == CLI_ARGS_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "more than %d arguments", CLI_ARGS_MAX);
	cli->args[cli->n_args++] = word;
	return STATUS_OK;
}

static enum status_code take_all(struct cli *cli, int argc, char **argv, struct status *st)
{
	bool options = true;
	for (int i = 1; i < argc && st->code == STATUS_OK;) {
		const char *word = argv[i];
		if (options && strcmp(word, "--") == 0) {
			options = false;
			i++;
		} else if (options && strncmp(word, "--", 2) == 0) {
			(void)take_long(cli, argc, argv, &i, st);
		} else if (options && word[0] == '-' && word[1]) {
			(void)take_short(cli, word + 1, st);
			i++;
		} else {
			(void)take_word(cli, word, st);
			i++;
		}
	}
	return st->code;
}

/* Options that are known, but not here. */
static enum status_code check_given(const struct cli *cli, struct status *st)
{
	for (size_t i = 0; i < cli->n_given; i++) {
		int key = cli->given[i].option;
		if (!find_global(NULL, 0, key) && !find_in(cli->command->options, NULL, 0, key))
			return status_set(st, STATUS_INVALID_ARGUMENT, "no option --%s here",
					  find_option(NULL, 0, key)->name);
	}
	if (cli->n_args < cli->command->min_args)
		return status_set(st, STATUS_INVALID_ARGUMENT, "too few arguments: give %s", cli->command->arguments);
	if (cli->n_args > cli->command->max_args)
		return status_set(st, STATUS_INVALID_ARGUMENT, "one argument too many: '%s'",
				  cli->args[cli->command->max_args]);
	return STATUS_OK;
}

static enum status_code apply_common(struct cli *cli, struct status *st)
{
	uint64_t seconds = 0;
	const char *timeout = cli_value(cli, OPT_TIMEOUT);
	if (timeout && cli_parse_number(timeout, "--timeout", 1, 3600, st, &seconds) != STATUS_OK)
		return st->code;
	cli->timeout_ms = (unsigned)seconds * 1000;
	cli->json = cli_has(cli, OPT_JSON);
	cli->quiet = cli_has(cli, 'q');
	cli->verbose = cli_has(cli, 'v');
	return STATUS_OK;
}

static void help_program(void)
{
	printf("Usage: kds-cli [OPTION...] NOUN VERB [ARGUMENT...]\n"
	       "A cluster's certificates, serial numbers, configuration and group keys.\n\n");
	for (size_t i = 0; i < cli_n_nouns; i++)
		printf("  %-10s %s\n", cli_nouns[i]->name, cli_nouns[i]->purpose);
	printf("\n`kds-cli NOUN --help' lists a noun's verbs, `kds-cli NOUN VERB --help' tells all about one.\n"
	       "Options may stand anywhere. The common ones:\n\n");
	static const struct argp_child children[] = { { &common_argp, 0, NULL, 1 },
						      { &connection_argp, 0, NULL, 1 },
						      { 0 } };
	static const struct argp argp = { .children = children };
	argp_help(&argp, stdout, ARGP_HELP_LONG, NULL);
	printf("\nExit status: 0 done, or yes; 1 no (verify, match, needs-renewal, health); 2 usage or bad input; 3 "
	       "not permitted;\n"
	       "4 unavailable, no quorum, timed out; 5 refused by the cluster's state; 6 internal error.\n"
	       "\nExamples:\n"
	       "  kds-cli init --cluster cluster.example.com --kds-name key.example.com --dir kds\n"
	       "  kds-cli --config kds/admin/cli.conf cluster view\n"
	       "  kds-cli --json serial show\n");
}

/* With the lines that continue it. */
static void put_first_example(const char *text)
{
	const char *end = text + strcspn(text, "\n");
	while (end > text && end[-1] == '\\' && *end == '\n')
		end += 1 + strcspn(end + 1, "\n");
	printf("%.*s\n", (int)(end - text), text);
}

static void help_noun(const struct cli_noun *noun)
{
	printf("Usage: kds-cli [OPTION...] %s VERB [ARGUMENT...]\n%s.\n\n", noun->name, noun->purpose);
	for (size_t i = 0; i < noun->n_commands; i++) {
		char head[80];
		snprintf(head, sizeof head, "%s %s", noun->commands[i].verb, noun->commands[i].arguments);
		printf("  %-30s %s\n", head, noun->commands[i].purpose);
	}
	printf("\nExamples:\n");
	for (size_t i = 0; i < noun->n_commands; i++)
		put_first_example(noun->commands[i].examples);
	printf("\n`kds-cli %s VERB --help' tells all about a verb, `kds-cli --help' about the common options.\n",
	       noun->name);
}

static void help_command(const struct cli *cli)
{
	const struct cli_command *c = cli->command;
	char usage[256], doc[4096];
	snprintf(usage, sizeof usage, "%s%s%s%s%s", cli->noun->name, c->verb ? " " : "", c->verb ? c->verb : "",
		 *c->arguments ? " " : "", c->arguments);
	/* argp prints what stands behind the vertical tab behind the options. */
	snprintf(doc, sizeof doc, "%s.\vExamples:\n%s", c->purpose, c->examples);
	static const struct argp_child children[] = {
		{ &connection_argp, 0, "Connection and identity:", 1 },
		{ &common_argp, 0, "Common options:", 2 },
		{ 0 },
	};
	static const struct argp_child offline_children[] = { { &common_argp, 0, "Common options:", 1 }, { 0 } };
	const struct argp argp = {
		.options = c->options,
		.args_doc = usage,
		.doc = doc,
		.children = c->offline ? offline_children : children,
	};
	char name[] = "kds-cli";
	argp_help(&argp, stdout, ARGP_HELP_SHORT_USAGE | ARGP_HELP_PRE_DOC | ARGP_HELP_LONG | ARGP_HELP_POST_DOC, name);
}

static void help(const struct cli *cli)
{
	if (cli->command)
		help_command(cli);
	else if (cli->noun)
		help_noun(cli->noun);
	else
		help_program();
}

/* Where to look, behind what went wrong. */
static enum status_code usage_error(const struct cli *cli, struct status *st)
{
	char message[STATUS_MESSAGE_MAX];
	memcpy(message, st->message, sizeof message);
	return status_set(st, STATUS_INVALID_ARGUMENT, "%.160s; see kds-cli %s%s%s%s--help", message,
			  cli->noun ? cli->noun->name : "", cli->noun ? " " : "",
			  cli->command && cli->command->verb ? cli->command->verb : "",
			  cli->command && cli->command->verb ? " " : "");
}

enum status_code arguments_parse(int argc, char **argv, struct cli *cli, struct status *st,
				 enum arguments_result *ret_result)
{
	*st = (struct status){ .code = STATUS_OK };
	enum status_code rc = take_all(cli, argc, argv, st);
	if (rc == STATUS_OK && cli_has(cli, 'V')) {
		printf("kds-cli %s\n", KDS_VERSION);
		*ret_result = ARGUMENTS_DONE;
		return STATUS_OK;
	}
	if (rc == STATUS_OK && cli_has(cli, 'h')) {
		help(cli);
		*ret_result = ARGUMENTS_DONE;
		return STATUS_OK;
	}
	if (rc == STATUS_OK && !cli->noun)
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "say what to do");
	if (rc == STATUS_OK && !cli->command)
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "say what to do with %s", cli->noun->name);
	if (rc == STATUS_OK)
		rc = check_given(cli, st);
	if (rc == STATUS_OK)
		rc = apply_common(cli, st);
	if (rc != STATUS_OK)
		return usage_error(cli, st);
	*ret_result = ARGUMENTS_RUN;
	return STATUS_OK;
}
