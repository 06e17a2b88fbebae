/*
 * The callbacks of one connection: what the stream brings goes through TLS into frames for the handlers, and what they
 * send goes back out. One read and one write are under way at most; while a write waits for the peer to read, frames
 * gather, and leave together in full records when it is done.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/net/conn_internal.h"

/* A read starts with little memory, so that idle connections cost little, and grows while it comes back full. */
#define READ_MIN 2048
#define READ_MAX 65536
/* Who is not authenticated gets little. */
#define READ_MAX_HANDSHAKE 8192
/* What one write takes: four full records. */
#define WRITE_MAX 65536

#define SP_HELLO_SIZE 8
#define FRAME_HEAD_SIZE 8

/* A frame may take limits.frame_ms, and for its length what a peer at this rate needs. */
#define FRAME_BYTES_PER_MS 64
/* A connection that was silent for so long gives back the buffers that its last burst needed. */
#define TIDY_MS 5000

static uint64_t get_u64(const uint8_t *p)
{
	uint64_t v = 0;
	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

size_t conn_output(const struct conn *c)
{
	return c->out.len - c->out_used + c->cipher.len + c->flight.len - c->flight_used;
}

/* Timer */

void conn_set_deadline(struct conn *c, unsigned ms)
{
	uint64_t now = clock_monotonic_ms();
	c->deadline_ms = now + ms;
	if (!c->timer_pending) {
		c->timer_pending = true;
		c->timer_at_ms = c->deadline_ms;
		c->busy++;
		nng_sleep_aio((nng_duration)ms, c->timer);
	} else if (c->timer_at_ms > c->deadline_ms) {
		nng_aio_abort(c->timer, NNG_ECANCELED); /* calls back, and so starts anew */
	}
}

/* The timer calls back within `ms`. One that is sooner already does that: it looks at all there is (look_after()). */
static void conn_watch(struct conn *c, unsigned ms)
{
	if (!c->timer_pending || c->timer_at_ms > c->read_ms + ms)
		conn_set_deadline(c, ms);
}

static void timed_out(struct conn *c)
{
	if (c->write_failed) {
		conn_blame(c, STATUS_UNAVAILABLE, "the connection broke");
		conn_kill(c);
		return;
	}
	if (c->state == CONN_CONNECTING) {
		conn_blame(c, STATUS_UNAVAILABLE, "no connection within %u ms; is the server running?",
			   c->limits.handshake_ms);
	} else if (c->state < CONN_UP) {
		conn_count(c, TALLY_HANDSHAKE_TIMEOUT);
		conn_blame(c, STATUS_UNAVAILABLE, "no TLS and SP handshake within %u ms", c->limits.handshake_ms);
	}
	conn_kill(c);
}

/*
 * A server whose answers the peer does not read takes no more requests until it does. A client reads in any case: were
 * both ends to wait for each other, neither would ever go on.
 */
static bool must_wait_for_peer(const struct conn *c)
{
	return c->self == SP_REP && c->state == CONN_UP && !c->write_failed &&
	       conn_output(c) > c->limits.max_output / 2;
}

/* When the frame that the peer has begun must be complete; 0: no such time. While we do not read it is not its fault. */
static uint64_t frame_deadline(const struct conn *c)
{
	if (!c->server || c->limits.frame_ms == 0 || c->frame_since_ms == 0)
		return 0;
	uint64_t len = c->plain.len >= FRAME_HEAD_SIZE ? get_u64(c->plain.data) : 0;
	return c->frame_since_ms + c->limits.frame_ms + len / FRAME_BYTES_PER_MS;
}

/* Are there buffers besides the one for reading, which is in use? */
static bool has_buffers(const struct conn *c)
{
	return c->plain.cap > 0 || c->out.cap > 0 || c->cipher.cap > 0 || c->flight.cap > 0;
}

/* Gives them back if there is nothing in them. */
static void tidy(struct conn *c)
{
	if (c->dispatching || c->write_pending || c->plain.len > 0 || conn_output(c) > 0)
		return;
	buffer_wipe(&c->plain);
	buffer_wipe(&c->out);
	buffer_free(&c->cipher);
	buffer_free(&c->flight);
	(void)conn_account(c); /* it holds less */
}

static void sooner(uint64_t *at, uint64_t other)
{
	if (*at == 0 || other < *at)
		*at = other;
}

/* Of one that is up: bytes move its deadlines without touching the timer, which asks here when it runs out. */
static void look_after(struct conn *c, uint64_t now)
{
	uint64_t next = 0;
	if (must_wait_for_peer(c) && c->frame_since_ms)
		c->frame_since_ms = now;
	uint64_t frame = frame_deadline(c);
	if (frame && frame <= now) {
		conn_count(c, TALLY_FRAME_SLOW);
		conn_blame(c, STATUS_UNAVAILABLE, "a frame was begun %llu ms ago and is not complete",
			   (unsigned long long)(now - c->frame_since_ms));
		conn_finish(c);
		return;
	}
	if (frame)
		sooner(&next, frame);
	if (c->limits.idle_ms) {
		if (atomic_load_explicit(&c->working, memory_order_relaxed) > 0)
			c->heard_ms = now;
		if (c->heard_ms + c->limits.idle_ms <= now) {
			conn_count(c, TALLY_IDLE);
			conn_blame(c, STATUS_OK, "idle for %u ms", c->limits.idle_ms);
			conn_finish(c);
			return;
		}
		sooner(&next, c->heard_ms + c->limits.idle_ms);
	}
	if (c->read_ms + TIDY_MS <= now)
		tidy(c);
	if (has_buffers(c))
		sooner(&next, now + TIDY_MS);
	c->deadline_ms = next;
	if (next)
		conn_set_deadline(c, (unsigned)(next - now));
}

/* The peer has begun a frame, or ended one; a burst may have left buffers behind. */
static void watch_input(struct conn *c)
{
	if (c->state != CONN_UP)
		return;
	if (c->plain.len == 0)
		c->frame_since_ms = 0;
	else if (c->frame_since_ms == 0)
		c->frame_since_ms = c->read_ms;
	if (c->frame_since_ms && c->server && c->limits.frame_ms)
		conn_watch(c, c->limits.frame_ms);
	else if (c->in.cap > READ_MIN)
		conn_watch(c, TIDY_MS);
}

void conn_on_timer(void *conn)
{
	struct conn *c = conn;
	pthread_mutex_lock(&c->mutex);
	c->timer_pending = false;
	uint64_t now = clock_monotonic_ms();
	if (c->state == CONN_UP && !c->write_failed) {
		look_after(c, now);
	} else if (c->state != CONN_DEAD && c->deadline_ms != 0) {
		if (c->deadline_ms <= now)
			timed_out(c);
		else
			conn_set_deadline(c, (unsigned)(c->deadline_ms - now));
	}
	conn_leave(c);
}

/* Out */

/* Nothing is left to send: an idle connection keeps no output buffers. One under load, as its reads show, does. */
static void release_output(struct conn *c)
{
	if (c->in.cap > READ_MIN)
		return;
	buffer_wipe(&c->out);
	buffer_free(&c->cipher);
	buffer_free(&c->flight);
}

static void write_flight(struct conn *c)
{
	nng_iov iov = { .iov_buf = c->flight.data + c->flight_used, .iov_len = c->flight.len - c->flight_used };
	int rv = nng_aio_set_iov(c->writing, 1, &iov);
	if (rv != 0) { /* one element always fits */
		conn_blame(c, STATUS_INTERNAL, "write: %s", nng_strerror(rv));
		conn_kill(c);
		return;
	}
	uint64_t now = clock_monotonic_ms();
	nng_aio_set_timeout(c->writing, c->flight_by_ms > now ? (nng_duration)(c->flight_by_ms - now) : 1);
	c->write_pending = true;
	c->busy++;
	nng_stream_send(c->stream, c->writing);
}

/*
 * Writes what the system takes at once, which is mostly all: a callback would cost two changes of thread for each frame.
 * False: the peer must read first, or is gone, as a write that calls back will tell.
 */
static bool write_now(struct conn *c)
{
	while (c->flight_used < c->flight.len) {
		nng_iov iov = { .iov_buf = c->flight.data + c->flight_used, .iov_len = c->flight.len - c->flight_used };
		if (nng_aio_set_iov(c->writing_now, 1, &iov) != 0)
			return false;
		nng_stream_send(c->stream, c->writing_now);
		nng_aio_cancel(c->writing_now);
		nng_aio_wait(c->writing_now);
		/* The count alone says what was written: NNG 1.12 notes the cancellation even of what is done. */
		size_t n = nng_aio_count(c->writing_now);
		if (n == 0)
			return false;
		c->flight_used += n;
	}
	c->flight.len = c->flight_used = 0;
	return true;
}

void conn_write_more(struct conn *c)
{
	while (!c->write_pending && !c->write_failed && c->state != CONN_DEAD && c->state != CONN_CONNECTING) {
		if (!conn_tls_encrypt(c, WRITE_MAX))
			return;
		if (c->state == CONN_CLOSING && c->out_used == c->out.len && !c->last_alert)
			conn_tls_bye(c);
		if (c->cipher.len == 0) {
			if (!c->dispatching && conn_output(c) == 0)
				release_output(c);
			return;
		}
		struct buffer empty = c->flight;
		c->flight = c->cipher;
		c->flight_used = 0;
		c->cipher = empty;
		c->cipher.len = 0;
		if (!write_now(c)) {
			c->flight_by_ms = clock_monotonic_ms() + c->limits.write_ms;
			write_flight(c);
		}
	}
}

/* Both ends have said close_notify, ours is with the system: no reason to linger. */
static void end_if_all_is_said(struct conn *c)
{
	if (c->state == CONN_CLOSING && c->peer_closed && c->last_alert && !c->write_pending && conn_output(c) == 0)
		conn_kill(c);
}

static void read_more(struct conn *c);

static void write_done(struct conn *c, int rv)
{
	if (rv == NNG_ETIMEDOUT) {
		conn_count(c, TALLY_NOT_READING);
		conn_blame(c, STATUS_UNAVAILABLE, "the peer has not read for %u ms", c->limits.write_ms);
		conn_kill(c);
	} else if (rv != 0) {
		/* The peer is gone, and may have said why: reading tells, now or when the system notices. */
		c->write_failed = true;
		conn_set_deadline(c, CONN_LINGER_MS);
	} else {
		c->flight_used += nng_aio_count(c->writing);
		if (c->flight_used < c->flight.len) {
			write_flight(c);
			return;
		}
		c->flight.len = c->flight_used = 0;
		if (!c->dispatching)
			conn_write_more(c);
	}
	end_if_all_is_said(c);
	read_more(c);
}

void conn_on_write(void *conn)
{
	struct conn *c = conn;
	pthread_mutex_lock(&c->mutex);
	c->write_pending = false;
	if (c->state != CONN_DEAD)
		write_done(c, nng_aio_result(c->writing));
	(void)conn_account(c);
	conn_leave(c);
}

void conn_flush(struct conn *c)
{
	pthread_mutex_lock(&c->mutex);
	if (c->state >= CONN_HANDSHAKE && c->state != CONN_DEAD && !c->dispatching) {
		conn_write_more(c);
		(void)conn_account(c);
		read_more(c);
	}
	pthread_mutex_unlock(&c->mutex);
}

/* In */

/* `got` of the last read tells what the next may bring. Nothing of it is left. */
static bool size_input(struct conn *c, size_t got)
{
	const size_t max = c->state == CONN_UP ? READ_MAX : READ_MAX_HANDSHAKE;
	size_t cap = c->in.cap;
	if (cap == 0)
		cap = READ_MIN;
	else if (got == cap && cap < max)
		cap *= 4;
	while (cap > READ_MIN && got < cap / 4)
		cap /= 2;
	if (cap > max)
		cap = max;
	if (cap != c->in.cap) {
		uint8_t *data = malloc(cap);
		if (data) {
			free(c->in.data);
			c->in.data = data;
			c->in.cap = cap;
		}
	}
	c->in.len = c->in.used = 0;
	return c->in.data != NULL;
}

static void read_more(struct conn *c)
{
	if (c->read_pending || c->dispatching || c->state == CONN_DEAD || must_wait_for_peer(c))
		return;
	int rv = size_input(c, c->in.len) ? 0 : NNG_ENOMEM;
	nng_iov iov = { .iov_buf = c->in.data, .iov_len = c->in.cap };
	if (rv == 0)
		rv = nng_aio_set_iov(c->reading, 1, &iov);
	if (rv != 0) {
		conn_blame(c, STATUS_RESOURCE_EXHAUSTED, "read: %s", nng_strerror(rv));
		conn_kill(c);
		return;
	}
	/* Draining takes what is there; should the system have it otherwise, this must end all the same. */
	nng_aio_set_timeout(c->reading, c->draining ? CONN_LINGER_MS : NNG_DURATION_INFINITE);
	c->read_pending = true;
	c->busy++;
	nng_stream_recv(c->stream, c->reading);
}

static void read_failed(struct conn *c, int rv)
{
	/* On a reset NNG reports the hang-up before it has read what came ahead of it: an alert that says why, say. */
	if (!c->draining && c->state != CONN_CLOSING) {
		c->draining = true;
		read_more(c);
		return;
	}
	if (c->state == CONN_UP && rv == NNG_ETIMEDOUT)
		conn_count(c, TALLY_NOT_READING); /* says the system (user_timeout.h) */
	if (c->state == CONN_UP)
		conn_blame(c, STATUS_UNAVAILABLE, "the connection broke: %s", nng_strerror(rv));
	else
		conn_blame(c, STATUS_UNAVAILABLE, "hung up in the handshake (%s); is this the right port?",
			   nng_strerror(rv));
	conn_kill(c);
}

/* Queues our half of the SP handshake: 00 'S' 'P' 00, protocol, reserved. */
static bool say_hello(struct conn *c)
{
	const uint8_t hello[SP_HELLO_SIZE] = { 0, 'S', 'P', 0, 0, (uint8_t)c->self, 0, 0 };
	if (buffer_append(&c->out, hello, sizeof hello))
		return true;
	conn_blame(c, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	conn_kill(c);
	return false;
}

/* True: the connection came up. */
static bool take_hello(struct conn *c)
{
	/* REQ and REP, PUSH and PULL differ in the last bit. */
	const uint8_t expected[SP_HELLO_SIZE] = { 0, 'S', 'P', 0, 0, (uint8_t)(c->self ^ 1), 0, 0 };
	if (c->plain.len < sizeof expected)
		return false;
	if (memcmp(c->plain.data, expected, sizeof expected) != 0) {
		conn_blame(c, STATUS_UNAVAILABLE, "the peer speaks another protocol than SP 0x%02x; is this the right port?",
			   (unsigned)(c->self ^ 1));
		conn_finish(c);
		return false;
	}
	conn_consume(&c->plain, sizeof expected);
	c->state = CONN_UP;
	c->was_up = true;
	if (c->limits.idle_ms)
		conn_set_deadline(c, c->limits.idle_ms);
	else
		c->deadline_ms = 0; /* the timer finds that there is nothing to do */
	return true;
}

/* Gives frames to the handlers, without the mutex: they may send and close, and other threads too. What they send to
 * other connections leaves when they have returned, too. */
static void dispatch(struct conn *c, bool came_up)
{
	size_t used = 0;
	uint64_t refused = 0;
	c->dispatching = true;
	pthread_mutex_unlock(&c->mutex);
	conn_hold();
	if (came_up && c->handlers.up)
		c->handlers.up(c->handlers.arg, c);
	while (c->plain.len - used >= FRAME_HEAD_SIZE && !atomic_load_explicit(&c->stopped, memory_order_relaxed)) {
		uint64_t len = get_u64(c->plain.data + used);
		if (len > c->limits.max_frame) {
			refused = len;
			break;
		}
		if (c->plain.len - used - FRAME_HEAD_SIZE < len)
			break;
		if (c->handlers.frame)
			c->handlers.frame(c->handlers.arg, c, c->plain.data + used + FRAME_HEAD_SIZE, (size_t)len);
		used += FRAME_HEAD_SIZE + (size_t)len;
	}
	conn_release();
	pthread_mutex_lock(&c->mutex);
	c->dispatching = false;
	conn_consume(&c->plain, used);
	if (c->plain.len == 0 && c->in.cap == READ_MIN)
		buffer_wipe(&c->plain);
	if (used > 0)
		c->frame_since_ms = 0; /* what is left began just now */
	if (refused) {
		conn_count(c, TALLY_FRAME_TOO_LARGE);
		conn_blame(c, STATUS_RESOURCE_EXHAUSTED, "a frame of %llu bytes; at most %zu are taken",
			   (unsigned long long)refused, c->limits.max_frame);
		conn_finish(c);
	}
}

static void take_input(struct conn *c)
{
	enum tls_progress progress = TLS_DONE;
	bool came_up = false;
	if (c->state == CONN_HANDSHAKE) {
		progress = conn_tls_handshake(c);
		if (c->listener && c->cipher.len > 0)
			listener_spoke(c);
		if (progress == TLS_DONE) {
			c->state = CONN_HELLO;
			if ((c->listener && !listener_authenticated(c)) || !say_hello(c))
				return;
		}
	}
	if (c->state == CONN_HELLO || c->state == CONN_UP)
		progress = conn_tls_decrypt(c);
	if (c->state == CONN_HELLO)
		came_up = take_hello(c);
	if (came_up || (c->plain.len >= FRAME_HEAD_SIZE && c->was_up))
		dispatch(c, came_up);
	if (progress == TLS_CLOSED) {
		c->peer_closed = true;
		conn_blame(c, STATUS_OK, "closed by the peer");
		conn_finish(c);
	}
}

void conn_on_read(void *conn)
{
	struct conn *c = conn;
	pthread_mutex_lock(&c->mutex);
	c->read_pending = false;
	int rv = nng_aio_result(c->reading);
	if (c->state == CONN_DEAD) {
		/* too late */
	} else if (rv != 0) {
		read_failed(c, rv);
	} else {
		c->in.len = nng_aio_count(c->reading);
		c->heard_ms = c->read_ms = clock_monotonic_ms();
		if (c->state != CONN_CLOSING)
			take_input(c);
		conn_write_more(c);
		watch_input(c);
		(void)conn_account(c);
		end_if_all_is_said(c);
		read_more(c);
	}
	conn_leave(c);
}

void conn_begin(struct conn *c)
{
	c->state = CONN_HANDSHAKE;
	c->heard_ms = c->read_ms = clock_monotonic_ms();
	if (!c->server && conn_tls_handshake(c) == TLS_FAILED)
		return;
	conn_write_more(c);
	read_more(c);
}
