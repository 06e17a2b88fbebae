/* The replicated configuration's objects, for every noun that reads or writes some. */
#ifndef CLI_OBJECTS_H
#define CLI_OBJECTS_H

#include <jansson.h>

#include "clients/cli/cli.h"
#include "config.pb-c.h"

/* Calls `each` for every object under a prefix, by key, over as many answers as it takes. */
typedef enum status_code (*object_each_fn)(void *arg, const Kds__V1__Object *object, struct status *st);
enum status_code objects_each(struct cli *cli, const char *prefix, object_each_fn each, void *arg,
			      struct status *st) MUST_CHECK;
/* Prints them all: a table, whose rows `add_row` adds to the struct table that it gets as its arg, or with --json as
 * ListResponse has them. */
enum status_code objects_print(struct cli *cli, const char *prefix, const char *const *headings, size_t n_columns,
			       object_each_fn add_row, struct status *st) MUST_CHECK;

/* The caller frees each object with kds__v1__object__free_unpacked(). --local, where given, reads one replica's own
 * state. */
enum status_code objects_get(struct cli *cli, const char *key, struct status *st,
			     Kds__V1__Object **ret_object) MUST_CHECK;
/* `expected` NULL: whatever is there now; else the revision that it must have, 0: must not exist. */
enum status_code objects_put(struct cli *cli, Kds__V1__Object *object, const uint64_t *expected, struct status *st,
			     Kds__V1__Object **ret_object) MUST_CHECK;
enum status_code objects_delete(struct cli *cli, const char *key, const uint64_t *expected, struct status *st,
				Kds__V1__Object **ret_object) MUST_CHECK;

/* The key that the object's value gives it, as the state machine derives it (proto/config.proto), into buf; "" without
 * a value. Returns buf. */
#define OBJECT_KEY_SIZE 320
const char *object_key(const Kds__V1__Object *object, char buf[OBJECT_KEY_SIZE]);

/* With --local: says on standard error how old what was read is. NULL is allowed. */
void objects_note_age(const struct cli *cli, const Kds__V1__ReadFrom *from);

/* One line for people: what the object holds. The caller frees; NULL: no memory. */
char *object_describe(const Kds__V1__Object *object) MUST_CHECK;

#endif
