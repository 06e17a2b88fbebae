#include "clients/cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clients/cli/output.h"
#include "common/base/file.h"

bool cli_has(const struct cli *cli, int option)
{
	return cli_value(cli, option) != NULL;
}

const char *cli_value(const struct cli *cli, int option)
{
	for (size_t i = cli->n_given; i > 0; i--) {
		if (cli->given[i - 1].option == option)
			return cli->given[i - 1].value;
	}
	return NULL;
}

size_t cli_values(const struct cli *cli, int option, char **values)
{
	size_t n = 0;
	for (size_t i = 0; i < cli->n_given; i++) {
		if (cli->given[i].option == option)
			values[n++] = (char *)(uintptr_t)cli->given[i]
					  .value; /* generated messages hold char *, and only read it */
	}
	return n;
}

enum status_code cli_parse_number(const char *text, const char *what, uint64_t min, uint64_t max, struct status *st,
				  uint64_t *ret_number)
{
	char *end = (char *)(uintptr_t)text;
	uint64_t number = 0;
	errno = 0;
	if (*text >= '0' && *text <= '9') /* strtoull() takes signs and spaces, which a number here has not */
		number = strtoull(text, &end, 10);
	if (end == text || *end || errno || number < min || number > max) {
		if (max == UINT64_MAX)
			return status_set(st, STATUS_INVALID_ARGUMENT, "%s '%s': give a whole number from %" PRIu64,
					  what, text, min);
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "%s '%s': give a whole number from %" PRIu64 " to %" PRIu64, what, text, min, max);
	}
	*ret_number = number;
	return STATUS_OK;
}

static const char *option_name(const struct cli_command *command, int option)
{
	for (const struct argp_option *o = command->options; o && o->name; o++) {
		if (o->key == option)
			return o->name;
	}
	return "option";
}

enum status_code cli_number(const struct cli *cli, int option, uint64_t min, uint64_t max, uint64_t unless_given,
			    struct status *st, uint64_t *ret_number)
{
	const char *text = cli_value(cli, option);
	char what[64];
	if (!text) {
		*ret_number = unless_given;
		return STATUS_OK;
	}
	snprintf(what, sizeof what, "--%s", option_name(cli->command, option));
	return cli_parse_number(text, what, min, max, st, ret_number);
}

enum status_code cli_bad_input(struct status *st)
{
	return st->code = STATUS_INVALID_ARGUMENT;
}

static enum status_code read_standard_input(struct status *st, struct buffer *out)
{
	for (;;) {
		if (!buffer_reserve(out, 4096))
			return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read standard input: out of memory");
		ssize_t n = read(STDIN_FILENO, out->data + out->len, 4096);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return status_set(st, STATUS_INVALID_ARGUMENT, "read standard input: %s", strerror(errno));
		if (n == 0)
			return STATUS_OK;
		out->len += (size_t)n;
		if (out->len > CLI_INPUT_MAX)
			return status_set(st, STATUS_INVALID_ARGUMENT, "read standard input: longer than %d bytes",
					  CLI_INPUT_MAX);
	}
}

enum status_code cli_read_input(const char *path, struct status *st, struct buffer *out)
{
	if (strcmp(path, "-") == 0)
		return read_standard_input(st, out);
	return file_read(path, CLI_INPUT_MAX, st, out) == STATUS_OK ? STATUS_OK : cli_bad_input(st);
}

enum status_code cli_write_output(const struct cli *cli, struct slice data, struct status *st)
{
	const char *path = cli_value(cli, OPT_OUT);
	if (path && strcmp(path, "-") != 0) {
		enum status_code rc = file_write(path, data, 0644, true, st);
		if (rc != STATUS_OK)
			return rc == STATUS_NOT_FOUND ? cli_bad_input(st) : rc;
		cli_notice(cli, "wrote %s", path);
		return STATUS_OK;
	}
	if (data.len > 0 && fwrite(data.data, data.len, 1, stdout) != 1)
		return status_set(st, STATUS_INTERNAL, "write standard output: %s", strerror(errno));
	return STATUS_OK;
}

static void say(const char *format, va_list ap) PRINTF_LIKE(1, 0);

static void say(const char *format, va_list ap)
{
	char line[1024];
	vsnprintf(line, sizeof line, format, ap);
	output_sanitize(line);
	fprintf(stderr, "%s\n", line);
}

void cli_notice(const struct cli *cli, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	if (!cli->quiet)
		say(format, ap);
	va_end(ap);
}

void cli_detail(const struct cli *cli, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	if (cli->verbose)
		say(format, ap);
	va_end(ap);
}

int cli_exit_status(enum status_code code)
{
	switch (code) {
	case STATUS_OK:
		return 0;
	case STATUS_INVALID_ARGUMENT:
	case STATUS_OUT_OF_RANGE:
		return 2;
	case STATUS_PERMISSION_DENIED:
	case STATUS_UNAUTHENTICATED:
		return 3;
	case STATUS_UNAVAILABLE:
	case STATUS_DEADLINE_EXCEEDED:
	case STATUS_RESOURCE_EXHAUSTED:
	case STATUS_CANCELLED:
		return 4;
	case STATUS_NOT_FOUND:
	case STATUS_ALREADY_EXISTS:
	case STATUS_FAILED_PRECONDITION:
	case STATUS_ABORTED:
		return 5;
	case STATUS_UNKNOWN:
	case STATUS_UNIMPLEMENTED:
	case STATUS_INTERNAL:
	case STATUS_DATA_LOSS:
		break;
	}
	return 6;
}
