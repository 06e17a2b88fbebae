/* kds-cli config: settings and the other replicated objects. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/cli/config.h"
#include "clients/cli/objects.h"
#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/base/settings.h"
#include "common/rpc/json.h"

#define SETTING_PREFIX "setting/"
#define INPUT_BUDGET ((size_t)4 << 20)

/* A key of its own, or the name of a setting. */
static char *to_key(const char *name)
{
	char *key = NULL;
	if (strchr(name, '/') || strcmp(name, "cluster") == 0)
		return strdup(name);
	return asprintf(&key, SETTING_PREFIX "%s", name) < 0 ? NULL : key;
}

static enum status_code out_of_memory(struct status *st)
{
	return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

/* --expect N as objects_put() takes it; *ret NULL: not given. */
static enum status_code expected_revision(const struct cli *cli, uint64_t *storage, struct status *st,
					  const uint64_t **ret)
{
	if (cli_number(cli, OPT_EXPECT, 0, UINT64_MAX, 0, st, storage) != STATUS_OK)
		return st->code;
	*ret = cli_has(cli, OPT_EXPECT) ? storage : NULL;
	return STATUS_OK;
}

static enum status_code print_object(const struct cli *cli, const Kds__V1__Object *object, struct status *st)
{
	if (cli->json)
		return output_message(&object->base, st);
	char *text = object_describe(object);
	if (!text)
		return out_of_memory(st);
	output_sanitize(text);
	/* A setting's value alone, as scripts want it. */
	if (object->value_case != KDS__V1__OBJECT__VALUE_SETTING)
		printf("%s (revision %" PRIu64 "): %s\n", object->key, object->revision, text);
	else
		printf("%s\n", text);
	if (object->value_case == KDS__V1__OBJECT__VALUE_SETTING && object->revision > 0)
		cli_notice(cli, "revision %" PRIu64, object->revision);
	free(text);
	return STATUS_OK;
}

/* A setting that nobody has set is its default. Another that is not there stays the error that it was. */
static enum status_code print_default(const struct cli *cli, const char *key, struct status *st)
{
	enum setting which;
	if (strncmp(key, SETTING_PREFIX, strlen(SETTING_PREFIX)) != 0 ||
	    !setting_find(key + strlen(SETTING_PREFIX), &which))
		return st->code;
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	setting.name = (char *)(uintptr_t)setting_info(which)->name; /* both only read */
	setting.value = (char *)(uintptr_t)setting_info(which)->standard;
	object.key = (char *)(uintptr_t)key;
	object.value_case = KDS__V1__OBJECT__VALUE_SETTING;
	object.setting = &setting;
	cli_notice(cli, "not set: the default");
	return print_object(cli, &object, st);
}

static enum status_code run_get(struct cli *cli, struct status *st)
{
	Kds__V1__Object *object;
	char *key = to_key(cli->args[0]);
	if (!key)
		return out_of_memory(st);
	enum status_code rc = objects_get(cli, key, st, &object);
	if (rc == STATUS_OK) {
		rc = print_object(cli, object, st);
		kds__v1__object__free_unpacked(object, NULL);
	} else if (rc == STATUS_NOT_FOUND) {
		rc = print_default(cli, key, st);
	}
	free(key);
	return rc;
}

/* What a put says about itself, on success. */
static enum status_code put(struct cli *cli, Kds__V1__Object *object, struct status *st)
{
	uint64_t revision;
	const uint64_t *expected = NULL;
	Kds__V1__Object *answer;
	if (expected_revision(cli, &revision, st, &expected) != STATUS_OK ||
	    objects_put(cli, object, expected, st, &answer) != STATUS_OK)
		return st->code;
	enum status_code rc = STATUS_OK;
	if (cli->json)
		rc = output_message(&answer->base, st);
	else
		cli_notice(cli, "set %s, revision %" PRIu64, answer->key, answer->revision);
	kds__v1__object__free_unpacked(answer, NULL);
	return rc;
}

/* An object is given as JSON: its value under the name of its kind, or all that `get` prints. */
static enum status_code put_json(struct cli *cli, const char *name, const char *text, struct status *st)
{
	char key[OBJECT_KEY_SIZE];
	json_error_t error;
	ProtobufCMessage *message;
	json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &error);
	if (!json)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "not JSON: column %d: %s; an object is set as in '{\"node\": {\"name\": \"...\"}}'",
				  error.column, error.text);
	struct arena *arena = arena_new(INPUT_BUDGET);
	enum status_code rc =
	    arena ? json_to_message(&kds__v1__object__descriptor, json, arena, st, &message) : out_of_memory(st);
	if (rc == STATUS_OK && strcmp(object_key((const Kds__V1__Object *)message, key), name) != 0)
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "the JSON is for '%.80s', not for '%.80s'",
				*key ? key : "no object", name);
	if (rc == STATUS_OK)
		rc = put(cli, (Kds__V1__Object *)message, st);
	arena_free(arena);
	json_decref(json);
	return rc;
}

static enum status_code run_set(struct cli *cli, struct status *st)
{
	const char *name = cli->args[0];
	size_t prefix = strncmp(name, SETTING_PREFIX, strlen(SETTING_PREFIX)) == 0 ? strlen(SETTING_PREFIX) : 0;
	if (!prefix && (strchr(name, '/') || strcmp(name, "cluster") == 0))
		return put_json(cli, name, cli->args[1], st);
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	setting.name = (char *)(uintptr_t)(name + prefix); /* only read */
	setting.value = (char *)(uintptr_t)cli->args[1];
	object.value_case = KDS__V1__OBJECT__VALUE_SETTING;
	object.setting = &setting;
	return put(cli, &object, st);
}

static enum status_code run_unset(struct cli *cli, struct status *st)
{
	uint64_t revision;
	const uint64_t *expected = NULL;
	Kds__V1__Object *answer;
	if (expected_revision(cli, &revision, st, &expected) != STATUS_OK)
		return st->code;
	char *key = to_key(cli->args[0]);
	if (!key)
		return out_of_memory(st);
	enum status_code rc = objects_delete(cli, key, expected, st, &answer);
	if (rc == STATUS_OK) {
		if (cli->json)
			rc = output_message(&answer->base, st);
		else
			cli_notice(cli, "removed %s, revision %" PRIu64, key, answer->revision);
		kds__v1__object__free_unpacked(answer, NULL);
	} else if (rc == STATUS_NOT_FOUND && strncmp(key, SETTING_PREFIX, strlen(SETTING_PREFIX)) == 0) {
		status_set(st, rc, "%.200s is not set; its default, if it has one, holds already", key);
	}
	free(key);
	return rc;
}

static enum status_code add_row(void *arg, const Kds__V1__Object *object, struct status *st)
{
	struct table *t = arg;
	char *text = object_describe(object);
	if (!text)
		return out_of_memory(st);
	table_add(t, "%s", object->key);
	table_add(t, "%" PRIu64, object->revision);
	table_add(t, "%s", text);
	free(text);
	return STATUS_OK;
}

static enum status_code run_list(struct cli *cli, struct status *st)
{
	static const char *const headings[] = { "KEY", "REVISION", "VALUE" };
	if (cli->n_args == 0 && !cli_has(cli, OPT_ALL))
		return config_list_settings(cli, st);
	const char *prefix = cli->n_args > 0 ? cli->args[0] : "";
	return objects_print(cli, prefix, headings, 3, add_row, st);
}

static enum status_code run_history(struct cli *cli, struct status *st)
{
	char *key = cli->n_args > 0 ? to_key(cli->args[0]) : NULL;
	if (cli->n_args > 0 && !key)
		return out_of_memory(st);
	enum status_code rc = config_print_history(cli, key, st);
	free(key);
	return rc;
}

static const struct argp_option read_options[] = {
	{ "local", OPT_LOCAL, NULL, 0, "Take what one replica has now, perhaps not the newest; works without a quorum",
	  0 },
	{ 0 },
};

static const struct argp_option list_options[] = {
	{ "all", OPT_ALL, NULL, 0, "All objects, not the settings alone", 0 },
	{ "local", OPT_LOCAL, NULL, 0, "Take what one replica has now, perhaps not the newest; works without a quorum",
	  0 },
	{ 0 },
};

static const struct argp_option write_options[] = {
	{ "expect", OPT_EXPECT, "REVISION", 0, "Only if its revision is still this one; 0: only if there is none", 0 },
	{ 0 },
};

static const struct argp_option history_options[] = {
	{ "count", OPT_COUNT, "N", 0, "The newest N alone", 0 },
	{ "local", OPT_LOCAL, NULL, 0, "Take what one replica has now, perhaps not the newest; works without a quorum",
	  0 },
	{ 0 },
};

static const struct argp_option watch_options[] = {
	{ "since", OPT_SINCE, "N", 0, "Begin behind revision N (default: with all there is)", 0 },
	{ "count", OPT_COUNT, "N", 0, "End after N objects", 0 },
	{ 0 },
};

static const struct cli_command commands[] = {
	{
	    .verb = "get",
	    .arguments = "NAME",
	    .purpose = "Print a setting, or the object with the key NAME",
	    .examples = "  kds-cli config get certificate.node.lifetime\n"
			"  kds-cli config get node/node1.example.com\n"
			"  kds-cli --json config get cluster\n"
			"\nA NAME with a slash, and `cluster', is a key as `config list' prints it; any\n"
			"other is the name of a setting.",
	    .options = read_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_get,
	},
	{
	    .verb = "set",
	    .arguments = "NAME VALUE",
	    .purpose = "Set a setting, or an object given as JSON",
	    .examples = "  kds-cli config set certificate.node.lifetime 24h\n"
			"  kds-cli config set --expect 17 site.contact night@example.com\n"
			"  kds-cli config set service/keydist2 \\\n"
			"      '{\"service\": {\"name\": \"keydist2\", \"removed\": true}}'\n"
			"\n`config list' shows the settings; every daemon follows them without a restart.\n"
			"Names that begin with `site.' are for the cluster's own programs, any text.",
	    .options = write_options,
	    .min_args = 2,
	    .max_args = 2,
	    .run = run_set,
	},
	{
	    .verb = "unset",
	    .arguments = "NAME",
	    .purpose = "Back to a setting's default; or remove the object with the key NAME",
	    .examples = "  kds-cli config unset certificate.node.lifetime",
	    .options = write_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_unset,
	},
	{
	    .verb = "list",
	    .arguments = "[PREFIX]",
	    .purpose = "List all settings with their defaults, or the objects whose key begins with PREFIX",
	    .examples = "  kds-cli config list\n"
			"  kds-cli config list node/\n"
			"  kds-cli config list --all\n",
	    .options = list_options,
	    .max_args = 1,
	    .run = run_list,
	},
	{
	    .verb = "watch",
	    .arguments = "[PREFIX...]",
	    .purpose = "Print changes as they happen, until interrupted",
	    .examples = "  kds-cli config watch\n"
			"  kds-cli --json config watch --since 120 node/ serial/\n"
			"\nA watch goes on when a replica fails. With --json each line is a document;\n"
			"{\"restart\":true}: what was told before may be gone, everything follows again.",
	    .options = watch_options,
	    .max_args = CLI_ARGS_MAX,
	    .run = config_watch,
	},
	{
	    .verb = "history",
	    .arguments = "[NAME]",
	    .purpose = "Who changed a setting, or the object with the key NAME, or anything, newest first",
	    .examples = "  kds-cli config history certificate.node.lifetime\n"
			"  kds-cli config history serial/min\n"
			"  kds-cli --json config history --count 20\n"
			"\nThe setting history.length says how much is remembered.",
	    .options = history_options,
	    .max_args = 1,
	    .run = run_history,
	},
};

const struct cli_noun cli_config = {
	.name = "config",
	.purpose = "The replicated settings and objects",
	.commands = commands,
	.n_commands = sizeof commands / sizeof commands[0],
};
