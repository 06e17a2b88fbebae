#include "services/serial/outbox.h"

#include <stdlib.h>

#define KEEP_BYTES ((size_t)4 << 20) /* memory kept from one turn to the next */

static struct outbox_record *new_record(struct outbox *o)
{
	if (o->n == o->cap) {
		size_t cap = o->cap ? o->cap * 2 : 32;
		struct outbox_record *records = realloc(o->records, cap * sizeof *records);
		if (!records)
			return NULL;
		o->records = records;
		o->cap = cap;
	}
	return &o->records[o->n++];
}

bool outbox_add(struct outbox *o, raft_id to, bool append, size_t offset)
{
	struct outbox_record *record = new_record(o);
	if (!record) {
		o->bytes.len = offset;
		return false;
	}
	*record = (struct outbox_record){ .to = to, .offset = offset, .len = o->bytes.len - offset, .append = append };
	return true;
}

bool outbox_repeat(struct outbox *o, size_t first, size_t n, raft_id to)
{
	for (size_t i = first; i < first + n; i++) {
		struct outbox_record *record = new_record(o);
		if (!record)
			return false;
		*record = o->records[i];
		record->to = to;
		record->sent = false;
	}
	return true;
}

static void send_record(struct outbox *o, struct outbox_record *record, outbox_send_fn send, void *arg)
{
	if (!record->sent)
		send(arg, record->to, (struct slice){ o->bytes.data + record->offset, record->len });
	record->sent = true;
}

void outbox_send_appends(struct outbox *o, outbox_send_fn send, void *arg)
{
	for (size_t i = 0; i < o->n; i++)
		if (o->records[i].append)
			send_record(o, &o->records[i], send, arg);
}

void outbox_send_all(struct outbox *o, outbox_send_fn send, void *arg)
{
	for (size_t i = 0; i < o->n; i++)
		send_record(o, &o->records[i], send, arg);
	o->n = 0;
	o->bytes.len = 0;
	if (o->bytes.cap > KEEP_BYTES)
		buffer_free(&o->bytes);
}

void outbox_fini(struct outbox *o)
{
	buffer_free(&o->bytes);
	free(o->records);
	*o = (struct outbox){ 0 };
}
