/*
 * One replica with its store, state machine and disk, and around it what an engine does (services/serial/engine.c):
 * what arrives waits for the next turn; in a turn messages come first, then the timer, reads and proposals.
 *
 * A crash leaves a ghost: the replica may finish its turn, but its messages, answers and writes reach nobody.
 */
#ifndef SIMULATION_NODE_H
#define SIMULATION_NODE_H

#include "services/serial/replica.h"
#include "tests/fault/simulation/simulation.h"

struct node;

struct node *node_new(struct sim *s, unsigned index);
void node_free(struct node *n);

/* It may end itself at once, or later, when its disk fails: then it is down. */
void node_start(struct node *n);
void node_stop(struct node *n); /* in order */
/* Now, between two turns. */
void node_crash(struct node *n, bool power);
/* In front of a write or sync that is to come. */
void node_crash_within(struct node *n, unsigned operations, bool power);

/* As disk_fail_within(), disk_mend(). */
void node_fail_disk_within(struct node *n, unsigned operations, bool lasting);
void node_mend_disk(struct node *n);

bool node_running(const struct node *n);
/* As far as it knows. */
bool node_leads(const struct node *n);
/* What it says reaches nobody: it is a ghost. */
bool node_is_ghost(const struct node *n);
/* When its next turn is due; UINT64_MAX: it is down. */
uint64_t node_next_turn(const struct node *n);
void node_turn(struct node *n);
/* Nothing happens there for so long. */
void node_stall(struct node *n, uint64_t ms);
/* Its wall clock differs from the true time by so much. */
void node_set_clock(struct node *n, int64_t offset_ms);
uint64_t node_clock(const struct node *n);
/* The latest that others may take it for: a clock that was set back is known as it was for a while (clocks.h). */
uint64_t node_clock_known(const struct node *n);

/* For the next turn. The command is packed without time_ms, and copied. Each is answered once. */
void node_propose(struct node *n, struct slice command, engine_done_fn done, void *arg);
void node_read(struct node *n, engine_read_fn read, void *arg);

/* It is told to hand its leadership to another (0: any). Does nothing when it does not lead. */
void node_hand_over(struct node *n, uint64_t to);

/* It proposes another role for a member as soon as it can, if it leads until then. */
void node_change_member(struct node *n, uint64_t id, enum membership_role role);

/* It stands for election at the end of its next turn, rightly or not. */
void node_stand(struct node *n);

/* While it runs. */
void node_status(struct node *n, Kds__V1__ReplicaStatus *ret_status);
struct replica *node_replica(struct node *n);
struct store *node_store(struct node *n);
struct state *node_state(struct node *n);

#endif
