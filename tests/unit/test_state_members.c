// links: service_serial
/* The state machine: the replicas as objects. */
#include "tests/support/state_fixture.h"

#include "services/serial/membership.h"

static enum status_code note(struct fixture *r, const Kds__V1__Replica *replicas, size_t n)
{
	Kds__V1__Replica copies[8], *pointers[8];
	Kds__V1__ReplicaList list = KDS__V1__REPLICA_LIST__INIT;
	for (size_t i = 0; i < n; i++) {
		copies[i] = replicas[i];
		pointers[i] = &copies[i];
	}
	list.n_replicas = n;
	list.replicas = pointers;
	Kds__V1__Command c = command("kds-serial");
	c.op_case = KDS__V1__COMMAND__OP_NOTE_REPLICAS;
	c.note_replicas = &list;
	return apply(r, &c);
}

static Kds__V1__Replica replica(uint64_t id, const char *name, uint64_t incarnation)
{
	Kds__V1__Replica r = KDS__V1__REPLICA__INIT;
	r.id = id;
	r.name = (char *)name;
	r.address = "127.0.0.1:7401";
	r.voter = true;
	r.incarnation = incarnation;
	return r;
}

static void begin(struct fixture *r)
{
	fixture_begin(r);
	const Kds__V1__Replica first[] = { replica(1, "a", 11), replica(2, "b", 0), replica(3, "c", 33) };
	assert_int_equal(note(r, first, 3), STATUS_OK);
}

/* The id that it got; 0: refused. */
static uint64_t add(struct fixture *r, const char *name, const char *address, bool standby, bool *ret_voter)
{
	Kds__V1__AddReplicaRequest in = KDS__V1__ADD_REPLICA_REQUEST__INIT;
	in.name = (char *)name;
	in.address = (char *)address;
	in.standby = standby;
	Kds__V1__Command c = command("admin");
	c.op_case = KDS__V1__COMMAND__OP_ADD_REPLICA;
	c.add_replica = &in;
	if (apply(r, &c) != STATUS_OK)
		return 0;
	Kds__V1__Replica *answer = kds__v1__replica__unpack(NULL, r->result.answer.len, r->result.answer.data);
	assert_non_null(answer);
	uint64_t id = answer->id;
	if (ret_voter)
		*ret_voter = answer->voter;
	kds__v1__replica__free_unpacked(answer, NULL);
	return id;
}

static enum status_code change(struct fixture *r, Kds__V1__ChangeReplicaRequest *in)
{
	Kds__V1__Command c = command("admin");
	c.op_case = KDS__V1__COMMAND__OP_CHANGE_REPLICA;
	c.change_replica = in;
	return apply(r, &c);
}

static enum status_code drop(struct fixture *r, const char *name)
{
	Kds__V1__ChangeReplicaRequest in = KDS__V1__CHANGE_REPLICA_REQUEST__INIT;
	in.name = (char *)name;
	in.change_case = KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_REMOVED;
	in.removed = true;
	return change(r, &in);
}

static enum status_code vote(struct fixture *r, const char *name, bool voter)
{
	Kds__V1__ChangeReplicaRequest in = KDS__V1__CHANGE_REPLICA_REQUEST__INIT;
	in.name = (char *)name;
	in.change_case = KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_VOTER;
	in.voter = voter;
	return change(r, &in);
}

static Kds__V1__Replica find(struct fixture *r, const char *name)
{
	Kds__V1__ReplicaList *list = NULL;
	Kds__V1__Replica found = KDS__V1__REPLICA__INIT;
	assert_int_equal(state_replicas(r->state, &r->st, &list), STATUS_OK);
	for (size_t i = 0; i < list->n_replicas; i++)
		if (strcmp(list->replicas[i]->name, name) == 0)
			found = *list->replicas[i];
	found.name = found.address = found.rpc_address = NULL;
	kds__v1__replica_list__free_unpacked(list, NULL);
	return found;
}

static void test_state_members_ids_never_come_back(void **arg)
{
	(void)arg;
	struct fixture r;
	fixture_begin(&r);
	assert_int_equal(add(&r, "d", "h:1", false, NULL), 0); /* who began is not entered yet */
	fixture_close(&r);
	begin(&r);
	assert_int_equal(add(&r, "d", "h:1", false, NULL), 4);
	assert_int_equal(drop(&r, "d"), STATUS_OK);
	assert_int_equal(drop(&r, "d"), STATUS_NOT_FOUND);
	assert_int_equal(add(&r, "e", "h:1", false, NULL), 5); /* the address is free again */
	assert_int_equal(drop(&r, "e"), STATUS_OK);
	assert_int_equal(add(&r, "e", "h:2", false, NULL), 6);
	fixture_reopen(&r);
	assert_int_equal(drop(&r, "e"), STATUS_OK);
	assert_int_equal(add(&r, "e", "h:2", false, NULL), 7);
	uint64_t revision = state_replicas_revision(r.state);
	assert_true(revision > 0);
	fixture_reopen(&r);
	assert_int_equal(state_replicas_revision(r.state), revision);
	assert_int_equal(put_setting(&r, "site.a", "1"), STATUS_OK);
	assert_int_equal(state_replicas_revision(r.state), revision);
	fixture_close(&r);
}

static void test_state_members_are_told_apart(void **arg)
{
	(void)arg;
	struct fixture r;
	begin(&r);
	assert_int_equal(add(&r, "a", "h:1", false, NULL), 0);
	assert_int_equal(r.result.status.code, STATUS_ALREADY_EXISTS);
	assert_int_equal(add(&r, "d", "h:1", false, NULL), 4);
	assert_int_equal(add(&r, "e", "h:1", false, NULL), 0);
	assert_int_equal(r.result.status.code, STATUS_ALREADY_EXISTS);
	assert_int_equal(add(&r, "f", "nowhere", false, NULL), 0);
	assert_int_equal(r.result.status.code, STATUS_INVALID_ARGUMENT);
	assert_int_equal(add(&r, "no name", "h:2", false, NULL), 0);
	assert_int_equal(r.result.status.code, STATUS_INVALID_ARGUMENT);
	fixture_close(&r);
}

static void test_state_members_seven_vote_and_one_stays(void **arg)
{
	(void)arg;
	struct fixture r;
	begin(&r);
	bool voter = false;
	assert_int_equal(add(&r, "s", "h:1", true, &voter), 4);
	assert_false(voter);
	static const char *const names[] = { "d", "e", "f", "g" };
	for (size_t i = 0; i < 4; i++) {
		char address[16];
		snprintf(address, sizeof address, "h:%zu", i + 2);
		assert_true(add(&r, names[i], address, false, &voter) != 0);
		assert_true(voter);
	}
	assert_true(add(&r, "h", "h:9", false, &voter) != 0);
	assert_false(voter);
	assert_int_equal(vote(&r, "h", true), STATUS_FAILED_PRECONDITION);
	assert_int_equal(vote(&r, "g", false), STATUS_OK);
	assert_int_equal(vote(&r, "h", true), STATUS_OK);
	static const char *const all[] = { "a", "b", "c", "d", "e", "f" };
	for (size_t i = 0; i < 6; i++)
		assert_int_equal(drop(&r, all[i]), STATUS_OK);
	assert_int_equal(drop(&r, "h"), STATUS_FAILED_PRECONDITION);
	assert_int_equal(vote(&r, "h", false), STATUS_FAILED_PRECONDITION);
	assert_int_equal(vote(&r, "h", true), STATUS_OK); /* as it is */
	fixture_close(&r);
}

static void test_state_members_a_directory_is_on_record_for_good(void **arg)
{
	(void)arg;
	struct fixture r;
	begin(&r);
	assert_true(find(&r, "b").incarnation == 0);
	const Kds__V1__Replica known = replica(2, "b", 22), other = replica(2, "b", 23), stale = replica(9, "b", 24);
	assert_int_equal(note(&r, &stale, 1), STATUS_OK); /* of another id: passed over */
	assert_true(find(&r, "b").incarnation == 0);
	assert_int_equal(note(&r, &known, 1), STATUS_OK);
	assert_true(find(&r, "b").incarnation == 22);
	assert_int_equal(note(&r, &other, 1), STATUS_OK);
	assert_true(find(&r, "b").incarnation == 22);
	assert_true(find(&r, "a").incarnation == 11);
	fixture_close(&r);
}

static void test_state_members_a_vote_goes_from_one_to_another(void **arg)
{
	(void)arg;
	struct fixture r;
	begin(&r);
	Kds__V1__ChangeReplicaRequest in = KDS__V1__CHANGE_REPLICA_REQUEST__INIT;
	in.name = "c";
	in.change_case = KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_REPLACED_BY;
	in.replaced_by = "s";
	assert_int_equal(change(&r, &in), STATUS_FAILED_PRECONDITION);
	assert_int_equal(add(&r, "s", "h:1", true, NULL), 4);
	assert_int_equal(change(&r, &in), STATUS_OK);
	assert_true(find(&r, "s").voter);
	assert_false(find(&r, "c").voter);
	assert_int_equal(change(&r, &in), STATUS_FAILED_PRECONDITION);
	assert_true(find(&r, "s").voter);
	fixture_close(&r);
}

static void test_state_members_are_nobody_elses_to_write(void **arg)
{
	(void)arg;
	struct fixture r;
	begin(&r);
	Kds__V1__Replica mine = replica(1, "a", 99);
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_REPLICA;
	o.replica = &mine;
	assert_int_equal(put_checked(&r, &o, false, 0), STATUS_INVALID_ARGUMENT);
	assert_int_equal(delete_checked(&r, "replica/a", false, 0), STATUS_INVALID_ARGUMENT);
	assert_true(find(&r, "a").incarnation == 11);
	fixture_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_members_ids_never_come_back),
		cmocka_unit_test(test_state_members_are_told_apart),
		cmocka_unit_test(test_state_members_seven_vote_and_one_stays),
		cmocka_unit_test(test_state_members_a_directory_is_on_record_for_good),
		cmocka_unit_test(test_state_members_a_vote_goes_from_one_to_another),
		cmocka_unit_test(test_state_members_are_nobody_elses_to_write),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
