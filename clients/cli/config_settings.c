/* kds-cli config list: the settings there are, with what they are set to. */
#include "clients/cli/config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "clients/cli/objects.h"
#include "clients/cli/output.h"
#include "common/base/settings.h"

#define SETTING_PREFIX "setting/"

/* What the cluster has set. */
struct set_value {
	char *name, *value;
	uint64_t revision;
	bool known; /* stands in our table */
};

struct listing {
	const struct set_value *of[SETTING_COUNT]; /* NULL: not set */
	struct set_value *values;
	size_t n, capacity;
};

static enum status_code collect(void *arg, const Kds__V1__Object *object, struct status *st)
{
	struct listing *l = arg;
	enum setting which;
	if (object->value_case != KDS__V1__OBJECT__VALUE_SETTING)
		return STATUS_OK;
	if (l->n == l->capacity) {
		size_t capacity = l->capacity ? l->capacity * 2 : 32;
		struct set_value *values = reallocarray(l->values, capacity, sizeof *values);
		if (!values)
			return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
		l->values = values;
		l->capacity = capacity;
	}
	struct set_value *v = &l->values[l->n++];
	*v = (struct set_value){ .name = strdup(object->setting->name),
				 .value = strdup(object->setting->value),
				 .revision = object->revision,
				 .known = setting_find(object->setting->name, &which) };
	return v->name && v->value ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

static void free_listing(struct listing *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->values[i].name);
		free(l->values[i].value);
	}
	free(l->values);
}

static enum status_code read_listing(struct cli *cli, struct status *st, struct listing *l)
{
	enum setting which;
	enum status_code rc = objects_each(cli, SETTING_PREFIX, collect, l, st);
	for (size_t i = 0; rc == STATUS_OK && i < l->n; i++)
		if (setting_find(l->values[i].name, &which))
			l->of[which] = &l->values[i];
	return rc;
}

/* Settings that our table does not have. */
static const char *purpose_of_unknown(const char *name)
{
	bool site = strncmp(name, SETTING_SITE_PREFIX, strlen(SETTING_SITE_PREFIX)) == 0;
	return site ? "of the cluster's own" : "unknown to this version of kds-cli";
}

static void add_row(struct table *t, const struct set_value *v, const struct setting_info *info)
{
	table_add(t, "%s", info ? info->name : v->name);
	table_add(t, "%s", v ? v->value : info->standard);
	if (v)
		table_add(t, "%" PRIu64, v->revision);
	else
		table_add(t, "-");
	table_add(t, "%s", info ? info->standard : "-");
	table_add(t, "%s", info ? info->allowed : "any text");
	table_add(t, "%s", info ? info->used_by : "-");
	table_add(t, "%s", info ? info->description : purpose_of_unknown(v->name));
}

static enum status_code print_table(const struct listing *l, struct status *st)
{
	static const char *const headings[] = { "NAME",	   "VALUE",   "REVISION",    "DEFAULT",
						"ALLOWED", "USED BY", "DESCRIPTION" };
	struct table *t = table_new(headings, sizeof headings / sizeof *headings);
	if (!t)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	for (unsigned i = 0; i < SETTING_COUNT; i++)
		add_row(t, l->of[i], setting_info((enum setting)i));
	for (size_t i = 0; i < l->n; i++)
		if (!l->values[i].known)
			add_row(t, &l->values[i], NULL);
	enum status_code rc = table_print(t, st);
	table_free(t);
	return rc;
}

static json_t *to_json(const struct set_value *v, const struct setting_info *info)
{
	char revision[24];
	snprintf(revision, sizeof revision, "%" PRIu64, v ? v->revision : 0);
	json_t *o = json_pack("{ss ss ss sb}", "name", info ? info->name : v->name, "value",
			      v ? v->value : info->standard, "revision", revision, "isSet", v != NULL);
	if (o && info)
		json_object_update_new(o, json_pack("{ss ss ss ss}", "default", info->standard, "allowed",
						    info->allowed, "usedBy", info->used_by, "description",
						    info->description));
	return o;
}

static enum status_code print_json(const struct listing *l, struct status *st)
{
	json_t *array = json_array();
	for (unsigned i = 0; i < SETTING_COUNT; i++)
		json_array_append_new(array, to_json(l->of[i], setting_info((enum setting)i)));
	for (size_t i = 0; i < l->n; i++)
		if (!l->values[i].known)
			json_array_append_new(array, to_json(&l->values[i], NULL));
	return output_json(json_pack("{so}", "settings", array), st);
}

enum status_code config_list_settings(struct cli *cli, struct status *st)
{
	struct listing l = { .n = 0 };
	enum status_code rc = read_listing(cli, st, &l);
	if (rc == STATUS_OK)
		rc = cli->json ? print_json(&l, st) : print_table(&l, st);
	free_listing(&l);
	return rc;
}
