#include "clients/cli/objects.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/rpc/json.h"
#include "common/x509/cert.h"

static enum status_code ask(struct cli *cli, const char *method, const ProtobufCMessage *input, struct status *st,
			    ProtobufCMessage **ret_answer)
{
	const struct session_request request = {
		.role = PEER_SERIAL,
		.service = &kds__v1__config__descriptor,
		.method = method,
		.input = input,
	};
	return session_call(cli, &request, st, ret_answer);
}

enum status_code objects_each(struct cli *cli, const char *prefix, object_each_fn each, void *arg, struct status *st)
{
	char *after = NULL;
	bool more = true;
	enum status_code rc = STATUS_OK;
	while (more && rc == STATUS_OK) {
		Kds__V1__ListRequest in = KDS__V1__LIST_REQUEST__INIT;
		ProtobufCMessage *answer;
		in.prefix = (char *)(uintptr_t)prefix; /* only read */
		if (after)
			in.after = after;
		in.local = cli_has(cli, OPT_LOCAL);
		rc = ask(cli, "List", &in.base, st, &answer);
		if (rc != STATUS_OK)
			break;
		const Kds__V1__ListResponse *page = (const Kds__V1__ListResponse *)answer;
		if (!after)
			objects_note_age(cli, page->read_from);
		for (size_t i = 0; i < page->n_objects && rc == STATUS_OK; i++)
			rc = each(arg, page->objects[i], st);
		more = page->more && page->n_objects > 0;
		if (more && rc == STATUS_OK) {
			free(after);
			after = strdup(page->objects[page->n_objects - 1]->key);
			if (!after)
				rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
		}
		protobuf_c_message_free_unpacked(answer, NULL);
	}
	free(after);
	return rc;
}

void objects_note_age(const struct cli *cli, const Kds__V1__ReadFrom *from)
{
	if (from)
		cli_notice(cli, "local state of revision %" PRIu64 ", %" PRIu64 " ms old", from->revision, from->age_ms);
}

static enum status_code collect_json(void *arg, const Kds__V1__Object *object, struct status *st)
{
	json_t *json;
	if (json_from_message(&object->base, true, st, &json) != STATUS_OK)
		return st->code;
	if (json_array_append_new(arg, json) < 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	return STATUS_OK;
}

static enum status_code print_json(struct cli *cli, const char *prefix, struct status *st)
{
	json_t *array = json_array();
	if (objects_each(cli, prefix, collect_json, array, st) != STATUS_OK) {
		json_decref(array);
		return st->code;
	}
	return output_json(json_pack("{so}", "objects", array), st);
}

enum status_code objects_print(struct cli *cli, const char *prefix, const char *const *headings, size_t n_columns,
			       object_each_fn add_row, struct status *st)
{
	if (cli->json)
		return print_json(cli, prefix, st);
	struct table *t = table_new(headings, n_columns);
	if (!t)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	enum status_code rc = objects_each(cli, prefix, add_row, t, st);
	if (rc == STATUS_OK)
		rc = table_print(t, st);
	table_free(t);
	return rc;
}

enum status_code objects_get(struct cli *cli, const char *key, struct status *st, Kds__V1__Object **ret_object)
{
	Kds__V1__GetRequest in = KDS__V1__GET_REQUEST__INIT;
	ProtobufCMessage *answer;
	in.key = (char *)(uintptr_t)key; /* only read */
	in.local = cli_has(cli, OPT_LOCAL);
	if (ask(cli, "Get", &in.base, st, &answer) != STATUS_OK)
		return st->code;
	*ret_object = (Kds__V1__Object *)answer;
	objects_note_age(cli, (*ret_object)->read_from);
	return STATUS_OK;
}

enum status_code objects_put(struct cli *cli, Kds__V1__Object *object, const uint64_t *expected, struct status *st,
			     Kds__V1__Object **ret_object)
{
	Kds__V1__PutRequest in = KDS__V1__PUT_REQUEST__INIT;
	ProtobufCMessage *answer;
	in.object = object;
	in.check_revision = expected != NULL;
	in.expected_revision = expected ? *expected : 0;
	if (ask(cli, "Put", &in.base, st, &answer) != STATUS_OK)
		return st->code;
	*ret_object = (Kds__V1__Object *)answer;
	return STATUS_OK;
}

enum status_code objects_delete(struct cli *cli, const char *key, const uint64_t *expected, struct status *st,
				Kds__V1__Object **ret_object)
{
	Kds__V1__DeleteRequest in = KDS__V1__DELETE_REQUEST__INIT;
	ProtobufCMessage *answer;
	in.key = (char *)(uintptr_t)key; /* only read */
	in.check_revision = expected != NULL;
	in.expected_revision = expected ? *expected : 0;
	if (ask(cli, "Delete", &in.base, st, &answer) != STATUS_OK)
		return st->code;
	*ret_object = (Kds__V1__Object *)answer;
	return STATUS_OK;
}

const char *object_key(const Kds__V1__Object *o, char buf[OBJECT_KEY_SIZE])
{
	buf[0] = '\0';
	switch (o->value_case) {
	case KDS__V1__OBJECT__VALUE_CLUSTER:
		snprintf(buf, OBJECT_KEY_SIZE, "cluster");
		break;
	case KDS__V1__OBJECT__VALUE_NODE:
		snprintf(buf, OBJECT_KEY_SIZE, "node/%s", o->node->name);
		break;
	case KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY:
		snprintf(buf, OBJECT_KEY_SIZE, "ca/%s", o->certificate_authority->name);
		break;
	case KDS__V1__OBJECT__VALUE_MASTER_KEY:
		snprintf(buf, OBJECT_KEY_SIZE, "masterkey/%020" PRIu64, o->master_key->published_ms);
		break;
	case KDS__V1__OBJECT__VALUE_SETTING:
		snprintf(buf, OBJECT_KEY_SIZE, "setting/%s", o->setting->name);
		break;
	case KDS__V1__OBJECT__VALUE_SERVICE:
		snprintf(buf, OBJECT_KEY_SIZE, "service/%s", o->service->name);
		break;
	case KDS__V1__OBJECT__VALUE_MIN_SERIAL:
		snprintf(buf, OBJECT_KEY_SIZE, "serial/min");
		break;
	case KDS__V1__OBJECT__VALUE_REPLICA:
		snprintf(buf, OBJECT_KEY_SIZE, "replica/%s", o->replica->name);
		break;
	case KDS__V1__OBJECT__VALUE__NOT_SET:
	default:
		break;
	}
	return buf;
}

static void put_list(FILE *f, const char *what, char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		fprintf(f, "%s%s", i == 0 ? what : ", ", list[i]);
}

static void put_ca(FILE *f, const Kds__V1__CertificateAuthority *ca)
{
	char until[OUTPUT_TIME_SIZE];
	gnutls_x509_crt_t crt;
	struct slice der = { .data = ca->certificate.data, .len = ca->certificate.len };
	if (x509_import(der, NULL, &crt) != STATUS_OK) {
		fprintf(f, "%zu bytes that are no certificate", ca->certificate.len);
		return;
	}
	fprintf(f, "%s, certificate until %s", ca->retired ? "retired" : "signs",
		output_time(gnutls_x509_crt_get_expiration_time(crt), until));
	gnutls_x509_crt_deinit(crt);
}

static void put_value(FILE *f, const Kds__V1__Object *o)
{
	char published[OUTPUT_TIME_SIZE], use_from[OUTPUT_TIME_SIZE];
	switch (o->value_case) {
	case KDS__V1__OBJECT__VALUE_CLUSTER:
		fprintf(f, "%s, KDS %s, id %s", o->cluster->name, o->cluster->kds_name, o->cluster->cluster_id);
		break;
	case KDS__V1__OBJECT__VALUE_NODE:
		put_list(f, "addresses ", o->node->addresses, o->node->n_addresses);
		put_list(f, o->node->n_addresses ? "; groups " : "groups ", o->node->groups, o->node->n_groups);
		if (o->node->n_addresses + o->node->n_groups == 0)
			fputs("no addresses, no groups", f);
		break;
	case KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY:
		put_ca(f, o->certificate_authority);
		break;
	case KDS__V1__OBJECT__VALUE_MASTER_KEY:
		fprintf(f, "published %s, used from %s",
			output_time((int64_t)(o->master_key->published_ms / 1000), published),
			output_time((int64_t)(o->master_key->use_from_ms / 1000), use_from));
		break;
	case KDS__V1__OBJECT__VALUE_SETTING:
		fputs(o->setting->value, f);
		break;
	case KDS__V1__OBJECT__VALUE_SERVICE:
		fputs(o->service->removed ? "removed" : "in service", f);
		break;
	case KDS__V1__OBJECT__VALUE_MIN_SERIAL:
		fprintf(f, "%" PRIu64, o->min_serial->value);
		break;
	case KDS__V1__OBJECT__VALUE_REPLICA:
		fprintf(f, "id %" PRIu64 ", %s, peers at %s", o->replica->id,
			o->replica->removed ? "removed" : o->replica->voter ? "voter" : "standby", o->replica->address);
		break;
	case KDS__V1__OBJECT__VALUE__NOT_SET:
	default:
		fputs(o->deleted ? "deleted" : "-", f);
		break;
	}
}

char *object_describe(const Kds__V1__Object *object)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	if (!f)
		return NULL;
	if (object->deleted)
		fputs("deleted", f);
	else
		put_value(f, object);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
