/*
 * Keeps the CA that this process signs with: opens "ca/<name>" of the replicated configuration, opens it again when it
 * changes, and makes it where there is none yet. Several kds-ca that make it at once end up with one: the first Put wins.
 */
#ifndef CA_KEEPER_H
#define CA_KEEPER_H

#include "common/daemon/follower.h"
#include "services/ca/authority.h"

struct keeper;

struct keeper_options {
	const char *authority;       /* "default" */
	const char *common_name;     /* of a CA that has to be made */
	const char *requester;       /* this daemon's name, for the record of a CA that it makes */
	const struct seal *seal;     /* must outlive the keeper, like the channel */
	struct rpc_channel *channel; /* to kds-serial */
};

/* Does nothing before keeper_start(). Strings are copied. */
enum status_code keeper_new(const struct keeper_options *options, struct status *st,
			    struct keeper **ret_keeper) MUST_CHECK;
/* Starts its thread, which asks `follower` (must outlive the thread). */
enum status_code keeper_start(struct keeper *k, struct follower *follower, struct status *st) MUST_CHECK;
/* Ends the thread; waits for a call under way, a few seconds at most. */
void keeper_stop(struct keeper *k);
void keeper_free(struct keeper *k);

/* For the follower's callbacks: an object changed; all is known. Neither blocks. */
void keeper_changed(struct keeper *k, const Kds__V1__Object *object);
void keeper_synced(struct keeper *k);

/* The CA to sign with, a reference for the caller. UNAVAILABLE: not known yet; FAILED_PRECONDITION and others: what is
 * wrong with it and what to do. Any thread. */
enum status_code keeper_authority(struct keeper *k, struct status *st, struct authority **ret_authority) MUST_CHECK;

/* Every CA of the configuration, for Ca.Bundle. Runs with the keeper locked: `visit` must not call it. Any thread. */
typedef void (*keeper_visit_fn)(void *arg, const char *name, struct slice certificate, bool signing);
void keeper_visit(struct keeper *k, keeper_visit_fn visit, void *arg);

#endif
