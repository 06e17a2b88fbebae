#include "common/base/name_set.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BUCKETS 64

struct name_entry {
	struct name_entry *next;
	char name[];
};

/* FNV-1a: the names are an administrator's, nobody chooses them to collide. */
static size_t bucket_of(const struct name_set *s, const char *name)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	for (const char *p = name; *p; p++)
		hash = (hash ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
	return (size_t)(hash ^ hash >> 32) & (s->n_buckets - 1);
}

/* The link that points to the entry, or to the end of its bucket. */
static struct name_entry **find(const struct name_set *s, const char *name)
{
	struct name_entry **link = &s->buckets[bucket_of(s, name)];
	while (*link && strcmp((*link)->name, name) != 0)
		link = &(*link)->next;
	return link;
}

static bool grow(struct name_set *s)
{
	struct name_set larger = { .n_buckets = s->n_buckets ? s->n_buckets * 2 : FIRST_BUCKETS, .n = s->n };
	larger.buckets = calloc(larger.n_buckets, sizeof *larger.buckets);
	if (!larger.buckets)
		return false;
	for (size_t i = 0; i < s->n_buckets; i++) {
		for (struct name_entry *e = s->buckets[i], *next; e; e = next) {
			next = e->next;
			struct name_entry **head = &larger.buckets[bucket_of(&larger, e->name)];
			e->next = *head;
			*head = e;
		}
	}
	free(s->buckets);
	*s = larger;
	return true;
}

bool name_set_add(struct name_set *s, const char *name)
{
	if (name_set_has(s, name))
		return true;
	if (s->n == s->n_buckets && !grow(s))
		return false;
	size_t size = strlen(name) + 1;
	struct name_entry *e = malloc(sizeof *e + size);
	if (!e)
		return false;
	e->next = NULL;
	memcpy(e->name, name, size);
	*find(s, name) = e;
	s->n++;
	return true;
}

void name_set_remove(struct name_set *s, const char *name)
{
	if (!name_set_has(s, name))
		return;
	struct name_entry **link = find(s, name), *gone = *link;
	*link = gone->next;
	free(gone);
	s->n--;
}

bool name_set_has(const struct name_set *s, const char *name)
{
	return s->n > 0 && *find(s, name) != NULL;
}

void name_set_free(struct name_set *s)
{
	for (size_t i = 0; i < s->n_buckets; i++) {
		for (struct name_entry *e = s->buckets[i], *next; e; e = next) {
			next = e->next;
			free(e);
		}
	}
	free(s->buckets);
	*s = (struct name_set){ 0 };
}
