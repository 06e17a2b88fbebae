/*
 * Chains that verified, by digest: what a peer that comes back would cost again in signature checks.
 * One slot a digest and no search: bounded, and a peer that fills it with its own chains only makes others verify anew.
 * Thread-safe.
 */
#ifndef NET_CHAIN_CACHE_H
#define NET_CHAIN_CACHE_H

#include "common/net/identity.h"

#define CHAIN_DIGEST_SIZE 32 /* SHA-256 */

struct chain_cache;

/* NULL: no memory. */
struct chain_cache *chain_cache_new(void) MUST_CHECK;
void chain_cache_free(struct chain_cache *cache);

/* The caller owns the reference; NULL: not there. */
struct identity *chain_cache_find(struct chain_cache *cache, const uint8_t digest[CHAIN_DIGEST_SIZE]) MUST_CHECK;
/* Takes a reference of its own; replaces what stood in the slot. */
void chain_cache_put(struct chain_cache *cache, const uint8_t digest[CHAIN_DIGEST_SIZE], struct identity *id);

#endif
