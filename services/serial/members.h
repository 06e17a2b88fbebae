/*
 * Who the members are, on one replica: the log's membership, the objects "replica/<name>" with their addresses, and, for
 * what they do not tell yet, the configuration file. Keeps the peers and the view in step, and, while this replica leads,
 * makes the membership what is wanted (membership.h). The engine's thread alone.
 */
#ifndef SERIAL_MEMBERS_H
#define SERIAL_MEMBERS_H

#include "services/serial/membership.h"
#include "services/serial/peers.h"
#include "services/serial/replica.h"
#include "services/serial/view.h"

struct members;

struct members_options {
	uint64_t self;
	bool joins; /* it was added later: `configured` only says where others are, not who began the cluster */
	const struct engine_member *configured;
	size_t n_configured;
	unsigned election_ms;
	/* All borrowed. */
	struct store *store;
	struct replica *replica;
	struct state *state;
	struct peers *peers;
	struct view *view;
	/* Proposes a command; `done` as in engine_propose(). */
	void (*propose)(void *arg, Kds__V1__Command *command, engine_done_fn done, void *done_arg);
	/* This replica is a member no more, or never can be again. Once; it does nothing from then on. */
	void (*ended)(void *arg, const char *why);
	void *arg;
};

/* NULL: no memory. */
struct members *members_new(const struct members_options *options) MUST_CHECK;
/* No proposal may be under way: free the replica before. NULL is allowed. */
void members_free(struct members *m);

/* A message that came. True: it is for the replica, from the data directory that is on record for its sender, and this
 * replica takes part (admission.h). */
bool members_receive(struct members *m, uint64_t from, uint64_t incarnation, const Kds__V1__PeerMessage *message);
/* Does this replica take part? Until it does it must not be ticked. */
bool members_take_part(const struct members *m);
/* Our standing as this one wants to know it. */
void members_standing(const struct members *m, uint64_t id, Kds__V1__Standing *ret_standing);

/* After each turn. Something may have been proposed: then *ret_again is true, and another turn is due at once. Returns
 * when it wants the next call. */
uint64_t members_turn(struct members *m, uint64_t now_ms, bool *ret_again);

/* Those we talk to, ourselves too. Borrowed until the next turn. */
const uint64_t *members_ids(const struct members *m, size_t *ret_n);

/* membership_check() with what is known now. */
enum status_code members_check(struct members *m, const Kds__V1__ChangeReplicaRequest *change,
			       struct status *st) MUST_CHECK;
/* 0: none has this name. */
uint64_t members_id(const struct members *m, const char *name);
/* MembersResponse, appended to `out`. */
enum status_code members_list(struct members *m, struct status *st, struct buffer *out) MUST_CHECK;

#endif
