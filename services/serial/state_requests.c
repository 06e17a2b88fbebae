/*
 * Request ids that were seen, with their answers, so that a command that arrives twice is applied once.
 *
 * A list from old to new for forgetting, a hash for finding. On disk a row holds what one transaction added:
 * for each u64 time | u32 code | u32 key length | u32 answer length (big-endian), key, answer; its number is that of
 * its last entry. Which entries still count is in numbers.oldest_request, so that forgetting writes nothing but whole
 * rows that have become useless.
 */
#include "services/serial/state_internal.h"

#include <stdlib.h>
#include <string.h>

#define COUNT_MAX 65536
#define ANSWER_BYTES_MAX ((size_t)16 << 20)
#define AGE_MAX_MS ((uint64_t)10 * 60 * 1000)
/* So many stay however old they seem: at a new leader whose clock is ahead, what was just asked is old at once. */
#define COUNT_AGELESS 16384
#define BUCKETS 65536
#define ENTRY_HEADER 20

struct request {
	struct request *newer;     /* in the list */
	struct request *same_hash; /* older, in the bucket */
	uint64_t time_ms;
	uint32_t bucket;
	uint32_t code; /* of the answer; the bytes are then its message */
	uint32_t key_len, answer_len;
	uint8_t bytes[]; /* key, answer */
};

struct requests {
	struct request *oldest, *newest;
	struct request *unsaved; /* this and what is newer waits for requests_flush() */
	uint64_t next;           /* sequence number of the next */
	size_t count, answer_bytes;
	struct buffer row, entry;
	struct request *buckets[BUCKETS];
};

/* FNV-1a: those who choose ids are the cluster's own services, so collisions need no keyed hash. */
static uint32_t bucket_of(const uint8_t *key, size_t len)
{
	uint64_t h = 14695981039346656037u;
	for (size_t i = 0; i < len; i++)
		h = (h ^ key[i]) * 1099511628211u;
	return (uint32_t)((h >> 32 ^ h) % BUCKETS);
}

static struct request *new_request(struct slice key, struct slice answer)
{
	struct request *e = malloc(sizeof *e + key.len + answer.len);
	if (!e)
		return NULL;
	*e = (struct request){ .key_len = (uint32_t)key.len, .answer_len = (uint32_t)answer.len };
	memcpy(e->bytes, key.data, key.len);
	if (answer.len > 0)
		memcpy(e->bytes + key.len, answer.data, answer.len);
	e->bucket = bucket_of(e->bytes, key.len);
	return e;
}

static void link_request(struct requests *q, struct request *e)
{
	e->same_hash = q->buckets[e->bucket];
	q->buckets[e->bucket] = e;
	if (q->newest)
		q->newest->newer = e;
	else
		q->oldest = e;
	q->newest = e;
	q->next++;
	q->count++;
	q->answer_bytes += e->answer_len;
}

/* False: no memory. */
static bool append_entry(struct buffer *row, const struct request *e)
{
	size_t body = (size_t)e->key_len + e->answer_len;
	if (!buffer_reserve(row, ENTRY_HEADER + body))
		return false;
	uint8_t *p = row->data + row->len;
	state_put_be(p, e->time_ms, 8);
	state_put_be(p + 8, e->code, 4);
	state_put_be(p + 12, e->key_len, 4);
	state_put_be(p + 16, e->answer_len, 4);
	memcpy(p + ENTRY_HEADER, e->bytes, body);
	row->len += ENTRY_HEADER + body;
	return true;
}

static void unlink_oldest(struct requests *q)
{
	struct request *e = q->oldest;
	struct request **at = &q->buckets[e->bucket];
	while (*at != e)
		at = &(*at)->same_hash;
	*at = e->same_hash;
	q->oldest = e->newer;
	if (!q->oldest)
		q->newest = NULL;
	if (q->unsaved == e)
		q->unsaved = e->newer;
	q->count--;
	q->answer_bytes -= e->answer_len;
	free(e);
}

/* An entry as it is in its row; in q->entry. */
static struct slice pack_entry(struct requests *q, const struct request *e)
{
	q->entry.len = 0;
	if (!append_entry(&q->entry, e))
		return (struct slice){ 0 };
	return (struct slice){ q->entry.data, q->entry.len };
}

static void forget_oldest(struct state *s)
{
	struct requests *q = s->requests;
	digest_request(s, q->next - q->count, pack_entry(q, q->oldest), false);
	unlink_oldest(q);
	s->numbers.oldest_request++;
}

void requests_expire(struct state *s)
{
	struct requests *q = s->requests;
	while (q->count > COUNT_AGELESS && s->numbers.time_ms - q->oldest->time_ms >= AGE_MAX_MS)
		forget_oldest(s);
}

/* Of one caller and one operation: the same id with another of either is another request. The length in front keeps the
 * parts apart. */
static struct slice request_key(struct state *s, const Kds__V1__Command *c)
{
	struct buffer *b = &s->scratch;
	size_t name = strlen(c->requester);
	b->len = 0;
	size_t head = 2 + c->request_id.len;
	if (!buffer_reserve(b, head + name))
		return (struct slice){ 0 };
	b->data[0] = (uint8_t)c->request_id.len;
	b->data[1] = (uint8_t)c->op_case;
	memcpy(b->data + 2, c->request_id.data, c->request_id.len);
	memcpy(b->data + head, c->requester, name);
	return (struct slice){ b->data, head + name };
}

enum status_code requests_find(struct state *s, const Kds__V1__Command *c, struct status *st, struct state_result *r,
			       bool *ret_seen)
{
	struct slice key = request_key(s, c);
	if (!key.data)
		return status_set(st, STATUS_INTERNAL, "state: out of memory for a request id");
	const struct request *e = s->requests->buckets[bucket_of(key.data, key.len)];
	while (e && (e->key_len != key.len || memcmp(e->bytes, key.data, key.len) != 0))
		e = e->same_hash;
	*ret_seen = e != NULL;
	if (!e)
		return STATUS_OK;
	const uint8_t *answer = e->bytes + e->key_len;
	if (e->code != STATUS_OK)
		return state_refuse(r, e->code, NULL, "%.*s", (int)e->answer_len, (const char *)answer);
	r->answer.len = 0;
	if (!buffer_append(&r->answer, answer, e->answer_len))
		return status_set(st, STATUS_INTERNAL, "state: out of memory for an answer");
	return STATUS_OK;
}

enum status_code requests_remember(struct state *s, const Kds__V1__Command *c, const struct state_result *r,
				   struct status *st)
{
	/* Wrong whenever it comes, so there is nothing to remember; and its field has no place here. */
	if (r->status.code == STATUS_INVALID_ARGUMENT)
		return STATUS_OK;
	struct requests *q = s->requests;
	struct slice answer = { r->answer.data, r->answer.len };
	if (r->status.code != STATUS_OK)
		answer = (struct slice){ r->status.message, strlen(r->status.message) };
	struct slice key = request_key(s, c);
	struct request *e = key.data ? new_request(key, answer) : NULL;
	if (!e)
		return status_set(st, STATUS_INTERNAL, "state: out of memory for a request id");
	e->time_ms = s->numbers.time_ms;
	e->code = r->status.code;
	digest_request(s, q->next, pack_entry(q, e), true);
	link_request(q, e);
	if (!q->unsaved)
		q->unsaved = e;
	while (q->count > COUNT_MAX || q->answer_bytes > ANSWER_BYTES_MAX)
		forget_oldest(s);
	return STATUS_OK;
}

enum status_code requests_flush(struct state *s, struct status *st)
{
	struct requests *q = s->requests;
	state_bind_uint(s->sql[SQL_REQUESTS_DELETE], 1, s->numbers.oldest_request);
	enum status_code rc = state_run(s, SQL_REQUESTS_DELETE, st, "forget request ids");
	if (rc != STATUS_OK || !q->unsaved)
		return rc;
	q->row.len = 0;
	for (const struct request *e = q->unsaved; e; e = e->newer)
		if (!append_entry(&q->row, e))
			return status_set(st, STATUS_INTERNAL, "state: out of memory for the request ids");
	q->unsaved = NULL;
	state_bind_uint(s->sql[SQL_REQUESTS_INSERT], 1, q->next - 1);
	state_bind_blob(s->sql[SQL_REQUESTS_INSERT], 2, (struct slice){ q->row.data, q->row.len });
	return state_run(s, SQL_REQUESTS_INSERT, st, "write request ids");
}

/* The size of the entry at p, of `left` bytes; 0: damaged. */
static size_t entry_size(const uint8_t *p, size_t left)
{
	if (left < ENTRY_HEADER)
		return 0;
	size_t key_len = state_get_be(p + 12, 4), answer_len = state_get_be(p + 16, 4);
	if (key_len == 0 || key_len + answer_len > left - ENTRY_HEADER)
		return 0;
	return ENTRY_HEADER + key_len + answer_len;
}

void requests_each(struct slice row, uint64_t last, requests_entry_fn each, void *arg)
{
	const uint8_t *p = row.data;
	size_t size;
	uint64_t n = 0;
	for (size_t at = 0; at < row.len && (size = entry_size(p + at, row.len - at)) > 0; at += size)
		n++;
	for (size_t at = 0; n > 0; at += size) {
		size = entry_size(p + at, row.len - at);
		each(arg, last + 1 - n--, (struct slice){ p + at, size });
	}
}

/* NULL: no memory. */
static struct request *load_entry(const uint8_t *p)
{
	const uint8_t *key = p + ENTRY_HEADER;
	size_t key_len = state_get_be(p + 12, 4), answer_len = state_get_be(p + 16, 4);
	struct request *e = new_request((struct slice){ key, key_len }, (struct slice){ key + key_len, answer_len });
	if (!e)
		return NULL;
	e->time_ms = state_get_be(p, 8);
	e->code = (uint32_t)state_get_be(p + 8, 4);
	return e;
}

/* The rows hold all entries from oldest_request on, in order; the first row may begin before it. */
static enum status_code load_row(struct state *s, struct slice row, uint64_t last, struct status *st)
{
	struct requests *q = s->requests;
	const uint8_t *p = row.data;
	uint64_t n = 0, behind = q->next;
	for (size_t at = 0; at < row.len; n++) {
		size_t size = entry_size(p + at, row.len - at);
		struct request *e = size > 0 ? load_entry(p + at) : NULL;
		if (!e)
			return status_set(st, STATUS_DATA_LOSS,
					  "state: the table of request ids is damaged (or memory ran"
					  " out): restore this replica");
		link_request(q, e);
		at += size;
	}
	/* link_request() counted from where the row before ended; the row's own number says where it began. */
	if (n == 0 || last + 1 < n || (q->count > n && last + 1 - n != behind))
		return status_set(st, STATUS_DATA_LOSS,
				  "state: the table of request ids has a gap: restore this replica");
	q->next = last + 1;
	return STATUS_OK;
}

enum status_code requests_load(struct state *s, struct status *st)
{
	s->requests = calloc(1, sizeof *s->requests);
	if (!s->requests)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "open the state: out of memory");
	struct requests *q = s->requests;
	uint64_t oldest = s->numbers.oldest_request;
	q->next = oldest;
	sqlite3_stmt *sql = s->sql[SQL_REQUESTS_ALL];
	enum status_code rc = STATUS_OK;
	int rv = SQLITE_DONE;
	while (rc == STATUS_OK && (rv = sqlite3_step(sql)) == SQLITE_ROW)
		rc = load_row(s, state_column(sql, 1), (uint64_t)sqlite3_column_int64(sql, 0), st);
	if (rc == STATUS_OK && rv != SQLITE_DONE)
		rc = state_sql_failed(s, st, "read the request ids");
	sqlite3_reset(sql);
	while (rc == STATUS_OK && q->count > 0 && q->next - q->count < oldest)
		unlink_oldest(q);
	if (rc == STATUS_OK && q->next - q->count != oldest)
		rc =
		    status_set(st, STATUS_DATA_LOSS, "state: the table of request ids has a gap: restore this replica");
	return rc;
}

void requests_free(struct requests *q)
{
	if (!q)
		return;
	while (q->oldest) {
		struct request *e = q->oldest;
		q->oldest = e->newer;
		free(e);
	}
	buffer_free(&q->row);
	buffer_free(&q->entry);
	free(q);
}
