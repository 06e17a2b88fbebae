/*
 * What this replica knows of itself and of the others, for any thread: the engine publishes its own status after each
 * turn, peers report theirs. Short critical sections; nothing blocks.
 */
#ifndef SERIAL_VIEW_H
#define SERIAL_VIEW_H

#include "services/serial/agreement.h"
#include "services/serial/engine.h"
#include "services/serial/failover.h"

struct view;

struct view_options {
	uint64_t self;
	const char *cluster;
	const char *rpc_address;             /* ours */
	const struct engine_member *members; /* copied, as the strings are */
	size_t n_members;
	unsigned election_ms; /* a peer that was silent for longer is unreachable */
};

/* NULL: no memory. */
struct view *view_new(const struct view_options *options) MUST_CHECK;
void view_free(struct view *v);

/* From now on these are the members; what was heard of those that stay is kept. Copied. False: no memory, as before. */
bool view_set_members(struct view *v, const struct engine_member *members, size_t n) MUST_CHECK;

/* Our own status; its strings are static. */
void view_publish(struct view *v, const Kds__V1__ReplicaStatus *status);
/* Whether this member votes, as the log's membership says. */
void view_set_voter(struct view *v, uint64_t id, bool voter);
/* Whether this member is to stay one, as its object "replica/<name>" says. */
void view_set_wanted(struct view *v, uint64_t id, bool wanted);
/* Is there a member of this name that is to stay one? */
bool view_has_member(struct view *v, const char *name);
/* A peer spoke; with a status or (NULL) about something else. */
void view_heard(struct view *v, uint64_t from, const Kds__V1__ReplicaStatus *status);

/* Of who leads: when it was last heard of, and whether it says itself that it leads `term` no more. */
void view_leader_facts(struct view *v, uint64_t leader, uint64_t term, uint64_t *ret_heard_ms, bool *ret_resigned);
/* What a member has reported within the last election timeout; lost_term 0 when that is nothing. */
struct failover_voter view_report(struct view *v, uint64_t id);
/* The highest level of commands that every member has said it knows (level.h); 0 while one has said nothing. */
unsigned view_level_known(struct view *v);
/* What the others told of their states; those of another version of the digest are left out. Returns how many. */
#define VIEW_MEMBERS_MAX 64
size_t view_reports(struct view *v, struct agreement_report ret_reports[VIEW_MEMBERS_MAX]);
/* The time that the clocks of the voters agree on (clocks.h); 0: too few of them were heard lately. */
uint64_t view_time(struct view *v);

/* As the log's membership has it; 0: it is not known yet. */
size_t view_count_voters(struct view *v);
/* Was a majority of the voters, ourselves included, heard of within the last election timeout? */
bool view_hears_majority(struct view *v);
bool view_leads(struct view *v);
/* 0: knows none. */
uint64_t view_leader(struct view *v);

/* Where a member serves RPCs; "" while unknown. */
void view_rpc_address(struct view *v, struct peers *peers, uint64_t id, char *buf, size_t size);

/* Connected, and heard of within an election timeout's time. */
bool view_is_reachable(struct view *v, struct peers *peers, uint64_t id);

/* `peers` tells who is connected and where their RPC ports are. NULL: no memory. */
Kds__V1__ViewResponse *view_fill(struct view *v, struct peers *peers) MUST_CHECK;

#endif
