#include "common/net/listener.h"

#include <gnutls/crypto.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/net/address.h"
#include "common/net/conn_internal.h"
#include "common/net/user_timeout.h"

/* After an error of accept(): out of descriptors or memory, which does not pass at once. */
#define PAUSE_MS 100
/* While descriptors of closed connections are not given back yet: soon there are some. */
#define PAUSE_BEHIND_MS 5
#define BEHIND_LOGGED_EVERY_MS 10000
/* Descriptors besides those of accepted connections, as daemon.c counts: files, and connections of our own making. */
#define DESCRIPTORS_SPARE 256
/* So many of these no accepted connection takes, however low the system's limit. */
#define DESCRIPTORS_KEPT 64
/* Peers choose how often they are refused, not how fast the log grows. */
#define REFUSALS_LOGGED_EVERY_MS 200

/* Lock order: a listener's mutex, then a connection's, then `admission`, under which nothing else is locked. */
struct listener {
	struct listener_options options;
	char address[ADDRESS_TEXT_MAX];
	nng_stream_listener *stream;
	nng_aio *accepting;
	nng_aio *pause;
	uint64_t behind_logged_ms; /* of the one callback that accepts, or pauses */
	pthread_mutex_t mutex; /* guards what follows */
	pthread_cond_t released;
	struct tls_credentials *credentials;
	bool stopping;
	struct listener_stats stats;
	uint64_t logged_ms;    /* the last refusal that was logged */
	uint64_t not_logged;   /* refusals since then */
	LIST_HEAD(, conn) connections;
	pthread_mutex_t admission;
	struct slots *slots;   /* under it, with the slots of the connections, as the next */
	uint64_t refused, displaced;
};

/* Descriptors */

/* Of all listeners of this process together. */
static atomic_uint places;

/*
 * Are more descriptors taken than there are places? NNG closes one some time after nng_stream_free(), on one thread, which a
 * flood of connections that come and go outruns: what bounds the connections does not bound these. The system gives out
 * the lowest number that is free, so as long as nothing is accepted while that is high, no connection gets a higher one.
 */
static bool is_behind(void)
{
	struct rlimit limit;
	rlim_t most = (rlim_t)atomic_load_explicit(&places, memory_order_relaxed) + DESCRIPTORS_SPARE;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > 2 * DESCRIPTORS_KEPT &&
	    most > limit.rlim_cur - DESCRIPTORS_KEPT)
		most = limit.rlim_cur - DESCRIPTORS_KEPT;
	int fd = eventfd(0, EFD_CLOEXEC);
	if (fd < 0)
		return true;
	close(fd);
	return (rlim_t)fd >= most;
}

/* Admission */

/* A stranger takes its place; the one that has to go for it goes. False: no memory. */
static bool enter(struct listener *l, struct conn *c)
{
	struct slot *slot;
	struct conn *victim = NULL;
	pthread_mutex_lock(&l->admission);
	bool ok = slots_enter(l->slots, &c->slot, c->host, clock_monotonic_ms(), &slot);
	if (ok && slot) {
		/* Its slot leaves before it is freed, so it is there. */
		victim = conn_ref((struct conn *)(void *)((char *)slot - offsetof(struct conn, slot)));
		l->displaced++;
	}
	pthread_mutex_unlock(&l->admission);
	if (!victim)
		return ok;
	pthread_mutex_lock(&victim->mutex);
	if (victim->state < CONN_HELLO) {
		conn_count(victim, TALLY_UNAUTHENTICATED_DROPPED);
		conn_blame(victim, STATUS_RESOURCE_EXHAUSTED, "made room for another before its handshake was done");
	}
	conn_kill(victim);
	pthread_mutex_unlock(&victim->mutex);
	conn_unref(victim);
	return true;
}

void listener_spoke(struct conn *c)
{
	struct listener *l = c->listener;
	pthread_mutex_lock(&l->admission);
	slots_spoke(l->slots, &c->slot, clock_monotonic_ms());
	pthread_mutex_unlock(&l->admission);
}

static void refuse(struct conn *c, enum slot_verdict verdict)
{
	char label[IDENTITY_LABEL_MAX];
	switch (verdict) {
	case SLOT_FULL_IDENTITY:
		conn_count(c, c->identity ? TALLY_CONNECTIONS_IDENTITY : TALLY_CONNECTIONS_ADDRESS);
		conn_blame(c, STATUS_RESOURCE_EXHAUSTED, "%s has as many connections as one may have",
			   c->identity ? identity_label(c->identity, label) : "its address");
		break;
	case SLOT_FULL:
		conn_count(c, TALLY_CONNECTIONS_FULL);
		conn_blame(c, STATUS_RESOURCE_EXHAUSTED, "all connections for peers of its kind are taken");
		break;
	default:
		conn_count(c, TALLY_MEMORY_FULL);
		conn_blame(c, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	}
	/* Its certificate is in order: an alert that says so (RFC 8446, section 6.2), after which it may try again. */
	conn_refuse(c, GNUTLS_A_INTERNAL_ERROR);
}

bool listener_authenticated(struct conn *c)
{
	struct listener *l = c->listener;
	pthread_mutex_lock(&l->admission);
	enum slot_verdict verdict = slots_authenticated(l->slots, &c->slot, c->identity, c->host);
	l->refused += verdict != SLOT_ADMITTED;
	pthread_mutex_unlock(&l->admission);
	if (verdict != SLOT_ADMITTED) {
		refuse(c, verdict);
		return false;
	}
	c->account = slots_account(&c->slot);
	budget_give(NULL, c->charged);
	budget_charge(c->account, c->charged);
	return true;
}

/* Life of the connections */

/* Is this refusal one for the log? `ret_others`: how many were not. Under the mutex. */
static bool may_log(struct listener *l, uint64_t *ret_others)
{
	uint64_t now = clock_monotonic_ms();
	if (now - l->logged_ms < REFUSALS_LOGGED_EVERY_MS) {
		l->not_logged++;
		return false;
	}
	*ret_others = l->not_logged;
	l->logged_ms = now;
	l->not_logged = 0;
	return true;
}

void listener_released(struct listener *l, struct conn *c)
{
	bool certificate = c->why.code == STATUS_UNAUTHENTICATED || c->why.code == STATUS_PERMISSION_DENIED;
	uint64_t others = 0;
	pthread_mutex_lock(&l->admission);
	slots_leave(l->slots, &c->slot);
	pthread_mutex_unlock(&l->admission);
	pthread_mutex_lock(&l->mutex);
	bool logs = certificate && may_log(l, &others);
	LIST_REMOVE(c, in_listener);
	l->stats.open--;
	l->stats.failed += !c->was_up;
	if (l->stats.open == 0)
		pthread_cond_signal(&l->released); /* the listener may be gone once this is unlocked */
	pthread_mutex_unlock(&l->mutex);
	if (logs && others == 0)
		log_info("no connection with %s", c->why.message);
	else if (logs)
		log_info("no connection with %s (%llu others since the last such line)", c->why.message,
			 (unsigned long long)others);
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
	struct conn *c;
	struct status st;
	(void)nng_stream_get_addr(stream, NNG_OPT_REMADDR, &from); /* fails where the peer is gone; reading finds that out */
	conn_tune(stream);
	pthread_mutex_lock(&l->mutex);
	struct tls_credentials *credentials = tls_credentials_ref(l->credentials);
	pthread_mutex_unlock(&l->mutex);
	enum status_code rc = adopt(l, stream, &from, credentials, &st, &c);
	tls_credentials_unref(credentials);
	if (rc != STATUS_OK) {
		log_warning("connection dropped: %s", st.message);
		nng_stream_free(stream);
		return;
	}
	c->listener = l;
	pthread_mutex_lock(&l->mutex);
	LIST_INSERT_HEAD(&l->connections, c, in_listener);
	l->stats.open++;
	l->stats.accepted++;
	pthread_mutex_unlock(&l->mutex);
	if (!enter(l, c)) {
		log_warning("connection dropped: out of memory");
		conn_destroy(c); /* nothing has started on it */
		return;
	}
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

static void accept_more(struct listener *l)
{
	if (is_stopping(l))
		return;
	if (!is_behind()) {
		nng_stream_listener_accept(l->stream, l->accepting);
		return;
	}
	uint64_t now = clock_monotonic_ms();
	if (now - l->behind_logged_ms >= BEHIND_LOGGED_EVERY_MS) {
		log_warning("accept on %s: connections come and go faster than their descriptors; new ones wait", l->address);
		l->behind_logged_ms = now;
	}
	nng_sleep_aio(PAUSE_BEHIND_MS, l->pause);
}

static void on_accept(void *arg)
{
	struct listener *l = arg;
	int rv = nng_aio_result(l->accepting);
	if (rv == 0) {
		accepted(l, nng_aio_get_output(l->accepting, 0));
		accept_more(l);
	} else if (!is_stopping(l)) {
		log_warning("accept on %s: %s; trying again", l->address, nng_strerror(rv));
		nng_sleep_aio(PAUSE_MS, l->pause);
	}
}

static void on_pause(void *arg)
{
	accept_more(arg);
}

static void listener_free(struct listener *l)
{
	nng_aio_free(l->accepting);
	nng_aio_free(l->pause);
	nng_stream_listener_free(l->stream);
	tls_credentials_unref(l->credentials);
	if (l->slots)
		atomic_fetch_sub_explicit(&places, slots_places(l->slots), memory_order_relaxed);
	slots_free(l->slots);
	pthread_mutex_destroy(&l->admission);
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
	/* Twice the time of a write, so that where both end it is said which peer does not read. */
	if (!user_timeout_set(l->address, 2 * l->options.limits.write_ms))
		log_warning("%s: answers that nobody reads stay with the system until the connection is idle: is /proc there?",
			    l->address);
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
	pthread_mutex_init(&l->admission, NULL);
	LIST_INIT(&l->connections);
	uint64_t seed = (uint64_t)(uintptr_t)l;
	(void)gnutls_rnd(GNUTLS_RND_NONCE, &seed, sizeof seed); /* fails where nothing else works either */
	l->slots = slots_new(&options->slots, seed);
	if (l->slots)
		atomic_fetch_add_explicit(&places, slots_places(l->slots), memory_order_relaxed);
	pthread_cond_init(&l->released, NULL);
	enum status_code rc = l->slots ? reaper_start(st) : status_set(st, STATUS_RESOURCE_EXHAUSTED, "listener: out of memory");
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
	struct conn *c;
	LIST_FOREACH (c, &l->connections, in_listener)
		conn_close(c);
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
	struct conn *c;
	LIST_FOREACH (c, &l->connections, in_listener)
		conn_recheck(c);
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
	pthread_mutex_lock(&l->admission);
	ret_stats->refused = l->refused;
	ret_stats->displaced = l->displaced;
	ret_stats->unauthenticated = slots_count(l->slots).strangers;
	pthread_mutex_unlock(&l->admission);
}
