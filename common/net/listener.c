#include "common/net/listener.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/net/address.h"
#include "common/net/conn_internal.h"

#define BUCKETS 1024
/* After an error of accept(): out of descriptors or memory, which does not pass at once. */
#define PAUSE_MS 100
/* Peers choose how often they are refused, not how fast the log grows. */
#define REFUSALS_LOGGED_EVERY_MS 200

/* Lock order: a listener's mutex, then a connection's, whose callbacks hold none when they come here. */
struct listener {
	struct listener_options options;
	char address[ADDRESS_TEXT_MAX];
	nng_stream_listener *stream;
	nng_aio *accepting;
	nng_aio *pause;
	pthread_mutex_t mutex; /* guards what follows */
	pthread_cond_t released;
	struct tls_credentials *credentials;
	bool stopping;
	struct listener_stats stats;
	uint64_t logged_ms;    /* the last refusal that was logged */
	uint64_t not_logged;   /* refusals since then */
	struct conn *buckets[BUCKETS]; /* open connections, by the peer's host */
};

static size_t bucket_of(const uint8_t host[16])
{
	uint32_t h = 2166136261u; /* FNV-1a; a peer that aims at one bucket is held by max_connections */
	for (int i = 0; i < 16; i++)
		h = (h ^ host[i]) * 16777619u;
	return h % BUCKETS;
}

static bool over_limit(const struct listener *l, const uint8_t host[16])
{
	if (l->options.max_connections && l->stats.open >= l->options.max_connections)
		return true;
	if (!l->options.max_per_address)
		return false;
	unsigned n = 0;
	for (const struct conn *c = l->buckets[bucket_of(host)]; c && n < l->options.max_per_address; c = c->next)
		n += memcmp(c->host, host, sizeof c->host) == 0;
	return n >= l->options.max_per_address;
}

static void insert(struct listener *l, struct conn *c)
{
	struct conn **head = &l->buckets[bucket_of(c->host)];
	c->next = *head;
	c->link = head;
	if (c->next)
		c->next->link = &c->next;
	*head = c;
	l->stats.open++;
	l->stats.accepted++;
}

static void log_refusal(struct listener *l, const char *why)
{
	uint64_t now = clock_monotonic_ms();
	if (now - l->logged_ms < REFUSALS_LOGGED_EVERY_MS) {
		l->not_logged++;
		return;
	}
	if (l->not_logged == 0)
		log_info("no connection with %s", why);
	else
		log_info("no connection with %s (%llu others since the last such line)", why,
			 (unsigned long long)l->not_logged);
	l->logged_ms = now;
	l->not_logged = 0;
}

void listener_released(struct listener *l, struct conn *c)
{
	pthread_mutex_lock(&l->mutex);
	if (c->why.code == STATUS_UNAUTHENTICATED || c->why.code == STATUS_PERMISSION_DENIED)
		log_refusal(l, c->why.message);
	*c->link = c->next;
	if (c->next)
		c->next->link = c->link;
	l->stats.open--;
	l->stats.failed += !c->was_up;
	if (l->stats.open == 0)
		pthread_cond_signal(&l->released);
	pthread_mutex_unlock(&l->mutex);
}

static enum status_code adopt(struct listener *l, nng_stream *stream, const nng_sockaddr *from,
			      struct tls_credentials *credentials, struct status *st, struct conn **ret_conn)
{
	char peer[ADDRESS_TEXT_MAX];
	address_format(from, peer);
	struct conn *c;
	enum status_code rc = conn_new(peer, credentials, true, st, &c);
	if (rc != STATUS_OK)
		return rc;
	address_host(from, c->host);
	c->stream = stream;
	c->handlers = l->options.handlers;
	c->limits = l->options.limits;
	c->self = l->options.self;
	c->trust = l->options.trust;
	c->roles = l->options.allow_roles;
	c->anonymous = l->options.anonymous;
	gnutls_certificate_server_set_request(c->session, c->anonymous ? GNUTLS_CERT_REQUEST : GNUTLS_CERT_REQUIRE);
	*ret_conn = c;
	return STATUS_OK;
}

/* Takes the stream. */
static void accepted(struct listener *l, nng_stream *stream)
{
	nng_sockaddr from = { .s_family = NNG_AF_UNSPEC };
	uint8_t host[16];
	struct conn *c = NULL;
	(void)nng_stream_get_addr(stream, NNG_OPT_REMADDR, &from); /* fails where the peer is gone; reading finds that out */
	conn_tune(stream);
	address_host(&from, host);
	pthread_mutex_lock(&l->mutex);
	bool refused = l->stopping || over_limit(l, host);
	l->stats.refused += refused && !l->stopping;
	struct tls_credentials *credentials = tls_credentials_ref(l->credentials);
	pthread_mutex_unlock(&l->mutex);
	struct status st;
	if (!refused && adopt(l, stream, &from, credentials, &st, &c) != STATUS_OK)
		log_warning("connection dropped: %s", st.message);
	tls_credentials_unref(credentials);
	if (!c) {
		nng_stream_free(stream);
		return;
	}
	c->listener = l;
	pthread_mutex_lock(&l->mutex);
	insert(l, c);
	pthread_mutex_unlock(&l->mutex);
	pthread_mutex_lock(&c->mutex);
	conn_set_deadline(c, c->limits.handshake_ms);
	conn_begin(c);
	pthread_mutex_unlock(&c->mutex);
}

static bool is_stopping(struct listener *l)
{
	pthread_mutex_lock(&l->mutex);
	bool stopping = l->stopping;
	pthread_mutex_unlock(&l->mutex);
	return stopping;
}

static void on_accept(void *arg)
{
	struct listener *l = arg;
	int rv = nng_aio_result(l->accepting);
	if (rv == 0)
		accepted(l, nng_aio_get_output(l->accepting, 0));
	if (is_stopping(l))
		return;
	if (rv == 0) {
		nng_stream_listener_accept(l->stream, l->accepting);
		return;
	}
	log_warning("accept on %s: %s; trying again", l->address, nng_strerror(rv));
	nng_sleep_aio(PAUSE_MS, l->pause);
}

static void on_pause(void *arg)
{
	struct listener *l = arg;
	if (!is_stopping(l))
		nng_stream_listener_accept(l->stream, l->accepting);
}

static void listener_free(struct listener *l)
{
	nng_aio_free(l->accepting);
	nng_aio_free(l->pause);
	nng_stream_listener_free(l->stream);
	tls_credentials_unref(l->credentials);
	pthread_cond_destroy(&l->released);
	pthread_mutex_destroy(&l->mutex);
	free(l);
}

static enum status_code open_port(struct listener *l, const char *address, struct status *st)
{
	char url[ADDRESS_URL_MAX];
	enum status_code rc = address_to_url(address, true, st, url);
	if (rc != STATUS_OK)
		return rc;
	int rv = nng_stream_listener_alloc(&l->stream, url);
	if (rv == 0)
		rv = nng_stream_listener_listen(l->stream);
	if (rv == NNG_EADDRINUSE)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "listen on %s: the address is in use; stop the other process or choose another port", address);
	nng_sockaddr bound;
	if (rv == 0)
		rv = nng_stream_listener_get_addr(l->stream, NNG_OPT_LOCADDR, &bound);
	if (rv != 0)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "listen on %s: %s; is the address one of this host's and the port permitted?", address,
				  nng_strerror(rv));
	address_format(&bound, l->address);
	return STATUS_OK;
}

enum status_code listener_start(const struct listener_options *options, struct status *st,
				struct listener **ret_listener)
{
	struct listener *l = calloc(1, sizeof *l);
	if (!l)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "listener: out of memory");
	l->options = *options;
	l->options.address = NULL; /* borrowed; `address` is what was bound */
	l->credentials = tls_credentials_ref(options->credentials);
	pthread_mutex_init(&l->mutex, NULL);
	pthread_cond_init(&l->released, NULL);
	enum status_code rc = reaper_start(st);
	if (rc == STATUS_OK)
		rc = open_port(l, options->address, st);
	if (rc == STATUS_OK &&
	    (nng_aio_alloc(&l->accepting, on_accept, l) != 0 || nng_aio_alloc(&l->pause, on_pause, l) != 0))
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "listener: out of memory");
	if (rc != STATUS_OK) {
		listener_free(l);
		return rc;
	}
	nng_stream_listener_accept(l->stream, l->accepting);
	*ret_listener = l;
	return STATUS_OK;
}

void listener_stop(struct listener *l)
{
	if (!l)
		return;
	pthread_mutex_lock(&l->mutex);
	l->stopping = true;
	pthread_mutex_unlock(&l->mutex);
	nng_stream_listener_close(l->stream);
	nng_aio_stop(l->pause);
	nng_aio_stop(l->accepting); /* from here on nothing is added */
	pthread_mutex_lock(&l->mutex);
	for (size_t i = 0; i < BUCKETS; i++) {
		for (struct conn *c = l->buckets[i]; c; c = c->next)
			conn_close(c);
	}
	while (l->stats.open > 0)
		pthread_cond_wait(&l->released, &l->mutex);
	pthread_mutex_unlock(&l->mutex);
	listener_free(l);
}

void listener_set_credentials(struct listener *l, struct tls_credentials *credentials)
{
	pthread_mutex_lock(&l->mutex);
	struct tls_credentials *before = l->credentials;
	l->credentials = tls_credentials_ref(credentials);
	pthread_mutex_unlock(&l->mutex);
	tls_credentials_unref(before);
}

void listener_recheck(struct listener *l)
{
	pthread_mutex_lock(&l->mutex);
	for (size_t i = 0; i < BUCKETS; i++) {
		for (struct conn *c = l->buckets[i]; c; c = c->next)
			conn_recheck(c);
	}
	pthread_mutex_unlock(&l->mutex);
}

const char *listener_address(const struct listener *l)
{
	return l->address;
}

void listener_stats(struct listener *l, struct listener_stats *ret_stats)
{
	pthread_mutex_lock(&l->mutex);
	*ret_stats = l->stats;
	pthread_mutex_unlock(&l->mutex);
}
