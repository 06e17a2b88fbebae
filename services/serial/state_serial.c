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

bool state_is_open(const struct state *s, const char *holder, uint64_t serial)
{
	for (unsigned i = 0; i < s->n_holders; i++) {
		const struct holder *h = s->holders[i];
		if (strcmp(h->name, holder) == 0)
			return find_block(h, serial) < h->n_blocks;
	}
	return false;
}

void state_close_serials(struct state *s, uint64_t serial)
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

/* Closes what is below min_serial: a record of it is refused in any case, and holders get room. */
static void close_below_min(struct state *s)
{
	uint64_t min = s->numbers.min_serial;
	for (unsigned i = 0; i < s->n_holders; i++) {
		struct holder *h = s->holders[i];
		unsigned n = 0;
		while (n < h->n_blocks && h->blocks[n].last < min)
			n++;
		if (n > 0)
			drop_blocks(h, n);
		if (h->n_blocks > 0 && h->blocks[0].first < min) {
			h->blocks[0].first = min;
			h->dirty = true;
		}
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
	return rc;
}

void state_serial_unload(struct state *s)
{
	for (unsigned i = 0; i < s->n_holders; i++)
		free_holder(s->holders[i]);
	s->n_holders = 0;
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

enum status_code state_set_min(struct state *s, const Kds__V1__Command *c, struct status *st, struct state_result *r)
{
	uint64_t min = 0;
	if (wanted_min(s, c->set_min, r, &min) != STATUS_OK)
		return STATUS_OK;
	if (min != s->numbers.min_serial) {
		s->numbers.min_serial = min;
		enum status_code rc = state_write_min(s, st);
		if (rc != STATUS_OK)
			return rc;
	}
	if (c->version >= LEVEL_ASKED)
		close_below_min(s);
	Kds__V1__SerialStatus answer;
	state_serial_status(s, &answer);
	return state_answer(r, &answer.base, st);
}
