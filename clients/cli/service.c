/* kds-cli service: the daemons' and administrators' own certificates and roles, under the infrastructure CA. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clients/cli/cert.h"
#include "clients/cli/infra.h"
#include "clients/cli/objects.h"
#include "clients/cli/output.h"
#include "clients/cli/passphrase.h"
#include "clients/cli/pki.h"
#include "clients/cli/service.h"
#include "clients/cli/session.h"
#include "common/base/file.h"
#include "common/x509/cert.h"

enum status_code service_check_name(const char *name, struct status *st)
{
	size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.");
	if (len == 0 || len > 63 || name[len])
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "'%.60s': a service's name has 1 to 63 letters, digits, hyphens or dots", name);
	return STATUS_OK;
}

static enum status_code parse_subject(const struct cli *cli, struct host *host, struct pki_subject *subject,
				      struct status *st)
{
	const char *role = cli->args[0];
	bool admin = strcmp(role, "admin") == 0;
	if (!(peer_role_parse(role, strlen(role)) & PEER_SERVICES))
		return status_set(st, STATUS_INVALID_ARGUMENT, "'%.40s' is no role: give serial, ca, keydist or admin",
				  role);
	if (admin != (cli->n_args == 2))
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  admin ? "an administrator has no HOST" : "give the HOST that the service runs on");
	if (service_check_name(cli->args[1], st) != STATUS_OK)
		return st->code;
	if (!admin && host_parse(cli->args[2], strlen(cli->args[2]), 1, "HOST", st, host) != STATUS_OK)
		return st->code;
	*subject = (struct pki_subject){
		.cluster = session_cluster(cli->session),
		.kds_name = session_kds_name(cli->session),
		.role = role,
		.name = cli->args[1],
		.host = admin ? NULL : host,
	};
	return STATUS_OK;
}

static enum status_code run_issue(struct cli *cli, struct status *st)
{
	struct pki_authority *authority = NULL;
	struct pki_subject subject;
	struct host host;
	gnutls_x509_privkey_t key = NULL;
	gnutls_x509_crt_t crt = NULL;
	struct buffer pem = { 0 };
	char default_key[80];
	if (session_open(cli, st) != STATUS_OK || parse_subject(cli, &host, &subject, st) != STATUS_OK)
		return st->code;
	snprintf(default_key, sizeof default_key, "%s.key", subject.name);
	const char *key_file = cli_has(cli, OPT_KEY) ? cli_value(cli, OPT_KEY) : default_key;
	enum status_code rc = infra_authority(cli, st, &authority);
	if (rc == STATUS_OK)
		rc = cert_have_key(cli, key_file, st, &key);
	if (rc == STATUS_OK)
		rc = pki_issue(authority, &subject, key, st, &crt);
	if (rc == STATUS_OK)
		rc = x509_to_pem(crt, st, &pem);
	if (rc == STATUS_OK)
		rc = cli_write_output(cli, (struct slice){ .data = pem.data, .len = pem.len }, st);
	buffer_free(&pem);
	if (crt)
		gnutls_x509_crt_deinit(crt);
	if (key)
		gnutls_x509_privkey_deinit(key);
	pki_authority_free(authority);
	return rc;
}

static enum status_code add_row(void *arg, const Kds__V1__Object *object, struct status *st)
{
	struct table *t = arg;
	(void)st;
	if (object->value_case != KDS__V1__OBJECT__VALUE_SERVICE)
		return STATUS_OK;
	table_add(t, "%s", object->service->name);
	table_add(t, "%s", object->service->removed ? "removed" : "in service");
	table_add(t, "%" PRIu64, object->revision);
	return STATUS_OK;
}

static enum status_code run_list(struct cli *cli, struct status *st)
{
	static const char *const headings[] = { "SERVICE", "STATE", "REVISION" };
	return objects_print(cli, SERVICE_KEY_PREFIX, headings, 3, add_row, st);
}

static enum status_code set_removed(struct cli *cli, bool removed, struct status *st)
{
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	Kds__V1__Service service = KDS__V1__SERVICE__INIT;
	Kds__V1__Object *answer = NULL;
	if (service_check_name(cli->args[0], st) != STATUS_OK)
		return st->code;
	service.name = (char *)(uintptr_t)cli->args[0]; /* only read */
	service.removed = removed;
	object.value_case = KDS__V1__OBJECT__VALUE_SERVICE;
	object.service = &service;
	if (objects_put(cli, &object, NULL, st, &answer) != STATUS_OK)
		return st->code;
	enum status_code rc = STATUS_OK;
	if (cli->json)
		rc = output_message(&answer->base, st);
	else
		cli_notice(cli, "%s: its certificates are %s from now on", cli->args[0],
			   removed ? "refused" : "accepted");
	kds__v1__object__free_unpacked(answer, NULL);
	return rc;
}

static enum status_code run_remove(struct cli *cli, struct status *st)
{
	return set_removed(cli, true, st);
}

static enum status_code run_restore(struct cli *cli, struct status *st)
{
	return set_removed(cli, false, st);
}

static const struct argp_option issue_options[] = {
	{ "key", OPT_KEY, "FILE", 0, "The private key; made if there is none (default: NAME.key)", 0 },
	{ "out", OPT_OUT, "FILE", 0, "Write the certificate there (default: standard output)", 0 },
	{ "ca-key", OPT_CA_KEY, "FILE", 0, "The infrastructure CA's key (default: infra-ca.key beside its certificate)",
	  0 },
	{ "passphrase-file", OPT_PASSPHRASE_FILE, "FILE", 0,
	  "Its first line opens that key (-: ask, or read standard input; default: passphrase beside it)", 0 },
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
	    .arguments = "ROLE NAME HOST[:PORT] --out DIR",
	    .purpose = "Make the folder of a further kds-ca or kds-keydist: all that its host needs",
	    .examples = "  kds-cli service add ca ca2 b.example.com --out ca2\n"
			"  kds-cli service add keydist keydist3 192.0.2.7 --out keydist3 \\\n"
			"      --seal kds/keydist1/keydist.seal\n"
			"\nROLE: ca or keydist (a further replica: kds-cli cluster add). Configuration,\n"
			"key, certificate, sealing keys. The directory appears whole or not at all.\n"
			"Clients find the new one by its address in their configuration.",
	    .options = service_add_options,
	    .min_args = 3,
	    .max_args = 3,
	    .run = service_run_add,
	},
	{
	    .verb = "issue",
	    .arguments = "ROLE NAME [HOST]",
	    .purpose = "Issue a service's or administrator's certificate from the infrastructure CA",
	    .examples = "  kds-cli service issue keydist keydist2 192.0.2.7 --out service.crt\n"
			"  kds-cli service issue serial serial1 127.0.1.1 \\\n"
			"      --key kds/serial1/service.key --out kds/serial1/service.crt\n"
			"  kds-cli service issue admin alice --out alice.crt\n"
			"\nROLE: serial, ca, keydist, or admin (without HOST). No server is asked: this\n"
			"is also how services whose certificates have expired come back. A running one\n"
			"takes the new certificate on SIGHUP.",
	    .options = issue_options,
	    .min_args = 2,
	    .max_args = 3,
	    .run = run_issue,
	},
	{
	    .verb = "list",
	    .arguments = "",
	    .purpose = "List the services that were removed or restored",
	    .examples = "  kds-cli service list",
	    .options = read_options,
	    .run = run_list,
	},
	{
	    .verb = "remove",
	    .arguments = "NAME",
	    .purpose = "Refuse a service's or administrator's certificates from now on",
	    .examples = "  kds-cli service remove keydist2\n"
			"\nNAME: as in its role URI (`cert show' prints it).",
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_remove,
	},
	{
	    .verb = "restore",
	    .arguments = "NAME",
	    .purpose = "Accept them again",
	    .examples = "  kds-cli service restore keydist2",
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_restore,
	},
};

const struct cli_noun cli_service = {
	.name = "service",
	.purpose = "The daemons' and administrators' own certificates",
	.commands = commands,
	.n_commands = sizeof commands / sizeof commands[0],
};
