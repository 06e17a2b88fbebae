#include "tests/fault/simulation/forgery.h"

#include <stdlib.h>
#include <string.h>

#include "services/serial/snapshot.h"

/* Of the transfer at hand, by part: those that come again must get the same. */
struct forgery {
	uint64_t term, transfer;
	uint8_t (*hashes)[SNAPSHOT_HASH_SIZE];
	size_t n, cap;
};

struct forgery *forgery_new(void)
{
	return sim_alloc(sizeof(struct forgery));
}

void forgery_free(struct forgery *f)
{
	free(f->hashes);
	free(f);
}

/* To the one beside it, which mostly has as many bytes on the wire. */
static void move_index(ProtobufCBinaryData *body)
{
	Kds__V1__SnapshotHead *head = kds__v1__snapshot_head__unpack(NULL, body->len, body->data);
	if (!head)
		abort();
	head->index ^= 1;
	if (kds__v1__snapshot_head__get_packed_size(head) == body->len)
		kds__v1__snapshot_head__pack(head, body->data);
	kds__v1__snapshot_head__free_unpacked(head, NULL);
}

void forgery_change(struct forgery *f, Kds__V1__SnapshotPart *part, bool index)
{
	if (part->term != f->term || part->transfer != f->transfer) {
		f->term = part->term;
		f->transfer = part->transfer;
		f->n = 0;
	}
	if (part->number > f->n)
		return; /* one before it got lost */
	if (part->number == 0 && index)
		move_index(&part->body);
	else if (part->last && !index)
		part->body.data[part->body.len - 1] ^= 1;
	uint8_t hash[SNAPSHOT_HASH_SIZE] = { 0 };
	if (part->number > 0)
		memcpy(hash, f->hashes[part->number - 1], sizeof hash);
	if (!snapshot_chain(hash, (struct slice){ part->body.data, part->body.len }))
		abort();
	memcpy(part->hash.data, hash, sizeof hash);
	if (part->number < f->n)
		return;
	f->hashes = sim_grow(f->hashes, f->n, &f->cap, sizeof *f->hashes);
	memcpy(f->hashes[f->n++], hash, sizeof hash);
}
