#include "common/backup/rows.h"

#include <string.h>

#define LENGTH_BYTES 4
#define KIND_TABLE 1
#define KIND_ROW 2

/* Writing */

static void put_be(uint8_t *p, uint64_t value, int bytes)
{
	for (int i = bytes - 1; i >= 0; i--, value >>= 8)
		p[i] = (uint8_t)value;
}

static uint64_t get_be(const uint8_t *p, int bytes)
{
	uint64_t value = 0;
	for (int i = 0; i < bytes; i++)
		value = value << 8 | p[i];
	return value;
}

static size_t value_size(const struct row_value *v)
{
	return v->type == ROW_INTEGER ? 1 + 8 : 1 + LENGTH_BYTES + v->bytes.len;
}

static uint8_t *put_value(uint8_t *p, const struct row_value *v)
{
	*p++ = (uint8_t)v->type;
	if (v->type == ROW_INTEGER) {
		put_be(p, (uint64_t)v->integer, 8);
		return p + 8;
	}
	put_be(p, v->bytes.len, LENGTH_BYTES);
	if (v->bytes.len > 0)
		memcpy(p + LENGTH_BYTES, v->bytes.data, v->bytes.len);
	return p + LENGTH_BYTES + v->bytes.len;
}

static bool put_record(struct buffer *out, uint8_t kind, const struct row_value *values, size_t n)
{
	size_t size = 1;
	for (size_t i = 0; i < n; i++) {
		if (values[i].type != ROW_INTEGER && values[i].bytes.len > ROWS_RECORD_MAX)
			return false;
		size += value_size(&values[i]);
	}
	if (n > ROWS_COLUMNS_MAX || size > ROWS_RECORD_MAX || !buffer_reserve(out, LENGTH_BYTES + size))
		return false;
	uint8_t *p = out->data + out->len;
	put_be(p, size, LENGTH_BYTES);
	p[LENGTH_BYTES] = kind;
	p += LENGTH_BYTES + 1;
	for (size_t i = 0; i < n; i++)
		p = put_value(p, &values[i]);
	out->len += LENGTH_BYTES + size;
	return true;
}

bool rows_put_table(struct buffer *out, const char *name, const char *columns)
{
	const struct row_value values[] = {
		{ .type = ROW_TEXT, .bytes = { name, strlen(name) } },
		{ .type = ROW_TEXT, .bytes = { columns, strlen(columns) } },
	};
	return put_record(out, KIND_TABLE, values, 2);
}

bool rows_put(struct buffer *out, const struct row_value *values, size_t n)
{
	return put_record(out, KIND_ROW, values, n);
}

/* Reading */

bool row_is_text(const struct row_value *v, const char *text)
{
	size_t len = strlen(text);
	return v->type == ROW_TEXT && v->bytes.len == len && memcmp(v->bytes.data, text, len) == 0;
}

/* The value at p, of `left` bytes; its size, 0: there is none. */
static size_t get_value(const uint8_t *p, size_t left, struct row_value *v)
{
	if (left < 1)
		return 0;
	*v = (struct row_value){ .type = (enum row_type)p[0] };
	if (v->type == ROW_INTEGER) {
		if (left < 1 + 8)
			return 0;
		v->integer = (int64_t)get_be(p + 1, 8);
		return 1 + 8;
	}
	if ((v->type != ROW_TEXT && v->type != ROW_BLOB) || left < 1 + LENGTH_BYTES)
		return 0;
	v->bytes = (struct slice){ p + 1 + LENGTH_BYTES, (size_t)get_be(p + 1, LENGTH_BYTES) };
	if (v->bytes.len > left - 1 - LENGTH_BYTES)
		return 0;
	if (v->type == ROW_TEXT && memchr(v->bytes.data, '\0', v->bytes.len))
		return 0;
	return 1 + LENGTH_BYTES + v->bytes.len;
}

/* The record without its length. */
static enum status_code get_record(struct slice bytes, rows_fn each, void *arg, struct status *st)
{
	const uint8_t *p = bytes.data;
	struct row_value values[ROWS_COLUMNS_MAX];
	struct rows_record record = { .table = p[0] == KIND_TABLE, .values = values };
	bool good = p[0] == KIND_TABLE || p[0] == KIND_ROW;
	for (size_t at = 1; good && at < bytes.len;) {
		size_t size = record.n < ROWS_COLUMNS_MAX ? get_value(p + at, bytes.len - at, &values[record.n]) : 0;
		good = size > 0;
		at += size;
		record.n++;
	}
	if (good && record.table)
		good = record.n == 2 && values[0].type == ROW_TEXT && values[1].type == ROW_TEXT;
	if (!good)
		return status_set(st, STATUS_DATA_LOSS, "the stream of rows holds something that is no row");
	return each(arg, &record, st);
}

/* The length in front of a record; 0: not there as a whole; SIZE_MAX: impossible. */
static size_t record_length(const uint8_t *p, size_t left)
{
	if (left < LENGTH_BYTES)
		return 0;
	uint64_t length = get_be(p, LENGTH_BYTES);
	return length == 0 || length > ROWS_RECORD_MAX ? SIZE_MAX : (size_t)length;
}

/* Takes the whole records at the beginning of `bytes`; how many bytes they had goes to *ret_taken. */
static enum status_code take_records(struct slice bytes, rows_fn each, void *arg, struct status *st, size_t *ret_taken)
{
	const uint8_t *p = bytes.data;
	size_t at = 0;
	enum status_code rc = STATUS_OK;
	while (rc == STATUS_OK) {
		size_t length = record_length(p + at, bytes.len - at);
		if (length == SIZE_MAX)
			return status_set(st, STATUS_DATA_LOSS, "the stream of rows holds a row of an impossible length");
		if (length == 0 || length > bytes.len - at - LENGTH_BYTES)
			break;
		rc = get_record((struct slice){ p + at + LENGTH_BYTES, length }, each, arg, st);
		at += LENGTH_BYTES + length;
	}
	*ret_taken = at;
	return rc;
}

/* Moves bytes from the piece to what is pending, until that is a whole record or the piece is empty. */
static bool complete_pending(struct rows_parser *p, struct slice *piece)
{
	while (piece->len > 0) {
		size_t length = record_length(p->pending.data, p->pending.len);
		if (length == SIZE_MAX || (length > 0 && p->pending.len == LENGTH_BYTES + length))
			break;
		size_t more = (length == 0 ? LENGTH_BYTES : LENGTH_BYTES + length) - p->pending.len;
		if (more > piece->len)
			more = piece->len;
		if (!buffer_append(&p->pending, piece->data, more))
			return false;
		*piece = (struct slice){ (const uint8_t *)piece->data + more, piece->len - more };
	}
	return true;
}

enum status_code rows_feed(struct rows_parser *p, struct slice piece, rows_fn each, void *arg, struct status *st)
{
	size_t taken = 0;
	if (p->pending.len > 0) {
		if (!complete_pending(p, &piece))
			return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read a row: out of memory");
		enum status_code rc =
		    take_records((struct slice){ p->pending.data, p->pending.len }, each, arg, st, &taken);
		if (rc != STATUS_OK)
			return rc;
		buffer_consume(&p->pending, taken);
		taken = 0;
	}
	enum status_code rc = take_records(piece, each, arg, st, &taken);
	if (rc == STATUS_OK && !buffer_append(&p->pending, (const uint8_t *)piece.data + taken, piece.len - taken))
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "read a row: out of memory");
	return rc;
}

enum status_code rows_end(const struct rows_parser *p, struct status *st)
{
	if (p->pending.len == 0)
		return STATUS_OK;
	return status_set(st, STATUS_DATA_LOSS, "the stream of rows ends in the middle of a row");
}

void rows_parser_fini(struct rows_parser *p)
{
	buffer_wipe(&p->pending);
}
