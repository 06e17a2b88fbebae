#include "services/serial/entry_cache.h"

#include <stdlib.h>
#include <string.h>

struct slot {
	raft_term term;
	size_t offset; /* of its bytes */
	size_t len;
	enum raft_entry_type type;
};

struct entry_cache {
	struct slot *slots; /* the entry at index i is in slot i modulo n_slots */
	unsigned n_slots;
	uint8_t *bytes;
	size_t size;
	raft_index first, last; /* first > last: empty */
};

struct entry_cache *entry_cache_new(unsigned entries, size_t bytes)
{
	struct entry_cache *c = calloc(1, sizeof *c);
	if (!c)
		return NULL;
	c->slots = calloc(entries, sizeof *c->slots);
	c->bytes = malloc(bytes);
	if (!c->slots || !c->bytes) {
		entry_cache_free(c);
		return NULL;
	}
	c->n_slots = entries;
	c->size = bytes;
	c->first = 1;
	return c;
}

void entry_cache_free(struct entry_cache *c)
{
	if (!c)
		return;
	free(c->slots);
	free(c->bytes);
	free(c);
}

static struct slot *slot_of(const struct entry_cache *c, raft_index index)
{
	return &c->slots[index & (c->n_slots - 1)];
}

/*
 * Where `len` bytes fit in one piece. What is in use runs from the first entry's bytes to the end of the last's, around
 * the ring; a piece that would cross the end of the ring goes to its beginning. The end never meets the beginning, so
 * that full and empty differ.
 */
static bool find_room(const struct entry_cache *c, size_t len, size_t *ret_offset)
{
	if (c->first > c->last) {
		*ret_offset = 0;
		return len < c->size;
	}
	const struct slot *last = slot_of(c, c->last);
	size_t begin = slot_of(c, c->first)->offset, end = last->offset + last->len;
	if (end < begin) {
		*ret_offset = end;
		return len < begin - end;
	}
	*ret_offset = end;
	if (len <= c->size - end)
		return true;
	*ret_offset = 0;
	return len < begin;
}

bool entry_cache_append(struct entry_cache *c, raft_index index, const struct cached_entry *entry, raft_index keep)
{
	if (c->first > c->last) {
		c->first = index;
		c->last = index - 1;
	}
	size_t offset;
	while (c->last + 1 - c->first == c->n_slots || !find_room(c, entry->data.len, &offset)) {
		if (c->first > c->last || c->first >= keep)
			return false;
		c->first++;
	}
	if (entry->data.len > 0)
		memcpy(c->bytes + offset, entry->data.data, entry->data.len);
	c->last = index;
	*slot_of(c, index) = (struct slot){
		.term = entry->term,
		.offset = offset,
		.len = entry->data.len,
		.type = entry->type,
	};
	return true;
}

void entry_cache_truncate(struct entry_cache *c, raft_index from)
{
	if (from <= c->last)
		c->last = from - 1;
	if (c->last < c->first)
		c->first = c->last + 1;
}

bool entry_cache_get(const struct entry_cache *c, raft_index index, struct cached_entry *ret_entry)
{
	if (index < c->first || index > c->last)
		return false;
	const struct slot *s = slot_of(c, index);
	*ret_entry = (struct cached_entry){
		.term = s->term,
		.type = s->type,
		.data = { c->bytes + s->offset, s->len },
	};
	return true;
}
