/*
 * Who asked for a certificate: whether it may still ask when the record is applied, and what it asked before.
 *
 * A request is found by a hash of who asked and its id, of 64 bits: an index of these is a third of one over the texts, and
 * what it finds is compared with them. Whoever makes hashes collide slows down nothing but what looks for its own requests.
 */
#include "services/serial/state_internal.h"

#include <gnutls/crypto.h>
#include <stdlib.h>
#include <string.h>

#define NODE_PREFIX "node/"
#define SERVICE_PREFIX "service/"

/* Names of services that were removed, in order. */
struct removed {
	size_t n, cap;
	char **names;
};

bool state_requester_is_node(const char *requester)
{
	return strncmp(requester, NODE_PREFIX, strlen(NODE_PREFIX)) == 0;
}

/* The index of the first that is not before `name`. */
static size_t place_of(const struct removed *r, const char *name)
{
	size_t low = 0, high = r ? r->n : 0;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(r->names[middle], name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool holds(const struct removed *r, const char *name)
{
	size_t i = place_of(r, name);
	return r && i < r->n && strcmp(r->names[i], name) == 0;
}

bool state_requester_is_removed(const struct state *s, const char *requester)
{
	const char *slash = strchr(requester, '/');
	return !state_requester_is_node(requester) && holds(s->removed, slash ? slash + 1 : requester);
}

static bool add_name(struct removed *r, const char *name)
{
	size_t at = place_of(r, name);
	if (r->n == r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 8;
		char **names = realloc(r->names, cap * sizeof *names);
		if (!names)
			return false;
		r->names = names;
		r->cap = cap;
	}
	char *copy = strdup(name);
	if (!copy)
		return false;
	memmove(r->names + at + 1, r->names + at, (r->n - at) * sizeof *r->names);
	r->names[at] = copy;
	r->n++;
	return true;
}

static void drop_name(struct removed *r, const char *name)
{
	size_t at = place_of(r, name);
	free(r->names[at]);
	r->n--;
	memmove(r->names + at, r->names + at + 1, (r->n - at) * sizeof *r->names);
}

enum status_code state_note_service(struct state *s, const char *key, const Kds__V1__Object *o, struct status *st)
{
	if (strncmp(key, SERVICE_PREFIX, strlen(SERVICE_PREFIX)) != 0)
		return STATUS_OK;
	const char *name = key + strlen(SERVICE_PREFIX);
	bool removed = !o->deleted && o->value_case == KDS__V1__OBJECT__VALUE_SERVICE && o->service->removed;
	if (!s->removed)
		s->removed = calloc(1, sizeof *s->removed);
	bool ok = s->removed != NULL;
	bool listed = ok && holds(s->removed, name);
	if (ok && removed && !listed)
		ok = add_name(s->removed, name);
	else if (ok && !removed && listed)
		drop_name(s->removed, name);
	return ok ? STATUS_OK : status_set(st, STATUS_INTERNAL, "state: out of memory for the removed services");
}

void state_removed_free(struct removed *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < r->n; i++)
		free(r->names[i]);
	free(r->names);
	free(r);
}

enum status_code state_check_requester(struct state *s, const Kds__V1__IssuedCertificate *c, struct status *st,
				       Kds__V1__RecordRefusal *ret_refusal)
{
	bool listed = true;
	enum status_code rc = STATUS_OK;
	*ret_refusal = KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_NONE;
	if (state_requester_is_node(c->requester)) {
		/* It is called as its object is. */
		rc = state_exists(s, c->requester, st, &listed);
		if (c->requester_serial < s->numbers.min_serial)
			*ret_refusal = KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REQUESTER_BELOW_MIN;
	} else {
		listed = !state_requester_is_removed(s, c->requester);
	}
	if (rc == STATUS_OK && !listed)
		*ret_refusal = KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REQUESTER_UNKNOWN;
	return rc;
}

static enum status_code hash_request(struct state *s, const Kds__V1__IssuedCertificate *c, struct status *st,
				     uint64_t *ret_hash)
{
	uint8_t digest[32];
	*ret_hash = 0;
	if (c->request_id.len == 0)
		return STATUS_OK;
	s->scratch.len = 0;
	bool ok = buffer_append(&s->scratch, c->requester, strlen(c->requester) + 1) &&
		  buffer_append(&s->scratch, c->request_id.data, c->request_id.len) &&
		  gnutls_hash_fast(GNUTLS_DIG_SHA256, s->scratch.data, s->scratch.len, digest) == 0;
	if (!ok)
		return status_set(st, STATUS_INTERNAL, "state: out of memory for a request id");
	*ret_hash = state_get_be(digest, 8);
	return STATUS_OK;
}

static bool same_bytes(sqlite3_stmt *sql, int column, ProtobufCBinaryData b)
{
	struct slice have = state_column(sql, column);
	return have.len == b.len && (b.len == 0 || memcmp(have.data, b.data, b.len) == 0);
}

enum status_code state_find_asked(struct state *s, const Kds__V1__IssuedCertificate *c, struct status *st,
				  struct asked *ret_asked)
{
	*ret_asked = (struct asked){ .serial = 0 };
	enum status_code rc = hash_request(s, c, st, &ret_asked->hash);
	if (rc != STATUS_OK || c->request_id.len == 0)
		return rc;
	sqlite3_stmt *sql = s->sql[SQL_ASKED_FIND];
	state_bind_uint(sql, 1, ret_asked->hash);
	int rv;
	while ((rv = sqlite3_step(sql)) == SQLITE_ROW) {
		const char *requester = (const char *)sqlite3_column_text(sql, 3);
		if (requester && strcmp(requester, c->requester) == 0 && same_bytes(sql, 1, c->request_id)) {
			ret_asked->serial = (uint64_t)sqlite3_column_int64(sql, 0);
			ret_asked->same = same_bytes(sql, 2, c->request_digest);
			break;
		}
	}
	sqlite3_reset(sql);
	return rv == SQLITE_ROW || rv == SQLITE_DONE ? STATUS_OK : state_sql_failed(s, st, "look for a request");
}

static void bind_bytes(sqlite3_stmt *sql, int parameter, ProtobufCBinaryData b)
{
	state_bind_blob(sql, parameter, (struct slice){ b.data, b.len });
}

enum status_code state_put_asked(struct state *s, const Kds__V1__IssuedCertificate *c, uint64_t hash, struct status *st)
{
	if (c->requester_serial == 0 && c->request_id.len == 0)
		return STATUS_OK;
	sqlite3_stmt *sql = s->sql[SQL_ASKED_INSERT];
	state_bind_uint(sql, 1, c->serial);
	state_bind_uint(sql, 2, c->requester_serial);
	bind_bytes(sql, 3, c->requester_issuer);
	bind_bytes(sql, 4, c->request_id);
	bind_bytes(sql, 5, c->request_digest);
	state_bind_uint(sql, 6, hash);
	return state_run(s, SQL_ASKED_INSERT, st, "write who asked for a record");
}

enum status_code state_drop_asked(struct state *s, uint64_t serial, struct status *st)
{
	state_bind_uint(s->sql[SQL_ASKED_DELETE], 1, serial);
	return state_run(s, SQL_ASKED_DELETE, st, "delete who asked for a record");
}
