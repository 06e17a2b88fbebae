/* kds-serial: one replica of the cluster's serial numbers, configuration and records. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/daemon/daemon.h"
#include "services/serial/api.h"
#include "services/serial/config.h"
#include "services/serial/publish.h"
#include "services/serial/recover.h"

static struct recover_arguments recover_arguments;

static const struct daemon_program program = {
	.name = "kds-serial",
	.purpose = "Replicates a cluster's serial numbers, configuration and records of certificates.",
	.own = serial_options,
	.default_port = 7400,
	.arguments = &recover_argp,
	.arguments_input = &recover_arguments,
};

struct serial {
	struct daemon_options options;
	struct serial_config config;
	struct daemon *daemon;
	struct engine *engine;
	struct forward *forward;
	struct watch *watch;
	struct publish *publish;
	struct backup *backup;
	struct api *api;
	atomic_bool ended;
};

/* Apart from those of a failed start and of a disk that fails: whoever restarts the process need not. */
#define EXIT_NO_MEMBER 4

/* On the engine's thread, after each turn that changed something. */
static void state_changed(void *arg, struct state *state, uint64_t revision)
{
	(void)state;
	struct serial *s = arg;
	watch_changed(s->watch, revision);
	publish_changed(s->publish, revision);
}

static void leader_changed(void *arg)
{
	struct serial *s = arg;
	forward_leader_changed(s->forward);
}

static void ended(void *arg, const char *why)
{
	(void)why;
	struct serial *s = arg;
	atomic_store(&s->ended, true);
	daemon_stop(s->daemon);
}

static bool is_ready(void *arg, char *reason, size_t size)
{
	struct serial *s = arg;
	char address[300];
	uint64_t id;
	if (engine_leader(s->engine, &id, address, sizeof address))
		return true;
	size_t voters = engine_count_voters(s->engine);
	if (voters == 0)
		snprintf(reason, size, "no leader: this replica has not heard from the others yet");
	else
		snprintf(reason, size, "no leader: a majority of the %zu replicas that vote must run and reach each other", voters);
	return false;
}

static void credentials_changed(void *arg, struct tls_credentials *credentials)
{
	struct serial *s = arg;
	engine_set_credentials(s->engine, credentials);
	forward_set_credentials(s->forward, credentials);
}

struct handover {
	pthread_mutex_t mutex;
	pthread_cond_t over;
	bool done;
};

static void handed_over(void *arg, const struct status *st, uint64_t leader)
{
	struct handover *h = arg;
	if (st->code == STATUS_OK)
		log_info("handed over leader=%" PRIu64, leader);
	else
		log_warning("hand over the leadership: %s", st->message);
	pthread_mutex_lock(&h->mutex);
	h->done = true;
	pthread_cond_signal(&h->over);
	pthread_mutex_unlock(&h->mutex);
}

/* A leader that just went away would cost the others an election. */
static void hand_over(void *arg)
{
	struct serial *s = arg;
	/* One that was removed hears the others no more. */
	if (atomic_load(&s->ended) || !engine_is_leader(s->engine) || engine_count_voters(s->engine) < 2)
		return;
	struct handover h = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false };
	engine_transfer(s->engine, 0, handed_over, &h);
	pthread_mutex_lock(&h.mutex);
	while (!h.done) /* the engine bounds it */
		pthread_cond_wait(&h.over, &h.mutex);
	pthread_mutex_unlock(&h.mutex);
}

static struct engine_options engine_options(struct serial *s)
{
	const struct daemon_options *o = &s->options;
	return (struct engine_options){
		.id = s->config.id,
		.join = s->config.join,
		.data_dir = s->config.data_dir,
		.peer_listen = s->config.peer_listen,
		.rpc_address = s->config.rpc_address,
		.cluster = o->cluster,
		.kds_name = o->kds_name,
		.cluster_id = o->cluster_id,
		.members = s->config.members,
		.n_members = s->config.n_members,
		.restore = s->config.restore,
		.election_ms = s->config.election_ms,
		.heartbeat_ms = s->config.heartbeat_ms,
		.log_tail = s->config.log_tail,
		.credentials = daemon_credentials(s->daemon),
		.trust = daemon_trust(s->daemon),
		.changed = state_changed,
		.leader_changed = leader_changed,
		.ended = ended,
		.arg = s,
	};
}

static enum status_code start_engine(struct serial *s, struct status *st)
{
	const struct engine_options options = engine_options(s);
	return engine_start(&options, st, &s->engine);
}

static enum status_code start_backup(struct serial *s, struct status *st)
{
	const struct backup_options options = { .data_dir = s->config.data_dir, .replica = s->options.name };
	return backup_new(&options, st, &s->backup);
}

/* The trust is in force before the first peer may call. */
static enum status_code start(struct serial *s, struct status *st)
{
	struct rpc_server *server = daemon_server(s->daemon);
	enum status_code rc = watch_new(st, &s->watch);
	if (rc == STATUS_OK)
		rc = publish_new(st, &s->publish);
	if (rc == STATUS_OK)
		rc = forward_new(daemon_credentials(s->daemon), daemon_trust(s->daemon), 2 * s->config.election_ms, st,
				 &s->forward);
	if (rc == STATUS_OK)
		rc = start_engine(s, st);
	if (rc == STATUS_OK)
		rc = publish_start(s->publish, s->engine, s->daemon, s->config.data_dir, st);
	if (rc == STATUS_OK)
		rc = watch_start(s->watch, s->engine, st);
	if (rc == STATUS_OK)
		rc = forward_start(s->forward, s->engine, st);
	if (rc == STATUS_OK)
		rc = start_backup(s, st);
	if (rc == STATUS_OK)
		rc = api_new(server, s->engine, s->forward, s->watch, s->backup, daemon_trust(s->daemon), st, &s->api);
	if (rc != STATUS_OK)
		return rc;
	daemon_set_ready(s->daemon, is_ready, s);
	daemon_set_reload(s->daemon, credentials_changed, s);
	daemon_set_hand_over(s->daemon, hand_over, s);
	daemon_set_allow(s->daemon, SERIAL_PORT_ROLES);
	return daemon_listen(s->daemon, st);
}

/* After the RPC port was closed: every call is answered here, none comes any more. */
static void stop(struct serial *s)
{
	watch_stop(s->watch);
	publish_stop(s->publish);
	forward_stop(s->forward);
	backup_free(s->backup);
	if (s->engine)
		engine_stop(s->engine);
	daemon_free(s->daemon);
	forward_free(s->forward);
	api_free(s->api);
	watch_free(s->watch);
	publish_free(s->publish);
	serial_config_fini(&s->config);
	daemon_options_free(&s->options);
}

static enum status_code run(struct serial *s, struct status *st)
{
	enum status_code rc = serial_config_read(&s->options, st, &s->config);
	if (rc == STATUS_OK)
		rc = daemon_new(&s->options, st, &s->daemon);
	if (rc != STATUS_OK)
		return rc;
	if (s->options.check_only) {
		const struct store_identity identity = { s->options.cluster_id, s->config.id };
		rc = store_check(s->config.data_dir, &identity, st);
		if (rc == STATUS_OK)
			daemon_checked(&s->options);
		return rc;
	}
	if (recover_arguments.recover) {
		const struct engine_options options = engine_options(s);
		return recover_run(&recover_arguments, &options, s->options.name, st);
	}
	rc = start(s, st);
	if (rc == STATUS_OK) {
		log_info("ready listen=%s", s->options.listen);
		daemon_run(s->daemon);
	}
	return rc;
}

int main(int argc, char **argv)
{
	struct serial s = { .options = { .program = program.name } };
	struct status st;
	enum status_code rc = daemon_options_parse(&program, argc, argv, &st, &s.options);
	if (rc == STATUS_OK)
		rc = run(&s, &st);
	int exit_status = rc == STATUS_OK ? 0 : daemon_start_failed(&s.options, &st);
	stop(&s);
	if (exit_status == 0 && atomic_load(&s.ended))
		return EXIT_NO_MEMBER;
	return exit_status;
}
