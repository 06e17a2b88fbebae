/* Connections that say nothing, as many as one likes, from one host or many: others must still get in. */
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/fault/hostile/hostile.h"

#define HOLD_MS 1500
#define ENTER_MAX_MS 3000 /* a new good connection, hello and all */
#define REFRESH_MS 100

struct holder {
	struct sp_client held[SILENT_MAX];
	unsigned n;
	bool one_host;
	unsigned long dropped; /* closed by the daemon, or not taken at all */
};

/* Replaces those that the daemon has closed. */
static void refresh(struct holder *h)
{
	for (unsigned i = 0; i < h->n; i++) {
		struct sp_client *c = &h->held[i];
		struct pollfd p = { .fd = c->fd, .events = POLLRDHUP };
		if (c->fd >= 0 && poll(&p, 1, 0) == 0)
			continue;
		h->dropped += c->fd >= 0;
		sp_close(c, true);
		(void)connect_from(c, h->one_host ? 0 : i);
	}
}

static void release(struct holder *h)
{
	for (unsigned i = 0; i < h->n; i++)
		sp_close(&h->held[i], true);
}

static bool enter(unsigned long *slowest)
{
	struct sp_client c = { .fd = -1 };
	unsigned long started = now_ms();
	bool ok = open_good(&c);
	unsigned long took = now_ms() - started;
	sp_close(&c, false);
	*slowest = took > *slowest ? took : *slowest;
	return ok && took <= ENTER_MAX_MS * target.patience;
}

static bool hold(unsigned n, bool one_host, unsigned long *slowest, unsigned *entered)
{
	struct holder h = { .n = n, .one_host = one_host };
	bool ok = true;
	for (unsigned i = 0; i < n; i++)
		h.held[i].fd = -1;
	unsigned long started = now_ms(), refreshed = 0;
	for (unsigned long now = started; ok && now - started < HOLD_MS; now = now_ms()) {
		if (now - refreshed >= REFRESH_MS) {
			refresh(&h);
			refreshed = now;
		}
		ok = enter(slowest);
		if (!ok)
			complain("%u silent connections from %s: a good one does not get in within %lu ms", n,
				 one_host ? "one host" : "forty", now_ms() - now);
		*entered += ok;
	}
	release(&h);
	return ok;
}

static bool hold_slots(unsigned count, char *seen, size_t size)
{
	unsigned long slowest = 0;
	unsigned entered = 0;
	bool ok = true;
	(void)count;
	for (unsigned i = 0; i < 4; i++)
		ok = hold(i < 2 ? 64 : SILENT_MAX, i % 2 == 0, &slowest, &entered) && ok;
	snprintf(seen, size, "64 and %u held: %u came in meanwhile, slowest %lu ms", SILENT_MAX, entered, slowest);
	return ok;
}

_Noreturn void hold_for_ever(unsigned n)
{
	static struct holder h;
	h.n = n < SILENT_MAX ? n : SILENT_MAX;
	h.one_host = true;
	for (unsigned i = 0; i < h.n; i++)
		h.held[i].fd = -1;
	/* Faster than the others dial. */
	for (;; usleep(3000))
		refresh(&h);
}

const struct kind slots[] = {
	{ .name = "silent connections", .ports = PORT_ANY, .all = hold_slots },
	{ 0 },
};
