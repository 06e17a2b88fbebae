/*
 * Keeps the replicated masterKeys as masterkeys_plan() wants them: publishes the next, deletes those whose life is over.
 * Every distributor does; compare-and-set lets one win. A thread of its own, which looks four times a second.
 */
#ifndef KEYDIST_ROTATION_H
#define KEYDIST_ROTATION_H

#include "common/daemon/follower.h"
#include "services/keydist/masterkeys.h"

struct rotation;

struct rotation_options {
	struct masterkeys *keys;
	struct follower *follower;   /* only in step with a replica is anything changed */
	struct rpc_channel *channel; /* to kds-serial; outlives the rotation */
	const struct seal *seal;
};

enum status_code rotation_start(const struct rotation_options *options, struct status *st,
				struct rotation **ret_rotation) MUST_CHECK;
/* At once, also while a replica has not answered. Frees. NULL is allowed. */
void rotation_stop(struct rotation *r);

#endif
