#include "clients/cli/session.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/file_trust.h"
#include "common/daemon/config_file.h"
#include "common/rpc/channel.h"

#define ASK_ALL_TIMEOUT_MS 3000
#define DEFAULT_TIMEOUT_S 10
#define N_ROLES 3
#define QUIET_S 2 /* of waiting for an answer, until it is said */

struct addresses {
	char **list;
	size_t n;
};

struct session {
	char *cluster, *kds_name;
	char *certificate, *key, *ca; /* files */
	unsigned timeout_ms;
	struct addresses addresses[N_ROLES];
	struct rpc_channel *channels[N_ROLES]; /* NULL until used */
	struct trust *trust;
	struct tls_credentials *credentials;
};

static const unsigned role_bits[N_ROLES] = { PEER_SERIAL, PEER_CA, PEER_KEYDIST };
static const char *const address_options[N_ROLES] = { "serial-addresses", "ca-addresses", "keydist-addresses" };
static const unsigned default_ports[N_ROLES] = { 7400, 7410, 7420 };

static size_t role_index(unsigned role)
{
	size_t i = 0;
	while (i < N_ROLES - 1 && !(role_bits[i] & role))
		i++;
	return i;
}

static cfg_opt_t file_options[] = {
	CFG_STR("cluster", NULL, CFGF_NODEFAULT),
	CFG_STR("kds-name", NULL, CFGF_NODEFAULT),
	CFG_STR_LIST("serial-addresses", NULL, CFGF_NODEFAULT),
	CFG_STR_LIST("ca-addresses", NULL, CFGF_NODEFAULT),
	CFG_STR_LIST("keydist-addresses", NULL, CFGF_NODEFAULT),
	CFG_STR("certificate", NULL, CFGF_NODEFAULT),
	CFG_STR("key", NULL, CFGF_NODEFAULT),
	CFG_STR("ca", NULL, CFGF_NODEFAULT),
	CFG_INT("timeout", DEFAULT_TIMEOUT_S, CFGF_NONE),
	CFG_END(),
};

/* --config, $KDS_CONFIG, ~/.config/kds/cli.conf, /etc/kds/cli.conf: the first that is named or there. */
static enum status_code find_file(const struct cli *cli, struct status *st, char path[PATH_MAX])
{
	const char *named = cli_value(cli, OPT_CONFIG);
	if (!named)
		named = getenv("KDS_CONFIG");
	if (named && *named) {
		snprintf(path, PATH_MAX, "%s", named);
		return STATUS_OK;
	}
	const char *home = getenv("HOME");
	snprintf(path, PATH_MAX, "%s/.config/kds/cli.conf", home ? home : "");
	if (home && access(path, F_OK) == 0)
		return STATUS_OK;
	snprintf(path, PATH_MAX, "/etc/kds/cli.conf");
	if (access(path, F_OK) == 0)
		return STATUS_OK;
	return status_set(
	    st, STATUS_INVALID_ARGUMENT,
	    "no configuration: give --config FILE or set KDS_CONFIG (`kds-cli init' makes DIR/admin/cli.conf)");
}

/* A required string, copied; a path is seen from the file's directory. */
static enum status_code take_string(cfg_t *cfg, const char *file, const char *option, bool path, struct status *st,
				    char **ret_string)
{
	const char *value = cfg_getstr(cfg, option);
	if (!value || !*value)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: %s is not set", file, option);
	char *copy = path ? config_file_path(file, value) : strdup(value);
	if (!copy)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "%s: out of memory", file);
	*ret_string = copy;
	return STATUS_OK;
}

static enum status_code take_override(const struct cli *cli, int option, cfg_t *cfg, const char *file, const char *name,
				      struct status *st, char **ret_string)
{
	const char *given = cli_value(cli, option);
	if (!given)
		return take_string(cfg, file, name, true, st, ret_string);
	*ret_string = strdup(given);
	return *ret_string ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

static enum status_code take_configuration(const struct cli *cli, cfg_t *cfg, const char *file, struct session *s,
					   struct status *st)
{
	if (take_string(cfg, file, "cluster", false, st, &s->cluster) != STATUS_OK ||
	    take_string(cfg, file, "kds-name", false, st, &s->kds_name) != STATUS_OK ||
	    take_override(cli, OPT_CERT, cfg, file, "certificate", st, &s->certificate) != STATUS_OK ||
	    take_override(cli, OPT_KEY, cfg, file, "key", st, &s->key) != STATUS_OK ||
	    take_override(cli, OPT_CA, cfg, file, "ca", st, &s->ca) != STATUS_OK)
		return st->code;
	for (size_t i = 0; i < N_ROLES; i++) {
		s->addresses[i].list =
		    config_file_addresses(cfg, address_options[i], default_ports[i], &s->addresses[i].n);
		if (!s->addresses[i].list)
			return status_set(st, STATUS_RESOURCE_EXHAUSTED, "%s: out of memory", file);
	}
	long timeout = cfg_getint(cfg, "timeout");
	if (timeout < 1 || timeout > 3600)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: timeout %ld: give 1 to 3600 seconds", file,
				  timeout);
	s->timeout_ms = cli->timeout_ms ? cli->timeout_ms : (unsigned)timeout * 1000;
	return STATUS_OK;
}

/* What a connection needs, once. */
static enum status_code load_identity(const struct cli *cli, struct session *s, struct status *st)
{
	if (cli_has(cli, OPT_CERT) != cli_has(cli, OPT_KEY))
		return status_set(st, STATUS_INVALID_ARGUMENT, "give --cert and --key together");
	if (s->credentials)
		return STATUS_OK;
	struct buffer pem = { 0 };
	enum status_code rc = s->trust ? STATUS_OK : file_trust_read(s->ca, CLI_INPUT_MAX, st, &pem);
	if (rc == STATUS_OK && !s->trust) {
		struct slice slice = { .data = pem.data, .len = pem.len };
		rc = trust_new(s->cluster, s->kds_name, &slice, st, &s->trust);
		if (rc != STATUS_OK)
			status_prefix(st, "%s", s->ca);
	}
	buffer_free(&pem);
	if (rc == STATUS_OK)
		rc = tls_credentials_load(s->certificate, s->key, TLS_MINIMUM_1_3, st, &s->credentials);
	/* A file that is not there, open to others, or another key's is the caller's to repair, not the cluster's state. */
	return rc == STATUS_NOT_FOUND || rc == STATUS_FAILED_PRECONDITION ? cli_bad_input(st) : rc;
}

enum status_code session_open(struct cli *cli, struct status *st)
{
	if (cli->session)
		return STATUS_OK;
	char file[PATH_MAX];
	if (find_file(cli, st, file) != STATUS_OK)
		return st->code;
	cfg_t *cfg = NULL;
	enum status_code rc = config_file_parse(file, file_options, st, &cfg);
	if (rc != STATUS_OK)
		return rc == STATUS_NOT_FOUND || rc == STATUS_FAILED_PRECONDITION ? cli_bad_input(st) : rc;
	struct session *s = calloc(1, sizeof *s);
	rc = s ? take_configuration(cli, cfg, file, s, st) : status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	cfg_free(cfg);
	if (rc != STATUS_OK) {
		session_close(s);
		return rc;
	}
	cli_detail(cli, "configuration %s, cluster %s, acting with %s", file, s->cluster, s->certificate);
	cli->session = s;
	return STATUS_OK;
}

void session_close(struct session *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < N_ROLES; i++) {
		rpc_channel_free(s->channels[i]);
		config_file_free_list(s->addresses[i].list, s->addresses[i].n);
	}
	tls_credentials_unref(s->credentials);
	trust_free(s->trust);
	free(s->cluster);
	free(s->kds_name);
	free(s->certificate);
	free(s->key);
	free(s->ca);
	free(s);
}

const char *session_cluster(const struct session *s)
{
	return s->cluster;
}

const char *session_kds_name(const struct session *s)
{
	return s->kds_name;
}

const char *session_ca_file(const struct session *s)
{
	return s->ca;
}

char *const *session_addresses(const struct session *s, unsigned role, size_t *ret_n)
{
	const struct addresses *a = &s->addresses[role_index(role)];
	*ret_n = a->n;
	return a->list;
}

static enum status_code open_channel(struct session *s, unsigned role, const char *const *addresses, size_t n,
				     struct status *st, struct rpc_channel **ret_channel)
{
	const struct rpc_channel_options options = {
		.addresses = addresses,
		.n_addresses = n,
		.credentials = s->credentials,
		.trust = s->trust,
		.expect_roles = role,
		.default_timeout_ms = s->timeout_ms,
		.limits = CONN_LIMITS_DEFAULT,
	};
	return rpc_channel_new(&options, st, ret_channel);
}

/* The channel to the configured daemons of a role. */
static enum status_code use_channel(struct session *s, unsigned role, struct status *st,
				    struct rpc_channel **ret_channel)
{
	size_t i = role_index(role);
	if (s->addresses[i].n == 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "the configuration has no %s", address_options[i]);
	if (!s->channels[i] && open_channel(s, role, (const char *const *)s->addresses[i].list, s->addresses[i].n, st,
					    &s->channels[i]) != STATUS_OK)
		return st->code;
	*ret_channel = s->channels[i];
	return STATUS_OK;
}

/* Asks one process alone, and once: the answer is about it. */
static enum status_code ask_one(struct session *s, unsigned role, const char *address,
				const struct session_request *request, unsigned timeout_ms, struct status *st,
				ProtobufCMessage **ret_answer)
{
	const struct rpc_call_options options = { .timeout_ms = timeout_ms,
						  .no_retry = true,
						  .secret = request->secret };
	struct rpc_channel *channel = NULL;
	enum status_code rc = open_channel(s, role, &address, 1, st, &channel);
	if (rc == STATUS_OK)
		rc = rpc_channel_wait(channel, request->service, request->method, request->input, &options, st,
				      ret_answer);
	rpc_channel_free(channel);
	return rc;
}

/* The channel tells of the process that it tried last; whether a quorum is lost or one host is down, only all of them
 * tell. */
static enum status_code point_to_health(struct status *st)
{
	char message[STATUS_MESSAGE_MAX];
	memcpy(message, st->message, sizeof message);
	if (strstr(message, "kds-cli"))
		return st->code;
	return status_set(st, st->code, "%.215s; see kds-cli cluster health", message);
}

/*
 * A call that waits: who sits at a terminal is told so
 */

struct waiting {
	pthread_mutex_t mutex;
	pthread_cond_t answered_changed;
	bool answered;
	unsigned timeout_ms;
	pthread_t thread;
	bool running;
};

static void *say_waiting(void *arg)
{
	struct waiting *w = arg;
	struct timespec at;
	clock_gettime(CLOCK_REALTIME, &at);
	at.tv_sec += QUIET_S;
	pthread_mutex_lock(&w->mutex);
	int rv = 0;
	while (!w->answered && rv == 0)
		rv = pthread_cond_timedwait(&w->answered_changed, &w->mutex, &at);
	if (!w->answered)
		fprintf(stderr, "no answer yet; trying for %u s in all (see --timeout)\n", w->timeout_ms / 1000);
	pthread_mutex_unlock(&w->mutex);
	return NULL;
}

static void waiting_begin(const struct cli *cli, unsigned timeout_ms, struct waiting *w)
{
	*w = (struct waiting){ .timeout_ms = timeout_ms };
	if (cli->quiet || !isatty(STDERR_FILENO) || timeout_ms <= QUIET_S * 1000)
		return;
	pthread_mutex_init(&w->mutex, NULL);
	pthread_cond_init(&w->answered_changed, NULL);
	w->running = pthread_create(&w->thread, NULL, say_waiting, w) == 0; /* without, it waits in silence */
}

static void waiting_end(struct waiting *w)
{
	if (!w->running)
		return;
	pthread_mutex_lock(&w->mutex);
	w->answered = true;
	pthread_cond_signal(&w->answered_changed);
	pthread_mutex_unlock(&w->mutex);
	pthread_join(w->thread, NULL);
	pthread_cond_destroy(&w->answered_changed);
	pthread_mutex_destroy(&w->mutex);
}

enum status_code session_call(struct cli *cli, const struct session_request *request, struct status *st,
			      ProtobufCMessage **ret_answer)
{
	if (session_open(cli, st) != STATUS_OK || load_identity(cli, cli->session, st) != STATUS_OK)
		return st->code;
	if (request->address) {
		char *address = config_file_address(request->address, default_ports[role_index(request->role)]);
		if (!address)
			return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
		enum status_code rc =
		    ask_one(cli->session, request->role, address, request, request->timeout_ms, st, ret_answer);
		free(address);
		return rc;
	}
	const struct rpc_call_options options = {
		.timeout_ms = request->timeout_ms,
		.long_poll = request->long_poll,
		.secret = request->secret,
	};
	struct rpc_channel *channel = NULL;
	if (use_channel(cli->session, request->role, st, &channel) != STATUS_OK)
		return st->code;
	struct waiting waiting;
	waiting_begin(cli, request->timeout_ms ? request->timeout_ms : cli->session->timeout_ms, &waiting);
	enum status_code rc =
	    rpc_channel_wait(channel, request->service, request->method, request->input, &options, st, ret_answer);
	waiting_end(&waiting);
	return rc == STATUS_UNAVAILABLE || rc == STATUS_DEADLINE_EXCEEDED ? point_to_health(st) : rc;
}

enum status_code session_dial(struct cli *cli, unsigned role, const char *address, struct status *st,
			      struct rpc_channel **ret_channel)
{
	if (session_open(cli, st) != STATUS_OK || load_identity(cli, cli->session, st) != STATUS_OK)
		return st->code;
	char *with_port = config_file_address(address, default_ports[role_index(role)]);
	if (!with_port)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	const char *addresses[] = { with_port };
	enum status_code rc = open_channel(cli->session, role, addresses, 1, st, ret_channel);
	free(with_port);
	return rc;
}

/* A thread's part of session_ask_all(). */
struct asker {
	struct session *session;
	const struct session_request *request;
	struct session_reply *reply;
	unsigned timeout_ms;
	pthread_t thread;
	bool running;
};

static void *ask_in_thread(void *arg)
{
	struct asker *a = arg;
	a->reply->status.code = ask_one(a->session, a->reply->role, a->reply->address, a->request, a->timeout_ms,
					&a->reply->status, &a->reply->answer);
	return NULL;
}

/* A reply for each address, not yet asked. */
static enum status_code make_replies(struct session *s, unsigned roles, struct status *st,
				     struct session_reply **ret_replies, size_t *ret_n)
{
	size_t total = 0;
	for (size_t i = 0; i < N_ROLES; i++)
		total += roles & role_bits[i] ? s->addresses[i].n : 0;
	if (total == 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "the configuration has no addresses to ask");
	struct session_reply *replies = calloc(total, sizeof *replies);
	if (!replies)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	size_t n = 0;
	for (size_t i = 0; i < N_ROLES; i++) {
		for (size_t j = 0; roles & role_bits[i] && j < s->addresses[i].n; j++)
			replies[n++] =
			    (struct session_reply){ .role = role_bits[i], .address = s->addresses[i].list[j] };
	}
	*ret_replies = replies;
	*ret_n = n;
	return STATUS_OK;
}

enum status_code session_ask_all(struct cli *cli, unsigned roles, const struct session_request *request,
				 struct status *st, struct session_reply **ret_replies, size_t *ret_n)
{
	struct session_reply *replies = NULL;
	struct asker *askers = NULL;
	size_t n = 0;
	if (session_open(cli, st) != STATUS_OK || load_identity(cli, cli->session, st) != STATUS_OK ||
	    make_replies(cli->session, roles, st, &replies, &n) != STATUS_OK)
		return st->code;
	askers = calloc(n, sizeof *askers);
	if (!askers) {
		session_replies_free(replies, n);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	}
	for (size_t i = 0; i < n; i++) {
		askers[i] = (struct asker){
			.session = cli->session,
			.request = request,
			.reply = &replies[i],
			.timeout_ms = cli->timeout_ms ? cli->timeout_ms : ASK_ALL_TIMEOUT_MS,
		};
		askers[i].running = pthread_create(&askers[i].thread, NULL, ask_in_thread, &askers[i]) == 0;
		if (!askers[i].running)
			status_set(&replies[i].status, STATUS_RESOURCE_EXHAUSTED, "no thread to ask with");
	}
	for (size_t i = 0; i < n; i++) {
		if (askers[i].running)
			pthread_join(askers[i].thread, NULL);
	}
	free(askers);
	*ret_replies = replies;
	*ret_n = n;
	return STATUS_OK;
}

void session_replies_free(struct session_reply *replies, size_t n)
{
	for (size_t i = 0; i < n; i++)
		protobuf_c_message_free_unpacked(replies[i].answer, NULL);
	free(replies);
}
