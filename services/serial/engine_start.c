#include "services/serial/engine_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/secret.h"
#include "common/net/conn.h"
#include "services/serial/genesis.h"
#include "services/serial/level.h"
#include "services/serial/restore.h"

#define STATUS_EVERY_MS 500

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
		rv = uv_async_init(&e->loop, &e->wake, engine_on_wake);
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
		engine_learn_genesis(e);
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
	if (rc == STATUS_OK && pthread_create(&e->thread, NULL, engine_run, e) != 0)
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
		engine_close_handles(e);
		uv_run(&e->loop, UV_RUN_DEFAULT);
	}
	/* Behind the thread, which sends through them; their callbacks meet a closed inbox. */
	peers_stop(e->peers);
	if (e->inbox)
		engine_refuse_inbox(e);
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
