#include "services/keydist/masterkeys.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/secret.h"

#define FIRST_CAPACITY 40 /* as many as fit a page */
#define MAX_KEYS 1024
/* So long, at most, each interval belongs to those who cannot open the newest; much longer than rotation.c needs to look. */
#define TURN_MS 10000

enum state {
	STATE_READY,
	STATE_SEALED,    /* there, but not for us: sealed under a key that our file has not, or damaged */
	STATE_DESTROYED, /* wiped */
};

struct entry {
	uint64_t published_ms;
	uint64_t use_from_ms;
	enum state state;
	uint8_t key[MASTER_KEY_SIZE];
};

struct masterkeys {
	const struct seal *seal;
	pthread_rwlock_t lock;
	struct masterkeys_times times; /* all 0: not known yet */
	struct entry *entries; /* by published_ms; secret memory */
	size_t n, capacity;
};

enum status_code masterkeys_new(const struct seal *seal, struct status *st, struct masterkeys **ret_keys)
{
	struct masterkeys *m = calloc(1, sizeof *m);
	if (m)
		m->entries = secret_alloc(FIRST_CAPACITY * sizeof m->entries[0]);
	if (!m || !m->entries) {
		free(m);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "keep masterKeys: out of memory");
	}
	m->capacity = FIRST_CAPACITY;
	m->seal = seal;
	pthread_rwlock_init(&m->lock, NULL);
	*ret_keys = m;
	return STATUS_OK;
}

void masterkeys_free(struct masterkeys *m)
{
	if (!m)
		return;
	secret_free(m->entries, m->capacity * sizeof m->entries[0]);
	pthread_rwlock_destroy(&m->lock);
	free(m);
}

void masterkeys_set_times(struct masterkeys *m, const struct masterkeys_times *times)
{
	pthread_rwlock_wrlock(&m->lock);
	m->times = *times;
	pthread_rwlock_unlock(&m->lock);
}

const char *masterkey_object_key(uint64_t published_ms, char ret_key[MASTERKEY_OBJECT_KEY_MAX])
{
	snprintf(ret_key, MASTERKEY_OBJECT_KEY_MAX, MASTERKEY_OBJECT_PREFIX "%020" PRIu64, published_ms);
	return ret_key;
}

bool masterkey_parse_object_key(const char *object_key, uint64_t *ret_published_ms)
{
	size_t prefix = strlen(MASTERKEY_OBJECT_PREFIX);
	char expected[MASTERKEY_OBJECT_KEY_MAX];
	if (strncmp(object_key, MASTERKEY_OBJECT_PREFIX, prefix) != 0)
		return false;
	uint64_t published_ms = strtoull(object_key + prefix, NULL, 10);
	if (strcmp(masterkey_object_key(published_ms, expected), object_key) != 0)
		return false;
	*ret_published_ms = published_ms;
	return true;
}

/* The first entry at or behind an index. */
static size_t lower_bound(const struct masterkeys *m, uint64_t published_ms)
{
	size_t low = 0, high = m->n;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (m->entries[middle].published_ms < published_ms)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool grow(struct masterkeys *m)
{
	if (m->n < m->capacity)
		return true;
	size_t capacity = m->capacity * 2;
	struct entry *entries = m->n < MAX_KEYS ? secret_alloc(capacity * sizeof *entries) : NULL;
	if (!entries)
		return false;
	memcpy(entries, m->entries, m->n * sizeof *entries);
	secret_free(m->entries, m->capacity * sizeof *entries);
	m->entries = entries;
	m->capacity = capacity;
	return true;
}

/* With the lock held. */
static void remove_at(struct masterkeys *m, size_t i)
{
	m->n--;
	memmove(&m->entries[i], &m->entries[i + 1], (m->n - i) * sizeof m->entries[0]);
	secret_wipe(&m->entries[m->n], sizeof m->entries[0]);
}

/* The oldest that cannot be opened, for one that can: however many are published that nobody can use, those that are of use
 * have room. With the lock held. */
static bool drop_sealed(struct masterkeys *m)
{
	for (size_t i = 0; i < m->n; i++) {
		if (m->entries[i].state != STATE_SEALED)
			continue;
		remove_at(m, i);
		return true;
	}
	return false;
}

static bool store(struct masterkeys *m, const struct entry *entry)
{
	bool stored = true;
	pthread_rwlock_wrlock(&m->lock);
	size_t i = lower_bound(m, entry->published_ms);
	bool known = i < m->n && m->entries[i].published_ms == entry->published_ms;
	if (!known) {
		stored = grow(m) || (entry->state == STATE_READY && drop_sealed(m));
		if (stored) {
			i = lower_bound(m, entry->published_ms);
			memmove(&m->entries[i + 1], &m->entries[i], (m->n - i) * sizeof m->entries[0]);
			m->n++;
		}
	}
	if (stored)
		m->entries[i] = *entry;
	pthread_rwlock_unlock(&m->lock);
	return stored;
}

static enum status_code unseal(const struct masterkeys *m, const Kds__V1__MasterKey *key, struct status *st,
			       uint8_t ret_key[MASTER_KEY_SIZE])
{
	char purpose[MASTERKEY_OBJECT_KEY_MAX];
	struct buffer clear = { 0 };
	struct slice sealed = { key->sealed_key.data, key->sealed_key.len };
	masterkey_object_key(key->published_ms, purpose);
	enum status_code rc = seal_open(m->seal, purpose, sealed, st, &clear);
	if (rc == STATUS_OK && clear.len != MASTER_KEY_SIZE)
		rc = status_set(st, STATUS_DATA_LOSS, "it has %zu bytes", clear.len);
	if (rc == STATUS_OK)
		memcpy(ret_key, clear.data, MASTER_KEY_SIZE);
	else
		status_prefix(st, "unseal %s", purpose);
	buffer_wipe(&clear);
	return rc;
}

enum status_code masterkeys_put(struct masterkeys *m, const Kds__V1__MasterKey *key, struct status *st)
{
	struct entry entry = { .published_ms = key->published_ms, .use_from_ms = key->use_from_ms };
	enum status_code rc = unseal(m, key, st, entry.key);
	entry.state = rc == STATUS_OK ? STATE_READY : STATE_SEALED;
	if (!store(m, &entry))
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "keep masterKey %" PRIu64 ": out of memory or too many",
				key->published_ms);
	secret_wipe(&entry, sizeof entry);
	return rc;
}

void masterkeys_remove(struct masterkeys *m, uint64_t published_ms)
{
	pthread_rwlock_wrlock(&m->lock);
	size_t i = lower_bound(m, published_ms);
	if (i < m->n && m->entries[i].published_ms == published_ms)
		remove_at(m, i);
	pthread_rwlock_unlock(&m->lock);
}

/* The entry for new keys; m->n: none. With the lock held. */
static size_t current_index(const struct masterkeys *m, uint64_t now_ms)
{
	size_t oldest = m->n;
	for (size_t i = m->n; i-- > 0;) {
		if (m->entries[i].state != STATE_READY)
			continue;
		if (m->entries[i].use_from_ms <= now_ms)
			return i;
		oldest = i;
	}
	return oldest;
}

/* With the lock held. `current` as current_index() says. */
static bool is_over(const struct masterkeys *m, size_t i, size_t current, uint64_t now_ms)
{
	uint64_t published_ms = m->entries[i].published_ms, lifespan_ms = m->times.lifespan_ms;
	return lifespan_ms > 0 && i < current && current < m->n && now_ms > published_ms &&
	       now_ms - published_ms >= lifespan_ms;
}

void masterkeys_expire(struct masterkeys *m, uint64_t now_ms)
{
	pthread_rwlock_wrlock(&m->lock);
	size_t current = current_index(m, now_ms);
	for (size_t i = 0; i < m->n; i++) {
		if (m->entries[i].state == STATE_READY && is_over(m, i, current, now_ms)) {
			secret_wipe(m->entries[i].key, MASTER_KEY_SIZE);
			m->entries[i].state = STATE_DESTROYED;
		}
	}
	pthread_rwlock_unlock(&m->lock);
}

static void copy_out(const struct entry *entry, struct masterkey *ret_key)
{
	ret_key->published_ms = entry->published_ms;
	memcpy(ret_key->key, entry->key, MASTER_KEY_SIZE);
}

bool masterkeys_current(struct masterkeys *m, uint64_t now_ms, struct masterkey *ret_key)
{
	pthread_rwlock_rdlock(&m->lock);
	size_t i = current_index(m, now_ms);
	bool found = i < m->n;
	if (found)
		copy_out(&m->entries[i], ret_key);
	pthread_rwlock_unlock(&m->lock);
	return found;
}

bool masterkeys_find(struct masterkeys *m, uint64_t published_ms, uint64_t now_ms, struct masterkey *ret_key)
{
	pthread_rwlock_rdlock(&m->lock);
	size_t i = lower_bound(m, published_ms);
	bool found = i < m->n && m->entries[i].published_ms == published_ms && m->entries[i].state == STATE_READY &&
		     !is_over(m, i, current_index(m, now_ms), now_ms);
	if (found)
		copy_out(&m->entries[i], ret_key);
	pthread_rwlock_unlock(&m->lock);
	return found;
}

bool masterkeys_is_sealed(struct masterkeys *m, uint64_t published_ms)
{
	pthread_rwlock_rdlock(&m->lock);
	size_t i = lower_bound(m, published_ms);
	bool sealed = i < m->n && m->entries[i].published_ms == published_ms && m->entries[i].state == STATE_SEALED;
	pthread_rwlock_unlock(&m->lock);
	return sealed;
}

uint64_t masterkeys_newest(struct masterkeys *m)
{
	pthread_rwlock_rdlock(&m->lock);
	uint64_t newest = m->n > 0 ? m->entries[m->n - 1].published_ms : 0;
	pthread_rwlock_unlock(&m->lock);
	return newest;
}

size_t masterkeys_list(struct masterkeys *m, uint64_t now_ms, struct masterkey_info *ret_list, size_t max)
{
	size_t n = 0;
	pthread_rwlock_rdlock(&m->lock);
	size_t current = current_index(m, now_ms);
	for (size_t i = 0; i < m->n && n < max; i++) {
		const struct entry *e = &m->entries[i];
		if (e->state == STATE_READY && !is_over(m, i, current, now_ms))
			ret_list[n++] = (struct masterkey_info){ e->published_ms, e->use_from_ms, i == current };
	}
	pthread_rwlock_unlock(&m->lock);
	return n;
}

size_t masterkeys_count_sealed(struct masterkeys *m, uint64_t *ret_newest)
{
	size_t n = 0;
	pthread_rwlock_rdlock(&m->lock);
	for (size_t i = 0; i < m->n; i++) {
		if (m->entries[i].state != STATE_SEALED)
			continue;
		n++;
		*ret_newest = m->entries[i].published_ms;
	}
	pthread_rwlock_unlock(&m->lock);
	return n;
}

/* Is the interval that began at `publish_ms` ours to publish in by now? With the lock held; there is a newest. */
static bool is_our_turn(const struct masterkeys *m, uint64_t publish_ms, uint64_t now_ms)
{
	uint64_t turn_ms = m->times.interval_ms / 8 < TURN_MS ? m->times.interval_ms / 8 : TURN_MS;
	return m->entries[m->n - 1].state == STATE_SEALED || now_ms - publish_ms >= turn_ms;
}

/* With the lock held. */
static struct masterkeys_plan make_plan(const struct masterkeys *m, uint64_t now_ms)
{
	struct masterkeys_plan plan = { .publish_ms = now_ms - now_ms % m->times.interval_ms };
	const struct entry *newest = m->n > 0 ? &m->entries[m->n - 1] : NULL;
	if (!newest) {
		plan.publish = true;
		plan.use_from_ms = now_ms; /* nobody has anything else to use */
	} else if (newest->published_ms < plan.publish_ms && is_our_turn(m, plan.publish_ms, now_ms)) {
		plan.publish = true;
		plan.use_from_ms = now_ms + m->times.publish_ahead_ms;
	}
	if (m->n > 0 && is_over(m, 0, current_index(m, now_ms), now_ms)) {
		plan.destroy = true;
		plan.destroy_ms = m->entries[0].published_ms;
		plan.over_ms = plan.destroy_ms + m->times.lifespan_ms;
	}
	return plan;
}

void masterkeys_plan(struct masterkeys *m, uint64_t now_ms, struct masterkeys_plan *ret_plan)
{
	pthread_rwlock_rdlock(&m->lock);
	*ret_plan = m->times.interval_ms > 0 ? make_plan(m, now_ms) : (struct masterkeys_plan){ .publish = false };
	pthread_rwlock_unlock(&m->lock);
}
