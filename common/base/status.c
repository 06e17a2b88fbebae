#include "common/base/status.h"

#include <stdio.h>
#include <string.h>

static const char *const names[] = {
	"OK",
	"CANCELLED",
	"UNKNOWN",
	"INVALID_ARGUMENT",
	"DEADLINE_EXCEEDED",
	"NOT_FOUND",
	"ALREADY_EXISTS",
	"PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED",
	"FAILED_PRECONDITION",
	"ABORTED",
	"OUT_OF_RANGE",
	"UNIMPLEMENTED",
	"INTERNAL",
	"UNAVAILABLE",
	"DATA_LOSS",
	"UNAUTHENTICATED",
};

/* vsnprintf may cut a UTF-8 sequence in two at the end of the buffer; drop the part that stayed. */
static void trim_utf8(char *s)
{
	size_t len = strlen(s);
	if (len + 1 < STATUS_MESSAGE_MAX)
		return;
	while (len > 0 && ((unsigned char)s[len - 1] & 0xC0) == 0x80)
		s[--len] = '\0';
	if (len > 0 && ((unsigned char)s[len - 1] & 0xC0) == 0xC0)
		s[len - 1] = '\0';
}

enum status_code status_vset(struct status *st, enum status_code code, const char *format, va_list ap)
{
	if (st) {
		st->code = code;
		vsnprintf(st->message, sizeof st->message, format, ap);
		trim_utf8(st->message);
	}
	return code;
}

enum status_code status_set(struct status *st, enum status_code code, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	status_vset(st, code, format, ap);
	va_end(ap);
	return code;
}

enum status_code status_prefix(struct status *st, const char *format, ...)
{
	if (!st)
		return STATUS_UNKNOWN;
	char head[STATUS_MESSAGE_MAX];
	va_list ap;
	va_start(ap, format);
	vsnprintf(head, sizeof head, format, ap);
	va_end(ap);
	char tail[STATUS_MESSAGE_MAX];
	memcpy(tail, st->message, sizeof tail);
	return status_set(st, st->code, "%s: %s", head, tail);
}

const char *status_name(enum status_code code)
{
	if ((unsigned)code < sizeof names / sizeof names[0])
		return names[code];
	static _Thread_local char other[32];
	snprintf(other, sizeof other, "CODE(%d)", (int)code);
	return other;
}
