#include "clients/cli/output.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/rpc/json.h"

struct table {
	const char *const *headings; /* NULL: a record */
	size_t n_columns;
	char **cells; /* row by row */
	size_t n_cells, cap;
	bool failed; /* a cell was lost: no memory */
};

struct table *table_new(const char *const *headings, size_t n_columns)
{
	struct table *t = malloc(sizeof *t);
	if (t)
		*t = (struct table){ .headings = headings, .n_columns = headings ? n_columns : 2 };
	return t;
}

void table_free(struct table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_cells; i++)
		free(t->cells[i]);
	free(t->cells);
	free(t);
}

static void add(struct table *t, const char *format, va_list ap) PRINTF_LIKE(2, 0);

static void add(struct table *t, const char *format, va_list ap)
{
	char *text = NULL;
	if (t->failed)
		return;
	if (t->n_cells == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 64;
		char **cells = reallocarray(t->cells, cap, sizeof *cells);
		if (!cells) {
			t->failed = true;
			return;
		}
		t->cells = cells;
		t->cap = cap;
	}
	if (vasprintf(&text, format, ap) < 0) {
		t->failed = true;
		return;
	}
	output_sanitize(text);
	t->cells[t->n_cells++] = text;
}

void table_add(struct table *t, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	add(t, format, ap);
	va_end(ap);
}

void table_field(struct table *t, const char *name, const char *format, ...)
{
	va_list ap;
	table_add(t, "%s:", name);
	va_start(ap, format);
	add(t, format, ap);
	va_end(ap);
}

/* Columns on a terminal: continuation bytes of UTF-8 take none. */
static size_t width_of(const char *text)
{
	size_t n = 0;
	for (; *text; text++)
		n += ((unsigned char)*text & 0xC0) != 0x80;
	return n;
}

static const char *cell_at(const struct table *t, size_t row, size_t column)
{
	if (t->headings)
		return row == 0 ? t->headings[column] : t->cells[(row - 1) * t->n_columns + column];
	return t->cells[row * t->n_columns + column];
}

enum status_code table_print(const struct table *t, struct status *st)
{
	if (t->failed)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	size_t n_rows = t->n_cells / t->n_columns + (t->headings ? 1 : 0);
	size_t *widths = calloc(t->n_columns, sizeof *widths);
	if (!widths)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	for (size_t row = 0; row < n_rows; row++) {
		for (size_t column = 0; column < t->n_columns; column++) {
			size_t width = width_of(cell_at(t, row, column));
			if (width > widths[column])
				widths[column] = width;
		}
	}
	for (size_t row = 0; row < n_rows; row++) {
		for (size_t column = 0; column < t->n_columns; column++) {
			const char *text = cell_at(t, row, column);
			bool last = column + 1 == t->n_columns;
			printf("%s%*s", text, last ? 0 : (int)(widths[column] - width_of(text)) + (t->headings ? 2 : 1),
			       "");
		}
		putchar('\n');
	}
	free(widths);
	return STATUS_OK;
}

enum status_code output_json(json_t *json, struct status *st)
{
	if (!json)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	int rv = json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	json_decref(json);
	if (rv < 0 || putchar('\n') == EOF)
		return status_set(st, STATUS_INTERNAL, "write standard output: %s", strerror(errno));
	return STATUS_OK;
}

enum status_code output_message(const ProtobufCMessage *message, struct status *st)
{
	json_t *json;
	if (json_from_message(message, true, st, &json) != STATUS_OK)
		return st->code;
	return output_json(json, st);
}

void output_sanitize(char *text)
{
	for (unsigned char *c = (unsigned char *)text; *c; c++) {
		if (*c < 0x20 || *c == 0x7F)
			*c = '?';
		else if (*c == 0xC2 && c[1] >= 0x80 && c[1] < 0xA0) /* C1 control characters in UTF-8 */
			c[0] = c[1] = '?';
	}
}

const char *output_time(int64_t unix_s, char buf[OUTPUT_TIME_SIZE])
{
	time_t t = (time_t)unix_s;
	struct tm tm;
	if (unix_s == 0 || !gmtime_r(&t, &tm) || strftime(buf, OUTPUT_TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		snprintf(buf, OUTPUT_TIME_SIZE, "-");
	return buf;
}

const char *output_hex(const uint8_t *data, size_t len, char *buf, size_t size)
{
	buf[0] = '\0';
	for (size_t i = 0; i < len && 2 * i + 3 <= size; i++)
		snprintf(buf + 2 * i, 3, "%02x", data[i]);
	return buf;
}

json_t *output_json_strings(char *const *strings, size_t n)
{
	json_t *array = json_array();
	for (size_t i = 0; array && i < n; i++) {
		if (json_array_append_new(array, json_string(strings[i])) < 0) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}
