/* Messages of one turn, packed, until they may leave. One thread. */
#ifndef SERIAL_OUTBOX_H
#define SERIAL_OUTBOX_H

#include <raft.h>

#include "common/base/buffer.h"

struct outbox_record {
	raft_id to;
	size_t offset, len; /* in bytes */
	bool append;        /* a leader's AppendEntries: may leave before the leader's own disk has the entries */
	bool sent;
};

/* Zero-initialised is empty. */
struct outbox {
	struct buffer bytes; /* the next message is packed here, then outbox_add() */
	struct outbox_record *records;
	size_t n, cap;
};

/* The bytes from `offset` to the end are a message to `to`. False: no memory; the message is dropped, as Raft
 * allows. */
bool outbox_add(struct outbox *o, raft_id to, bool append, size_t offset) MUST_CHECK;
/* The messages [first, first + n) also go to another. */
bool outbox_repeat(struct outbox *o, size_t first, size_t n, raft_id to) MUST_CHECK;

typedef void (*outbox_send_fn)(void *arg, raft_id to, struct slice message);
void outbox_send_appends(struct outbox *o, outbox_send_fn send, void *arg);
/* What was not sent yet; empties the box. */
void outbox_send_all(struct outbox *o, outbox_send_fn send, void *arg);
void outbox_fini(struct outbox *o);

#endif
