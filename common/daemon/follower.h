/*
 * Follows the replicated configuration: one long poll after the other against kds-serial (Config.Watch), an object
 * cache, and the trust kept in step (cluster CAs, min_serial, removed services, nodes where they are followed).
 * When no replica answers, what is known stays in force.
 */
#ifndef DAEMON_FOLLOWER_H
#define DAEMON_FOLLOWER_H

#include "common/base/settings.h"
#include "common/daemon/daemon.h"
#include "common/rpc/channel.h"
#include "config.pb-c.h"

struct follower;

/* Runs on the follower's own thread, for every object that is new or changed (deleted: object->deleted), in the order of
 * revisions; `object` is borrowed. May block a little. */
typedef void (*follower_change_fn)(void *arg, const Kds__V1__Object *object);
/* Runs after each batch, on the same thread: all is known up to `revision`. Within follower_start() after what the cache
 * held, if anything: then revision is 0. */
typedef void (*follower_synced_fn)(void *arg, uint64_t revision);

struct follower_options {
	struct daemon *daemon;        /* its trust is fed, its connections rechecked */
	struct rpc_channel *channel;  /* to kds-serial; must outlive the follower */
	const char *const *prefixes;  /* besides what the trust needs ("ca/", "serial/", "service/", "cluster") */
	size_t n_prefixes;
	bool nodes;                   /* follows "node/" too, and has the trust refuse those that are no nodes */
	follower_change_fn change;    /* may be NULL */
	follower_synced_fn synced;    /* may be NULL */
	void *arg;
	const char *cache_file;       /* keeps a copy there and begins with it (cache.h); NULL: none */
};

/* Reads the cache file, if any: trust and change() know its objects when this returns. Then starts the thread.
 * Blocks. */
enum status_code follower_start(const struct follower_options *options, struct status *st,
				struct follower **ret_follower) MUST_CHECK;
/* At once, also while no replica answers. NULL is allowed. */
void follower_stop(struct follower *f);

/* True once the whole state was seen from a replica; waits for it at most timeout_ms. */
bool follower_wait_synced(struct follower *f, unsigned timeout_ms);
/* Seen, and the newest poll was answered: what is not known here is not there. Any thread. */
bool follower_in_step(struct follower *f);
/* A copy of one object by key, to be freed with kds__v1__object__free_unpacked(); NULL: there is none. Any thread. */
Kds__V1__Object *follower_get(struct follower *f, const char *key);
uint64_t follower_revision(struct follower *f);

/* For change(): false if the object is no setting, else its value, or the default of one that was deleted, is in `s`.
 * A value that this version does not allow is logged. */
bool follower_take_setting(struct settings *s, const Kds__V1__Object *object);

#endif
