/*
 * What one identity may have of a server at once, and how often it may ask: so that nobody's requests keep another's out.
 *
 * Two rules for what is held (requests, long polls, bytes). No identity holds more than the limit of its class. And of
 * the whole each class (nodes, services, administrators) keeps a share that the others cannot take, however many of
 * them come: an administrator can still act while every node floods.
 *
 * Rates are token buckets, kept as one time each (the "theoretical arrival time" of ATM Forum TM 4.0, the GCRA): a call
 * moves it by 1/rate, and is refused where it would lie more than QUOTA_BURST_S seconds ahead.
 *
 * Accounts go by identity_label() and the issuer's key, so all connections and certificates of one node share one. An
 * account is kept while it is open or a bucket of it is not full again, and there are QUOTA_ACCOUNTS_MAX at most. When
 * all are taken, newcomers of a class share one account: many identities neither make the table grow nor push another's
 * account out to begin it anew.
 *
 * Plain data: whoever uses it has a lock. Only quota_new() and quota_open() allocate.
 */
#ifndef RPC_QUOTA_H
#define RPC_QUOTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/net/identity.h"

#define QUOTA_ACCOUNTS_MAX 16384
#define QUOTA_BURST_S 10
#define QUOTA_RATES 4 /* different rates of one server; the first, 0, is never limited */

enum quota_kind { QUOTA_CALLS, QUOTA_WAITING, QUOTA_BYTES, QUOTA_KINDS };
/* Of an identity by its roles; whoever has none counts as a node. */
enum quota_class { QUOTA_NODES, QUOTA_SERVICES, QUOTA_ADMINS, QUOTA_CLASSES };

struct quota_limits {
	size_t all[QUOTA_KINDS];
	size_t identity[QUOTA_CLASSES][QUOTA_KINDS];
};

struct quota;
struct quota_account;

/* NULL: no memory. */
struct quota *quota_new(const struct quota_limits *limits) MUST_CHECK;
/* Every account is closed. NULL is allowed. */
void quota_free(struct quota *q);

/* The account of an identity (NULL: a peer without a certificate), to be closed once for each time it was opened. Never
 * fails: without memory it is the one that the class shares. */
struct quota_account *quota_open(struct quota *q, const struct identity *id, uint64_t now_us);
/* Opens once more what is open; returns it. */
struct quota_account *quota_reopen(struct quota_account *a);
void quota_close(struct quota *q, struct quota_account *a);

enum quota_verdict {
	QUOTA_OK,
	QUOTA_FULL,     /* the whole, less what is kept for other classes */
	QUOTA_IDENTITY, /* what one identity may have */
};
/*
 * Takes `amount`, to be given back. `through`: the account of the replica that passes it on, whose limit counts too;
 * NULL: nobody does.
 */
enum quota_verdict quota_take(struct quota *q, struct quota_account *a, struct quota_account *through,
			      enum quota_kind kind, size_t amount) MUST_CHECK;
void quota_give(struct quota *q, struct quota_account *a, struct quota_account *through, enum quota_kind kind,
		size_t amount);
/* In all. */
size_t quota_used(const struct quota *q, enum quota_kind kind);

/* Calls a second of one identity; 0: any number. In force at once. */
void quota_set_rate(struct quota *q, unsigned rate, uint32_t per_second);
uint32_t quota_rate(const struct quota *q, unsigned rate);
/* Counts a call of this rate. 0: it may be made; else it is not counted, and may be made in so many ms. Services and
 * administrators are not limited. */
uint32_t quota_ask(struct quota *q, struct quota_account *a, unsigned rate, uint64_t now_us) MUST_CHECK;

#endif
