/* kds-cli config watch: changes as they come, for people or line by line for programs. */
#include "clients/cli/config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clients/cli/objects.h"
#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/rpc/json.h"

#define PAUSE_S 1

struct watching {
	struct cli *cli;
	char *prefixes[CLI_ARGS_MAX];
	uint64_t since, began;
	uint64_t left; /* objects to print */
	bool answered; /* at least once */
	bool lost;     /* since the last answer, and people were told */
};

/* Takes the reference. */
static enum status_code print_json_line(json_t *json, struct status *st)
{
	int rv = json ? json_dumpf(json, stdout, JSON_COMPACT) : -1;
	json_decref(json);
	if (rv < 0 || putchar('\n') == EOF)
		return status_set(st, STATUS_INTERNAL, "write standard output");
	return STATUS_OK;
}

static enum status_code print_change(const struct cli *cli, const Kds__V1__Object *object, struct status *st)
{
	if (cli->json) {
		json_t *json;
		if (json_from_message(&object->base, true, st, &json) != STATUS_OK)
			return st->code;
		return print_json_line(json, st);
	}
	char *text = object_describe(object);
	if (!text)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	output_sanitize(text);
	printf("%" PRIu64 "  %s  %s\n", object->revision, object->key, text);
	free(text);
	return STATUS_OK;
}

/* What was told before may be gone, and nobody says so object by object. */
static enum status_code start_over(struct watching *w, struct status *st)
{
	cli_notice(w->cli, "the cluster no longer knows all changes since revision %" PRIu64 "; starting over", w->since);
	w->since = w->began = 0;
	return w->cli->json ? print_json_line(json_pack("{sb}", "restart", 1), st) : STATUS_OK;
}

static enum status_code take_news(struct watching *w, const Kds__V1__WatchResponse *news, struct status *st)
{
	enum status_code rc = STATUS_OK;
	if (w->lost)
		cli_notice(w->cli, "watching again");
	w->answered = true;
	w->lost = false;
	if (news->restart)
		rc = start_over(w, st);
	for (size_t i = 0; i < news->n_objects && w->left > 0 && rc == STATUS_OK; i++, w->left--)
		rc = print_change(w->cli, news->objects[i], st);
	if (!news->restart) {
		w->since = news->revision;
		w->began = news->began;
	}
	if (rc == STATUS_OK && fflush(stdout) != 0)
		rc = status_set(st, STATUS_INTERNAL, "write standard output");
	return rc;
}

static enum status_code ask(struct watching *w, struct status *st)
{
	Kds__V1__WatchRequest in = KDS__V1__WATCH_REQUEST__INIT;
	ProtobufCMessage *answer;
	in.since_revision = w->since;
	in.began = w->began;
	in.prefixes = w->prefixes;
	in.n_prefixes = w->cli->n_args;
	const struct session_request request = {
		.role = PEER_SERIAL,
		.service = &kds__v1__config__descriptor,
		.method = "Watch",
		.long_poll = true,
		.input = &in.base,
	};
	if (session_call(w->cli, &request, st, &answer) != STATUS_OK)
		return st->code;
	enum status_code rc = take_news(w, (const Kds__V1__WatchResponse *)answer, st);
	protobuf_c_message_free_unpacked(answer, NULL);
	return rc;
}

enum status_code config_watch(struct cli *cli, struct status *st)
{
	struct watching w = { .cli = cli };
	if (cli_number(cli, OPT_SINCE, 0, UINT64_MAX, 0, st, &w.since) != STATUS_OK ||
	    cli_number(cli, OPT_COUNT, 1, UINT64_MAX, UINT64_MAX, st, &w.left) != STATUS_OK)
		return st->code;
	for (size_t i = 0; i < cli->n_args; i++)
		w.prefixes[i] = (char *)(uintptr_t)cli->args[i]; /* only read */
	while (w.left > 0) {
		enum status_code rc = ask(&w, st);
		if (rc == STATUS_OK)
			continue;
		/* A replica that fails must not end a watch that runs; one that never began says what is wrong. */
		if (!w.answered || (rc != STATUS_UNAVAILABLE && rc != STATUS_DEADLINE_EXCEEDED))
			return rc;
		if (!w.lost)
			cli_notice(cli, "%s; trying again", st->message);
		w.lost = true;
		sleep(PAUSE_S);
	}
	return STATUS_OK;
}
