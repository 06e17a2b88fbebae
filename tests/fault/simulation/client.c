#include "tests/fault/simulation/client.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fault/simulation/client_internal.h"

#define CLIENTS 6
#define PAUSE_MS 120   /* at most, between two requests of a client */
#define RETRY_MS 200   /* at most, before the next try */
#define PATIENCE_MS 2000
#define REPEAT_PERCENT 15
#define REPEAT_AGE_MS 60000 /* far less than a request id is remembered (services/serial/state_requests.c) */

struct client {
	struct op *op;    /* under way; NULL: none */
	uint64_t next_ms; /* a new request, a try, or the end of patience */
	bool waiting;     /* for an answer */
	uint64_t attempt; /* answers of earlier ones do not count */
	unsigned target;
};

struct clients {
	struct sim *sim;
	struct op **ops; /* by number */
	size_t n_ops, cap_ops;
	struct client clients[CLIENTS];
	struct known known;
	bool finishing;
	uint64_t answered, reads, repeated;
};

/* One sending of a request. */
struct attempt {
	struct clients *clients;
	struct op *op;
	unsigned node;
	struct client *client; /* NULL: a repetition of what was answered */
	uint64_t number;
};

struct clients *clients_new(struct sim *s)
{
	struct clients *c = sim_alloc(sizeof *c);
	c->sim = s;
	for (unsigned i = 0; i < CLIENTS; i++)
		c->clients[i].next_ms = s->now_ms + sim_dice(s, PAUSE_MS);
	return c;
}

void clients_free(struct clients *c)
{
	for (size_t i = 0; i < c->n_ops; i++)
		op_free(c->ops[i]);
	free(c->ops);
	known_fini(&c->known);
	free(c);
}

/* Answers */

static bool is_final(enum status_code code)
{
	return code != STATUS_UNAVAILABLE && code != STATUS_RESOURCE_EXHAUSTED;
}

static void finish_op(struct clients *c, struct client *client)
{
	client->op = NULL;
	client->waiting = false;
	client->next_ms = c->finishing ? UINT64_MAX : c->sim->now_ms + sim_dice(c->sim, PAUSE_MS);
}

static void try_later(struct clients *c, const struct attempt *a)
{
	struct client *client = a->client;
	if (!client || client->op != a->op || client->attempt != a->number)
		return;
	/* Who does not lead says who does, as far as it knows. */
	Kds__V1__ReplicaStatus status = { .leader_id = 0 };
	if (node_running(c->sim->nodes[a->node]))
		node_status(c->sim->nodes[a->node], &status);
	unsigned leader = status.leader_id ? (unsigned)status.leader_id - 1 : a->node;
	client->target = leader != a->node ? leader : (unsigned)sim_dice(c->sim, c->sim->n_nodes);
	client->waiting = false;
	client->next_ms = c->sim->now_ms + sim_dice(c->sim, RETRY_MS);
}

/* The first answer counts; every other must be the same. */
static void take_answer(struct clients *c, const struct attempt *a, const struct state_result *r)
{
	struct op *op = a->op;
	if (op->answered) {
		op_check_same(c->sim, op, r);
		c->repeated++;
	} else {
		op_check_answer(c->sim, &c->known, op, r);
		op->answered_ms = c->sim->now_ms;
		c->answered++;
		sim_trace(c->sim, "request %" PRIu64 " is answered by replica %u: %s", op->number, a->node + 1,
			  status_name(r->status.code));
	}
	if (a->client && a->client->op == op)
		finish_op(c, a->client);
}

static void on_done(void *arg, const struct state_result *r)
{
	struct attempt *a = arg;
	if (node_is_ghost(a->clients->sim->nodes[a->node])) {
		/* Nobody hears of it. */
	} else if (is_final(r->status.code)) {
		take_answer(a->clients, a, r);
	} else {
		try_later(a->clients, a);
	}
	free(a);
}

static void on_read(void *arg, struct state *state, const struct status *st)
{
	struct attempt *a = arg;
	struct clients *c = a->clients;
	if (!node_is_ghost(c->sim->nodes[a->node]) && a->client->op == a->op && a->client->attempt == a->number) {
		/* A read that failed is over: there is nothing to repeat. */
		if (st->code == STATUS_OK) {
			op_check_read(c->sim, &c->known, a->op, state);
			c->reads++;
		}
		a->op->answered = true;
		finish_op(c, a->client);
	}
	free(a);
}

/* Requests */

static void send_op(struct clients *c, struct op *op, struct client *client, unsigned node)
{
	struct node *n = c->sim->nodes[node];
	if (!node_running(n))
		return; /* as if it did not answer */
	struct attempt *a = sim_alloc(sizeof *a);
	*a = (struct attempt){ .clients = c, .op = op, .node = node, .client = client };
	if (client)
		a->number = client->attempt;
	if (op->kind == OP_READ)
		node_read(n, on_read, a);
	else
		node_propose(n, (struct slice){ op->command.data, op->command.len }, on_done, a);
}

static void try_op(struct clients *c, struct client *client)
{
	client->attempt++;
	client->waiting = true;
	client->next_ms = c->sim->now_ms + PATIENCE_MS / 2 + sim_dice(c->sim, PATIENCE_MS);
	send_op(c, client->op, client, client->target);
}

static void repeat_one(struct clients *c)
{
	struct op *op = c->ops[c->n_ops - 1 - sim_dice(c->sim, c->n_ops < 40 ? c->n_ops : 40)];
	if (op->answered && op->kind != OP_READ && c->sim->now_ms - op->answered_ms < REPEAT_AGE_MS)
		send_op(c, op, NULL, (unsigned)sim_dice(c->sim, c->sim->n_nodes));
}

static void begin_op(struct clients *c, struct client *client)
{
	c->ops = sim_grow(c->ops, c->n_ops, &c->cap_ops, sizeof *c->ops);
	struct op *op = op_new(c->sim, &c->known, c->n_ops, (unsigned)(client - c->clients));
	c->ops[c->n_ops++] = op;
	client->op = op;
	/* Some stay with who answers them; what others write elsewhere is what a deposed leader does not know. */
	if (sim_chance(c->sim, (client - c->clients) % 2 == 0 ? 60 : 10))
		client->target = (unsigned)sim_dice(c->sim, c->sim->n_nodes);
	try_op(c, client);
}

uint64_t clients_next(const struct clients *c)
{
	uint64_t next = UINT64_MAX;
	for (unsigned i = 0; i < CLIENTS; i++)
		if (c->clients[i].next_ms < next)
			next = c->clients[i].next_ms;
	return next;
}

static void act(struct clients *c, struct client *client)
{
	if (!client->op) {
		begin_op(c, client);
		if (sim_chance(c->sim, REPEAT_PERCENT))
			repeat_one(c);
		return;
	}
	if (client->waiting && client->op->kind == OP_READ) {
		finish_op(c, client); /* forgotten by who should have answered */
		return;
	}
	if (client->waiting)
		client->target = (unsigned)sim_dice(c->sim, c->sim->n_nodes);
	try_op(c, client);
}

void clients_act(struct clients *c)
{
	for (unsigned i = 0; i < CLIENTS; i++)
		if (c->clients[i].next_ms <= c->sim->now_ms)
			act(c, &c->clients[i]);
}

/* The end */

void clients_finish(struct clients *c)
{
	c->finishing = true;
	for (unsigned i = 0; i < CLIENTS; i++)
		if (!c->clients[i].op)
			c->clients[i].next_ms = UINT64_MAX;
}

bool clients_finished(const struct clients *c)
{
	for (unsigned i = 0; i < CLIENTS; i++)
		if (c->clients[i].op)
			return false;
	return true;
}

void clients_repeat(struct clients *c)
{
	for (unsigned i = 0; i < 20 && c->n_ops > 0; i++)
		repeat_one(c);
}

void clients_check_end(struct clients *c, unsigned index)
{
	ops_check_end(c->sim, &c->known, c->ops, c->n_ops, index);
}

void clients_report(const struct clients *c, uint64_t *ret_answered, uint64_t *ret_reads, uint64_t *ret_repeated)
{
	*ret_answered = c->answered;
	*ret_reads = c->reads;
	*ret_repeated = c->repeated;
}
