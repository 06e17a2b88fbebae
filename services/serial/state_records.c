#include "services/serial/state_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/rpc/message.h"

/* As short as the lines below need it. */
#define REFUSED(which) KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_##which

static enum status_code load_expiry(struct state *s, struct status *st)
{
	sqlite3_stmt *sql = s->sql[SQL_ISSUED_OLDEST];
	int rv = sqlite3_step(sql);
	s->expiry_s = INT64_MAX;
	if (rv == SQLITE_ROW) {
		s->expiry_s = sqlite3_column_int64(sql, 0);
		s->expiry_serial = (uint64_t)sqlite3_column_int64(sql, 1);
	}
	sqlite3_reset(sql);
	return rv == SQLITE_ROW || rv == SQLITE_DONE ? STATUS_OK : state_sql_failed(s, st, "find the oldest record");
}

enum status_code state_records_load(struct state *s, struct status *st)
{
	enum status_code rc = load_expiry(s, st);
	return rc == STATUS_OK ? live_load(s, st) : rc;
}

static int64_t now_s(const struct state *s)
{
	return (int64_t)(s->numbers.time_ms / 1000);
}

enum status_code state_expire_records(struct state *s, size_t limit, struct status *st)
{
	enum status_code rc = STATUS_OK;
	int64_t retention_s = (int64_t)(state_setting(s, SETTING_RECORDS_RETENTION) / 1000);
	/* notAfter itself is still valid: RFC 5280 §4.1.2.5. */
	for (size_t n = 0; rc == STATUS_OK && n < limit && s->expiry_s < now_s(s) - retention_s; n++) {
		state_bind_uint(s->sql[SQL_ISSUED_DELETE], 1, s->expiry_serial);
		rc = state_run(s, SQL_ISSUED_DELETE, st, "delete an expired record");
		if (rc == STATUS_OK)
			rc = state_drop_asked(s, s->expiry_serial, st);
		s->numbers.issued--;
		state_close_serials(s, s->expiry_serial);
		if (rc == STATUS_OK)
			rc = load_expiry(s, st);
	}
	return rc;
}

static ProtobufCBinaryData bytes_of(sqlite3_stmt *sql, int column)
{
	struct slice bytes = state_column(sql, column);
	return (ProtobufCBinaryData){ bytes.len, (uint8_t *)bytes.data };
}

enum status_code state_record_read(sqlite3_stmt *sql, struct status *st, Kds__V1__IssuedCertificate *ret_certificate)
{
	Kds__V1__IssuedCertificate *c = ret_certificate;
	kds__v1__issued_certificate__init(c);
	c->serial = (uint64_t)sqlite3_column_int64(sql, 0);
	c->fingerprint = bytes_of(sql, 1);
	c->subject = (char *)sqlite3_column_text(sql, 2);
	c->issuer_key_id = bytes_of(sql, 3);
	c->not_before = sqlite3_column_int64(sql, 4);
	c->not_after = sqlite3_column_int64(sql, 5);
	c->profile = (char *)sqlite3_column_text(sql, 6);
	c->requester = (char *)sqlite3_column_text(sql, 7);
	c->recorded_ms = (uint64_t)sqlite3_column_int64(sql, 8);
	c->requester_serial = (uint64_t)sqlite3_column_int64(sql, 9);
	c->requester_issuer = bytes_of(sql, 10);
	c->request_id = bytes_of(sql, 11);
	c->request_digest = bytes_of(sql, 12);
	if (c->subject && c->profile && c->requester)
		return STATUS_OK;
	return status_set(st, STATUS_INTERNAL, "state: a record is damaged, or out of memory");
}

/* Looks for the record of a serial: *ret_row, whether there is one; then SQL_ISSUED_GET stands on it, until its reset. */
static enum status_code find_record(struct state *s, uint64_t serial, struct status *st, bool *ret_row)
{
	sqlite3_stmt *sql = s->sql[SQL_ISSUED_GET];
	state_bind_uint(sql, 1, serial);
	int rv = sqlite3_step(sql);
	*ret_row = rv == SQLITE_ROW;
	return rv == SQLITE_ROW || rv == SQLITE_DONE ? STATUS_OK : state_sql_failed(s, st, "look for a record");
}

/* Is there a record of this serial: *ret_found; of this very certificate: *ret_same. */
static enum status_code compare_record(struct state *s, const Kds__V1__IssuedCertificate *c, struct status *st,
				       bool *ret_found, bool *ret_same)
{
	enum status_code rc = find_record(s, c->serial, st, ret_found);
	*ret_same = false;
	if (*ret_found) {
		struct slice known = state_column(s->sql[SQL_ISSUED_GET], 1);
		*ret_same = known.len == c->fingerprint.len && memcmp(known.data, c->fingerprint.data, known.len) == 0;
	}
	sqlite3_reset(s->sql[SQL_ISSUED_GET]);
	return rc;
}

enum status_code state_knows_authority(struct state *s, uint64_t serial, const uint8_t *fingerprint, struct status *st,
				       bool *ret_known)
{
	sqlite3_stmt *sql = s->sql[SQL_ISSUED_GET];
	Kds__V1__IssuedCertificate c;
	bool row;
	enum status_code rc = find_record(s, serial, st, &row);
	*ret_known = false;
	if (rc == STATUS_OK && row)
		rc = state_record_read(sql, st, &c);
	if (rc == STATUS_OK && row)
		*ret_known = strcmp(c.profile, "ca") == 0 && c.fingerprint.len == 32 &&
			     memcmp(c.fingerprint.data, fingerprint, 32) == 0;
	sqlite3_reset(sql);
	return rc;
}

static enum status_code insert_record(struct state *s, const Kds__V1__IssuedCertificate *c, struct status *st)
{
	sqlite3_stmt *sql = s->sql[SQL_ISSUED_INSERT];
	state_bind_uint(sql, 1, c->serial);
	state_bind_blob(sql, 2, (struct slice){ c->fingerprint.data, c->fingerprint.len });
	state_bind_text(sql, 3, c->subject);
	state_bind_blob(sql, 4, (struct slice){ c->issuer_key_id.data, c->issuer_key_id.len });
	sqlite3_bind_int64(sql, 5, c->not_before);
	sqlite3_bind_int64(sql, 6, c->not_after);
	state_bind_text(sql, 7, c->profile);
	state_bind_text(sql, 8, c->requester);
	state_bind_uint(sql, 9, s->numbers.time_ms);
	enum status_code rc = state_run(s, SQL_ISSUED_INSERT, st, "write a record");
	if (rc == STATUS_OK)
		rc = live_add(s, c, st);
	if (rc != STATUS_OK)
		return rc;
	s->numbers.issued++;
	if (c->serial > s->numbers.highest_issued)
		s->numbers.highest_issued = c->serial;
	if (c->not_after < s->expiry_s || (c->not_after == s->expiry_s && c->serial < s->expiry_serial)) {
		s->expiry_s = c->not_after;
		s->expiry_serial = c->serial;
	}
	return STATUS_OK;
}

/*
 * What is said of a refusal, to people: never stored, as other versions may say it otherwise. But commands of before
 * LEVEL_ASKED are answered with it, so those texts stay.
 */

static enum status_code code_of(Kds__V1__RecordRefusal refusal)
{
	switch (refusal) {
	case REFUSED(NONE):
		return STATUS_OK;
	case REFUSED(INVALID):
	case REFUSED(ID_REUSED):
		return STATUS_INVALID_ARGUMENT;
	case REFUSED(TAKEN):
	case REFUSED(REPEATED):
		return STATUS_ALREADY_EXISTS;
	case REFUSED(REQUESTER_BELOW_MIN):
	case REFUSED(REQUESTER_UNKNOWN):
		return STATUS_PERMISSION_DENIED;
	case REFUSED(TOO_MANY):
		return STATUS_RESOURCE_EXHAUSTED;
	default:
		return STATUS_FAILED_PRECONDITION;
	}
}

static void describe_request(struct state *s, const Kds__V1__IssuedCertificate *c, Kds__V1__RecordRefusal refusal,
			     struct status *ret_why)
{
	enum status_code code = code_of(refusal);
	if (refusal == REFUSED(REQUESTER_BELOW_MIN))
		status_set(ret_why, code,
			   "the certificate of %s is refused, or the one that this request got before: min_serial is %" PRIu64
			   "; enrol it anew, or ask under a new id",
			   c->requester, s->numbers.min_serial);
	else if (refusal == REFUSED(REQUESTER_UNKNOWN))
		status_set(ret_why, code, "%s is not in the cluster (any more)", c->requester);
	else if (refusal == REFUSED(TOO_MANY))
		status_set(ret_why, code,
			   "%s has %" PRIu64 " live certificates of the profile %s, as many as limit.live-certificates allows:"
			   " wait until some have expired, or raise it",
			   c->subject, state_setting(s, SETTING_LIMIT_LIVE_CERTIFICATES), c->profile);
	else if (refusal == REFUSED(REPEATED))
		status_set(ret_why, code, "%s got its certificate for this request before", c->requester);
	else
		status_set(ret_why, code, "%s used this request id before, for something else: take a new id", c->requester);
}

static void describe(struct state *s, const char *ca, unsigned version, const Kds__V1__IssuedCertificate *c,
		     Kds__V1__RecordRefusal refusal, struct status *ret_why)
{
	enum status_code code = code_of(refusal);
	if (refusal == REFUSED(INVALID) && state_validate_certificate(c, version, ret_why) == STATUS_OK)
		status_set(ret_why, code, "the record is not valid");
	if (refusal == REFUSED(INVALID))
		return;
	if (refusal == REFUSED(BELOW_MIN))
		status_set(ret_why, code,
			   "serial %" PRIu64 " is refused: min_serial is %" PRIu64 "; take a serial from a new block",
			   c->serial, s->numbers.min_serial);
	else if (refusal == REFUSED(TAKEN))
		status_set(ret_why, code, "serial %" PRIu64 " belongs to another certificate", c->serial);
	else if (refusal == REFUSED(NO_BLOCK))
		status_set(ret_why, code,
			   "serial %" PRIu64 " is in no open block of %s: take a serial from a new block", c->serial, ca);
	else if (refusal == REFUSED(EXPIRED))
		status_set(ret_why, code, "the certificate with serial %" PRIu64 " has expired", c->serial);
	else
		describe_request(s, c, refusal, ret_why);
}

/* One certificate of a command: what is decided of it. */
struct verdict {
	Kds__V1__RecordRefusal refusal;
	struct asked asked; /* REPEATED: its record answers it */
};

/* Did its requester ask for it before? */
static enum status_code judge_request(struct state *s, const Kds__V1__IssuedCertificate *c, struct status *st,
				      struct verdict *v)
{
	enum status_code rc = state_find_asked(s, c, st, &v->asked);
	if (rc != STATUS_OK || v->asked.serial == 0)
		return rc;
	if (!v->asked.same)
		v->refusal = REFUSED(ID_REUSED);
	else if (v->asked.serial < s->numbers.min_serial) /* who knows the id must not bring back what was refused */
		v->refusal = REFUSED(REQUESTER_BELOW_MIN);
	else
		v->refusal = REFUSED(REPEATED);
	return STATUS_OK;
}

/* A block from before LEVEL_ASKED is held by the name alone, and only CAs hold any. */
static bool is_open(const struct state *s, const Kds__V1__Command *command, uint64_t serial)
{
	const char *slash = strchr(command->requester, '/');
	return state_is_open(s, command->requester, serial) ||
	       (command->version >= LEVEL_ASKED && slash && state_is_open(s, slash + 1, serial));
}

static enum status_code judge_new(struct state *s, const Kds__V1__Command *command, const Kds__V1__IssuedCertificate *c,
				  bool taken, struct status *st, struct verdict *v)
{
	enum status_code rc = STATUS_OK;
	bool asked = command->version >= LEVEL_ASKED;
	if (asked)
		rc = judge_request(s, c, st, v);
	if (rc != STATUS_OK || v->refusal != REFUSED(NONE))
		return rc;
	if (taken)
		v->refusal = REFUSED(TAKEN);
	else if (!is_open(s, command, c->serial))
		v->refusal = REFUSED(NO_BLOCK);
	else if (c->not_after < now_s(s))
		v->refusal = REFUSED(EXPIRED);
	else if (asked && live_reached(s, c, state_setting(s, SETTING_LIMIT_LIVE_CERTIFICATES)))
		v->refusal = REFUSED(TOO_MANY);
	if (v->refusal != REFUSED(NONE))
		return STATUS_OK;
	rc = insert_record(s, c, st);
	return rc == STATUS_OK && asked ? state_put_asked(s, c, v->asked.hash, st) : rc;
}

/* The order matters: whoever may not ask any more learns nothing; the same record again is no second one; a request that
 * was answered gets that answer, whatever became of the serial that it brings now. */
static enum status_code record_one(struct state *s, const Kds__V1__Command *command, const Kds__V1__IssuedCertificate *c,
				   struct status *st, struct verdict *ret_verdict)
{
	struct verdict *v = ret_verdict;
	struct status why;
	bool found, same;
	*v = (struct verdict){ .refusal = REFUSED(NONE) };
	if (state_validate_certificate(c, command->version, &why) != STATUS_OK)
		v->refusal = REFUSED(INVALID);
	else if (c->serial < s->numbers.min_serial)
		v->refusal = REFUSED(BELOW_MIN);
	enum status_code rc = STATUS_OK;
	if (v->refusal == REFUSED(NONE) && command->version >= LEVEL_ASKED)
		rc = state_check_requester(s, c, st, &v->refusal);
	if (rc != STATUS_OK || v->refusal != REFUSED(NONE))
		return rc;
	rc = compare_record(s, c, st, &found, &same);
	if (rc != STATUS_OK || same)
		return rc;
	return judge_new(s, command, c, found, st, v);
}

static enum status_code no_memory(struct status *st)
{
	return status_set(st, STATUS_INTERNAL, "state: out of memory for the results of a record");
}

/* A copy of the record in the arena. */
static enum status_code copy_record(struct state *s, uint64_t serial, struct arena *arena, struct status *st,
				    Kds__V1__IssuedCertificate **ret_copy)
{
	sqlite3_stmt *sql = s->sql[SQL_ISSUED_GET];
	Kds__V1__IssuedCertificate c;
	bool row;
	enum status_code rc = find_record(s, serial, st, &row);
	if (rc == STATUS_OK && !row)
		rc = status_set(st, STATUS_DATA_LOSS, "state: there is no record %" PRIu64 ", but one who asked for it", serial);
	if (rc == STATUS_OK)
		rc = state_record_read(sql, st, &c);
	if (rc == STATUS_OK) {
		size_t size = kds__v1__issued_certificate__get_packed_size(&c);
		uint8_t *packed = arena_alloc(arena, size);
		*ret_copy = packed ? kds__v1__issued_certificate__unpack(arena_allocator(arena),
									 kds__v1__issued_certificate__pack(&c, packed), packed)
				   : NULL;
		if (!*ret_copy)
			rc = no_memory(st);
	}
	sqlite3_reset(sql);
	return rc;
}

static enum status_code fill_result(struct state *s, const Kds__V1__Command *command,
				    const Kds__V1__IssuedCertificate *c, const struct verdict *v, struct arena *arena,
				    struct status *st, Kds__V1__RecordResult *ret_result)
{
	struct status why;
	kds__v1__record_result__init(ret_result);
	ret_result->code = code_of(v->refusal);
	if (v->refusal == REFUSED(NONE))
		return STATUS_OK;
	if (command->version >= LEVEL_ASKED) {
		ret_result->refusal = v->refusal;
		return v->refusal == REFUSED(REPEATED) ? copy_record(s, v->asked.serial, arena, st, &ret_result->known) : STATUS_OK;
	}
	describe(s, command->requester, command->version, c, v->refusal, &why);
	ret_result->message = arena_strdup(arena, why.message);
	return ret_result->message ? STATUS_OK : no_memory(st);
}

enum status_code state_record(struct state *s, const Kds__V1__Command *c, struct arena *arena, struct status *st,
			      struct state_result *r)
{
	size_t n = c->record->n_certificates;
	Kds__V1__RecordResult *results = arena_alloc(arena, n * sizeof *results);
	Kds__V1__RecordResult **list = arena_alloc(arena, n * sizeof *list);
	if (!results || !list)
		return no_memory(st);
	for (size_t i = 0; i < n; i++) {
		struct verdict verdict;
		enum status_code rc = record_one(s, c, c->record->certificates[i], st, &verdict);
		if (rc == STATUS_OK)
			rc = fill_result(s, c, c->record->certificates[i], &verdict, arena, st, &results[i]);
		if (rc != STATUS_OK)
			return rc;
		list[i] = &results[i];
	}
	Kds__V1__RecordResponse answer = KDS__V1__RECORD_RESPONSE__INIT;
	answer.n_results = n;
	answer.results = list;
	answer.revision = state_revision(s);
	return state_answer(r, &answer.base, st);
}

bool state_any_refused(struct slice answer, size_t n)
{
	/* A result that says nothing is two bytes: its tag and the length 0; and results come first. */
	static const uint8_t granted[] = { 1 << 3 | 2, 0 };
	const uint8_t *p = answer.data;
	for (size_t i = 0; i < n; i++)
		if (answer.len < (i + 1) * 2 || memcmp(p + 2 * i, granted, 2) != 0)
			return true;
	return false;
}

enum status_code state_explain(struct state *s, const char *ca, const Kds__V1__RecordRequest *in, struct slice answer,
			       struct status *st, struct buffer *out)
{
	struct arena *arena = arena_new(COMMAND_MEMORY_MAX);
	Kds__V1__RecordResponse *r =
	    arena ? kds__v1__record_response__unpack(arena_allocator(arena), answer.len, answer.data) : NULL;
	enum status_code rc = r ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	for (size_t i = 0; rc == STATUS_OK && i < r->n_results && i < in->n_certificates; i++) {
		struct status why;
		if (r->results[i]->refusal == REFUSED(NONE))
			continue;
		describe(s, ca, LEVEL_ASKED, in->certificates[i], r->results[i]->refusal, &why);
		r->results[i]->message = arena_strdup(arena, why.message);
		if (!r->results[i]->message)
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	}
	if (rc == STATUS_OK)
		rc = message_pack(&r->base, out, st);
	arena_free(arena);
	return rc;
}
