#include "common/base/buffer.h"

#include <stdlib.h>
#include <string.h>

#include <gnutls/gnutls.h>

bool buffer_reserve(struct buffer *b, size_t more)
{
	if (more <= b->cap - b->len)
		return true;
	if (more > SIZE_MAX / 2 - b->len)
		return false;
	size_t cap = b->cap ? b->cap : 256;
	while (cap < b->len + more)
		cap *= 2;
	uint8_t *data = realloc(b->data, cap);
	if (!data)
		return false;
	b->data = data;
	b->cap = cap;
	return true;
}

bool buffer_append(struct buffer *b, const void *data, size_t len)
{
	if (!buffer_reserve(b, len))
		return false;
	if (len > 0)
		memcpy(b->data + b->len, data, len);
	b->len += len;
	return true;
}

void buffer_consume(struct buffer *b, size_t n)
{
	if (n > 0 && n < b->len)
		memmove(b->data, b->data + n, b->len - n);
	b->len -= n;
}

void buffer_free(struct buffer *b)
{
	free(b->data);
	*b = (struct buffer){ 0 };
}

void buffer_wipe(struct buffer *b)
{
	if (b->data)
		gnutls_memset(b->data, 0, b->cap);
	buffer_free(b);
}

#define CHUNK_SIZE 4096

struct chunk {
	struct chunk *next;
	size_t cap;
	size_t used;
	_Alignas(16) uint8_t data[];
};

struct arena {
	ProtobufCAllocator allocator;
	struct chunk *chunks; /* the newest first; allocations come from it */
	size_t budget;
	size_t used;
};

static void *allocator_alloc(void *arena, size_t size)
{
	return arena_alloc(arena, size);
}

static void allocator_free(void *arena, void *p)
{
	(void)arena;
	(void)p;
}

static struct chunk *chunk_new(size_t cap)
{
	struct chunk *c = malloc(sizeof *c + cap);
	if (c)
		*c = (struct chunk){ .cap = cap };
	return c;
}

struct arena *arena_new(size_t budget)
{
	/* The arena lives in its own first chunk: most messages cost one malloc. */
	struct chunk *c = chunk_new(CHUNK_SIZE - sizeof *c);
	if (!c)
		return NULL;
	struct arena *a = (struct arena *)(void *)c->data;
	c->used = (sizeof *a + 15) & ~(size_t)15;
	*a = (struct arena){
		.allocator = { .alloc = allocator_alloc, .free = allocator_free, .allocator_data = a },
		.chunks = c,
		.budget = budget,
	};
	return a;
}

static void release(struct arena *a, bool wipe)
{
	if (!a)
		return;
	struct chunk *c = a->chunks;
	while (c) {
		struct chunk *next = c->next;
		if (wipe)
			gnutls_memset(c->data, 0, c->used);
		free(c);
		c = next;
	}
}

void arena_free(struct arena *a)
{
	release(a, false);
}

void arena_wipe(struct arena *a)
{
	release(a, true);
}

void *arena_alloc(struct arena *a, size_t size)
{
	if (size > SIZE_MAX - 64)
		return NULL;
	size_t need = (size + 15) & ~(size_t)15;
	if (need > a->budget - a->used)
		return NULL;
	struct chunk *c = a->chunks;
	if (need > c->cap - c->used) {
		size_t cap = CHUNK_SIZE * 4 - sizeof *c;
		c = chunk_new(need > cap ? need : cap);
		if (!c)
			return NULL;
		c->next = a->chunks;
		a->chunks = c;
	}
	void *p = c->data + c->used;
	c->used += need;
	a->used += need;
	return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
	size_t size = strlen(s) + 1;
	char *copy = arena_alloc(a, size);
	if (copy)
		memcpy(copy, s, size);
	return copy;
}

size_t arena_used(const struct arena *a)
{
	return a->used;
}

ProtobufCAllocator *arena_allocator(struct arena *a)
{
	return &a->allocator;
}
