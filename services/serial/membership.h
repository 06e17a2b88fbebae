/*
 * What the leader does about the membership. The replicated objects "replica/<name>" say what the administrator wants
 * (state_members.c); the membership in the log follows, one change at a time (Ongaro's thesis, §4.1), and never a change
 * that would cost the quorum: then it waits and says why. As both are replicated, a new leader goes on where the last
 * one was.
 *
 * Pure functions over a picture of the members; the engine makes the picture and carries out what they say.
 */
#ifndef SERIAL_MEMBERSHIP_H
#define SERIAL_MEMBERSHIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/status.h"
#include "members.pb-c.h"

#define MEMBERSHIP_VOTERS_MAX 7
#define MEMBERSHIP_MAX 32 /* standbys too */

enum membership_role { MEMBERSHIP_NONE, MEMBERSHIP_STANDBY, MEMBERSHIP_VOTER };

struct membership_member {
	uint64_t id;
	const char *name;
	enum membership_role has;   /* in the log's membership */
	enum membership_role wants; /* as its object says */
	bool recorded;              /* its object has the incarnation of its data directory */
	bool reachable;             /* as the leader: connected, and heard of just now */
	bool caught_up;             /* it has what the log held an election timeout ago */
	uint64_t lag;               /* entries that it does not have */
	uint64_t away_ms;           /* since it was reachable; 0: it is */
};

/* As the leader sees it: all in the log's membership and all that are wanted. */
struct membership {
	uint64_t self;
	uint64_t replace_after_ms; /* a voter that was away so long gives its vote to a standby; 0: never */
	struct membership_member members[2 * MEMBERSHIP_MAX];
	size_t n;
};

enum membership_kind {
	MEMBERSHIP_NOTHING,  /* all is as wanted, or waits: membership_waits_for() says why */
	MEMBERSHIP_SET,      /* change the log's membership: `member` gets `role` */
	MEMBERSHIP_TRANSFER, /* hand the leadership to `member`: only another leader can make the next change */
	MEMBERSHIP_REPLACE,  /* want the vote of `member` to go to `heir` */
};
struct membership_step {
	enum membership_kind kind;
	const struct membership_member *member; /* borrowed from the picture */
	enum membership_role role;
	const struct membership_member *heir;
};
struct membership_step membership_next(const struct membership *m);

/* Why this member is not yet what is wanted; "" when it is. Static storage or `buf`. */
const char *membership_waits_for(const struct membership *m, const struct membership_member *member, char *buf,
				 size_t size);

/*
 * May the administrator want this now? FAILED_PRECONDITION with the reason: it would cost the quorum, or the replica is
 * not fit to vote. What only the state can know (names, numbers) state_apply() refuses.
 */
enum status_code membership_check(const struct membership *m, const Kds__V1__ChangeReplicaRequest *change,
				  struct status *st) MUST_CHECK;

#endif
