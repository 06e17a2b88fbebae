#include "clients/cli/passphrase.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "clients/cli/cli.h"
#include "common/base/base64.h"
#include "common/base/secret.h"

#define PASSPHRASE_SIZE 1024 /* with its NUL */

void passphrase_free(char *passphrase)
{
	secret_free(passphrase, PASSPHRASE_SIZE);
}

/* One line from standard input, byte by byte: nothing of it stays in a stdio buffer, nothing behind it is taken. */
static enum status_code read_line(char line[PASSPHRASE_SIZE], struct status *st)
{
	size_t len = 0;
	for (;;) {
		char c;
		ssize_t n = read(STDIN_FILENO, &c, 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return status_set(st, STATUS_INVALID_ARGUMENT, "read the passphrase: %s", strerror(errno));
		if (n == 0 || c == '\n')
			break;
		if (len == PASSPHRASE_SIZE - 1)
			return status_set(st, STATUS_INVALID_ARGUMENT, "passphrase: longer than %d bytes",
					  PASSPHRASE_SIZE - 1);
		line[len++] = c;
	}
	line[len] = '\0';
	return STATUS_OK;
}

/* As getpass() does, without its static buffer: no echo, and no signal can leave the terminal that way. */
static enum status_code ask(const char *prompt, char line[PASSPHRASE_SIZE], struct status *st)
{
	struct termios before, quiet;
	if (tcgetattr(STDIN_FILENO, &before) < 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "ask for the passphrase: %s", strerror(errno));
	quiet = before;
	quiet.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
	if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet) < 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "ask for the passphrase: %s", strerror(errno));
	fprintf(stderr, "%s: ", prompt);
	enum status_code rc = read_line(line, st);
	fputc('\n', stderr);
	if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &before) < 0 && rc == STATUS_OK)
		rc = status_set(st, STATUS_INTERNAL, "ask for the passphrase: %s; run: stty echo", strerror(errno));
	return rc;
}

static enum status_code ask_twice(bool make, char line[PASSPHRASE_SIZE], struct status *st)
{
	char *again = secret_alloc(PASSPHRASE_SIZE);
	if (!again)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "passphrase: out of memory");
	enum status_code rc = ask("Passphrase", line, st);
	if (rc == STATUS_OK && make)
		rc = ask("Again", again, st);
	if (rc == STATUS_OK && make && strcmp(line, again) != 0)
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "the two passphrases differ; try again");
	secret_free(again, PASSPHRASE_SIZE);
	return rc;
}

static enum status_code read_file(const char *file, char line[PASSPHRASE_SIZE], struct status *st)
{
	uint8_t *data;
	size_t len;
	if (secret_read_file(file, PASSPHRASE_SIZE - 1, st, &data, &len) != STATUS_OK) {
		status_prefix(st, "read the passphrase");
		return cli_bad_input(st);
	}
	memcpy(line, data, len);
	line[len] = '\0';
	line[strcspn(line, "\n")] = '\0';
	secret_free(data, len + 1);
	return STATUS_OK;
}

enum status_code passphrase_read(const char *file, bool make, struct status *st, char **ret_passphrase)
{
	char *line = secret_alloc(PASSPHRASE_SIZE);
	if (!line)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "passphrase: out of memory");
	enum status_code rc;
	if (strcmp(file, "-") != 0)
		rc = read_file(file, line, st);
	else
		rc = isatty(STDIN_FILENO) ? ask_twice(make, line, st) : read_line(line, st);
	if (rc == STATUS_OK && !*line)
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "the passphrase is empty");
	if (rc == STATUS_OK)
		*ret_passphrase = line;
	else
		passphrase_free(line);
	return rc;
}

enum status_code passphrase_random(struct status *st, char **ret_passphrase)
{
	uint8_t bytes[24];
	char *line = secret_alloc(PASSPHRASE_SIZE);
	if (!line)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "passphrase: out of memory");
	enum status_code rc = secret_random(bytes, sizeof bytes, st);
	if (rc == STATUS_OK) {
		base64_encode((struct slice){ .data = bytes, .len = sizeof bytes }, line);
		*ret_passphrase = line;
	} else {
		passphrase_free(line);
	}
	secret_wipe(bytes, sizeof bytes);
	return rc;
}
