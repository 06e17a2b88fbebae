/*
 * The replicas as objects: what the administrator wants the membership to be (membership.h makes the log follow), and
 * which data directory belongs to which id.
 *
 * An object stays when its replica was removed, and a name that comes back gets a higher id, so the highest id there
 * ever was is always among the objects: the next one was never used.
 */
#include "services/serial/state_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "services/serial/membership.h"

static const char prefix[] = "replica/";

static enum status_code no_memory(struct status *st)
{
	return status_set(st, STATUS_INTERNAL, "state: out of memory for the replicas");
}

/* Moves the value out of a packed Object into the list. */
static bool take(Kds__V1__ReplicaList *list, struct slice value)
{
	Kds__V1__Object *o = kds__v1__object__unpack(NULL, value.len, value.data);
	bool ok = o && o->value_case == KDS__V1__OBJECT__VALUE_REPLICA;
	Kds__V1__Replica **all = ok ? realloc(list->replicas, (list->n_replicas + 1) * sizeof *all) : NULL;
	if (all) {
		list->replicas = all;
		list->replicas[list->n_replicas++] = o->replica;
		o->replica = NULL;
		o->value_case = KDS__V1__OBJECT__VALUE__NOT_SET;
	}
	kds__v1__object__free_unpacked(o, NULL);
	return all != NULL;
}

enum status_code state_replicas(struct state *s, struct status *st, Kds__V1__ReplicaList **ret_list)
{
	Kds__V1__ReplicaList *list = malloc(sizeof *list);
	if (!list)
		return no_memory(st);
	kds__v1__replica_list__init(list);
	sqlite3_stmt *sql = s->sql[SQL_OBJECTS_LIST];
	state_bind_text(sql, 1, prefix);
	state_bind_text(sql, 2, "");
	enum status_code rc = STATUS_OK;
	int rv = SQLITE_DONE;
	while (rc == STATUS_OK && (rv = sqlite3_step(sql)) == SQLITE_ROW) {
		if (strncmp((const char *)sqlite3_column_text(sql, 0), prefix, sizeof prefix - 1) != 0) {
			rv = SQLITE_DONE;
			break;
		}
		if (!take(list, state_column(sql, 1)))
			rc = no_memory(st);
	}
	if (rc == STATUS_OK && rv != SQLITE_DONE)
		rc = state_sql_failed(s, st, "read the replicas");
	sqlite3_reset(sql);
	if (rc == STATUS_OK)
		*ret_list = list;
	else
		kds__v1__replica_list__free_unpacked(list, NULL);
	return rc;
}

uint64_t state_replicas_revision(const struct state *s)
{
	return s->replicas_revision;
}

enum status_code state_members_load(struct state *s, struct status *st)
{
	sqlite3_stmt *sql = NULL;
	s->replicas_revision = 0;
	if (sqlite3_prepare_v2(s->db, "SELECT max(revision) FROM objects WHERE key >= 'replica/' AND key < 'replica0'", -1,
			       &sql, NULL) != SQLITE_OK ||
	    sqlite3_step(sql) != SQLITE_ROW) {
		sqlite3_finalize(sql);
		return state_sql_failed(s, st, "read the replicas");
	}
	s->replicas_revision = (uint64_t)sqlite3_column_int64(sql, 0);
	sqlite3_finalize(sql);
	return STATUS_OK;
}

static Kds__V1__Replica *find_name(const Kds__V1__ReplicaList *list, const char *name)
{
	for (size_t i = 0; i < list->n_replicas; i++)
		if (!list->replicas[i]->removed && strcmp(list->replicas[i]->name, name) == 0)
			return list->replicas[i];
	return NULL;
}

static uint64_t highest_id(const Kds__V1__ReplicaList *list)
{
	uint64_t id = 0;
	for (size_t i = 0; i < list->n_replicas; i++)
		if (list->replicas[i]->id > id)
			id = list->replicas[i]->id;
	return id;
}

static unsigned count(const Kds__V1__ReplicaList *list, bool voters)
{
	unsigned n = 0;
	for (size_t i = 0; i < list->n_replicas; i++)
		n += !list->replicas[i]->removed && (list->replicas[i]->voter || !voters);
	return n;
}

static enum status_code write_replica(struct state *s, Kds__V1__Replica *r, struct status *st)
{
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_REPLICA;
	o.replica = r;
	char key[OBJECT_KEY_MAX];
	state_object_key(&o, key);
	enum status_code rc = state_write_object(s, key, &o, st);
	if (rc == STATUS_OK)
		s->replicas_revision = o.revision;
	return rc;
}

static enum status_code write_and_answer(struct state *s, Kds__V1__Replica *r, struct status *st,
					 struct state_result *result)
{
	enum status_code rc = write_replica(s, r, st);
	return rc == STATUS_OK ? state_answer(result, &r->base, st) : rc;
}

static enum status_code add(struct state *s, const Kds__V1__ReplicaList *list, const Kds__V1__AddReplicaRequest *in,
			    struct status *st, struct state_result *r)
{
	if (list->n_replicas == 0)
		return state_refuse(r, STATUS_FAILED_PRECONDITION, NULL,
				    "the first replicas are not entered yet; try again in a moment");
	if (find_name(list, in->name))
		return state_refuse(r, STATUS_ALREADY_EXISTS, NULL,
				    "%s is a replica already; give the new one another name, or remove that one first",
				    in->name);
	for (size_t i = 0; i < list->n_replicas; i++)
		if (!list->replicas[i]->removed && strcmp(list->replicas[i]->address, in->address) == 0)
			return state_refuse(r, STATUS_ALREADY_EXISTS, NULL, "replica %s has the address %s already",
					    list->replicas[i]->name, in->address);
	if (count(list, false) >= MEMBERSHIP_MAX)
		return state_refuse(r, STATUS_FAILED_PRECONDITION, NULL,
				    "there are %d replicas already, standbys among them; remove one first", MEMBERSHIP_MAX);
	Kds__V1__Replica replica = KDS__V1__REPLICA__INIT;
	replica.id = highest_id(list) + 1;
	replica.name = in->name;
	replica.address = in->address;
	replica.rpc_address = in->rpc_address;
	replica.voter = !in->standby && count(list, true) < MEMBERSHIP_VOTERS_MAX;
	return write_and_answer(s, &replica, st, r);
}

static enum status_code change(struct state *s, const Kds__V1__ReplicaList *list, const Kds__V1__ChangeReplicaRequest *in,
			       struct status *st, struct state_result *r)
{
	Kds__V1__Replica *replica = find_name(list, in->name);
	bool promotes = in->change_case == KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_VOTER && in->voter;
	if (!replica)
		return state_refuse(r, STATUS_NOT_FOUND, NULL, "there is no replica %s", in->name);
	if (promotes && !replica->voter && count(list, true) >= MEMBERSHIP_VOTERS_MAX)
		return state_refuse(r, STATUS_FAILED_PRECONDITION, NULL,
				    "%d replicas vote already, which is the most; demote or remove one first",
				    MEMBERSHIP_VOTERS_MAX);
	bool leaves = !promotes && in->change_case != KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_REPLACED_BY;
	if (leaves && replica->voter && count(list, true) == 1)
		return state_refuse(r, STATUS_FAILED_PRECONDITION, NULL,
				    "%s is the last replica that votes: add another one first", in->name);
	if (in->change_case == KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_REPLACED_BY) {
		Kds__V1__Replica *heir = find_name(list, in->replaced_by);
		if (!heir || heir->voter || !replica->voter)
			return state_refuse(r, STATUS_FAILED_PRECONDITION, NULL, "%s cannot replace %s any more",
					    in->replaced_by, in->name);
		heir->voter = true;
		enum status_code rc = write_replica(s, heir, st);
		if (rc != STATUS_OK)
			return rc;
	}
	replica->voter = promotes;
	replica->removed = in->change_case == KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_REMOVED;
	return write_and_answer(s, replica, st, r);
}

/* The first replicas, whole, or what became known of later ones. */
static enum status_code note(struct state *s, const Kds__V1__ReplicaList *list, const Kds__V1__ReplicaList *in,
			     struct status *st, struct state_result *r)
{
	enum status_code rc = STATUS_OK;
	for (size_t i = 0; rc == STATUS_OK && i < in->n_replicas; i++) {
		Kds__V1__Replica *noted = in->replicas[i];
		if (list->n_replicas == 0) {
			rc = write_replica(s, noted, st);
			continue;
		}
		Kds__V1__Replica *known = find_name(list, noted->name);
		/* Another leader was first, or it was removed meanwhile. */
		if (!known || known->id != noted->id || known->incarnation != 0 || noted->incarnation == 0)
			continue;
		known->incarnation = noted->incarnation;
		rc = write_replica(s, known, st);
	}
	return rc == STATUS_OK ? state_answer(r, &in->base, st) : rc;
}

enum status_code state_change_members(struct state *s, const Kds__V1__Command *c, struct status *st,
				      struct state_result *r)
{
	Kds__V1__ReplicaList *list = NULL;
	enum status_code rc = state_replicas(s, st, &list);
	if (rc != STATUS_OK)
		return rc;
	if (c->op_case == KDS__V1__COMMAND__OP_ADD_REPLICA)
		rc = add(s, list, c->add_replica, st, r);
	else if (c->op_case == KDS__V1__COMMAND__OP_CHANGE_REPLICA)
		rc = change(s, list, c->change_replica, st, r);
	else
		rc = note(s, list, c->note_replicas, st, r);
	kds__v1__replica_list__free_unpacked(list, NULL);
	return rc;
}
