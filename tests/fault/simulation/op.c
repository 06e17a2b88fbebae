#include "tests/fault/simulation/client_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/message.h"
#include "services/serial/level.h"

#define FINGERPRINT_BYTES 32
#define DAY_S (24 * 3600)
#define BATCH 100 /* entries of the log read at once */

static const char *const requesters[] = { "ca1", "ca2", "ca3", "ca1", "ca2", "admin" };

/* Requests */

void op_pack(struct sim *s, struct op *op, Kds__V1__Command *command)
{
	struct status st;
	uint8_t id[8];
	for (int i = 0; i < 8; i++)
		id[i] = (uint8_t)(op->number >> (8 * i));
	command->version = op->begun.raised ? LEVEL_NEWEST : LEVEL_FIRST;
	command->requester = (char *)requesters[op->client]; /* packing only reads */
	if (s->mutant != MUTANT_NO_REQUEST_IDS)
		command->request_id = (ProtobufCBinaryData){ sizeof id, id };
	if (message_pack(&command->base, &op->command, &st) != STATUS_OK)
		abort();
}

static void make_allocate(struct sim *s, struct op *op)
{
	Kds__V1__AllocateRequest request = KDS__V1__ALLOCATE_REQUEST__INIT;
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	op->kind = OP_ALLOCATE;
	op->count = request.count = 1 + (uint32_t)sim_dice(s, 20);
	command.op_case = KDS__V1__COMMAND__OP_ALLOCATE;
	command.allocate = &request;
	op_pack(s, op, &command);
}

/* A certificate for a serial of one of the newer blocks of this CA; false: it has none. */
static bool make_record(struct sim *s, const struct known *known, struct op *op)
{
	const struct serial_range *range = NULL;
	for (size_t i = known->n_ranges; i > 0 && !range; i--)
		if (strcmp(requesters[known->ranges[i - 1].client], requesters[op->client]) == 0 && sim_chance(s, 50))
			range = &known->ranges[i - 1];
	if (!range)
		return false;
	uint8_t fingerprint[FINGERPRINT_BYTES] = { 0 };
	Kds__V1__IssuedCertificate certificate = KDS__V1__ISSUED_CERTIFICATE__INIT;
	op->kind = OP_RECORD;
	op->serial = certificate.serial = range->first + sim_dice(s, range->last - range->first + 1);
	op->expires = sim_chance(s, 20);
	memcpy(fingerprint, &op->number, sizeof op->number);
	certificate.fingerprint = (ProtobufCBinaryData){ sizeof fingerprint, fingerprint };
	certificate.subject = (char *)"node1.example.com";
	certificate.issuer_key_id = (ProtobufCBinaryData){ 4, fingerprint };
	int64_t now = (int64_t)((UNIX_MS + s->now_ms - START_MS) / 1000);
	certificate.not_before = now;
	certificate.not_after = now + (op->expires ? 1 + (int64_t)sim_dice(s, 60) : DAY_S);
	certificate.profile = (char *)"node";
	certificate.requester = (char *)"node1.example.com";
	uint8_t asked[FINGERPRINT_BYTES] = { 0 };
	if (op->begun.raised) {
		op->asked = 1 + (unsigned)sim_dice(s, ASKED);
		asked[0] = (uint8_t)op->asked;
		certificate.requester = (char *)"admin/admin";
		certificate.request_id = (ProtobufCBinaryData){ 1, asked };
		certificate.request_digest = (ProtobufCBinaryData){ sizeof asked, asked };
	}
	Kds__V1__IssuedCertificate *certificates[] = { &certificate };
	Kds__V1__RecordRequest request = KDS__V1__RECORD_REQUEST__INIT;
	request.n_certificates = 1;
	request.certificates = certificates;
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	command.op_case = KDS__V1__COMMAND__OP_RECORD;
	command.record = &request;
	op_pack(s, op, &command);
	return true;
}

static void make_set_min(struct sim *s, struct op *op)
{
	Kds__V1__SetMinRequest request = KDS__V1__SET_MIN_REQUEST__INIT;
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	op->kind = OP_SET_MIN;
	if (sim_chance(s, 10)) {
		request.value_case = KDS__V1__SET_MIN_REQUEST__VALUE_LATEST;
		request.latest = true;
	} else {
		/* Mostly a little more than it is, sometimes less. */
		op->min_serial = op->begun.min_serial + sim_dice(s, 10);
		op->min_serial -= op->min_serial > 3 ? sim_dice(s, 3) : 0;
		request.value_case = KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL;
		request.min_serial = op->min_serial = op->min_serial ? op->min_serial : 1;
	}
	command.op_case = KDS__V1__COMMAND__OP_SET_MIN;
	command.set_min = &request;
	op_pack(s, op, &command);
}

static void make_raise(struct sim *s, struct op *op)
{
	Kds__V1__RaiseLevel request = KDS__V1__RAISE_LEVEL__INIT;
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	op->kind = OP_RAISE;
	request.level = LEVEL_NEWEST;
	command.op_case = KDS__V1__COMMAND__OP_RAISE_LEVEL;
	command.raise_level = &request;
	op_pack(s, op, &command);
}

struct op *op_new(struct sim *s, const struct known *known, uint64_t number, unsigned client)
{
	struct op *op = sim_alloc(sizeof *op);
	op->number = number;
	op->client = client;
	op->begun = known->seen;
	unsigned what = (unsigned)sim_dice(s, 100);
	bool admin = strcmp(requesters[client], "admin") == 0;
	if (what < 30) {
		op->kind = OP_READ;
		op->key = (unsigned)sim_dice(s, KEYS);
	} else if (admin && what < 33) {
		make_raise(s, op);
	} else if (admin && what < 55) {
		make_set_min(s, op);
	} else if (admin || what < 55) {
		if (sim_chance(s, 25))
			op_make_delete(s, op);
		else
			op_make_put(s, op);
	} else if (what < 75 || !make_record(s, known, op)) {
		make_allocate(s, op);
	}
	return op;
}

void op_free(struct op *op)
{
	buffer_free(&op->command);
	buffer_free(&op->answer);
	free(op);
}

/* Answers */

void op_raise(uint64_t *number, uint64_t seen)
{
	if (*number < seen)
		*number = seen;
}

/* A value that an answer shows, against what was known when the request began. */
void op_check_number(struct sim *s, const struct op *op, const char *what, uint64_t value, uint64_t known)
{
	if (value < known)
		sim_fail(s, "request %" PRIu64 " began when %s was %" PRIu64 ", and was answered with %" PRIu64,
			 op->number, what, known, value);
}

static void take_allocate(struct sim *s, struct known *k, struct op *op, struct slice answer)
{
	Kds__V1__AllocateResponse *r = kds__v1__allocate_response__unpack(NULL, answer.len, answer.data);
	if (!r || r->last - r->first + 1 != op->count)
		sim_fail(s, "request %" PRIu64 ": a block that was not asked for", op->number);
	op_check_number(s, op, "the first free serial", r->first, op->begun.last_serial + 1);
	for (size_t i = 0; i < k->n_ranges; i++)
		if (r->first <= k->ranges[i].last && k->ranges[i].first <= r->last)
			sim_fail(s, "request %" PRIu64 ": serials %" PRIu64 " to %" PRIu64 " were handed out twice",
				 op->number, r->first, r->last);
	k->ranges = sim_grow(k->ranges, k->n_ranges, &k->cap_ranges, sizeof *k->ranges);
	k->ranges[k->n_ranges++] = (struct serial_range){ r->first, r->last, op->client };
	op_raise(&k->seen.last_serial, r->last);
	kds__v1__allocate_response__free_unpacked(r, NULL);
}

static void take_record(struct sim *s, struct known *k, struct op *op, struct slice answer)
{
	Kds__V1__RecordResponse *r = kds__v1__record_response__unpack(NULL, answer.len, answer.data);
	if (!r || r->n_results != 1)
		sim_fail(s, "request %" PRIu64 ": not one result for one record", op->number);
	op_check_number(s, op, "the revision", r->revision, op->begun.revision);
	op_raise(&k->seen.revision, r->revision);
	if (r->results[0]->code == STATUS_OK) {
		op_check_number(s, op, "min_serial (of a record's serial)", op->serial, op->begun.min_serial);
		for (size_t i = 0; i < k->n_recorded; i++)
			if (k->recorded[i] == op->serial)
				sim_fail(s, "serial %" PRIu64 " has two records", op->serial);
		k->recorded = sim_grow(k->recorded, k->n_recorded, &k->cap_recorded, sizeof *k->recorded);
		if (!op->expires)
			k->recorded[k->n_recorded++] = op->serial;
		if (op->asked && !op->expires && k->asked[op->asked - 1])
			sim_fail(s, "request %" PRIu64 ": the same was asked before, and has two records", op->number);
		if (op->asked && !op->expires)
			k->asked[op->asked - 1] = true;
	}
	kds__v1__record_response__free_unpacked(r, NULL);
}

static void take_set_min(struct sim *s, struct known *k, struct op *op, struct slice answer)
{
	Kds__V1__SerialStatus *r = kds__v1__serial_status__unpack(NULL, answer.len, answer.data);
	if (!r || (op->min_serial != 0 && r->min_serial != op->min_serial))
		sim_fail(s, "request %" PRIu64 ": min_serial is not what was asked for", op->number);
	op_check_number(s, op, "min_serial", r->min_serial, op->begun.min_serial);
	op_check_number(s, op, "last_serial", r->last_serial, op->begun.last_serial);
	op_check_number(s, op, "the revision", r->revision, op->begun.revision);
	op_raise(&k->seen.min_serial, r->min_serial);
	op_raise(&k->seen.last_serial, r->last_serial);
	op_raise(&k->seen.revision, r->revision);
	kds__v1__serial_status__free_unpacked(r, NULL);
}

static void take_raise(struct sim *s, struct known *k, struct op *op, struct slice answer)
{
	(void)s;
	(void)op;
	(void)answer;
	k->seen.raised = true;
}

static bool may_be(const struct op *op, enum status_code code)
{
	if (op->kind == OP_PUT && code == STATUS_ABORTED)
		return op->check;
	if (op->kind == OP_DELETE)
		return code == STATUS_NOT_FOUND || (code == STATUS_ABORTED && op->check);
	if (op->kind == OP_SET_MIN)
		return code == STATUS_FAILED_PRECONDITION || code == STATUS_OUT_OF_RANGE;
	return false;
}

void op_check_answer(struct sim *s, struct known *k, struct op *op, const struct state_result *r)
{
	static void (*const take[])(struct sim *, struct known *, struct op *, struct slice) = {
		[OP_ALLOCATE] = take_allocate,
		[OP_RECORD] = take_record,
		[OP_SET_MIN] = take_set_min,
		[OP_PUT] = op_take_put,
		[OP_DELETE] = op_take_delete,
		[OP_RAISE] = take_raise,
	};
	op->answered = true;
	op->code = r->status.code;
	snprintf(op->message, sizeof op->message, "%s", r->status.message);
	if (op->code != STATUS_OK && !may_be(op, op->code))
		sim_fail(s, "request %" PRIu64 " was refused: %s: %s", op->number, status_name(op->code),
			 r->status.message);
	if (op->code != STATUS_OK)
		return;
	if (!buffer_append(&op->answer, r->answer.data, r->answer.len))
		abort();
	take[op->kind](s, k, op, (struct slice){ r->answer.data, r->answer.len });
}

void op_check_same(struct sim *s, const struct op *op, const struct state_result *r)
{
	bool same = op->code == r->status.code;
	if (same && op->code == STATUS_OK)
		same = op->answer.len == r->answer.len && memcmp(op->answer.data, r->answer.data, r->answer.len) == 0;
	else if (same)
		same = strcmp(op->message, r->status.message) == 0;
	if (!same)
		sim_fail(s, "request %" PRIu64 " was answered twice, with %s and %s, and not the same", op->number,
			 status_name(op->code), status_name(r->status.code));
}

void op_check_read(struct sim *s, struct known *k, const struct op *op, struct state *state)
{
	Kds__V1__SerialStatus r;
	state_serial_status(state, &r);
	op_check_object(s, k, op, state);
	op_check_number(s, op, "min_serial", r.min_serial, op->begun.min_serial);
	op_check_number(s, op, "last_serial", r.last_serial, op->begun.last_serial);
	op_check_number(s, op, "the revision", r.revision, op->begun.revision);
	op_raise(&k->seen.min_serial, r.min_serial);
	op_raise(&k->seen.last_serial, r.last_serial);
	op_raise(&k->seen.revision, r.revision);
}

/* The end */

struct found {
	bool *ids; /* by number of the request */
	size_t n;
};

static void find_id(void *arg, raft_index index, raft_term term, unsigned short type, struct slice data)
{
	struct found *f = arg;
	(void)index;
	(void)term;
	Kds__V1__Command *c = type == RAFT_COMMAND ? kds__v1__command__unpack(NULL, data.len, data.data) : NULL;
	if (c && c->request_id.len == 8) {
		uint64_t number = 0;
		for (int i = 7; i >= 0; i--)
			number = number << 8 | c->request_id.data[i];
		if (number < f->n)
			f->ids[number] = true;
	}
	kds__v1__command__free_unpacked(c, NULL);
}

/* Where it was compacted, states and earlier logs have been compared instead (check.c). */
static void check_log(struct sim *s, struct op *const *ops, size_t n, unsigned index)
{
	Kds__V1__ReplicaStatus status;
	node_status(s->nodes[index], &status);
	if (status.first_index > 1)
		return;
	struct found f = { .ids = sim_alloc(n + 1), .n = n };
	for (raft_index first = 1; first <= status.last_index; first += BATCH) {
		raft_index left = status.last_index - first + 1;
		unsigned n_read = left < BATCH ? (unsigned)left : BATCH;
		if (!store_read(node_store(s->nodes[index]), first, n_read, find_id, &f))
			sim_fail(s, "replica %u has no entries from %llu on", index + 1, first);
	}
	for (size_t i = 0; i < n; i++)
		if (ops[i]->answered && ops[i]->kind != OP_READ && !f.ids[i])
			sim_fail(s, "request %zu was answered, but is not in the log of replica %u", i, index + 1);
	free(f.ids);
}

static void check_records(struct sim *s, const struct known *k, unsigned index)
{
	sqlite3 *db = store_sqlite(node_store(s->nodes[index]));
	sqlite3_stmt *sql = NULL;
	if (sqlite3_prepare_v2(db, "SELECT 1 FROM issued WHERE serial = ?", -1, &sql, NULL) != SQLITE_OK)
		sim_fail(s, "replica %u: %s", index + 1, sqlite3_errmsg(db));
	for (size_t i = 0; i < k->n_recorded; i++) {
		sqlite3_bind_int64(sql, 1, (sqlite3_int64)k->recorded[i]);
		if (sqlite3_step(sql) != SQLITE_ROW)
			sim_fail(s, "serial %" PRIu64 " was recorded, but replica %u has no record of it",
				 k->recorded[i], index + 1);
		sqlite3_reset(sql);
	}
	sqlite3_finalize(sql);
}

void ops_check_end(struct sim *s, const struct known *k, struct op *const *ops, size_t n, unsigned index)
{
	const struct op end = { .number = n, .begun = k->seen };
	Kds__V1__SerialStatus r;
	struct state *state = node_state(s->nodes[index]);
	state_serial_status(state, &r);
	op_check_number(s, &end, "min_serial", r.min_serial, k->seen.min_serial);
	op_check_number(s, &end, "last_serial", r.last_serial, k->seen.last_serial);
	op_check_number(s, &end, "the revision", r.revision, k->seen.revision);
	for (unsigned key = 0; key < KEYS; key++)
		op_check_history(s, k, key, state);
	check_log(s, ops, n, index);
	check_records(s, k, index);
}

void known_fini(struct known *k)
{
	free(k->ranges);
	free(k->changes);
	free(k->recorded);
}
