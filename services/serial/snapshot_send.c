#include "services/serial/snapshot_send.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/rpc/message.h"
#include "services/serial/snapshot.h"
#include "services/serial/state_reader.h"

#define SLOTS 16 /* followers with a transfer, or one that has just ended */
#define WINDOW 4 /* parts on their way */
#define RESEND_MS 500
#define GIVE_UP_MS 30000
#define AGAIN_MS 2000    /* until the next transfer, after one that came to nothing */
#define CATCH_UP_MS 60000 /* for the entries behind the snapshot */
#define HELD_BYTES_MAX ((uint64_t)512 << 20)

enum stage {
	STAGE_IDLE,     /* until again_ms */
	STAGE_SENDING,  /* parts are read and sent */
	STAGE_CATCH_UP, /* it is installed: now the entries behind it */
};

struct transfer {
	raft_id to; /* 0: nobody's yet */
	enum stage stage;
	uint64_t number;
	struct state_reader *reader; /* NULL: all was read */
	raft_index index;            /* of the snapshot; then of what the follower has */
	uint8_t hash[SNAPSHOT_HASH_SIZE];
	struct buffer window[WINDOW]; /* packed; part n in n modulo WINDOW */
	uint64_t confirmed, read;     /* parts: below the one forgotten, below the other read */
	uint64_t sent;                /* those below were, at least once */
	uint64_t sent_ms, progress_ms, again_ms;
};

struct snapshot_senders {
	struct snapshot_senders_options options;
	uint64_t next_number;
	struct buffer body;
	struct transfer transfers[SLOTS];
};

struct snapshot_senders *snapshot_senders_new(const struct snapshot_senders_options *options)
{
	struct snapshot_senders *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	s->options = *options;
	if (s->options.part_bytes == 0)
		s->options.part_bytes = SNAPSHOT_PART_BYTES;
	s->next_number = 1; /* a replica that starts again leads another term */
	return s;
}

/* Lets the state and the log go. */
static void release(struct transfer *t)
{
	state_reader_close(t->reader);
	t->reader = NULL;
	for (int i = 0; i < WINDOW; i++)
		buffer_free(&t->window[i]);
}

static void end(struct transfer *t, uint64_t again_ms)
{
	release(t);
	t->stage = STAGE_IDLE;
	t->again_ms = again_ms;
}

void snapshot_senders_stop(struct snapshot_senders *s)
{
	for (int i = 0; i < SLOTS; i++) {
		release(&s->transfers[i]);
		s->transfers[i] = (struct transfer){ 0 };
	}
}

void snapshot_senders_free(struct snapshot_senders *s)
{
	if (!s)
		return;
	snapshot_senders_stop(s);
	buffer_wipe(&s->body);
	free(s);
}

/* Its transfer, or room for one; NULL: as many as may be are under way. */
static struct transfer *find(struct snapshot_senders *s, raft_id to, bool make)
{
	struct transfer *room = NULL;
	for (int i = 0; i < SLOTS; i++) {
		struct transfer *t = &s->transfers[i];
		if (t->to == to)
			return t;
		if (t->stage == STAGE_IDLE && !room)
			room = t;
	}
	if (!make || !room)
		return NULL;
	*room = (struct transfer){ .to = to };
	return room;
}

/* Parts */

static bool pack_part(struct snapshot_senders *s, struct transfer *t, raft_term term, bool last)
{
	struct buffer *out = &t->window[t->read % WINDOW];
	Kds__V1__SnapshotPart part = KDS__V1__SNAPSHOT_PART__INIT;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	struct status st;
	if (!snapshot_chain(t->hash, (struct slice){ s->body.data, s->body.len }))
		return false;
	part.term = term;
	part.transfer = t->number;
	part.number = t->read;
	part.last = last;
	part.body = (ProtobufCBinaryData){ .data = s->body.data, .len = s->body.len };
	part.hash = (ProtobufCBinaryData){ .data = t->hash, .len = sizeof t->hash };
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_SNAPSHOT_PART;
	m.snapshot_part = &part;
	out->len = 0;
	if (message_pack(&m.base, out, &st) != STATUS_OK)
		return false;
	t->read++;
	return true;
}

static ProtobufCBinaryData bytes_of(const struct buffer *b)
{
	return (ProtobufCBinaryData){ .data = b->data, .len = b->len };
}

static enum status_code read_head(struct snapshot_senders *s, struct transfer *t, struct status *st)
{
	struct store_head h = { 0 };
	enum status_code rc = store_read_head(state_reader_sqlite(t->reader), st, &h);
	if (rc != STATUS_OK)
		return rc;
	Kds__V1__SerialStatus serials;
	state_reader_status(t->reader, &serials);
	ProtobufCBinaryData genesis[] = { bytes_of(&h.genesis.configuration), bytes_of(&h.genesis.command) };
	Kds__V1__SnapshotHead head = KDS__V1__SNAPSHOT_HEAD__INIT;
	head.version = SNAPSHOT_VERSION;
	head.index = h.index;
	head.index_term = h.term;
	head.configuration_index = h.configuration_index;
	head.configuration = bytes_of(&h.configuration);
	head.n_genesis = 2;
	head.genesis = genesis;
	head.rows = serials.issued + 1;
	head.level = state_reader_level(t->reader);
	s->body.len = 0;
	rc = message_pack(&head.base, &s->body, st);
	t->index = h.index;
	store_head_free(&h);
	return rc;
}

static void give_up(struct transfer *t, uint64_t now_ms, const char *why)
{
	log_warning("the snapshot for replica %llu at entry %llu was given up: %s", t->to, t->index, why);
	end(t, now_ms + AGAIN_MS);
}

/* Reads one part more. */
static void read_part(struct snapshot_senders *s, struct transfer *t, raft_term term, uint64_t now_ms)
{
	struct status st = { .code = STATUS_OK };
	bool last = false;
	s->body.len = 0;
	enum status_code rc = t->read == 0 ? read_head(s, t, &st)
					   : state_reader_next(t->reader, s->options.part_bytes, &s->body, &last, &st);
	if (rc == STATUS_OK && !pack_part(s, t, term, last))
		rc = status_set(&st, STATUS_RESOURCE_EXHAUSTED, "out of memory for a part");
	if (rc != STATUS_OK) {
		give_up(t, now_ms, st.message);
		return;
	}
	if (last) {
		state_reader_close(t->reader);
		t->reader = NULL;
	}
}

static void send_window(struct snapshot_senders *s, struct transfer *t, uint64_t from, uint64_t now_ms)
{
	for (uint64_t n = from; n < t->read; n++) {
		const struct buffer *part = &t->window[n % WINDOW];
		s->options.send(s->options.arg, t->to, (struct slice){ part->data, part->len });
	}
	t->sent = t->read;
	t->sent_ms = now_ms;
}

/* Turns */

void snapshot_senders_want(struct snapshot_senders *s, raft_id to, uint64_t now_ms)
{
	struct transfer *t = find(s, to, true);
	struct status st;
	if (!t || t->stage == STAGE_SENDING || now_ms < t->again_ms ||
	    snapshot_senders_count(s) == SNAPSHOT_TRANSFERS_MAX)
		return;
	if (t->stage == STAGE_CATCH_UP && t->index >= store_first(s->options.store))
		return; /* asked for before libraft heard of it */
	if (store_wal_bytes(s->options.store) > HELD_BYTES_MAX / 2)
		return; /* the one before has just let it go */
	release(t);
	*t = (struct transfer){ .to = to, .number = s->next_number++, .progress_ms = now_ms };
	if (state_reader_open(store_path(s->options.store), STATE_READER_ALL, &st, &t->reader) != STATUS_OK) {
		give_up(t, now_ms, st.message);
		return;
	}
	t->stage = STAGE_SENDING;
	t->index = store_first(s->options.store) - 1; /* until the head is read, in this very turn */
}

static void turn(struct snapshot_senders *s, struct transfer *t, raft_term term, uint64_t now_ms)
{
	if (t->stage == STAGE_CATCH_UP && now_ms - t->progress_ms >= CATCH_UP_MS)
		end(t, 0);
	if (t->stage != STAGE_SENDING)
		return;
	if (now_ms - t->progress_ms >= GIVE_UP_MS) {
		give_up(t, now_ms, "it does not answer");
		return;
	}
	if (t->reader && t->read - t->confirmed < WINDOW)
		read_part(s, t, term, now_ms);
	if (t->stage != STAGE_SENDING)
		return;
	bool again = now_ms - t->sent_ms >= RESEND_MS;
	if (!s->options.connected(s->options.arg, t->to))
		t->sent_ms = again ? now_ms : t->sent_ms;
	else if (again || t->sent < t->read)
		send_window(s, t, again ? t->confirmed : t->sent, now_ms);
}

void snapshot_senders_turn(struct snapshot_senders *s, raft_term term, uint64_t now_ms)
{
	bool too_much = snapshot_senders_hold(s) < UINT64_MAX && (store_wal_bytes(s->options.store) > HELD_BYTES_MAX ||
								  store_log_bytes(s->options.store) > HELD_BYTES_MAX);
	for (int i = 0; i < SLOTS; i++) {
		struct transfer *t = &s->transfers[i];
		if (too_much && t->stage != STAGE_IDLE)
			give_up(t, now_ms, "too much was written meanwhile");
		turn(s, t, term, now_ms);
	}
}

uint64_t snapshot_senders_due(const struct snapshot_senders *s)
{
	uint64_t due = UINT64_MAX;
	for (int i = 0; i < SLOTS; i++) {
		const struct transfer *t = &s->transfers[i];
		uint64_t at = UINT64_MAX;
		if (t->stage == STAGE_SENDING)
			at = t->reader && t->read - t->confirmed < WINDOW ? 0 : t->sent_ms + RESEND_MS;
		else if (t->stage == STAGE_CATCH_UP)
			at = t->progress_ms + CATCH_UP_MS;
		if (at < due)
			due = at;
	}
	return due;
}

/* Answers */

bool snapshot_senders_answer(struct snapshot_senders *s, raft_id from, const Kds__V1__SnapshotAnswer *answer,
			     uint64_t now_ms, raft_index *ret_applied)
{
	struct transfer *t = find(s, from, false);
	if (!t || t->stage != STAGE_SENDING || answer->transfer != t->number)
		return false;
	/* It may also have had all that the log does not, before any part of it came. */
	if (t->read > 0 && (answer->applied >= t->index || answer->applied >= store_first(s->options.store))) {
		log_info("replica %llu has what the log no longer holds: it has applied entry %llu", t->to,
			 (raft_index)answer->applied);
		release(t);
		t->stage = STAGE_CATCH_UP;
		t->index = answer->applied;
		t->progress_ms = now_ms;
		*ret_applied = answer->applied;
		return true;
	}
	if (answer->refused) {
		give_up(t, now_ms, "it was refused; that replica's log says why");
	} else if (answer->next == 0 && t->confirmed > 0) {
		log_info("replica %llu has lost its part of the snapshot at entry %llu; it begins again", t->to, t->index);
		end(t, now_ms + AGAIN_MS);
	} else if (answer->next > t->confirmed && answer->next <= t->read) {
		t->confirmed = answer->next;
		t->progress_ms = now_ms;
		t->sent_ms = now_ms; /* the rest is on its way */
	}
	return false;
}

void snapshot_senders_caught_up(struct snapshot_senders *s, raft_id to, raft_index match)
{
	struct transfer *t = find(s, to, false);
	if (t && t->stage == STAGE_CATCH_UP && match > t->index)
		t->index = match;
}

raft_index snapshot_senders_hold(const struct snapshot_senders *s)
{
	raft_index hold = UINT64_MAX;
	for (int i = 0; i < SLOTS; i++) {
		const struct transfer *t = &s->transfers[i];
		if (t->stage != STAGE_IDLE && t->index + 1 < hold)
			hold = t->index + 1;
	}
	return hold;
}

unsigned snapshot_senders_count(const struct snapshot_senders *s)
{
	unsigned n = 0;
	for (int i = 0; i < SLOTS; i++)
		n += s->transfers[i].stage == STAGE_SENDING;
	return n;
}
