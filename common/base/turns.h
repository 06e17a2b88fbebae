/*
 * A queue that takes turns between those whose entries wait in it.
 *
 * In one line for all, whoever sends 4,000 requests at once makes everyone else wait for 4,000. Here each owner has a
 * line of his own, and the lines take turns, an entry each: who has one entry waits for one of each of the others.
 *
 * Entries bring the memory: nothing is allocated, so nothing can fail. Not thread-safe: its user has a lock. Zeroed but
 * for turns_init() it is empty. Putting and taking cost the same however many wait.
 */
#ifndef BASE_TURNS_H
#define BASE_TURNS_H

#include <stddef.h>

/* One that waits; kept by its owner until it is taken. */
struct turns_entry {
	const char *whose;             /* an identity's label; borrowed until it is taken. "" is an owner too */
	/* The rest is the module's. */
	struct turns_entry *next;      /* the owner's next one */
	struct turns_entry *last;      /* these four are set in the first of each owner's */
	struct turns_entry *next_line; /* whose turn is next */
	struct turns_entry *collision;
	size_t n;                      /* of this owner's that wait */
};

#define TURNS_BUCKETS 64

struct turns {
	struct turns_entry *first, **end;            /* lines, in the order of their turns */
	struct turns_entry *buckets[TURNS_BUCKETS];  /* lines, by their owner's hash */
	size_t n;                                    /* entries that wait, in all */
};

void turns_init(struct turns *t);
/* Behind those of the same owner. */
void turns_put(struct turns *t, struct turns_entry *e);
/* The next one; NULL: none waits. */
struct turns_entry *turns_take(struct turns *t);
/* How many of this owner's wait. */
size_t turns_waiting(const struct turns *t, const char *whose);

#endif
