/* kds-cli config history: who changed what and when. */
#include "clients/cli/config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "clients/cli/objects.h"
#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/rpc/json.h"

#define PAGE_MAX 1000

static enum status_code out_of_memory(struct status *st)
{
	return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

static const char *what_happened(const Kds__V1__HistoryEntry *e)
{
	if (e->object->deleted)
		return "deleted";
	return e->previous_revision == 0 ? "created" : "changed";
}

static enum status_code add_row(void *arg, const Kds__V1__HistoryEntry *e, struct status *st)
{
	struct table *t = arg;
	char time[OUTPUT_TIME_SIZE];
	bool left_out = !e->object->deleted && e->object->value_case == KDS__V1__OBJECT__VALUE__NOT_SET;
	char *text = left_out ? strdup("(large)") : object_describe(e->object);
	if (!text)
		return out_of_memory(st);
	table_add(t, "%" PRIu64, e->object->revision);
	table_add(t, "%s", output_time((int64_t)(e->time_ms / 1000), time));
	table_add(t, "%s", e->requester[0] ? e->requester : "-");
	table_add(t, "%s", e->object->key);
	table_add(t, "%s", what_happened(e));
	table_add(t, "%s", e->object->deleted ? "" : text);
	free(text);
	return STATUS_OK;
}

static enum status_code add_json(void *arg, const Kds__V1__HistoryEntry *e, struct status *st)
{
	json_t *json;
	if (json_from_message(&e->base, true, st, &json) != STATUS_OK)
		return st->code;
	return json_array_append_new(arg, json) < 0 ? out_of_memory(st) : STATUS_OK;
}

typedef enum status_code (*entry_fn)(void *arg, const Kds__V1__HistoryEntry *e, struct status *st);

/* Each entry asked for, over as many answers as it takes. A key alone, or all. */
static enum status_code each_entry(struct cli *cli, const char *key, uint64_t count, entry_fn each, void *arg,
				   struct status *st)
{
	Kds__V1__HistoryRequest in = KDS__V1__HISTORY_REQUEST__INIT;
	bool more = count > 0;
	if (key)
		in.key = (char *)(uintptr_t)key; /* only read */
	in.local = cli_has(cli, OPT_LOCAL);
	while (more) {
		ProtobufCMessage *answer;
		in.limit = count < PAGE_MAX ? (uint32_t)count : PAGE_MAX;
		const struct session_request request = {
			.role = PEER_SERIAL,
			.service = &kds__v1__config__descriptor,
			.method = "History",
			.input = &in.base,
		};
		if (session_call(cli, &request, st, &answer) != STATUS_OK)
			return st->code;
		const Kds__V1__HistoryResponse *page = (const Kds__V1__HistoryResponse *)answer;
		enum status_code rc = STATUS_OK;
		if (in.before_revision == 0)
			objects_note_age(cli, page->read_from);
		for (size_t i = 0; rc == STATUS_OK && i < page->n_entries; i++)
			if (page->entries[i]->object)
				rc = each(arg, page->entries[i], st);
		count -= page->n_entries < count ? page->n_entries : count;
		more = page->more && page->before_revision > 0 && count > 0;
		in.before_revision = page->before_revision;
		protobuf_c_message_free_unpacked(answer, NULL);
		if (rc != STATUS_OK)
			return rc;
	}
	return STATUS_OK;
}

static enum status_code print_json(struct cli *cli, const char *key, uint64_t count, struct status *st)
{
	json_t *array = json_array();
	if (each_entry(cli, key, count, add_json, array, st) != STATUS_OK) {
		json_decref(array);
		return st->code;
	}
	return output_json(json_pack("{so}", "entries", array), st);
}

enum status_code config_print_history(struct cli *cli, const char *key, struct status *st)
{
	static const char *const headings[] = { "REVISION", "TIME", "WHO", "KEY", "WHAT", "VALUE" };
	uint64_t count;
	if (cli_number(cli, OPT_COUNT, 1, UINT64_MAX, UINT64_MAX, st, &count) != STATUS_OK)
		return st->code;
	if (cli->json)
		return print_json(cli, key, count, st);
	struct table *t = table_new(headings, sizeof headings / sizeof *headings);
	if (!t)
		return out_of_memory(st);
	enum status_code rc = each_entry(cli, key, count, add_row, t, st);
	if (rc == STATUS_OK)
		rc = table_print(t, st);
	table_free(t);
	return rc;
}
