#include "services/serial/state_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A range on disk: first and last, 8 bytes big-endian each. */
#define RANGE_BYTES 16

/* Holders. */

static struct holder *find_holder(struct state *s, const char *name)
{
	for (unsigned i = 0; i < s->n_holders; i++)
		if (strcmp(s->holders[i]->name, name) == 0)
			return s->holders[i];
	return NULL;
}

static uint64_t newest_serial(const struct holder *h)
{
	return h->n_blocks > 0 ? h->blocks[h->n_blocks - 1].last : 0;
}

static void free_holder(struct holder *h)
{
	if (h)
		free(h->name);
	free(h);
}

enum status_code state_close_blocks(struct state *s, struct status *st)
{
	enum status_code rc = STATUS_OK;
	while (rc == STATUS_OK && s->n_holders > 0) {
		struct holder *h = s->holders[s->n_holders - 1];
		state_bind_text(s->sql[SQL_BLOCKS_DELETE], 1, h->name);
		rc = state_run(s, SQL_BLOCKS_DELETE, st, "close the blocks of a CA");
		if (rc == STATUS_OK) {
			free_holder(h);
			s->n_holders--;
		}
	}
	return rc;
}

/* Of those that hold nothing any more the first by name: their order here is this replica's own, their rows are not. */
static bool is_idler(const struct holder *a, const struct holder *b)
{
	uint64_t x = newest_serial(a), y = newest_serial(b);
	return x < y || (x == y && strcmp(a->name, b->name) < 0);
}

/* Makes room for one more by closing what the longest idle one holds. */
static enum status_code drop_idle_holder(struct state *s, struct status *st)
{
	unsigned idle = 0;
	for (unsigned i = 1; i < s->n_holders; i++)
		if (is_idler(s->holders[i], s->holders[idle]))
			idle = i;
	state_bind_text(s->sql[SQL_BLOCKS_DELETE], 1, s->holders[idle]->name);
	enum status_code rc = state_run(s, SQL_BLOCKS_DELETE, st, "close the blocks of a CA");
	if (rc != STATUS_OK)
		return rc;
	free_holder(s->holders[idle]);
	s->holders[idle] = s->holders[--s->n_holders];
	return STATUS_OK;
}

static enum status_code add_holder(struct state *s, const char *name, struct status *st, struct holder **ret_holder)
{
	if (s->n_holders == HOLDERS_MAX) {
		enum status_code rc = drop_idle_holder(s, st);
		if (rc != STATUS_OK)
			return rc;
	}
	struct holder *h = calloc(1, sizeof *h);
	if (h)
		h->name = strdup(name);
	if (!h || !h->name) {
		free_holder(h);
		return status_set(st, STATUS_INTERNAL, "state: out of memory for the blocks of a CA");
	}
	s->holders[s->n_holders++] = h;
	*ret_holder = h;
	return STATUS_OK;
}

/* The index of the block that holds `serial`; n_blocks when none does. */
static unsigned find_block(const struct holder *h, uint64_t serial)
{
	unsigned low = 0, high = h->n_blocks;
	while (low < high) {
		unsigned middle = low + (high - low) / 2;
		if (h->blocks[middle].last < serial)
			low = middle + 1;
		else
			high = middle;
	}
	return low < h->n_blocks && h->blocks[low].first <= serial ? low : h->n_blocks;
}

static void drop_blocks(struct holder *h, unsigned n)
{
	h->n_blocks -= n;
	memmove(h->blocks, h->blocks + n, h->n_blocks * sizeof *h->blocks);
	h->dirty = true;
}

static void add_block(struct holder *h, uint64_t first, uint64_t last)
{
	h->dirty = true;
	if (h->n_blocks > 0 && h->blocks[h->n_blocks - 1].last + 1 == first) {
		h->blocks[h->n_blocks - 1].last = last;
		return;
	}
	if (h->n_blocks == HOLDER_BLOCKS_MAX)
		drop_blocks(h, 1);
	h->blocks[h->n_blocks++] = (struct block){ first, last };
}

/* Closes `serial` and what its holder has below it. */
static void close_serials(struct state *s, uint64_t serial)
{
	for (unsigned i = 0; i < s->n_holders; i++) {
		struct holder *h = s->holders[i];
		unsigned k = find_block(h, serial);
		if (k == h->n_blocks)
			continue;
		drop_blocks(h, k);
		if (h->blocks[0].last == serial)
			drop_blocks(h, 1);
		else
			h->blocks[0].first = serial + 1;
		return;
	}
}

static enum status_code load_holder(struct state *s, sqlite3_stmt *sql, struct status *st)
{
	const char *name = (const char *)sqlite3_column_text(sql, 0);
	struct slice ranges = state_column(sql, 1);
	if (!name || ranges.len % RANGE_BYTES != 0 || ranges.len / RANGE_BYTES > HOLDER_BLOCKS_MAX ||
	    s->n_holders == HOLDERS_MAX)
		return status_set(st, STATUS_DATA_LOSS, "state: the table of blocks is damaged: restore this replica");
	struct holder *h;
	enum status_code rc = add_holder(s, name, st, &h);
	if (rc != STATUS_OK)
		return rc;
	const uint8_t *p = ranges.data;
	for (size_t at = 0; at < ranges.len; at += RANGE_BYTES)
		h->blocks[h->n_blocks++] = (struct block){ state_get_be(p + at, 8), state_get_be(p + at + 8, 8) };
	return STATUS_OK;
}

static enum status_code save_holder(struct state *s, struct holder *h, struct status *st)
{
	uint8_t ranges[HOLDER_BLOCKS_MAX * RANGE_BYTES];
	for (unsigned i = 0; i < h->n_blocks; i++) {
		state_put_be(ranges + i * RANGE_BYTES, h->blocks[i].first, 8);
		state_put_be(ranges + i * RANGE_BYTES + 8, h->blocks[i].last, 8);
	}
	sqlite3_stmt *sql = s->sql[SQL_BLOCKS_PUT];
	state_bind_text(sql, 1, h->name);
	state_bind_blob(sql, 2, (struct slice){ ranges, h->n_blocks * RANGE_BYTES });
	h->dirty = false;
	return state_run(s, SQL_BLOCKS_PUT, st, "write the blocks of a CA");
}

enum status_code state_serial_flush(struct state *s, struct status *st)
{
	enum status_code rc = STATUS_OK;
	for (unsigned i = 0; rc == STATUS_OK && i < s->n_holders; i++)
		if (s->holders[i]->dirty)
			rc = save_holder(s, s->holders[i], st);
	return rc;
}

static enum status_code load_expiry(struct state *s, struct status *st)
{
	sqlite3_stmt *sql = s->sql[SQL_ISSUED_OLDEST];
	int rv = sqlite3_step(sql);
	s->expiry_s = INT64_MAX;
	if (rv == SQLITE_ROW) {
		s->expiry_s = sqlite3_column_int64(sql, 0);
		s->expiry_serial = (uint64_t)sqlite3_column_int64(sql, 1);
	}
	sqlite3_reset(sql);
	return rv == SQLITE_ROW || rv == SQLITE_DONE ? STATUS_OK : state_sql_failed(s, st, "find the oldest record");
}

enum status_code state_serial_load(struct state *s, struct status *st)
{
	sqlite3_stmt *sql = s->sql[SQL_BLOCKS_ALL];
	enum status_code rc = STATUS_OK;
	int rv = SQLITE_DONE;
	while (rc == STATUS_OK && (rv = sqlite3_step(sql)) == SQLITE_ROW)
		rc = load_holder(s, sql, st);
	if (rc == STATUS_OK && rv != SQLITE_DONE)
		rc = state_sql_failed(s, st, "read the blocks");
	sqlite3_reset(sql);
	return rc == STATUS_OK ? load_expiry(s, st) : rc;
}

void state_serial_unload(struct state *s)
{
	for (unsigned i = 0; i < s->n_holders; i++)
		free_holder(s->holders[i]);
	s->n_holders = 0;
}

/* Records. */

static int64_t now_s(const struct state *s)
{
	return (int64_t)(s->numbers.time_ms / 1000);
}

enum status_code state_expire_records(struct state *s, size_t limit, struct status *st)
{
	enum status_code rc = STATUS_OK;
	int64_t retention_s = (int64_t)(state_setting(s, SETTING_RECORDS_RETENTION) / 1000);
	/* notAfter itself is still valid: RFC 5280 §4.1.2.5. */
	for (size_t n = 0; rc == STATUS_OK && n < limit && s->expiry_s < now_s(s) - retention_s; n++) {
		state_bind_uint(s->sql[SQL_ISSUED_DELETE], 1, s->expiry_serial);
		rc = state_run(s, SQL_ISSUED_DELETE, st, "delete an expired record");
		s->numbers.issued--;
		close_serials(s, s->expiry_serial);
		if (rc == STATUS_OK)
			rc = load_expiry(s, st);
	}
	return rc;
}

enum status_code state_allocate(struct state *s, const Kds__V1__Command *c, struct status *st, struct state_result *r)
{
	uint32_t count = c->allocate->count;
	if (count > SERIAL_MAX - s->numbers.last_serial)
		return state_refuse(r, STATUS_OUT_OF_RANGE, NULL, "all serial numbers are used up");
	struct holder *h = find_holder(s, c->requester);
	if (!h) {
		enum status_code rc = add_holder(s, c->requester, st, &h);
		if (rc != STATUS_OK)
			return rc;
	}
	Kds__V1__AllocateResponse answer = KDS__V1__ALLOCATE_RESPONSE__INIT;
	answer.first = s->numbers.last_serial + 1;
	answer.last = s->numbers.last_serial + count;
	add_block(h, answer.first, answer.last);
	s->numbers.last_serial = answer.last;
	return state_answer(r, &answer.base, st);
}

/* Is there a record of this serial: *ret_found; of this very certificate: *ret_same. */
static enum status_code find_record(struct state *s, const Kds__V1__IssuedCertificate *c, struct status *st,
				    bool *ret_found, bool *ret_same)
{
	sqlite3_stmt *sql = s->sql[SQL_ISSUED_FINGERPRINT];
	state_bind_uint(sql, 1, c->serial);
	int rv = sqlite3_step(sql);
	*ret_found = rv == SQLITE_ROW;
	*ret_same = false;
	if (rv == SQLITE_ROW) {
		struct slice known = state_column(sql, 0);
		*ret_same = known.len == c->fingerprint.len && memcmp(known.data, c->fingerprint.data, known.len) == 0;
	}
	sqlite3_reset(sql);
	return rv == SQLITE_ROW || rv == SQLITE_DONE ? STATUS_OK : state_sql_failed(s, st, "look for a record");
}

static enum status_code insert_record(struct state *s, const Kds__V1__IssuedCertificate *c, struct status *st)
{
	sqlite3_stmt *sql = s->sql[SQL_ISSUED_INSERT];
	state_bind_uint(sql, 1, c->serial);
	state_bind_blob(sql, 2, (struct slice){ c->fingerprint.data, c->fingerprint.len });
	state_bind_text(sql, 3, c->subject);
	state_bind_blob(sql, 4, (struct slice){ c->issuer_key_id.data, c->issuer_key_id.len });
	sqlite3_bind_int64(sql, 5, c->not_before);
	sqlite3_bind_int64(sql, 6, c->not_after);
	state_bind_text(sql, 7, c->profile);
	state_bind_text(sql, 8, c->requester);
	state_bind_uint(sql, 9, s->numbers.time_ms);
	enum status_code rc = state_run(s, SQL_ISSUED_INSERT, st, "write a record");
	if (rc != STATUS_OK)
		return rc;
	s->numbers.issued++;
	if (c->serial > s->numbers.highest_issued)
		s->numbers.highest_issued = c->serial;
	if (c->not_after < s->expiry_s || (c->not_after == s->expiry_s && c->serial < s->expiry_serial)) {
		s->expiry_s = c->not_after;
		s->expiry_serial = c->serial;
	}
	return STATUS_OK;
}

/* The verdict on one certificate goes into ret_verdict; the return is the replica's own trouble. */
static enum status_code record_one(struct state *s, const char *ca, const Kds__V1__IssuedCertificate *c,
				   struct status *st, struct status *ret_verdict)
{
	struct status *v = ret_verdict;
	v->code = STATUS_OK;
	v->message[0] = '\0';
	if (state_validate_certificate(c, v) != STATUS_OK)
		return STATUS_OK;
	if (c->serial < s->numbers.min_serial) {
		status_set(v, STATUS_FAILED_PRECONDITION,
			   "serial %" PRIu64 " is refused: min_serial is %" PRIu64 "; take a serial from a new block",
			   c->serial, s->numbers.min_serial);
		return STATUS_OK;
	}
	bool found, same;
	enum status_code rc = find_record(s, c, st, &found, &same);
	if (rc != STATUS_OK || same)
		return rc;
	const struct holder *h = find_holder(s, ca);
	if (found)
		status_set(v, STATUS_ALREADY_EXISTS, "serial %" PRIu64 " belongs to another certificate", c->serial);
	else if (!h || find_block(h, c->serial) == h->n_blocks)
		status_set(v, STATUS_FAILED_PRECONDITION,
			   "serial %" PRIu64 " is in no open block of %s: take a serial from a new block", c->serial,
			   ca);
	else if (c->not_after < now_s(s))
		status_set(v, STATUS_FAILED_PRECONDITION, "the certificate with serial %" PRIu64 " has expired",
			   c->serial);
	else
		rc = insert_record(s, c, st);
	return rc;
}

enum status_code state_record(struct state *s, const Kds__V1__Command *c, struct arena *arena, struct status *st,
			      struct state_result *r)
{
	size_t n = c->record->n_certificates;
	Kds__V1__RecordResult *results = arena_alloc(arena, n * sizeof *results);
	Kds__V1__RecordResult **list = arena_alloc(arena, n * sizeof *list);
	if (!results || !list)
		return status_set(st, STATUS_INTERNAL, "state: out of memory for the results of a record");
	for (size_t i = 0; i < n; i++) {
		struct status verdict;
		enum status_code rc = record_one(s, c->requester, c->record->certificates[i], st, &verdict);
		if (rc != STATUS_OK)
			return rc;
		kds__v1__record_result__init(&results[i]);
		list[i] = &results[i];
		if (verdict.code == STATUS_OK)
			continue;
		results[i].code = verdict.code;
		results[i].message = arena_strdup(arena, verdict.message);
		if (!results[i].message)
			return status_set(st, STATUS_INTERNAL, "state: out of memory for the results of a record");
	}
	Kds__V1__RecordResponse answer = KDS__V1__RECORD_RESPONSE__INIT;
	answer.n_results = n;
	answer.results = list;
	answer.revision = state_revision(s);
	return state_answer(r, &answer.base, st);
}

/* min_serial. */

static enum status_code wanted_min(const struct state *s, const Kds__V1__SetMinRequest *in, struct state_result *r,
				   uint64_t *ret_min)
{
	const struct numbers *n = &s->numbers;
	uint64_t min = in->min_serial;
	if (in->value_case == KDS__V1__SET_MIN_REQUEST__VALUE_ALL)
		min = n->last_serial + 1;
	else if (in->value_case == KDS__V1__SET_MIN_REQUEST__VALUE_LATEST)
		min = n->highest_issued;
	if (min == 0)
		return status_set(&r->status, STATUS_FAILED_PRECONDITION,
				  "no certificate was issued yet: there is no latest");
	if (min < n->min_serial)
		return status_set(&r->status, STATUS_FAILED_PRECONDITION,
				  "min_serial is %" PRIu64 " and never goes down; %" PRIu64 " is below it",
				  n->min_serial, min);
	/* Higher would refuse serials that no CA has yet, and so every certificate to come. */
	if (min > n->last_serial + 1)
		return status_set(&r->status, STATUS_OUT_OF_RANGE,
				  "min_serial can be at most %" PRIu64 ", which refuses everything handed out so far;"
				  " %" PRIu64 " would refuse certificates to come",
				  n->last_serial + 1, min);
	*ret_min = min;
	return STATUS_OK;
}

enum status_code state_set_min(struct state *s, const Kds__V1__SetMinRequest *in, struct status *st,
			       struct state_result *r)
{
	uint64_t min = 0;
	if (wanted_min(s, in, r, &min) != STATUS_OK)
		return STATUS_OK;
	if (min != s->numbers.min_serial) {
		s->numbers.min_serial = min;
		enum status_code rc = state_write_min(s, st);
		if (rc != STATUS_OK)
			return rc;
	}
	Kds__V1__SerialStatus answer;
	state_serial_status(s, &answer);
	return state_answer(r, &answer.base, st);
}
