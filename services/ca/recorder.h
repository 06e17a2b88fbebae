/*
 * Puts what was signed on record with kds-serial: what comes in while calls are under way goes out together, and those
 * who asked take turns by identity (common/base/turns.h). How long a call may take does not depend on who is in it.
 * Thread-safe; nothing here blocks but recorder_free().
 */
#ifndef CA_RECORDER_H
#define CA_RECORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/turns.h"
#include "common/rpc/channel.h"
#include "serial.pb-c.h"

struct recorder;

/* One record; kept by the caller until `done`. */
struct recorder_entry {
	struct turns_entry turn;                /* turn.whose: who asked for it */
	Kds__V1__IssuedCertificate certificate; /* what it points to lives until done() */
	uint64_t give_up_ms;                    /* monotonic: done() comes about two seconds after that at the latest */
	/* Set before done(): */
	uint64_t revision;                      /* of the configuration when it was committed */
	Kds__V1__RecordRefusal refusal;         /* why, when the verdict is ABORTED; NONE: kds-serial is of a version that does
						   not say */
	const Kds__V1__IssuedCertificate *known; /* on REPEATED; borrowed until done() returns; may be NULL */
	/*
	 * Once, on a thread of the channel's, or of whoever submits another; must not block. OK: a quorum holds it. ABORTED: refused, see `refusal`.
	 * UNAVAILABLE: unknown; the certificate must not leave. Others: say so to the requester.
	 */
	void (*done)(struct recorder_entry *e, const struct status *verdict);
};

#define RECORDER_CALL_MS 1500 /* for a call to kds-serial */

/* `channel` must outlive it. */
enum status_code recorder_new(struct rpc_channel *channel, struct status *st, struct recorder **ret_recorder) MUST_CHECK;
/* Waits for what is under way, RECORDER_CALL_MS at most. After the last recorder_submit(). NULL is allowed. */
void recorder_free(struct recorder *r);

/* From now on nothing is tried a second time: the process is stopping. */
void recorder_hurry(struct recorder *r);

void recorder_submit(struct recorder *r, struct recorder_entry *e);

/* Could the newest call record anything? Its failure otherwise. That a replica sheds load is none. */
enum status_code recorder_health(struct recorder *r, struct status *st) MUST_CHECK;

#endif
