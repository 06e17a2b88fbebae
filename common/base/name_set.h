/* A set of names: asked often, changed seldom, of any size. One thread at a time. */
#ifndef BASE_NAME_SET_H
#define BASE_NAME_SET_H

#include <stdbool.h>
#include <stddef.h>

struct name_entry;

/* Zero-initialised is empty and valid. */
struct name_set {
	struct name_entry **buckets; /* n_buckets, a power of two or 0 */
	size_t n_buckets;
	size_t n;
};

/* A copy; nothing happens where it is there. False: no memory. */
bool name_set_add(struct name_set *s, const char *name) __attribute__((warn_unused_result));
void name_set_remove(struct name_set *s, const char *name);
bool name_set_has(const struct name_set *s, const char *name);
void name_set_free(struct name_set *s);

#endif
