#include "tests/support/support.h"

#include "tests/support/wire.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PATIENCE_S 20

void wire_log_init(struct wire_log *log)
{
	*log = (struct wire_log){ 0 };
	pthread_mutex_init(&log->mutex, NULL);
	pthread_cond_init(&log->changed, NULL);
}

void wire_log_fini(struct wire_log *log)
{
	assert_false(log->disorder);
	buffer_free(&log->last);
	pthread_cond_destroy(&log->changed);
	pthread_mutex_destroy(&log->mutex);
}

static void on_up(void *arg, struct conn *c)
{
	struct wire_log *log = arg;
	pthread_mutex_lock(&log->mutex);
	log->disorder |= !log->many && (log->ups || log->downs);
	log->ups++;
	log->conn = c;
	log->anonymous = conn_identity(c) == NULL;
	log->roles = log->anonymous ? 0 : conn_identity(c)->roles;
	bool close = log->close_in_up;
	pthread_cond_broadcast(&log->changed);
	pthread_mutex_unlock(&log->mutex);
	if (close)
		conn_close(c);
}

static void on_frame(void *arg, struct conn *c, const uint8_t *data, size_t len)
{
	struct wire_log *log = arg;
	pthread_mutex_lock(&log->mutex);
	log->disorder |= !log->many && (!log->ups || log->downs);
	log->frames++;
	log->bytes += len;
	log->last.len = 0;
	if (!buffer_append(&log->last, data, len))
		abort();
	bool echo = log->echo, close = log->close_after_frame;
	pthread_cond_broadcast(&log->changed);
	pthread_mutex_unlock(&log->mutex);
	struct slice part = { data, len };
	enum status_code rc = echo ? conn_send(c, &part, 1) : STATUS_OK;
	if (rc == STATUS_INTERNAL) /* what it may never say */
		abort();
	if (close)
		conn_close(c);
}

static void on_down(void *arg, struct conn *c, const struct status *why)
{
	struct wire_log *log = arg;
	(void)c;
	pthread_mutex_lock(&log->mutex);
	log->disorder |= !log->many && log->downs;
	log->downs++;
	log->why = *why;
	pthread_cond_broadcast(&log->changed);
	pthread_mutex_unlock(&log->mutex);
}

struct conn_handlers wire_handlers(struct wire_log *log)
{
	return (struct conn_handlers){ .up = on_up, .frame = on_frame, .down = on_down, .arg = log };
}

static void wait_for(struct wire_log *log, const unsigned *count, unsigned n, const char *what)
{
	struct timespec end;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += PATIENCE_S;
	int rv = 0;
	pthread_mutex_lock(&log->mutex);
	while (*count < n && rv == 0)
		rv = pthread_cond_timedwait(&log->changed, &log->mutex, &end);
	unsigned got = *count;
	struct status why = log->why;
	pthread_mutex_unlock(&log->mutex);
	if (got < n)
		fail_msg("%u of %u %s; last reason: %s %s", got, n, what, status_name(why.code), why.message);
}

void wire_wait_up(struct wire_log *log, unsigned n)
{
	wait_for(log, &log->ups, n, "connections up");
}

void wire_wait_frames(struct wire_log *log, unsigned n)
{
	wait_for(log, &log->frames, n, "frames");
}

void wire_wait_down(struct wire_log *log, unsigned n)
{
	wait_for(log, &log->downs, n, "connections down");
}

static unsigned look(struct wire_log *log, const unsigned *count)
{
	pthread_mutex_lock(&log->mutex);
	unsigned n = *count;
	pthread_mutex_unlock(&log->mutex);
	return n;
}

unsigned wire_ups(struct wire_log *log)
{
	return look(log, &log->ups);
}

unsigned wire_downs(struct wire_log *log)
{
	return look(log, &log->downs);
}

void wire_expect(struct wire_log *log, enum status_code code, const char *text)
{
	wire_wait_down(log, 1);
	pthread_mutex_lock(&log->mutex);
	struct status why = log->why;
	pthread_mutex_unlock(&log->mutex);
	if (why.code != code || !strstr(why.message, text))
		fail_msg("%s '%s', wanted %s '%s'", status_name(why.code), why.message, status_name(code), text);
}

void wire_wait_open(struct wire *w, unsigned n)
{
	const struct timespec pause = { .tv_nsec = 2000000 };
	struct listener_stats stats;
	for (int i = 0; i < PATIENCE_S * 500; i++) {
		listener_stats(w->listener, &stats);
		if (stats.open <= n)
			return;
		nanosleep(&pause, NULL);
	}
	fail_msg("%u connections still open, not %u", stats.open, n);
}

struct tls_credentials *wire_credentials(const struct pki_leaf *leaf)
{
	struct status st;
	struct tls_credentials *c = NULL;
	if (tls_credentials_load(leaf->certificate, leaf->key, TLS_MINIMUM_1_3, &st, &c) != STATUS_OK)
		fail_msg("%s", st.message);
	return c;
}

int wire_set_up(void **state)
{
	struct wire *w = calloc(1, sizeof *w);
	assert_non_null(w);
	w->pki = pki_new();
	struct status st;
	struct slice infrastructure = pki_ca_pem(w->pki, PKI_INFRASTRUCTURE), ca = pki_ca_der(w->pki, PKI_CLUSTER_CA);
	assert_int_equal(trust_new(PKI_CLUSTER, PKI_KDS_NAME, &infrastructure, &st, &w->trust), STATUS_OK);
	assert_int_equal(trust_set_cluster_cas(w->trust, &ca, 1, &st), STATUS_OK);
	const struct pki_leaf *serial = pki_service(w->pki, "serial", "serial1");
	assert_int_equal(tls_credentials_load(serial->certificate, serial->key, TLS_MINIMUM_1_2, &st, &w->server),
			 STATUS_OK);
	w->admin = wire_credentials(pki_admin(w->pki));
	wire_log_init(&w->log);
	w->log.many = true;
	w->log.echo = true;
	w->options = (struct listener_options){
		.address = "127.21.0.1:0",
		.self = SP_REP,
		.credentials = w->server,
		.trust = w->trust,
		.limits = CONN_LIMITS_DEFAULT,
		.handlers = wire_handlers(&w->log),
	};
	w->options.limits.handshake_ms = 10000; /* sanitizers are slow */
	*state = w;
	return 0;
}

void wire_listen(struct wire *w)
{
	struct status st;
	if (listener_start(&w->options, &st, &w->listener) != STATUS_OK)
		fail_msg("%s", st.message);
}

int wire_tear_down(void **state)
{
	struct wire *w = *state;
	listener_stop(w->listener);
	wire_log_fini(&w->log);
	tls_credentials_unref(w->admin);
	tls_credentials_unref(w->server);
	trust_free(w->trust);
	pki_free(w->pki);
	free(w);
	return 0;
}

struct conn_dial wire_dial_options(struct wire *w, struct tls_credentials *credentials, struct wire_log *log)
{
	struct conn_dial options = {
		.address = w->listener ? listener_address(w->listener) : "127.21.0.1:1",
		.server_name = PKI_KDS_NAME,
		.self = SP_REQ,
		.credentials = credentials,
		.trust = w->trust,
		.limits = CONN_LIMITS_DEFAULT,
		.handlers = wire_handlers(log),
	};
	options.limits.handshake_ms = 10000;
	return options;
}

struct conn *wire_dial(struct wire *w, struct tls_credentials *credentials, struct wire_log *log)
{
	struct conn_dial options = wire_dial_options(w, credentials, log);
	struct status st;
	struct conn *c = NULL;
	if (conn_dial(&options, &st, &c) != STATUS_OK)
		fail_msg("%s", st.message);
	return c;
}

void wire_send(struct conn *c, const void *data, size_t len)
{
	struct slice part = { data, len };
	assert_int_equal(conn_send(c, &part, 1), STATUS_OK);
}
