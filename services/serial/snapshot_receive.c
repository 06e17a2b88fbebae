#include "services/serial/snapshot_receive.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/rpc/message.h"
#include "services/serial/codec.h"
#include "services/serial/level.h"
#include "services/serial/snapshot_tables.h"

#define INDEX_MAX ((uint64_t)INT64_MAX) /* SQLite's integers are signed */
#define BODY_MAX ((size_t)1 << 20)
#define HEAD_MEMORY_MAX ((size_t)4 << 20)
#define IDLE_MS 60000

struct snapshot_receiver {
	sqlite3 *db;
	raft_term term; /* of the leader; 0: nothing is under way */
	uint64_t number, next;
	uint8_t hash[SNAPSHOT_HASH_SIZE];
	struct store_head head;
	uint64_t rows; /* about so many are to come */
	char prefix[STATE_LOADER_PREFIX_MAX];
	struct state_loader *loader;
	uint64_t heard_ms;
};

struct snapshot_receiver *snapshot_receiver_new(sqlite3 *db)
{
	struct snapshot_receiver *rc = calloc(1, sizeof *rc);
	if (rc)
		rc->db = db;
	return rc;
}

void snapshot_receiver_end(struct snapshot_receiver *rc)
{
	state_loader_free(rc->loader);
	store_head_free(&rc->head);
	*rc = (struct snapshot_receiver){ .db = rc->db };
}

void snapshot_receiver_free(struct snapshot_receiver *rc)
{
	if (!rc)
		return;
	snapshot_receiver_end(rc);
	free(rc);
}

/* The head */

static enum status_code impossible(struct status *st, const char *what)
{
	return status_set(st, STATUS_DATA_LOSS, "its head is impossible: %s", what);
}

static enum status_code check_head(const Kds__V1__SnapshotHead *in, struct status *st)
{
	if (in->version != SNAPSHOT_VERSION)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "it has version %u, this kds-serial knows %d: install the version that the leader runs",
				  in->version, SNAPSHOT_VERSION);
	if (level_check_state(in->level, st) != STATUS_OK)
		return st->code;
	if (in->index == 0 || in->index > INDEX_MAX || in->index_term == 0 || in->index_term > INDEX_MAX)
		return impossible(st, "its index");
	if (in->configuration_index == 0 || in->configuration_index > in->index ||
	    !codec_configuration_valid((struct slice){ in->configuration.data, in->configuration.len }))
		return impossible(st, "its members");
	if (in->n_genesis != 2 || in->genesis[0].len == 0 || in->genesis[1].len == 0)
		return impossible(st, "its first entries");
	return STATUS_OK;
}

static bool copy_head(const Kds__V1__SnapshotHead *in, struct store_head *out)
{
	out->index = in->index;
	out->term = in->index_term;
	out->configuration_index = in->configuration_index;
	return buffer_append(&out->configuration, in->configuration.data, in->configuration.len) &&
	       buffer_append(&out->genesis.configuration, in->genesis[0].data, in->genesis[0].len) &&
	       buffer_append(&out->genesis.command, in->genesis[1].data, in->genesis[1].len);
}

static enum status_code take_head(struct snapshot_receiver *rc, struct slice body, struct status *st)
{
	struct arena *arena = arena_new(HEAD_MEMORY_MAX);
	if (!arena)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	const ProtobufCMessage *unpacked = NULL;
	enum status_code code = message_unpack(&kds__v1__snapshot_head__descriptor, body, arena, st, NULL, 0, &unpacked);
	const Kds__V1__SnapshotHead *head = (const Kds__V1__SnapshotHead *)unpacked;
	if (code == STATUS_OK)
		code = check_head(head, st);
	if (code == STATUS_OK && !copy_head(head, &rc->head))
		code = status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	if (code == STATUS_OK)
		rc->rows = head->rows;
	arena_free(arena);
	return code;
}

/* Parts */

/* ALREADY_EXISTS: all of it was applied here. */
static enum status_code begin(struct snapshot_receiver *rc, raft_index applied, const Kds__V1__SnapshotPart *part,
			      struct status *st)
{
	snapshot_receiver_end(rc);
	rc->term = part->term;
	rc->number = part->transfer;
	enum status_code code = take_head(rc, (struct slice){ part->body.data, part->body.len }, st);
	if (code == STATUS_OK && rc->head.index <= applied)
		code = status_set(st, STATUS_ALREADY_EXISTS, "entry %llu was applied", rc->head.index);
	if (code == STATUS_OK)
		code = snapshot_tables_prefix(rc->db, st, rc->prefix);
	return code == STATUS_OK ? state_loader_stage(rc->db, rc->prefix, st, &rc->loader) : code;
}

static enum status_code take_body(struct snapshot_receiver *rc, raft_index applied, const Kds__V1__SnapshotPart *part,
				  struct status *st)
{
	struct slice body = { part->body.data, part->body.len };
	uint8_t hash[SNAPSHOT_HASH_SIZE] = { 0 };
	if (part->number > 0)
		memcpy(hash, rc->hash, sizeof hash);
	if (!snapshot_chain(hash, body))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	if (memcmp(hash, part->hash.data, sizeof hash) != 0)
		return status_set(st, STATUS_DATA_LOSS, "part %llu does not have the hash that it came with",
				  (raft_index)part->number);
	enum status_code code = part->number == 0 ? begin(rc, applied, part, st) : state_loader_feed(rc->loader, body, st);
	if (code == STATUS_OK && part->last)
		code = part->number > 0 ? state_loader_end(rc->loader, st)
					: status_set(st, STATUS_DATA_LOSS, "it ends with its head");
	memcpy(rc->hash, hash, sizeof hash);
	return code;
}

static bool is_possible(const Kds__V1__SnapshotPart *part)
{
	return part->transfer != 0 && part->body.len <= BODY_MAX && part->hash.len == SNAPSHOT_HASH_SIZE;
}

/* What is wrong with it, SQLite's own failures apart, is the leader's matter: another transfer may do better. */
static enum snapshot_step refuse(struct snapshot_receiver *rc, const struct status *st)
{
	snapshot_receiver_end(rc);
	if (st->code == STATUS_ALREADY_EXISTS)
		return SNAPSHOT_KNOWN;
	log_error("the snapshot that the leader sends was not taken: %s", st->message);
	return SNAPSHOT_REFUSED;
}

enum status_code snapshot_receiver_take(struct snapshot_receiver *rc, raft_index applied,
					const Kds__V1__SnapshotPart *part, uint64_t now_ms, struct status *st,
					enum snapshot_step *ret_step)
{
	bool known = rc->term == part->term && rc->number == part->transfer;
	bool older = part->term < rc->term || (part->term == rc->term && part->transfer < rc->number);
	*ret_step = SNAPSHOT_IGNORED;
	if (!is_possible(part) || older)
		return STATUS_OK;
	*ret_step = SNAPSHOT_WAITING; /* for another than this one, mostly */
	if (part->number != (known ? rc->next : 0))
		return STATUS_OK;
	enum status_code code = take_body(rc, applied, part, st);
	if (code == STATUS_INTERNAL)
		return code;
	if (code != STATUS_OK) {
		*ret_step = refuse(rc, st);
		return STATUS_OK;
	}
	rc->next = part->number + 1;
	rc->heard_ms = now_ms;
	if (part->last)
		*ret_step = SNAPSHOT_COMPLETE;
	return STATUS_OK;
}

uint64_t snapshot_receiver_next(const struct snapshot_receiver *rc)
{
	return rc->next;
}

const struct store_head *snapshot_receiver_head(const struct snapshot_receiver *rc)
{
	return &rc->head;
}

const char *snapshot_receiver_prefix(const struct snapshot_receiver *rc)
{
	return rc->term != 0 && rc->prefix[0] ? rc->prefix : NULL;
}

unsigned snapshot_receiver_percent(const struct snapshot_receiver *rc)
{
	if (rc->term == 0)
		return 0;
	uint64_t done = rc->loader ? state_loader_rows(rc->loader) * 100 / (rc->rows + 1) : 0;
	return done < 1 ? 1 : done > 99 ? 99 : (unsigned)done;
}

bool snapshot_receiver_tick(struct snapshot_receiver *rc, uint64_t now_ms)
{
	if (rc->term == 0 || now_ms - rc->heard_ms < IDLE_MS)
		return false;
	log_warning("the snapshot from the leader of term %llu does not go on; what came of it is dropped", rc->term);
	snapshot_receiver_end(rc);
	return true;
}
