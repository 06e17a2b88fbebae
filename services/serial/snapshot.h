/*
 * What the two ends of a snapshot's way share. The state goes to a replica whose log ends before the leader's begins as
 * a chain of parts (SnapshotPart in state.proto): part 0 says of what moment it is, the others carry the state's rows
 * (common/backup/rows.h), and each has the SHA-256 of the hash before it and its own body, so that a part that is lost,
 * doubled, changed or of another chain cannot pass.
 */
#ifndef SERIAL_SNAPSHOT_H
#define SERIAL_SNAPSHOT_H

#include "services/serial/store.h"

#define SNAPSHOT_VERSION 1
#define SNAPSHOT_PART_BYTES ((size_t)64 << 10) /* about a millisecond of reading in a turn */
#define SNAPSHOT_HASH_SIZE 32

/* `hash` becomes that of the part with this body; the first one's is computed from zeroes. False: no memory. */
bool snapshot_chain(uint8_t hash[SNAPSHOT_HASH_SIZE], struct slice body) MUST_CHECK;

#endif
