#include "services/serial/engine.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <uv.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/secret.h"
#include "common/rpc/message.h"
#include "common/net/conn.h"
#include "services/serial/genesis.h"
#include "services/serial/inbox.h"
#include "services/serial/integrity.h"
#include "services/serial/level.h"
#include "services/serial/members.h"
#include "services/serial/replica.h"
#include "services/serial/restore.h"
#include "services/serial/view.h"

#define STATUS_EVERY_MS 500

struct engine {
	struct store *store;
	struct state *state;
	struct replica *replica;
	struct inbox *inbox;
	struct view *view;
	struct peers *peers;
	struct integrity *integrity;
	char *data_dir;
	void (*changed)(void *arg, struct state *state, uint64_t revision);
	void (*leader_changed)(void *arg);
	void (*ended)(void *arg, const char *why);
	void *arg;

	uv_loop_t loop;
	uv_async_t wake;
	uv_timer_t timer;
	pthread_t thread;
	atomic_bool stopping;
	atomic_bool reported; /* a peer has lost its leader, or a stream broke */
	atomic_uint level;    /* of the state (level.h) */
	_Atomic uint64_t fresh_ms; /* replica_fresh_ms() */
	atomic_bool announce; /* a peer came up: it wants to hear how we are */
	bool loop_ready, handles_ready, thread_ready;

	/* The thread's own. */
	Kds__V1__ReplicaStatus status;
	bool raising; /* a RaiseLevel of ours is on its way */
	unsigned status_every_ms;
	uint64_t status_due_ms;
	struct failover failover;
	uint64_t failover_due_ms;
	uint64_t leader_id; /* as Raft has it; 0: none. status.leader_id is 0 also when it is lost */
	struct buffer scratch;
	struct members *members;
	uint64_t tick_from_ms; /* UINT64_MAX: it does not take part yet */
	bool first;            /* it stands for election first when the cluster begins */
	unsigned election_ms, heartbeat_ms;
	uint64_t members_due_ms;
	bool has_genesis; /* and the peers know it */
};

/* What the replica and the peers call */

static bool on_connected(void *arg, raft_id to)
{
	struct engine *e = arg;
	return peers_connected(e->peers, to);
}

static void on_send(void *arg, raft_id to, struct slice message)
{
	struct engine *e = arg;
	(void)peers_send(e->peers, to, message); /* dropped when it is gone: Raft sends again */
}

/* Something may speak for or against the leader. */
static void look_for_leader(struct engine *e)
{
	atomic_store(&e->reported, true);
	uv_async_send(&e->wake);
}

static void on_answering(void *arg, bool begins)
{
	(void)arg;
	if (begins)
		conn_hold();
	else
		conn_release();
}

static void on_message(void *arg, const struct peers_sender *sender, struct arena *arena,
		       const Kds__V1__PeerMessage *message, size_t size)
{
	uint64_t from = sender->id;
	struct engine *e = arg;
	bool is_status = message->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_STATUS;
	view_heard(e->view, from, is_status ? message->status : NULL);
	if (is_status) {
		if (message->status->lost_term != 0 || message->status->role == KDS__V1__RAFT_ROLE__RAFT_ROLE_FOLLOWER)
			look_for_leader(e);
		struct status st;
		if (level_check_state(message->status->level, &st) != STATUS_OK)
			store_fatal(e->store, st.message); /* it was away when they agreed */
		arena_free(arena);
		return;
	}
	const struct inbox_message m = {
		.from = from,
		.incarnation = sender->incarnation,
		.arena = arena,
		.message = message,
		.size = size,
	};
	inbox_receive(e->inbox, &m);
}

static void on_link(void *arg, uint64_t peer, bool outgoing, bool up)
{
	struct engine *e = arg;
	/* Its stream to us says more than ours to it: it has accepted who we are, and we who it is. */
	log_write(outgoing ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, "%s replica=%" PRIu64 " direction=%s",
		  up ? "connected" : "disconnected", peer, outgoing ? "to" : "from");
	if (outgoing && up) {
		atomic_store(&e->announce, true);
		uv_async_send(&e->wake);
	} else if (!up) {
		look_for_leader(e);
	}
}

static void on_inbox(void *arg)
{
	struct engine *e = arg;
	uv_async_send(&e->wake);
}

/* The turn */

static void send_standing(struct engine *e, uint64_t id)
{
	Kds__V1__Standing standing;
	members_standing(e->members, id, &standing);
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_STANDING;
	m.standing = &standing;
	struct buffer packed = { 0 };
	struct status st;
	if (message_pack(&m.base, &packed, &st) == STATUS_OK)
		(void)peers_send(e->peers, id, (struct slice){ packed.data, packed.len });
	buffer_free(&packed);
}

static void send_status(struct engine *e)
{
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_STATUS;
	m.status = &e->status;
	e->scratch.len = 0;
	if (!buffer_reserve(&e->scratch, kds__v1__peer_message__get_packed_size(&m)))
		return;
	e->scratch.len = kds__v1__peer_message__pack(&m, e->scratch.data);
	size_t n;
	const uint64_t *ids = members_ids(e->members, &n);
	for (size_t i = 0; i < n; i++) {
		if (ids[i] == e->status.id)
			continue;
		(void)peers_send(e->peers, ids[i], (struct slice){ e->scratch.data, e->scratch.len });
		send_standing(e, ids[i]);
	}
}

/* The leader whose streams had all broken before this turn's messages were taken: what it sent before is known. */
static uint64_t gone_leader(struct engine *e)
{
	uint64_t leader = e->leader_id;
	return leader != 0 && leader != e->status.id && peers_gone(e->peers, leader) ? leader : 0;
}

/* Has the leader been lost, and is it on us to replace it? After replica_status(). */
static void watch_leader(struct engine *e, uint64_t gone, uint64_t now)
{
	struct failover_voter others[FAILOVER_VOTERS_MAX];
	raft_id ids[FAILOVER_VOTERS_MAX];
	size_t n_ids = replica_voters(e->replica, ids, FAILOVER_VOTERS_MAX);
	e->leader_id = e->status.leader_id;
	struct failover_facts facts = {
		.now_ms = now,
		.term = e->status.term,
		.leader = e->leader_id,
		.gone = gone != 0 && gone == e->leader_id,
		.last_term = e->status.last_term,
		.last_index = e->status.last_index,
		.others = others,
	};
	for (size_t i = 0; i < n_ids; i++) {
		if (ids[i] == e->status.id)
			facts.votes = true;
		else
			others[facts.n_others++] = view_report(e->view, ids[i]);
	}
	view_leader_facts(e->view, facts.leader, facts.term, &facts.heard_ms, &facts.resigned);
	struct failover_advice advice = failover_advise(&e->failover, &facts);
	if (advice.lost_term != 0 && advice.lost_term != e->status.lost_term)
		log_info("lost the leader term=%" PRIu64 " leader=%" PRIu64 " because=%s", advice.lost_term, facts.leader,
			 facts.gone ? "gone" : facts.resigned ? "resigned" : "silent");
	e->status.lost_term = advice.lost_term;
	e->failover_due_ms = advice.due_ms;
	if (advice.stand && members_take_part(e->members)) {
		replica_stand(e->replica);
		replica_finish(e->replica);
		replica_status(e->replica, &e->status);
		e->leader_id = e->status.leader_id;
	}
}

static void level_raised(void *arg, const struct state_result *result)
{
	struct engine *e = arg;
	e->raising = false;
	if (result->status.code != STATUS_OK)
		log_debug("the level of commands was not raised: %s", result->status.message);
}

/* Once every replica has a version that knows more, the cluster uses it (level.h). */
static void raise_level(struct engine *e)
{
	unsigned known = view_level_known(e->view);
	if (!replica_leads(e->replica) || e->raising || e->status.level == 0 || known <= e->status.level)
		return;
	log_info("every replica knows commands of level %u: they are in use from now on", known);
	Kds__V1__RaiseLevel raise = KDS__V1__RAISE_LEVEL__INIT;
	raise.level = known;
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	command.requester = (char *)"kds-serial"; /* packing only reads */
	command.op_case = KDS__V1__COMMAND__OP_RAISE_LEVEL;
	command.raise_level = &raise;
	e->raising = true;
	engine_propose(e, &command, level_raised, e);
}

/* Of the file system that the database is on. */
static void measure_disk(struct engine *e)
{
	struct statvfs fs;
	if (statvfs(e->data_dir, &fs) != 0)
		return;
	e->status.free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	e->status.total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
}

static void publish_status(struct engine *e, uint64_t gone, bool changed, uint64_t now)
{
	if (now >= e->status_due_ms)
		measure_disk(e);
	Kds__V1__RaftRole role = e->status.role;
	uint64_t term = e->status.term, leader = e->status.leader_id, lost = e->status.lost_term;
	replica_status(e->replica, &e->status);
	bool new_leader = e->status.leader_id != e->leader_id || e->status.term != term;
	if (atomic_exchange(&e->reported, false) || gone || new_leader || e->failover.lost_term != 0 ||
	    now >= e->failover_due_ms)
		watch_leader(e, gone, now);
	if (e->status.lost_term != 0)
		e->status.leader_id = 0;
	e->status.time_ms = clock_unix_ms();
	e->status.scanned_ms = integrity_scanned_ms(e->integrity);
	if (changed || e->status.revision == 0) { /* 0: just started */
		Kds__V1__SerialStatus serials;
		state_serial_status(e->state, &serials);
		e->status.last_serial = serials.last_serial;
		e->status.min_serial = serials.min_serial;
		e->status.revision = serials.revision;
		e->status.level = state_level(e->state);
		atomic_store(&e->level, e->status.level);
		peers_set_level(e->peers, e->status.level);
	}
	atomic_store(&e->fresh_ms, replica_fresh_ms(e->replica));
	view_publish(e->view, &e->status);
	bool news = role != e->status.role || term != e->status.term || leader != e->status.leader_id ||
		    lost != e->status.lost_term;
	if (news && e->leader_changed)
		e->leader_changed(e->arg);
	if (!atomic_exchange(&e->announce, false) && !news && now < e->status_due_ms)
		return;
	e->status_due_ms = now + e->status_every_ms;
	send_status(e);
	raise_level(e);
}

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

/* A replica that was added has its first entries now, and with them its place in one cluster for good. */
static void learn_genesis(struct engine *e)
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
	uint64_t gone = gone_leader(e);
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
	learn_genesis(e);
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
	publish_status(e, gone, changed, now);
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

static void close_handles(struct engine *e)
{
	uv_close((uv_handle_t *)&e->wake, NULL);
	uv_close((uv_handle_t *)&e->timer, NULL);
}

static void on_wake(uv_async_t *wake)
{
	struct engine *e = wake->data;
	if (atomic_load(&e->stopping))
		close_handles(e);
	else
		turn(e);
}

static void on_timer(uv_timer_t *timer)
{
	struct engine *e = timer->data;
	if (!atomic_load(&e->stopping))
		turn(e);
}

/* Everything that is still in the inbox when the engine ends. */
static void refuse_inbox(struct engine *e)
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

static void *run(void *arg)
{
	struct engine *e = arg;
	if (e->changed)
		e->changed(e->arg, e->state, state_revision(e->state));
	turn(e);
	uv_run(&e->loop, UV_RUN_DEFAULT);
	refuse_inbox(e);
	replica_free(e->replica);
	e->replica = NULL;
	return NULL;
}

/* Start and stop */

/* The first entries of an empty log; of one with a backup to begin with, also its state. */
static enum status_code begin_log(struct engine *e, const struct engine_options *o, struct status *st)
{
	if (o->restore)
		return restore_begin(e->store, o->restore, o, st);
	struct store_genesis configured;
	enum status_code rc = genesis_make(o, st, &configured);
	if (rc != STATUS_OK)
		return rc;
	store_create_log(e->store, &configured);
	genesis_free(&configured);
	return STATUS_OK;
}

static enum status_code check_begun(const struct store_genesis *stored, const struct engine_options *o,
				    struct status *st)
{
	struct store_genesis configured;
	enum status_code rc = genesis_make_like(stored, o, st, &configured);
	if (rc != STATUS_OK)
		return rc;
	rc = genesis_compare(stored, &configured, st);
	genesis_free(&configured);
	return rc == STATUS_OK && o->restore ? restore_check(stored, st) : rc;
}

/* Does the log begin as the configuration file says? A replica that was added has perhaps nothing yet. */
static enum status_code check_log(struct engine *e, const struct engine_options *o, struct status *st)
{
	struct store_genesis stored;
	if (!store_read_genesis(e->store, &stored))
		return o->join ? STATUS_OK : begin_log(e, o, st);
	enum status_code rc = o->join ? genesis_compare_names(&stored, o, st) : check_begun(&stored, o, st);
	genesis_free(&stored);
	return rc;
}

static enum status_code open_log(struct engine *e, const struct engine_options *o, struct status *st)
{
	const struct store_identity id = { .cluster_id = o->cluster_id, .replica_id = o->id };
	enum status_code rc = store_open(o->data_dir, &id, st, &e->store);
	if (rc == STATUS_OK)
		rc = check_log(e, o, st);
	return rc == STATUS_OK ? state_open(store_sqlite(e->store), st, &e->state) : rc;
}

static enum status_code start_replica(struct engine *e, const struct engine_options *o, struct status *st)
{
	struct replica_options r = {
		.id = o->id,
		.store = e->store,
		.state = e->state,
		.election_ms = o->election_ms,
		.heartbeat_ms = o->heartbeat_ms,
		.log_tail = o->log_tail,
		.now_ms = clock_monotonic_ms(),
		.connected = on_connected,
		.send = on_send,
		.answering = on_answering,
		.arg = e,
	};
	enum status_code rc = secret_random(&r.seed, sizeof r.seed, st);
	if (rc == STATUS_OK)
		rc = replica_new(&r, st, &e->replica);
	if (rc != STATUS_OK)
		return rc;
	const struct integrity_options i = {
		.store = e->store,
		.state = e->state,
		.replica = e->replica,
		.view = e->view,
	};
	e->integrity = integrity_new(&i);
	return e->integrity ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the replica: out of memory");
}

static enum status_code start_loop(struct engine *e, struct status *st)
{
	int rv = uv_loop_init(&e->loop);
	if (rv != 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the engine's loop: %s", uv_strerror(rv));
	e->loop_ready = true;
	rv = uv_timer_init(&e->loop, &e->timer);
	if (rv == 0)
		rv = uv_async_init(&e->loop, &e->wake, on_wake);
	if (rv != 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the engine's loop: %s", uv_strerror(rv));
	e->handles_ready = true;
	e->wake.data = e->timer.data = e;
	return STATUS_OK;
}

static enum status_code start_view(struct engine *e, const struct engine_options *o, struct status *st)
{
	const struct view_options v = {
		.self = o->id,
		.cluster = o->cluster,
		.rpc_address = o->rpc_address,
		.members = o->members,
		.n_members = o->n_members,
		.election_ms = o->election_ms,
	};
	e->view = view_new(&v);
	e->inbox = inbox_new(on_inbox, e);
	e->data_dir = strdup(o->data_dir);
	if (!e->view || !e->inbox || !e->data_dir)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the engine: out of memory");
	kds__v1__replica_status__init(&e->status);
	e->status.id = o->id;
	e->status.level_known = level_known();
	e->status.version = (char *)KDS_VERSION; /* only read */
	failover_init(&e->failover, o->id, o->election_ms, o->heartbeat_ms);
	e->failover_due_ms = UINT64_MAX;
	e->status_every_ms = o->election_ms / 2 < STATUS_EVERY_MS ? o->election_ms / 2 : STATUS_EVERY_MS;
	return STATUS_OK;
}

static enum status_code start_peers(struct engine *e, const struct engine_options *o, struct status *st)
{
	struct peers_member *members = calloc(o->n_members, sizeof *members);
	if (!members)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the peers: out of memory");
	for (size_t i = 0; i < o->n_members; i++)
		members[i] = (struct peers_member){ o->members[i].id, o->members[i].name, o->members[i].address };
	const struct peers_options p = {
		.self = o->id,
		.listen = o->peer_listen,
		.rpc_address = o->rpc_address,
		.cluster_id = o->cluster_id,
		.incarnation = store_incarnation(e->store),
		.credentials = o->credentials,
		.trust = o->trust,
		.members = members,
		.n_members = o->n_members,
		.message = on_message,
		.link = on_link,
		.arg = e,
	};
	enum status_code rc = peers_start(&p, st, &e->peers);
	free(members);
	if (rc == STATUS_OK)
		learn_genesis(e);
	return rc;
}

static void propose(void *arg, Kds__V1__Command *command, engine_done_fn done, void *done_arg)
{
	engine_propose(arg, command, done, done_arg);
}

static void on_ended(void *arg, const char *why)
{
	struct engine *e = arg;
	log_error("%s", why);
	replica_fail_transfer(e->replica); /* time stands still for it from now on */
	if (e->ended)
		e->ended(e->arg, why);
}

static enum status_code start_members(struct engine *e, const struct engine_options *o, struct status *st)
{
	const struct members_options m = {
		.self = o->id,
		.joins = o->join,
		.configured = o->members,
		.n_configured = o->n_members,
		.election_ms = o->election_ms,
		.store = e->store,
		.replica = e->replica,
		.state = e->state,
		.peers = e->peers,
		.view = e->view,
		.propose = propose,
		.ended = on_ended,
		.arg = e,
	};
	e->first = true;
	for (size_t i = 0; i < o->n_members; i++)
		e->first = e->first && o->id <= o->members[i].id;
	e->election_ms = o->election_ms;
	e->heartbeat_ms = o->heartbeat_ms;
	e->members = members_new(&m);
	return e->members ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the engine: out of memory");
}

static enum status_code check_options(const struct engine_options *o, struct status *st)
{
	if (o->heartbeat_ms == 0 || o->election_ms < 2 * o->heartbeat_ms || o->election_ms > 3600000)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "election-timeout (%u ms) must be at least twice the heartbeat (%u ms), which must not be 0; "
				  "1000 and 100 are good values",
				  o->election_ms, o->heartbeat_ms);
	return STATUS_OK;
}

enum status_code engine_start(const struct engine_options *o, struct status *st, struct engine **ret_engine)
{
	enum status_code rc = check_options(o, st);
	if (rc != STATUS_OK)
		return rc;
	struct engine *e = calloc(1, sizeof *e);
	if (!e)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the engine: out of memory");
	e->changed = o->changed;
	e->leader_changed = o->leader_changed;
	e->ended = o->ended;
	e->arg = o->arg;
	rc = open_log(e, o, st);
	if (rc == STATUS_OK)
		rc = start_loop(e, st);
	if (rc == STATUS_OK)
		rc = start_view(e, o, st);
	if (rc == STATUS_OK)
		rc = start_replica(e, o, st);
	if (rc == STATUS_OK)
		rc = start_peers(e, o, st);
	if (rc == STATUS_OK)
		rc = start_members(e, o, st);
	if (rc == STATUS_OK && pthread_create(&e->thread, NULL, run, e) != 0)
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the engine: no thread");
	if (rc != STATUS_OK) {
		engine_stop(e);
		return rc;
	}
	e->thread_ready = true;
	*ret_engine = e;
	return STATUS_OK;
}

void engine_stop(struct engine *e)
{
	if (!e)
		return;
	atomic_store(&e->stopping, true);
	if (e->thread_ready) {
		uv_async_send(&e->wake);
		pthread_join(e->thread, NULL);
	} else if (e->handles_ready) {
		close_handles(e);
		uv_run(&e->loop, UV_RUN_DEFAULT);
	}
	/* Behind the thread, which sends through them; their callbacks meet a closed inbox. */
	peers_stop(e->peers);
	if (e->inbox)
		refuse_inbox(e);
	replica_free(e->replica);
	members_free(e->members);
	integrity_free(e->integrity);
	inbox_free(e->inbox);
	view_free(e->view);
	state_close(e->state);
	store_close(e->store);
	if (e->loop_ready)
		uv_loop_close(&e->loop);
	buffer_free(&e->scratch);
	free(e->data_dir);
	free(e);
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
