/*
 * The replicated state as a stream of bytes: its tables, one behind the other, each row by row. Backups and snapshots
 * carry it, cut wherever their pages end.
 *
 * A record is
 *     u32 length of what follows | u8 kind | values
 * and a value is
 *     u8 type | INTEGER: i64    TEXT, BLOB: u32 length, bytes
 * with all numbers big-endian. A record of kind TABLE holds two texts, the table's name and its columns ("a,b,c"), and
 * begins a table; records of kind ROW hold a value for each column. Pure functions.
 */
#ifndef BACKUP_ROWS_H
#define BACKUP_ROWS_H

#include "common/base/buffer.h"

#define ROWS_COLUMNS_MAX 32
#define ROWS_RECORD_MAX ((size_t)64 << 20) /* bytes of a record; a row of request ids is the longest */

enum row_type { ROW_INTEGER = 1, ROW_TEXT = 2, ROW_BLOB = 3 };

struct row_value {
	enum row_type type;
	int64_t integer;
	struct slice bytes; /* borrowed; TEXT has no NUL, neither in it nor behind it */
};

/* Appends a record. False: no memory, or too long. */
bool rows_put_table(struct buffer *out, const char *name, const char *columns) MUST_CHECK;
bool rows_put(struct buffer *out, const struct row_value *values, size_t n) MUST_CHECK;

/* Is this value the text? */
bool row_is_text(const struct row_value *v, const char *text) MUST_CHECK;

/* One record of a stream; all of it borrowed for the call. */
struct rows_record {
	bool table;                     /* begins a table: values are its name and its columns */
	const struct row_value *values;
	size_t n;
};
typedef enum status_code (*rows_fn)(void *arg, const struct rows_record *record, struct status *st);

/* Puts a stream together again from its pieces. Zero-initialised is the beginning. */
struct rows_parser {
	struct buffer pending; /* of a record that is not there as a whole */
};

/*
 * Calls `each` for every record that the piece completes. DATA_LOSS: no such stream; RESOURCE_EXHAUSTED; or what `each`
 * returned. Memory is taken as bytes arrive, not as a length promises.
 */
enum status_code rows_feed(struct rows_parser *p, struct slice piece, rows_fn each, void *arg,
			   struct status *st) MUST_CHECK;
/* The stream ends here: DATA_LOSS when it is in the middle of a record. */
enum status_code rows_end(const struct rows_parser *p, struct status *st) MUST_CHECK;
void rows_parser_fini(struct rows_parser *p);

#endif
