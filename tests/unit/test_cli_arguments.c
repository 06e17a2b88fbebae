// links: client_cli
/* The command line of kds-cli, and that its tables keep the rules which the parser relies on. */
#include <string.h>

#include "clients/cli/arguments.h"
#include "tests/support/support.h"

#define HELP_COLUMNS 78 /* argp breaks longer lines */

static enum status_code parse(struct cli *cli, struct status *st, const char *const *argv)
{
	enum arguments_result result;
	int argc = 0;
	while (argv[argc])
		argc++;
	*cli = (struct cli){ 0 };
	return arguments_parse(argc, (char **)(uintptr_t)argv, cli, st, &result);
}

#define PARSE(cli, st, ...) parse(cli, st, (const char *const[]){ "kds-cli", __VA_ARGS__, NULL })

static void test_cli_arguments_options_anywhere(void **state)
{
	struct cli cli;
	struct status st;
	(void)state;
	assert_int_equal(
	    PARSE(&cli, &st, "--profile", "kds-client", "-q", "cert", "--json", "sign", "a.csr", "--node=n", "-v"),
	    STATUS_OK);
	assert_string_equal(cli.noun->name, "cert");
	assert_string_equal(cli.command->verb, "sign");
	assert_int_equal(cli.n_args, 1);
	assert_string_equal(cli.args[0], "a.csr");
	assert_string_equal(cli_value(&cli, OPT_PROFILE), "kds-client");
	assert_string_equal(cli_value(&cli, OPT_NODE), "n");
	assert_true(cli.json && cli.quiet && cli.verbose);
}

static void test_cli_arguments_values(void **state)
{
	struct cli cli;
	struct status st;
	char *values[CLI_OPTIONS_MAX];
	(void)state;
	assert_int_equal(PARSE(&cli, &st, "node", "add", "n", "--group", "urn:a", "--group=urn:b=c", "--address", "-"),
			 STATUS_OK);
	assert_int_equal(cli_values(&cli, OPT_GROUP, values), 2);
	assert_string_equal(values[0], "urn:a");
	assert_string_equal(values[1], "urn:b=c");
	assert_string_equal(cli_value(&cli, OPT_GROUP), "urn:b=c"); /* the last one */
	assert_string_equal(cli_value(&cli, OPT_ADDRESS), "-");
	assert_false(cli_has(&cli, OPT_REPLACE));
}

static void test_cli_arguments_end_of_options(void **state)
{
	struct cli cli;
	struct status st;
	(void)state;
	assert_int_equal(PARSE(&cli, &st, "cert", "match", "--", "--json", "-q"), STATUS_OK);
	assert_int_equal(cli.n_args, 2);
	assert_string_equal(cli.args[0], "--json");
	assert_false(cli.json || cli.quiet);
	assert_int_equal(PARSE(&cli, &st, "cert", "show", "-"), STATUS_OK); /* standard input */
}

static void test_cli_arguments_refuses(void **state)
{
	static const char *const cases[][6] = {
		{ "kds-cli", NULL },
		{ "kds-cli", "cert", NULL },
		{ "kds-cli", "bogus", NULL },
		{ "kds-cli", "cert", "bogus", NULL },
		{ "kds-cli", "--bogus", "describe", NULL },
		{ "kds-cli", "--jso", "describe", NULL }, /* no abbreviations: they would change with new options */
		{ "kds-cli", "-x", "describe", NULL },
		{ "kds-cli", "-\xC3\xA4", "describe", NULL },
		{ "kds-cli", "cert", "show", NULL },
		{ "kds-cli", "cert", "show", "a", "b", NULL },
		{ "kds-cli", "cert", "show", "a", "--replace", NULL }, /* another verb's */
		{ "kds-cli", "describe", "--config", NULL },
		{ "kds-cli", "describe", "--json=1", NULL },
		{ "kds-cli", "describe", "--timeout", "0", NULL },
		{ "kds-cli", "describe", "--timeout", "-1", NULL },
		{ "kds-cli", "describe", "--timeout", "1s", NULL },
		{ "kds-cli", "describe", "--timeout", "99999999999999999999", NULL },
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct cli cli;
		struct status st = { 0 };
		assert_int_equal(parse(&cli, &st, cases[i]), STATUS_INVALID_ARGUMENT);
		assert_non_null(strstr(st.message, "--help"));
	}
}

/* An option that stands before the noun takes a value or none, whoever's it is. */
static void check_same(const struct argp_option *a, const struct argp_option *b)
{
	for (; a && a->name; a++) {
		for (const struct argp_option *o = b; o && o->name; o++) {
			bool same_name = strcmp(a->name, o->name) == 0;
			if (same_name != (a->key == o->key) || (same_name && !a->arg != !o->arg))
				fail_msg("--%s (%d) and --%s (%d) do not agree", a->name, a->key, o->name, o->key);
		}
	}
}

static void test_cli_options_agree(void **state)
{
	(void)state;
	for (size_t i = 0; i < cli_n_nouns; i++) {
		for (size_t j = 0; j < cli_nouns[i]->n_commands; j++) {
			for (size_t k = 0; k < cli_n_nouns; k++) {
				for (size_t l = 0; l < cli_nouns[k]->n_commands; l++)
					check_same(cli_nouns[i]->commands[j].options,
						   cli_nouns[k]->commands[l].options);
			}
		}
	}
}

static void test_cli_commands_have_help(void **state)
{
	(void)state;
	for (size_t i = 0; i < cli_n_nouns; i++) {
		for (size_t j = 0; j < cli_nouns[i]->n_commands; j++) {
			const struct cli_command *c = &cli_nouns[i]->commands[j];
			const char *noun = cli_nouns[i]->name;
			assert_true(c->verb || cli_nouns[i]->n_commands == 1);
			assert_non_null(c->arguments);
			assert_true(*c->purpose && c->purpose[strlen(c->purpose) - 1] != '.');
			assert_true(c->max_args >= c->min_args && c->max_args <= CLI_ARGS_MAX);
			if (strncmp(c->examples, "  kds-cli ", 10) != 0)
				fail_msg("%s %s has no example", noun, c->verb ? c->verb : "");
			for (const char *line = c->examples; *line;
			     line += strcspn(line, "\n") + (strchr(line, '\n') != NULL)) {
				if (strcspn(line, "\n") > HELP_COLUMNS)
					fail_msg("%s %s: line too long: %.*s", noun, c->verb ? c->verb : "",
						 (int)strcspn(line, "\n"), line);
			}
		}
	}
}

static void test_cli_exit_status(void **state)
{
	(void)state;
	assert_int_equal(cli_exit_status(STATUS_OK), 0);
	assert_int_equal(cli_exit_status(STATUS_INVALID_ARGUMENT), 2);
	assert_int_equal(cli_exit_status(STATUS_OUT_OF_RANGE), 2);
	assert_int_equal(cli_exit_status(STATUS_PERMISSION_DENIED), 3);
	assert_int_equal(cli_exit_status(STATUS_UNAUTHENTICATED), 3);
	assert_int_equal(cli_exit_status(STATUS_UNAVAILABLE), 4);
	assert_int_equal(cli_exit_status(STATUS_DEADLINE_EXCEEDED), 4);
	assert_int_equal(cli_exit_status(STATUS_RESOURCE_EXHAUSTED), 4);
	assert_int_equal(cli_exit_status(STATUS_NOT_FOUND), 5);
	assert_int_equal(cli_exit_status(STATUS_ALREADY_EXISTS), 5);
	assert_int_equal(cli_exit_status(STATUS_FAILED_PRECONDITION), 5);
	assert_int_equal(cli_exit_status(STATUS_ABORTED), 5);
	assert_int_equal(cli_exit_status(STATUS_INTERNAL), 6);
	assert_int_equal(cli_exit_status(STATUS_DATA_LOSS), 6);
	assert_int_equal(cli_exit_status(STATUS_UNIMPLEMENTED), 6);
	assert_int_equal(cli_exit_status((enum status_code)99), 6);
}

static void test_cli_parse_number(void **state)
{
	static const char *const bad[] = { "", " 1", "+1", "-1", "1 ", "0x10", "1.0", "18446744073709551616", "1e3" };
	uint64_t n = 0;
	struct status st;
	(void)state;
	assert_int_equal(cli_parse_number("18446744073709551615", "n", 0, UINT64_MAX, &st, &n), STATUS_OK);
	assert_true(n == UINT64_MAX);
	assert_int_equal(cli_parse_number("7", "n", 7, 7, &st, &n), STATUS_OK);
	assert_int_equal(cli_parse_number("6", "n", 7, 8, &st, &n), STATUS_INVALID_ARGUMENT);
	assert_int_equal(cli_parse_number("9", "n", 7, 8, &st, &n), STATUS_INVALID_ARGUMENT);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(cli_parse_number(bad[i], "n", 0, UINT64_MAX, &st, &n), STATUS_INVALID_ARGUMENT);
	assert_true(n == 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cli_arguments_options_anywhere),
		cmocka_unit_test(test_cli_arguments_values),
		cmocka_unit_test(test_cli_arguments_end_of_options),
		cmocka_unit_test(test_cli_arguments_refuses),
		cmocka_unit_test(test_cli_options_agree),
		cmocka_unit_test(test_cli_commands_have_help),
		cmocka_unit_test(test_cli_exit_status),
		cmocka_unit_test(test_cli_parse_number),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
