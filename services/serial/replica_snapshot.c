/*
 * Snapshots between libraft and the wire. libraft says that a follower needs one (RAFT_INSTALL_SNAPSHOT); what follows is
 * between the two ends (snapshot_send.h, snapshot_receive.h), and libraft hears of it again when all of it is there: the
 * follower's libraft gets that message whole, the database changes in one transaction, and RAFT_PERSISTED_SNAPSHOT ends
 * it, in the same turn. So libraft is never seen between the two, where it would confirm heartbeats with an index that it
 * does not have (recv_append_entries.c).
 */
#include "services/serial/replica_internal.h"

#include <string.h>

#include "common/base/log.h"
#include "common/rpc/message.h"
#include "services/serial/snapshot_tables.h"

/* Both ends */

static bool is_connected(void *arg, raft_id to)
{
	struct replica *r = arg;
	return r->options.connected(r->options.arg, to);
}

static void put_message(void *arg, raft_id to, struct slice message)
{
	struct replica *r = arg;
	size_t offset = r->outbox.bytes.len;
	if (!buffer_append(&r->outbox.bytes, message.data, message.len) || !outbox_add(&r->outbox, to, false, offset))
		log_warning("out of memory for a part of a snapshot for replica %llu", to);
}

bool replica_open_snapshots(struct replica *r)
{
	const struct snapshot_senders_options options = {
		.store = r->store,
		.part_bytes = r->options.snapshot_part,
		.connected = is_connected,
		.send = put_message,
		.arg = r,
	};
	r->senders = snapshot_senders_new(&options);
	r->receiver = snapshot_receiver_new(store_sqlite(r->store));
	r->left_over = true; /* of a transfer that a restart ended, perhaps */
	return r->senders && r->receiver;
}

void replica_close_snapshots(struct replica *r)
{
	snapshot_senders_free(r->senders);
	snapshot_receiver_free(r->receiver);
}

/* The leader */

void replica_take_snapshot_answer(struct replica *r, raft_id from, const Kds__V1__SnapshotAnswer *answer)
{
	raft_index applied = 0;
	if (!r->leads || answer->term != raft_current_term(&r->raft) ||
	    !snapshot_senders_answer(r->senders, from, answer, r->now_ms, &applied))
		return;
	/* It was applied there, so it is ours too, up to where it has more than we have applied. */
	struct raft_message m = {
		.type = RAFT_APPEND_ENTRIES_RESULT,
		.server_id = from,
		.server_address = "",
		.append_entries_result = {
			.version = CODEC_APPEND_RESULT_VERSION,
			.term = answer->term,
			.last_log_index = applied < r->last ? applied : r->last,
		},
	};
	struct raft_event event = { .type = RAFT_RECEIVE, .receive = { .message = &m } };
	replica_step(r, &event);
}

static void follow_senders(struct replica *r)
{
	raft_index match;
	if (!r->leads) {
		snapshot_senders_stop(r->senders);
		return;
	}
	for (unsigned i = 0; i < r->raft.configuration.n; i++) {
		raft_id id = r->raft.configuration.servers[i].id;
		if (raft_match_index(&r->raft, id, &match) == 0)
			snapshot_senders_caught_up(r->senders, id, match);
	}
	snapshot_senders_turn(r->senders, raft_current_term(&r->raft), r->now_ms);
}

/* The follower */

static void answer_part(struct replica *r, raft_id to, uint64_t transfer, bool refused)
{
	Kds__V1__SnapshotAnswer answer = KDS__V1__SNAPSHOT_ANSWER__INIT;
	answer.term = raft_current_term(&r->raft);
	answer.transfer = transfer;
	answer.next = snapshot_receiver_next(r->receiver);
	answer.applied = r->applied;
	answer.refused = refused;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_SNAPSHOT_ANSWER;
	m.snapshot_answer = &answer;
	struct status st;
	size_t offset = r->outbox.bytes.len;
	/* What it says is on the disk when it leaves, as all that leaves. */
	if (message_pack(&m.base, &r->outbox.bytes, &st) != STATUS_OK || !outbox_add(&r->outbox, to, false, offset))
		log_warning("out of memory for an answer to replica %llu", to);
}

/* Of the cluster that this replica's log began with? One that has no log yet takes any that its leader sends. */
static bool is_ours(struct replica *r, const struct store_head *head)
{
	struct store_genesis genesis = { 0 };
	if (!store_read_genesis(r->store, &genesis))
		return true;
	const struct store_genesis *theirs = &head->genesis;
	bool same = genesis.configuration.len == theirs->configuration.len && genesis.command.len == theirs->command.len &&
		    memcmp(genesis.configuration.data, theirs->configuration.data, theirs->configuration.len) == 0 &&
		    memcmp(genesis.command.data, theirs->command.data, theirs->command.len) == 0;
	buffer_free(&genesis.configuration);
	buffer_free(&genesis.command);
	return same;
}

/* Tells libraft of the whole of it. False: it has these entries, and waits for their commitment only. */
static bool offer_to_raft(struct replica *r, raft_id from, const struct store_head *head)
{
	const struct raft_buffer encoded = { .base = head->configuration.data, .len = head->configuration.len };
	struct raft_message m = {
		.type = RAFT_INSTALL_SNAPSHOT,
		.server_id = from,
		.server_address = "",
		.install_snapshot = {
			.term = raft_current_term(&r->raft),
			.last_index = head->index,
			.last_term = head->term,
			.conf_index = head->configuration_index,
		},
	};
	if (raft_configuration_decode(&encoded, &m.install_snapshot.conf) != 0)
		store_fatal(r->store, "install a snapshot: its members do not decode");
	struct raft_event event = { .type = RAFT_RECEIVE, .receive = { .message = &m } };
	r->installing = false;
	replica_step(r, &event); /* libraft owns what was decoded, or gives it back with r->installed */
	return r->installing;
}

static void replace_state(struct replica *r, const struct store_head *head)
{
	struct status st;
	replica_begin(r);
	store_restart_log(r->store, head);
	if (snapshot_tables_install(store_sqlite(r->store), snapshot_receiver_prefix(r->receiver), &st) != STATUS_OK ||
	    state_reload(r->state, &st) != STATUS_OK)
		store_fatal(r->store, st.message);
	replica_commit(r);
	r->last = r->written = r->applied = r->compacted_at = head->index;
	r->applied_term = head->term;
	entry_cache_truncate(r->cache, 1);
	r->changed = true;
}

static void install(struct replica *r, raft_id from)
{
	/* First all that this turn has brought so far goes to the disk. */
	replica_finish(r);
	replica_commit(r);
	const struct store_head *head = snapshot_receiver_head(r->receiver);
	if (!snapshot_receiver_prefix(r->receiver) || head->index <= r->applied || !offer_to_raft(r, from, head)) {
		snapshot_receiver_end(r->receiver);
		r->left_over = true;
		return;
	}
	replace_state(r, head);
	log_info("a snapshot of replica %llu was installed: the state is that of entry %llu", from, head->index);
	struct raft_event event = {
		.type = RAFT_PERSISTED_SNAPSHOT,
		.persisted_snapshot = { .metadata = r->installed, .last = true },
	};
	replica_step(r, &event);
	snapshot_receiver_end(r->receiver);
	r->left_over = true;
}

void replica_take_snapshot_part(struct replica *r, raft_id from, const Kds__V1__SnapshotPart *part)
{
	raft_id leader;
	const char *name;
	raft_leader(&r->raft, &leader, &name);
	if (r->leads || leader != from || part->term != raft_current_term(&r->raft))
		return; /* a heartbeat tells libraft first whom to follow */
	enum snapshot_step step;
	struct status st;
	replica_begin(r);
	if (snapshot_receiver_take(r->receiver, r->applied, part, r->now_ms, &st, &step) != STATUS_OK)
		store_fatal(r->store, st.message);
	if (step == SNAPSHOT_WAITING && part->number == 0 && !is_ours(r, snapshot_receiver_head(r->receiver))) {
		log_error("the snapshot that replica %llu sends is of another cluster: it was not taken", from);
		snapshot_receiver_end(r->receiver);
		step = SNAPSHOT_REFUSED;
	}
	if (part->number == 0 || step == SNAPSHOT_REFUSED)
		r->left_over = true;
	if (step == SNAPSHOT_COMPLETE)
		install(r, from);
	if (step != SNAPSHOT_IGNORED)
		answer_part(r, from, part->transfer, step == SNAPSHOT_REFUSED);
}

/* Every turn */

void replica_follow_snapshots(struct replica *r)
{
	struct status st;
	follow_senders(r);
	if (snapshot_receiver_tick(r->receiver, r->now_ms))
		r->left_over = true;
	if (!r->left_over)
		return;
	replica_begin(r);
	if (snapshot_tables_collect(store_sqlite(r->store), snapshot_receiver_prefix(r->receiver), &st, &r->left_over) !=
	    STATUS_OK)
		store_fatal(r->store, st.message);
}
