/*
 * Keeps the CA that this process signs with: opens "ca/<name>" of the replicated configuration, and opens it again when it
 * changes. Where there is none it says what to do; an administrator has one made (maker.h), as another CA in the place of
 * one that is gone would void every certificate.
 */
#ifndef CA_KEEPER_H
#define CA_KEEPER_H

#include "common/daemon/follower.h"
#include "services/ca/authority.h"

struct keeper;

/* `authority`: its name, "default"; copied. `seal` must outlive the keeper. Does nothing before keeper_start(). */
enum status_code keeper_new(const char *authority, const struct seal *seal, struct status *st,
			    struct keeper **ret_keeper) MUST_CHECK;
/* Starts its thread, which asks `follower` (must outlive the thread). */
enum status_code keeper_start(struct keeper *k, struct follower *follower, struct status *st) MUST_CHECK;
/* Ends the thread, and whoever waits in keeper_wait(). */
void keeper_stop(struct keeper *k);
void keeper_free(struct keeper *k);

/* For the follower's callbacks: an object changed; all is known. Neither blocks. */
void keeper_changed(struct keeper *k, const Kds__V1__Object *object);
void keeper_synced(struct keeper *k);

/* The CA to sign with, a reference for the caller. UNAVAILABLE: not known yet; FAILED_PRECONDITION and others: what is
 * wrong with it and what to do. Any thread. */
enum status_code keeper_authority(struct keeper *k, struct status *st, struct authority **ret_authority) MUST_CHECK;

/* Waits until CA `name` is known here, and open if it is the one to sign with; until `until_ms` (monotonic) at most.
 * Blocks. Any thread. */
void keeper_wait(struct keeper *k, const char *name, uint64_t until_ms);

/* Every CA of the configuration, for Ca.Bundle. Runs with the keeper locked: `visit` must not call it. Any thread. */
typedef void (*keeper_visit_fn)(void *arg, const char *name, struct slice certificate, bool signing);
void keeper_visit(struct keeper *k, keeper_visit_fn visit, void *arg);

#endif
