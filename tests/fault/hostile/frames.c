/* Peers with a good certificate that begin what they do not finish, announce what they must not, and do not read. */
#include <endian.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fault/hostile/hostile.h"
#include "tests/support/echo.h"

#define FLOOD_PAYLOAD (16u << 10)
#define FLOOD_FRAMES 2048            /* 32 MiB of answers: far over any bound on output */
#define MANY 300
#define MANY_DEAF 100                /* with 4 MiB of answers each */
#define MANY_MAX_KIB (160u << 10)    /* what they may make the daemon hold: half of buffer-memory, and the allocator's part */
#define REFUSE_MAX_MS 3000           /* "at once": before any timer */

static bool send_head(struct sp_client *c, uint64_t len)
{
	uint8_t head[12] = { 0 };
	len = htobe64(len);
	memcpy(head, &len, sizeof len);
	memcpy(head + 8, "\x80\0\0\1", 4);
	return sp_write(c, head, sizeof head);
}

static bool stop_mid_hello(struct sp_client *c, unsigned i)
{
	if (!connect_from(c, i) || !sp_handshake(c, target.insider))
		return false;
	(void)sp_write(c, "\0SP", i % 4); /* it may have been closed: there were too many of them */
	return true;
}

static bool leave_mid_frame(unsigned i, const char **why)
{
	struct sp_client c;
	static const uint8_t partial[20] = { 0, 0, 0, 0, 0, 0, 4, 0, 0x80, 0, 0, 1 };
	*why = "cannot open a good connection";
	bool ok = open_from(&c, i) && sp_write(&c, partial, 1 + i % sizeof partial);
	sp_close(&c, i % 2 == 0);
	return ok;
}

static bool announce_too_much(unsigned i, const char **why)
{
	const uint64_t lengths[] = { target.frame_refused, (uint64_t)1 << 63, UINT64_MAX, (uint64_t)1 << 32 };
	struct sp_client c;
	*why = "cannot open a good connection";
	bool ok = open_from(&c, i) && send_head(&c, lengths[i % 4]);
	unsigned long started = now_ms();
	if (ok) {
		*why = "not closed at once after the head of a frame that is too large";
		ok = sp_wait_closed(&c) && now_ms() - started <= REFUSE_MAX_MS * target.patience;
	}
	sp_close(&c, false);
	return ok;
}

/* Waits, reading nothing, at most `ms` for the daemon to close. */
static bool hung_up(struct sp_client *c, int ms)
{
	struct pollfd p = { .fd = c->fd, .events = POLLRDHUP };
	return poll(&p, 1, ms) == 1;
}

/* Where the socket takes nothing: again and again, until the time is up. */
static bool write_until(struct sp_client *c, const uint8_t *data, size_t len, unsigned long until)
{
	while (len > 0) {
		ssize_t n = gnutls_record_send(c->session, data, len);
		if (n < 0 && (gnutls_error_is_fatal((int)n) || now_ms() >= until))
			return false;
		data += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return true;
}

/* Asks for far more than the daemon may keep for one connection, and reads nothing, for so long at most. True: all was
 * taken. */
static bool ask_on(struct sp_client *c, unsigned max_ms)
{
	static const uint8_t payload[FLOOD_PAYLOAD];
	const struct timeval tick = { .tv_usec = 100000 };
	const int small = 4096;
	const unsigned long until = now_ms() + max_ms;
	size_t len;
	uint8_t head[12] = { 0 }, *request = echo_request(payload, sizeof payload, &len);
	const uint64_t length = htobe64(len + 4);
	bool ok = true;
	memcpy(head, &length, sizeof length);
	memcpy(head + 8, "\x80\0\0\1", 4);
	(void)setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
	(void)setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &tick, sizeof tick);
	for (unsigned i = 0; ok && i < FLOOD_FRAMES; i++)
		ok = write_until(c, head, sizeof head, until) && write_until(c, request, len, until);
	free(request);
	return ok;
}

/* The daemon must close, or stop reading, and close when its write has not got on for long (some wait for that). */
static bool never_read(unsigned i, const char **why)
{
	struct sp_client c;
	const bool stays = i % 50 == 0;
	*why = "cannot open a good connection";
	bool ok = open_from(&c, i);
	if (ok) {
		/* A daemon that is only slow must not look like one that has stopped reading: most leave soon. It may take the
		 * rest only to drop it, on the way to closing. */
		*why = "not closed although it reads no answer";
		if (ask_on(&c, stays ? 30000 : 500) || stays)
			ok = hung_up(&c, 30000);
	}
	sp_close(&c, true);
	return ok;
}

/* Many at once: all open their connections, then act. Fewer are let in where one identity's connections are limited. */
struct crowd {
	struct sp_client clients[MANY];
	bool opened[MANY];
	unsigned n;
	void (*act)(struct sp_client *c);
	atomic_bool gone;
};
static struct crowd crowd;

static bool join_crowd(unsigned i, const char **why)
{
	struct sp_client *c = &crowd.clients[i];
	(void)why;
	crowd.opened[i] = connect_from(c, i) && sp_handshake(c, target.insider) && say_hello(c);
	if (!crowd.opened[i])
		sp_close(c, true);
	return true;
}

static bool act_in_crowd(unsigned i, const char **why)
{
	(void)why;
	if (crowd.opened[i])
		crowd.act(&crowd.clients[i]);
	return true;
}

/* What the daemon holds at most, while the crowd is there. */
static void *watch_memory(void *arg)
{
	unsigned *most = arg;
	while (!atomic_load(&crowd.gone)) {
		unsigned now = rss_kib();
		*most = now > *most ? now : *most;
		usleep(10000);
	}
	return NULL;
}

/* Waits until the daemon has dropped all of them, and returns how many it did not. */
static unsigned outlast_crowd(unsigned *ret_opened)
{
	unsigned long started = now_ms(), limit = 30000UL * target.patience;
	unsigned left = 0, opened = 0;
	for (unsigned i = 0; i < crowd.n; i++) {
		unsigned long waited = now_ms() - started;
		opened += crowd.opened[i];
		left += crowd.opened[i] && !hung_up(&crowd.clients[i], waited < limit ? (int)(limit - waited) : 0);
	}
	for (unsigned i = 0; i < crowd.n; i++)
		if (crowd.opened[i])
			sp_close(&crowd.clients[i], true);
	*ret_opened = opened;
	return left;
}

/* `act` on each side by side, then what they cost together, and whether the daemon drops them by itself. */
static bool run_crowd(const char *name, unsigned n, unsigned lanes, void (*act)(struct sp_client *c), char *seen, size_t size)
{
	pthread_t watcher;
	const unsigned before = rss_kib();
	unsigned most = before, opened;
	crowd.n = n;
	crowd.act = act;
	atomic_store(&crowd.gone, false);
	if (pthread_create(&watcher, NULL, watch_memory, &most) != 0)
		die("no thread");
	(void)run_lanes(name, join_crowd, n, LANES);
	(void)run_lanes(name, act_in_crowd, n, lanes);
	unsigned long started = now_ms();
	unsigned left = outlast_crowd(&opened);
	unsigned long dropped_ms = now_ms() - started;
	atomic_store(&crowd.gone, true);
	pthread_join(watcher, NULL);
	const unsigned grown = most - before;
	snprintf(seen, size, "%u of %u let in, %u KiB more, %u left after %lu ms", opened, n, grown, left, dropped_ms);
	if (opened == 0)
		return complain("%s: nobody was let in", name);
	bool ok = target.patience > 1 || grown <= MANY_MAX_KIB ||
		  complain("%s: %u connections made the daemon hold %u KiB more", name, opened, grown);
	return (left == 0 || complain("%s: %u of %u are still there after %lu ms", name, left, opened, dropped_ms)) && ok;
}

/* A frame of 1 MiB (or what the port takes) but for its last byte. */
static void begin_frame(struct sp_client *c)
{
	static uint8_t zeroes[1 << 14];
	size_t len = 1 << 20;
	if (!send_head(c, len))
		return;
	for (size_t left = len - 5; left > 0;) {
		size_t n = left < sizeof zeroes ? left : sizeof zeroes;
		if (!sp_write(c, zeroes, n))
			return;
		left -= n;
	}
}

static bool begin_frames(unsigned count, char *seen, size_t size)
{
	(void)count;
	return run_crowd("frames begun", MANY, LANES, begin_frame, seen, size);
}

static void ask_without_reading(struct sp_client *c)
{
	(void)ask_on(c, 30000 * target.patience);
}

static bool never_read_many(unsigned count, char *seen, size_t size)
{
	(void)count;
	return run_crowd("answers not read", target.patience > 1 ? MANY_DEAF / 5 : MANY_DEAF, MANY_DEAF, ask_without_reading, seen, size);
}

const struct kind frames[] = {
	{ .name = "stops mid-hello", .ports = PORT_ANY, .start = stop_mid_hello },
	{ .name = "leaves mid-frame", .ports = PORT_ANY, .once = leave_mid_frame },
	/* Closing takes up to a second each: the peer gets time to read the last alert. */
	{ .name = "announces a frame too large", .ports = PORT_ANY, .once = announce_too_much, .lanes = 48, .divisor = 2 },
	{ .name = "asks, never reads", .ports = PORT_RPC, .once = never_read, .lanes = 32, .divisor = 2 },
	{ .name = "300 frames begun", .ports = PORT_ANY, .all = begin_frames },
	{ .name = "100 that never read", .ports = PORT_RPC, .all = never_read_many },
	{ 0 },
};
