/*
 * Answers. Lists are put together from packed objects as they are stored, without unpacking them: field 1 of
 * ListResponse and WatchResponse, an embedded message, is its tag, its length and its bytes.
 */
#include "services/serial/state_internal.h"

#include <inttypes.h>
#include <string.h>

#include "common/rpc/message.h"

#define CERTIFICATES_DEFAULT 100
#define CERTIFICATES_MAX 1000
#define TAG_FIELD_1_BYTES 0x0a

uint64_t state_revision(const struct state *s)
{
	return s->numbers.revision;
}

unsigned state_level(const struct state *s)
{
	return (unsigned)s->numbers.level;
}

uint64_t state_time_ms(const struct state *s)
{
	return s->numbers.time_ms;
}

const char *state_cluster_name(const struct state *s)
{
	return s->cluster;
}

uint64_t state_setting(const struct state *s, enum setting which)
{
	return settings_get(&s->settings, which);
}

void state_numbers_status(const struct numbers *n, Kds__V1__SerialStatus *ret_status)
{
	kds__v1__serial_status__init(ret_status);
	ret_status->last_serial = n->last_serial;
	ret_status->highest_issued = n->highest_issued;
	ret_status->min_serial = n->min_serial;
	ret_status->issued = n->issued;
	ret_status->revision = n->revision;
}

void state_serial_status(const struct state *s, Kds__V1__SerialStatus *ret_status)
{
	state_numbers_status(&s->numbers, ret_status);
}

uint64_t state_applied(const struct state *s)
{
	return s->numbers.applied;
}

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Must the sealed key of this object be left out? */
static bool hidden(const char *key, unsigned sealed)
{
	return (starts_with(key, "ca/") && !(sealed & STATE_SEALED_CA)) ||
	       (starts_with(key, "masterkey/") && !(sealed & STATE_SEALED_MASTERKEY));
}

/* Appends a stored object without its sealed key. */
static enum status_code append_redacted(struct slice object, struct status *st, struct buffer *out)
{
	Kds__V1__Object *o = kds__v1__object__unpack(NULL, object.len, object.data);
	if (!o)
		return status_set(st, STATUS_INTERNAL, "state: an object does not unpack");
	const ProtobufCBinaryData none = { 0 };
	ProtobufCBinaryData *key = NULL;
	if (o->value_case == KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY)
		key = &o->certificate_authority->sealed_key;
	else if (o->value_case == KDS__V1__OBJECT__VALUE_MASTER_KEY)
		key = &o->master_key->sealed_key;
	ProtobufCBinaryData kept = key ? *key : none;
	if (key)
		*key = none;
	enum status_code rc = message_pack(&o->base, out, st);
	if (key)
		*key = kept;
	kds__v1__object__free_unpacked(o, NULL);
	return rc;
}

static enum status_code append_object(const char *key, struct slice object, unsigned sealed, struct status *st,
				      struct buffer *out)
{
	if (hidden(key, sealed))
		return append_redacted(object, st, out);
	if (!buffer_append(out, object.data, object.len))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "answer: out of memory");
	return STATUS_OK;
}

/* One more element of field 1: the length goes in front once it is known. */
static enum status_code append_element(const char *key, struct slice object, unsigned sealed, struct status *st,
				       struct buffer *out)
{
	const size_t head = 6; /* tag and the longest varint of 32 bits */
	size_t start = out->len;
	if (!buffer_reserve(out, head))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "answer: out of memory");
	out->len += head;
	enum status_code rc = append_object(key, object, sealed, st, out);
	if (rc != STATUS_OK) {
		out->len = start;
		return rc;
	}
	size_t len = out->len - start - head, left = len, n = 0;
	uint8_t *p = out->data + start;
	p[n++] = TAG_FIELD_1_BYTES;
	for (; left >= 0x80; left >>= 7)
		p[n++] = (uint8_t)(left | 0x80);
	p[n++] = (uint8_t)left;
	memmove(p + n, p + head, len);
	out->len = start + n + len;
	return STATUS_OK;
}

enum status_code state_append_element(struct slice packed, struct status *st, struct buffer *out)
{
	return append_element("", packed, 0, st, out);
}

enum status_code state_get(struct state *s, const char *key, unsigned sealed, struct status *st, struct buffer *out)
{
	sqlite3_stmt *sql = s->sql[SQL_OBJECT_GET];
	state_bind_text(sql, 1, key);
	int rv = sqlite3_step(sql);
	enum status_code rc;
	if (rv == SQLITE_ROW && !sqlite3_column_int(sql, 1))
		rc = append_object(key, state_column(sql, 2), sealed, st, out);
	else if (rv == SQLITE_ROW || rv == SQLITE_DONE)
		rc = status_set(st, STATUS_NOT_FOUND, "there is no %.100s", key);
	else
		rc = state_sql_failed(s, st, "read an object");
	sqlite3_reset(sql);
	return rc;
}

enum status_code state_list(struct state *s, const Kds__V1__ListRequest *in, unsigned sealed, struct status *st,
			    struct buffer *out)
{
	Kds__V1__ListResponse end = KDS__V1__LIST_RESPONSE__INIT;
	end.revision = s->numbers.revision;
	sqlite3_stmt *sql = s->sql[SQL_OBJECTS_LIST];
	state_bind_text(sql, 1, in->prefix);
	state_bind_text(sql, 2, in->after);
	enum status_code rc = STATUS_OK;
	size_t start = out->len;
	int rv = SQLITE_DONE;
	for (uint32_t n = 0; rc == STATUS_OK && (rv = sqlite3_step(sql)) == SQLITE_ROW; n++) {
		const char *key = (const char *)sqlite3_column_text(sql, 0);
		if (!key || !starts_with(key, in->prefix))
			break; /* sorted: behind the prefix */
		if ((in->limit > 0 && n == in->limit) || out->len - start > STATE_ANSWER_MAX) {
			end.more = true;
			break;
		}
		rc = append_element(key, state_column(sql, 1), sealed, st, out);
	}
	if (rc == STATUS_OK && rv != SQLITE_ROW && rv != SQLITE_DONE)
		rc = state_sql_failed(s, st, "list objects");
	sqlite3_reset(sql);
	return rc == STATUS_OK ? message_pack(&end.base, out, st) : rc;
}

static bool is_watched(const Kds__V1__WatchRequest *in, const char *key)
{
	for (size_t i = 0; i < in->n_prefixes; i++)
		if (starts_with(key, in->prefixes[i]))
			return true;
	return in->n_prefixes == 0;
}

/* Is what this watcher knows too old, or of another cluster? One that is still reading the whole state, from before
 * what was compacted away, misses nothing but what came to an end before it began. */
static bool must_restart(const struct state *s, const Kds__V1__WatchRequest *in)
{
	uint64_t known = in->since_revision > in->began ? in->since_revision : in->began;
	return known > s->numbers.revision || (in->since_revision > 0 && known < s->numbers.compacted);
}

enum status_code state_changes(struct state *s, const Kds__V1__WatchRequest *in, unsigned sealed, struct status *st,
			       struct buffer *out, bool *ret_any)
{
	Kds__V1__WatchResponse end = KDS__V1__WATCH_RESPONSE__INIT;
	end.revision = s->numbers.revision;
	end.restart = must_restart(s, in);
	sqlite3_stmt *sql = s->sql[SQL_OBJECTS_SINCE];
	/* With a restart no rows: there is nothing behind the newest. */
	state_bind_uint(sql, 1, end.restart ? s->numbers.revision : in->since_revision);
	enum status_code rc = STATUS_OK;
	size_t start = out->len;
	int rv = SQLITE_DONE;
	for (unsigned n = 1; rc == STATUS_OK && (rv = sqlite3_step(sql)) == SQLITE_ROW; n++) {
		const char *key = (const char *)sqlite3_column_text(sql, 0);
		if (key && is_watched(in, key))
			rc = append_element(key, state_column(sql, 1), sealed, st, out);
		if (n == STATE_SCAN_MAX || out->len - start > STATE_ANSWER_MAX) {
			end.more = true;
			end.began = in->since_revision == 0 ? s->numbers.revision : in->began;
			end.revision = (uint64_t)sqlite3_column_int64(sql, 2);
			break;
		}
	}
	if (rc == STATUS_OK && rv != SQLITE_ROW && rv != SQLITE_DONE)
		rc = state_sql_failed(s, st, "read what changed");
	sqlite3_reset(sql);
	bool any = end.restart || end.more || out->len > start;
	if (rc == STATUS_OK)
		rc = message_pack(&end.base, out, st);
	if (rc == STATUS_OK)
		*ret_any = any;
	return rc;
}

/* A row as it is stored, packed as one element. Borrowed from the statement until its next step. */
static enum status_code append_certificate(sqlite3_stmt *sql, struct buffer *scratch, struct status *st,
					   struct buffer *out)
{
	Kds__V1__IssuedCertificate c;
	enum status_code rc = state_record_read(sql, st, &c);
	scratch->len = 0;
	if (rc == STATUS_OK)
		rc = message_pack(&c.base, scratch, st);
	if (rc != STATUS_OK)
		return rc;
	return state_append_element((struct slice){ scratch->data, scratch->len }, st, out);
}

/* Goes on with the next block of serials that has records at all. *ret_more: there is one. */
static enum status_code next_block(struct state *s, sqlite3_stmt *list, uint64_t *block, struct status *st,
				   bool *ret_more)
{
	sqlite3_stmt *sql = s->sql[SQL_ISSUED_NEXT];
	*ret_more = false;
	if (*block == SERIAL_MAX >> ISSUED_BLOCK_BITS)
		return STATUS_OK;
	state_bind_uint(sql, 1, (*block + 1) << ISSUED_BLOCK_BITS);
	int rv = sqlite3_step(sql);
	if (rv == SQLITE_ROW) {
		*block = (uint64_t)sqlite3_column_int64(sql, 0) >> ISSUED_BLOCK_BITS;
		*ret_more = true;
	}
	sqlite3_reset(sql);
	if (rv != SQLITE_ROW && rv != SQLITE_DONE)
		return state_sql_failed(s, st, "list records");
	sqlite3_reset(list);
	state_bind_uint(list, 3, *block);
	return STATUS_OK;
}

enum status_code state_certificates(struct state *s, const Kds__V1__ListCertificatesRequest *in, struct status *st,
				    struct buffer *out)
{
	if (in->limit > CERTIFICATES_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "limit: at most %d certificates an answer",
				  CERTIFICATES_MAX);
	Kds__V1__ListCertificatesResponse end = KDS__V1__LIST_CERTIFICATES_RESPONSE__INIT;
	/* Above the largest signed number there is nothing. */
	if (in->after_serial >= SERIAL_MAX)
		return message_pack(&end.base, out, st);
	bool all = in->subject[0] == '\0';
	sqlite3_stmt *sql = s->sql[all ? SQL_ISSUED_LIST : SQL_ISSUED_LIST_SUBJECT];
	uint64_t block = in->after_serial >> ISSUED_BLOCK_BITS;
	state_bind_uint(sql, 1, in->after_serial);
	if (!all) {
		state_bind_text(sql, 2, in->subject);
		state_bind_uint(sql, 3, block);
	}
	uint32_t limit = in->limit ? in->limit : CERTIFICATES_DEFAULT;
	enum status_code rc = STATUS_OK;
	size_t start = out->len;
	int rv = SQLITE_DONE;
	bool more = true;
	for (uint32_t n = 0; rc == STATUS_OK && more;) {
		rv = sqlite3_step(sql);
		if (rv == SQLITE_ROW) {
			end.more = n++ == limit || out->len - start > STATE_ANSWER_MAX;
			more = !end.more;
			if (more)
				rc = append_certificate(sql, &s->scratch, st, out);
		} else {
			more = false;
			if (rv == SQLITE_DONE && !all)
				rc = next_block(s, sql, &block, st, &more);
		}
	}
	if (rc == STATUS_OK && rv != SQLITE_ROW && rv != SQLITE_DONE)
		rc = state_sql_failed(s, st, "list records");
	sqlite3_reset(sql);
	return rc == STATUS_OK ? message_pack(&end.base, out, st) : rc;
}
