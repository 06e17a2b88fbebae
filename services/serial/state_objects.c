#include "services/serial/state_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/message.h"

#include <gnutls/crypto.h>

/* masterkey.publish-ahead is an hour at most; clocks that are kept at all differ by less than another. */
#define MASTER_KEY_AHEAD_MS ((uint64_t)2 * 3600 * 1000)
#define SETTING_PREFIX "setting/"
#define CA_PREFIX "ca/"
/* Retired ones too. Every daemon holds each certificate that it meets against them. */
#define AUTHORITIES_MAX 32
/* So many deletions are remembered. A watcher that has missed more reads the state anew. */
#define TOMBSTONES_MAX 10000

void state_object_key(const Kds__V1__Object *o, char buf[OBJECT_KEY_MAX])
{
	const char *kind = "", *name = "";
	switch (o->value_case) {
	case KDS__V1__OBJECT__VALUE_CLUSTER:
		kind = "cluster";
		break;
	case KDS__V1__OBJECT__VALUE_NODE:
		kind = "node/";
		name = o->node->name;
		break;
	case KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY:
		kind = "ca/";
		name = o->certificate_authority->name;
		break;
	case KDS__V1__OBJECT__VALUE_MASTER_KEY:
		/* As wide as any number, so that keys sort as times do. */
		snprintf(buf, OBJECT_KEY_MAX, "masterkey/%020" PRIu64, o->master_key->published_ms);
		return;
	case KDS__V1__OBJECT__VALUE_SETTING:
		kind = "setting/";
		name = o->setting->name;
		break;
	case KDS__V1__OBJECT__VALUE_SERVICE:
		kind = "service/";
		name = o->service->name;
		break;
	case KDS__V1__OBJECT__VALUE_MIN_SERIAL:
		kind = "serial/min";
		break;
	case KDS__V1__OBJECT__VALUE_REPLICA:
		kind = "replica/";
		name = o->replica->name;
		break;
	default:
		break;
	}
	snprintf(buf, OBJECT_KEY_MAX, "%s%s", kind, name);
}

/* What there is under a key. */
struct found {
	uint64_t revision; /* 0: nothing, or it was deleted */
	bool tombstone;    /* it was deleted, and the trace is there */
};

static enum status_code find(struct state *s, const char *key, struct status *st, struct found *ret_found)
{
	sqlite3_stmt *sql = s->sql[SQL_OBJECT_GET];
	state_bind_text(sql, 1, key);
	int rv = sqlite3_step(sql);
	*ret_found = (struct found){ .revision = 0 };
	if (rv == SQLITE_ROW) {
		ret_found->tombstone = sqlite3_column_int(sql, 1) != 0;
		ret_found->revision = ret_found->tombstone ? 0 : (uint64_t)sqlite3_column_int64(sql, 0);
	}
	sqlite3_reset(sql);
	return rv == SQLITE_ROW || rv == SQLITE_DONE ? STATUS_OK : state_sql_failed(s, st, "look for an object");
}

enum status_code state_exists(struct state *s, const char *key, struct status *st, bool *ret_exists)
{
	struct found found;
	enum status_code rc = find(s, key, st, &found);
	*ret_exists = rc == STATUS_OK && found.revision > 0;
	return rc;
}

/* What there is under a key; *ret_object NULL: nothing. The caller frees. */
static enum status_code read_object(struct state *s, const char *key, struct status *st, Kds__V1__Object **ret_object)
{
	sqlite3_stmt *sql = s->sql[SQL_OBJECT_GET];
	state_bind_text(sql, 1, key);
	enum status_code rc = STATUS_OK;
	int rv = sqlite3_step(sql);
	*ret_object = NULL;
	if (rv == SQLITE_ROW && sqlite3_column_int(sql, 1) == 0) {
		struct slice value = state_column(sql, 2);
		*ret_object = kds__v1__object__unpack(NULL, value.len, value.data);
		if (!*ret_object)
			rc = status_set(st, STATUS_INTERNAL, "state: the object %s is damaged, or out of memory", key);
	} else if (rv != SQLITE_ROW && rv != SQLITE_DONE) {
		rc = state_sql_failed(s, st, "read an object");
	}
	sqlite3_reset(sql);
	return rc;
}

/* Forgets the oldest deletion. */
static enum status_code drop_tombstone(struct state *s, struct status *st)
{
	sqlite3_stmt *sql = s->sql[SQL_TOMBSTONE_OLDEST];
	state_bind_uint(sql, 1, s->numbers.compacted);
	int rv = sqlite3_step(sql);
	uint64_t revision = rv == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(sql, 0) : 0;
	sqlite3_reset(sql);
	if (rv != SQLITE_ROW)
		return rv == SQLITE_DONE ? status_set(st, STATUS_DATA_LOSS, "state: the count of deleted objects is wrong") :
					   state_sql_failed(s, st, "find the oldest deletion");
	state_bind_uint(s->sql[SQL_OBJECT_DROP], 1, revision);
	s->numbers.compacted = revision;
	s->numbers.tombstones--;
	return state_run(s, SQL_OBJECT_DROP, st, "forget a deletion");
}

/* Gives the object the next revision, writes it in place of what was found, and remembers who did it. */
static enum status_code write_object(struct state *s, const char *key, const struct found *found, Kds__V1__Object *o,
				     struct status *st)
{
	o->key = (char *)key;
	o->revision = ++s->numbers.revision;
	s->scratch.len = 0;
	if (message_pack(&o->base, &s->scratch, st) != STATUS_OK)
		return status_set(st, STATUS_INTERNAL, "state: out of memory for the object %s", key);
	sqlite3_stmt *sql = s->sql[SQL_OBJECT_PUT];
	state_bind_text(sql, 1, key);
	state_bind_uint(sql, 2, o->revision);
	state_bind_uint(sql, 3, o->deleted ? 1 : 0);
	state_bind_blob(sql, 4, (struct slice){ s->scratch.data, s->scratch.len });
	enum status_code rc = state_run(s, SQL_OBJECT_PUT, st, "write an object");
	s->numbers.tombstones += o->deleted ? 1 : 0;
	s->numbers.tombstones -= found->tombstone;
	if (rc == STATUS_OK && s->numbers.tombstones > TOMBSTONES_MAX)
		rc = drop_tombstone(s, st);
	return rc == STATUS_OK ? state_remember(s, o, found->revision, st) : rc;
}

/* The same with the object as the command's answer. */
static enum status_code write_and_answer(struct state *s, const char *key, const struct found *found,
					 Kds__V1__Object *o, struct status *st, struct state_result *r)
{
	enum status_code rc = write_object(s, key, found, o, st);
	return rc == STATUS_OK ? state_answer(r, &o->base, st) : rc;
}

/* A value that this version does not allow counts as the default: the leader's version allowed it (settings.h). */
static void note_setting(struct state *s, const char *key, const Kds__V1__Object *o)
{
	struct status ignored;
	if (strncmp(key, SETTING_PREFIX, strlen(SETTING_PREFIX)) == 0)
		(void)!settings_set(&s->settings, key + strlen(SETTING_PREFIX),
				    o->deleted ? NULL : o->setting->value, &ignored);
}

/* What of an object is kept in memory. */
static enum status_code note_object(struct state *s, const char *key, const Kds__V1__Object *o, struct status *st)
{
	note_setting(s, key, o);
	return state_note_service(s, key, o, st);
}

/* Compare and set: false, with the refusal in the result, when the object is not at the revision that was read. */
static bool revision_matches(const char *key, uint64_t revision, uint64_t expected, struct state_result *r)
{
	if (revision == expected)
		return true;
	if (revision == 0)
		status_set(&r->status, STATUS_ABORTED, "%s does not exist (any more): read again and repeat", key);
	else if (expected == 0)
		status_set(&r->status, STATUS_ABORTED, "%s exists already, at revision %" PRIu64, key, revision);
	else
		status_set(&r->status, STATUS_ABORTED,
			   "%s is at revision %" PRIu64 ", not %" PRIu64 ": read it again and repeat", key, revision,
			   expected);
	return false;
}

/*
 * The serial number of a certificate in DER (RFC 5280 §4.1): behind SEQUENCE, SEQUENCE and [0] version an INTEGER. 0: it is
 * none of ours. Not read with a library, so that replicas with different ones agree.
 */
static uint64_t certificate_serial(ProtobufCBinaryData der)
{
	static const uint8_t tags[] = { 0x30, 0x30, 0xa0, 0x02 };
	size_t at = 0, len = 0;
	for (size_t i = 0; i < sizeof tags; i++) {
		if (der.len - at < 2 || der.data[at] != tags[i])
			return 0;
		size_t first = der.data[at + 1], bytes = first > 0x80 ? first - 0x80 : 0;
		at += 2;
		if (first == 0x80 || bytes > 2 || der.len - at < bytes)
			return 0;
		len = bytes > 0 ? (size_t)state_get_be(der.data + at, (int)bytes) : first;
		at += bytes;
		if (len > der.len - at)
			return 0;
		if (tags[i] == 0xa0)
			at += len;
	}
	return len <= 8 ? state_get_be(der.data + at, (int)len) : 0;
}

/* Is this the certificate's own record? */
static enum status_code has_record(struct state *s, const char *key, ProtobufCBinaryData certificate, struct status *st,
				   bool *ret_known)
{
	uint8_t fingerprint[32];
	if (gnutls_hash_fast(GNUTLS_DIG_SHA256, certificate.data, certificate.len, fingerprint) != 0)
		return status_set(st, STATUS_INTERNAL, "state: hash the certificate of %s", key);
	return state_knows_authority(s, certificate_serial(certificate), fingerprint, st, ret_known);
}

static bool is_same(ProtobufCBinaryData a, ProtobufCBinaryData b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static enum status_code count_authorities(struct state *s, struct status *st, int64_t *ret_n)
{
	sqlite3_stmt *sql = s->sql[SQL_AUTHORITIES_COUNT];
	int rv = sqlite3_step(sql);
	*ret_n = rv == SQLITE_ROW ? sqlite3_column_int64(sql, 0) : 0;
	sqlite3_reset(sql);
	return rv == SQLITE_ROW ? STATUS_OK : state_sql_failed(s, st, "count the CAs");
}

/* A CA that was not there: does it come as it must? */
static enum status_code check_new_authority(struct state *s, const char *key, ProtobufCBinaryData certificate,
					    struct status *st, struct state_result *r)
{
	bool known = false;
	int64_t n = 0;
	enum status_code rc = has_record(s, key, certificate, st, &known);
	if (rc == STATUS_OK)
		rc = count_authorities(s, st, &n);
	if (rc == STATUS_OK && !known)
		state_refuse(r, STATUS_FAILED_PRECONDITION, NULL,
			     "%s: its certificate has no record: a CA records it before it enters it", key);
	else if (rc == STATUS_OK && n >= AUTHORITIES_MAX)
		state_refuse(r, STATUS_FAILED_PRECONDITION, NULL,
			     "%s: there are %d CAs, as many as a cluster may have: retire and delete one that is not needed", key,
			     AUTHORITIES_MAX);
	return rc;
}

/*
 * A CA comes with a certificate that has its own record, and keeps it, with its key: another under its name would be another
 * CA, and a key that is overwritten is lost. Who may not see the key leaves it out; then ret_ca gets it of what was there,
 * borrowed from *ret_former (the caller's to free, NULL: there was none).
 */
static enum status_code check_authority(struct state *s, const char *key, Kds__V1__CertificateAuthority *ret_ca,
					struct status *st, struct state_result *r, Kds__V1__Object **ret_former)
{
	enum status_code rc = read_object(s, key, st, ret_former);
	if (rc != STATUS_OK)
		return rc;
	const Kds__V1__Object *former = *ret_former;
	if (!former || former->value_case != KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY)
		return check_new_authority(s, key, ret_ca->certificate, st, r);
	const Kds__V1__CertificateAuthority *was = former->certificate_authority;
	if (ret_ca->sealed_key.len == 0)
		ret_ca->sealed_key = was->sealed_key;
	if (!is_same(was->certificate, ret_ca->certificate) || !is_same(was->sealed_key, ret_ca->sealed_key))
		state_refuse(r, STATUS_FAILED_PRECONDITION, NULL,
			     "%s keeps the certificate and the key that it has: make another CA under another name", key);
	return STATUS_OK;
}

/* Whose certificates are in use must not go by accident. */
static enum status_code check_delete(struct state *s, const char *key, struct status *st, struct state_result *r)
{
	Kds__V1__Object *o;
	enum status_code rc = read_object(s, key, st, &o);
	if (rc == STATUS_OK && o && o->value_case == KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY &&
	    !o->certificate_authority->retired)
		state_refuse(r, STATUS_FAILED_PRECONDITION, NULL,
			     "%s signs, and without it no certificate of its nodes is valid: retire it first, and delete it when what"
			     " it signed has expired",
			     key);
	if (rc == STATUS_OK)
		kds__v1__object__free_unpacked(o, NULL);
	return rc;
}

enum status_code state_put(struct state *s, const Kds__V1__Command *c, struct status *st, struct state_result *r)
{
	const Kds__V1__PutRequest *in = c->put;
	Kds__V1__Object o = *in->object;
	o.read_from = NULL; /* of answers alone */
	char key[OBJECT_KEY_MAX];
	state_object_key(&o, key);
	/* Its certificate would be taken for a key distribution client's. */
	if (o.value_case == KDS__V1__OBJECT__VALUE_NODE && strcmp(o.node->name, s->kds_name) == 0)
		return state_refuse(r, STATUS_INVALID_ARGUMENT, "object.node.name",
				    "%s is the name of the key distribution service: give the node another",
				    o.node->name);
	/* A distributor whose clock is far ahead would end the rotation, and then take all older ones for outlived. */
	if (o.value_case == KDS__V1__OBJECT__VALUE_MASTER_KEY &&
	    o.master_key->use_from_ms > s->numbers.time_ms + MASTER_KEY_AHEAD_MS)
		return state_refuse(r, STATUS_FAILED_PRECONDITION, NULL,
				    "the masterKey is %" PRIu64 " s ahead of the replicas' time: correct the clock of"
				    " this kds-keydist's host, or the replicas'",
				    (o.master_key->use_from_ms - s->numbers.time_ms) / 1000);
	struct found found;
	enum status_code rc = find(s, key, st, &found);
	if (rc != STATUS_OK)
		return rc;
	if (in->check_revision && !revision_matches(key, found.revision, in->expected_revision, r))
		return STATUS_OK;
	Kds__V1__Object *former = NULL;
	Kds__V1__CertificateAuthority ca;
	if (c->version >= LEVEL_ASKED && o.value_case == KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY) {
		ca = *o.certificate_authority;
		o.certificate_authority = &ca;
		rc = check_authority(s, key, &ca, st, r, &former);
	}
	if (rc == STATUS_OK && r->status.code == STATUS_OK)
		rc = note_object(s, key, &o, st);
	if (rc == STATUS_OK && r->status.code == STATUS_OK)
		rc = write_object(s, key, &found, &o, st);
	/* The answer is for whoever put it, who need not be one that may see the key. */
	if (o.value_case == KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY && o.certificate_authority == &ca)
		ca.sealed_key = (ProtobufCBinaryData){ 0 };
	if (rc == STATUS_OK && r->status.code == STATUS_OK)
		rc = state_answer(r, &o.base, st);
	kds__v1__object__free_unpacked(former, NULL);
	return rc;
}

enum status_code state_delete(struct state *s, const Kds__V1__Command *c, struct status *st, struct state_result *r)
{
	const Kds__V1__DeleteRequest *in = c->delete_;
	struct found found;
	enum status_code rc = find(s, in->key, st, &found);
	if (rc != STATUS_OK)
		return rc;
	if (in->check_revision && !revision_matches(in->key, found.revision, in->expected_revision, r))
		return STATUS_OK;
	if (found.revision == 0)
		return state_refuse(r, STATUS_NOT_FOUND, NULL, "there is no %s", in->key);
	/* What destroys something because it is old goes by the time that the replicas agree on. */
	if (in->not_before_ms > s->numbers.time_ms)
		return state_refuse(r, STATUS_FAILED_PRECONDITION, NULL,
				    "%s is to go at %" PRIu64 ", which is %" PRIu64 " s ahead of the replicas' time: correct"
				    " the clock of the host that asks, or the replicas'",
				    in->key, in->not_before_ms, (in->not_before_ms - s->numbers.time_ms) / 1000);
	if (c->version >= LEVEL_ASKED && strncmp(in->key, CA_PREFIX, strlen(CA_PREFIX)) == 0)
		rc = check_delete(s, in->key, st, r);
	if (rc != STATUS_OK || r->status.code != STATUS_OK)
		return rc;
	/* The value goes; what is left tells watchers that it went. */
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.deleted = true;
	rc = note_object(s, in->key, &o, st);
	return rc == STATUS_OK ? write_and_answer(s, in->key, &found, &o, st, r) : rc;
}

enum status_code state_write_object(struct state *s, const char *key, Kds__V1__Object *o, struct status *st)
{
	struct found found;
	enum status_code rc = find(s, key, st, &found);
	return rc == STATUS_OK ? write_object(s, key, &found, o, st) : rc;
}

enum status_code state_write_min(struct state *s, struct status *st)
{
	Kds__V1__MinSerial value = KDS__V1__MIN_SERIAL__INIT;
	value.value = s->numbers.min_serial;
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_MIN_SERIAL;
	o.min_serial = &value;
	return state_write_object(s, "serial/min", &o, st);
}

static enum status_code keep_names(struct state *s, const Kds__V1__Cluster *c, struct status *st)
{
	char *cluster = strdup(c->name), *kds_name = strdup(c->kds_name);
	if (!cluster || !kds_name) {
		free(cluster);
		free(kds_name);
		return status_set(st, STATUS_INTERNAL, "state: out of memory for the cluster's names");
	}
	free(s->cluster);
	free(s->kds_name);
	s->cluster = cluster;
	s->kds_name = kds_name;
	return STATUS_OK;
}

enum status_code state_restore_objects(struct state *s, struct status *st)
{
	if (sqlite3_exec(s->db, "DELETE FROM objects WHERE deleted OR key GLOB 'replica/*'", NULL, NULL, NULL) != SQLITE_OK)
		return state_sql_failed(s, st, "forget the replicas of before");
	s->numbers.tombstones = 0;
	return STATUS_OK;
}

enum status_code state_genesis(struct state *s, const Kds__V1__Genesis *in, struct status *st, struct state_result *r)
{
	/* Its state cannot be had from the log: who begins with an empty one needs a snapshot. */
	if (in->restored.len > 0)
		return status_set(st, STATUS_DATA_LOSS,
				  "the log begins with a backup that this replica does not have; empty its data-dir and add it to "
				  "the cluster again");
	if (s->numbers.revision > 0)
		return state_refuse(r, STATUS_FAILED_PRECONDITION, NULL, "the cluster %s exists already", s->cluster);
	s->numbers.last_serial = in->first_serial - 1;
	s->numbers.min_serial = in->first_serial;
	s->numbers.level = LEVEL_FIRST;
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_CLUSTER;
	o.cluster = in->cluster;
	const struct found nothing = { .revision = 0 };
	enum status_code rc = keep_names(s, in->cluster, st);
	if (rc == STATUS_OK)
		rc = write_and_answer(s, "cluster", &nothing, &o, st, r);
	return rc == STATUS_OK ? state_write_min(s, st) : rc;
}

/* What is kept in memory of the objects between two keys. */
static enum status_code load_objects(struct state *s, const char *from, const char *to, struct status *st)
{
	sqlite3_stmt *sql = s->sql[SQL_OBJECTS_BETWEEN];
	enum status_code rc = STATUS_OK;
	int rv = SQLITE_DONE;
	state_bind_text(sql, 1, from);
	state_bind_text(sql, 2, to);
	while (rc == STATUS_OK && (rv = sqlite3_step(sql)) == SQLITE_ROW) {
		struct slice value = state_column(sql, 0);
		Kds__V1__Object *o = kds__v1__object__unpack(NULL, value.len, value.data);
		/* Passed over, this replica would decide otherwise than those that have it. */
		if (!o)
			rc = status_set(st, STATUS_DATA_LOSS,
					"state: an object between %s and %s is damaged, or out of memory: restore this replica",
					from, to);
		else if (o->value_case == KDS__V1__OBJECT__VALUE_SETTING || o->value_case == KDS__V1__OBJECT__VALUE_SERVICE)
			rc = note_object(s, o->key, o, st);
		kds__v1__object__free_unpacked(o, NULL);
	}
	if (rc == STATUS_OK && rv != SQLITE_DONE)
		rc = state_sql_failed(s, st, "read the objects");
	sqlite3_reset(sql);
	return rc;
}

static enum status_code load_names(struct state *s, struct status *st)
{
	Kds__V1__Cluster none = KDS__V1__CLUSTER__INIT;
	if (s->numbers.revision == 0)
		return keep_names(s, &none, st);
	sqlite3_stmt *sql = s->sql[SQL_OBJECT_GET];
	state_bind_text(sql, 1, "cluster");
	Kds__V1__Object *o = NULL;
	if (sqlite3_step(sql) == SQLITE_ROW) {
		struct slice value = state_column(sql, 2);
		o = kds__v1__object__unpack(NULL, value.len, value.data);
	}
	sqlite3_reset(sql);
	enum status_code rc;
	if (o && o->value_case == KDS__V1__OBJECT__VALUE_CLUSTER)
		rc = keep_names(s, o->cluster, st);
	else
		rc = status_set(st, STATUS_DATA_LOSS,
				"state: the cluster's description is missing or damaged:"
				" restore this replica");
	kds__v1__object__free_unpacked(o, NULL);
	return rc;
}

enum status_code state_objects_load(struct state *s, struct status *st)
{
	enum status_code rc = load_names(s, st);
	if (rc == STATUS_OK)
		rc = load_objects(s, SETTING_PREFIX, "setting0", st);
	return rc == STATUS_OK ? load_objects(s, "service/", "service0", st) : rc;
}
