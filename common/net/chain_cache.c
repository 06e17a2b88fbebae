#include "common/net/chain_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 1024 /* a power of two */

struct slot {
	uint8_t digest[CHAIN_DIGEST_SIZE];
	struct identity *id; /* NULL: empty */
};

struct chain_cache {
	pthread_mutex_t mutex;
	struct slot slots[SLOTS];
};

struct chain_cache *chain_cache_new(void)
{
	struct chain_cache *cache = calloc(1, sizeof *cache);
	if (cache)
		pthread_mutex_init(&cache->mutex, NULL);
	return cache;
}

void chain_cache_free(struct chain_cache *cache)
{
	if (!cache)
		return;
	for (size_t i = 0; i < SLOTS; i++)
		identity_unref(cache->slots[i].id);
	pthread_mutex_destroy(&cache->mutex);
	free(cache);
}

/* SHA-256 spreads evenly; any bits of it will do. */
static struct slot *slot_of(struct chain_cache *cache, const uint8_t *digest)
{
	return &cache->slots[((size_t)digest[0] << 8 | digest[1]) % SLOTS];
}

struct identity *chain_cache_find(struct chain_cache *cache, const uint8_t digest[CHAIN_DIGEST_SIZE])
{
	struct slot *slot = slot_of(cache, digest);
	struct identity *id = NULL;
	pthread_mutex_lock(&cache->mutex);
	if (slot->id && memcmp(slot->digest, digest, CHAIN_DIGEST_SIZE) == 0)
		id = identity_ref(slot->id);
	pthread_mutex_unlock(&cache->mutex);
	return id;
}

void chain_cache_put(struct chain_cache *cache, const uint8_t digest[CHAIN_DIGEST_SIZE], struct identity *id)
{
	struct slot *slot = slot_of(cache, digest);
	pthread_mutex_lock(&cache->mutex);
	struct identity *before = slot->id;
	memcpy(slot->digest, digest, CHAIN_DIGEST_SIZE);
	slot->id = identity_ref(id);
	pthread_mutex_unlock(&cache->mutex);
	identity_unref(before);
}
