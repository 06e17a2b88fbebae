/* kds-cli call: any method, found by name, with JSON in and out. */
#include <stdio.h>
#include <string.h>

#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/rpc/json.h"
#include "common/rpc/registry.h"

#define INPUT_BUDGET ((size_t)8 << 20)

/* The input message from the second argument, from standard input for "-", or empty. */
static enum status_code read_message(const struct cli *cli, const ProtobufCMessageDescriptor *type, struct arena *arena,
				     struct status *st, ProtobufCMessage **ret_message)
{
	struct buffer text = { 0 };
	const char *argument = cli->n_args > 1 ? cli->args[1] : "{}";
	enum status_code rc = STATUS_OK;
	if (strcmp(argument, "-") == 0)
		rc = cli_read_input(argument, st, &text);
	else if (!buffer_append(&text, argument, strlen(argument)))
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	if (rc == STATUS_OK) {
		json_error_t error;
		json_t *json = json_loadb((const char *)text.data, text.len, JSON_REJECT_DUPLICATES, &error);
		rc = json ? json_to_message(type, json, arena, st, ret_message)
			  : status_set(st, STATUS_INVALID_ARGUMENT, "not JSON: line %d, column %d: %s", error.line,
				       error.column, error.text);
		json_decref(json);
	}
	buffer_free(&text);
	return rc;
}

static enum status_code run_call(struct cli *cli, struct status *st)
{
	const struct rpc_service_entry *entry;
	unsigned method;
	ProtobufCMessage *input, *answer;
	if (rpc_registry_find(cli->args[0], st, &entry, &method) != STATUS_OK)
		return cli_bad_input(st);
	const ProtobufCMethodDescriptor *m = &entry->descriptor->methods[method];
	struct arena *arena = arena_new(INPUT_BUDGET);
	if (!arena)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	enum status_code rc = read_message(cli, m->input, arena, st, &input);
	if (rc == STATUS_OK) {
		const char *address = cli_value(cli, OPT_ADDRESS);
		/* What every daemon serves is asked of the replicas, unless an address says whom. */
		unsigned everyone = address ? PEER_SERIAL | PEER_CA | PEER_KEYDIST : PEER_SERIAL;
		const struct session_request request = {
			.role = entry->server_role ? entry->server_role : everyone,
			.address = address,
			.service = entry->descriptor,
			.method = m->name,
			.input = input,
			.secret = entry->server_role & PEER_KEYDIST,
		};
		rc = session_call(cli, &request, st, &answer);
	}
	if (rc == STATUS_OK) {
		rc = output_message(answer, st);
		protobuf_c_message_free_unpacked(answer, NULL);
	}
	arena_free(arena);
	return rc;
}

static const struct argp_option call_options[] = {
	{ "address", OPT_ADDRESS, "HOST[:PORT]", 0,
	  "Ask this process alone (default: the configured ones that serve it)", 0 },
	{ 0 },
};

static const struct cli_command commands[] = {
	{
	    .arguments = "SERVICE.METHOD [JSON]",
	    .purpose = "Call any method; the answer is printed as JSON",
	    .examples = "  kds-cli call Serial.Show\n"
			"  kds-cli call Config.Get '{\"key\": \"node/node1.example.com\"}'\n"
			"  kds-cli call Health.Check --address 127.0.0.1:7410\n"
			"  kds-cli call Config.Put - < object.json\n"
			"\n`kds-cli describe' lists the methods and what they take.",
	    .options = call_options,
	    .min_args = 1,
	    .max_args = 2,
	    .run = run_call,
	},
};

const struct cli_noun cli_call = {
	.name = "call",
	.purpose = "Call any method of any service",
	.commands = commands,
	.n_commands = sizeof commands / sizeof commands[0],
};
