/*
 * The newest entries of the log in memory: those that wait for the disk, and behind them as many as fit, for followers
 * that are a little behind. Older ones come from the store. A ring of slots and a ring of bytes: nothing is allocated
 * per entry. One thread.
 */
#ifndef SERIAL_ENTRY_CACHE_H
#define SERIAL_ENTRY_CACHE_H

#include <raft.h>
#include <stdbool.h>

#include "common/base/buffer.h"

struct entry_cache;

struct cached_entry {
	raft_term term;
	enum raft_entry_type type;
	struct slice data; /* borrowed until the next call that appends or truncates */
};

/* Holds at most `entries` (a power of two) and `bytes`. NULL: no memory. */
struct entry_cache *entry_cache_new(unsigned entries, size_t bytes) MUST_CHECK;
void entry_cache_free(struct entry_cache *c);

/*
 * Appends the entry at `index`: one behind the last, or any when the cache is empty. The oldest make room, but none at
 * or above `keep`. False: there is no room, nothing was appended.
 */
bool entry_cache_append(struct entry_cache *c, raft_index index, const struct cached_entry *entry,
			raft_index keep) MUST_CHECK;
/* Forgets the entries at and above `from`. */
void entry_cache_truncate(struct entry_cache *c, raft_index from);
bool entry_cache_get(const struct entry_cache *c, raft_index index, struct cached_entry *ret_entry) MUST_CHECK;

#endif
