/*
 * The one status type: gRPC's canonical codes plus one line for people.
 *
 * A fallible function returns the code and, on failure, fills the `struct status` it was given (which may be
 * NULL). The line says what was being done, what went wrong and what to do about it; it has no newline and
 * no secret. Out-parameters come behind the status, are named ret_*, and stay untouched on failure.
 */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#include <stdarg.h>

/* https://grpc.github.io/grpc/core/md_doc_statuscodes.html; the values of kds.v1.Code. */
enum status_code {
	STATUS_OK = 0,
	STATUS_CANCELLED = 1,
	STATUS_UNKNOWN = 2,
	STATUS_INVALID_ARGUMENT = 3,
	STATUS_DEADLINE_EXCEEDED = 4,
	STATUS_NOT_FOUND = 5,
	STATUS_ALREADY_EXISTS = 6,
	STATUS_PERMISSION_DENIED = 7,
	STATUS_RESOURCE_EXHAUSTED = 8,
	STATUS_FAILED_PRECONDITION = 9,
	STATUS_ABORTED = 10,
	STATUS_OUT_OF_RANGE = 11,
	STATUS_UNIMPLEMENTED = 12,
	STATUS_INTERNAL = 13,
	STATUS_UNAVAILABLE = 14,
	STATUS_DATA_LOSS = 15,
	STATUS_UNAUTHENTICATED = 16,
};

#define STATUS_MESSAGE_MAX 256

struct status {
	enum status_code code;
	char message[STATUS_MESSAGE_MAX]; /* UTF-8, truncated to fit */
};

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, first) __attribute__((format(printf, fmt, first)))

/* Fills `st` (NULL: nothing) and returns `code`, so that `return status_set(st, ...)` reads well. */
enum status_code status_set(struct status *st, enum status_code code, const char *format, ...) PRINTF_LIKE(3, 4);
enum status_code status_vset(struct status *st, enum status_code code, const char *format, va_list ap)
    PRINTF_LIKE(3, 0);

/* Puts "what: " before the message of a failure on its way up; returns its code. */
enum status_code status_prefix(struct status *st, const char *format, ...) PRINTF_LIKE(2, 3);

/* "NOT_FOUND"; "CODE(99)" for a number that is none. Static storage for the sixteen, thread-local otherwise. */
const char *status_name(enum status_code code);

#endif
