#include "common/backup/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/backup/rows.h"
#include "common/rpc/message.h"

#define OBJECT_MEMORY_MAX ((size_t)8 << 20)
#define RANGE_BYTES 16
#define COLUMNS 10

struct range {
	uint64_t first, last;
};
/* Ranges of serials, or revisions as ranges of one. */
struct ranges {
	struct range *list;
	size_t n, cap;
};

struct table;

struct backup_check {
	struct rows_parser parser;
	const struct table *table; /* NULL: one that we do not know, or none yet */
	bool any_table;
	size_t n_columns;
	int column[COLUMNS]; /* where the table's own columns are in its rows */
	unsigned seen;       /* tables */
	struct ranges blocks, revisions;
	struct buffer last_key; /* of `objects` */
	uint64_t numbers_rows, last_serial, min_serial, highest_issued, issued, revision;
	uint64_t records, highest_record;
	uint64_t highest_asked;
	uint64_t min_object; /* what the object serial/min says */
	Kds__V1__Object *cluster;
};

struct table {
	const char *name;
	const char *columns[COLUMNS]; /* those that are looked at, ended by NULL */
	enum status_code (*row)(struct backup_check *c, const struct row_value *const *values, struct status *st);
};

static enum status_code wrong(struct status *st, const char *format, ...) PRINTF_LIKE(2, 3);
static enum status_code wrong(struct status *st, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	status_vset(st, STATUS_DATA_LOSS, format, ap);
	va_end(ap);
	return STATUS_DATA_LOSS;
}

static bool add_range(struct ranges *r, uint64_t first, uint64_t last)
{
	if (r->n == r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 64;
		struct range *list = realloc(r->list, cap * sizeof *list);
		if (!list)
			return false;
		r->list = list;
		r->cap = cap;
	}
	r->list[r->n++] = (struct range){ first, last };
	return true;
}

static int compare_ranges(const void *a, const void *b)
{
	const struct range *x = a, *y = b;
	return (x->first > y->first) - (x->first < y->first);
}

/* The first that begins in the one before it; NULL: none does. */
static const struct range *find_overlap(struct ranges *r)
{
	if (r->n > 0)
		qsort(r->list, r->n, sizeof *r->list, compare_ranges);
	for (size_t i = 1; i < r->n; i++)
		if (r->list[i].first <= r->list[i - 1].last)
			return &r->list[i];
	return NULL;
}

static uint64_t number_of(const struct row_value *v)
{
	return v->type == ROW_INTEGER && v->integer >= 0 ? (uint64_t)v->integer : UINT64_MAX;
}

/* Tables */

static enum status_code take_numbers(struct backup_check *c, const struct row_value *const *values, struct status *st)
{
	uint64_t *const fields[] = { &c->revision, &c->last_serial, &c->min_serial, &c->highest_issued, &c->issued };
	for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
		*fields[i] = number_of(values[i]);
		if (*fields[i] > INT64_MAX)
			return wrong(st, "a number of the state is impossible");
	}
	c->numbers_rows++;
	if (c->min_serial > c->last_serial + 1 || c->highest_issued > c->last_serial)
		return wrong(st, "last_serial is %" PRIu64 ", but min_serial %" PRIu64 " and highest_issued %" PRIu64,
			     c->last_serial, c->min_serial, c->highest_issued);
	return STATUS_OK;
}

static uint64_t get_be64(const uint8_t *p)
{
	uint64_t value = 0;
	for (int i = 0; i < 8; i++)
		value = value << 8 | p[i];
	return value;
}

static enum status_code take_blocks(struct backup_check *c, const struct row_value *const *values, struct status *st)
{
	struct slice ranges = values[1]->bytes;
	if (values[0]->type != ROW_TEXT || values[1]->type != ROW_BLOB || ranges.len % RANGE_BYTES != 0)
		return wrong(st, "a CA's blocks are damaged");
	const uint8_t *p = ranges.data;
	for (size_t at = 0; at < ranges.len; at += RANGE_BYTES) {
		uint64_t first = get_be64(p + at), last = get_be64(p + at + 8);
		if (first == 0 || first > last || last > c->last_serial)
			return wrong(st, "a block goes from %" PRIu64 " to %" PRIu64 "; serials up to %" PRIu64 " were handed out",
				     first, last, c->last_serial);
		if (!add_range(&c->blocks, first, last))
			return status_set(st, STATUS_RESOURCE_EXHAUSTED, "check the blocks: out of memory");
	}
	return STATUS_OK;
}

static enum status_code take_issued(struct backup_check *c, const struct row_value *const *values, struct status *st)
{
	uint64_t serial = number_of(values[0]);
	if (serial == 0 || serial > c->highest_issued || (c->records > 0 && serial <= c->highest_record))
		return wrong(st, "the record of serial %" PRIu64 " is impossible; the highest one issued is %" PRIu64, serial,
			     c->highest_issued);
	if (values[1]->type != ROW_BLOB || values[1]->bytes.len != 32 || values[2]->type != ROW_TEXT)
		return wrong(st, "the record of serial %" PRIu64 " is damaged", serial);
	c->highest_record = serial;
	c->records++;
	return STATUS_OK;
}

/* Of a state whose level knows it; of records that are there. */
static enum status_code take_asked(struct backup_check *c, const struct row_value *const *values, struct status *st)
{
	uint64_t serial = number_of(values[0]);
	if (serial == 0 || serial > c->highest_record || serial <= c->highest_asked)
		return wrong(st, "who asked for serial %" PRIu64 " is impossible; the highest record is %" PRIu64, serial,
			     c->highest_record);
	if (values[1]->type != ROW_BLOB || values[1]->bytes.len > 32 || values[2]->type != ROW_BLOB)
		return wrong(st, "who asked for serial %" PRIu64 " is damaged", serial);
	c->highest_asked = serial;
	return STATUS_OK;
}

static bool key_grows(const struct buffer *last, struct slice key)
{
	size_t common = last->len < key.len ? last->len : key.len;
	int order = common > 0 ? memcmp(last->data, key.data, common) : 0;
	return order < 0 || (order == 0 && last->len < key.len);
}

/* What the state machine itself relies on. */
static enum status_code take_object(struct backup_check *c, const Kds__V1__Object *o, struct status *st)
{
	if (o->value_case == KDS__V1__OBJECT__VALUE_MIN_SERIAL)
		c->min_object = o->min_serial->value;
	if (o->value_case != KDS__V1__OBJECT__VALUE_CLUSTER)
		return STATUS_OK;
	struct buffer packed = { 0 };
	enum status_code rc = message_pack(&o->base, &packed, st);
	if (rc == STATUS_OK && !c->cluster) {
		c->cluster = kds__v1__object__unpack(NULL, packed.len, packed.data);
		if (!c->cluster)
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "check the objects: out of memory");
	}
	buffer_free(&packed);
	return rc;
}

static enum status_code take_objects(struct backup_check *c, const struct row_value *const *values, struct status *st)
{
	struct slice key = values[0]->bytes;
	uint64_t revision = number_of(values[1]);
	int shown = (int)(key.len < 100 ? key.len : 100);
	const char *text = key.data;
	if (values[0]->type != ROW_TEXT || values[3]->type != ROW_BLOB || (c->last_key.len > 0 && !key_grows(&c->last_key, key)))
		return wrong(st, "the object %.*s is damaged, or not in its place", shown, text);
	if (revision == 0 || revision > c->revision)
		return wrong(st, "the object %.*s has the revision %" PRIu64 " of %" PRIu64, shown, text, revision, c->revision);
	c->last_key.len = 0;
	if (!buffer_append(&c->last_key, key.data, key.len) || !add_range(&c->revisions, revision, revision))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "check the objects: out of memory");
	struct arena *arena = arena_new(OBJECT_MEMORY_MAX);
	if (!arena)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "check the objects: out of memory");
	const ProtobufCMessage *message = NULL;
	struct status why;
	enum status_code rc =
	    message_unpack(&kds__v1__object__descriptor, values[3]->bytes, arena, &why, NULL, 0, &message);
	const Kds__V1__Object *o = (const Kds__V1__Object *)message;
	if (rc != STATUS_OK || o->revision != revision || o->deleted != (number_of(values[2]) != 0) ||
	    !row_is_text(values[0], o->key))
		rc = wrong(st, "the object %.*s is damaged", shown, text);
	else
		rc = take_object(c, o, st);
	arena_wipe(arena);
	return rc;
}

/* In the order of the stream: `numbers` first, because the others are compared with it. */
static const struct table tables[] = {
	{ "numbers", { "revision", "last_serial", "min_serial", "highest_issued", "issued" }, take_numbers },
	{ "blocks", { "holder", "ranges" }, take_blocks },
	{ "issued", { "serial", "fingerprint", "subject" }, take_issued },
	{ "objects", { "key", "revision", "deleted", "value" }, take_objects },
	{ "asked", { "serial", "request_id", "request_digest" }, take_asked },
};
#define N_TABLES (sizeof tables / sizeof *tables)
#define TABLES_ALWAYS ((1u << 4) - 1) /* the others came with later versions */

/* The place of `name` in "a,b,c"; -1: it is not there. *ret_n: how many there are. */
static int find_column(struct slice columns, const char *name, size_t *ret_n)
{
	const char *p = columns.data, *end = p + columns.len;
	int found = -1;
	size_t n = 0, name_len = strlen(name);
	while (p < end) {
		const char *comma = memchr(p, ',', (size_t)(end - p));
		size_t len = (size_t)((comma ? comma : end) - p);
		if (len == name_len && memcmp(p, name, len) == 0)
			found = (int)n;
		n++;
		p += len + 1;
	}
	*ret_n = n;
	return found;
}

static enum status_code begin_table(struct backup_check *c, const struct rows_record *record, struct status *st)
{
	const struct row_value *name = &record->values[0];
	c->any_table = true;
	c->table = NULL;
	find_column(record->values[1].bytes, "", &c->n_columns);
	for (size_t i = 0; i < N_TABLES; i++)
		if (row_is_text(name, tables[i].name))
			c->table = &tables[i];
	if (!c->table)
		return STATUS_OK;
	unsigned bit = 1u << (c->table - tables);
	if ((c->seen & bit) || (bit > 1 && !(c->seen & 1)))
		return wrong(st, "the table %s is not in its place", c->table->name);
	c->seen |= bit;
	for (size_t i = 0; c->table->columns[i]; i++) {
		c->column[i] = find_column(record->values[1].bytes, c->table->columns[i], &c->n_columns);
		if (c->column[i] < 0)
			return wrong(st, "the table %s has no column %s", c->table->name, c->table->columns[i]);
	}
	return STATUS_OK;
}

static enum status_code take_record(void *arg, const struct rows_record *record, struct status *st)
{
	struct backup_check *c = arg;
	if (record->table)
		return begin_table(c, record, st);
	if (!c->any_table || record->n != c->n_columns)
		return wrong(st, "a row has %zu values, its table has %zu columns", record->n, c->n_columns);
	if (!c->table)
		return STATUS_OK;
	const struct row_value *values[COLUMNS] = { 0 };
	for (size_t i = 0; c->table->columns[i]; i++)
		values[i] = &record->values[c->column[i]];
	return c->table->row(c, values, st);
}

struct backup_check *backup_check_new(void)
{
	return calloc(1, sizeof(struct backup_check));
}

void backup_check_free(struct backup_check *c)
{
	if (!c)
		return;
	rows_parser_fini(&c->parser);
	buffer_free(&c->last_key);
	kds__v1__object__free_unpacked(c->cluster, NULL);
	free(c->blocks.list);
	free(c->revisions.list);
	free(c);
}

enum status_code backup_check_feed(void *check, struct slice rows, struct status *st)
{
	struct backup_check *c = check;
	return rows_feed(&c->parser, rows, take_record, c, st);
}

static enum status_code compare_header(const struct backup_check *c, const Kds__V1__BackupHeader *h, struct status *st)
{
	const struct {
		const char *name;
		uint64_t header, state;
	} numbers[] = {
		{ "revision", h->revision, c->revision },
		{ "last_serial", h->last_serial, c->last_serial },
		{ "highest_issued", h->highest_issued, c->highest_issued },
		{ "min_serial", h->min_serial, c->min_serial },
		{ "issued", h->issued, c->issued },
	};
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		if (numbers[i].header != numbers[i].state)
			return wrong(st, "the header says %s %" PRIu64 ", the state %" PRIu64, numbers[i].name,
				     numbers[i].header, numbers[i].state);
	const Kds__V1__Cluster *is = c->cluster ? c->cluster->cluster : NULL;
	if (!is || strcmp(is->name, h->cluster->name) != 0 || strcmp(is->kds_name, h->cluster->kds_name) != 0 ||
	    strcmp(is->cluster_id, h->cluster->cluster_id) != 0)
		return wrong(st, "the header is of the cluster %.60s, the state of %.60s", h->cluster->name,
			     is ? is->name : "none");
	return STATUS_OK;
}

enum status_code backup_check_end(struct backup_check *c, const Kds__V1__BackupHeader *header, struct status *st)
{
	enum status_code rc = rows_end(&c->parser, st);
	if (rc != STATUS_OK)
		return rc;
	if ((c->seen & TABLES_ALWAYS) != TABLES_ALWAYS || c->numbers_rows != 1)
		return wrong(st, "a part of the state is missing");
	if (c->records != c->issued)
		return wrong(st, "there are %" PRIu64 " records, there should be %" PRIu64, c->records, c->issued);
	if (c->min_object != c->min_serial)
		return wrong(st, "the object serial/min says %" PRIu64 ", the state %" PRIu64, c->min_object, c->min_serial);
	const struct range *twice = find_overlap(&c->blocks);
	if (twice)
		return wrong(st, "serial %" PRIu64 " is in two blocks", twice->first);
	twice = find_overlap(&c->revisions);
	if (twice)
		return wrong(st, "two objects have the revision %" PRIu64, twice->first);
	return compare_header(c, header, st);
}

enum status_code backup_check_restore(const Kds__V1__BackupHeader *h, const Kds__V1__BackupRestore *r,
				      struct status *st)
{
	if (r->skip < BACKUP_SKIP_MIN || r->skip > INT64_MAX - 1 - h->last_serial || r->skip > INT64_MAX - 1 - h->revision)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "skip is %" PRIu64 "; it must be %" PRIu64 " at least, and leave serials to hand out", r->skip,
				  BACKUP_SKIP_MIN);
	uint64_t most = h->last_serial + r->skip + 1;
	if (r->min_serial < h->min_serial || r->min_serial > most)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "min_serial would be %" PRIu64 "; it can be from %" PRIu64 ", as it was, to %" PRIu64
				  ", which refuses everything ever handed out",
				  r->min_serial, h->min_serial, most);
	if (r->id.len != 16)
		return status_set(st, STATUS_INVALID_ARGUMENT, "the restore has no id");
	return STATUS_OK;
}

enum status_code backup_verify(const char *path, struct status *st, struct backup_summary *ret_summary)
{
	struct backup_summary summary = { 0 };
	struct backup_check *c = backup_check_new();
	if (!c)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "check %s: out of memory", path);
	enum status_code rc = backup_file_read(path, backup_check_feed, c, st, &summary);
	if (rc == STATUS_OK)
		rc = backup_check_end(c, summary.header, st);
	if (rc == STATUS_OK && summary.restore && backup_check_restore(summary.header, summary.restore, st) != STATUS_OK)
		rc = wrong(st, "what was decided for the new cluster is impossible");
	backup_check_free(c);
	if (rc == STATUS_OK)
		*ret_summary = summary;
	else
		backup_summary_fini(&summary);
	return rc;
}
