#include "common/daemon/daemon.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "common/base/file_trust.h"
#include "common/base/tally.h"
#include "common/daemon/health.h"
#include "common/daemon/process.h"
#include "common/daemon/self.h"

#define CA_FILE_MAX (1 << 20)
/* How often the main thread looks after what no event tells of. */
#define TICK_S 2
#define REPORT_TICKS 5 /* so often what was refused is logged, if anything was */
/* Connections and calls in one tick that leave enough freed memory behind to be worth looking for. */
#define TICK_BUSY 100
/* So long the calls at hand are waited for when the daemon stops: who waits longer asks another, as after a crash. */
#define DRAIN_MS 2000

struct daemon {
	const struct daemon_options *options;
	struct tls_credentials *credentials; /* the main thread's alone */
	struct trust *trust;
	struct rpc_server *server;
	struct health *health;
	daemon_reload_fn reload;
	void *reload_arg;
	void (*hand_over)(void *arg);
	void *hand_over_arg;
	unsigned allow_roles;
	pthread_mutex_t lock;                /* of the listener: it is gone while others still ask */
	struct listener *listener;
	uint64_t work;                       /* done until the last tick; the main thread's alone, as the next */
	bool busy;                           /* there was much of it */
	unsigned ticks;
};

static void handled_signals(sigset_t *ret_set)
{
	sigemptyset(ret_set);
	sigaddset(ret_set, SIGTERM);
	sigaddset(ret_set, SIGINT);
	sigaddset(ret_set, SIGHUP);
}

static void prepare_process(void)
{
	sigset_t set;
	handled_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL); /* threads inherit it; daemon_run() takes them from there */
	signal(SIGPIPE, SIG_IGN);

	/* A connection is a descriptor: the soft limit (1024) is there for programs that use select(). */
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
	/* malloc's arena a thread would keep memory that one burst needed, once for each of NNG's threads. */
	mallopt(M_ARENA_MAX, 2);
	mallopt(M_TRIM_THRESHOLD, 1 << 20);
}

static enum status_code load_trust(const struct daemon_options *o, struct status *st, struct trust **ret_trust)
{
	struct buffer pem = { 0 };
	enum status_code rc = file_trust_read(o->ca, CA_FILE_MAX, st, &pem);
	if (rc == STATUS_OK)
		rc = trust_new(o->cluster, o->kds_name, &(struct slice){ pem.data, pem.len }, st, ret_trust);
	if (rc != STATUS_OK)
		status_prefix(st, "option 'ca' in %s", o->config_file);
	buffer_free(&pem);
	return rc;
}

static enum status_code load_credentials(const struct daemon_options *o, struct trust *trust, struct status *st,
					 struct tls_credentials **ret_credentials)
{
	struct tls_credentials *credentials;
	enum status_code rc = tls_credentials_load(o->certificate, o->key, o->tls_minimum, st, &credentials);
	if (rc != STATUS_OK) {
		status_prefix(st, "options 'certificate' and 'key' in %s", o->config_file);
		return rc;
	}
	rc = self_check(o, trust, st);
	if (rc == STATUS_OK)
		*ret_credentials = credentials;
	else
		tls_credentials_unref(credentials);
	return rc;
}

static void log_credentials(const struct daemon_options *o, struct tls_credentials *credentials)
{
	time_t not_after = (time_t)tls_credentials_not_after(credentials);
	struct tm tm;
	char until[32] = "?";
	if (gmtime_r(&not_after, &tm))
		strftime(until, sizeof until, "%Y-%m-%dT%H:%M:%SZ", &tm);
	log_info("certificate file=%s expires=%s", o->certificate, until);
}

enum status_code daemon_new(const struct daemon_options *options, struct status *st, struct daemon **ret_daemon)
{
	prepare_process();
	process_protect();
	struct daemon *d = calloc(1, sizeof *d);
	if (!d)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start: out of memory");
	d->options = options;
	pthread_mutex_init(&d->lock, NULL);
	const char *doing = options->check_only ? "checking" : "starting";
	log_info("%s version=" KDS_VERSION " cluster=%s config=%s pid=%ld", doing, options->cluster, options->config_file,
		 (long)getpid());

	enum status_code rc = load_trust(options, st, &d->trust);
	if (rc == STATUS_OK)
		rc = load_credentials(options, d->trust, st, &d->credentials);
	if (rc == STATUS_OK)
		rc = rpc_server_new(&RPC_SERVER_LIMITS_DEFAULT, st, &d->server);
	if (rc == STATUS_OK)
		rc = health_new(options->program, options->name, st, &d->health);
	if (rc != STATUS_OK) {
		daemon_free(d);
		return rc;
	}
	health_set_not_after(d->health, tls_credentials_not_after(d->credentials));
	log_credentials(options, d->credentials);
	*ret_daemon = d;
	return STATUS_OK;
}

/* Nobody asks the listener anything once it is out of reach: its end waits for callbacks, which must not wait for it. */
static void close_listener(struct daemon *d)
{
	pthread_mutex_lock(&d->lock);
	struct listener *l = d->listener;
	d->listener = NULL;
	pthread_mutex_unlock(&d->lock);
	if (!l)
		return;
	health_set_listener(d->health, NULL);
	listener_stop(l);
}

void daemon_free(struct daemon *d)
{
	if (!d)
		return;
	close_listener(d);
	rpc_server_free(d->server);
	health_free(d->health);
	tls_credentials_unref(d->credentials);
	trust_free(d->trust);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

struct rpc_server *daemon_server(struct daemon *d)
{
	return d->server;
}

struct trust *daemon_trust(struct daemon *d)
{
	return d->trust;
}

struct tls_credentials *daemon_credentials(struct daemon *d)
{
	return d->credentials;
}

const struct daemon_options *daemon_options_of(struct daemon *d)
{
	return d->options;
}

void daemon_set_ready(struct daemon *d, daemon_ready_fn ready, void *arg)
{
	health_set_ready(d->health, ready, arg);
}

void daemon_set_alarms(struct daemon *d, daemon_alarms_fn alarms, void *arg)
{
	health_set_alarms(d->health, alarms, arg);
}

void daemon_set_reload(struct daemon *d, daemon_reload_fn reload, void *arg)
{
	d->reload = reload;
	d->reload_arg = arg;
}

void daemon_set_hand_over(struct daemon *d, void (*hand_over)(void *arg), void *arg)
{
	d->hand_over = hand_over;
	d->hand_over_arg = arg;
}

void daemon_set_allow(struct daemon *d, unsigned roles)
{
	d->allow_roles = roles;
}

void daemon_trust_changed(struct daemon *d)
{
	pthread_mutex_lock(&d->lock);
	if (d->listener)
		listener_recheck(d->listener);
	pthread_mutex_unlock(&d->lock);
}

/* Were there more places than descriptors, whoever comes first would have them all, and no rule of admission.h would hold. */
static void fit_descriptors(struct slot_limits *slots)
{
	struct rlimit limit;
	const unsigned spare = 256; /* files, and connections of our own making */
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 ||
	    limit.rlim_cur >= (rlim_t)slots->max_connections + slots->max_strangers + spare)
		return;
	unsigned room = limit.rlim_cur > 2 * spare ? (unsigned)limit.rlim_cur - spare : spare;
	if (slots->max_strangers > room / 4)
		slots->max_strangers = room / 4;
	if (slots->max_connections > room - slots->max_strangers)
		slots->max_connections = room - slots->max_strangers;
	log_warning("only %llu descriptors: the port takes %u connections and %u that are not authenticated; raise LimitNOFILE",
		    (unsigned long long)limit.rlim_cur, slots->max_connections, slots->max_strangers);
}

enum status_code daemon_listen(struct daemon *d, struct status *st)
{
	const struct daemon_options *o = d->options;
	enum status_code rc = health_serve(d->health, d->server, st);
	if (rc != STATUS_OK)
		return rc;
	struct listener_options options = {
		.address = o->listen,
		.self = SP_REP,
		.credentials = d->credentials,
		.trust = d->trust,
		.allow_roles = d->allow_roles,
		.slots = o->slots,
		.limits = CONN_LIMITS_DEFAULT,
		.handlers = rpc_server_handlers(d->server),
	};
	fit_descriptors(&options.slots);
	options.limits.idle_ms = o->idle_s * 1000;
	if (o->max_frame > 0)
		options.limits.max_frame = o->max_frame;
	budget_set_limit((size_t)o->buffer_mib << 20);
	struct listener *l;
	rc = listener_start(&options, st, &l);
	if (rc != STATUS_OK)
		return rc;
	pthread_mutex_lock(&d->lock);
	d->listener = l;
	pthread_mutex_unlock(&d->lock);
	health_set_listener(d->health, l);
	return STATUS_OK;
}

const char *daemon_address(struct daemon *d)
{
	pthread_mutex_lock(&d->lock);
	const char *address = d->listener ? listener_address(d->listener) : NULL;
	pthread_mutex_unlock(&d->lock);
	return address;
}

static void reload(struct daemon *d)
{
	struct status st;
	struct tls_credentials *fresh;
	if (load_credentials(d->options, d->trust, &st, &fresh) != STATUS_OK) {
		log_error("reload: %s; the former certificate stays in use", st.message);
		return;
	}
	struct tls_credentials *former = d->credentials;
	d->credentials = fresh;
	health_set_not_after(d->health, tls_credentials_not_after(fresh));
	if (d->listener)
		listener_set_credentials(d->listener, fresh);
	if (d->reload)
		d->reload(d->reload_arg, fresh);
	tls_credentials_unref(former);
	log_info("reloaded");
	log_credentials(d->options, fresh);
}

/*
 * Once a burst is over, the system gets back what malloc keeps between the few blocks that are still in use: 28 MiB
 * after 2,000 connections.
 */
static void give_memory_back(struct daemon *d)
{
	struct rpc_server_stats calls;
	struct listener_stats connections = { 0 };
	rpc_server_stats(d->server, &calls);
	if (d->listener)
		listener_stats(d->listener, &connections);
	uint64_t closed = connections.accepted - connections.open;
	uint64_t work = calls.calls + connections.accepted + closed;
	bool busy = work - d->work >= TICK_BUSY;
	if (d->busy && !busy)
		process_give_memory_back();
	d->work = work;
	d->busy = busy;
}

static void report_refusals(void)
{
	char counts[1024];
	if (tally_report(counts, sizeof counts))
		log_warning("refused in the last %d s: %s", TICK_S * REPORT_TICKS, counts);
}

static void tick(struct daemon *d)
{
	daemon_trust_changed(d); /* time alone changes it: certificates expire */
	give_memory_back(d);
	if (++d->ticks % REPORT_TICKS == 0)
		report_refusals();
}

void daemon_checked(const struct daemon_options *o)
{
	log_info("nothing is wrong with the configuration config=%s", o->config_file);
}

void daemon_run(struct daemon *d)
{
	const struct timespec patience = { .tv_sec = TICK_S };
	sigset_t set;
	handled_signals(&set);
	for (;;) {
		int signal_number = sigtimedwait(&set, NULL, &patience);
		if (signal_number < 0) {
			if (errno == EAGAIN)
				tick(d);
		} else if (signal_number == SIGHUP) {
			reload(d);
		} else {
			log_info("stopping signal=%s", sigabbrev_np(signal_number));
			break;
		}
	}
	if (d->hand_over)
		d->hand_over(d->hand_over_arg);
	rpc_server_drain(d->server, DRAIN_MS);
	close_listener(d);
}

void daemon_stop(struct daemon *d)
{
	(void)d;
	kill(getpid(), SIGTERM); /* blocked in every thread: it waits for daemon_run(), which alone takes it */
}

int daemon_start_failed(const struct daemon_options *o, const struct status *st)
{
	if (o->name)
		log_error("%s", st->message);
	else /* no log yet: the command line or the file was wrong */
		fprintf(stderr, "%s: %s\n", o->program ? o->program : program_invocation_short_name, st->message);
	return st->code == STATUS_INVALID_ARGUMENT ? 2 : 1;
}
