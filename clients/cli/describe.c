/* kds-cli describe: services, methods, messages and enums, from the descriptors that the program was built with. */
#include <stdio.h>
#include <string.h>

#include "clients/cli/output.h"
#include "common/net/identity.h"
#include "common/rpc/registry.h"

static const char *const type_names[] = {
	[PROTOBUF_C_TYPE_INT32] = "int32",       [PROTOBUF_C_TYPE_SINT32] = "sint32",
	[PROTOBUF_C_TYPE_SFIXED32] = "sfixed32", [PROTOBUF_C_TYPE_INT64] = "int64",
	[PROTOBUF_C_TYPE_SINT64] = "sint64",     [PROTOBUF_C_TYPE_SFIXED64] = "sfixed64",
	[PROTOBUF_C_TYPE_UINT32] = "uint32",     [PROTOBUF_C_TYPE_FIXED32] = "fixed32",
	[PROTOBUF_C_TYPE_UINT64] = "uint64",     [PROTOBUF_C_TYPE_FIXED64] = "fixed64",
	[PROTOBUF_C_TYPE_FLOAT] = "float",       [PROTOBUF_C_TYPE_DOUBLE] = "double",
	[PROTOBUF_C_TYPE_BOOL] = "bool",         [PROTOBUF_C_TYPE_ENUM] = "enum",
	[PROTOBUF_C_TYPE_STRING] = "string",     [PROTOBUF_C_TYPE_BYTES] = "bytes",
	[PROTOBUF_C_TYPE_MESSAGE] = "message",
};

static const char *type_name(const ProtobufCFieldDescriptor *f)
{
	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		return ((const ProtobufCMessageDescriptor *)f->descriptor)->short_name;
	if (f->type == PROTOBUF_C_TYPE_ENUM)
		return ((const ProtobufCEnumDescriptor *)f->descriptor)->short_name;
	return type_names[f->type];
}

/* Who serves it. */
static const char *server_name(const struct rpc_service_entry *entry)
{
	switch (entry->server_role) {
	case PEER_SERIAL:
		return "kds-serial";
	case PEER_CA:
		return "kds-ca";
	case PEER_KEYDIST:
		return "kds-keydist";
	default:
		return "every daemon";
	}
}

/* What a name can stand for. */
struct found {
	const struct rpc_service_entry *service;
	const ProtobufCMethodDescriptor *method; /* of that service */
	const ProtobufCMessageDescriptor *message;
	const ProtobufCEnumDescriptor *enumeration;
};

/* Looks through a message and what it is made of; messages are not recursive (proto/). */
static bool find_in_message(const ProtobufCMessageDescriptor *m, const char *name, struct found *ret)
{
	if (strcmp(m->short_name, name) == 0 || strcmp(m->name, name) == 0) {
		ret->message = m;
		return true;
	}
	for (unsigned i = 0; i < m->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->fields[i];
		const ProtobufCEnumDescriptor *e = f->type == PROTOBUF_C_TYPE_ENUM ? f->descriptor : NULL;
		if (e && (strcmp(e->short_name, name) == 0 || strcmp(e->name, name) == 0)) {
			ret->enumeration = e;
			return true;
		}
		if (f->type == PROTOBUF_C_TYPE_MESSAGE && find_in_message(f->descriptor, name, ret))
			return true;
	}
	return false;
}

static bool find_in_service(const struct rpc_service_entry *entry, const char *name, struct found *ret)
{
	const ProtobufCServiceDescriptor *d = entry->descriptor;
	size_t len = strlen(d->short_name);
	if (strcmp(d->short_name, name) == 0) {
		ret->service = entry;
		return true;
	}
	for (unsigned i = 0; i < d->n_methods; i++) {
		const ProtobufCMethodDescriptor *m = &d->methods[i];
		if (strncmp(name, d->short_name, len) == 0 && name[len] == '.' &&
		    strcmp(name + len + 1, m->name) == 0) {
			ret->service = entry;
			ret->method = m;
			return true;
		}
		if (find_in_message(m->input, name, ret) || find_in_message(m->output, name, ret))
			return true;
	}
	return false;
}

static void list_methods(struct table *t, const struct rpc_service_entry *entry)
{
	for (unsigned i = 0; i < entry->descriptor->n_methods; i++) {
		const ProtobufCMethodDescriptor *m = &entry->descriptor->methods[i];
		table_add(t, "%s.%s", entry->descriptor->short_name, m->name);
		table_add(t, "%s", m->input->short_name);
		table_add(t, "%s", m->output->short_name);
		table_add(t, "%s", server_name(entry));
	}
}

static enum status_code print_methods(const struct rpc_service_entry *entries, size_t n, struct status *st)
{
	static const char *const headings[] = { "METHOD", "TAKES", "ANSWERS", "SERVED BY" };
	struct table *t = table_new(headings, 4);
	if (!t)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	for (size_t i = 0; i < n; i++)
		list_methods(t, &entries[i]);
	enum status_code rc = table_print(t, st);
	table_free(t);
	return rc;
}

/* Fields, indented, with those of the messages inside below them. */
static void print_fields(const ProtobufCMessageDescriptor *m, int depth)
{
	for (unsigned i = 0; i < m->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->fields[i];
		bool one_of = f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF;
		printf("%*s%-*s %s%s%s\n", 2 * depth, "", 28 - 2 * depth, f->name,
		       f->label == PROTOBUF_C_LABEL_REPEATED ? "list of " : "", type_name(f),
		       one_of ? " (one of these)" : "");
		if (f->type == PROTOBUF_C_TYPE_MESSAGE)
			print_fields(f->descriptor, depth + 1);
	}
	if (m->n_fields == 0)
		printf("%*s(nothing)\n", 2 * depth, "");
}

static void print_enum(const ProtobufCEnumDescriptor *e)
{
	printf("%s:\n", e->short_name);
	for (unsigned i = 0; i < e->n_values; i++)
		printf("  %-28s %d\n", e->values[i].name, e->values[i].value);
}

static enum status_code print_found(const struct found *f, struct status *st)
{
	if (f->method) {
		printf("%s.%s, served by %s\n\nTakes %s:\n", f->service->descriptor->short_name, f->method->name,
		       server_name(f->service), f->method->input->short_name);
		print_fields(f->method->input, 1);
		printf("\nAnswers %s:\n", f->method->output->short_name);
		print_fields(f->method->output, 1);
	} else if (f->service) {
		return print_methods(f->service, 1, st);
	} else if (f->message) {
		printf("%s:\n", f->message->short_name);
		print_fields(f->message, 1);
	} else {
		print_enum(f->enumeration);
	}
	return STATUS_OK;
}

static json_t *message_json(const ProtobufCMessageDescriptor *m)
{
	json_t *fields = json_array();
	for (unsigned i = 0; i < m->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->fields[i];
		json_t *field = json_pack("{ss,ss,sb}", "name", f->name, "type", type_name(f), "repeated",
					  f->label == PROTOBUF_C_LABEL_REPEATED);
		if (field && f->type == PROTOBUF_C_TYPE_MESSAGE)
			json_object_set_new(field, "message", message_json(f->descriptor));
		json_array_append_new(fields, field);
	}
	return json_pack("{ss,so}", "name", m->short_name, "fields", fields);
}

static json_t *service_json(const struct rpc_service_entry *entry, const ProtobufCMethodDescriptor *only)
{
	json_t *methods = json_array();
	for (unsigned i = 0; i < entry->descriptor->n_methods; i++) {
		const ProtobufCMethodDescriptor *m = &entry->descriptor->methods[i];
		if (!only || only == m)
			json_array_append_new(methods,
					      json_pack("{ss,so,so}", "name", m->name, "input", message_json(m->input),
							"output", message_json(m->output)));
	}
	return json_pack("{ss,ss,so}", "name", entry->descriptor->short_name, "servedBy", server_name(entry), "methods",
			 methods);
}

static json_t *enum_json(const ProtobufCEnumDescriptor *e)
{
	json_t *values = json_object();
	for (unsigned i = 0; i < e->n_values; i++)
		json_object_set_new(values, e->values[i].name, json_integer(e->values[i].value));
	return json_pack("{ss,so}", "name", e->short_name, "values", values);
}

static json_t *found_json(const struct found *f)
{
	if (f->service)
		return service_json(f->service, f->method);
	return f->message ? message_json(f->message) : enum_json(f->enumeration);
}

static enum status_code describe_all(const struct cli *cli, struct status *st)
{
	size_t n;
	const struct rpc_service_entry *entries = rpc_registry(&n);
	if (!cli->json)
		return print_methods(entries, n, st);
	json_t *services = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(services, service_json(&entries[i], NULL));
	return output_json(json_pack("{so}", "services", services), st);
}

static enum status_code run_describe(struct cli *cli, struct status *st)
{
	if (cli->n_args == 0)
		return describe_all(cli, st);
	size_t n;
	const struct rpc_service_entry *entries = rpc_registry(&n);
	for (size_t i = 0; i < n; i++) {
		struct found found = { 0 };
		if (find_in_service(&entries[i], cli->args[0], &found))
			return cli->json ? output_json(found_json(&found), st) : print_found(&found, st);
	}
	return status_set(st, STATUS_INVALID_ARGUMENT,
			  "no service, method, message or enum '%.100s'; kds-cli describe lists them", cli->args[0]);
}

static const struct cli_command commands[] = {
	{
	    .arguments = "[NAME]",
	    .purpose = "List services, methods and fields; NAME: a service, method, message or enum",
	    .examples = "  kds-cli describe\n"
			"  kds-cli describe Config\n"
			"  kds-cli describe Ca.Sign\n"
			"  kds-cli describe Profile",
	    .max_args = 1,
	    .offline = true,
	    .run = run_describe,
	},
};

const struct cli_noun cli_describe = {
	.name = "describe",
	.purpose = "List services, methods and fields, for call",
	.commands = commands,
	.n_commands = sizeof commands / sizeof commands[0],
};
