/*
 * Is this replica's state still what it must be? Two watches, on the engine's thread, a little in each turn:
 *   - its tables are read again, slowly, and compared with the running digest (state_scan_digest()): the first time
 *     within minutes of the start, then once an hour. A difference means that the disk does not hold what was written;
 *   - its digest is compared with what the others tell of theirs (agreement.h).
 * A replica that is found wrong stops for good: the process ends with status 4 and does not start again on this data
 * directory (store_condemn()).
 */
#ifndef SERIAL_INTEGRITY_H
#define SERIAL_INTEGRITY_H

#include "services/serial/replica.h"
#include "services/serial/view.h"

struct integrity;

struct integrity_options {
	struct store *store; /* all of them outlive it */
	struct state *state;
	struct replica *replica;
	struct view *view;
};

/* NULL: no memory. */
struct integrity *integrity_new(const struct integrity_options *options) MUST_CHECK;
void integrity_free(struct integrity *i);
/* Behind replica_finish(). Returns when it is next due. May end the process. */
uint64_t integrity_turn(struct integrity *i, uint64_t now_ms);
/* Unix ms when the tables were last found right; 0: not yet. */
uint64_t integrity_scanned_ms(const struct integrity *i);

#endif
