/*
 * A replica for tests: Config.Watch, Put and Delete over a handful of objects in memory, served over TLS with the role
 * serial. Watch waits for the next change; Put and Delete compare revisions. Every failure ends the test.
 */
#ifndef TESTS_REPLICA_H
#define TESTS_REPLICA_H

#include <stdbool.h>

#include "common/base/buffer.h"
#include "config.pb-c.h"
#include "tests/support/pki.h"

struct replica;

/* Listens on loopback, as kds://cluster.example.com/role/serial/serial1. */
struct replica *replica_new(struct pki *pki);
void replica_free(struct replica *r);

/* "127.0.0.1:4711". Borrowed. */
const char *replica_address(const struct replica *r);

/* Its clients lose it; its objects stay. */
void replica_stop(struct replica *r);
/* Again, at the same address. */
void replica_listen(struct replica *r);

/* Puts a copy at the next revision. `object->deleted`: a deletion. */
void replica_put(struct replica *r, Kds__V1__Object *object);
void replica_put_setting(struct replica *r, const char *key, const char *value);
void replica_put_min_serial(struct replica *r, uint64_t value);
void replica_put_node(struct replica *r, const char *name);
void replica_put_ca(struct replica *r, struct slice der);
void replica_delete(struct replica *r, const char *key);
/* Forgets an object and that it ever was, as compaction does with deleted ones. While stopped. */
void replica_compact(struct replica *r, const char *key);
/* Forgets the newest change, as a replica that lags behind. While stopped. */
void replica_take_back(struct replica *r);

/* How many objects have keys with this prefix and are not deleted. */
size_t replica_count(struct replica *r, const char *prefix);
/* Calls of Put that were refused because another was first. */
unsigned replica_lost_races(struct replica *r);

#endif
