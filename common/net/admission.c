#include "common/net/admission.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS 1024
/* What names a party: one byte of its kind, then an address, or an issuer's key and a label. */
#define KEY_MAX (2 + IDENTITY_KEY_ID_MAX + IDENTITY_LABEL_MAX)

enum kind { NODE, SERVICE, ADMIN, KINDS };

TAILQ_HEAD(slot_queue, slot);

/* One address or one identity that has slots. */
struct slot_party {
	LIST_ENTRY(slot_party) in_bucket;
	TAILQ_ENTRY(slot_party) in_order; /* of addresses: the longest here first */
	unsigned n;
	unsigned n_silent;
	struct slot_queue silent, spoke; /* of an address: oldest first */
	struct budget_account account;   /* of an identity */
	bool is_address;
	size_t key_len;
	uint8_t key[];
};

LIST_HEAD(party_list, slot_party);
TAILQ_HEAD(party_queue, slot_party);

struct slots {
	struct slot_limits limits;
	uint64_t random;
	unsigned strangers;
	unsigned by_kind[KINDS]; /* authenticated */
	struct party_queue addresses;
	struct party_list buckets[BUCKETS];
};

struct slots *slots_new(const struct slot_limits *limits, uint64_t seed)
{
	const struct slot_limits defaults = SLOT_LIMITS_DEFAULT;
	struct slots *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->limits = *limits;
	s->random = seed | 1;
	if (s->limits.max_connections == 0)
		s->limits.max_connections = defaults.max_connections;
	if (s->limits.max_per_node == 0)
		s->limits.max_per_node = defaults.max_per_node;
	if (s->limits.max_per_service == 0)
		s->limits.max_per_service = defaults.max_per_service;
	if (s->limits.max_strangers == 0)
		s->limits.max_strangers = defaults.max_strangers;
	if (s->limits.max_strangers_address == 0)
		s->limits.max_strangers_address = defaults.max_strangers_address;
	TAILQ_INIT(&s->addresses);
	return s;
}

unsigned slots_places(const struct slots *s)
{
	return s->limits.max_connections + s->limits.max_strangers;
}

void slots_free(struct slots *s)
{
	free(s);
}

/* Parties */

static struct party_list *bucket_of(struct slots *s, const uint8_t *key, size_t len)
{
	uint32_t h = 2166136261u; /* FNV-1a; who aims at one bucket is held by the limits */
	for (size_t i = 0; i < len; i++)
		h = (h ^ key[i]) * 16777619u;
	return &s->buckets[h % BUCKETS];
}

/* NULL: no memory. */
static struct slot_party *find_party(struct slots *s, const uint8_t *key, size_t len)
{
	struct party_list *bucket = bucket_of(s, key, len);
	struct slot_party *p;
	LIST_FOREACH (p, bucket, in_bucket) {
		if (p->key_len == len && memcmp(p->key, key, len) == 0)
			return p;
	}
	p = calloc(1, sizeof *p + len);
	if (!p)
		return NULL;
	p->key_len = len;
	memcpy(p->key, key, len);
	TAILQ_INIT(&p->silent);
	TAILQ_INIT(&p->spoke);
	LIST_INSERT_HEAD(bucket, p, in_bucket);
	return p;
}

static void free_if_empty(struct slots *s, struct slot_party *p)
{
	if (p->n > 0)
		return;
	LIST_REMOVE(p, in_bucket);
	if (p->is_address)
		TAILQ_REMOVE(&s->addresses, p, in_order);
	free(p);
}

/* Of an IPv6 network one host has all the addresses that it likes. An IPv4 address is mapped: its zeros come first. */
static size_t address_key(const uint8_t host[16], char purpose, uint8_t ret_key[KEY_MAX])
{
	static const uint8_t v4[12] = { [10] = 0xff, [11] = 0xff };
	size_t len = memcmp(host, v4, sizeof v4) == 0 ? 16 : 8;
	ret_key[0] = (uint8_t)purpose;
	memcpy(ret_key + 1, host, len);
	return 1 + len;
}

static size_t identity_key(const struct identity *id, uint8_t ret_key[KEY_MAX])
{
	char label[IDENTITY_LABEL_MAX];
	size_t issuer_len = id->issuer_key_id_len, label_len = strlen(identity_label(id, label));
	ret_key[0] = 'i';
	ret_key[1] = (uint8_t)issuer_len;
	memcpy(ret_key + 2, id->issuer_key_id, issuer_len);
	memcpy(ret_key + 2 + issuer_len, label, label_len);
	return 2 + issuer_len + label_len;
}

/* Strangers */

/* xorshift64* (Marsaglia 2003; Vigna 2016) */
static unsigned random_below(struct slots *s, unsigned n)
{
	s->random ^= s->random >> 12;
	s->random ^= s->random << 25;
	s->random ^= s->random >> 27;
	return (unsigned)((s->random * UINT64_C(0x2545F4914F6CDD1D)) >> 32) % n;
}

/* Those that one is chosen among: the strangers of one address, or of all that have the most. */
struct crowd {
	const struct slot_party *only; /* NULL: all that have so many as `each` */
	unsigned each;
	unsigned n, n_silent;
};

static bool is_of(const struct crowd *crowd, const struct slot_party *p)
{
	return crowd->only ? p == crowd->only : p->n == crowd->each;
}

static struct crowd crowd_of_largest(const struct slots *s)
{
	struct crowd crowd = { .only = NULL };
	const struct slot_party *p;
	TAILQ_FOREACH (p, &s->addresses, in_order) {
		if (p->n > crowd.each)
			crowd = (struct crowd){ .each = p->n };
		if (p->n == crowd.each) {
			crowd.n += p->n;
			crowd.n_silent += p->n_silent;
		}
	}
	return crowd;
}

static struct slot *pick(struct slots *s, const struct crowd *crowd, uint64_t now_ms)
{
	bool silent = crowd->n_silent > 0 && crowd->n_silent >= crowd->n / 4;
	const struct slot_party *p;
	struct slot *slot, *oldest = NULL;
	TAILQ_FOREACH (p, &s->addresses, in_order) {
		slot = is_of(crowd, p) ? TAILQ_FIRST(silent ? &p->silent : &p->spoke) : NULL;
		if (slot && (!oldest || slot->since_ms < oldest->since_ms))
			oldest = slot;
	}
	if (now_ms - oldest->since_ms >= (silent ? SLOT_SILENT_MS : SLOT_SPOKE_MS))
		return oldest;
	unsigned skip = random_below(s, silent ? crowd->n_silent : crowd->n - crowd->n_silent);
	TAILQ_FOREACH (p, &s->addresses, in_order) {
		if (!is_of(crowd, p))
			continue;
		TAILQ_FOREACH (slot, silent ? &p->silent : &p->spoke, in_party) {
			if (skip-- == 0)
				return slot;
		}
	}
	return oldest; /* not reached: so many there are */
}

static struct slot *choose_victim(struct slots *s, const struct slot_party *mine, uint64_t now_ms)
{
	struct crowd crowd = { .only = mine, .n = mine->n, .n_silent = mine->n_silent };
	if (mine->n < s->limits.max_strangers_address) {
		if (s->strangers < s->limits.max_strangers)
			return NULL;
		crowd = crowd_of_largest(s);
	}
	return pick(s, &crowd, now_ms);
}

bool slots_enter(struct slots *s, struct slot *slot, const uint8_t host[16], uint64_t now_ms, struct slot **ret_victim)
{
	uint8_t key[KEY_MAX];
	struct slot_party *p = find_party(s, key, address_key(host, 's', key));
	if (!p)
		return false;
	if (p->n == 0) {
		p->is_address = true;
		TAILQ_INSERT_TAIL(&s->addresses, p, in_order);
	}
	struct slot *victim = choose_victim(s, p, now_ms);
	slot->state = SLOT_SILENT;
	slot->since_ms = now_ms;
	slot->party = p;
	TAILQ_INSERT_TAIL(&p->silent, slot, in_party);
	p->n++;
	p->n_silent++;
	s->strangers++;
	if (victim)
		slots_leave(s, victim);
	*ret_victim = victim;
	return true;
}

void slots_spoke(struct slots *s, struct slot *slot, uint64_t now_ms)
{
	(void)s;
	if (slot->state != SLOT_SILENT)
		return;
	struct slot_party *p = slot->party;
	TAILQ_REMOVE(&p->silent, slot, in_party);
	p->n_silent--;
	TAILQ_INSERT_TAIL(&p->spoke, slot, in_party);
	slot->state = SLOT_SPOKE;
	slot->since_ms = now_ms;
}

/* The authenticated */

static enum kind kind_of(const struct identity *id)
{
	if (!id || !(id->roles & PEER_SERVICES))
		return NODE;
	return id->roles & PEER_ADMIN ? ADMIN : SERVICE;
}

static bool is_full(const struct slots *s, enum kind kind)
{
	const unsigned max = s->limits.max_connections, *n = s->by_kind;
	switch (kind) {
	case NODE:
		return n[NODE] >= max - max / 4 || n[NODE] + n[SERVICE] + n[ADMIN] >= max;
	case SERVICE:
		return n[NODE] + n[SERVICE] >= max - max / 16 || n[NODE] + n[SERVICE] + n[ADMIN] >= max;
	default:
		return n[NODE] + n[SERVICE] + n[ADMIN] >= max;
	}
}

enum slot_verdict slots_authenticated(struct slots *s, struct slot *slot, const struct identity *id, const uint8_t host[16])
{
	uint8_t key[KEY_MAX];
	bool displaced = slot->state == SLOT_NONE;
	enum kind kind = kind_of(id);
	slots_leave(s, slot);
	if (displaced || is_full(s, kind))
		return SLOT_FULL;
	struct slot_party *p = find_party(s, key, id ? identity_key(id, key) : address_key(host, 'a', key));
	if (!p)
		return SLOT_NO_MEMORY;
	if (p->n >= (kind == NODE ? s->limits.max_per_node : s->limits.max_per_service))
		return SLOT_FULL_IDENTITY;
	if (p->n == 0)
		p->account.service = kind != NODE; /* read without a lock from now on */
	p->n++;
	s->by_kind[kind]++;
	slot->state = SLOT_AUTHENTICATED;
	slot->kind = kind;
	slot->party = p;
	return SLOT_ADMITTED;
}

struct budget_account *slots_account(struct slot *slot)
{
	return &slot->party->account;
}

void slots_leave(struct slots *s, struct slot *slot)
{
	struct slot_party *p = slot->party;
	switch (slot->state) {
	case SLOT_NONE:
		return;
	case SLOT_SILENT:
		TAILQ_REMOVE(&p->silent, slot, in_party);
		p->n_silent--;
		s->strangers--;
		break;
	case SLOT_SPOKE:
		TAILQ_REMOVE(&p->spoke, slot, in_party);
		s->strangers--;
		break;
	case SLOT_AUTHENTICATED:
		s->by_kind[slot->kind]--;
		break;
	}
	p->n--;
	slot->state = SLOT_NONE;
	slot->party = NULL;
	free_if_empty(s, p);
}

struct slots_count slots_count(const struct slots *s)
{
	return (struct slots_count){
		.strangers = s->strangers,
		.authenticated = s->by_kind[NODE] + s->by_kind[SERVICE] + s->by_kind[ADMIN],
	};
}
