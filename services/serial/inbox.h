/*
 * What other threads want from the engine: proposals, reads, messages from peers. Bounded; filled under a mutex and
 * taken whole by the engine's thread. Never blocks for longer than the mutex.
 */
#ifndef SERIAL_INBOX_H
#define SERIAL_INBOX_H

#include "services/serial/replica.h"

#define INBOX_COMMAND_MAX ((size_t)2 << 20) /* what is longer could not pass to another replica (PEERS_FRAME_MAX) */

struct inbox;

struct inbox_read {
	engine_read_fn read;
	void *arg;
	bool linearizable;
	bool refused; /* too many wait: answer RESOURCE_EXHAUSTED */
};

struct inbox_message {
	raft_id from;
	uint64_t incarnation; /* of its data directory */
	struct arena *arena;
	const Kds__V1__PeerMessage *message;
	size_t size;
};

/* What was taken at once. Belongs to the inbox until the next inbox_take(), but for the arenas, which the taker
 * frees. */
struct inbox_content {
	struct proposal *proposals; /* command NULL: too many wait, or it is longer than INBOX_COMMAND_MAX */
	size_t n_proposals;
	struct inbox_read *reads;
	size_t n_reads;
	struct inbox_message *messages;
	size_t n_messages;
};

/* `wake` is called on the filling thread, without the mutex, when the inbox was empty before. NULL: no memory. */
struct inbox *inbox_new(void (*wake)(void *arg), void *arg) MUST_CHECK;
/* What is still in it is dropped unanswered: take it first. */
void inbox_free(struct inbox *in);

/* False: no memory, or closed; nothing was kept. The command is packed with version 1 and no time. */
bool inbox_propose(struct inbox *in, Kds__V1__Command *command, engine_done_fn done, void *arg) MUST_CHECK;
bool inbox_read(struct inbox *in, bool linearizable, engine_read_fn read, void *arg) MUST_CHECK;
/* Takes the arena; drops the message when there is no room, as Raft allows. */
void inbox_receive(struct inbox *in, const struct inbox_message *message);

/* `waiting`: proposals and reads that were taken before and are not answered yet; they count for the limits. */
const struct inbox_content *inbox_take(struct inbox *in, size_t waiting);
/* From now on everything is refused. */
void inbox_close(struct inbox *in);

#endif
