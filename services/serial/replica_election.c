#include "services/serial/replica_internal.h"

#include "common/base/log.h"

/* Standing for election before the timer */

raft_term replica_last_term(const struct replica *r)
{
	struct cached_entry e;
	size_t n;
	if (r->last == r->applied)
		return r->applied_term; /* the log may hold nothing behind a snapshot */
	if (entry_cache_get(r->cache, r->last, &e))
		return e.term;
	const struct store_run *runs = store_runs(r->store, &n);
	return n > 0 && r->written == r->last ? runs[n - 1].term : 0;
}

/*
 * TimeoutNow is what libraft has for it (Ongaro's thesis, §3.10): it skips the pre-vote, and tells the others not to refuse
 * for the sake of a leader whom they have not given up yet. It obeys the leader alone, and when the log is the leader's, so
 * it is told just that.
 */
void replica_stand(struct replica *r)
{
	raft_id leader;
	const char *name;
	raft_leader(&r->raft, &leader, &name);
	if (leader == 0 || leader == r->options.id)
		return;
	struct raft_message m = {
		.type = RAFT_TIMEOUT_NOW,
		.server_id = leader,
		.server_address = "",
		.timeout_now = {
			.term = raft_current_term(&r->raft),
			.last_log_index = r->last,
			.last_log_term = replica_last_term(r),
		},
	};
	struct raft_event event = { .type = RAFT_RECEIVE, .receive = { .message = &m } };
	replica_step(r, &event);
	if (raft_state(&r->raft) != RAFT_FOLLOWER)
		log_info("stands for election term=%llu", raft_current_term(&r->raft));
}

/* The handover of leadership */

static void end_transfer(struct replica *r, const struct status *st, raft_id leader)
{
	engine_transfer_fn done = r->transfer.done;
	r->transfer.done = NULL; /* it may begin another */
	done(r->transfer.arg, st, leader);
}

static bool may_take_over(struct replica *r, const struct raft_server *server)
{
	return server->id != r->options.id && server->role == RAFT_VOTER &&
	       r->options.connected(r->options.arg, server->id);
}

/* libraft's own choice counts voters that cannot be reached. 0: there is none. */
static raft_id most_advanced(struct replica *r)
{
	raft_id best = 0;
	raft_index best_match = 0, match;
	for (unsigned i = 0; i < r->raft.configuration.n; i++) {
		const struct raft_server *server = &r->raft.configuration.servers[i];
		if (!may_take_over(r, server) || raft_match_index(&r->raft, server->id, &match) != 0)
			continue;
		if (best == 0 || match > best_match) {
			best = server->id;
			best_match = match;
		}
	}
	return best;
}

/* OK with whom it goes to; who leads already is one of them. */
static enum status_code choose(struct replica *r, raft_id id, struct status *st, raft_id *ret_to)
{
	if (!r->leads)
		return status_set(st, STATUS_FAILED_PRECONDITION, "this replica does not lead; ask the leader");
	if (r->transfer.done)
		return status_set(st, STATUS_FAILED_PRECONDITION, "the leadership is being handed to replica %llu already",
				  r->transfer.to);
	if (id != 0 && !replica_is_voter(r, id))
		return status_set(st, STATUS_NOT_FOUND, "replica %llu is no voter, so it cannot lead", id);
	raft_id to = id == 0 ? most_advanced(r) : id;
	if (to == 0)
		return status_set(st, STATUS_UNAVAILABLE, "no other voter is connected");
	if (to != r->options.id && !r->options.connected(r->options.arg, to))
		return status_set(st, STATUS_UNAVAILABLE, "replica %llu is not connected", to);
	*ret_to = to;
	return STATUS_OK;
}

/*
 * No more entries are taken from now on, so that the other gets all there are. Then libraft tells it to start an election
 * at once (TimeoutNow). Waiting is not left to libraft: 0.22.1 takes any acknowledgement of the other for its last
 * (replication.c, replicationUpdate()), tells it too early, when it must ignore that, and never again.
 */
void replica_transfer(struct replica *r, raft_id id, engine_transfer_fn done, void *arg)
{
	struct status st = { .code = STATUS_OK };
	raft_id to = 0;
	if (choose(r, id, &st, &to) != STATUS_OK || to == r->options.id) {
		done(arg, &st, to);
		return;
	}
	log_info("hands over to=%llu", to);
	r->transfer.done = done;
	r->transfer.arg = arg;
	r->transfer.to = to;
	r->transfer.told = false;
	r->transfer.until_ms = r->now_ms + r->options.election_ms;
}

void replica_push_transfer(struct replica *r)
{
	raft_index match = 0;
	if (!r->transfer.done || r->transfer.told || !r->leads || r->written < r->last ||
	    raft_match_index(&r->raft, r->transfer.to, &match) != 0 || match != r->last)
		return;
	struct raft_event event = { .type = RAFT_TRANSFER, .transfer = { .server_id = r->transfer.to } };
	if (replica_try_step(r, &event) != 0)
		return; /* it votes no more: that ends in time */
	r->transfer.told = true;
	r->transfer.until_ms = r->now_ms + r->options.election_ms; /* as libraft has it */
}

void replica_follow_transfer(struct replica *r)
{
	if (!r->transfer.done)
		return;
	bool late = r->now_ms >= r->transfer.until_ms;
	struct status st = { .code = STATUS_OK };
	raft_id leader = 0;
	const char *name;
	raft_leader(&r->raft, &leader, &name);
	if (r->leads ? late && raft_transferee(&r->raft) == 0 : leader == 0 && late)
		status_set(&st, r->leads ? STATUS_DEADLINE_EXCEEDED : STATUS_UNAVAILABLE,
			   r->leads ? "replica %llu did not take over in time; this replica still leads"
				    : "replica %llu was to take over, but nobody leads yet",
			   r->transfer.to);
	else if (r->leads || leader == 0)
		return;
	end_transfer(r, &st, leader);
}

void replica_fail_transfer(struct replica *r)
{
	struct status st;
	if (!r->transfer.done)
		return;
	status_set(&st, STATUS_UNAVAILABLE, "this replica is stopping");
	end_transfer(r, &st, 0);
}
