#include "common/base/log.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024

static const char *const level_names[] = { "error", "warning", "info", "debug" };
static const char *const journal_prefixes[] = { "<3>", "<4>", "<6>", "<7>" }; /* sd-daemon(3) */

static char identity[96] = "kds";
static atomic_int most_verbose = LOG_LEVEL_INFO;
static bool to_journal;

void log_init(const char *who, enum log_level most)
{
	snprintf(identity, sizeof identity, "%s", who);
	atomic_store(&most_verbose, (int)most);
	to_journal = getenv("JOURNAL_STREAM") != NULL;
}

enum status_code log_level_parse(const char *text, struct status *st, enum log_level *ret_level)
{
	for (size_t i = 0; i < sizeof level_names / sizeof level_names[0]; i++) {
		if (strcmp(text, level_names[i]) == 0) {
			*ret_level = (enum log_level)i;
			return STATUS_OK;
		}
	}
	return status_set(st, STATUS_INVALID_ARGUMENT, "log level '%s': use error, warning, info or debug", text);
}

static size_t put_head(char *line, size_t size, enum log_level level)
{
	int n;
	if (to_journal) {
		n = snprintf(line, size, "%s", journal_prefixes[level]);
	} else {
		struct timespec now;
		struct tm tm;
		clock_gettime(CLOCK_REALTIME, &now);
		gmtime_r(&now.tv_sec, &tm);
		char stamp[32];
		strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
		n = snprintf(line, size, "%s.%03ldZ %s %s: ", stamp, now.tv_nsec / 1000000, level_names[level], identity);
	}
	return n < 0 ? 0 : (size_t)n;
}

void log_write(enum log_level level, const char *format, ...)
{
	if ((int)level > atomic_load_explicit(&most_verbose, memory_order_relaxed))
		return;
	char line[LINE_MAX_BYTES];
	size_t head = put_head(line, sizeof line - 1, level);
	va_list ap;
	va_start(ap, format);
	int n = vsnprintf(line + head, sizeof line - 1 - head, format, ap);
	va_end(ap);
	if (n < 0)
		return;
	size_t len = strlen(line);
	for (size_t i = head; i < len; i++) {
		unsigned char c = (unsigned char)line[i];
		if (c < 0x20 || c == 0x7F)
			line[i] = '?';
	}
	line[len++] = '\n';
	/* One write a line, so that lines of several threads and processes do not mix. */
	ssize_t written = write(STDERR_FILENO, line, len);
	(void)written; /* nowhere to report that the log is gone */
}
