#include "tests/fault/simulation/client_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Requests */

/* Mostly a compare and set, of what was seen last. */
static void compare(struct sim *s, struct op *op)
{
	op->check = sim_chance(s, 80);
	op->expected = op->begun.deleted[op->key] ? 0 : op->begun.keys[op->key];
}

void op_make_put(struct sim *s, struct op *op)
{
	char name[16], value[32];
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	Kds__V1__PutRequest request = KDS__V1__PUT_REQUEST__INIT;
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	op->kind = OP_PUT;
	op->key = (unsigned)sim_dice(s, KEYS);
	compare(s, op);
	snprintf(name, sizeof name, "s%u", op->key);
	snprintf(value, sizeof value, "%" PRIu64, op->number);
	setting.name = name;
	setting.value = value;
	object.value_case = KDS__V1__OBJECT__VALUE_SETTING;
	object.setting = &setting;
	request.object = &object;
	request.check_revision = op->check && s->mutant != MUTANT_NO_COMPARE;
	request.expected_revision = op->check ? op->expected : 0;
	command.op_case = KDS__V1__COMMAND__OP_PUT;
	command.put = &request;
	op_pack(s, op, &command);
}

void op_make_delete(struct sim *s, struct op *op)
{
	char key[32];
	Kds__V1__DeleteRequest request = KDS__V1__DELETE_REQUEST__INIT;
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	op->kind = OP_DELETE;
	op->key = (unsigned)sim_dice(s, KEYS);
	compare(s, op);
	snprintf(key, sizeof key, "setting/s%u", op->key);
	request.key = key;
	request.check_revision = op->check && s->mutant != MUTANT_NO_COMPARE;
	request.expected_revision = op->check ? op->expected : 0;
	command.op_case = KDS__V1__COMMAND__OP_DELETE;
	command.delete_ = &request;
	op_pack(s, op, &command);
}

/* Answers */

/* Two that were done, in any order. */
static void check_changes(struct sim *s, const struct op *op, const struct change *a, const struct change *b)
{
	if (a->revision == b->revision)
		sim_fail(s, "request %" PRIu64 ": revision %" PRIu64 " was given twice", op->number, a->revision);
	if (a->key != b->key)
		return;
	/* Between the revision that was compared and the one that was set there is no other. */
	const struct change *first = a->revision < b->revision ? a : b, *second = first == a ? b : a;
	if (second->expected != UINT64_MAX && second->expected != 0 && second->expected < first->revision)
		sim_fail(s, "request %" PRIu64 ": revision %" PRIu64 " of s%u was overlooked", op->number,
			 first->revision, op->key);
}

static void see(struct known *k, unsigned key, uint64_t revision, bool deleted)
{
	if (revision > k->seen.keys[key])
		k->seen.deleted[key] = deleted;
	op_raise(&k->seen.keys[key], revision);
}

static void take_change(struct sim *s, struct known *k, struct op *op, uint64_t revision)
{
	op_check_number(s, op, "the revision", revision, op->begun.revision + 1);
	if (op->check && op->expected != 0)
		op_check_number(s, op, "the object's revision", op->expected, op->begun.keys[op->key]);
	const struct change change = {
		.key = op->key,
		.deleted = op->kind == OP_DELETE,
		.expected = op->check ? op->expected : UINT64_MAX,
		.revision = revision,
	};
	for (size_t i = 0; i < k->n_changes; i++)
		check_changes(s, op, &k->changes[i], &change);
	k->changes = sim_grow(k->changes, k->n_changes, &k->cap_changes, sizeof *k->changes);
	k->changes[k->n_changes++] = change;
	op_raise(&k->seen.revision, revision);
	see(k, op->key, revision, change.deleted);
}

void op_take_put(struct sim *s, struct known *k, struct op *op, struct slice answer)
{
	Kds__V1__Object *o = kds__v1__object__unpack(NULL, answer.len, answer.data);
	char value[32];
	snprintf(value, sizeof value, "%" PRIu64, op->number);
	if (!o || o->value_case != KDS__V1__OBJECT__VALUE_SETTING || strcmp(o->setting->value, value) != 0)
		sim_fail(s, "request %" PRIu64 ": another object was put", op->number);
	take_change(s, k, op, o->revision);
	kds__v1__object__free_unpacked(o, NULL);
}

void op_take_delete(struct sim *s, struct known *k, struct op *op, struct slice answer)
{
	Kds__V1__Object *o = kds__v1__object__unpack(NULL, answer.len, answer.data);
	if (!o || !o->deleted)
		sim_fail(s, "request %" PRIu64 ": the object was not deleted", op->number);
	take_change(s, k, op, o->revision);
	kds__v1__object__free_unpacked(o, NULL);
}

/* Reads */

/* The caller frees it. */
static Kds__V1__HistoryResponse *read_history(struct sim *s, unsigned key, uint32_t limit, uint64_t before,
					      struct state *state)
{
	char name[32];
	struct buffer out = { 0 };
	struct status st;
	snprintf(name, sizeof name, "setting/s%u", key);
	Kds__V1__HistoryRequest in = KDS__V1__HISTORY_REQUEST__INIT;
	in.key = name;
	in.limit = limit;
	in.before_revision = before;
	if (state_history(state, &in, &st, &out) != STATUS_OK)
		sim_fail(s, "history of %s: %s", name, st.message);
	Kds__V1__HistoryResponse *r = kds__v1__history_response__unpack(NULL, out.len, out.data);
	if (!r)
		sim_fail(s, "history of %s: it does not unpack", name);
	buffer_free(&out);
	return r;
}

/* Revision 0: it is not there. */
static uint64_t read_object(struct sim *s, unsigned key, struct state *state)
{
	char name[32];
	struct buffer out = { 0 };
	struct status st;
	snprintf(name, sizeof name, "setting/s%u", key);
	enum status_code rc = state_get(state, name, 0, &st, &out);
	if (rc == STATUS_NOT_FOUND)
		return 0;
	Kds__V1__Object *o = rc == STATUS_OK ? kds__v1__object__unpack(NULL, out.len, out.data) : NULL;
	if (!o)
		sim_fail(s, "read %s: %s", name, st.message);
	uint64_t revision = o->revision;
	kds__v1__object__free_unpacked(o, NULL);
	buffer_free(&out);
	return revision;
}

void op_check_object(struct sim *s, struct known *k, const struct op *op, struct state *state)
{
	Kds__V1__HistoryResponse *r = read_history(s, op->key, 1, 0, state);
	uint64_t found = read_object(s, op->key, state);
	uint64_t revision = r->n_entries > 0 ? r->entries[0]->object->revision : 0;
	bool deleted = r->n_entries > 0 && r->entries[0]->object->deleted;
	if (found != (deleted ? 0 : revision))
		sim_fail(s, "request %" PRIu64 ": s%u is at revision %" PRIu64 ", but its history at %" PRIu64, op->number,
			 op->key, found, revision);
	op_check_number(s, op, "the object's revision", revision, op->begun.keys[op->key]);
	see(k, op->key, revision, deleted);
	kds__v1__history_response__free_unpacked(r, NULL);
}

/* The end */

static int newest_first(const void *a, const void *b)
{
	uint64_t x = ((const struct change *)a)->revision, y = ((const struct change *)b)->revision;
	return (x < y) - (x > y);
}

/* `before`: the change of the same key before it; NULL: it is the first. */
static void check_one(struct sim *s, const struct change *c, const struct change *before,
		      const Kds__V1__HistoryEntry *entry)
{
	uint64_t there = before && !before->deleted ? before->revision : 0;
	if (entry->object->revision != c->revision || entry->object->deleted != c->deleted ||
	    entry->previous_revision != there)
		sim_fail(s,
			 "the history of s%u has revision %" PRIu64 " behind %" PRIu64 ", but clients were told of %" PRIu64
			 " behind %" PRIu64,
			 c->key, entry->object->revision, entry->previous_revision, c->revision, there);
	if ((c->expected != UINT64_MAX && c->expected != there) || (c->deleted && there == 0))
		sim_fail(s, "revision %" PRIu64 " of s%u was set upon %" PRIu64 ", not %" PRIu64, c->revision, c->key,
			 there, c->expected);
}

void op_check_history(struct sim *s, const struct known *k, unsigned key, struct state *state)
{
	struct change *changes = sim_alloc((k->n_changes + 1) * sizeof *changes);
	size_t n = 0, at = 0;
	for (size_t i = 0; i < k->n_changes; i++)
		if (k->changes[i].key == key)
			changes[n++] = k->changes[i];
	qsort(changes, n, sizeof *changes, newest_first);
	uint64_t before = 0;
	bool more = true;
	while (more) {
		Kds__V1__HistoryResponse *r = read_history(s, key, 0, before, state);
		if (r->n_entries > n - at)
			sim_fail(s, "the history of s%u has more changes than clients were told of", key);
		for (size_t i = 0; i < r->n_entries; i++, at++)
			check_one(s, &changes[at], at + 1 < n ? &changes[at + 1] : NULL, r->entries[i]);
		before = r->before_revision;
		more = r->more;
		kds__v1__history_response__free_unpacked(r, NULL);
	}
	if (at != n)
		sim_fail(s, "the history of s%u has %zu changes, clients were told of %zu", key, at, n);
	free(changes);
}
