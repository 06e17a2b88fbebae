/* kds-cli node: who may have certificates, for which names and groups. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/cli/objects.h"
#include "clients/cli/output.h"
#include "common/x509/name.h"

#define KEY_PREFIX "node/"
#define KEY_SIZE 280

static enum status_code node_key(const char *name, struct status *st, char key[KEY_SIZE])
{
	if (x509_check_dns_name(name, name, st) != STATUS_OK)
		return st->code;
	snprintf(key, KEY_SIZE, KEY_PREFIX "%s", name);
	return STATUS_OK;
}

static enum status_code print_node(const struct cli *cli, const Kds__V1__Object *object, struct status *st)
{
	if (cli->json)
		return output_message(&object->base, st);
	const Kds__V1__Node *node = object->node;
	struct table *t = table_new(NULL, 2);
	if (!t)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	table_field(t, "name", "%s", node->name);
	for (size_t i = 0; i < node->n_addresses; i++)
		table_field(t, "address", "%s", node->addresses[i]);
	for (size_t i = 0; i < node->n_groups; i++)
		table_field(t, "group", "%s", node->groups[i]);
	table_field(t, "revision", "%" PRIu64, object->revision);
	enum status_code rc = table_print(t, st);
	table_free(t);
	return rc;
}

static enum status_code check_values(const Kds__V1__Node *node, struct status *st)
{
	uint8_t bytes[16];
	unsigned len;
	for (size_t i = 0; i < node->n_addresses; i++) {
		if (x509_parse_address(node->addresses[i], st, bytes, &len) != STATUS_OK)
			return status_prefix(st, "--address '%.60s'", node->addresses[i]);
	}
	for (size_t i = 0; i < node->n_groups; i++) {
		if (x509_parse_group(node->groups[i], st, NULL, NULL) != STATUS_OK)
			return status_prefix(st, "--group '%.60s'", node->groups[i]);
	}
	return STATUS_OK;
}

static enum status_code run_add(struct cli *cli, struct status *st)
{
	char key[KEY_SIZE];
	char *addresses[CLI_OPTIONS_MAX], *groups[CLI_OPTIONS_MAX];
	const uint64_t none = 0;
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	Kds__V1__Node node = KDS__V1__NODE__INIT;
	Kds__V1__Object *answer;
	if (node_key(cli->args[0], st, key) != STATUS_OK)
		return st->code;
	node.name = (char *)(uintptr_t)cli->args[0]; /* only read */
	node.addresses = addresses;
	node.n_addresses = cli_values(cli, OPT_ADDRESS, addresses);
	node.groups = groups;
	node.n_groups = cli_values(cli, OPT_GROUP, groups);
	if (check_values(&node, st) != STATUS_OK)
		return st->code;
	object.value_case = KDS__V1__OBJECT__VALUE_NODE;
	object.node = &node;
	enum status_code rc = objects_put(cli, &object, cli_has(cli, OPT_REPLACE) ? NULL : &none, st, &answer);
	if (rc == STATUS_ABORTED)
		return status_set(st, rc, "%.150s exists already; add --replace to change it", cli->args[0]);
	if (rc != STATUS_OK)
		return rc;
	if (cli->json)
		rc = output_message(&answer->base, st);
	else
		cli_notice(cli, "%s %s, revision %" PRIu64, cli_has(cli, OPT_REPLACE) ? "set" : "added", cli->args[0],
			   answer->revision);
	kds__v1__object__free_unpacked(answer, NULL);
	return rc;
}

static enum status_code run_remove(struct cli *cli, struct status *st)
{
	char key[KEY_SIZE];
	Kds__V1__Object *answer;
	if (node_key(cli->args[0], st, key) != STATUS_OK || objects_delete(cli, key, NULL, st, &answer) != STATUS_OK)
		return st->code;
	enum status_code rc = STATUS_OK;
	if (cli->json)
		rc = output_message(&answer->base, st);
	else
		cli_notice(cli,
			   "removed %s: kds-ca and kds-keydist refuse its certificates, others take them until they expire "
			   "or are below a raised `serial set-min'",
			   cli->args[0]);
	kds__v1__object__free_unpacked(answer, NULL);
	return rc;
}

static enum status_code run_show(struct cli *cli, struct status *st)
{
	char key[KEY_SIZE];
	Kds__V1__Object *object;
	if (node_key(cli->args[0], st, key) != STATUS_OK || objects_get(cli, key, st, &object) != STATUS_OK)
		return st->code;
	enum status_code rc = object->value_case == KDS__V1__OBJECT__VALUE_NODE
				  ? print_node(cli, object, st)
				  : status_set(st, STATUS_INTERNAL, "the answer holds no node");
	kds__v1__object__free_unpacked(object, NULL);
	return rc;
}

/* "a, b" of a list, as one cell. */
static void add_joined(struct table *t, char *const *list, size_t n)
{
	struct buffer text = { 0 };
	bool ok = true;
	for (size_t i = 0; i < n; i++)
		ok = ok && (i == 0 || buffer_append(&text, ", ", 2)) && buffer_append(&text, list[i], strlen(list[i]));
	if (ok && text.len > 0)
		table_add(t, "%.*s", (int)text.len, (const char *)text.data);
	else
		table_add(t, "%s", ok ? "-" : "?");
	buffer_free(&text);
}

static enum status_code add_row(void *arg, const Kds__V1__Object *object, struct status *st)
{
	struct table *t = arg;
	(void)st;
	if (object->value_case != KDS__V1__OBJECT__VALUE_NODE)
		return STATUS_OK;
	table_add(t, "%s", object->node->name);
	add_joined(t, object->node->addresses, object->node->n_addresses);
	add_joined(t, object->node->groups, object->node->n_groups);
	return STATUS_OK;
}

static enum status_code run_list(struct cli *cli, struct status *st)
{
	static const char *const headings[] = { "NODE", "ADDRESSES", "GROUPS" };
	return objects_print(cli, KEY_PREFIX, headings, 3, add_row, st);
}

static const struct argp_option add_options[] = {
	{ "address", OPT_ADDRESS, "ADDRESS", 0, "An IPv4 or IPv6 address of the node; may be given several times", 0 },
	{ "group", OPT_GROUP, "URI", 0,
	  "A group whose keys it may have; behind # how precise their times are (10s); may be given several times", 0 },
	{ "replace", OPT_REPLACE, NULL, 0, "Change the node if there is one: what is given here takes the place of all that it had, groups and "
	  "addresses", 0 },
	{ 0 },
};

static const struct argp_option read_options[] = {
	{ "local", OPT_LOCAL, NULL, 0, "Take what one replica has now, perhaps not the newest; works without a quorum",
	  0 },
	{ 0 },
};

static const struct cli_command commands[] = {
	{
	    .verb = "add",
	    .arguments = "NAME",
	    .purpose = "Add a node, so that it can have certificates",
	    .examples = "  kds-cli node add node1.example.com --group 'urn:example:prjA#10s'\n"
			"  kds-cli node add node1.example.com --address 192.0.2.1 --group urn:x:b\n"
			"  kds-cli node add node1.example.com --replace --group urn:example:prjB\n"
			"\n`node show' tells what it has. A certificate keeps the groups and addresses it\n"
			"was signed with: renew it after a change.",
	    .options = add_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_add,
	},
	{
	    .verb = "list",
	    .arguments = "",
	    .purpose = "List all nodes",
	    .examples = "  kds-cli node list",
	    .options = read_options,
	    .run = run_list,
	},
	{
	    .verb = "show",
	    .arguments = "NAME",
	    .purpose = "Show one node",
	    .examples = "  kds-cli node show node1.example.com",
	    .options = read_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_show,
	},
	{
	    .verb = "remove",
	    .arguments = "NAME",
	    .purpose = "Remove a node: it gets no more certificates and no more keys",
	    .examples = "  kds-cli node remove node1.example.com",
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_remove,
	},
};

const struct cli_noun cli_node = {
	.name = "node",
	.purpose = "The nodes: their names, addresses and groups",
	.commands = commands,
	.n_commands = sizeof commands / sizeof commands[0],
};
