#include "common/net/conn.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/secret.h"
#include "common/net/conn_internal.h"

enum status_code conn_new(const char *peer, struct tls_credentials *credentials, bool server, struct status *st,
			  struct conn **ret_conn)
{
	enum status_code rc = reaper_start(st);
	if (rc != STATUS_OK)
		return rc;
	struct conn *c = calloc(1, sizeof *c);
	if (!c)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "connection: out of memory");
	atomic_init(&c->refs, 1);
	atomic_init(&c->stopped, false);
	atomic_init(&c->data, NULL);
	atomic_init(&c->working, 0);
	pthread_mutex_init(&c->mutex, NULL);
	c->server = server;
	c->credentials = tls_credentials_ref(credentials);
	c->peer = strdup(peer);
	if (!c->peer || nng_aio_alloc(&c->reading, conn_on_read, c) != 0 ||
	    nng_aio_alloc(&c->writing, conn_on_write, c) != 0 || nng_aio_alloc(&c->timer, conn_on_timer, c) != 0 ||
	    nng_aio_alloc(&c->writing_now, NULL, NULL) != 0)
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "connection: out of memory");
	if (rc == STATUS_OK)
		rc = conn_tls_init(c, st);
	if (rc != STATUS_OK) {
		conn_destroy(c);
		return rc;
	}
	*ret_conn = c;
	return STATUS_OK;
}

static void free_aio(nng_aio *aio)
{
	if (!aio)
		return;
	nng_aio_stop(aio);
	nng_aio_free(aio);
}

void conn_destroy(struct conn *c)
{
	free_aio(c->dialing);
	free_aio(c->reading);
	free_aio(c->writing);
	free_aio(c->writing_now);
	free_aio(c->timer);
	nng_stream_free(c->stream);
	nng_stream_dialer_free(c->dialer);
	if (c->session)
		gnutls_deinit(c->session);
	tls_credentials_unref(c->credentials);
	buffer_wipe(&c->plain);
	buffer_wipe(&c->out);
	buffer_free(&c->cipher);
	buffer_free(&c->flight);
	free(c->in.data);
	budget_give(c->account, c->charged);
	if (c->listener)
		listener_released(c->listener, c);
	conn_unref(c);
}

struct conn *conn_ref(struct conn *c)
{
	if (c)
		atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return c;
}

void conn_unref(struct conn *c)
{
	if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
		return;
	identity_unref(c->identity);
	pthread_mutex_destroy(&c->mutex);
	free(c->peer);
	free(c);
}

void conn_blame(struct conn *c, enum status_code code, const char *format, ...)
{
	if (c->ending)
		return;
	c->ending = true;
	va_list ap;
	va_start(ap, format);
	status_vset(&c->why, code, format, ap);
	va_end(ap);
	if (code != STATUS_OK)
		(void)status_prefix(&c->why, "%s", c->peer);
}

void conn_count(struct conn *c, enum tally why)
{
	if (c->server && !c->counted)
		tally_add(why);
	c->counted = true;
}

bool conn_account(struct conn *c)
{
	if (c->computing)
		return true; /* the buffers are not ours to look at; it accounts for them when it is through */
	size_t held = c->in.cap + c->plain.cap + c->out.cap + c->cipher.cap + c->flight.cap, before = c->charged;
	if (held <= before) {
		if (held < before)
			budget_give(c->account, before - held);
		c->charged = held;
		return true;
	}
	c->charged = held;
	if (budget_take(c->account, held - before))
		return true;
	budget_charge(c->account, held - before); /* until it is freed, soon */
	conn_count(c, TALLY_MEMORY_FULL);
	conn_blame(c, STATUS_RESOURCE_EXHAUSTED, "what it sends and does not read takes too much memory; closed");
	conn_kill(c);
	return false;
}

void conn_kill(struct conn *c)
{
	if (c->state == CONN_DEAD)
		return;
	conn_blame(c, STATUS_OK, "closed");
	c->state = CONN_DEAD;
	atomic_store_explicit(&c->stopped, true, memory_order_relaxed);
	if (c->stream)
		nng_stream_close(c->stream);
	else if (c->dialer)
		nng_stream_dialer_close(c->dialer);
	if (c->timer_pending)
		nng_aio_abort(c->timer, NNG_ECANCELED);
}

static void start_closing(struct conn *c)
{
	c->state = CONN_CLOSING;
	atomic_store_explicit(&c->stopped, true, memory_order_relaxed);
	conn_set_deadline(c, CONN_LINGER_MS);
	if (!c->dispatching)
		conn_write_more(c);
}

void conn_finish(struct conn *c)
{
	if (c->state == CONN_CLOSING || c->state == CONN_DEAD)
		return;
	conn_blame(c, STATUS_OK, "closed");
	if (c->state == CONN_HELLO || c->state == CONN_UP)
		start_closing(c);
	else
		conn_kill(c); /* nothing is said yet that a good order could be kept for */
}

void conn_refuse(struct conn *c, gnutls_alert_description_t alert)
{
	if (c->state == CONN_DEAD || c->last_alert)
		return;
	conn_tls_alert(c, alert);
	if (c->state != CONN_CLOSING)
		start_closing(c);
}

void conn_leave(struct conn *c)
{
	bool last = --c->busy == 0 && c->state == CONN_DEAD;
	if (last && !c->was_up && c->why.code != STATUS_OK) {
		bool certificate = c->why.code == STATUS_UNAUTHENTICATED || c->why.code == STATUS_PERMISSION_DENIED;
		conn_count(c, certificate ? TALLY_CERTIFICATE_REFUSED : TALLY_HANDSHAKE_FAILED);
	}
	pthread_mutex_unlock(&c->mutex);
	if (!last)
		return;
	if (c->handlers.down)
		c->handlers.down(c->handlers.arg, c, &c->why);
	reaper_submit(c);
}

void conn_close(struct conn *c)
{
	pthread_mutex_lock(&c->mutex);
	conn_finish(c);
	pthread_mutex_unlock(&c->mutex);
}

void conn_recheck(struct conn *c)
{
	pthread_mutex_lock(&c->mutex);
	struct status st;
	bool open = c->state == CONN_HELLO || c->state == CONN_UP;
	if (open && c->identity && trust_recheck(c->trust, c->identity, &st) != STATUS_OK) {
		conn_count(c, TALLY_CERTIFICATE_REFUSED);
		conn_blame(c, st.code, "%s", st.message);
		conn_refuse(c, GNUTLS_A_CERTIFICATE_REVOKED);
	}
	pthread_mutex_unlock(&c->mutex);
}

void conn_tune(nng_stream *stream)
{
	/* Slower or slower to notice without, not wrong. */
	(void)nng_stream_set_bool(stream, NNG_OPT_TCP_NODELAY, true);
	(void)nng_stream_set_bool(stream, NNG_OPT_TCP_KEEPALIVE, true);
}

bool conn_reserve(struct buffer *b, size_t more)
{
	if (more <= b->cap - b->len)
		return true;
	struct buffer bigger = { 0 };
	if (more > SIZE_MAX / 4 || !buffer_reserve(&bigger, b->len + more))
		return false;
	if (b->len > 0)
		memcpy(bigger.data, b->data, b->len);
	bigger.len = b->len;
	buffer_wipe(b);
	*b = bigger;
	return true;
}

/* The cost follows what was used, not what there is room for: next to the cipher's nothing that can be measured. */
void conn_consume(struct buffer *b, size_t n)
{
	buffer_consume(b, n);
	if (n > 0)
		secret_wipe(b->data + b->len, n);
}

/* Output that a thread holds back: of so many connections at most, others are written at once. */
#define HELD_MAX 16
static _Thread_local struct {
	unsigned depth, n;
	struct conn *conns[HELD_MAX];
} held;

void conn_hold(void)
{
	held.depth++;
}

void conn_release(void)
{
	if (--held.depth > 0)
		return;
	for (unsigned i = 0; i < held.n; i++) {
		conn_flush(held.conns[i]);
		conn_unref(held.conns[i]);
	}
	held.n = 0;
}

/* Will this thread write it later? */
static bool hold_back(struct conn *c)
{
	if (held.depth == 0)
		return false;
	for (unsigned i = held.n; i > 0; i--)
		if (held.conns[i - 1] == c)
			return true;
	if (held.n == HELD_MAX)
		return false;
	held.conns[held.n++] = conn_ref(c);
	return true;
}

static bool queue_frame(struct conn *c, const struct slice *parts, size_t n, size_t len)
{
	/* Keeps what was already encrypted from piling up in front of a peer that is never quite caught up with. */
	if (c->out_used > 0 && c->out_used >= c->out.len / 2) {
		conn_consume(&c->out, c->out_used);
		c->out_used = 0;
	}
	if (!conn_reserve(&c->out, len + 8))
		return false;
	uint8_t *p = c->out.data + c->out.len;
	for (int i = 0; i < 8; i++)
		*p++ = (uint8_t)(len >> (56 - 8 * i));
	for (size_t i = 0; i < n; i++) {
		if (parts[i].len > 0)
			memcpy(p, parts[i].data, parts[i].len);
		p += parts[i].len;
	}
	c->out.len += len + 8;
	return true;
}

enum status_code conn_send(struct conn *c, const struct slice *parts, size_t n)
{
	enum status_code rc = STATUS_OK;
	size_t len = 0;
	for (size_t i = 0; i < n && rc == STATUS_OK; i++) {
		if (parts[i].len > SIZE_MAX / 4 - len)
			rc = STATUS_RESOURCE_EXHAUSTED;
		else
			len += parts[i].len;
	}
	pthread_mutex_lock(&c->mutex);
	if (c->state != CONN_UP) {
		rc = STATUS_UNAVAILABLE;
	} else if (rc != STATUS_OK || conn_output(c) + len + 8 > c->limits.max_output || !queue_frame(c, parts, n, len)) {
		rc = STATUS_RESOURCE_EXHAUSTED;
		conn_count(c, TALLY_NOT_READING);
		conn_blame(c, rc, "%zu bytes wait to be sent and the peer does not read; closed", conn_output(c));
		conn_kill(c);
	} else {
		if (c->limits.idle_ms)
			c->heard_ms = clock_monotonic_ms();
		if (!c->dispatching && !hold_back(c))
			conn_write_more(c);
		if (!conn_account(c))
			rc = STATUS_RESOURCE_EXHAUSTED;
	}
	pthread_mutex_unlock(&c->mutex);
	return rc;
}

void conn_set_busy(struct conn *c, int change)
{
	atomic_fetch_add_explicit(&c->working, (unsigned)change, memory_order_relaxed);
}

struct identity *conn_identity(const struct conn *c)
{
	return c->identity;
}

const char *conn_peer_address(const struct conn *c)
{
	return c->peer;
}

void conn_set_data(struct conn *c, void *data)
{
	atomic_store_explicit(&c->data, data, memory_order_release);
}

void *conn_data(const struct conn *c)
{
	return atomic_load_explicit(&c->data, memory_order_acquire);
}
