// links: service_serial common_rpc common_base kds_proto
/*
 * A simulated cluster: three replicas with real stores, a network and a clock that belong to the test. Messages are
 * lost, doubled, late and out of order; replicas stop, come back and are cut off.
 */
#include "tests/support/support.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/rpc/message.h"
#include "services/serial/genesis.h"
#include "services/serial/replica.h"

#define N 3
#define ELECTION_MS 1000
#define HEARTBEAT_MS 100
#define LEADERS_MAX 4096

struct node {
	struct sim *sim;
	int number;
	char dir[512];
	struct store *store;
	struct state *state;
	struct replica *replica; /* NULL: down */
	sqlite3 *durable;        /* another connection: sees what was committed, and nothing else */
};

struct packet {
	struct packet *next;
	uint64_t at_ms;
	int from, to;
	size_t len;
	uint8_t data[];
};

struct sim {
	char *dir;
	struct node nodes[N];
	struct engine_member members[N];
	uint64_t now_ms;
	unsigned random;
	struct packet *packets;
	bool cut[N][N];
	unsigned lose, repeat, late_ms; /* percent, percent, at most */
	Kds__V1__PeerMessage__MessageCase lost; /* all messages of this kind are */
	unsigned asked, confirmed;              /* ReadConfirm and ReadConfirmed that were sent */
	uint64_t asked_term, asked_round;       /* in the last of them */
	unsigned log_tail;
	raft_id leaders[LEADERS_MAX];   /* who led in which term */
	/* Proposals. */
	unsigned proposed, answered, accepted;
	uint64_t highest;  /* serial of an accepted one */
	uint8_t *taken;    /* serials of accepted ones */
	size_t taken_size;
};

static unsigned dice(struct sim *s, unsigned sides)
{
	s->random = s->random * 1103515245 + 12345;
	return (s->random >> 8) % sides;
}

/* The network */

static bool connected(void *arg, raft_id to)
{
	struct node *n = arg;
	return !n->sim->cut[n->number][to - 1];
}

static void post(struct sim *s, int from, int to, struct slice data)
{
	struct packet *p = malloc(sizeof *p + data.len);
	assert_non_null(p);
	*p = (struct packet){ .at_ms = s->now_ms + dice(s, s->late_ms + 1), .from = from, .to = to, .len = data.len };
	memcpy(p->data, data.data, data.len);
	struct packet **at = &s->packets;
	while (*at && (*at)->at_ms <= p->at_ms)
		at = &(*at)->next;
	p->next = *at;
	*at = p;
}

static uint64_t durable(struct node *n, const char *sql)
{
	sqlite3_stmt *stmt;
	assert_int_equal(sqlite3_prepare_v2(n->durable, sql, -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	uint64_t value = (uint64_t)sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	return value;
}

/* Nothing may leave before what it promises is on the disk. */
static void check_promise(struct node *n, raft_id to, const Kds__V1__PeerMessage *m)
{
	uint64_t term = durable(n, "SELECT term FROM meta");
	switch (m->message_case) {
	case KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES:
		assert_true(m->append_entries->term <= term);
		break;
	case KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES_RESULT:
		assert_true(m->append_entries_result->term <= term);
		if (m->append_entries_result->rejected == 0)
			assert_true(durable(n, "SELECT coalesce(max(idx), (SELECT applied FROM meta)) FROM log") >=
				    m->append_entries_result->last_log_index);
		break;
	case KDS__V1__PEER_MESSAGE__MESSAGE_REQUEST_VOTE:
		if (m->request_vote->pre_vote)
			break;
		assert_true(m->request_vote->term <= term);
		if (m->request_vote->term == term)
			assert_int_equal(durable(n, "SELECT vote FROM meta"), n->number + 1);
		break;
	case KDS__V1__PEER_MESSAGE__MESSAGE_REQUEST_VOTE_RESULT:
		if (m->request_vote_result->pre_vote || !m->request_vote_result->vote_granted)
			break;
		assert_true(m->request_vote_result->term <= term);
		if (m->request_vote_result->term == term)
			assert_int_equal(durable(n, "SELECT vote FROM meta"), to);
		break;
	default:
		break;
	}
}

static void count_confirmations(struct sim *s, const Kds__V1__PeerMessage *m)
{
	if (m->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRM) {
		s->asked++;
		s->asked_term = m->read_confirm->term;
		s->asked_round = m->read_confirm->round;
	} else if (m->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRMED) {
		s->confirmed++;
	}
}

static void send_packet(void *arg, raft_id to, struct slice message)
{
	struct node *n = arg;
	struct sim *s = n->sim;
	Kds__V1__PeerMessage *m = kds__v1__peer_message__unpack(NULL, message.len, message.data);
	assert_non_null(m);
	check_promise(n, to, m);
	count_confirmations(s, m);
	bool lost = m->message_case == s->lost;
	kds__v1__peer_message__free_unpacked(m, NULL);
	if (lost || dice(s, 100) < s->lose)
		return;
	post(s, n->number, (int)to - 1, message);
	if (dice(s, 100) < s->repeat)
		post(s, n->number, (int)to - 1, message);
}

static void deliver(struct sim *s, const struct packet *p)
{
	struct node *n = &s->nodes[p->to];
	if (!n->replica || s->cut[p->from][p->to])
		return;
	struct arena *arena = arena_new((size_t)32 << 20);
	assert_non_null(arena);
	const ProtobufCMessage *m;
	struct status st;
	assert_int_equal(message_unpack(&kds__v1__peer_message__descriptor, (struct slice){ p->data, p->len }, arena, &st,
					NULL, 0, &m),
			 STATUS_OK);
	replica_receive(n->replica, (raft_id)p->from + 1, (const Kds__V1__PeerMessage *)m, s->now_ms);
	arena_free(arena);
}

/* Replicas */

static void node_start(struct sim *s, int i)
{
	struct node *n = &s->nodes[i];
	struct status st;
	const struct store_identity id = { .cluster_id = "sim", .replica_id = (uint64_t)i + 1 };
	if (store_open(n->dir, &id, &st, &n->store) != STATUS_OK)
		fail_msg("%s", st.message);
	struct store_start at;
	store_start_values(n->store, &at);
	if (at.last == 0) {
		const struct engine_options o = {
			.id = (uint64_t)i + 1,
			.cluster = "cluster.example.com",
			.kds_name = "key.example.com",
			.cluster_id = "sim",
			.members = s->members,
			.n_members = N,
		};
		struct store_genesis genesis;
		assert_int_equal(genesis_make(&o, &st, &genesis), STATUS_OK);
		store_create_log(n->store, &genesis);
		genesis_free(&genesis);
	}
	assert_int_equal(state_open(store_sqlite(n->store), &st, &n->state), STATUS_OK);
	char path[600];
	snprintf(path, sizeof path, "%s/replica.db", n->dir);
	assert_int_equal(sqlite3_open_v2(path, &n->durable, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	const struct replica_options r = {
		.id = (raft_id)i + 1,
		.store = n->store,
		.state = n->state,
		.election_ms = ELECTION_MS,
		.heartbeat_ms = HEARTBEAT_MS,
		.log_tail = s->log_tail,
		.seed = dice(s, 1 << 20),
		.now_ms = s->now_ms,
		.connected = connected,
		.send = send_packet,
		.arg = n,
	};
	if (replica_new(&r, &st, &n->replica) != STATUS_OK)
		fail_msg("%s", st.message);
}

static void node_stop(struct sim *s, int i)
{
	struct node *n = &s->nodes[i];
	replica_free(n->replica);
	sqlite3_close(n->durable);
	state_close(n->state);
	store_close(n->store);
	n->replica = NULL;
	n->state = NULL;
	n->store = NULL;
}

static void copy_file(const char *dir, const char *from, const char *to)
{
	char path[600];
	struct buffer content = { 0 };
	struct status st;
	snprintf(path, sizeof path, "%s/%s", dir, from);
	enum status_code rc = file_read(path, (size_t)256 << 20, &st, &content);
	snprintf(path, sizeof path, "%s/%s", dir, to);
	unlink(path);
	if (rc == STATUS_OK)
		rc = file_write(path, (struct slice){ content.data, content.len }, 0600, true, &st);
	assert_true(rc == STATUS_OK || rc == STATUS_NOT_FOUND);
	buffer_free(&content);
}

/* As kill -9 does: the files stay as they are at this moment, not as an orderly stop would leave them. */
static void node_kill(struct sim *s, int i)
{
	static const char *const files[][2] = {
		{ "replica.db", "kept" }, { "replica.db-wal", "kept-wal" }, { "acknowledged", "kept-acknowledged" }
	};
	for (int f = 0; f < 3; f++)
		copy_file(s->nodes[i].dir, files[f][0], files[f][1]);
	node_stop(s, i);
	for (int f = 0; f < 3; f++)
		copy_file(s->nodes[i].dir, files[f][1], files[f][0]);
}

static struct sim *sim_new(unsigned seed)
{
	static const char *const names[N] = { "serial1", "serial2", "serial3" };
	struct sim *s = calloc(1, sizeof *s);
	assert_non_null(s);
	s->dir = support_make_directory();
	s->random = seed;
	s->now_ms = 1000;
	s->log_tail = 1000000; /* nothing is compacted, but where a test says so */
	s->taken_size = 1 << 20;
	s->taken = calloc(1, s->taken_size);
	assert_non_null(s->taken);
	for (int i = 0; i < N; i++) {
		s->members[i] = (struct engine_member){ (uint64_t)i + 1, names[i], "127.0.0.1:1" };
		s->nodes[i].sim = s;
		s->nodes[i].number = i;
		snprintf(s->nodes[i].dir, sizeof s->nodes[i].dir, "%s/%s", s->dir, names[i]);
	}
	for (int i = 0; i < N; i++)
		node_start(s, i);
	return s;
}

static void sim_free(struct sim *s)
{
	for (int i = 0; i < N; i++)
		if (s->nodes[i].replica)
			node_stop(s, i);
	assert_int_equal(s->answered, s->proposed);
	while (s->packets) {
		struct packet *p = s->packets;
		s->packets = p->next;
		free(p);
	}
	support_remove_directory(s->dir);
	free(s->taken);
	free(s);
}

/* Raft §5.2: at most one leader a term. */
static void check_leader(struct sim *s, int i)
{
	if (!replica_leads(s->nodes[i].replica))
		return;
	Kds__V1__ReplicaStatus status = KDS__V1__REPLICA_STATUS__INIT;
	replica_status(s->nodes[i].replica, &status);
	assert_true(status.term < LEADERS_MAX);
	raft_id *leader = &s->leaders[status.term];
	assert_true(*leader == 0 || *leader == (raft_id)i + 1);
	*leader = (raft_id)i + 1;
}

/* One millisecond: a turn of each replica. */
static void tick(struct sim *s)
{
	s->now_ms++;
	while (s->packets && s->packets->at_ms <= s->now_ms) {
		struct packet *p = s->packets;
		s->packets = p->next;
		deliver(s, p);
		free(p);
	}
	for (int i = 0; i < N; i++) {
		if (!s->nodes[i].replica)
			continue;
		replica_tick(s->nodes[i].replica, s->now_ms);
		replica_finish(s->nodes[i].replica);
		check_leader(s, i);
	}
}

static void run(struct sim *s, unsigned ms)
{
	while (ms-- > 0)
		tick(s);
}

/* The leader that most recently won, among those who think they lead. */
static int leader_of(struct sim *s)
{
	int best = -1;
	uint64_t term = 0;
	for (int i = 0; i < N; i++) {
		if (!s->nodes[i].replica || !replica_leads(s->nodes[i].replica))
			continue;
		Kds__V1__ReplicaStatus status = KDS__V1__REPLICA_STATUS__INIT;
		replica_status(s->nodes[i].replica, &status);
		if (status.term > term) {
			term = status.term;
			best = i;
		}
	}
	return best;
}

static int elect(struct sim *s)
{
	for (int ms = 0; ms < 60000; ms++) {
		int leader = leader_of(s);
		if (leader >= 0)
			return leader;
		tick(s);
	}
	fail_msg("no leader");
	return -1;
}

/* Proposals */

static void on_done(void *arg, const struct state_result *result)
{
	struct sim *s = arg;
	s->answered++;
	if (result->status.code != STATUS_OK)
		return;
	s->accepted++;
	Kds__V1__AllocateResponse *r = kds__v1__allocate_response__unpack(NULL, result->answer.len, result->answer.data);
	assert_non_null(r);
	assert_true(r->last < s->taken_size);
	for (uint64_t serial = r->first; serial <= r->last; serial++) {
		assert_int_equal(s->taken[serial], 0); /* never handed out twice */
		s->taken[serial] = 1;
	}
	if (r->last > s->highest)
		s->highest = r->last;
	kds__v1__allocate_response__free_unpacked(r, NULL);
}

static void submit(struct sim *s, int node, Kds__V1__Command *command)
{
	uint8_t bytes[1024];
	command->version = 1;
	size_t len = kds__v1__command__get_packed_size(command);
	uint8_t *p = len + PROPOSAL_STAMP_MAX <= sizeof bytes ? bytes : malloc(len + PROPOSAL_STAMP_MAX);
	assert_non_null(p);
	kds__v1__command__pack(command, p);
	const struct proposal proposal = { .command = p, .len = len, .done = on_done, .arg = s };
	s->proposed++;
	replica_submit(s->nodes[node].replica, &proposal, 1);
	if (p != bytes)
		free(p);
}

static void allocate(struct sim *s, int node)
{
	Kds__V1__AllocateRequest request = KDS__V1__ALLOCATE_REQUEST__INIT;
	request.count = 1 + dice(s, 5);
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	command.requester = (char *)"ca1";
	command.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	command.allocate = &request;
	submit(s, node, &command);
}

static void allocate_many(struct sim *s, int node, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		allocate(s, node);
}

/* A command that the state machine refuses, but only once it is applied: a big entry. */
static void propose_big(struct sim *s, int node, size_t size)
{
	char *name = malloc(size + 1);
	assert_non_null(name);
	memset(name, 'x', size);
	name[size] = '\0';
	Kds__V1__DeleteRequest request = KDS__V1__DELETE_REQUEST__INIT;
	request.key = name;
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	command.requester = (char *)"admin";
	command.op_case = KDS__V1__COMMAND__OP_DELETE;
	command.delete_ = &request;
	submit(s, node, &command);
	free(name);
}

/* What the logs must look like when all is quiet */

struct log_copy {
	struct buffer bytes;
	uint64_t last_time;
};

static void copy_entry(void *arg, raft_index index, raft_term term, unsigned short type, struct slice data)
{
	struct log_copy *c = arg;
	const uint64_t head[] = { index, term, type, data.len };
	assert_true(buffer_append(&c->bytes, head, sizeof head));
	assert_true(buffer_append(&c->bytes, data.data, data.len));
	if (type != RAFT_COMMAND)
		return;
	Kds__V1__Command *command = kds__v1__command__unpack(NULL, data.len, data.data);
	assert_non_null(command);
	assert_true(command->time_ms >= c->last_time); /* never back, whoever leads */
	c->last_time = command->time_ms;
	kds__v1__command__free_unpacked(command, NULL);
}

static uint64_t applied(struct sim *s, int i)
{
	Kds__V1__ReplicaStatus status = KDS__V1__REPLICA_STATUS__INIT;
	replica_status(s->nodes[i].replica, &status);
	return status.applied_index;
}

/* Heals everything and waits until all three are at the same point; then compares logs and states. */
static void converge(struct sim *s)
{
	memset(s->cut, 0, sizeof s->cut);
	s->lose = s->repeat = 0;
	for (int i = 0; i < N; i++)
		if (!s->nodes[i].replica)
			node_start(s, i);
	bool same = false;
	for (int ms = 0; ms < 120000 && !same; ms++) {
		tick(s);
		int leader = leader_of(s);
		if (leader < 0)
			continue;
		Kds__V1__ReplicaStatus status = KDS__V1__REPLICA_STATUS__INIT;
		replica_status(s->nodes[leader].replica, &status);
		same = s->answered == s->proposed && status.applied_index == status.last_index;
		for (int i = 0; i < N; i++)
			same = same && applied(s, i) == status.last_index;
	}
	assert_true(same);
	run(s, 50); /* open transactions are committed */
	struct log_copy logs[N] = { 0 };
	Kds__V1__SerialStatus serials[N];
	for (int i = 0; i < N; i++) {
		assert_true(store_read(s->nodes[i].store, 1, (unsigned)applied(s, i), copy_entry, &logs[i]));
		state_serial_status(s->nodes[i].state, &serials[i]);
		assert_int_equal(logs[i].bytes.len, logs[0].bytes.len);
		assert_memory_equal(logs[i].bytes.data, logs[0].bytes.data, logs[0].bytes.len);
		assert_int_equal(serials[i].last_serial, serials[0].last_serial);
		assert_true(serials[i].last_serial >= s->highest);
	}
	for (int i = 0; i < N; i++)
		buffer_free(&logs[i].bytes);
}

/* Tests */

static void test_replica_commits_what_a_quorum_has(void **state)
{
	(void)state;
	struct sim *s = sim_new(1);
	int leader = elect(s);
	allocate_many(s, leader, 10);
	run(s, 20);
	assert_int_equal(s->accepted, 10);
	converge(s);
	sim_free(s);
}

static void test_replica_alone_in_its_part_commits_nothing(void **state)
{
	(void)state;
	struct sim *s = sim_new(2);
	int old = elect(s);
	run(s, 200);
	for (int i = 0; i < N; i++)
		if (i != old)
			s->cut[old][i] = s->cut[i][old] = true;
	allocate_many(s, old, 5);
	run(s, 5);
	assert_int_equal(s->answered, 0);
	run(s, 10 * ELECTION_MS);
	assert_int_equal(s->answered, 5); /* it stepped down, and said so */
	assert_int_equal(s->accepted, 0);
	assert_false(replica_leads(s->nodes[old].replica));
	int leader = elect(s);
	assert_true(leader != old);
	allocate_many(s, leader, 3);
	run(s, 100);
	assert_int_equal(s->accepted, 3);
	/* Its five entries make room for the others' when it is back, also on its disk. */
	converge(s);
	node_stop(s, old);
	node_start(s, old);
	converge(s);
	sim_free(s);
}

static void test_replica_shortened_log_starts_again(void **state)
{
	(void)state;
	struct sim *s = sim_new(3);
	int old = elect(s);
	run(s, 200);
	for (int i = 0; i < N; i++)
		if (i != old)
			s->cut[old][i] = s->cut[i][old] = true;
	allocate_many(s, old, 500);
	run(s, 2);
	node_stop(s, old); /* the guard has seen the 500 */
	int leader = elect(s);
	allocate_many(s, leader, 1);
	run(s, 100);
	node_start(s, old);
	converge(s);
	node_stop(s, old); /* the log is much shorter now, and that is no loss */
	node_start(s, old);
	converge(s);
	sim_free(s);
}

static void test_replica_far_behind_catches_up_from_disk(void **state)
{
	(void)state;
	struct sim *s = sim_new(4);
	int leader = elect(s), away = (leader + 1) % N;
	node_stop(s, away);
	for (int round = 0; round < 40; round++) {
		allocate_many(s, leader, 500); /* more in all than the entry cache holds */
		run(s, 3);
	}
	run(s, 100);
	assert_int_equal(s->accepted, 20000);
	converge(s);
	assert_int_equal(applied(s, away), applied(s, leader));
	sim_free(s);
}

static void test_replica_takes_a_great_many_in_one_turn(void **state)
{
	(void)state;
	struct sim *s = sim_new(8);
	int leader = elect(s);
	allocate_many(s, leader, 20000); /* more than the entry cache holds */
	run(s, 100);
	assert_int_equal(s->accepted, 20000);
	converge(s);
	sim_free(s);
}

static void test_replica_big_entries_pass_in_parts(void **state)
{
	(void)state;
	struct sim *s = sim_new(5);
	int leader = elect(s), away = (leader + 1) % N;
	node_stop(s, away);
	for (int i = 0; i < 30; i++) {
		propose_big(s, leader, 900000); /* 27 MB: more than is sent at once, and than is cached */
		run(s, 2);
	}
	run(s, 50);
	assert_int_equal(s->answered, 30);
	assert_int_equal(s->accepted, 0);
	node_start(s, away);
	for (int ms = 0; ms < 20000 && applied(s, away) < applied(s, leader); ms++)
		tick(s);
	assert_int_equal(applied(s, away), applied(s, leader));
	/* And all in one turn. */
	for (int i = 0; i < 30; i++)
		propose_big(s, leader, 900000);
	run(s, 200);
	assert_int_equal(s->answered, 60);
	converge(s);
	sim_free(s);
}

struct reads {
	unsigned ok, failed;
	uint64_t least;
};

static void on_read(void *arg, struct state *state, const struct status *st)
{
	struct reads *r = arg;
	if (st->code != STATUS_OK) {
		assert_null(state);
		r->failed++;
		return;
	}
	Kds__V1__SerialStatus serials;
	state_serial_status(state, &serials);
	if (r->ok++ == 0 || serials.last_serial < r->least)
		r->least = serials.last_serial;
}

static Kds__V1__ReplicaStatus status_of(struct sim *s, int i)
{
	Kds__V1__ReplicaStatus status = KDS__V1__REPLICA_STATUS__INIT;
	replica_status(s->nodes[i].replica, &status);
	return status;
}

/* Tells a follower to stand for election at once, as a leader does that hands over. */
static void hand_over(struct sim *s, int leader, int to)
{
	Kds__V1__ReplicaStatus status = KDS__V1__REPLICA_STATUS__INIT;
	replica_status(s->nodes[leader].replica, &status);
	Kds__V1__TimeoutNow now = KDS__V1__TIMEOUT_NOW__INIT;
	now.term = status.term;
	now.last_log_index = status.last_index;
	now.last_log_term = status.term;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_TIMEOUT_NOW;
	m.timeout_now = &now;
	replica_receive(s->nodes[to].replica, (raft_id)leader + 1, &m, s->now_ms);
}

static void read_at(struct sim *s, int node, struct reads *reads)
{
	replica_read(s->nodes[node].replica, on_read, reads);
	replica_finish(s->nodes[node].replica);
}

static void test_replica_reads_of_a_turn_share_a_round(void **state)
{
	(void)state;
	struct sim *s = sim_new(6);
	int leader = elect(s);
	allocate_many(s, leader, 3);
	run(s, 100);
	uint64_t before = applied(s, leader);
	struct reads reads = { 0 };
	for (int i = 0; i < 100; i++)
		replica_read(s->nodes[leader].replica, on_read, &reads);
	run(s, 20);
	assert_int_equal(reads.ok, 100);
	assert_true(reads.least >= s->highest);
	assert_int_equal(s->asked, N - 1);
	/* Those that come while one is under way share the next. */
	for (int i = 0; i < 3; i++)
		read_at(s, leader, &reads);
	run(s, 20);
	assert_int_equal(reads.ok, 103);
	assert_int_equal(s->asked, 3 * (N - 1));
	assert_int_equal(applied(s, leader), before); /* no entry, so no disk */
	/* What was answered before is seen, also by one that is under way with a command. */
	read_at(s, leader, &reads);
	allocate(s, leader);
	run(s, 20);
	assert_int_equal(reads.ok, 104);
	reads = (struct reads){ 0 };
	read_at(s, leader, &reads);
	run(s, 20);
	assert_int_equal(reads.ok, 1);
	assert_true(reads.least >= s->highest);
	sim_free(s);
}

static void test_replica_read_waits_for_a_majority(void **state)
{
	(void)state;
	struct sim *s = sim_new(17);
	int leader = elect(s), one = (leader + 1) % N, other = (leader + 2) % N;
	run(s, 200);
	struct reads reads = { 0 };
	s->cut[leader][one] = s->cut[leader][other] = true; /* nobody is asked */
	read_at(s, leader, &reads);
	run(s, HEARTBEAT_MS / 2);
	assert_int_equal(reads.ok, 0);
	s->cut[leader][one] = false;
	s->cut[one][leader] = true; /* nobody answers */
	run(s, HEARTBEAT_MS);
	assert_true(s->asked > 0);
	assert_int_equal(reads.ok + reads.failed, 0);
	s->cut[one][leader] = false; /* one of two does: what got lost is asked again */
	run(s, 2 * HEARTBEAT_MS);
	assert_int_equal(reads.ok, 1);
	unsigned asked = s->asked;
	run(s, 2 * HEARTBEAT_MS);
	assert_int_equal(s->asked, asked);
	sim_free(s);
}

static void confirm(struct sim *s, int leader, raft_id from, uint64_t term, uint64_t round)
{
	Kds__V1__ReadConfirmed confirmed = KDS__V1__READ_CONFIRMED__INIT;
	confirmed.term = term;
	confirmed.round = round;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRMED;
	m.read_confirmed = &confirmed;
	replica_receive(s->nodes[leader].replica, from, &m, s->now_ms);
	replica_finish(s->nodes[leader].replica);
}

static void test_replica_counts_no_other_confirmation(void **state)
{
	(void)state;
	struct sim *s = sim_new(18);
	int leader = elect(s);
	raft_id self = (raft_id)leader + 1, one = (raft_id)(leader + 1) % N + 1;
	run(s, 200);
	struct reads reads = { 0 };
	s->lost = KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRM;
	read_at(s, leader, &reads);
	const uint64_t term = s->asked_term, round = s->asked_round;
	confirm(s, leader, one, term, round - 1);
	confirm(s, leader, one, term, round + 1);
	confirm(s, leader, one, term - 1, round);
	confirm(s, leader, one, term + 1, round);
	confirm(s, leader, self, term, round);
	confirm(s, leader, 9, term, round);
	assert_int_equal(reads.ok + reads.failed, 0);
	confirm(s, leader, one, term, round);
	assert_int_equal(reads.ok, 1);
	/* For the next read it is an old one. */
	read_at(s, leader, &reads);
	confirm(s, leader, one, term, round);
	assert_int_equal(reads.ok, 1);
	assert_true(s->asked_round != round);
	confirm(s, leader, one, term, s->asked_round);
	assert_int_equal(reads.ok, 2);
	/* Nor does it repeat what it was asked in a life before. */
	s->lost = 0;
	node_kill(s, leader);
	node_start(s, leader);
	for (int i = 0; i < N; i++)
		s->cut[leader][i] = s->cut[i][leader] = i != leader;
	leader = elect(s);
	read_at(s, leader, &reads);
	assert_true(s->asked_round != round && s->asked_round != round + 1);
	converge(s);
	sim_free(s);
}

/* A follower that has moved on is silent, as is one that is asked by another than its leader. */
static void test_replica_confirms_to_its_leader_alone(void **state)
{
	(void)state;
	struct sim *s = sim_new(19);
	int leader = elect(s), one = (leader + 1) % N, other = (leader + 2) % N;
	run(s, 200);
	Kds__V1__ReadConfirm ask = KDS__V1__READ_CONFIRM__INIT;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRM;
	m.read_confirm = &ask;
	ask.term = status_of(s, leader).term;
	ask.round = 7;
	struct {
		int from, to;
		uint64_t term;
		unsigned answers;
	} cases[] = {
		{ leader, one, ask.term, 1 },     { leader, one, ask.term - 1, 0 }, { leader, one, ask.term + 1, 0 },
		{ other, one, ask.term, 0 },      { one, leader, ask.term, 0 },     { leader, leader, ask.term, 0 },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		s->confirmed = 0;
		ask.term = cases[i].term;
		replica_receive(s->nodes[cases[i].to].replica, (raft_id)cases[i].from + 1, &m, s->now_ms);
		assert_int_equal(s->confirmed, cases[i].answers);
	}
	/* The third stands: the first follows it into its term, if not to its leadership. */
	ask.term = status_of(s, leader).term;
	s->cut[leader][other] = s->cut[other][leader] = true;
	s->cut[leader][one] = s->cut[one][leader] = true;
	hand_over(s, leader, other);
	run(s, 3);
	assert_true(status_of(s, one).term > ask.term);
	s->confirmed = 0;
	replica_receive(s->nodes[one].replica, (raft_id)leader + 1, &m, s->now_ms);
	assert_int_equal(s->confirmed, 0);
	converge(s);
	sim_free(s);
}

/* It has all that was committed, but does not know yet what of it was. */
static void test_replica_new_leader_reads_behind_its_own_entry(void **state)
{
	(void)state;
	struct sim *s = sim_new(20);
	int old = elect(s), next = (old + 1) % N;
	run(s, 200);
	s->lost = KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES_RESULT;
	allocate_many(s, old, 5); /* the others have them, and do not know that they are committed */
	run(s, 3);
	struct reads reads = { 0 };
	hand_over(s, old, next);
	run(s, 5);
	assert_true(replica_leads(s->nodes[next].replica));
	read_at(s, next, &reads);
	run(s, 2 * HEARTBEAT_MS);
	assert_true(replica_leads(s->nodes[next].replica));
	assert_int_equal(reads.ok + reads.failed, 0);
	s->lost = 0;
	run(s, 2 * HEARTBEAT_MS);
	assert_int_equal(reads.ok, 1);
	assert_true(reads.least >= 5);
	converge(s);
	sim_free(s);
}

static void remove_member(struct sim *s, int leader, int gone)
{
	const raft_id id = (raft_id)gone + 1;
	for (int ms = 0; ms < 1000 && !replica_change(s->nodes[leader].replica, id, "", MEMBERSHIP_NONE); ms++)
		tick(s);
	assert_true(replica_is_changing(s->nodes[leader].replica));
}

static void test_replica_alone_reads_at_once(void **state)
{
	(void)state;
	struct sim *s = sim_new(21);
	int leader = elect(s), one = (leader + 1) % N, other = (leader + 2) % N;
	allocate_many(s, leader, 3);
	run(s, 200);
	struct reads reads = { 0 };
	remove_member(s, leader, one);
	/* The change is not committed: who remains must confirm, and who goes does not count. */
	s->lost = KDS__V1__PEER_MESSAGE__MESSAGE_READ_CONFIRM;
	read_at(s, leader, &reads);
	confirm(s, leader, (raft_id)one + 1, s->asked_term, s->asked_round);
	assert_int_equal(reads.ok, 0);
	confirm(s, leader, (raft_id)other + 1, s->asked_term, s->asked_round);
	assert_int_equal(reads.ok, 1);
	run(s, 20);
	assert_false(replica_is_changing(s->nodes[leader].replica));
	/* A round is under way when the last other one goes. */
	read_at(s, leader, &reads);
	assert_int_equal(reads.ok, 1);
	remove_member(s, leader, other);
	run(s, 20);
	assert_int_equal(reads.ok, 2);
	s->asked = 0;
	read_at(s, leader, &reads);
	assert_int_equal(reads.ok, 3);
	assert_int_equal(s->asked, 0);
	assert_true(reads.least >= s->highest);
	sim_free(s);
}

static void test_replica_knows_how_old_its_state_is(void **state)
{
	(void)state;
	struct sim *s = sim_new(16);
	int leader = elect(s), cut = (leader + 1) % N;
	run(s, 500);
	/* Heartbeats keep it fresh while nothing changes. */
	struct replica *r = s->nodes[cut].replica;
	assert_true(replica_fresh_ms(r) + 2 * HEARTBEAT_MS >= s->now_ms);
	/* What the leader sends does not count until all that it had committed is here. */
	for (int i = 0; i < N; i++)
		s->cut[i][cut] = true;
	uint64_t fresh = replica_fresh_ms(r);
	for (int i = 0; i < 20; i++) {
		propose_big(s, leader, 900000); /* more in all than one message brings */
		run(s, 2);
	}
	run(s, 3 * HEARTBEAT_MS);
	assert_int_equal(s->answered, 20);
	assert_true(replica_fresh_ms(r) == fresh);
	uint64_t behind = applied(s, cut);
	for (int i = 0; i < N; i++)
		s->cut[i][cut] = false;
	for (int ms = 0; ms < 60000 && replica_fresh_ms(r) == fresh; ms++)
		tick(s);
	assert_true(replica_fresh_ms(r) > fresh);
	assert_true(applied(s, cut) >= behind + 20);
	/* One that starts knows nothing of it. */
	node_stop(s, cut);
	node_start(s, cut);
	assert_true(replica_fresh_ms(s->nodes[cut].replica) == 0);
	converge(s);
	sim_free(s);
}

/* A new leader does not know of what its predecessor committed last: its first words make nobody's state fresh. */
static void test_replica_state_is_no_fresher_than_a_new_leader_knows(void **state)
{
	(void)state;
	struct sim *s = sim_new(17);
	int leader = elect(s);
	run(s, 500);
	allocate(s, leader);
	for (int ms = 0; ms < 100 && s->answered < s->proposed; ms++)
		tick(s);
	assert_int_equal(s->accepted, 1); /* the others have it, and were not told yet that it is committed */
	node_kill(s, leader);
	uint64_t killed_ms = s->now_ms;
	for (int i = 0; i < N; i++)
		s->cut[leader][i] = true; /* what it has said does not arrive either */
	s->late_ms = 20; /* between the words and what they are about */
	unsigned known = 0;
	for (int ms = 0; ms < 60000 && known < N - 1; ms++) {
		tick(s);
		known = 0;
		for (int i = 0; i < N; i++) {
			if (i == leader || replica_fresh_ms(s->nodes[i].replica) <= killed_ms)
				continue;
			Kds__V1__SerialStatus serials;
			state_serial_status(s->nodes[i].state, &serials);
			assert_true(serials.last_serial >= s->highest);
			known++;
		}
	}
	assert_int_equal(known, N - 1);
	/* The same when there is nothing that is not known to be committed. */
	converge(s);
	leader = elect(s);
	run(s, 500);
	node_kill(s, leader);
	killed_ms = s->now_ms;
	run(s, 5000);
	for (int i = 0; i < N; i++)
		assert_true(i == leader || replica_fresh_ms(s->nodes[i].replica) > killed_ms + 1000);
	converge(s);
	sim_free(s);
}

static void test_replica_that_lost_its_quorum_answers_no_read(void **state)
{
	(void)state;
	struct sim *s = sim_new(7);
	int old = elect(s);
	run(s, 200);
	for (int i = 0; i < N; i++)
		if (i != old)
			s->cut[old][i] = s->cut[i][old] = true;
	struct reads reads = { 0 };
	replica_read(s->nodes[old].replica, on_read, &reads); /* it still believes that it leads */
	int leader = -1;
	for (int ms = 0; ms < 60000 && (leader < 0 || leader == old); ms++) {
		tick(s);
		leader = leader_of(s);
	}
	allocate_many(s, leader, 1);
	run(s, 5 * ELECTION_MS);
	assert_int_equal(reads.ok, 0);
	assert_int_equal(reads.failed, 1);
	converge(s);
	sim_free(s);
}

/* The old leader learns of the new one from a message that replaces its entries with others and commits these. */
static void test_replica_replaced_leader_answers_with_no_other_entry(void **state)
{
	(void)state;
	struct sim *s = sim_new(8);
	int old = elect(s), next = (old + 1) % N;
	run(s, 200);
	for (int i = 0; i < N; i++)
		if (i != old)
			s->cut[old][i] = s->cut[i][old] = true;
	struct reads reads = { 0 };
	hand_over(s, old, next);
	allocate_many(s, old, 5);
	replica_read(s->nodes[old].replica, on_read, &reads);
	run(s, 50);
	assert_true(replica_leads(s->nodes[next].replica));
	allocate_many(s, next, 8);
	run(s, 50);
	assert_int_equal(s->accepted, 8);
	assert_true(replica_leads(s->nodes[old].replica)); /* it does not know yet */
	assert_int_equal(s->answered, 8);
	assert_int_equal(reads.failed, 0);
	converge(s);
	assert_int_equal(s->accepted, 8);
	assert_int_equal(s->answered, 13);
	assert_int_equal(reads.ok, 0);
	assert_int_equal(reads.failed, 1);
	sim_free(s);
}

/* The round that its reads waited for is gone with its leadership: reads of a later one must not wait for it. */
static void test_replica_leader_again_reads_at_once(void **state)
{
	(void)state;
	struct sim *s = sim_new(9);
	int old = elect(s), next = (old + 1) % N;
	run(s, 200);
	for (int i = 0; i < N; i++)
		if (i != old)
			s->cut[old][i] = s->cut[i][old] = true;
	struct reads reads = { 0 };
	hand_over(s, old, next);
	allocate_many(s, old, 50);
	replica_finish(s->nodes[old].replica);
	replica_read(s->nodes[old].replica, on_read, &reads);
	run(s, 50);
	allocate(s, next); /* in the place of the first of the 50 */
	converge(s);
	assert_int_equal(reads.failed, 1);
	hand_over(s, next, old);
	run(s, 50);
	assert_true(replica_leads(s->nodes[old].replica));
	replica_read(s->nodes[old].replica, on_read, &reads);
	run(s, 50);
	assert_int_equal(reads.ok, 1);
	sim_free(s);
}

static void reject(struct sim *s, int leader, int from, uint64_t term, uint64_t rejected, uint64_t last)
{
	Kds__V1__AppendEntriesResult result = KDS__V1__APPEND_ENTRIES_RESULT__INIT;
	result.term = term;
	result.rejected = rejected;
	result.last_log_index = last;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES_RESULT;
	m.append_entries_result = &result;
	replica_receive(s->nodes[leader].replica, (raft_id)from + 1, &m, s->now_ms);
}

static void test_replica_late_rejection_holds_up_nobody(void **state)
{
	(void)state;
	struct sim *s = sim_new(9);
	int leader = elect(s), follower = (leader + 1) % N;
	allocate_many(s, leader, 10);
	run(s, 100);
	Kds__V1__ReplicaStatus status = KDS__V1__REPLICA_STATUS__INIT;
	replica_status(s->nodes[leader].replica, &status);
	/* After the first, which says that a message was lost, libraft probes; the second comes late. The probes get lost:
	 * an answer would show the leader where the follower is. */
	s->lose = 100;
	reject(s, leader, follower, status.term, status.last_index + 1, status.last_index);
	reject(s, leader, follower, status.term, status.last_index, status.last_index - 2);
	run(s, 1);
	s->lose = 0;
	allocate_many(s, leader, 1);
	run(s, 10 * HEARTBEAT_MS);
	assert_int_equal(applied(s, follower), applied(s, leader));
	converge(s);
	sim_free(s);
}

/* Compaction and snapshots */

static uint64_t log_length(struct sim *s, int i)
{
	Kds__V1__ReplicaStatus status = status_of(s, i);
	return status.last_index + 1 - status.first_index;
}

static struct sim *sim_with_tail(unsigned seed, unsigned log_tail)
{
	struct sim *s = sim_new(seed);
	s->log_tail = log_tail;
	for (int i = 0; i < N; i++) {
		node_stop(s, i);
		node_start(s, i);
	}
	return s;
}

static void allocate_over_time(struct sim *s, int leader, unsigned n)
{
	for (unsigned i = 0; i < n; i += 10) {
		allocate_many(s, leader, 10);
		run(s, 3);
	}
	run(s, 100);
}

/* Tables and digest; logs may begin elsewhere. */
static void expect_same_state(struct sim *s)
{
	uint8_t digests[N][STATE_DIGEST_SIZE];
	struct status st;
	bool same = false;
	for (int ms = 0; ms < 20000 && !same; ms++) {
		tick(s);
		same = leader_of(s) >= 0;
		for (int i = 0; i < N; i++)
			same = same && applied(s, i) == applied(s, 0) && applied(s, i) == status_of(s, i).last_index;
	}
	run(s, 50);
	for (int i = 0; i < N; i++) {
		assert_int_equal(applied(s, i), applied(s, 0));
		assert_int_equal(state_digest(s->nodes[i].state, &st, digests[i]), STATUS_OK);
		assert_memory_equal(digests[i], digests[0], STATE_DIGEST_SIZE);
		for (bool done = false; !done;) /* and the disk agrees */
			assert_int_equal(state_scan_digest(s->nodes[i].state, 1000, &st, &done), STATUS_OK);
	}
}

static void test_replica_compacts_its_log(void **state)
{
	(void)state;
	struct sim *s = sim_with_tail(41, 40);
	allocate_over_time(s, elect(s), 400);
	for (int i = 0; i < N; i++) {
		assert_in_range(log_length(s, i), 40, 60);
		assert_int_equal(durable(&s->nodes[i], "SELECT count(*) FROM log"), log_length(s, i));
		assert_int_equal(durable(&s->nodes[i], "SELECT count(*) FROM genesis"), 2);
	}
	/* It starts from that, and leads. */
	for (int i = 0; i < N; i++)
		node_kill(s, i);
	for (int i = 0; i < N; i++)
		node_start(s, i);
	allocate_over_time(s, elect(s), 50);
	expect_same_state(s);
	assert_int_equal(s->accepted, 450);
	sim_free(s);
}

static void test_replica_keeps_entries_for_one_that_is_away(void **state)
{
	(void)state;
	struct sim *s = sim_with_tail(42, 40);
	int leader = elect(s), away = (leader + 1) % N;
	allocate_over_time(s, leader, 100);
	node_stop(s, away);
	allocate_over_time(s, leader, 200);
	assert_true(log_length(s, leader) >= 200);
	node_start(s, away);
	run(s, 500);
	assert_int_equal(status_of(s, leader).sends_snapshots, 0);
	assert_int_equal(durable(&s->nodes[away], "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'retired%'"), 0);
	expect_same_state(s);
	allocate_over_time(s, leader, 50);
	assert_in_range(log_length(s, leader), 40, 60);
	/* But not for ever. */
	node_stop(s, away);
	allocate_over_time(s, leader, 600);
	assert_in_range(log_length(s, leader), 280, 350);
	sim_free(s);
}

static void bring_back(struct sim *s, int away)
{
	node_start(s, away);
	for (int ms = 0; ms < 60000 && applied(s, away) < applied(s, leader_of(s)); ms++)
		tick(s);
}

static void test_replica_far_behind_gets_the_state(void **state)
{
	(void)state;
	struct sim *s = sim_with_tail(43, 40);
	int leader = elect(s), away = (leader + 1) % N;
	node_stop(s, away);
	allocate_over_time(s, leader, 600);
	bring_back(s, away);
	assert_true(status_of(s, away).first_index > 400);
	assert_int_equal(durable(&s->nodes[away], "SELECT applied >= 600 FROM meta"), 1);
	assert_int_equal(durable(&s->nodes[away], "SELECT count(*) FROM genesis"), 2);
	expect_same_state(s);
	run(s, 200); /* the state of before is gone */
	assert_int_equal(
	    durable(&s->nodes[away], "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%retired%' AND type = 'table'"), 0);
	/* It counts as any other: with the third alone it is a majority, and may lead. */
	node_stop(s, leader);
	allocate_over_time(s, elect(s), 20);
	assert_int_equal(s->accepted, 620);
	node_start(s, leader);
	node_kill(s, away);
	node_start(s, away);
	expect_same_state(s);
	sim_free(s);
}

static void test_replica_gets_the_state_over_a_bad_network(void **state)
{
	(void)state;
	for (unsigned seed = 44; seed < 46; seed++) {
		struct sim *s = sim_with_tail(seed, 20);
		int leader = elect(s), away = (leader + 1) % N;
		node_stop(s, away);
		allocate_over_time(s, leader, 300);
		s->lose = s->repeat = 20;
		s->late_ms = 40;
		bring_back(s, away);
		s->lose = s->repeat = 0;
		s->late_ms = 0;
		run(s, 1500);
		assert_true(status_of(s, away).first_index > 150);
		expect_same_state(s);
		sim_free(s);
	}
}

static void misfortune(struct sim *s)
{
	int i = (int)dice(s, N), j = (int)dice(s, N);
	switch (dice(s, 8)) {
	case 0:
		if (s->nodes[i].replica && j == 0)
			node_stop(s, i);
		else if (s->nodes[i].replica)
			node_kill(s, i);
		break;
	case 1:
	case 2:
		if (!s->nodes[i].replica)
			node_start(s, i);
		break;
	case 3:
		s->cut[i][j] = true; /* one way only, too */
		break;
	case 4:
	case 5:
		memset(s->cut, 0, sizeof s->cut);
		break;
	case 6:
		s->lose = dice(s, 30);
		s->repeat = dice(s, 30);
		s->late_ms = dice(s, 60);
		break;
	default:
		break;
	}
}

struct handover {
	unsigned answers;
	enum status_code code;
	raft_id leader;
};

static void on_transfer(void *arg, const struct status *st, uint64_t leader)
{
	struct handover *h = arg;
	h->answers++;
	h->code = st->code;
	h->leader = leader;
}

static enum status_code transfer(struct sim *s, int from, raft_id to, struct handover *h)
{
	*h = (struct handover){ 0 };
	replica_transfer(s->nodes[from].replica, to, on_transfer, h);
	for (unsigned ms = 0; ms < 3 * ELECTION_MS && h->answers == 0; ms++)
		tick(s);
	assert_int_equal(h->answers, 1);
	return h->code;
}

/* Under load, to each in turn: long before anybody's election timer. */
static void test_replica_hands_over(void **state)
{
	(void)state;
	struct sim *s = sim_new(31);
	int leader = elect(s);
	struct handover h;
	for (int i = 1; i <= 5; i++) {
		int to = (leader + i % (N - 1) + 1) % N;
		allocate_many(s, leader, 20);
		uint64_t began = s->now_ms;
		assert_int_equal(transfer(s, leader, (raft_id)to + 1, &h), STATUS_OK);
		assert_int_equal(h.leader, to + 1);
		assert_true(s->now_ms - began < HEARTBEAT_MS);
		assert_int_equal(elect(s), to);
		leader = to;
	}
	converge(s);
	sim_free(s);
}

static void test_replica_hands_over_to_the_most_advanced(void **state)
{
	(void)state;
	struct sim *s = sim_new(32);
	int leader = elect(s), lags = (leader + 1) % N, other = (leader + 2) % N;
	struct handover h;
	run(s, HEARTBEAT_MS);
	s->cut[lags][leader] = true; /* its acknowledgements are lost */
	allocate_many(s, leader, 10);
	run(s, 20);
	assert_int_equal(transfer(s, leader, 0, &h), STATUS_OK);
	assert_int_equal(h.leader, other + 1);
	converge(s);
	sim_free(s);
}

static void test_replica_hands_over_to_nobody(void **state)
{
	(void)state;
	struct sim *s = sim_new(33);
	int leader = elect(s), deaf = (leader + 1) % N;
	struct handover h, second;
	assert_int_equal(transfer(s, deaf, 0, &h), STATUS_FAILED_PRECONDITION);
	assert_int_equal(transfer(s, leader, 9, &h), STATUS_NOT_FOUND);
	assert_int_equal(transfer(s, leader, (raft_id)leader + 1, &h), STATUS_OK);
	assert_int_equal(h.leader, leader + 1);

	/* Connected, but what is sent gets lost: after an election timeout the leader goes on. */
	s->lose = 100;
	replica_transfer(s->nodes[leader].replica, (raft_id)deaf + 1, on_transfer, &h);
	replica_transfer(s->nodes[leader].replica, 0, on_transfer, &second);
	assert_int_equal(second.code, STATUS_FAILED_PRECONDITION);
	allocate(s, leader);
	assert_int_equal(s->answered, 1); /* refused meanwhile */
	h.answers = 0;
	run(s, 20);
	s->lose = 0;
	s->cut[deaf][leader] = true;
	run(s, ELECTION_MS + HEARTBEAT_MS);
	assert_int_equal(h.answers, 1);
	assert_int_equal(h.code, STATUS_DEADLINE_EXCEEDED);
	assert_true(replica_leads(s->nodes[leader].replica));
	allocate(s, leader);
	run(s, 20);
	assert_int_equal(s->accepted, 1);

	/* Not connected. */
	memset(s->cut, 0, sizeof s->cut);
	s->cut[leader][deaf] = true;
	assert_int_equal(transfer(s, leader, (raft_id)deaf + 1, &h), STATUS_UNAVAILABLE);
	s->cut[leader][(leader + 2) % N] = true;
	assert_int_equal(transfer(s, leader, 0, &h), STATUS_UNAVAILABLE);

	/* Stops on the way. */
	memset(s->cut, 0, sizeof s->cut);
	leader = elect(s);
	h.answers = 0;
	replica_transfer(s->nodes[leader].replica, 0, on_transfer, &h);
	node_stop(s, leader);
	assert_int_equal(h.answers, 1);
	assert_int_equal(h.code, STATUS_UNAVAILABLE);
	converge(s);
	sim_free(s);
}

/* The leader is gone: whoever has the whole log leads a few ms after it stood for election, however its timer stands. */
/* Who is asked for a vote of a new term knows no leader of it yet: the one before would be taken for one that resigned. */
static void test_replica_leader_belongs_to_its_term(void **state)
{
	(void)state;
	struct sim *s = sim_new(35);
	int leader = elect(s), candidate = (leader + 1) % N, voter = (leader + 2) % N;
	Kds__V1__ReplicaStatus status = KDS__V1__REPLICA_STATUS__INIT;
	run(s, HEARTBEAT_MS);
	replica_status(s->nodes[voter].replica, &status);
	assert_int_equal(status.leader_id, leader + 1);
	uint64_t term = status.term;
	s->cut[voter][candidate] = s->cut[leader][candidate] = true; /* no vote arrives */
	replica_stand(s->nodes[candidate].replica);
	replica_finish(s->nodes[candidate].replica);
	run(s, 5);
	replica_status(s->nodes[voter].replica, &status);
	assert_int_equal(status.term, term + 1);
	assert_int_equal(status.leader_id, 0);
	s->cut[voter][candidate] = s->cut[leader][candidate] = false;
	converge(s);
	sim_free(s);
}

static void test_replica_stands_for_election(void **state)
{
	(void)state;
	struct sim *s = sim_new(34);
	int leader = elect(s), lags = (leader + 1) % N;
	run(s, HEARTBEAT_MS);
	s->cut[leader][lags] = true;
	allocate_many(s, leader, 10);
	run(s, 20);
	assert_int_equal(s->accepted, 10);
	node_kill(s, leader);

	replica_stand(s->nodes[lags].replica); /* in vain: the other has more */
	replica_finish(s->nodes[lags].replica);
	run(s, 20);
	assert_int_equal(leader_of(s), -1);
	converge(s);

	leader = elect(s);
	int other = (leader + 1) % N, third = (leader + 2) % N;
	allocate_many(s, leader, 10);
	run(s, 20);
	replica_stand(s->nodes[leader].replica); /* who leads does not */
	node_kill(s, leader);
	replica_stand(s->nodes[other].replica);
	replica_finish(s->nodes[other].replica);
	run(s, 10);
	assert_int_equal(leader_of(s), other);

	/* Also when its leader is well: an election that was not needed. */
	replica_stand(s->nodes[third].replica);
	replica_finish(s->nodes[third].replica);
	run(s, 10);
	assert_int_equal(leader_of(s), third);
	allocate(s, third);
	run(s, 20);
	assert_int_equal(s->accepted, 21);
	converge(s);
	sim_free(s);
}

static void change(struct sim *s, int leader, int i, enum membership_role role)
{
	struct replica *r = s->nodes[leader].replica;
	bool proposed = false;
	for (int ms = 0; ms < 1000 && !proposed; ms++) {
		proposed = replica_change(r, (raft_id)i + 1, s->members[i].name, role);
		tick(s);
	}
	assert_true(proposed);
}

static void settle(struct sim *s, int leader)
{
	for (int ms = 0; ms < 1000 && replica_is_changing(s->nodes[leader].replica); ms++)
		tick(s);
	assert_false(replica_is_changing(s->nodes[leader].replica));
}

/* Who is to vote does not know so yet, and still has the leader in mind who has gone and asks again. */
static void test_replica_standby_gives_its_vote_for_want_of_a_leader(void **state)
{
	(void)state;
	struct sim *s = sim_new(18);
	int leader = elect(s), heir = (leader + 1) % N, other = (leader + 2) % N;
	run(s, 500);
	change(s, leader, heir, MEMBERSHIP_STANDBY);
	settle(s, leader);
	change(s, leader, other, MEMBERSHIP_STANDBY);
	settle(s, leader);
	run(s, 500);
	s->cut[leader][heir] = true;
	change(s, leader, heir, MEMBERSHIP_VOTER);
	node_kill(s, leader);
	memset(s->cut, 0, sizeof s->cut);
	node_start(s, leader);
	assert_int_equal(elect(s), leader);
	settle(s, leader);
	allocate(s, leader);
	converge(s);
	sim_free(s);
}

static void test_replica_survives_misfortunes(void **state)
{
	(void)state;
	for (unsigned seed = 100; seed < 106; seed++) {
		struct sim *s = sim_new(seed);
		for (int round = 0; round < 300; round++) {
			misfortune(s);
			for (int ms = 0; ms < 40; ms++) {
				int leader = leader_of(s);
				if (leader >= 0 && dice(s, 4) == 0)
					allocate_many(s, leader, 1 + dice(s, 10));
				tick(s);
			}
		}
		converge(s);
		assert_true(s->accepted > 0);
		sim_free(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_replica_commits_what_a_quorum_has),
		cmocka_unit_test(test_replica_alone_in_its_part_commits_nothing),
		cmocka_unit_test(test_replica_shortened_log_starts_again),
		cmocka_unit_test(test_replica_far_behind_catches_up_from_disk),
		cmocka_unit_test(test_replica_takes_a_great_many_in_one_turn),
		cmocka_unit_test(test_replica_big_entries_pass_in_parts),
		cmocka_unit_test(test_replica_reads_of_a_turn_share_a_round),
		cmocka_unit_test(test_replica_read_waits_for_a_majority),
		cmocka_unit_test(test_replica_counts_no_other_confirmation),
		cmocka_unit_test(test_replica_confirms_to_its_leader_alone),
		cmocka_unit_test(test_replica_new_leader_reads_behind_its_own_entry),
		cmocka_unit_test(test_replica_alone_reads_at_once),
		cmocka_unit_test(test_replica_that_lost_its_quorum_answers_no_read),
		cmocka_unit_test(test_replica_knows_how_old_its_state_is),
		cmocka_unit_test(test_replica_state_is_no_fresher_than_a_new_leader_knows),
		cmocka_unit_test(test_replica_replaced_leader_answers_with_no_other_entry),
		cmocka_unit_test(test_replica_leader_again_reads_at_once),
		cmocka_unit_test(test_replica_late_rejection_holds_up_nobody),
		cmocka_unit_test(test_replica_hands_over),
		cmocka_unit_test(test_replica_hands_over_to_the_most_advanced),
		cmocka_unit_test(test_replica_hands_over_to_nobody),
		cmocka_unit_test(test_replica_leader_belongs_to_its_term),
		cmocka_unit_test(test_replica_stands_for_election),
		cmocka_unit_test(test_replica_compacts_its_log),
		cmocka_unit_test(test_replica_keeps_entries_for_one_that_is_away),
		cmocka_unit_test(test_replica_far_behind_gets_the_state),
		cmocka_unit_test(test_replica_gets_the_state_over_a_bad_network),
		cmocka_unit_test(test_replica_standby_gives_its_vote_for_want_of_a_leader),
		cmocka_unit_test(test_replica_survives_misfortunes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
