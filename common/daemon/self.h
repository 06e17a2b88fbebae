/* Is this process who its configuration says? Nobody would talk to one whose certificate says something else. */
#ifndef DAEMON_SELF_H
#define DAEMON_SELF_H

#include "common/daemon/options.h"
#include "common/net/trust.h"

/*
 * Verifies the certificate file as a peer will, and compares its role and name with the program's and the option
 * `name`. FAILED_PRECONDITION says what differs and what to do. A program of no role (a test's) may have any. Blocks.
 */
enum status_code self_check(const struct daemon_options *o, struct trust *trust, struct status *st) MUST_CHECK;

#endif
