/*
 * The masterKeys this distributor knows, unsealed in secret memory, and the rules of their lives. Knows nothing of
 * replicas: it is told what is there, and says what to do. Thread-safe; times are Unix ms.
 *
 * A life: published (published_ms is the key's index) -> used for new keys from use_from_ms on, until a newer one is ->
 * answers Restore until it is `lifespan_ms` old -> wiped here and deleted everywhere. The newest that is in use never goes,
 * however old: without replicas a distributor must keep serving.
 */
#ifndef KEYDIST_MASTERKEYS_H
#define KEYDIST_MASTERKEYS_H

#include "common/x509/seal.h"
#include "config.pb-c.h"
#include "services/keydist/derive.h"

struct masterkeys;

/* `seal` is borrowed. Until its times are set no key's life is over, and nothing is planned. */
enum status_code masterkeys_new(const struct seal *seal, struct status *st, struct masterkeys **ret_keys) MUST_CHECK;
void masterkeys_free(struct masterkeys *m);

struct masterkeys_times {
	uint64_t interval_ms; /* from one masterKey to the next */
	uint64_t lifespan_ms;
	uint64_t publish_ahead_ms; /* from a key's publication to its use */
};
void masterkeys_set_times(struct masterkeys *m, const struct masterkeys_times *times);

#define MASTERKEY_OBJECT_PREFIX "masterkey/"
#define MASTERKEY_OBJECT_KEY_MAX 40
/* "masterkey/00000001700000000000": the key of the replicated object, and the purpose under which it is sealed. */
const char *masterkey_object_key(uint64_t published_ms, char ret_key[MASTERKEY_OBJECT_KEY_MAX]);
/* False: not such a key. */
bool masterkey_parse_object_key(const char *object_key, uint64_t *ret_published_ms) MUST_CHECK;

/*
 * Takes one as replicated. One that cannot be unsealed is remembered as being there (so that no other is made in its
 * place) and the error returned: FAILED_PRECONDITION, DATA_LOSS as seal_open(). RESOURCE_EXHAUSTED: no memory, or too
 * many.
 */
enum status_code masterkeys_put(struct masterkeys *m, const Kds__V1__MasterKey *key, struct status *st) MUST_CHECK;
/* Wipes and forgets. */
void masterkeys_remove(struct masterkeys *m, uint64_t published_ms);
/* Wipes those whose life is over; they stay known until masterkeys_remove(). */
void masterkeys_expire(struct masterkeys *m, uint64_t now_ms);

/* A copy for one derivation: wipe it with secret_wipe(). */
struct masterkey {
	uint64_t published_ms;
	uint8_t key[MASTER_KEY_SIZE];
};
/* The one for new keys: the newest that is in use; while none is, the oldest. False: none is known. */
bool masterkeys_current(struct masterkeys *m, uint64_t now_ms, struct masterkey *ret_key) MUST_CHECK;
/* False: unknown, destroyed, or its life is over. */
bool masterkeys_find(struct masterkeys *m, uint64_t published_ms, uint64_t now_ms,
		     struct masterkey *ret_key) MUST_CHECK;
/* Is it there, and cannot be unsealed here? Another distributor may answer for it. */
bool masterkeys_is_sealed(struct masterkeys *m, uint64_t published_ms);
/* How many are there that cannot be unsealed here; *ret_newest is the highest index of these. */
size_t masterkeys_count_sealed(struct masterkeys *m, uint64_t *ret_newest);
/* The highest index known; 0: none. */
uint64_t masterkeys_newest(struct masterkeys *m);

struct masterkey_info {
	uint64_t published_ms, use_from_ms;
	bool current;
};
/* Those that answer, by index, at most `max`; returns how many. */
size_t masterkeys_list(struct masterkeys *m, uint64_t now_ms, struct masterkey_info *ret_list, size_t max);

/*
 * What the replicated state needs now. An index is a multiple of the interval: distributors that publish at the same
 * time make the same object key, and compare-and-set lets one win, so there is never more than one key an interval.
 *
 * Keys that are sealed under a key of others are passed over: never used here, destroyed when their time is over and not
 * before. Distributors with different sealing keys (one has a wrong file) publish in turns, or one of them would always be
 * first: the beginning of each interval, ten seconds or an eighth, belongs to those who cannot open the newest key.
 */
struct masterkeys_plan {
	bool publish;
	uint64_t publish_ms;    /* its index */
	uint64_t use_from_ms;
	bool destroy;
	uint64_t destroy_ms;    /* the index of the oldest whose life is over */
	uint64_t over_ms;       /* when it was: not to be destroyed before, whatever clock says so */
};
void masterkeys_plan(struct masterkeys *m, uint64_t now_ms, struct masterkeys_plan *ret_plan);

#endif
