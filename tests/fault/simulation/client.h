/*
 * Clients: each has one request under way, sends it to the replica that seems to lead, and repeats it, with the same
 * request id and mostly elsewhere, until it is answered. Answered requests are repeated now and then, too.
 *
 * Answers are held against what was known when the request was first made: serial numbers, revisions and min_serial
 * only grow, so an answer or a read that shows less than an earlier answer did was not linearizable.
 */
#ifndef SIMULATION_CLIENT_H
#define SIMULATION_CLIENT_H

#include "tests/fault/simulation/simulation.h"

struct clients;

struct clients *clients_new(struct sim *s);
void clients_free(struct clients *c);

/* When one has something to do next; UINT64_MAX: never. */
uint64_t clients_next(const struct clients *c);
void clients_act(struct clients *c);

/* From now on only what is under way is repeated until it is answered. */
void clients_finish(struct clients *c);
bool clients_finished(const struct clients *c);
/* Repeats some of what was answered lately. */
void clients_repeat(struct clients *c);
/* Is all that was answered in the log and the tables of this replica, which has applied everything? */
void clients_check_end(struct clients *c, unsigned index);

void clients_report(const struct clients *c, uint64_t *ret_answered, uint64_t *ret_reads, uint64_t *ret_repeated);

#endif
