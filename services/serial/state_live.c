/*
 * How many certificates of one subject and profile are live. A list of them for each, in memory alone: what has expired, or
 * fell below min_serial, stays in its list until somebody asks about the limit and is then struck out, so that neither time
 * nor min_serial costs anything here, and what is counted is what the tables say at that moment, on every replica.
 *
 * 16 to 32 bytes a live certificate and about 60 a subject. A start reads all records for it: about a second a million.
 */
#include "services/serial/state_internal.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS_MIN 1024

struct certificate {
	int64_t not_after;
	uint64_t serial;
};

struct subject {
	struct subject *next; /* in the slot */
	uint32_t hash;
	uint32_t n, cap;
	char *profile; /* of text that follows the list, as `name` does */
	char *name;
	struct certificate list[];
};

struct live {
	struct subject **slots;
	size_t n_slots, n_subjects;
};

/* FNV-1a: subjects are the names of nodes, which administrators choose. */
static uint32_t hash_text(uint32_t hash, const char *text)
{
	for (; *text; text++)
		hash = (hash ^ (uint8_t)*text) * 16777619u;
	return hash;
}

static uint32_t hash_of(const char *subject, const char *profile)
{
	return hash_text(hash_text(2166136261u, profile), subject);
}

static struct subject **find(const struct live *l, const char *name, const char *profile)
{
	uint32_t hash = hash_of(name, profile);
	struct subject **at = &l->slots[hash % l->n_slots];
	while (*at && ((*at)->hash != hash || strcmp((*at)->name, name) != 0 || strcmp((*at)->profile, profile) != 0))
		at = &(*at)->next;
	return at;
}

static bool is_live(const struct state *s, const struct certificate *c)
{
	return c->not_after >= (int64_t)(s->numbers.time_ms / 1000) && c->serial >= s->numbers.min_serial;
}

static void strike_out(const struct state *s, struct subject *subject)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < subject->n; i++)
		if (is_live(s, &subject->list[i]))
			subject->list[n++] = subject->list[i];
	subject->n = n;
}

/* A copy with room for `cap` certificates; NULL: no memory. */
static struct subject *resized(const struct subject *from, uint32_t cap)
{
	size_t profile = strlen(from->profile) + 1, name = strlen(from->name) + 1, list = cap * sizeof *from->list;
	struct subject *to = malloc(sizeof *to + list + profile + name);
	if (!to)
		return NULL;
	*to = *from;
	to->cap = cap;
	to->profile = (char *)to + sizeof *to + list;
	to->name = to->profile + profile;
	memcpy(to->profile, from->profile, profile);
	memcpy(to->name, from->name, name);
	if (from->n > 0)
		memcpy(to->list, from->list, from->n * sizeof *from->list);
	return to;
}

/* Subjects that have nothing live any more go, and the rest gets twice the slots it needs. False: no memory. */
static bool rehash(const struct state *s, struct live *l)
{
	struct subject *all = NULL;
	size_t n = 0;
	for (size_t i = 0; i < l->n_slots; i++) {
		while (l->slots[i]) {
			struct subject *subject = l->slots[i];
			l->slots[i] = subject->next;
			strike_out(s, subject);
			if (subject->n == 0) {
				free(subject);
				continue;
			}
			subject->next = all;
			all = subject;
			n++;
		}
	}
	size_t n_slots = n * 2 > SLOTS_MIN ? n * 2 : SLOTS_MIN;
	struct subject **slots = n_slots == l->n_slots ? l->slots : calloc(n_slots, sizeof *slots);
	bool ok = slots != NULL;
	if (ok && slots != l->slots) {
		free(l->slots);
		l->slots = slots;
		l->n_slots = n_slots;
	}
	l->n_subjects = n;
	while (all) {
		struct subject *next = all->next;
		struct subject **at = &l->slots[all->hash % l->n_slots];
		all->next = *at;
		*at = all;
		all = next;
	}
	return ok;
}

/* The subject with room for one more; NULL: no memory. */
static struct subject *make_room(struct state *s, const char *name, const char *profile)
{
	struct live *l = s->live;
	if (l->n_subjects >= l->n_slots && !rehash(s, l))
		return NULL;
	struct subject **at = find(l, name, profile);
	struct subject *subject = *at, *grown;
	if (subject && subject->n < subject->cap)
		return subject;
	if (subject)
		strike_out(s, subject);
	/* With a quarter free, so that the next strike is far. */
	if (subject && subject->n < subject->cap - subject->cap / 4)
		return subject;
	if (subject) {
		grown = resized(subject, subject->cap * 2);
	} else {
		struct subject fresh = { .hash = hash_of(name, profile), .profile = (char *)profile, .name = (char *)name };
		grown = resized(&fresh, 1);
	}
	if (!grown)
		return NULL;
	l->n_subjects += subject == NULL;
	*at = grown;
	free(subject);
	return grown;
}

static enum status_code add(struct state *s, const char *name, const char *profile, struct certificate certificate,
			    struct status *st)
{
	struct subject *subject = make_room(s, name, profile);
	if (!subject)
		return status_set(st, STATUS_INTERNAL, "state: out of memory for the live certificates");
	subject->list[subject->n++] = certificate;
	return STATUS_OK;
}

static bool is_counted(const char *profile)
{
	return strcmp(profile, "ca") != 0;
}

enum status_code live_add(struct state *s, const Kds__V1__IssuedCertificate *c, struct status *st)
{
	if (!is_counted(c->profile))
		return STATUS_OK;
	return add(s, c->subject, c->profile, (struct certificate){ c->not_after, c->serial }, st);
}

bool live_reached(struct state *s, const Kds__V1__IssuedCertificate *c, uint64_t limit)
{
	if (!is_counted(c->profile))
		return false;
	struct subject *subject = *find(s->live, c->subject, c->profile);
	if (subject && subject->n >= limit)
		strike_out(s, subject);
	return subject && subject->n >= limit;
}

enum status_code live_load(struct state *s, struct status *st)
{
	struct live *l = s->live = calloc(1, sizeof *l);
	if (l) {
		l->n_slots = SLOTS_MIN;
		l->slots = calloc(l->n_slots, sizeof *l->slots);
	}
	if (!l || !l->slots)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "open the state: out of memory");
	sqlite3_stmt *sql = s->sql[SQL_ISSUED_LIVE];
	state_bind_uint(sql, 1, s->numbers.min_serial);
	sqlite3_bind_int64(sql, 2, (int64_t)(s->numbers.time_ms / 1000));
	enum status_code rc = STATUS_OK;
	int rv = SQLITE_DONE;
	while (rc == STATUS_OK && (rv = sqlite3_step(sql)) == SQLITE_ROW) {
		const char *subject = (const char *)sqlite3_column_text(sql, 1);
		const char *profile = (const char *)sqlite3_column_text(sql, 3);
		struct certificate c = { sqlite3_column_int64(sql, 2), (uint64_t)sqlite3_column_int64(sql, 0) };
		if (subject && profile)
			rc = add(s, subject, profile, c, st);
		else
			rc = status_set(st, STATUS_DATA_LOSS, "state: a record is damaged: restore this replica");
	}
	if (rc == STATUS_OK && rv != SQLITE_DONE)
		rc = state_sql_failed(s, st, "count the live certificates");
	sqlite3_reset(sql);
	return rc;
}

void live_free(struct live *l)
{
	if (!l)
		return;
	for (size_t i = 0; l->slots && i < l->n_slots; i++) {
		while (l->slots[i]) {
			struct subject *next = l->slots[i]->next;
			free(l->slots[i]);
			l->slots[i] = next;
		}
	}
	free(l->slots);
	free(l);
}
