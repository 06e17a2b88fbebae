/*
 * Who gets a connection: the slots of one listener.
 *
 * One limit for all lets whoever is first keep everybody out, with certificates or without. So there are two kinds of slots.
 *
 * A peer enters as a stranger, and there is always a place for one more: when they are full the new one takes the place of
 * another. Which one? Of the address with the most strangers (an IPv4 address, an IPv6 /64), or of all that have as many, so
 * that a flood from elsewhere costs nobody his place; there of those that said nothing yet, while they are a quarter or more,
 * so that whoever began to speak TLS is not displaced by mere connections; else of those that spoke, so that those who begin
 * and stop do not keep newcomers out; and of these the oldest, if it had time enough for its next step. If none had, then a
 * flood is faster than any honest peer could be, the oldest may be just that one, and the choice is random: it leaves a
 * chance to everybody. (One host with an IPv6 /48 has 65,536 addresses to flood from.)
 *
 * Once its certificate is verified a peer leaves the strangers, and is counted by who it is: so many connections an
 * identity, more for a service than for a node. Of all of these slots a quarter is out of nodes' reach, and a sixteenth out
 * of services' too, for the administrator. What is full then is full: the newcomer is refused.
 *
 * Pure but for its memory: no sockets, no clock. Not thread-safe.
 *
 * What no choice here can help: a flood from the very address of an honest peer that speaks TLS itself, faster than
 * max_strangers_address in the round trips that a handshake takes; and one from as many addresses as there are places, faster
 * than max_strangers in that time. Then it is luck, and another try.
 */
#ifndef NET_ADMISSION_H
#define NET_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/net/budget.h"
#include "common/net/identity.h"

/* A limit of 0 stands for its default. */
struct slot_limits {
	unsigned max_connections;       /* authenticated, in all */
	unsigned max_per_node;          /* of one node, or one without a role; of one address where no certificate is asked for */
	unsigned max_per_service;       /* of one service or administrator */
	unsigned max_strangers;         /* not authenticated yet, in all */
	unsigned max_strangers_address; /* of one address */
};
#define SLOT_LIMITS_DEFAULT ((struct slot_limits){ .max_connections = 10000, .max_per_node = 512, .max_per_service = 2048, \
	.max_strangers = 1024, .max_strangers_address = 256 })

struct slots;
struct slot_party;

enum slot_state {
	SLOT_NONE,
	SLOT_SILENT,        /* a stranger that said nothing yet */
	SLOT_SPOKE,         /* a stranger */
	SLOT_AUTHENTICATED,
};

/* One connection's place. Zero-initialised has none. Only its state is for others to read. */
struct slot {
	enum slot_state state;
	unsigned kind;             /* of its identity */
	struct slot_party *party;  /* its address or identity */
	uint64_t since_ms;         /* it came, or spoke */
	TAILQ_ENTRY(slot) in_party; /* while it is a stranger */
};

enum slot_verdict {
	SLOT_ADMITTED,
	SLOT_FULL,          /* all that this kind of identity may have */
	SLOT_FULL_IDENTITY, /* this identity's, or this address's where there is no identity */
	SLOT_NO_MEMORY,
};

/* How long a stranger's next step takes on a bad day. */
#define SLOT_SILENT_MS 100 /* its first bytes come right behind the connection */
#define SLOT_SPOKE_MS 500  /* a round trip or two, and signatures */

/* `seed`: any number that peers do not know. NULL: no memory. */
struct slots *slots_new(const struct slot_limits *limits, uint64_t seed) MUST_CHECK;
/* How many slots there are, of both kinds together. */
unsigned slots_places(const struct slots *s);
/* Every slot has left. NULL is allowed. */
void slots_free(struct slots *s);

/*
 * A stranger comes, from an address as address_host() tells it. `ret_victim`: the slot, now without a place, whose owner has
 * to go for it; NULL: there was room. False: no memory.
 */
bool slots_enter(struct slots *s, struct slot *slot, const uint8_t host[16], uint64_t now_ms,
		 struct slot **ret_victim) MUST_CHECK;
/* The stranger sent something that deserved an answer. */
void slots_spoke(struct slots *s, struct slot *slot, uint64_t now_ms);
/* The stranger was authenticated; `id` NULL: it need not be. Unless admitted it has no place from now on. One that was
 * displaced meanwhile: SLOT_FULL. */
enum slot_verdict slots_authenticated(struct slots *s, struct slot *slot, const struct identity *id,
				      const uint8_t host[16]) MUST_CHECK;
/* Gives the place back, if it has one. */
void slots_leave(struct slots *s, struct slot *slot);

/* Of an authenticated slot, until it leaves. */
struct budget_account *slots_account(struct slot *slot);

struct slots_count {
	unsigned strangers, authenticated;
};
struct slots_count slots_count(const struct slots *s);

#endif
