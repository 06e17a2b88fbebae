#include "common/base/turns.h"

#include <stdint.h>
#include <string.h>

void turns_init(struct turns *t)
{
	*t = (struct turns){ 0 };
	t->end = &t->first;
}

/* FNV-1a. Names are the cluster's own: nobody can choose many that collide. */
static unsigned bucket_of(const char *whose)
{
	uint32_t hash = 2166136261u;
	for (const char *p = whose; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 16777619u;
	return hash % TURNS_BUCKETS;
}

/* Where the line of this owner is linked to, or would be. */
static struct turns_entry **find_line(struct turns *t, const char *whose)
{
	struct turns_entry **place = &t->buckets[bucket_of(whose)];
	while (*place && strcmp((*place)->whose, whose) != 0)
		place = &(*place)->collision;
	return place;
}

static void append_line(struct turns *t, struct turns_entry *line)
{
	line->next_line = NULL;
	*t->end = line;
	t->end = &line->next_line;
}

void turns_put(struct turns *t, struct turns_entry *e)
{
	struct turns_entry **place = find_line(t, e->whose);
	struct turns_entry *line = *place;
	e->next = NULL;
	t->n++;
	if (line) {
		line->last->next = e;
		line->last = e;
		line->n++;
		return;
	}
	e->last = e;
	e->n = 1;
	e->collision = NULL;
	*place = e;
	append_line(t, e);
}

struct turns_entry *turns_take(struct turns *t)
{
	struct turns_entry *e = t->first;
	if (!e)
		return NULL;
	t->first = e->next_line;
	if (!t->first)
		t->end = &t->first;
	t->n--;
	struct turns_entry **place = find_line(t, e->whose);
	struct turns_entry *rest = e->next;
	if (!rest) {
		*place = e->collision;
		return e;
	}
	rest->last = e->last;
	rest->n = e->n - 1;
	rest->collision = e->collision;
	*place = rest;
	append_line(t, rest);
	return e;
}

size_t turns_waiting(const struct turns *t, const char *whose)
{
	for (const struct turns_entry *line = t->buckets[bucket_of(whose)]; line; line = line->collision) {
		if (strcmp(line->whose, whose) == 0)
			return line->n;
	}
	return 0;
}
