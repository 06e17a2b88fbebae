#include "tests/fault/simulation/network.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fault/simulation/node.h"

#define RECONNECT_MS 1000 /* at most */
#define NOTICE_MS 8000    /* at most, until a connection that hears nothing breaks */

struct packet {
	struct packet *next;
	uint64_t at_ms;
	size_t len;
	uint8_t data[];
};

struct stream {
	struct packet *first; /* in order of arrival */
	uint64_t last_ms;     /* arrival of the newest on this connection */
	bool up, cut;
	uint64_t turn_ms; /* up: when it breaks if it is still cut; down: when it comes up */
};

struct network {
	struct sim *sim;
	bool wild;
	unsigned lose, delay_ms;
	struct stream streams[NODES_MAX][NODES_MAX];
};

struct network *network_new(struct sim *s, bool wild)
{
	struct network *w = sim_alloc(sizeof *w);
	w->sim = s;
	w->wild = wild;
	w->delay_ms = 5;
	return w;
}

static void drop_from(struct packet **at)
{
	while (*at) {
		struct packet *p = *at;
		*at = p->next;
		free(p);
	}
}

void network_free(struct network *w)
{
	for (unsigned i = 0; i < NODES_MAX; i++)
		for (unsigned k = 0; k < NODES_MAX; k++)
			drop_from(&w->streams[i][k].first);
	free(w);
}

bool network_connected(struct network *w, unsigned from, unsigned to)
{
	return w->streams[from][to].up;
}

static void post(struct network *w, struct stream *stream, struct slice message)
{
	struct packet *p = sim_alloc(sizeof *p + message.len);
	p->at_ms = w->sim->now_ms + sim_dice(w->sim, w->delay_ms + 1);
	p->len = message.len;
	memcpy(p->data, message.data, message.len);
	if (!w->wild && p->at_ms < stream->last_ms)
		p->at_ms = stream->last_ms;
	stream->last_ms = p->at_ms;
	struct packet **at = &stream->first;
	while (*at && (*at)->at_ms <= p->at_ms)
		at = &(*at)->next;
	p->next = *at;
	*at = p;
}

void network_send(struct network *w, unsigned from, unsigned to, struct slice message)
{
	struct stream *stream = &w->streams[from][to];
	if (!stream->up || sim_chance(w->sim, w->lose))
		return;
	post(w, stream, message);
	if (w->wild && sim_chance(w->sim, w->lose))
		post(w, stream, message);
}

static unsigned next_from(const struct network *w, unsigned to)
{
	unsigned from = NODES_MAX;
	uint64_t at = UINT64_MAX;
	for (unsigned i = 0; i < w->sim->n_nodes; i++) {
		const struct stream *stream = &w->streams[i][to];
		if (stream->first && !stream->cut && stream->first->at_ms < at) {
			at = stream->first->at_ms;
			from = i;
		}
	}
	return from;
}

uint64_t network_next(const struct network *w, unsigned to)
{
	unsigned from = next_from(w, to);
	return from < NODES_MAX ? w->streams[from][to].first->at_ms : UINT64_MAX;
}

bool network_take(struct network *w, unsigned to, unsigned *ret_from, struct buffer *ret_message)
{
	if (network_next(w, to) > w->sim->now_ms)
		return false;
	*ret_from = next_from(w, to);
	struct stream *stream = &w->streams[*ret_from][to];
	struct packet *p = stream->first;
	stream->first = p->next;
	if (!buffer_append(ret_message, p->data, p->len))
		abort();
	free(p);
	return true;
}

void network_cut(struct network *w, unsigned from, unsigned to)
{
	struct stream *stream = &w->streams[from][to];
	stream->cut = true;
	if (stream->up)
		stream->turn_ms = w->sim->now_ms + sim_dice(w->sim, NOTICE_MS);
}

void network_break(struct network *w, unsigned from, unsigned to)
{
	struct stream *stream = &w->streams[from][to];
	struct packet **at = &stream->first;
	while (*at && !sim_chance(w->sim, 30))
		at = &(*at)->next;
	drop_from(at);
	stream->up = false;
	stream->last_ms = 0;
	stream->turn_ms = w->sim->now_ms + sim_dice(w->sim, RECONNECT_MS);
}

void network_lose_node(struct network *w, unsigned node)
{
	for (unsigned i = 0; i < w->sim->n_nodes; i++) {
		network_break(w, node, i);
		network_break(w, i, node);
		drop_from(&w->streams[i][node].first);
	}
}

void network_heal(struct network *w)
{
	for (unsigned i = 0; i < NODES_MAX; i++)
		for (unsigned k = 0; k < NODES_MAX; k++)
			w->streams[i][k].cut = false;
}

void network_weather(struct network *w, unsigned lose, unsigned delay_ms)
{
	w->lose = lose;
	w->delay_ms = delay_ms;
}

void network_pass_time(struct network *w)
{
	const struct sim *s = w->sim;
	for (unsigned i = 0; i < s->n_nodes; i++)
		for (unsigned k = 0; k < s->n_nodes; k++) {
			struct stream *stream = &w->streams[i][k];
			if (stream->turn_ms > s->now_ms || i == k)
				continue;
			if (stream->up && stream->cut)
				network_break(w, i, k);
			/* To connect, both sides must hear each other. */
			else if (!stream->up && !stream->cut && !w->streams[k][i].cut && node_running(s->nodes[i]) &&
				 node_running(s->nodes[k]))
				stream->up = true;
		}
}
