/*
 * Puts what was signed on record with kds-serial: what comes in while calls are under way goes out together.
 * Thread-safe; nothing here blocks but recorder_free().
 */
#ifndef CA_RECORDER_H
#define CA_RECORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/rpc/channel.h"
#include "serial.pb-c.h"

struct recorder;

/* One record; kept by the caller until `done`. */
struct recorder_entry {
	struct recorder_entry *next;            /* the module's */
	Kds__V1__IssuedCertificate certificate; /* what it points to lives until done() */
	uint64_t revision;                      /* of the configuration when it was committed; set before done() */
	uint64_t give_up_ms;                    /* monotonic: done() comes about then at the latest */
	/*
	 * Once, on a thread of the channel's; must not block. OK: a quorum holds it. ABORTED: this serial is refused, try
	 * with another. UNAVAILABLE: unknown; the certificate must not leave. Others: say so to the requester.
	 */
	void (*done)(struct recorder_entry *e, const struct status *verdict);
};

/* `channel` must outlive it. */
enum status_code recorder_new(struct rpc_channel *channel, struct status *st, struct recorder **ret_recorder) MUST_CHECK;
/* Waits for what is under way, two seconds at most. After the last recorder_submit(). NULL is allowed. */
void recorder_free(struct recorder *r);

/* From now on nothing is tried a second time: the process is stopping. */
void recorder_hurry(struct recorder *r);

void recorder_submit(struct recorder *r, struct recorder_entry *e);

/* False while the newest call found no quorum. */
bool recorder_healthy(struct recorder *r);

#endif
