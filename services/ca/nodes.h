/*
 * Looks nodes up in the replicated configuration. What the follower knows may be a moment old: a replica that does not
 * lead learns of a commit with the leader's next message. That is good enough for a node that renews; an administrator
 * who has just added a node or a group must not be told that there is none. Such a query asks for the newest revision
 * first, one question for all that come at the same time.
 */
#ifndef CA_NODES_H
#define CA_NODES_H

#include "common/daemon/follower.h"

struct nodes;

/* One question; kept by the caller until `done`. */
struct nodes_query {
	struct nodes_query *next;  /* these two are the module's */
	struct nodes *nodes;
	const char *name;          /* borrowed */
	bool newest;               /* as of now, not of a moment ago */
	unsigned timeout_ms;       /* for calls to kds-serial */
	/*
	 * Once, perhaps from within nodes_find(), or on a thread of the channel's; must not block. `object` is a Node, the
	 * callee's to free (kds__v1__object__free_unpacked), NULL unless st->code is OK. NOT_FOUND: there is none.
	 */
	void (*done)(struct nodes_query *q, const struct status *st, Kds__V1__Object *object);
};

/* Both must outlive it. */
enum status_code nodes_new(struct rpc_channel *channel, struct follower *follower, struct status *st,
			   struct nodes **ret_nodes) MUST_CHECK;
/* Waits for calls under way. After the last nodes_find(). NULL is allowed. */
void nodes_free(struct nodes *n);

void nodes_find(struct nodes *n, struct nodes_query *q);

#endif
