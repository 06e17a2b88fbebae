#include "services/serial/engine_internal.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "services/serial/genesis.h"

/* The turn */

static void refuse_proposal(const struct proposal *p)
{
	struct state_result result = { .field = "" };
	if (p->len > INBOX_COMMAND_MAX)
		status_set(&result.status, STATUS_INVALID_ARGUMENT, "the command has %zu bytes, at most %zu can be replicated",
			   p->len, INBOX_COMMAND_MAX);
	else
		status_set(&result.status, STATUS_RESOURCE_EXHAUSTED, "too many requests wait; try again later");
	p->done(p->arg, &result);
}

static void submit_proposals(struct engine *e, const struct inbox_content *in)
{
	size_t from = 0;
	for (size_t i = 0; i <= in->n_proposals; i++) {
		bool refused = i < in->n_proposals && !in->proposals[i].command;
		if (i < in->n_proposals && !refused)
			continue;
		replica_submit(e->replica, in->proposals + from, i - from);
		from = i + 1;
		if (refused)
			refuse_proposal(&in->proposals[i]);
	}
}

static void start_reads(struct engine *e, const struct inbox_content *in)
{
	struct status full;
	status_set(&full, STATUS_RESOURCE_EXHAUSTED, "too many requests wait; try again later");
	for (size_t i = 0; i < in->n_reads; i++) {
		const struct inbox_read *read = &in->reads[i];
		if (read->refused)
			read->read(read->arg, NULL, &full);
		else if (read->linearizable)
			replica_read(e->replica, read->read, read->arg);
	}
}

static void run_local_reads(struct engine *e, const struct inbox_content *in)
{
	const struct status ok = { .code = STATUS_OK };
	for (size_t i = 0; i < in->n_reads; i++)
		if (!in->reads[i].linearizable && !in->reads[i].refused)
			in->reads[i].read(in->reads[i].arg, e->state, &ok);
}

void engine_learn_genesis(struct engine *e)
{
	struct store_genesis genesis;
	struct status st;
	uint8_t hash[GENESIS_HASH_SIZE];
	if (e->has_genesis || !store_read_genesis(e->store, &genesis))
		return;
	if (genesis_hash(&genesis, &st, hash) != STATUS_OK)
		store_fatal(e->store, st.message);
	peers_set_genesis(e->peers, (struct slice){ hash, sizeof hash });
	genesis_free(&genesis);
	e->has_genesis = true;
}

/*
 * While it does not take part its timers stand still. When the cluster begins they have all run out: the first replica
 * stands for election, and the others give it time to.
 */
static bool may_tick(struct engine *e, uint64_t now)
{
	bool takes_part = members_take_part(e->members);
	if (takes_part && e->tick_from_ms == UINT64_MAX) {
		e->tick_from_ms = now + (e->first ? e->heartbeat_ms : 2 * e->election_ms);
		atomic_store(&e->announce, true);
	}
	if (!takes_part)
		e->tick_from_ms = UINT64_MAX;
	return takes_part && now >= e->tick_from_ms;
}

static void on_timer(uv_timer_t *timer);

static void turn(struct engine *e)
{
	uint64_t gone = engine_gone_leader(e);
	const struct inbox_content *in = inbox_take(e->inbox, replica_waiting(e->replica));
	uint64_t now = clock_monotonic_ms();
	/* Messages before the timer: after a slow disk, heartbeats that wait here count before an election begins. */
	for (size_t i = 0; i < in->n_messages; i++) {
		const struct inbox_message *m = &in->messages[i];
		if (members_receive(e->members, m->from, m->incarnation, m->message))
			replica_receive(e->replica, m->from, m->message, now);
		arena_free(m->arena);
	}
	if (may_tick(e, now))
		replica_tick(e->replica, now);
	start_reads(e, in);
	replica_set_time(e->replica, view_time(e->view));
	submit_proposals(e, in);
	replica_finish(e->replica);
	engine_learn_genesis(e);
	bool again;
	e->members_due_ms = members_turn(e->members, now, &again);
	if (again)
		uv_async_send(&e->wake);
	uint64_t integrity_due = integrity_turn(e->integrity, now);
	bool changed = replica_take_changed(e->replica);
	if (changed && e->changed)
		e->changed(e->arg, e->state, state_revision(e->state));
	run_local_reads(e, in);
	now = clock_monotonic_ms();
	engine_publish_status(e, gone, changed, now);
	uint64_t due = now >= e->tick_from_ms ? replica_due(e->replica) : e->tick_from_ms;
	if (e->status_due_ms < due)
		due = e->status_due_ms;
	if (e->failover_due_ms < due)
		due = e->failover_due_ms;
	if (e->members_due_ms < due)
		due = e->members_due_ms;
	if (integrity_due < due)
		due = integrity_due;
	uv_update_time(&e->loop);
	uv_timer_start(&e->timer, on_timer, due > now ? due - now : 1, 0);
}

void engine_close_handles(struct engine *e)
{
	uv_close((uv_handle_t *)&e->wake, NULL);
	uv_close((uv_handle_t *)&e->timer, NULL);
}

void engine_on_wake(uv_async_t *wake)
{
	struct engine *e = wake->data;
	if (atomic_load(&e->stopping))
		engine_close_handles(e);
	else
		turn(e);
}

static void on_timer(uv_timer_t *timer)
{
	struct engine *e = timer->data;
	if (!atomic_load(&e->stopping))
		turn(e);
}

void engine_refuse_inbox(struct engine *e)
{
	inbox_close(e->inbox);
	const struct inbox_content *in = inbox_take(e->inbox, 0);
	struct state_result result = { .field = "" };
	status_set(&result.status, STATUS_UNAVAILABLE, "this replica is stopping; try again");
	for (size_t i = 0; i < in->n_proposals; i++)
		in->proposals[i].done(in->proposals[i].arg, &result);
	for (size_t i = 0; i < in->n_reads; i++)
		in->reads[i].read(in->reads[i].arg, NULL, &result.status);
	for (size_t i = 0; i < in->n_messages; i++)
		arena_free(in->messages[i].arena);
}

void *engine_run(void *arg)
{
	struct engine *e = arg;
	if (e->changed)
		e->changed(e->arg, e->state, state_revision(e->state));
	turn(e);
	uv_run(&e->loop, UV_RUN_DEFAULT);
	engine_refuse_inbox(e);
	replica_free(e->replica);
	e->replica = NULL;
	return NULL;
}

/* What other threads may ask */

void engine_propose(struct engine *e, Kds__V1__Command *command, engine_done_fn done, void *arg)
{
	struct state_result result = { .field = "" };
	if (command->version > atomic_load(&e->level)) {
		status_set(&result.status, STATUS_FAILED_PRECONDITION,
			   "not all replicas run a version that can do this; install it on each");
		done(arg, &result);
		return;
	}
	if (inbox_propose(e->inbox, command, done, arg))
		return;
	status_set(&result.status, STATUS_UNAVAILABLE, "this replica is stopping or out of memory; try again");
	done(arg, &result);
}

unsigned engine_level(struct engine *e)
{
	return atomic_load(&e->level);
}

void engine_read(struct engine *e, bool linearizable, engine_read_fn read, void *arg)
{
	if (inbox_read(e->inbox, linearizable, read, arg))
		return;
	struct status st;
	status_set(&st, STATUS_UNAVAILABLE, "this replica is stopping or out of memory; try again");
	read(arg, NULL, &st);
}

/* On its way to the engine's thread. */
struct transfer {
	struct engine *engine;
	uint64_t id;
	engine_transfer_fn done;
	void *arg;
};

static void begin_transfer(void *arg, struct state *state, const struct status *st)
{
	struct transfer *t = arg;
	struct status idle;
	if (state && !members_take_part(t->engine->members)) {
		status_set(&idle, STATUS_UNAVAILABLE, "this replica does not take part in the cluster");
		t->done(t->arg, &idle, 0);
	} else if (state) {
		replica_transfer(t->engine->replica, t->id, t->done, t->arg);
		uv_async_send(&t->engine->wake); /* what is to be sent leaves with the next turn */
	} else {
		t->done(t->arg, st, 0);
	}
	free(t);
}

void engine_transfer(struct engine *e, uint64_t id, engine_transfer_fn done, void *arg)
{
	struct transfer *t = malloc(sizeof *t);
	if (!t) {
		struct status st;
		status_set(&st, STATUS_RESOURCE_EXHAUSTED, "hand over the leadership: out of memory");
		done(arg, &st, 0);
		return;
	}
	*t = (struct transfer){ .engine = e, .id = id, .done = done, .arg = arg };
	engine_read(e, false, begin_transfer, t);
}

uint64_t engine_age_ms(struct engine *e)
{
	uint64_t fresh = atomic_load(&e->fresh_ms), now = clock_monotonic_ms();
	return fresh == 0 ? UINT64_MAX : now > fresh ? now - fresh : 0; /* a leader's is in the future */
}

enum status_code engine_check_change(struct engine *e, const Kds__V1__ChangeReplicaRequest *change, struct status *st)
{
	return members_check(e->members, change, st);
}

enum status_code engine_members(struct engine *e, struct status *st, struct buffer *out)
{
	return members_list(e->members, st, out);
}

uint64_t engine_member_id(struct engine *e, const char *name)
{
	return members_id(e->members, name);
}

bool engine_is_leader(struct engine *e)
{
	return view_leads(e->view);
}

bool engine_leader(struct engine *e, uint64_t *ret_id, char *rpc_address, size_t size)
{
	uint64_t id = view_leader(e->view);
	if (id == 0)
		return false;
	*ret_id = id;
	view_rpc_address(e->view, e->peers, id, rpc_address, size);
	return true;
}

bool engine_has_member(struct engine *e, const char *name)
{
	return view_has_member(e->view, name);
}

size_t engine_count_voters(struct engine *e)
{
	return view_count_voters(e->view);
}

bool engine_hears_majority(struct engine *e)
{
	return view_hears_majority(e->view);
}

Kds__V1__ViewResponse *engine_view(struct engine *e)
{
	return view_fill(e->view, e->peers);
}

void engine_recheck(struct engine *e)
{
	peers_recheck(e->peers);
}

void engine_set_credentials(struct engine *e, struct tls_credentials *credentials)
{
	peers_set_credentials(e->peers, credentials);
}
