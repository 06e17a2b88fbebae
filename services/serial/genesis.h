/*
 * How every replica's log begins: entry 1 is the membership, entry 2 the command that names the cluster. Each replica
 * derives both from its own configuration file, so they must come out the same everywhere: replicas tell each other the
 * SHA-256 of them (PeerHello.genesis) and talk to nobody with another.
 *
 * The membership holds each replica's id and name. Peer addresses are not part of it: they come from the configuration
 * file and may change. (libraft's "address" of a server is its name here.)
 */
#ifndef SERIAL_GENESIS_H
#define SERIAL_GENESIS_H

#include "services/serial/engine.h"

#define GENESIS_HASH_SIZE 32

/* Into ret_genesis, whose buffers the caller frees. INVALID_ARGUMENT: names the option that is wrong. */
enum status_code genesis_make(const struct engine_options *options, struct status *st,
			      struct store_genesis *ret_genesis) MUST_CHECK;
/* The same for a log that begins with the state of a backup: its digest, of `size` bytes, is part of what the replicas
 * compare. recovered: the members are whoever was left, whatever the configuration says. */
enum status_code genesis_make_restored(const struct engine_options *options, const uint8_t *digest, size_t size,
				       bool recovered, struct status *st,
				       struct store_genesis *ret_genesis) MUST_CHECK;
/* What the options give for a log that began as `stored` did: with the same backup, if it was one. */
enum status_code genesis_make_like(const struct store_genesis *stored, const struct engine_options *options,
				   struct status *st, struct store_genesis *ret_genesis) MUST_CHECK;
void genesis_free(struct store_genesis *g);

enum status_code genesis_hash(const struct store_genesis *g, struct status *st,
			      uint8_t ret_hash[GENESIS_HASH_SIZE]) MUST_CHECK;

/* Did the cluster begin as the configuration file says today? FAILED_PRECONDITION: names the option that was
 * changed. */
enum status_code genesis_compare(const struct store_genesis *stored, const struct store_genesis *configured,
				 struct status *st) MUST_CHECK;

/* The same for a replica that was added later: the names alone, as its configuration file does not say who the first
 * replicas were. */
enum status_code genesis_compare_names(const struct store_genesis *stored, const struct engine_options *options,
				       struct status *st) MUST_CHECK;

#endif
