/*
 * The streams between replicas, one each way for each pair (services/serial/peers.h): in order while a connection
 * lasts. When one breaks, what was under way is lost from some message on, and what is not lost may arrive behind the
 * first messages of the next connection. A full queue at either end loses single messages. A direction that is cut
 * holds everything back, until it is whole again or the connection breaks.
 *
 * A wild network loses, repeats and overtakes at will: more than the transport does, but what Raft stands.
 */
#ifndef SIMULATION_NETWORK_H
#define SIMULATION_NETWORK_H

#include "common/base/buffer.h"
#include "tests/fault/simulation/simulation.h"

struct network *network_new(struct sim *s, bool wild);
void network_free(struct network *w);

/* By index, not id. */
bool network_connected(struct network *w, unsigned from, unsigned to);
void network_send(struct network *w, unsigned from, unsigned to, struct slice message);
/* When the next message for `to` is there; UINT64_MAX: none. */
uint64_t network_next(const struct network *w, unsigned to);
/* Takes it if it is there by now. The caller frees the bytes. */
bool network_take(struct network *w, unsigned to, unsigned *ret_from, struct buffer *ret_message);

void network_cut(struct network *w, unsigned from, unsigned to);
void network_break(struct network *w, unsigned from, unsigned to);
/* All streams of a replica that went down break, and what is under way to it is lost. */
void network_lose_node(struct network *w, unsigned node);
void network_heal(struct network *w);
/* Percent of messages lost, and delay. */
void network_weather(struct network *w, unsigned lose, unsigned delay_ms);
/* Connections come up again and break in time. Before each step. */
void network_pass_time(struct network *w);

#endif
