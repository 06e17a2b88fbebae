/*
 * kds-serial --recover: a majority of the voters is lost for good, and what one survivor has becomes the beginning of a new
 * cluster of one replica, which grows again by `kds-cli cluster add`.
 *
 * It refuses while the others could go on without it: when a majority of the voters is there, this one counted, or one
 * of them knows a leader; and when another survivor has more. What this replica has is then applied to its end (what
 * the majority has answered with OK and this replica has is among it), saved as a backup in data-dir, and restored in its
 * own place (restore.h): serials are skipped as some may have been handed out that it never heard of, and the log
 * begins with another genesis, so that those who come back later are refused.
 */
#ifndef SERIAL_RECOVER_H
#define SERIAL_RECOVER_H

#include <argp.h>

#include "services/serial/config.h"
#include "services/serial/engine.h"

/* The command line's part: --recover and what belongs to it. Zeroed before the parser fills it. */
struct recover_arguments {
	bool recover;
	const char *min_serial; /* "keep", "all" or a number; NULL: not given */
	const char *skip;       /* NULL: not given */
	bool confirmed;
};
extern const struct argp recover_argp; /* its input is a struct recover_arguments */

/*
 * Blocks for some seconds, as it listens for the others. INVALID_ARGUMENT: something must be decided or confirmed first;
 * FAILED_PRECONDITION: refused, with the reason; errors of store_open() and restore_begin(). Then nothing was changed.
 * Says on standard output what it does.
 */
enum status_code recover_run(const struct recover_arguments *arguments, const struct engine_options *options,
			     const char *name, struct status *st) MUST_CHECK;

#endif
