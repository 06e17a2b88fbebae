#include "common/rpc/quota.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include <gnutls/crypto.h>

#define BUCKETS 4096 /* of the hash table; a power of two */
#define SECOND_US UINT64_C(1000000)
/* Each class keeps this part of the whole for itself. */
#define KEPT_PART 8
/* How many closed accounts are looked at for one that has nothing left to remember. */
#define LOOK_MAX 16

struct quota_account {
	LIST_ENTRY(quota_account) in_bucket;
	TAILQ_ENTRY(quota_account) in_closed; /* while nobody has it open, by when that began */
	enum quota_class class;
	unsigned open;
	size_t used[QUOTA_KINDS];
	uint64_t full_at[QUOTA_RATES]; /* us: when the bucket is full again; in the past: it is */
	bool shared;                   /* the class's own, never freed */
	uint64_t hash;
	size_t key_len;
	uint8_t key[]; /* label, NUL, issuer */
};

LIST_HEAD(account_list, quota_account);
TAILQ_HEAD(account_queue, quota_account);

struct quota {
	struct quota_limits limits;
	uint64_t seed;
	size_t used[QUOTA_CLASSES][QUOTA_KINDS];
	uint32_t rates[QUOTA_RATES];
	struct account_list buckets[BUCKETS];
	struct account_queue closed;
	size_t n_accounts;
	struct quota_account *shared[QUOTA_CLASSES];
};

#define KEY_MAX (IDENTITY_LABEL_MAX + IDENTITY_KEY_ID_MAX)

struct quota *quota_new(const struct quota_limits *limits)
{
	struct quota *q = calloc(1, sizeof *q);
	if (!q)
		return NULL;
	q->limits = *limits;
	TAILQ_INIT(&q->closed);
	bool ok = gnutls_rnd(GNUTLS_RND_NONCE, &q->seed, sizeof q->seed) >= 0;
	for (unsigned c = 0; c < QUOTA_CLASSES; c++) {
		struct quota_account *a = calloc(1, sizeof *a);
		ok = ok && a;
		if (a)
			*a = (struct quota_account){ .class = (enum quota_class)c, .shared = true };
		q->shared[c] = a;
	}
	if (ok)
		return q;
	quota_free(q);
	return NULL;
}

void quota_free(struct quota *q)
{
	if (!q)
		return;
	struct quota_account *a;
	for (size_t i = 0; i < BUCKETS; i++)
		while ((a = LIST_FIRST(&q->buckets[i]))) {
			LIST_REMOVE(a, in_bucket);
			free(a);
		}
	for (unsigned c = 0; c < QUOTA_CLASSES; c++)
		free(q->shared[c]);
	free(q);
}

/*
 * Accounts
 */

static enum quota_class class_of(const struct identity *id)
{
	if (id && id->roles & PEER_ADMIN)
		return QUOTA_ADMINS;
	return id && id->roles & PEER_SERVICES ? QUOTA_SERVICES : QUOTA_NODES;
}

static size_t key_of(const struct identity *id, uint8_t key[static KEY_MAX])
{
	char label[IDENTITY_LABEL_MAX];
	size_t len = strlen(identity_label(id, label)) + 1;
	memcpy(key, label, len);
	if (!id || id->issuer_key_id_len == 0)
		return len;
	memcpy(key + len, id->issuer_key_id, id->issuer_key_id_len);
	return len + id->issuer_key_id_len;
}

/* FNV-1a from a start that nobody knows. */
static uint64_t hash_of(uint64_t seed, const uint8_t *key, size_t len)
{
	uint64_t hash = seed ^ UINT64_C(0xCBF29CE484222325);
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ key[i]) * UINT64_C(0x100000001B3);
	return hash ^ hash >> 32;
}

/* Is a bucket not full at this time? At time 0: was one ever drawn from? */
static bool remembers(const struct quota_account *a, uint64_t now_us)
{
	for (unsigned r = 0; r < QUOTA_RATES; r++)
		if (a->full_at[r] > now_us)
			return true;
	return false;
}

static void drop(struct quota *q, struct quota_account *a)
{
	TAILQ_REMOVE(&q->closed, a, in_closed);
	LIST_REMOVE(a, in_bucket);
	q->n_accounts--;
	free(a);
}

/* Lets go of closed accounts that are as good as new; those closed longest are looked at first, and the others put behind
 * the rest, so that each has its turn. */
static void drop_forgotten(struct quota *q, uint64_t now_us)
{
	for (unsigned i = 0; i < LOOK_MAX && !TAILQ_EMPTY(&q->closed); i++) {
		struct quota_account *a = TAILQ_FIRST(&q->closed);
		if (!remembers(a, now_us)) {
			drop(q, a);
			continue;
		}
		TAILQ_REMOVE(&q->closed, a, in_closed);
		TAILQ_INSERT_TAIL(&q->closed, a, in_closed);
	}
}

static struct quota_account *account_new(struct quota *q, enum quota_class class, const uint8_t *key, size_t len,
					 uint64_t hash)
{
	if (q->n_accounts >= QUOTA_ACCOUNTS_MAX)
		return NULL;
	struct quota_account *a = calloc(1, sizeof *a + len);
	if (!a)
		return NULL;
	a->class = class;
	a->hash = hash;
	a->key_len = len;
	memcpy(a->key, key, len);
	LIST_INSERT_HEAD(&q->buckets[hash & (BUCKETS - 1)], a, in_bucket);
	q->n_accounts++;
	return a;
}

struct quota_account *quota_open(struct quota *q, const struct identity *id, uint64_t now_us)
{
	uint8_t key[KEY_MAX];
	size_t len = key_of(id, key);
	uint64_t hash = hash_of(q->seed, key, len);
	struct quota_account *a;
	LIST_FOREACH (a, &q->buckets[hash & (BUCKETS - 1)], in_bucket) {
		if (a->hash == hash && a->key_len == len && memcmp(a->key, key, len) == 0)
			break;
	}
	if (a && a->open == 0)
		TAILQ_REMOVE(&q->closed, a, in_closed);
	if (!a) {
		drop_forgotten(q, now_us);
		a = account_new(q, class_of(id), key, len, hash);
	}
	if (!a)
		a = q->shared[class_of(id)];
	a->open++;
	return a;
}

struct quota_account *quota_reopen(struct quota_account *a)
{
	a->open++;
	return a;
}

void quota_close(struct quota *q, struct quota_account *a)
{
	if (--a->open > 0 || a->shared)
		return;
	TAILQ_INSERT_TAIL(&q->closed, a, in_closed);
	if (!remembers(a, 0))
		drop(q, a);
}

/*
 * What is held
 */

/* What a class may have: all that nobody has, but what the other classes have not yet taken of their own shares. */
static size_t left_for(const struct quota *q, enum quota_class class, enum quota_kind kind)
{
	size_t all = q->limits.all[kind], kept = all / KEPT_PART, gone = 0;
	for (unsigned c = 0; c < QUOTA_CLASSES; c++) {
		size_t used = q->used[c][kind];
		gone += c == class || used > kept ? used : kept;
	}
	return all > gone ? all - gone : 0;
}

static bool within(const struct quota *q, const struct quota_account *a, enum quota_kind kind, size_t amount)
{
	size_t most = q->limits.identity[a->class][kind];
	return a->used[kind] <= most && amount <= most - a->used[kind];
}

enum quota_verdict quota_take(struct quota *q, struct quota_account *a, struct quota_account *through,
			      enum quota_kind kind, size_t amount)
{
	if (!within(q, a, kind, amount) || (through && !within(q, through, kind, amount)))
		return QUOTA_IDENTITY;
	if (amount > left_for(q, a->class, kind))
		return QUOTA_FULL;
	a->used[kind] += amount;
	if (through)
		through->used[kind] += amount;
	q->used[a->class][kind] += amount;
	return QUOTA_OK;
}

void quota_give(struct quota *q, struct quota_account *a, struct quota_account *through, enum quota_kind kind,
		size_t amount)
{
	a->used[kind] -= amount;
	if (through)
		through->used[kind] -= amount;
	q->used[a->class][kind] -= amount;
}

size_t quota_used(const struct quota *q, enum quota_kind kind)
{
	size_t used = 0;
	for (unsigned c = 0; c < QUOTA_CLASSES; c++)
		used += q->used[c][kind];
	return used;
}

/*
 * Rates
 */

void quota_set_rate(struct quota *q, unsigned rate, uint32_t per_second)
{
	q->rates[rate] = per_second;
}

uint32_t quota_rate(const struct quota *q, unsigned rate)
{
	return q->rates[rate];
}

uint32_t quota_ask(struct quota *q, struct quota_account *a, unsigned rate, uint64_t now_us)
{
	uint64_t per_second = q->rates[rate];
	if (per_second == 0 || a->class != QUOTA_NODES)
		return 0;
	uint64_t step = SECOND_US / per_second, latest = now_us + QUOTA_BURST_S * SECOND_US;
	uint64_t full_at = a->full_at[rate] > now_us ? a->full_at[rate] : now_us;
	if (full_at + step > latest) {
		uint64_t wait_ms = (full_at + step - latest + 999) / 1000;
		return wait_ms < UINT32_MAX ? (uint32_t)wait_ms : UINT32_MAX;
	}
	a->full_at[rate] = full_at + step;
	return 0;
}
