/*
 * Levels: which commands the replicas apply, so that replicas of different versions never differ in what they do.
 *
 * A command's version is the lowest level at which its operation, and each of its fields, is known and means what it
 * means. Every replica says the highest level it knows (ReplicaStatus.level_known). When all of them know a higher one
 * than the state has, the leader proposes RaiseLevel; from then on commands of that level may be proposed. A replica
 * that does not know it refuses to start, is not listened to, and stops when it hears of it, before it applies any.
 *
 * So a new version is installed one replica after the other, in any order, and can be taken back until the last of them
 * has it. A change of what an existing command does is a new level, too: it asks state_level().
 */
#ifndef SERIAL_LEVEL_H
#define SERIAL_LEVEL_H

#include <stdint.h>

#include "common/base/status.h"

#define LEVEL_FIRST 1
/*
 * Commands say who asks as identity_label() does ("ca/ca1"), and are refused when that service was removed; records say
 * who asked the CA, with which certificate and under which request id, and answers say by code why one is refused; there
 * are bounds on live certificates; what is below min_serial is closed; a CA comes with its record and goes retired.
 */
#define LEVEL_ASKED 2
#define LEVEL_NEWEST LEVEL_ASKED

/* The highest that this version applies. */
unsigned level_known(void);

/* Can this version go on from a state of `level`? FAILED_PRECONDITION: what to install. */
enum status_code level_check_state(uint64_t level, struct status *st) MUST_CHECK;

#endif
