#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/rpc/channel_internal.h"

#define PAUSE_FIRST_MS 20
#define PAUSE_MOST_MS 500
/* So long without a failure, and the pause begins small again. */
#define PAUSE_FORGET_MS 2000
/* The timer thread looks no more often. */
#define TICK_MS 10
/* So often in a row the channel goes where a replica sends it, without a pause. */
#define HINTS_MAX 3
/* No server counts as gone before it was silent for so long. */
#define PATIENCE_LEAST_MS 1000

static const char *address_of(const struct rpc_channel *ch)
{
	return ch->detour[0] ? ch->detour : ch->addresses[ch->current].text;
}

/*
 * Failure and the next try
 */

static void retry_later(struct rpc_channel *ch, uint64_t now)
{
	if (ch->retry_at)
		return; /* many requests fail at once; it is one failure */
	if (now - ch->failed_at > PAUSE_FORGET_MS)
		ch->pause_ms = PAUSE_FIRST_MS;
	else if (ch->pause_ms < PAUSE_MOST_MS)
		ch->pause_ms = ch->pause_ms * 2 < PAUSE_MOST_MS ? ch->pause_ms * 2 : PAUSE_MOST_MS;
	ch->failed_at = now;
	ch->retry_at = now + ch->pause_ms;
	channel_wake_at(ch, ch->retry_at);
}

void link_drop(struct rpc_channel *ch)
{
	if (!ch->conn)
		return;
	conn_close(ch->conn);
	conn_unref(ch->conn);
	ch->conn = NULL;
	ch->up = false;
}

static bool has_another(const struct rpc_channel *ch)
{
	return ch->n_addresses > 1 || ch->detour[0];
}

static void next_address(struct rpc_channel *ch)
{
	ch->detour[0] = '\0';
	ch->current = (ch->current + 1) % ch->n_addresses;
}

/* True when each address has refused us, or we it; then they get another chance with the next request. */
static bool refused_everywhere(struct rpc_channel *ch)
{
	for (size_t i = 0; i < ch->n_addresses; i++) {
		if (!ch->addresses[i].refused)
			return false;
	}
	for (size_t i = 0; i < ch->n_addresses; i++)
		ch->addresses[i].refused = false;
	return true;
}

/* The connection is lost, or never came up, and ch->reason says why. */
static void link_failed(struct rpc_channel *ch, uint64_t now)
{
	bool was_up = ch->up;
	link_drop(ch);
	if (!ch->detour[0])
		ch->addresses[ch->current].refused = !was_up && (ch->reason.code == STATUS_UNAUTHENTICATED ||
								 ch->reason.code == STATUS_PERMISSION_DENIED);
	ch->detour[0] = '\0';
	if (!was_up || ch->n_pending > 0)
		next_address(ch); /* else an idle connection was closed, which speaks against nobody */
	bool hopeless = refused_everywhere(ch);
	struct status why = ch->reason;
	if (!hopeless)
		why.code = STATUS_UNAVAILABLE;
	struct pending *p, *next;
	for (p = TAILQ_FIRST(&ch->pending); p; p = next) {
		next = TAILQ_NEXT(p, entry);
		p->sent_on = NULL;
		if (hopeless || p->no_retry)
			pending_end(ch, p, &why);
	}
	if (ch->n_pending > 0)
		retry_later(ch, now);
}

void link_give_up(struct rpc_channel *ch)
{
	if (!ch->conn)
		return;
	(void)status_set(&ch->reason, STATUS_UNAVAILABLE, "%s: given up", address_of(ch));
	link_failed(ch, clock_monotonic_ms());
}

void link_leave(struct rpc_channel *ch)
{
	if (!ch->up || !has_another(ch))
		return;
	bool idle = ch->n_pending == 0;
	(void)status_set(&ch->reason, STATUS_UNAVAILABLE, "%s: left for another", address_of(ch));
	link_failed(ch, clock_monotonic_ms());
	if (idle)
		next_address(ch);
}

/* So long a server may be silent. A handshake is given more time than an answer: when one server goes, the others have
 * many to make. */
static unsigned patience(const struct rpc_channel *ch, const struct pending *p)
{
	unsigned part = ch->up && has_another(ch) && !p->long_poll ? p->timeout_ms / 10 : p->timeout_ms / 3;
	return part > PATIENCE_LEAST_MS ? part : PATIENCE_LEAST_MS;
}

/*
 * Sending
 */

static bool send_frame(struct rpc_channel *ch, uint32_t id, struct slice envelope, unsigned timeout_ms)
{
	uint8_t header[4], timeout[REQUEST_TIMEOUT_MAX];
	sp_put_id(header, id | SP_ID_BIT);
	struct slice parts[] = {
		{ .data = header, .len = sizeof header },
		envelope,
		{ .data = timeout, .len = request_pack_timeout(timeout_ms, timeout) },
	};
	/* What cannot be sent means that `down` is on its way, which sends it again elsewhere. */
	return conn_send(ch->conn, parts, 3) == STATUS_OK;
}

static void transmit(struct rpc_channel *ch, struct pending *p, uint64_t now)
{
	if (now >= p->deadline)
		return; /* the next tick ends it */
	p->sent_on = ch->conn;
	p->sent_at = now;
	p->turned_down = false;
	struct slice envelope = { .data = p->wire.data, .len = p->wire.len };
	if (send_frame(ch, p->id, envelope, (unsigned)(p->deadline - now)))
		p->had_it = true;
	channel_wake_at(ch, now + patience(ch, p) / 2);
}

static void transmit_waiting(struct rpc_channel *ch, uint64_t now)
{
	struct pending *p;
	TAILQ_FOREACH (p, &ch->pending, entry) {
		if (p->sent_on != ch->conn)
			transmit(ch, p, now);
	}
}

/* Asks a silent server for a sign of life. The answer's id is nobody's; that it comes is enough. */
static void probe(struct rpc_channel *ch, unsigned timeout_ms)
{
	static const char method[] = "Health.Check";
	struct request_envelope request = { .method = { .data = method, .len = sizeof method - 1 } };
	struct buffer wire = { .len = 0 };
	ch->probed = true;
	if (request_pack(&request, &wire)) {
		struct slice envelope = { .data = wire.data, .len = wire.len };
		(void)send_frame(ch, pending_next_id(ch), envelope, timeout_ms);
	}
	buffer_free(&wire);
}

/*
 * The connection
 */

static void on_up(void *arg, struct conn *c)
{
	struct rpc_channel *ch = arg;
	pthread_mutex_lock(&ch->mutex);
	if (c == ch->conn) {
		uint64_t now = clock_monotonic_ms();
		ch->up = true;
		ch->probed = false;
		ch->heard_at = now;
		if (!ch->detour[0])
			ch->addresses[ch->current].refused = false;
		transmit_waiting(ch, now);
	}
	channel_unlock(ch);
}

/* Closes the connection on the way to another address; what is in flight on it goes there too. */
static void move_on(struct rpc_channel *ch)
{
	struct pending *p, *next;
	struct status why = ch->reason;
	link_drop(ch);
	for (p = TAILQ_FIRST(&ch->pending); p; p = next) {
		next = TAILQ_NEXT(p, entry);
		if (p->no_retry && p->sent_on)
			pending_end(ch, p, &why);
		else
			p->sent_on = NULL;
	}
}

static void dial(struct rpc_channel *ch, uint64_t now);

/* Goes to the server that a replica named. False: it named none, or there were enough of that. */
static bool follow_hint(struct rpc_channel *ch, struct slice ask)
{
	char address[CHANNEL_ASK_MAX];
	if (!(ch->expect_roles & PEER_SERIAL) || ask.len == 0 || ask.len >= sizeof address || ch->hints >= HINTS_MAX)
		return false;
	memcpy(address, ask.data, ask.len);
	address[ask.len] = '\0';
	if (strcmp(address, address_of(ch)) == 0)
		return false;
	log_debug("sent on from=%s to=%s", address_of(ch), address);
	ch->hints++;
	move_on(ch);
	memcpy(ch->detour, address, sizeof address);
	for (size_t i = 0; i < ch->n_addresses && ch->detour[0]; i++) {
		if (strcmp(ch->addresses[i].text, address) != 0)
			continue;
		ch->current = i;
		ch->detour[0] = '\0';
	}
	dial(ch, clock_monotonic_ms());
	return true;
}

static void turned_down(struct rpc_channel *ch, struct pending *p, const struct response_envelope *response)
{
	p->sent_on = NULL;
	p->turned_down = true;
	(void)status_set(&ch->reason, STATUS_UNAVAILABLE, "%.*s", (int)response->message.len,
			 (const char *)response->message.data);
	if (!follow_hint(ch, response->ask))
		retry_later(ch, clock_monotonic_ms());
}

static void on_frame(void *arg, struct conn *c, const uint8_t *data, size_t len)
{
	struct rpc_channel *ch = arg;
	struct pending *p = NULL;
	struct response_envelope response;
	struct status st = { .code = STATUS_OK };
	/* A server answers with the header that we sent, which is the id alone. */
	bool ours = len >= 4 && sp_id(data) & SP_ID_BIT;
	if (ours && response_parse((struct slice){ .data = data + 4, .len = len - 4 }, &st, &response) != STATUS_OK)
		response = (struct response_envelope){
			.code = STATUS_INTERNAL,
			.message = { .data = st.message, .len = strlen(st.message) },
		};
	pthread_mutex_lock(&ch->mutex);
	if (c == ch->conn) {
		ch->heard_at = clock_monotonic_ms();
		ch->probed = false;
		p = ours ? pending_find(ch, sp_id(data) & ~SP_ID_BIT) : NULL;
		if (p && p->sent_on != c)
			p = NULL;
		if (p && response.code != STATUS_UNAVAILABLE)
			ch->hints = 0;
		if (p && response.code == STATUS_UNAVAILABLE && !p->no_retry) {
			turned_down(ch, p, &response);
			p = NULL;
		}
		if (p)
			pending_remove(ch, p);
	}
	channel_unlock(ch);
	if (p)
		pending_answer(p, &response, ch->limits.max_frame * 8);
}

static void on_down(void *arg, struct conn *c, const struct status *why)
{
	struct rpc_channel *ch = arg;
	pthread_mutex_lock(&ch->mutex);
	if (c == ch->conn) {
		if (why->code == STATUS_OK)
			(void)status_set(&ch->reason, STATUS_UNAVAILABLE, "%s: closed the connection", address_of(ch));
		else
			ch->reason = *why;
		log_debug("connection lost address=%s: %s", address_of(ch), ch->reason.message);
		link_failed(ch, clock_monotonic_ms());
	}
	channel_unlock(ch);
	pthread_mutex_lock(&ch->mutex);
	ch->open_conns--;
	pthread_cond_broadcast(&ch->quiet);
	pthread_mutex_unlock(&ch->mutex); /* rpc_channel_free() may go on: nothing of ch after this */
}

static void dial(struct rpc_channel *ch, uint64_t now)
{
	struct conn_dial options = {
		.address = address_of(ch),
		.server_name = ch->server_name,
		.self = SP_REQ,
		.credentials = ch->credentials,
		.trust = ch->trust,
		.expect_roles = ch->expect_roles,
		.limits = ch->limits,
		.handlers = { .up = on_up, .frame = on_frame, .down = on_down, .arg = ch },
	};
	ch->retry_at = 0;
	ch->heard_at = now;
	ch->up = false;
	/* Its callbacks wait for the mutex until ch->conn is set. */
	if (conn_dial(&options, &ch->reason, &ch->conn) == STATUS_OK)
		ch->open_conns++;
	else
		link_failed(ch, now);
	channel_wake_at(ch, now + TICK_MS);
}

void link_redial(struct rpc_channel *ch)
{
	if (!ch->conn || ch->up)
		return;
	link_drop(ch);
	if (ch->n_pending > 0)
		dial(ch, clock_monotonic_ms());
}

void link_recheck(struct rpc_channel *ch)
{
	struct status why;
	if (!ch->up || trust_recheck(ch->trust, conn_identity(ch->conn), &why) == STATUS_OK)
		return;
	ch->reason = why;
	(void)status_prefix(&ch->reason, "%s", address_of(ch));
	log_debug("leaving a server: %s", ch->reason.message);
	link_failed(ch, clock_monotonic_ms());
}

void link_send(struct rpc_channel *ch, struct pending *p)
{
	channel_wake_at(ch, p->deadline);
	if (ch->up)
		transmit(ch, p, p->started);
	else if (!ch->conn && !ch->retry_at)
		dial(ch, p->started);
	else
		channel_wake_at(ch, p->started + patience(ch, p));
}

/*
 * Timers
 */

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* How long the connection has kept this request waiting without a sign of life: since when. */
static uint64_t silent_since(const struct rpc_channel *ch, const struct pending *p)
{
	uint64_t since = ch->up ? p->sent_at : p->started;
	return since > ch->heard_at ? since : ch->heard_at;
}

/* Ends what is late; finds a silent server. Returns when there may be something to do again. */
static uint64_t check_pending(struct rpc_channel *ch, uint64_t now)
{
	uint64_t again = UINT64_MAX;
	unsigned probe_ms = 0, silent_ms = 0;
	struct pending *p, *next;
	for (p = TAILQ_FIRST(&ch->pending); p; p = next) {
		next = TAILQ_NEXT(p, entry);
		if (now >= p->deadline) {
			pending_end_late(ch, p);
			continue;
		}
		again = least(again, p->deadline);
		if (!ch->conn || (ch->up && p->sent_on != ch->conn))
			continue;
		/* While there is but one address, its handshake may take what it takes (limits.handshake_ms). */
		if (!ch->up && !has_another(ch))
			continue;
		uint64_t since = silent_since(ch, p), most = patience(ch, p);
		if (now >= since + most)
			silent_ms = (unsigned)(now - since);
		else
			again = least(again, since + most);
		if (!ch->up || ch->probed)
			continue;
		if (now >= since + most / 2)
			probe_ms = (unsigned)most;
		else
			again = least(again, since + most / 2);
	}
	if (silent_ms > 0) {
		(void)status_set(&ch->reason, STATUS_UNAVAILABLE, "%s: silent for %u ms", address_of(ch), silent_ms);
		log_debug("giving up connection address=%s: %s", address_of(ch), ch->reason.message);
		link_failed(ch, now);
	} else if (probe_ms > 0) {
		probe(ch, probe_ms);
	}
	return again;
}

/* The pause is over. */
static void try_again(struct rpc_channel *ch, uint64_t now)
{
	ch->retry_at = 0;
	ch->hints = 0;
	if (ch->n_pending == 0)
		return;
	if (ch->conn && has_another(ch) && ch->up) {
		/* This server is up but not able; another may be. */
		move_on(ch);
		next_address(ch);
	}
	if (!ch->conn && ch->n_pending > 0)
		dial(ch, now);
	else if (ch->up)
		transmit_waiting(ch, now);
}

uint64_t link_tick(struct rpc_channel *ch, uint64_t now)
{
	uint64_t again = check_pending(ch, now);
	if (ch->retry_at && now >= ch->retry_at)
		try_again(ch, now);
	if (ch->retry_at)
		again = least(again, ch->retry_at);
	return again < now + TICK_MS ? now + TICK_MS : again;
}
