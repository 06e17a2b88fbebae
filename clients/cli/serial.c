/* kds-cli serial: the cluster's serial numbers. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "clients/cli/objects.h"
#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "serial.pb-c.h"

static enum status_code call_and_print(struct cli *cli, const char *method, const ProtobufCMessage *input,
				       struct status *st)
{
	const struct session_request request = {
		.role = PEER_SERIAL,
		.service = &kds__v1__serial__descriptor,
		.method = method,
		.input = input,
	};
	ProtobufCMessage *answer;
	if (session_call(cli, &request, st, &answer) != STATUS_OK)
		return st->code;
	enum status_code rc;
	const Kds__V1__SerialStatus *status = (const Kds__V1__SerialStatus *)answer;
	struct table *t = NULL;
	objects_note_age(cli, status->read_from);
	if (cli->json) {
		rc = output_message(answer, st);
	} else if (!(t = table_new(NULL, 2))) {
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	} else {
		table_field(t, "highest issued", "%" PRIu64, status->highest_issued);
		table_field(t, "minimum", "%" PRIu64 "%s", status->min_serial,
			    status->min_serial > 1 ? " (certificates with a lower serial are refused)" : "");
		table_field(t, "handed to CAs", "up to %" PRIu64, status->last_serial);
		table_field(t, "certificates", "%" PRIu64 " not expired", status->issued);
		table_field(t, "revision", "%" PRIu64, status->revision);
		rc = table_print(t, st);
	}
	table_free(t);
	protobuf_c_message_free_unpacked(answer, NULL);
	return rc;
}

static enum status_code run_show(struct cli *cli, struct status *st)
{
	Kds__V1__ShowRequest in = KDS__V1__SHOW_REQUEST__INIT;
	in.local = cli_has(cli, OPT_LOCAL);
	return call_and_print(cli, "Show", &in.base, st);
}

static enum status_code run_set_min(struct cli *cli, struct status *st)
{
	Kds__V1__SetMinRequest in = KDS__V1__SET_MIN_REQUEST__INIT;
	const char *value = cli->args[0];
	if (strcmp(value, "latest") == 0) {
		in.value_case = KDS__V1__SET_MIN_REQUEST__VALUE_LATEST;
		in.latest = true;
	} else if (strcmp(value, "all") == 0) {
		in.value_case = KDS__V1__SET_MIN_REQUEST__VALUE_ALL;
		in.all = true;
	} else {
		in.value_case = KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL;
		if (cli_parse_number(value, "minimum", 0, UINT64_MAX, st, &in.min_serial) != STATUS_OK)
			return status_set(st, STATUS_INVALID_ARGUMENT, "'%.60s': give a serial number, latest or all",
					  value);
	}
	return call_and_print(cli, "SetMin", &in.base, st);
}

static const struct argp_option show_options[] = {
	{ "local", OPT_LOCAL, NULL, 0, "Take what one replica has now, perhaps not the newest; works without a quorum",
	  0 },
	{ 0 },
};

static const struct cli_command commands[] = {
	{
	    .verb = "show",
	    .arguments = "",
	    .purpose = "Show the highest serial number and the minimum",
	    .examples = "  kds-cli serial show\n"
			"  kds-cli --json serial show --local\n",
	    .options = show_options,
	    .run = run_show,
	},
	{
	    .verb = "set-min",
	    .arguments = "N|latest|all",
	    .purpose = "Refuse every certificate with a lower serial number, from now on",
	    .examples = "  kds-cli serial set-min 1200\n"
			"  kds-cli serial set-min latest\n"
			"\nlatest: the highest serial issued so far, which alone stays accepted, whoever\n"
			"has it: a thief who asked last is spared. all: everything issued so far is\n"
			"refused, so every node needs a new certificate.\n"
			"The minimum never goes down. The services' own certificates are not counted.",
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_set_min,
	},
};

const struct cli_noun cli_serial = {
	.name = "serial",
	.purpose = "Serial numbers, and which are refused",
	.commands = commands,
	.n_commands = sizeof commands / sizeof commands[0],
};
