#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/channel_internal.h"
#include "common/rpc/message.h"

uint32_t pending_next_id(struct rpc_channel *ch)
{
	/* There are twice as many slots as requests: one is near. */
	do
		ch->next_id = (ch->next_id + 1) & ~SP_ID_BIT;
	while (ch->slots[ch->next_id & ch->slot_mask]);
	return ch->next_id;
}

enum status_code pending_add(struct rpc_channel *ch, struct pending *p, struct status *st)
{
	/* What is unanswered bounds what is unsent: the connection must not be closed for output that piles up. */
	size_t max_bytes = ch->limits.max_output - ch->limits.max_output / 8;
	if (ch->n_pending >= ch->max_pending || (ch->n_pending > 0 && ch->pending_bytes + p->wire.len > max_bytes))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED,
				  "%s: %u requests (%zu bytes) wait for answers already; try again later", p->method,
				  ch->n_pending, ch->pending_bytes);
	p->id = pending_next_id(ch);
	ch->slots[p->id & ch->slot_mask] = p;
	ch->n_pending++;
	ch->pending_bytes += p->wire.len;
	TAILQ_INSERT_TAIL(&ch->pending, p, entry);
	return STATUS_OK;
}

struct pending *pending_find(struct rpc_channel *ch, uint32_t id)
{
	struct pending *p = ch->slots[id & ch->slot_mask];
	return p && p->id == id ? p : NULL;
}

void pending_remove(struct rpc_channel *ch, struct pending *p)
{
	ch->slots[p->id & ch->slot_mask] = NULL;
	ch->n_pending--;
	ch->pending_bytes -= p->wire.len;
	TAILQ_REMOVE(&ch->pending, p, entry);
}

void pending_end(struct rpc_channel *ch, struct pending *p, const struct status *why)
{
	pending_remove(ch, p);
	p->outcome = *why;
	TAILQ_INSERT_TAIL(&ch->ended, p, entry);
}

/* "127.0.1.1:7400, 127.0.1.2:7400"; cut where it does not fit. */
static void list_addresses(const struct rpc_channel *ch, char *list, size_t size)
{
	list[0] = '\0';
	for (size_t i = 0; i < ch->n_addresses; i++) {
		size_t len = strlen(list);
		(void)snprintf(list + len, size - len, "%s%s", i > 0 ? ", " : "", ch->addresses[i].text);
	}
}

void pending_end_late(struct rpc_channel *ch, struct pending *p)
{
	struct status st;
	char list[96];
	list_addresses(ch, list, sizeof list);
	if (p->turned_down)
		(void)status_set(&st, STATUS_UNAVAILABLE, "%s: tried for %u ms: %s", p->method, p->timeout_ms,
				 ch->reason.message);
	else if (p->had_it)
		(void)status_set(&st, STATUS_DEADLINE_EXCEEDED, "%s: no answer from %s within %u ms", p->method, list,
				 p->timeout_ms);
	else
		(void)status_set(&st, STATUS_UNAVAILABLE, "%s: no connection to %s within %u ms: %s", p->method, list,
				 p->timeout_ms, ch->reason.code != STATUS_OK ? ch->reason.message : "nobody answers");
	pending_end(ch, p, &st);
}

void pending_free(struct pending *p)
{
	if (p->secret)
		buffer_wipe(&p->wire);
	else
		buffer_free(&p->wire);
	free(p);
}

void pending_finish(struct pending *p)
{
	struct rpc_result result = { .status = p->outcome, .field = "" };
	p->done(p->arg, &result);
	pending_free(p);
}

static void finish_with(struct pending *p, struct rpc_result *result)
{
	p->done(p->arg, result);
	pending_free(p);
}

static void answer_error(struct pending *p, const struct response_envelope *response)
{
	char field[128];
	struct rpc_result result = { .field = field, .answered = true, .retry_after_ms = response->retry_after_ms };
	(void)snprintf(field, sizeof field, "%.*s", (int)response->field.len, (const char *)response->field.data);
	(void)status_set(&result.status, response->code, "%.*s", (int)response->message.len,
			 (const char *)response->message.data);
	finish_with(p, &result);
}

/* From the payload to the message, or to a failure. `arena` NULL: no memory. */
static void unpack_answer(const struct pending *p, struct arena *arena, struct rpc_result *result)
{
	struct status *st = &result->status;
	enum status_code rc = arena ? message_unpack(p->output, result->payload, arena, st, NULL, 0, &result->message)
				    : status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	if (rc == STATUS_OK)
		return;
	if (rc == STATUS_INVALID_ARGUMENT)
		st->code = STATUS_INTERNAL; /* the server's mistake, not the caller's */
	(void)status_prefix(st, "the answer to %s", p->method);
	result->payload = (struct slice){ .len = 0 };
}

void pending_answer(struct pending *p, const struct response_envelope *response, size_t max_unpacked)
{
	if (response->code != STATUS_OK) {
		answer_error(p, response);
		return;
	}
	struct rpc_result result = { .field = "", .answered = true, .payload = response->payload };
	struct arena *arena = NULL;
	bool secret = p->secret;
	if (p->output) {
		arena = arena_new(max_unpacked);
		unpack_answer(p, arena, &result);
	}
	finish_with(p, &result);
	if (secret)
		arena_wipe(arena);
	else
		arena_free(arena);
}
