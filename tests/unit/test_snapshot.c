// links: service_serial common_rpc common_base kds_proto
/* The two ends of a snapshot's way: what is sent when, and what is taken. */
#include "tests/support/state_fixture.h"

#include "services/serial/genesis.h"
#include "services/serial/snapshot_receive.h"
#include "services/serial/snapshot_send.h"
#include "services/serial/snapshot_tables.h"

#define FOLLOWER 2
#define PART_BYTES 500
#define PARTS_MAX 64
#define SECOND 1000

/* A replica's database with a state of some size, and what its leader's end has sent. */
struct ends {
	char *dir;
	struct store *store;
	struct state *state;
	struct snapshot_senders *senders;
	Kds__V1__PeerMessage *sent[PARTS_MAX];
	size_t n_sent;
	bool connected;
	struct snapshot_receiver *receiver;
	sqlite3 *db; /* the follower's */
};

static bool is_connected(void *arg, raft_id to)
{
	assert_int_equal(to, FOLLOWER);
	return ((struct ends *)arg)->connected;
}

static void take(void *arg, raft_id to, struct slice message)
{
	struct ends *e = arg;
	assert_int_equal(to, FOLLOWER);
	assert_true(e->n_sent < PARTS_MAX);
	e->sent[e->n_sent] = kds__v1__peer_message__unpack(NULL, message.len, message.data);
	assert_non_null(e->sent[e->n_sent++]);
}

static void apply_at(struct ends *e, raft_index index, Kds__V1__Command *c)
{
	uint8_t packed[1024];
	struct state_result result = { 0 };
	struct status st;
	c->version = 1;
	c->time_ms = NOW_MS;
	struct slice bytes = { packed, kds__v1__command__pack(c, packed) };
	assert_int_equal(state_apply(e->state, index, bytes, &st, &result), STATUS_OK);
	assert_int_equal(result.status.code, STATUS_OK);
	state_result_fini(&result);
}

static void make_state(struct ends *e)
{
	const struct engine_member members[] = { { 1, "serial1", "h:1" }, { FOLLOWER, "serial2", "h:2" } };
	const struct engine_options o = {
		.id = 1, .cluster = "c.example.com", .kds_name = "k.example.com", .cluster_id = "id", .members = members,
		.n_members = 2,
	};
	struct store_genesis g = { 0 };
	struct status st;
	struct state_result result = { 0 };
	assert_int_equal(genesis_make(&o, &st, &g), STATUS_OK);
	store_create_log(e->store, &g);
	store_begin(e->store);
	assert_int_equal(state_apply(e->state, 2, (struct slice){ g.command.data, g.command.len }, &st, &result), STATUS_OK);
	state_result_fini(&result);
	for (raft_index i = 3; i <= 100; i++) {
		uint8_t id[16] = { (uint8_t)i };
		Kds__V1__AllocateRequest request = KDS__V1__ALLOCATE_REQUEST__INIT;
		Kds__V1__Command c = KDS__V1__COMMAND__INIT;
		request.count = 1;
		c.requester = (char *)"ca1";
		c.request_id = (ProtobufCBinaryData){ .data = id, .len = sizeof id };
		c.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
		c.allocate = &request;
		const struct raft_entry entry = { .term = 1, .type = RAFT_COMMAND, .buf = { .base = id, .len = sizeof id } };
		apply_at(e, i, &c);
		store_append(e->store, i, &entry);
	}
	store_set_configuration(e->store, 1, (struct slice){ g.configuration.data, g.configuration.len });
	store_set_applied(e->store, 100, 1);
	assert_int_equal(state_flush(e->state, &st), STATUS_OK);
	store_drop(e->store, 91, 0);
	store_commit(e->store);
	genesis_free(&g);
}

static int set_up(void **arg)
{
	struct ends *e = calloc(1, sizeof *e);
	const struct store_identity id = { .cluster_id = "id", .replica_id = 1 };
	struct status st;
	assert_non_null(e);
	e->dir = support_make_directory();
	assert_int_equal(store_open(e->dir, &id, &st, &e->store), STATUS_OK);
	assert_int_equal(state_open(store_sqlite(e->store), &st, &e->state), STATUS_OK);
	make_state(e);
	const struct snapshot_senders_options o = {
		.store = e->store, .part_bytes = PART_BYTES, .connected = is_connected, .send = take, .arg = e,
	};
	e->connected = true;
	e->senders = snapshot_senders_new(&o);
	assert_non_null(e->senders);
	assert_int_equal(sqlite3_open(":memory:", &e->db), SQLITE_OK);
	e->receiver = snapshot_receiver_new(e->db);
	assert_non_null(e->receiver);
	*arg = e;
	return 0;
}

static void forget_sent(struct ends *e)
{
	while (e->n_sent > 0)
		kds__v1__peer_message__free_unpacked(e->sent[--e->n_sent], NULL);
}

static int tear_down(void **arg)
{
	struct ends *e = *arg;
	snapshot_senders_free(e->senders);
	snapshot_receiver_free(e->receiver);
	sqlite3_close(e->db);
	state_close(e->state);
	store_close(e->store);
	forget_sent(e);
	support_remove_directory(e->dir);
	free(e);
	return 0;
}

static bool answer(struct ends *e, uint64_t transfer, uint64_t next, uint64_t applied, bool refused, uint64_t now)
{
	Kds__V1__SnapshotAnswer a = KDS__V1__SNAPSHOT_ANSWER__INIT;
	raft_index reached = 0;
	a.term = 7;
	a.transfer = transfer;
	a.next = next;
	a.applied = applied;
	a.refused = refused;
	bool done = snapshot_senders_answer(e->senders, FOLLOWER, &a, now, &reached);
	assert_int_equal(reached, done ? applied : 0);
	return done;
}

static void turns(struct ends *e, unsigned n, uint64_t now)
{
	while (n-- > 0)
		snapshot_senders_turn(e->senders, 7, now);
}

/* All parts of one transfer, in order, each answered at once. */
static void send_all(struct ends *e)
{
	snapshot_senders_want(e->senders, FOLLOWER, 0);
	do {
		turns(e, 1, 0);
		assert_true(e->n_sent > 0);
		answer(e, 1, e->n_sent, 0, false, 0);
	} while (!e->sent[e->n_sent - 1]->snapshot_part->last);
}

/* Sending */

static void test_snapshot_sends_few_parts_ahead(void **arg)
{
	struct ends *e = *arg;
	snapshot_senders_want(e->senders, FOLLOWER, 0);
	assert_int_equal(snapshot_senders_due(e->senders), 0);
	turns(e, 1, 0);
	assert_int_equal(e->n_sent, 1); /* one in a turn */
	assert_int_equal(snapshot_senders_hold(e->senders), 101);
	turns(e, 10, 0);
	assert_int_equal(e->n_sent, 4);
	answer(e, 1, 2, 0, false, 100); /* two parts are on the follower's side */
	turns(e, 10, 100);
	assert_int_equal(e->n_sent, 6);
	for (size_t i = 0; i < e->n_sent; i++) {
		assert_int_equal(e->sent[i]->snapshot_part->number, i);
		assert_true(i == 0 || e->sent[i]->snapshot_part->body.len <= PART_BYTES);
	}
	snapshot_senders_want(e->senders, FOLLOWER, 100); /* it is under way */
	turns(e, 10, 100);
	assert_int_equal(e->n_sent, 6);
	snapshot_senders_stop(e->senders);
	assert_int_equal(snapshot_senders_hold(e->senders), UINT64_MAX);
	assert_int_equal(snapshot_senders_due(e->senders), UINT64_MAX);
}

static void test_snapshot_sends_again_what_was_lost(void **arg)
{
	struct ends *e = *arg;
	snapshot_senders_want(e->senders, FOLLOWER, 0);
	turns(e, 10, 0);
	forget_sent(e);
	answer(e, 1, 1, 0, false, 0);
	e->connected = false;
	turns(e, 10, SECOND);
	assert_int_equal(e->n_sent, 0);
	e->connected = true;
	turns(e, 10, 2 * SECOND);
	assert_int_equal(e->n_sent, 4); /* from the first that it does not have */
	assert_int_equal(e->sent[0]->snapshot_part->number, 1);
	forget_sent(e);
	answer(e, 99, 3, 0, false, 2 * SECOND); /* of another transfer */
	answer(e, 1, 77, 0, false, 2 * SECOND); /* of parts that never were */
	turns(e, 10, 2 * SECOND);
	assert_int_equal(e->n_sent, 0);
}

static void test_snapshot_gives_up(void **arg)
{
	struct ends *e = *arg;
	snapshot_senders_want(e->senders, FOLLOWER, 0);
	turns(e, 10, 0);
	turns(e, 1, 29 * SECOND);
	assert_int_equal(snapshot_senders_count(e->senders), 1);
	turns(e, 1, 31 * SECOND);
	assert_int_equal(snapshot_senders_count(e->senders), 0); /* it does not move on */
	snapshot_senders_want(e->senders, FOLLOWER, 32 * SECOND);
	assert_int_equal(snapshot_senders_count(e->senders), 0); /* not at once */
	snapshot_senders_want(e->senders, FOLLOWER, 40 * SECOND);
	assert_int_equal(snapshot_senders_count(e->senders), 1);
	turns(e, 4, 40 * SECOND);
	answer(e, 2, 3, 0, false, 40 * SECOND);
	answer(e, 2, 0, 0, false, 40 * SECOND); /* it has lost all */
	assert_int_equal(snapshot_senders_count(e->senders), 0);
	snapshot_senders_want(e->senders, FOLLOWER, 50 * SECOND);
	turns(e, 4, 50 * SECOND);
	answer(e, 3, 0, 0, true, 50 * SECOND); /* it refuses */
	assert_int_equal(snapshot_senders_count(e->senders), 0);
}

static void test_snapshot_holds_the_log_until_it_is_needed_no_more(void **arg)
{
	struct ends *e = *arg;
	send_all(e);
	assert_false(answer(e, 1, e->n_sent, 99, false, 0) && snapshot_senders_hold(e->senders) == UINT64_MAX);
	snapshot_senders_stop(e->senders);
	snapshot_senders_want(e->senders, FOLLOWER, 0);
	turns(e, 2, 0);
	assert_true(answer(e, 2, 1, 100, false, 0));
	assert_int_equal(snapshot_senders_hold(e->senders), 101);
	snapshot_senders_caught_up(e->senders, FOLLOWER, 150);
	assert_int_equal(snapshot_senders_hold(e->senders), 151);
	turns(e, 1, 61 * SECOND);
	assert_int_equal(snapshot_senders_hold(e->senders), UINT64_MAX);
}

/* Receiving */

static enum snapshot_step receive(struct ends *e, const Kds__V1__SnapshotPart *part)
{
	enum snapshot_step step = SNAPSHOT_IGNORED;
	struct status st;
	assert_int_equal(snapshot_receiver_take(e->receiver, 0, part, 0, &st, &step), STATUS_OK);
	return step;
}

static void test_snapshot_arrives_whole(void **arg)
{
	struct ends *e = *arg;
	struct status st;
	struct state *state = NULL;
	bool more = true;
	send_all(e);
	assert_true(e->n_sent > 5);
	for (size_t i = 0; i < e->n_sent; i++) {
		enum snapshot_step step = receive(e, e->sent[i]->snapshot_part);
		assert_int_equal(step, i + 1 < e->n_sent ? SNAPSHOT_WAITING : SNAPSHOT_COMPLETE);
		assert_int_equal(snapshot_receiver_next(e->receiver), i + 1);
		assert_in_range(snapshot_receiver_percent(e->receiver), 1, 99);
		if (i == 2) { /* others, and the same again, change nothing */
			assert_int_equal(receive(e, e->sent[0]->snapshot_part), SNAPSHOT_WAITING);
			assert_int_equal(receive(e, e->sent[4]->snapshot_part), SNAPSHOT_WAITING);
			assert_int_equal(snapshot_receiver_next(e->receiver), 3);
		}
	}
	const struct store_head *head = snapshot_receiver_head(e->receiver);
	assert_int_equal(head->index, 100);
	assert_int_equal(head->term, 1);
	assert_int_equal(head->configuration_index, 1);
	assert_true(head->genesis.command.len > 0);
	assert_int_equal(state_open(e->db, &st, &state), STATUS_OK);
	assert_int_equal(state_applied(state), 0);
	assert_int_equal(snapshot_tables_install(e->db, snapshot_receiver_prefix(e->receiver), &st), STATUS_OK);
	snapshot_receiver_end(e->receiver);
	assert_int_equal(state_reload(state, &st), STATUS_OK);
	assert_int_equal(state_applied(state), 100);
	uint8_t theirs[STATE_DIGEST_SIZE], ours[STATE_DIGEST_SIZE];
	assert_int_equal(state_digest(e->state, &st, theirs), STATUS_OK);
	assert_int_equal(state_digest(state, &st, ours), STATUS_OK);
	assert_memory_equal(ours, theirs, STATE_DIGEST_SIZE);
	while (more)
		assert_int_equal(snapshot_tables_collect(e->db, NULL, &st, &more), STATUS_OK);
	state_close(state);
	sqlite3_stmt *sql = NULL;
	static const char query[] = "SELECT count(*) FROM sqlite_schema WHERE tbl_name GLOB 'staged_*' OR tbl_name GLOB 'retired_*'";
	assert_int_equal(sqlite3_prepare_v2(e->db, query, -1, &sql, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(sql), SQLITE_ROW);
	assert_int_equal(sqlite3_column_int(sql, 0), 0);
	sqlite3_finalize(sql);
}

static void test_snapshot_takes_no_changed_part(void **arg)
{
	struct ends *e = *arg;
	send_all(e);
	for (int i = 0; i < 3; i++)
		assert_int_equal(receive(e, e->sent[i]->snapshot_part), SNAPSHOT_WAITING);
	Kds__V1__SnapshotPart *part = e->sent[3]->snapshot_part;
	part->body.data[part->body.len / 2] ^= 1;
	assert_int_equal(receive(e, part), SNAPSHOT_REFUSED);
	assert_null(snapshot_receiver_prefix(e->receiver));
	part->body.data[part->body.len / 2] ^= 1;
	assert_int_equal(receive(e, part), SNAPSHOT_WAITING); /* it begins with part 0 again */
	assert_int_equal(snapshot_receiver_next(e->receiver), 0);
	/* The hash of a part covers those before it. */
	for (int i = 0; i < 2; i++)
		assert_int_equal(receive(e, e->sent[i]->snapshot_part), SNAPSHOT_WAITING);
	part->number = 2;
	assert_int_equal(receive(e, part), SNAPSHOT_REFUSED);
}

/* Part 0 with another head, its hash right. */
static enum snapshot_step receive_head(struct ends *e, void (*change)(Kds__V1__SnapshotHead *))
{
	uint8_t packed[2048], hash[SNAPSHOT_HASH_SIZE] = { 0 };
	Kds__V1__SnapshotPart part = *e->sent[0]->snapshot_part;
	Kds__V1__SnapshotHead *head = kds__v1__snapshot_head__unpack(NULL, part.body.len, part.body.data);
	assert_non_null(head);
	change(head);
	part.body = (ProtobufCBinaryData){ .data = packed, .len = kds__v1__snapshot_head__pack(head, packed) };
	assert_true(snapshot_chain(hash, (struct slice){ packed, part.body.len }));
	part.hash = (ProtobufCBinaryData){ .data = hash, .len = sizeof hash };
	kds__v1__snapshot_head__free_unpacked(head, NULL);
	enum snapshot_step step = receive(e, &part);
	snapshot_receiver_end(e->receiver);
	return step;
}

static void keep(Kds__V1__SnapshotHead *h)
{
	(void)h;
}

static void other_version(Kds__V1__SnapshotHead *h)
{
	h->version = 2;
}

static void other_level(Kds__V1__SnapshotHead *h)
{
	h->level = 1000;
}

static void no_index(Kds__V1__SnapshotHead *h)
{
	h->index = 0;
}

static void later_members(Kds__V1__SnapshotHead *h)
{
	h->configuration_index = h->index + 1;
}

static void damaged_members(Kds__V1__SnapshotHead *h)
{
	h->configuration.len = 12;
}

static void one_first_entry(Kds__V1__SnapshotHead *h)
{
	free(h->genesis[1].data);
	h->n_genesis = 1;
}

static void test_snapshot_refuses_what_it_does_not_know(void **arg)
{
	struct ends *e = *arg;
	void (*const changes[])(Kds__V1__SnapshotHead *) = {
		other_version, other_level, no_index, later_members, damaged_members, one_first_entry,
	};
	send_all(e);
	assert_int_equal(receive_head(e, keep), SNAPSHOT_WAITING);
	for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
		assert_int_equal(receive_head(e, changes[i]), SNAPSHOT_REFUSED);
}

static void test_snapshot_of_what_is_known_is_not_taken(void **arg)
{
	struct ends *e = *arg;
	enum snapshot_step step = SNAPSHOT_IGNORED;
	struct status st;
	send_all(e);
	assert_int_equal(snapshot_receiver_take(e->receiver, 100, e->sent[0]->snapshot_part, 0, &st, &step), STATUS_OK);
	assert_int_equal(step, SNAPSHOT_KNOWN);
	assert_null(snapshot_receiver_prefix(e->receiver));
}

static void test_snapshot_newer_transfer_replaces_an_older(void **arg)
{
	struct ends *e = *arg;
	send_all(e);
	Kds__V1__SnapshotPart newer = *e->sent[0]->snapshot_part;
	newer.transfer = 2;
	assert_int_equal(receive(e, e->sent[0]->snapshot_part), SNAPSHOT_WAITING);
	assert_int_equal(receive(e, e->sent[1]->snapshot_part), SNAPSHOT_WAITING);
	assert_int_equal(receive(e, &newer), SNAPSHOT_WAITING);
	assert_int_equal(snapshot_receiver_next(e->receiver), 1);
	assert_int_equal(receive(e, e->sent[0]->snapshot_part), SNAPSHOT_IGNORED);
	assert_int_equal(receive(e, e->sent[2]->snapshot_part), SNAPSHOT_IGNORED);
	newer.term = 8;
	newer.transfer = 1;
	assert_int_equal(receive(e, &newer), SNAPSHOT_WAITING);
	newer.hash.len = 31;
	newer.transfer = 2;
	assert_int_equal(receive(e, &newer), SNAPSHOT_IGNORED);
	assert_false(snapshot_receiver_tick(e->receiver, 59 * SECOND));
	assert_true(snapshot_receiver_tick(e->receiver, 61 * SECOND)); /* nothing more comes */
	assert_null(snapshot_receiver_prefix(e->receiver));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_snapshot_sends_few_parts_ahead),
		T(test_snapshot_sends_again_what_was_lost),
		T(test_snapshot_gives_up),
		T(test_snapshot_holds_the_log_until_it_is_needed_no_more),
		T(test_snapshot_arrives_whole),
		T(test_snapshot_takes_no_changed_part),
		T(test_snapshot_refuses_what_it_does_not_know),
		T(test_snapshot_of_what_is_known_is_not_taken),
		T(test_snapshot_newer_transfer_replaces_an_older),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
