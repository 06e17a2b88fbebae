#include "services/serial/genesis.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gnutls/crypto.h>

#include "common/rpc/message.h"
#include "services/serial/codec.h"
#include "services/serial/level.h"

#define FIRST_SERIAL 1
#define MEMBERS_MAX 7

static int by_id(const void *a, const void *b)
{
	const struct engine_member *x = a, *y = b;
	return (x->id > y->id) - (x->id < y->id);
}

static enum status_code make_membership(const struct engine_options *o, struct status *st, struct buffer *out)
{
	if (o->n_members == 0 || o->n_members > MEMBERS_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "replica: name 1 to %d replicas", MEMBERS_MAX);
	/* The order of the sections in the file must not matter. */
	struct engine_member members[MEMBERS_MAX];
	memcpy(members, o->members, o->n_members * sizeof *members);
	qsort(members, o->n_members, sizeof *members, by_id);
	struct raft_configuration configuration;
	raft_configuration_init(&configuration);
	struct raft_buffer encoded = { 0 };
	enum status_code rc = STATUS_OK;
	bool found = false;
	for (size_t i = 0; rc == STATUS_OK && i < o->n_members; i++) {
		found = found || members[i].id == o->id;
		int rv = raft_configuration_add(&configuration, members[i].id, members[i].name, RAFT_VOTER);
		if (rv == RAFT_NOMEM)
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
		else if (rv != 0 || members[i].id == 0 || members[i].id > INT64_MAX || members[i].name[0] == '\0')
			rc = status_set(st, STATUS_INVALID_ARGUMENT,
					"replica %s: each replica needs a name and a positive id that no other has",
					members[i].name);
	}
	if (rc == STATUS_OK && !found)
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "id: %" PRIu64 " is none of the replica sections' ids", o->id);
	if (rc == STATUS_OK && (raft_configuration_encode(&configuration, &encoded) != 0 ||
				!buffer_append(out, encoded.base, encoded.len)))
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	raft_free(encoded.base);
	raft_configuration_close(&configuration);
	return rc;
}

static enum status_code make_command(const struct engine_options *o, ProtobufCBinaryData restored, bool recovered,
				     struct status *st, struct buffer *out)
{
	Kds__V1__Cluster cluster = KDS__V1__CLUSTER__INIT;
	cluster.name = (char *)o->cluster;
	cluster.kds_name = (char *)o->kds_name;
	cluster.cluster_id = (char *)o->cluster_id;
	Kds__V1__Genesis genesis = KDS__V1__GENESIS__INIT;
	genesis.cluster = &cluster;
	genesis.first_serial = FIRST_SERIAL;
	genesis.restored = restored;
	genesis.recovered = recovered;
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	command.version = LEVEL_FIRST;
	command.op_case = KDS__V1__COMMAND__OP_GENESIS;
	command.genesis = &genesis;
	const char *field = "";
	enum status_code rc = state_validate(&command, st, &field);
	if (rc != STATUS_OK)
		return rc;
	return message_pack(&command.base, out, st);
}

static enum status_code make(const struct engine_options *options, ProtobufCBinaryData restored, bool recovered,
			     struct status *st, struct store_genesis *ret_genesis)
{
	struct store_genesis g = { 0 };
	enum status_code rc = make_membership(options, st, &g.configuration);
	if (rc == STATUS_OK)
		rc = make_command(options, restored, recovered, st, &g.command);
	if (rc != STATUS_OK) {
		genesis_free(&g);
		return rc;
	}
	*ret_genesis = g;
	return STATUS_OK;
}

enum status_code genesis_make(const struct engine_options *options, struct status *st,
			      struct store_genesis *ret_genesis)
{
	return make(options, (ProtobufCBinaryData){ 0 }, false, st, ret_genesis);
}

enum status_code genesis_make_restored(const struct engine_options *options, const uint8_t *digest, size_t size,
				       bool recovered, struct status *st, struct store_genesis *ret_genesis)
{
	return make(options, (ProtobufCBinaryData){ size, (uint8_t *)digest }, recovered, st, ret_genesis);
}

enum status_code genesis_make_like(const struct store_genesis *stored, const struct engine_options *options,
				   struct status *st, struct store_genesis *ret_genesis)
{
	struct store_genesis g = { 0 };
	Kds__V1__Command *c = kds__v1__command__unpack(NULL, stored->command.len, stored->command.data);
	if (!c || c->op_case != KDS__V1__COMMAND__OP_GENESIS) {
		kds__v1__command__free_unpacked(c, NULL);
		return status_set(st, STATUS_DATA_LOSS, "the log's first entries are damaged");
	}
	bool recovered = c->genesis->recovered;
	enum status_code rc = make(options, c->genesis->restored, recovered, st, &g);
	kds__v1__command__free_unpacked(c, NULL);
	/* Its one member then was who was left, not whom the configuration names. */
	if (rc == STATUS_OK && recovered) {
		g.configuration.len = 0;
		if (!buffer_append(&g.configuration, stored->configuration.data, stored->configuration.len)) {
			genesis_free(&g);
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
		}
	}
	if (rc == STATUS_OK)
		*ret_genesis = g;
	return rc;
}

void genesis_free(struct store_genesis *g)
{
	buffer_free(&g->configuration);
	buffer_free(&g->command);
}

enum status_code genesis_hash(const struct store_genesis *g, struct status *st, uint8_t ret_hash[GENESIS_HASH_SIZE])
{
	const struct buffer *const parts[] = { &g->configuration, &g->command };
	struct buffer framed = { 0 };
	bool ok = true;
	for (size_t i = 0; ok && i < 2; i++) {
		uint8_t len[8];
		for (int b = 0; b < 8; b++)
			len[b] = (uint8_t)((uint64_t)parts[i]->len >> (56 - 8 * b));
		ok = buffer_append(&framed, len, sizeof len) && buffer_append(&framed, parts[i]->data, parts[i]->len);
	}
	ok = ok && gnutls_hash_fast(GNUTLS_DIG_SHA256, framed.data, framed.len, ret_hash) == 0;
	buffer_free(&framed);
	return ok ? STATUS_OK : status_set(st, STATUS_INTERNAL, "hash the first log entries");
}

static enum status_code changed(struct status *st, const char *option, const char *was, const char *is)
{
	return status_set(st, STATUS_FAILED_PRECONDITION,
			  "%s is '%.64s', but this replica's log began with '%.64s'; put the option back (or the right data-dir)",
			  option, is, was);
}

static enum status_code compare_memberships(const struct raft_configuration *was, const struct raft_configuration *is,
					    struct status *st)
{
	for (unsigned i = 0; i < was->n || i < is->n; i++) {
		if (i >= is->n)
			return changed(st, "replica", was->servers[i].address, "");
		if (i >= was->n)
			return changed(st, "replica", "", is->servers[i].address);
		if (strcmp(was->servers[i].address, is->servers[i].address) != 0)
			return changed(st, "replica", was->servers[i].address, is->servers[i].address);
		if (was->servers[i].id != is->servers[i].id) {
			char before[24], after[24];
			snprintf(before, sizeof before, "%llu", was->servers[i].id);
			snprintf(after, sizeof after, "%llu", is->servers[i].id);
			return changed(st, "a replica's id", before, after);
		}
	}
	return STATUS_OK;
}

static enum status_code compare_commands(const Kds__V1__Command *was, const Kds__V1__Command *is, struct status *st)
{
	if (was->op_case != KDS__V1__COMMAND__OP_GENESIS || !was->genesis->cluster)
		return STATUS_OK;
	const Kds__V1__Cluster *x = was->genesis->cluster, *y = is->genesis->cluster;
	if (strcmp(x->name, y->name) != 0)
		return changed(st, "cluster", x->name, y->name);
	if (strcmp(x->kds_name, y->kds_name) != 0)
		return changed(st, "kds-name", x->kds_name, y->kds_name);
	if (strcmp(x->cluster_id, y->cluster_id) != 0)
		return changed(st, "cluster-id", x->cluster_id, y->cluster_id);
	return STATUS_OK;
}

static bool same(const struct buffer *a, const struct buffer *b)
{
	return a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}

static enum status_code compare_packed(const struct buffer *stored, const struct buffer *configured, struct status *st)
{
	enum status_code rc = STATUS_OK;
	Kds__V1__Command *was = kds__v1__command__unpack(NULL, stored->len, stored->data);
	Kds__V1__Command *is = kds__v1__command__unpack(NULL, configured->len, configured->data);
	if (was && is)
		rc = compare_commands(was, is, st);
	if (was)
		kds__v1__command__free_unpacked(was, NULL);
	if (is)
		kds__v1__command__free_unpacked(is, NULL);
	return rc;
}

enum status_code genesis_compare_names(const struct store_genesis *stored, const struct engine_options *options,
				       struct status *st)
{
	struct buffer command = { 0 };
	enum status_code rc = make_command(options, (ProtobufCBinaryData){ 0 }, false, st, &command);
	if (rc == STATUS_OK)
		rc = compare_packed(&stored->command, &command, st);
	buffer_free(&command);
	return rc;
}

enum status_code genesis_compare(const struct store_genesis *stored, const struct store_genesis *configured,
				 struct status *st)
{
	enum status_code rc = STATUS_OK;
	if (!same(&stored->command, &configured->command))
		rc = compare_packed(&stored->command, &configured->command, st);
	if (rc == STATUS_OK && !same(&stored->configuration, &configured->configuration)) {
		const struct raft_buffer x = { stored->configuration.data, stored->configuration.len };
		const struct raft_buffer y = { configured->configuration.data, configured->configuration.len };
		struct raft_configuration was, is;
		/* The stored one comes from a disk, and decoding checks no bounds. */
		bool have_was = codec_configuration_valid((struct slice){ x.base, x.len }) &&
				raft_configuration_decode(&x, &was) == 0;
		bool have_is = raft_configuration_decode(&y, &is) == 0;
		if (have_was && have_is)
			rc = compare_memberships(&was, &is, st);
		if (have_was)
			raft_configuration_close(&was);
		if (have_is)
			raft_configuration_close(&is);
	}
	if (rc == STATUS_OK && (!same(&stored->command, &configured->command) ||
				!same(&stored->configuration, &configured->configuration)))
		rc = status_set(st, STATUS_FAILED_PRECONDITION,
				"this replica's log began with other entries than this configuration gives; check the options "
				"cluster, kds-name, cluster-id and replica");
	return rc;
}
