/* Digests (FNV-1a, 64 bits) of bytes and of the state machine's tables. */
#ifndef SIMULATION_DIGEST_H
#define SIMULATION_DIGEST_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIGEST_START 14695981039346656037u

uint64_t digest_bytes(uint64_t digest, const void *data, size_t len);
/*
 * Of all that the tables say, outside a transaction. How request ids are spread over rows is left out: a row holds
 * what one transaction added, and replicas commit at different times. False: SQLite's words say why.
 */
bool digest_state(sqlite3 *db, uint64_t *ret_digest);

#endif
