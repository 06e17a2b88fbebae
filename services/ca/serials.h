/*
 * Serial numbers to sign with, from blocks that a quorum has committed to this CA. Each is given out once; what is not
 * used is lost, and gaps are allowed. The next block is asked for when half of one is used, so that nobody waits for it;
 * those who have to wait all the same take turns by identity (common/base/turns.h).
 * Thread-safe; nothing here blocks but serials_stop().
 */
#ifndef CA_SERIALS_H
#define CA_SERIALS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/turns.h"
#include "common/rpc/channel.h"

struct serials;

/* Somebody who waits for a serial; kept by the caller until `done`. */
struct serials_waiter {
	struct turns_entry turn;     /* turn.whose: who asked for a certificate */
	struct serials_waiter *next; /* these two are the module's */
	uint64_t serial;
	/* Runs once, on a thread of the channel's; must not block. `serial` counts when st->code is OK; else no block was to
	 * be had (failure.h). May ask again. */
	void (*done)(struct serials_waiter *w, const struct status *st, uint64_t serial);
};

/* Asks for the first block at once. `channel` must outlive it. */
enum status_code serials_start(struct rpc_channel *channel, unsigned block_size, struct status *st,
			       struct serials **ret_serials) MUST_CHECK;
/* Waits for a call under way, about a second at most. After the last serials_take(). Frees. NULL is allowed. */
void serials_stop(struct serials *s);

/* True: *ret_serial is the caller's. False: none at hand; w->done() comes, never from within this call. */
bool serials_take(struct serials *s, struct serials_waiter *w, uint64_t *ret_serial) MUST_CHECK;

/* Those below are not given out any more. */
void serials_set_min(struct serials *s, uint64_t min_serial);
/* The replicators take `serial` from no block of this CA any more: forgets what is at hand, so that the next ones come
 * from a new block. Blocks that were fetched since then stay: many may be refused at once. */
void serials_drop(struct serials *s, uint64_t serial);

#endif
