/*
 * Who changed what and when: a row for each revision, the newest `history.length` of them. Sealed keys never get here.
 */
#include "services/serial/state_internal.h"

#include <string.h>

#include "common/rpc/message.h"

/* A larger object is remembered without its value, so that history stays small beside what it tells of. */
#define VALUE_MAX 4096
/* Rows that one change drops at most, when the history has become shorter. One row comes with each change. */
#define PRUNE_MAX 64
#define ENTRIES_DEFAULT 100
#define ENTRIES_MAX 1000

/* The object as history shows it, into s->scratch. What a newer version may have added to a sealed kind goes too. */
static enum status_code pack_shown(struct state *s, const Kds__V1__Object *o, struct status *st)
{
	Kds__V1__Object shown = *o;
	Kds__V1__CertificateAuthority authority;
	Kds__V1__MasterKey master_key;
	if (o->value_case == KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY) {
		authority = *o->certificate_authority;
		authority.sealed_key = (ProtobufCBinaryData){ 0 };
		authority.base.n_unknown_fields = 0;
		shown.certificate_authority = &authority;
	} else if (o->value_case == KDS__V1__OBJECT__VALUE_MASTER_KEY) {
		master_key = *o->master_key;
		master_key.sealed_key = (ProtobufCBinaryData){ 0 };
		master_key.base.n_unknown_fields = 0;
		shown.master_key = &master_key;
	}
	shown.base.n_unknown_fields = 0;
	if (protobuf_c_message_get_packed_size(&shown.base) > VALUE_MAX)
		shown.value_case = KDS__V1__OBJECT__VALUE__NOT_SET;
	s->scratch.len = 0;
	if (message_pack(&shown.base, &s->scratch, st) == STATUS_OK)
		return STATUS_OK;
	return status_set(st, STATUS_INTERNAL, "state: out of memory for the history");
}

enum status_code state_remember(struct state *s, const Kds__V1__Object *o, uint64_t previous, struct status *st)
{
	enum status_code rc = pack_shown(s, o, st);
	if (rc != STATUS_OK)
		return rc;
	sqlite3_stmt *sql = s->sql[SQL_HISTORY_PUT];
	state_bind_uint(sql, 1, o->revision);
	state_bind_text(sql, 2, o->key);
	state_bind_text(sql, 3, s->requester);
	state_bind_uint(sql, 4, s->numbers.time_ms);
	state_bind_uint(sql, 5, previous);
	state_bind_blob(sql, 6, (struct slice){ s->scratch.data, s->scratch.len });
	rc = state_run(s, SQL_HISTORY_PUT, st, "write the history");
	uint64_t length = state_setting(s, SETTING_HISTORY_LENGTH);
	if (rc != STATUS_OK || o->revision <= length)
		return rc;
	sql = s->sql[SQL_HISTORY_PRUNE];
	state_bind_uint(sql, 1, o->revision - length);
	state_bind_uint(sql, 2, PRUNE_MAX);
	return state_run(s, SQL_HISTORY_PRUNE, st, "shorten the history");
}

/* A row as one element of the answer; NULL texts: out of memory. */
static enum status_code append_entry(struct state *s, sqlite3_stmt *sql, struct status *st, struct buffer *out)
{
	struct slice value = state_column(sql, 5);
	Kds__V1__HistoryEntry e = KDS__V1__HISTORY_ENTRY__INIT;
	e.requester = (char *)sqlite3_column_text(sql, 2);
	e.time_ms = (uint64_t)sqlite3_column_int64(sql, 3);
	e.previous_revision = (uint64_t)sqlite3_column_int64(sql, 4);
	e.object = kds__v1__object__unpack(NULL, value.len, value.data);
	enum status_code rc;
	s->scratch.len = 0;
	if (!e.requester || !e.object)
		rc = status_set(st, STATUS_INTERNAL, "state: an entry of the history is damaged, or out of memory");
	else
		rc = message_pack(&e.base, &s->scratch, st);
	kds__v1__object__free_unpacked(e.object, NULL);
	if (rc != STATUS_OK)
		return rc;
	return state_append_element((struct slice){ s->scratch.data, s->scratch.len }, st, out);
}

static bool is_asked_for(const Kds__V1__HistoryRequest *in, const char *key)
{
	return (in->key[0] == '\0' || strcmp(in->key, key) == 0) && strncmp(key, in->prefix, strlen(in->prefix)) == 0;
}

enum status_code state_history(struct state *s, const Kds__V1__HistoryRequest *in, struct status *st,
			       struct buffer *out)
{
	if (in->limit > ENTRIES_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "limit: at most %d entries an answer", ENTRIES_MAX);
	Kds__V1__HistoryResponse end = KDS__V1__HISTORY_RESPONSE__INIT;
	end.revision = s->numbers.revision;
	uint32_t limit = in->limit ? in->limit : ENTRIES_DEFAULT, found = 0;
	bool all = in->before_revision == 0 || in->before_revision > SERIAL_MAX;
	sqlite3_stmt *sql = s->sql[SQL_HISTORY_LIST];
	state_bind_uint(sql, 1, all ? SERIAL_MAX : in->before_revision);
	enum status_code rc = STATUS_OK;
	size_t start = out->len;
	int rv = SQLITE_DONE;
	for (unsigned n = 0; rc == STATUS_OK && (rv = sqlite3_step(sql)) == SQLITE_ROW; n++) {
		if (n == STATE_SCAN_MAX || found == limit || out->len - start > STATE_ANSWER_MAX) {
			end.more = true;
			break;
		}
		const char *key = (const char *)sqlite3_column_text(sql, 1);
		end.before_revision = (uint64_t)sqlite3_column_int64(sql, 0);
		if (!key || !is_asked_for(in, key))
			continue;
		rc = append_entry(s, sql, st, out);
		found++;
	}
	if (rc == STATUS_OK && rv != SQLITE_ROW && rv != SQLITE_DONE)
		rc = state_sql_failed(s, st, "read the history");
	sqlite3_reset(sql);
	if (!end.more)
		end.before_revision = 0;
	return rc == STATUS_OK ? message_pack(&end.base, out, st) : rc;
}
