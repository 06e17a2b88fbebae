/*
 * When the leader is lost, and who stands for election then, before Raft's own timers say so.
 *
 * A follower has lost the leader of a term when both streams between them have broken (its process ended), when the leader
 * itself says that it leads no more, or when nothing was heard of it for an election timeout. It tells the others
 * (ReplicaStatus.lost_term). Once a majority of the voters says so of the same term, the one with the best log stands for
 * election at once, the next best a little later if nothing happened meanwhile, and so on. Raft's timers alone are random
 * between one and two election timeouts, and a voter that still believes in the leader refuses its vote.
 *
 * Nothing of this decides an election: votes are given by Raft's rules, and a report that is wrong costs an election that
 * was not needed. A majority is asked for so that one replica with a bad network deposes nobody.
 *
 * Pure decisions: no threads, clocks or sockets.
 */
#ifndef SERIAL_FAILOVER_H
#define SERIAL_FAILOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAILOVER_VOTERS_MAX 16 /* more than a cluster has; others are not heard */

/* What is known of one voter's log, and what it says of the leader. */
struct failover_voter {
	uint64_t id;
	uint64_t lost_term;             /* it has lost the leader of this term; 0: none */
	uint64_t last_term, last_index; /* the end of its log, durable */
};

/* What a replica knows at the end of a turn. Times are monotonic ms. */
struct failover_facts {
	uint64_t now_ms;
	uint64_t term;
	uint64_t leader;   /* as Raft has it; 0: none */
	uint64_t heard_ms; /* when the leader last sent anything */
	bool gone;         /* no stream between us and the leader */
	bool resigned;     /* it says that it does not lead this term any more */
	uint64_t last_term, last_index; /* our own log, durable */
	/* All voters but ourselves: what each has reported lately; lost_term 0 of who has not. */
	const struct failover_voter *others;
	size_t n_others;
	bool votes; /* we are a voter */
};

struct failover {
	uint64_t self;
	unsigned election_ms, stagger_ms;
	uint64_t lost_term;
	uint64_t agreed_ms; /* since when a majority says so; 0: it does not */
};

/* What to do. */
struct failover_advice {
	uint64_t lost_term; /* to tell the others, at once when it is another than before; 0: nothing is lost */
	bool stand;         /* for election, now */
	uint64_t due_ms;    /* ask again by then, at the latest */
};

/* `stagger_ms`: from one candidate's turn to the next's: enough for an election. */
void failover_init(struct failover *f, uint64_t self, unsigned election_ms, unsigned stagger_ms);
struct failover_advice failover_advise(struct failover *f, const struct failover_facts *facts);

#endif
