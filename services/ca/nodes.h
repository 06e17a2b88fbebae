/*
 * Looks nodes up in the replicated configuration. What the follower knows may be a moment old (a replica that does not
 * lead learns of a commit with the leader's next message), so an answer says as of which revision it holds.
 */
#ifndef CA_NODES_H
#define CA_NODES_H

#include "common/daemon/follower.h"

struct nodes;

/* One question; kept by the caller until `done`. */
struct nodes_query {
	struct nodes *nodes;  /* the module's */
	const char *name;     /* borrowed */
	unsigned timeout_ms;  /* for a call to kds-serial */
	/*
	 * Once, perhaps from within the call, or on a thread of the channel's; must not block. `object` is a Node, the
	 * callee's to free (kds__v1__object__free_unpacked), NULL unless st->code is OK. It held at `as_of` (a revision;
	 * 0: when the leader was asked, which is not before the question). NOT_FOUND: there was none then.
	 */
	void (*done)(struct nodes_query *q, const struct status *st, Kds__V1__Object *object, uint64_t as_of);
};

/* Both must outlive it. */
enum status_code nodes_new(struct rpc_channel *channel, struct follower *follower, struct status *st,
			   struct nodes **ret_nodes) MUST_CHECK;
/* Waits for calls under way. After the last question. NULL is allowed. */
void nodes_free(struct nodes *n);

/* From what the follower knows; a node that is not there may be newer than that, so the leader is asked for it. */
void nodes_find(struct nodes *n, struct nodes_query *q);
/* From the leader. */
void nodes_ask(struct nodes *n, struct nodes_query *q);

#endif
