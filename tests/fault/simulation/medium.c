#include "tests/fault/simulation/medium.h"

#include <stdlib.h>
#include <string.h>

#define SECTOR 512

static void resize(struct bytes *b, size_t len)
{
	if (len > b->cap) {
		size_t cap = len * 2;
		uint8_t *data = realloc(b->data, cap);
		if (!data)
			abort();
		b->data = data;
		b->cap = cap;
	}
	if (len > b->len)
		memset(b->data + b->len, 0, len - b->len);
	b->len = len;
}

static void put(struct bytes *b, size_t offset, const void *data, size_t len)
{
	if (offset + len > b->len)
		resize(b, offset + len);
	if (len > 0)
		memcpy(b->data + offset, data, len);
}

static void copy(struct bytes *to, const struct bytes *from)
{
	resize(to, from->len);
	if (from->len > 0)
		memcpy(to->data, from->data, from->len);
}

static void add_pending(struct content *c, size_t offset, const void *data, size_t len)
{
	if (len == 0)
		return;
	c->pending = sim_grow(c->pending, c->n_pending, &c->cap_pending, sizeof *c->pending);
	struct medium_write w = { .offset = offset, .len = len, .data = sim_alloc(len) };
	memcpy(w.data, data, len);
	c->pending[c->n_pending++] = w;
}

static void drop_pending(struct content *c)
{
	for (size_t i = 0; i < c->n_pending; i++)
		free(c->pending[i].data);
	c->n_pending = 0;
}

static void content_free(struct content *c)
{
	drop_pending(c);
	free(c->pending);
	free(c->seen.data);
	free(c->durable.data);
}

void medium_free(struct medium *m)
{
	content_free(&m->now);
	content_free(&m->left);
}

static void copy_content(struct content *to, const struct content *from)
{
	to->exists = from->exists;
	copy(&to->seen, &from->seen);
	copy(&to->durable, &from->durable);
	drop_pending(to);
	for (size_t i = 0; i < from->n_pending; i++)
		add_pending(to, from->pending[i].offset, from->pending[i].data, from->pending[i].len);
}

void medium_write(struct medium *m, size_t offset, const void *data, size_t len)
{
	put(&m->now.seen, offset, data, len);
	add_pending(&m->now, offset, data, len);
}

void medium_truncate(struct medium *m, size_t size)
{
	struct content *c = &m->now;
	resize(&c->seen, size);
	if (c->durable.len > size)
		resize(&c->durable, size);
	for (size_t i = 0; i < c->n_pending; i++) {
		struct medium_write *w = &c->pending[i];
		size_t room = w->offset < size ? size - w->offset : 0;
		w->len = w->len < room ? w->len : room;
	}
}

void medium_remove(struct medium *m)
{
	m->now.exists = false;
	m->now.seen.len = m->now.durable.len = 0;
	drop_pending(&m->now);
}

void medium_sync(struct medium *m)
{
	struct content *c = &m->now;
	for (size_t i = 0; i < c->n_pending; i++)
		if (c->pending[i].len > 0)
			put(&c->durable, c->pending[i].offset, c->pending[i].data, c->pending[i].len);
	drop_pending(c);
}

/* Some of what is pending reaches the disk, of some of it the first sectors. */
static void write_some(struct content *c, struct sim *s)
{
	for (size_t i = 0; i < c->n_pending; i++) {
		struct medium_write w = c->pending[i];
		if (sim_chance(s, 50))
			w.len = sim_dice(s, w.len / SECTOR + 1) * SECTOR;
		if (w.len > 0)
			put(&c->durable, w.offset, w.data, w.len);
	}
	drop_pending(c);
}

void medium_fail_sync(struct medium *m, struct sim *s)
{
	write_some(&m->now, s);
}

void medium_forget(struct medium *m)
{
	copy_content(&m->left, &m->now);
	drop_pending(&m->left);
	copy(&m->left.seen, &m->left.durable);
}

void medium_crash(struct medium *m, struct sim *s, bool power)
{
	copy_content(&m->left, &m->now);
	if (!power)
		return;
	write_some(&m->left, s);
	copy(&m->left.seen, &m->left.durable);
}

void medium_restore(struct medium *m)
{
	copy_content(&m->now, &m->left);
}
