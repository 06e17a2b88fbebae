#include "tests/fault/simulation/node.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/rpc/message.h"
#include "services/serial/clocks.h"
#include "services/serial/genesis.h"
#include "services/serial/store_internal.h"
#include "tests/fault/simulation/check.h"
#include "tests/fault/simulation/disk.h"
#include "tests/fault/simulation/ending.h"
#include "tests/fault/simulation/forgery.h"
#include "tests/fault/simulation/network.h"

#define TURN_MS 4 /* at most, that a turn takes; what arrives meanwhile waits */
#define MESSAGE_MEMORY_MAX ((size_t)32 << 20)

struct waiting_read {
	engine_read_fn read;
	void *arg;
};

struct node {
	struct sim *sim;
	unsigned index;
	char dir[512];
	struct disk *disk;
	struct store *store;
	struct state *state;
	struct replica *replica; /* NULL: down */
	int64_t clock_ms;
	int64_t past_clock_ms; /* before it was set back, until */
	uint64_t past_until_ms;
	struct clock_estimate clocks[NODES_MAX]; /* of the others */
	uint64_t busy_until_ms;
	bool stands;
	uint64_t changes; /* the member; 0: none */
	enum membership_role changes_to;
	struct proposal *proposals; /* each command on the heap */
	size_t n_proposals, cap_proposals;
	struct waiting_read *reads;
	size_t n_reads, cap_reads;
	struct forgery *forgery;
	Kds__V1__ReadConfirm asked; /* for a mutant: what it asked last, and who has ever answered */
	bool confirmed[NODES_MAX];
};

static const char *const names[NODES_MAX] = { "serial1", "serial2", "serial3", "serial4",
						 "serial5", "serial6", "serial7" };

struct node *node_new(struct sim *s, unsigned index)
{
	struct node *n = sim_alloc(sizeof *n);
	n->sim = s;
	n->index = index;
	snprintf(n->dir, sizeof n->dir, "%s/%s", s->dir, names[index]);
	n->disk = disk_new(s, n->dir);
	n->forgery = forgery_new();
	return n;
}

void node_free(struct node *n)
{
	disk_free(n->disk);
	forgery_free(n->forgery);
	free(n->proposals);
	free(n->reads);
	free(n);
}

uint64_t node_clock(const struct node *n)
{
	return (uint64_t)((int64_t)(UNIX_MS + n->sim->now_ms - START_MS) + n->clock_ms);
}

uint64_t node_clock_known(const struct node *n)
{
	uint64_t clock = node_clock(n);
	if (n->sim->now_ms > n->past_until_ms || n->past_clock_ms < n->clock_ms)
		return clock;
	return (uint64_t)((int64_t)clock + n->past_clock_ms - n->clock_ms);
}

static void set_clocks(const struct node *n)
{
	sim_clock_set(n->sim->now_ms, node_clock(n));
}

/* As services/serial/view.c: what the replicas tell each other of their clocks comes with any message here. */
static uint64_t agreed_time(const struct node *n)
{
	uint64_t clocks[NODES_MAX];
	size_t known = 0, voters = 0;
	if (n->sim->mutant == MUTANT_OWN_CLOCK)
		return node_clock(n);
	for (unsigned i = 0; i < n->sim->n_nodes; i++) {
		if (!replica_is_voter(n->replica, i + 1))
			continue;
		voters++;
		uint64_t clock = i == n->index ? node_clock(n) : clock_estimate_now(&n->clocks[i], n->sim->now_ms);
		if (clock != 0)
			clocks[known++] = clock;
	}
	return clocks_agree(node_clock(n), clocks, known, voters);
}

/* What the replica calls */

static bool on_connected(void *arg, raft_id to)
{
	const struct node *n = arg;
	return network_connected(n->sim->network, n->index, (unsigned)to - 1);
}

static void note_round(struct node *n, struct slice message)
{
	Kds__V1__PeerMessage *m = kds__v1__peer_message__unpack(NULL, message.len, message.data);
	if (!m)
		abort();
	if (m->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRM)
		n->asked = *m->read_confirm; /* it holds no memory */
	kds__v1__peer_message__free_unpacked(m, NULL);
}

static void on_send(void *arg, raft_id to, struct slice message)
{
	struct node *n = arg;
	if (n->sim->mutant == MUTANT_OLD_CONFIRMATIONS)
		note_round(n, message);
	if (!disk_crashed(n->disk))
		network_send(n->sim->network, n->index, (unsigned)to - 1, message);
}

/* Start and end */

static void create_log(struct node *n)
{
	struct engine_member members[NODES_MAX];
	for (unsigned i = 0; i < n->sim->n_members; i++)
		members[i] = (struct engine_member){ i + 1, names[i], "127.0.0.1:1" };
	const struct engine_options options = {
		.id = n->index + 1,
		.cluster = "cluster.example.com",
		.kds_name = "key.example.com",
		.cluster_id = "simulation",
		.members = members,
		.n_members = n->sim->n_members,
	};
	struct status st;
	struct store_genesis genesis;
	if (genesis_make(&options, &st, &genesis) != STATUS_OK)
		sim_fail(n->sim, "genesis: %s", st.message);
	store_create_log(n->store, &genesis);
	genesis_free(&genesis);
}

/* A replica that does not start ends its process. Only a disk that refused something is a reason. */
static _Noreturn void fail_start(struct node *n, const char *why)
{
	if (disk_has_refused(n->disk))
		_exit(3);
	sim_fail(n->sim, "replica %u cannot start: %s", n->index + 1, why);
}

static void run_sql(struct node *n, const char *sql)
{
	if (sqlite3_exec(store_sqlite(n->store), sql, NULL, NULL, NULL) != SQLITE_OK)
		fail_start(n, sqlite3_errmsg(store_sqlite(n->store)));
}

static void open_store(struct node *n)
{
	struct status st;
	const struct store_identity id = { .cluster_id = "simulation", .replica_id = n->index + 1 };
	if (store_open(n->dir, &id, &st, &n->store) != STATUS_OK)
		fail_start(n, st.message);
}

/* Changes the database as the mutant wants it; the store is opened anew where it has read what changes. */
static void mutate_store(struct node *n)
{
	switch (n->sim->mutant) {
	case MUTANT_FORGOTTEN_VOTE:
		disk_lose_guard(n->disk); /* which would notice */
		run_sql(n, "UPDATE meta SET vote = 0");
		store_close(n->store);
		n->store = NULL;
		disk_lose_guard(n->disk);
		open_store(n);
		break;
	case MUTANT_WIPED_REPLICA:
		if (sim_chance(n->sim, 70))
			break;
		store_close(n->store);
		n->store = NULL;
		disk_wipe(n->disk);
		open_store(n);
		create_log(n);
		break;
	case MUTANT_FORGOTTEN_REQUESTS:
		run_sql(n, "UPDATE numbers SET oldest_request ="
			   " (SELECT coalesce(max(last) + 1, oldest_request) FROM requests);"
			   "DELETE FROM requests");
		break;
	case MUTANT_KEPT_TAIL:
		run_sql(n, "CREATE TEMP TRIGGER keep BEFORE DELETE ON main.log BEGIN SELECT raise(IGNORE); END;"
			   "CREATE TEMP TRIGGER once BEFORE INSERT ON main.log"
			   " WHEN EXISTS (SELECT 1 FROM main.log WHERE idx = new.idx)"
			   " BEGIN SELECT raise(IGNORE); END");
		break;
	case MUTANT_CHANGED_ROW:
		run_sql(n, "UPDATE issued SET not_after = not_after + 1 WHERE serial = (SELECT max(serial) FROM issued)");
		break;
	case MUTANT_CHANGED_DIGEST:
		run_sql(n, "UPDATE numbers SET digest = CAST(substr(digest, 1, 1) || zeroblob(32) AS BLOB)");
		break;
	default:
		break;
	}
}

static void prepare_store(struct node *n)
{
	open_store(n);
	struct store_start at;
	store_start_values(n->store, &at);
	if (at.last > 0)
		mutate_store(n);
	else if (n->index < n->sim->n_members)
		create_log(n);
	/* Checkpoints as rare as in service would leave nothing of them to crash in. */
	char pragma[64];
	snprintf(pragma, sizeof pragma, "PRAGMA wal_autocheckpoint = %u", 20 + (unsigned)sim_dice(n->sim, 300));
	run_sql(n, pragma);
}

static void start(void *arg)
{
	struct node *n = arg;
	struct sim *s = n->sim;
	struct status st;
	set_clocks(n);
	memset(n->clocks, 0, sizeof n->clocks);
	prepare_store(n);
	if (state_open(store_sqlite(n->store), &st, &n->state) != STATUS_OK)
		fail_start(n, st.message);
	const struct replica_options options = {
		.id = n->index + 1,
		.store = n->store,
		.state = n->state,
		.election_ms = s->election_ms,
		.heartbeat_ms = s->heartbeat_ms,
		.log_tail = s->log_tail,
		.snapshot_part = s->snapshot_part,
		.seed = (unsigned)sim_dice(s, 1u << 31),
		.now_ms = s->now_ms,
		.connected = on_connected,
		.send = on_send,
		.arg = n,
	};
	if (replica_new(&options, &st, &n->replica) != STATUS_OK)
		fail_start(n, st.message);
	n->busy_until_ms = s->now_ms;
	n->stands = false;
	n->changes = 0;
	sim_trace(s, "replica %u starts", n->index + 1);
	check_started(s->check, n->index);
}

static void refuse_waiting(struct node *n)
{
	struct state_result result = { .field = "" };
	status_set(&result.status, STATUS_UNAVAILABLE, "this replica is stopping; try again");
	for (size_t i = 0; i < n->n_proposals; i++) {
		n->proposals[i].done(n->proposals[i].arg, &result);
		free(n->proposals[i].command);
	}
	for (size_t i = 0; i < n->n_reads; i++)
		n->reads[i].read(n->reads[i].arg, NULL, &result.status);
	n->n_proposals = n->n_reads = 0;
}

static void stop(void *arg)
{
	struct node *n = arg;
	refuse_waiting(n);
	replica_free(n->replica);
	state_close(n->state);
	store_close(n->store);
}

/* Its process is no more. */
static void leave(struct node *n)
{
	n->replica = NULL;
	n->state = NULL;
	n->store = NULL;
	if (disk_crashed(n->disk))
		disk_restore(n->disk);
	network_lose_node(n->sim->network, n->index);
}

/* It ended itself in the middle of something: only what the system does then is left to do. */
static void bury(struct node *n)
{
	sim_trace(n->sim, "replica %u ends itself, because its disk refuses", n->index + 1);
	disk_crash(n->disk, false);
	refuse_waiting(n); /* nobody hears of it */
	if (n->store) {
		close(n->store->lock_fd);
		guard_close(&n->store->guard);
	}
	leave(n);
}

void node_start(struct node *n)
{
	if (!ending_run(n->disk, start, n))
		bury(n);
}

void node_stop(struct node *n)
{
	if (!n->replica)
		return;
	set_clocks(n);
	sim_trace(n->sim, "replica %u %s", n->index + 1, disk_crashed(n->disk) ? "is down" : "stops");
	if (ending_run(n->disk, stop, n))
		leave(n);
	else
		bury(n);
}

void node_crash(struct node *n, bool power)
{
	if (!n->replica)
		return;
	sim_trace(n->sim, "replica %u crashes", n->index + 1);
	disk_crash(n->disk, power);
	node_stop(n);
}

void node_crash_within(struct node *n, unsigned operations, bool power)
{
	if (n->replica)
		disk_crash_within(n->disk, operations, power);
}

void node_fail_disk_within(struct node *n, unsigned operations, bool lasting)
{
	sim_trace(n->sim, "the disk of replica %u is to fail%s", n->index + 1, lasting ? " for good" : "");
	disk_fail_within(n->disk, operations, lasting);
}

void node_mend_disk(struct node *n)
{
	disk_mend(n->disk);
}

bool node_running(const struct node *n)
{
	return n->replica != NULL;
}

bool node_leads(const struct node *n)
{
	return n->replica && replica_leads(n->replica);
}

bool node_is_ghost(const struct node *n)
{
	return disk_crashed(n->disk);
}

/* Turns */

uint64_t node_next_turn(const struct node *n)
{
	if (!n->replica)
		return UINT64_MAX;
	uint64_t at = replica_due(n->replica), arrival = network_next(n->sim->network, n->index);
	if (arrival < at)
		at = arrival;
	if (n->n_proposals + n->n_reads > 0)
		at = 0;
	return at > n->busy_until_ms ? at : n->busy_until_ms;
}

/* A snapshot comes: what a mutant makes of it; and a crash that is likely to come while it is installed. */
static void receive_part(struct node *n, Kds__V1__SnapshotPart *part)
{
	struct sim *s = n->sim;
	if (s->mutant == MUTANT_CHANGED_PART || s->mutant == MUTANT_MOVED_SNAPSHOT)
		forgery_change(n->forgery, part, s->mutant == MUTANT_MOVED_SNAPSHOT);
	if (part->last && !s->healed && sim_chance(s, 25))
		node_crash_within(n, (unsigned)sim_dice(s, 60), sim_chance(s, 50));
}

static void receive(struct node *n, unsigned from, struct slice packed)
{
	struct sim *s = n->sim;
	struct arena *arena = arena_new(MESSAGE_MEMORY_MAX);
	const ProtobufCMessage *unpacked = NULL;
	struct status st;
	if (!arena)
		abort();
	if (message_unpack(&kds__v1__peer_message__descriptor, packed, arena, &st, NULL, 0, &unpacked) != STATUS_OK)
		sim_fail(s, "a message of replica %u does not unpack: %s", from + 1, st.message);
	const Kds__V1__PeerMessage *m = (const Kds__V1__PeerMessage *)unpacked;
	bool is_append = m->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES;
	if (s->mutant == MUTANT_CHANGED_ENTRY && is_append && m->append_entries->n_entries > 0 && sim_chance(s, 2)) {
		/* The end of a command is its time: it still unpacks. */
		ProtobufCBinaryData *data = &m->append_entries->entries[0]->data;
		if (data->len > 0)
			data->data[data->len - 1] ^= 1;
	}
	clock_estimate_add(&n->clocks[from], node_clock(s->nodes[from]), s->now_ms);
	check_message(s->check, from, n->index, m);
	if (m->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_SNAPSHOT_PART)
		receive_part(n, m->snapshot_part);
	if (m->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRMED)
		n->confirmed[from] = true;
	replica_receive(n->replica, from + 1, m, s->now_ms);
	if (s->mutant == MUTANT_FORGED_ACKNOWLEDGEMENT &&
	    m->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES_RESULT)
		for (unsigned i = 0; i < s->n_nodes; i++)
			if (i != from && i != n->index)
				replica_receive(n->replica, i + 1, m, s->now_ms);
	arena_free(arena);
}

static void receive_all(struct node *n)
{
	struct buffer message = { 0 };
	unsigned from;
	while (network_take(n->sim->network, n->index, &from, &message)) {
		receive(n, from, (struct slice){ message.data, message.len });
		message.len = 0;
	}
	buffer_free(&message);
}

static void repeat_confirmations(struct node *n)
{
	Kds__V1__ReadConfirmed confirmed = KDS__V1__READ_CONFIRMED__INIT;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	confirmed.term = n->asked.term;
	confirmed.round = n->asked.round;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRMED;
	m.read_confirmed = &confirmed;
	for (unsigned i = 0; i < n->sim->n_nodes; i++)
		if (n->confirmed[i])
			replica_receive(n->replica, i + 1, &m, n->sim->now_ms);
}

static void take_requests(struct node *n)
{
	const struct status ok = { .code = STATUS_OK };
	for (size_t i = 0; i < n->n_reads; i++) {
		if (n->sim->mutant == MUTANT_LOCAL_READS)
			n->reads[i].read(n->reads[i].arg, n->state, &ok);
		else
			replica_read(n->replica, n->reads[i].read, n->reads[i].arg);
	}
	n->n_reads = 0;
	size_t proposals = n->n_proposals;
	n->n_proposals = 0;
	if (proposals > 0)
		replica_submit(n->replica, n->proposals, proposals);
	for (size_t i = 0; i < proposals; i++)
		free(n->proposals[i].command);
}

static void change_member(struct node *n)
{
	if (n->changes == 0)
		return;
	if (!replica_leads(n->replica) || n->sim->healed) {
		n->changes = 0;
	} else if (replica_change(n->replica, n->changes, names[n->changes - 1], n->changes_to)) {
		sim_trace(n->sim, "replica %u proposes that replica %" PRIu64 " is %s", n->index + 1, n->changes,
			  n->changes_to == MEMBERSHIP_NONE  ? "removed" :
			  n->changes_to == MEMBERSHIP_VOTER ? "a voter" :
							      "a standby");
		n->sim->changes++;
		n->changes = 0;
	}
}

static void turn(void *arg)
{
	struct node *n = arg;
	receive_all(n);
	if (n->sim->mutant == MUTANT_OLD_CONFIRMATIONS)
		repeat_confirmations(n);
	replica_tick(n->replica, n->sim->now_ms);
	replica_set_time(n->replica, agreed_time(n));
	take_requests(n);
	change_member(n);
	replica_finish(n->replica);
	if (n->stands) {
		replica_stand(n->replica);
		replica_finish(n->replica);
		n->stands = false;
	}
}

void node_turn(struct node *n)
{
	struct sim *s = n->sim;
	set_clocks(n);
	if (!ending_run(n->disk, turn, n)) {
		bury(n);
		return;
	}
	n->busy_until_ms = s->now_ms + sim_dice(s, TURN_MS + 1);
	if (disk_crashed(n->disk)) {
		sim_trace(s, "replica %u crashed in its turn", n->index + 1);
		node_stop(n);
		return;
	}
	check_turn(s->check, n->index);
}

void node_stand(struct node *n)
{
	sim_trace(n->sim, "replica %u is to stand for election", n->index + 1);
	n->stands = true;
}

void node_change_member(struct node *n, uint64_t id, enum membership_role role)
{
	n->changes = id;
	n->changes_to = role;
}

static void on_handed_over(void *arg, const struct status *st, uint64_t leader)
{
	const struct node *n = arg;
	if (st->code == STATUS_OK)
		sim_trace(n->sim, "replica %u has handed over to %" PRIu64, n->index + 1, leader);
	else
		sim_trace(n->sim, "replica %u does not hand over: %s", n->index + 1, st->message);
}

void node_hand_over(struct node *n, uint64_t to)
{
	if (!node_leads(n))
		return;
	set_clocks(n);
	sim_trace(n->sim, "replica %u is to hand over to %" PRIu64, n->index + 1, to);
	replica_transfer(n->replica, to, on_handed_over, n);
}

void node_stall(struct node *n, uint64_t ms)
{
	n->busy_until_ms = n->sim->now_ms + ms;
}

void node_set_clock(struct node *n, int64_t offset_ms)
{
	uint64_t now = n->sim->now_ms;
	if (now > n->past_until_ms || n->clock_ms > n->past_clock_ms)
		n->past_clock_ms = n->clock_ms;
	n->past_until_ms = now + CLOCKS_WINDOW_MS;
	n->clock_ms = offset_ms;
}

/* Requests */

void node_propose(struct node *n, struct slice command, engine_done_fn done, void *arg)
{
	n->proposals = sim_grow(n->proposals, n->n_proposals, &n->cap_proposals, sizeof *n->proposals);
	uint8_t *copy = sim_alloc(command.len + PROPOSAL_STAMP_MAX);
	memcpy(copy, command.data, command.len);
	n->proposals[n->n_proposals++] =
	    (struct proposal){ .command = copy, .len = command.len, .done = done, .arg = arg };
}

void node_read(struct node *n, engine_read_fn read, void *arg)
{
	n->reads = sim_grow(n->reads, n->n_reads, &n->cap_reads, sizeof *n->reads);
	n->reads[n->n_reads++] = (struct waiting_read){ read, arg };
}

void node_status(struct node *n, Kds__V1__ReplicaStatus *ret_status)
{
	kds__v1__replica_status__init(ret_status);
	replica_status(n->replica, ret_status);
}

struct replica *node_replica(struct node *n)
{
	return n->replica;
}

struct store *node_store(struct node *n)
{
	return n->store;
}

struct state *node_state(struct node *n)
{
	return n->state;
}
