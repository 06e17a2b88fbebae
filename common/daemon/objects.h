/*
 * Replicated objects by key, each in its packed form. For the follower; one thread at a time.
 */
#ifndef DAEMON_OBJECTS_H
#define DAEMON_OBJECTS_H

#include "common/base/buffer.h"
#include "config.pb-c.h"

struct objects;

struct objects *objects_new(void) MUST_CHECK; /* NULL: no memory */
void objects_free(struct objects *o);

/* Keeps a copy of `object` under its key. *ret_changed: it was not there, or different. RESOURCE_EXHAUSTED. */
enum status_code objects_put(struct objects *o, const Kds__V1__Object *object, struct status *st,
			     bool *ret_changed) MUST_CHECK;
/* False: there was none. */
bool objects_remove(struct objects *o, const char *key);

/* To be freed with kds__v1__object__free_unpacked(). NULL: there is none, or no memory. */
Kds__V1__Object *objects_get(const struct objects *o, const char *key) MUST_CHECK;

typedef void (*objects_each_fn)(void *arg, const char *key, struct slice packed);
/* By key. `each` must not change the objects. */
void objects_walk(const struct objects *o, objects_each_fn each, void *arg);

/* The whole state is to come again: what objects_put() does not confirm from now on goes with objects_sweep(). */
void objects_suspect_all(struct objects *o);
/* As objects_walk(), of what was not confirmed. */
void objects_walk_unconfirmed(const struct objects *o, objects_each_fn each, void *arg);
void objects_sweep(struct objects *o);

#endif
