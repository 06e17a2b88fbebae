// links: service_serial common_rpc common_base kds_proto
#include "tests/support/support.h"

#include <stdlib.h>
#include <string.h>

#include "common/rpc/message.h"
#include "services/serial/codec.h"

#define FROM 2

struct fixture {
	struct codec *codec;
	struct buffer packed;
	struct arena *arena;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	assert_non_null(f);
	f->codec = codec_new();
	assert_non_null(f->codec);
	f->arena = arena_new(1 << 20);
	assert_non_null(f->arena);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	codec_free(f->codec);
	buffer_free(&f->packed);
	arena_free(f->arena);
	free(f);
	return 0;
}

static struct raft_message unpack_ok(struct fixture *f)
{
	const ProtobufCMessage *m;
	struct raft_message out;
	struct status st;
	if (message_unpack(&kds__v1__peer_message__descriptor, (struct slice){ f->packed.data, f->packed.len }, f->arena,
			   &st, NULL, 0, &m) != STATUS_OK ||
	    codec_unpack(f->codec, (const Kds__V1__PeerMessage *)m, FROM, &st, &out) != STATUS_OK)
		fail_msg("%s", st.message);
	assert_int_equal(out.server_id, FROM);
	assert_non_null(out.server_address);
	f->packed.len = 0;
	return out;
}

static void refused(struct fixture *f, const Kds__V1__PeerMessage *m)
{
	struct raft_message out;
	struct status st;
	assert_int_equal(codec_unpack(f->codec, m, FROM, &st, &out), STATUS_INVALID_ARGUMENT);
}

static void accepted(struct fixture *f, const Kds__V1__PeerMessage *m)
{
	struct raft_message out;
	struct status st;
	if (codec_unpack(f->codec, m, FROM, &st, &out) != STATUS_OK)
		fail_msg("%s", st.message);
}

static void test_codec_votes_come_back_as_they_went(void **state)
{
	struct fixture *f = *state;
	struct raft_message m = {
		.type = RAFT_REQUEST_VOTE,
		.request_vote = { .term = 7, .candidate_id = FROM, .last_log_index = 99, .last_log_term = 6,
				  .disrupt_leader = true, .pre_vote = true },
	};
	assert_true(codec_pack(&m, &f->packed));
	struct raft_message out = unpack_ok(f);
	assert_int_equal(out.type, RAFT_REQUEST_VOTE);
	assert_int_equal(out.request_vote.version, 2);
	assert_int_equal(out.request_vote.term, 7);
	assert_int_equal(out.request_vote.candidate_id, FROM);
	assert_int_equal(out.request_vote.last_log_index, 99);
	assert_int_equal(out.request_vote.last_log_term, 6);
	assert_true(out.request_vote.disrupt_leader);
	assert_true(out.request_vote.pre_vote);

	m = (struct raft_message){
		.type = RAFT_REQUEST_VOTE_RESULT,
		.request_vote_result = { .term = 7, .vote_granted = true, .pre_vote = true, .features = 1, .capacity = 2 },
	};
	assert_true(codec_pack(&m, &f->packed));
	out = unpack_ok(f);
	assert_int_equal(out.type, RAFT_REQUEST_VOTE_RESULT);
	assert_int_equal(out.request_vote_result.version, 2); /* libraft looks at pre_vote from 2 on alone */
	assert_int_equal(out.request_vote_result.term, 7);
	assert_true(out.request_vote_result.vote_granted);
	assert_true(out.request_vote_result.pre_vote);
	assert_int_equal(out.request_vote_result.features, 1);
	assert_int_equal(out.request_vote_result.capacity, 2);
}

static void test_codec_results_and_timeout_now_come_back(void **state)
{
	struct fixture *f = *state;
	struct raft_message m = {
		.type = RAFT_APPEND_ENTRIES_RESULT,
		.append_entries_result = { .term = 3, .rejected = 12, .last_log_index = 11, .features = 1, .capacity = 9 },
	};
	assert_true(codec_pack(&m, &f->packed));
	struct raft_message out = unpack_ok(f);
	assert_int_equal(out.type, RAFT_APPEND_ENTRIES_RESULT);
	assert_int_equal(out.append_entries_result.term, 3);
	assert_int_equal(out.append_entries_result.rejected, 12);
	assert_int_equal(out.append_entries_result.last_log_index, 11);
	assert_int_equal(out.append_entries_result.features, 1);
	assert_int_equal(out.append_entries_result.capacity, 9);

	m = (struct raft_message){
		.type = RAFT_TIMEOUT_NOW,
		.timeout_now = { .term = 4, .last_log_index = 20, .last_log_term = 3 },
	};
	assert_true(codec_pack(&m, &f->packed));
	out = unpack_ok(f);
	assert_int_equal(out.type, RAFT_TIMEOUT_NOW);
	assert_int_equal(out.timeout_now.term, 4);
	assert_int_equal(out.timeout_now.last_log_index, 20);
	assert_int_equal(out.timeout_now.last_log_term, 3);
}

static void test_codec_entries_come_back(void **state)
{
	struct fixture *f = *state;
	const struct raft_append_entries a = {
		.term = 9, .prev_log_index = 41, .prev_log_term = 8, .leader_commit = 40
	};
	const struct cached_entry entries[] = {
		{ .term = 8, .type = RAFT_COMMAND, .data = { "abc", 3 } },
		{ .term = 9, .type = RAFT_BARRIER, .data = { "", 0 } },
		{ .term = 9, .type = RAFT_COMMAND, .data = { "\0z", 2 } },
	};
	assert_true(codec_pack_append(f->codec, &a, entries, 3, &f->packed));
	struct raft_message out = unpack_ok(f);
	assert_int_equal(out.type, RAFT_APPEND_ENTRIES);
	assert_int_equal(out.append_entries.term, 9);
	assert_int_equal(out.append_entries.prev_log_index, 41);
	assert_int_equal(out.append_entries.prev_log_term, 8);
	assert_int_equal(out.append_entries.leader_commit, 40);
	assert_int_equal(out.append_entries.n_entries, 3);
	for (unsigned i = 0; i < 3; i++) {
		const struct raft_entry *e = &out.append_entries.entries[i];
		assert_int_equal(e->term, entries[i].term);
		assert_int_equal(e->type, entries[i].type);
		assert_int_equal(e->buf.len, entries[i].data.len);
		if (e->buf.len > 0)
			assert_memory_equal(e->buf.base, entries[i].data.data, e->buf.len);
		assert_null(e->batch); /* so libraft frees nothing of ours */
	}
	assert_true(codec_pack_append(f->codec, &a, NULL, 0, &f->packed));
	out = unpack_ok(f);
	assert_int_equal(out.append_entries.n_entries, 0);
}

static void test_codec_never_packs_a_snapshot(void **state)
{
	struct fixture *f = *state;
	const struct raft_message m = { .type = RAFT_INSTALL_SNAPSHOT };
	assert_false(codec_pack(&m, &f->packed));
}

static void test_codec_refuses_impossible_entries(void **state)
{
	struct fixture *f = *state;
	Kds__V1__LogEntry one = KDS__V1__LOG_ENTRY__INIT, two = KDS__V1__LOG_ENTRY__INIT;
	one.term = two.term = 5;
	one.type = two.type = RAFT_COMMAND;
	Kds__V1__LogEntry *entries[] = { &one, &two };
	Kds__V1__AppendEntries a = KDS__V1__APPEND_ENTRIES__INIT;
	a.term = 5;
	a.prev_log_index = 10;
	a.prev_log_term = 4;
	a.n_entries = 2;
	a.entries = entries;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES;
	m.append_entries = &a;
	accepted(f, &m);
	one.term = 0;
	refused(f, &m);
	one.term = 3; /* before the previous one's */
	refused(f, &m);
	one.term = 6; /* of a leader yet to come */
	refused(f, &m);
	one.term = 5;
	two.type = 4;
	refused(f, &m);
	two.type = 0;
	refused(f, &m);
	two.type = RAFT_COMMAND;
	a.prev_log_term = 0; /* entry 10 has a term */
	refused(f, &m);
	a.prev_log_index = 0;
	accepted(f, &m);
	a.prev_log_index = UINT64_MAX;
	a.prev_log_term = 4;
	refused(f, &m);
	a.prev_log_index = 10;
	a.term = 0;
	refused(f, &m);
}

static void test_codec_refuses_a_vote_for_another(void **state)
{
	struct fixture *f = *state;
	Kds__V1__RequestVote v = KDS__V1__REQUEST_VOTE__INIT;
	v.term = 5;
	v.candidate_id = FROM;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_REQUEST_VOTE;
	m.request_vote = &v;
	accepted(f, &m);
	v.candidate_id = FROM + 1;
	refused(f, &m);
	v.candidate_id = FROM;
	v.term = 0;
	refused(f, &m);
}

static void test_codec_refuses_what_is_not_rafts(void **state)
{
	struct fixture *f = *state;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	refused(f, &m);
	Kds__V1__ReplicaStatus status = KDS__V1__REPLICA_STATUS__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_STATUS;
	m.status = &status;
	refused(f, &m);
	Kds__V1__AppendEntriesResult r = KDS__V1__APPEND_ENTRIES_RESULT__INIT;
	r.term = 1;
	r.features = 1 << 16; /* more than libraft's field holds */
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES_RESULT;
	m.append_entries_result = &r;
	refused(f, &m);
	r.features = 1;
	accepted(f, &m);
}

static struct raft_buffer encode(void)
{
	struct raft_configuration c;
	struct raft_buffer b;
	raft_configuration_init(&c);
	assert_int_equal(raft_configuration_add(&c, 1, "serial1", RAFT_VOTER), 0);
	assert_int_equal(raft_configuration_add(&c, 2, "serial2", RAFT_STANDBY), 0);
	assert_int_equal(raft_configuration_encode(&c, &b), 0);
	raft_configuration_close(&c);
	return b;
}

static void test_codec_membership_must_be_first_and_whole(void **state)
{
	struct fixture *f = *state;
	struct raft_buffer b = encode();
	Kds__V1__LogEntry change = KDS__V1__LOG_ENTRY__INIT, command = KDS__V1__LOG_ENTRY__INIT;
	change.term = command.term = 5;
	change.type = RAFT_CHANGE;
	change.data.data = b.base;
	change.data.len = b.len;
	command.type = RAFT_COMMAND;
	Kds__V1__LogEntry *first[] = { &change, &command }, *second[] = { &command, &change };
	Kds__V1__AppendEntries a = KDS__V1__APPEND_ENTRIES__INIT;
	a.term = a.prev_log_term = 5;
	a.prev_log_index = 10;
	a.n_entries = 2;
	a.entries = first;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_APPEND_ENTRIES;
	m.append_entries = &a;
	accepted(f, &m);
	a.entries = second;
	refused(f, &m);
	a.entries = first;
	change.data.len = 12;
	refused(f, &m);
	raft_free(b.base);
}

/* Under ASan: each shortened or changed copy stands in memory of its own size. */
static void test_codec_configuration_is_read_within_its_bounds(void **state)
{
	(void)state;
	struct raft_buffer b = encode();
	assert_true(codec_configuration_valid((struct slice){ b.base, b.len }));
	for (size_t len = 0; len < b.len; len++) {
		uint8_t *copy = malloc(len ? len : 1);
		assert_non_null(copy);
		memcpy(copy, b.base, len);
		/* Some bytes at the end only pad. */
		if (codec_configuration_valid((struct slice){ copy, len }))
			assert_true(len + 8 > b.len);
		free(copy);
	}
	for (size_t i = 0; i < b.len; i++) {
		uint8_t *copy = malloc(b.len);
		assert_non_null(copy);
		for (unsigned value = 0; value < 256; value += 5) {
			memcpy(copy, b.base, b.len);
			copy[i] = (uint8_t)value;
			if (codec_configuration_valid((struct slice){ copy, b.len }))
				continue;
		}
		free(copy);
	}
	uint8_t twice[64];
	memcpy(twice, b.base, b.len);
	twice[9 + 8 + 8 + 1] = 1; /* the second server's id is the first's */
	assert_false(codec_configuration_valid((struct slice){ twice, b.len }));
	raft_free(b.base);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_codec_votes_come_back_as_they_went),
		T(test_codec_results_and_timeout_now_come_back),
		T(test_codec_entries_come_back),
		T(test_codec_never_packs_a_snapshot),
		T(test_codec_refuses_impossible_entries),
		T(test_codec_refuses_a_vote_for_another),
		T(test_codec_refuses_what_is_not_rafts),
		T(test_codec_membership_must_be_first_and_whole),
		T(test_codec_configuration_is_read_within_its_bounds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
