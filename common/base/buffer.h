/*
 * A growing byte buffer and an arena. Neither is thread-safe; neither blocks.
 * Allocation failure is reported, never fatal: what a peer sends decides how much is asked for.
 */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "common/base/status.h"

/* A borrowed run of bytes. */
struct slice {
	const void *data;
	size_t len;
};

/* Bytes [0, len) are filled. Zero-initialised is empty and valid. */
struct buffer {
	uint8_t *data;
	size_t len;
	size_t cap;
};

/* Makes room for `more` bytes behind len. False: no memory, the buffer is as it was. */
bool buffer_reserve(struct buffer *b, size_t more) MUST_CHECK;
bool buffer_append(struct buffer *b, const void *data, size_t len) MUST_CHECK;
/* Drops the first n bytes (n <= len). */
void buffer_consume(struct buffer *b, size_t n);
/* Frees the storage; the buffer is empty and valid afterwards. */
void buffer_free(struct buffer *b);
/* The same, wiped first. What it grew out of is not: whoever fills it with a secret reserves room first. */
void buffer_wipe(struct buffer *b);

/*
 * An arena: many small allocations, freed at once, at most `budget` bytes in all. It serves protobuf-c as an
 * allocator, so that what a peer's message may cost is bounded before it is unpacked.
 */
struct arena;

/* NULL: no memory. */
struct arena *arena_new(size_t budget) MUST_CHECK;
/* Everything ever returned by arena_alloc() ends here. NULL is allowed. */
void arena_free(struct arena *a);
/* Frees as arena_free() does, wiping all it held: for messages that carry secrets. */
void arena_wipe(struct arena *a);
/* 16-byte aligned, uninitialised. NULL: over the budget or no memory. */
void *arena_alloc(struct arena *a, size_t size) MUST_CHECK;
char *arena_strdup(struct arena *a, const char *s) MUST_CHECK;
/* Of the budget. */
size_t arena_used(const struct arena *a);
/* Lives as long as the arena. What it "frees" stays until arena_free(). */
ProtobufCAllocator *arena_allocator(struct arena *a);

#endif
