/*
 * Structured logs on standard error: one line an event,
 *   2026-03-01T12:00:00.123Z info kds-serial/serial1: listening address=127.0.1.1:7400
 * Under systemd (JOURNAL_STREAM set) the time is left to the journal and a <priority> prefix added.
 * Thread-safe. Never pass a secret. Control characters are replaced by "?": a peer cannot forge a line.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "common/base/status.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* `who` ("kds-serial/serial1") is copied. Call before the first thread starts. */
void log_init(const char *who, enum log_level most);
/* "error", "warning", "info", "debug" to a level. */
enum status_code log_level_parse(const char *text, struct status *st, enum log_level *ret_level) MUST_CHECK;

void log_write(enum log_level level, const char *format, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
