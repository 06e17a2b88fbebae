/* kds-cli key: group keys, as a key distribution client. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/base/base64.h"
#include "common/base/secret.h"
#include "keydist.pb-c.h"

#define IDENT_MAX 512

static enum status_code print_base64(const char *name, const ProtobufCBinaryData *bytes, struct status *st)
{
	size_t size = base64_encoded_length(bytes->len) + 1;
	char *text = secret_alloc(size);
	if (!text)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	base64_encode((struct slice){ .data = bytes->data, .len = bytes->len }, text);
	printf("%s %s\n", name, text);
	secret_free(text, size);
	return STATUS_OK;
}

static enum status_code call_and_print(struct cli *cli, const char *method, const ProtobufCMessage *input,
				       struct status *st)
{
	const struct session_request request = {
		.role = PEER_KEYDIST,
		.service = &kds__v1__key_dist__descriptor,
		.method = method,
		.input = input,
		.secret = true,
	};
	ProtobufCMessage *answer;
	enum status_code rc = session_call(cli, &request, st, &answer);
	/* Most often: an administrator tries it with the configured identity. */
	if (rc == STATUS_PERMISSION_DENIED && !cli_has(cli, OPT_CERT)) {
		char message[STATUS_MESSAGE_MAX];
		memcpy(message, st->message, sizeof message);
		return status_set(st, rc, "%.200s; act as a node's client, with --cert and --key", message);
	}
	if (rc != STATUS_OK)
		return rc;
	Kds__V1__GroupKey *key = (Kds__V1__GroupKey *)answer;
	if (cli->json) {
		rc = output_message(answer, st);
	} else {
		rc = print_base64("ident:", &key->ident, st);
		if (rc == STATUS_OK)
			rc = print_base64("key:", &key->key, st);
	}
	secret_wipe(key->key.data, key->key.len);
	protobuf_c_message_free_unpacked(answer, NULL);
	return rc;
}

static enum status_code run_create(struct cli *cli, struct status *st)
{
	Kds__V1__CreateKeyRequest in = KDS__V1__CREATE_KEY_REQUEST__INIT;
	in.group = (char *)(uintptr_t)cli->args[0]; /* only read */
	return call_and_print(cli, "Create", &in.base, st);
}

static enum status_code run_restore(struct cli *cli, struct status *st)
{
	Kds__V1__RestoreKeyRequest in = KDS__V1__RESTORE_KEY_REQUEST__INIT;
	uint8_t ident[IDENT_MAX];
	struct slice text = { .data = cli->args[0], .len = strlen(cli->args[0]) };
	if (text.len == 0 || base64_decoded_max(text.len) > sizeof ident || !base64_decode(text, ident, &in.ident.len))
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "'%.40s' is no ident: give what `key create' printed, in base64", cli->args[0]);
	in.ident.data = ident;
	return call_and_print(cli, "Restore", &in.base, st);
}

static enum status_code run_list(struct cli *cli, struct status *st)
{
	static const char *const headings[] = { "PUBLISHED", "USED FROM", "INDEX", "CURRENT" };
	Kds__V1__ListKeysRequest in = KDS__V1__LIST_KEYS_REQUEST__INIT;
	const struct session_request request = {
		.role = PEER_KEYDIST,
		.service = &kds__v1__key_dist__descriptor,
		.method = "List",
		.input = &in.base,
	};
	ProtobufCMessage *answer;
	struct table *t = NULL;
	if (session_call(cli, &request, st, &answer) != STATUS_OK)
		return st->code;
	enum status_code rc;
	const Kds__V1__ListKeysResponse *list = (const Kds__V1__ListKeysResponse *)answer;
	if (cli->json) {
		rc = output_message(answer, st);
	} else if (!(t = table_new(headings, 4))) {
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	} else {
		char published[OUTPUT_TIME_SIZE], use_from[OUTPUT_TIME_SIZE];
		for (size_t i = 0; i < list->n_master_keys; i++) {
			const Kds__V1__MasterKeyInfo *k = list->master_keys[i];
			table_add(t, "%s", output_time((int64_t)(k->published_ms / 1000), published));
			table_add(t, "%s", output_time((int64_t)(k->use_from_ms / 1000), use_from));
			table_add(t, "%" PRIu64, k->published_ms);
			table_add(t, "%s", k->current ? "yes" : "no");
		}
		rc = table_print(t, st);
	}
	table_free(t);
	protobuf_c_message_free_unpacked(answer, NULL);
	return rc;
}

static const struct cli_command commands[] = {
	{
	    .verb = "create",
	    .arguments = "URI",
	    .purpose = "Sender: make a key for a group; prints its ident and the key, in base64",
	    .examples = "  kds-cli --cert kds.crt --key kds.key key create urn:example:prjA\n"
			"\nOnly a node's key distribution client can do this (cert sign --profile\n"
			"kds-client). The ident goes along with what the key protects; the key is\n"
			"secret.",
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_create,
	},
	{
	    .verb = "restore",
	    .arguments = "IDENT",
	    .purpose = "Receiver: get the key that an ident names",
	    .examples = "  kds-cli --cert kds.crt --key kds.key key restore AgAAAZ...",
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_restore,
	},
	{
	    .verb = "list",
	    .arguments = "",
	    .purpose = "List the master keys that group keys are derived from; never the keys themselves",
	    .examples = "  kds-cli key list",
	    .run = run_list,
	},
};

const struct cli_noun cli_key = {
	.name = "key",
	.purpose = "Group keys: make one, get one by its ident",
	.commands = commands,
	.n_commands = sizeof commands / sizeof commands[0],
};
