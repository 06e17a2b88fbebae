/* kds-cli ca: the CAs that sign nodes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ca.pb-c.h"
#include "clients/cli/objects.h"
#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/base/plain_name.h"
#include "common/x509/cert.h"

static enum status_code get_bundle(struct cli *cli, struct status *st, Kds__V1__BundleResponse **ret_bundle)
{
	Kds__V1__BundleRequest in = KDS__V1__BUNDLE_REQUEST__INIT;
	const struct session_request request = {
		.role = PEER_CA,
		.service = &kds__v1__ca__descriptor,
		.method = "Bundle",
		.input = &in.base,
	};
	ProtobufCMessage *answer;
	if (session_call(cli, &request, st, &answer) != STATUS_OK)
		return st->code;
	*ret_bundle = (Kds__V1__BundleResponse *)answer;
	return STATUS_OK;
}

static enum status_code import(const Kds__V1__Authority *a, struct status *st, gnutls_x509_crt_t *ret_crt)
{
	struct slice der = { .data = a->certificate.data, .len = a->certificate.len };
	if (x509_import(der, st, ret_crt) == STATUS_OK)
		return STATUS_OK;
	status_prefix(st, "the certificate of CA '%.60s'", a->name);
	return st->code = STATUS_INTERNAL;
}

static enum status_code run_bundle(struct cli *cli, struct status *st)
{
	Kds__V1__BundleResponse *bundle = NULL;
	struct buffer pem = { 0 };
	if (get_bundle(cli, st, &bundle) != STATUS_OK)
		return st->code;
	enum status_code rc = STATUS_OK;
	if (bundle->n_authorities == 0)
		cli_notice(cli, "the cluster has no CA: nothing is in the bundle; make one with kds-cli ca create");
	for (size_t i = 0; i < bundle->n_authorities && rc == STATUS_OK && !cli->json; i++) {
		gnutls_x509_crt_t crt;
		rc = import(bundle->authorities[i], st, &crt);
		if (rc != STATUS_OK)
			break;
		rc = x509_to_pem(crt, st, &pem);
		gnutls_x509_crt_deinit(crt);
	}
	if (rc == STATUS_OK)
		rc = cli->json ? output_message(&bundle->base, st)
			       : cli_write_output(cli, (struct slice){ .data = pem.data, .len = pem.len }, st);
	buffer_free(&pem);
	kds__v1__bundle_response__free_unpacked(bundle, NULL);
	return rc;
}

#define DEFAULT_NAME "default" /* what kds-ca signs with unless its configuration says otherwise */

static const char *authority_name(const struct cli *cli)
{
	return cli->n_args > 0 ? cli->args[0] : DEFAULT_NAME;
}

static enum status_code print_details(const Kds__V1__Authority *a, struct status *st)
{
	gnutls_x509_crt_t crt;
	struct x509_info info;
	char time[OUTPUT_TIME_SIZE], hex[80];
	struct table *t = NULL;
	enum status_code rc = import(a, st, &crt);
	if (rc != STATUS_OK)
		return rc;
	rc = x509_info_read(crt, st, &info);
	gnutls_x509_crt_deinit(crt);
	if (rc != STATUS_OK)
		return rc;
	t = table_new(NULL, 2);
	if (!t) {
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
		goto out;
	}
	table_field(t, "name", "%s", a->name);
	table_field(t, "subject", "%s", info.common_name);
	table_field(t, "serial", "%" PRIu64, x509_info_serial(&info));
	table_field(t, "signs", "%s", a->signing ? "yes" : "no");
	table_field(t, "valid from", "%s", output_time(info.not_before, time));
	table_field(t, "valid until", "%s", output_time(info.not_after, time));
	table_field(t, "key id", "%s", output_hex(info.key_id, info.key_id_len, hex, sizeof hex));
	table_field(t, "fingerprint", "%s", output_hex(info.fingerprint, sizeof info.fingerprint, hex, sizeof hex));
	rc = table_print(t, st);
out:
	table_free(t);
	x509_info_free(&info);
	return rc;
}

static enum status_code run_create(struct cli *cli, struct status *st)
{
	Kds__V1__CreateAuthorityRequest in = KDS__V1__CREATE_AUTHORITY_REQUEST__INIT;
	const struct session_request request = {
		.role = PEER_CA,
		.service = &kds__v1__ca__descriptor,
		.method = "Create",
		.input = &in.base,
	};
	ProtobufCMessage *answer;
	in.name = (char *)(uintptr_t)authority_name(cli); /* only read, both */
	if (cli_has(cli, OPT_COMMON_NAME))
		in.common_name = (char *)(uintptr_t)cli_value(cli, OPT_COMMON_NAME);
	if (plain_name_check(in.name, "CA", st) != STATUS_OK || session_call(cli, &request, st, &answer) != STATUS_OK)
		return st->code;
	if (strcmp(in.name, DEFAULT_NAME) == 0)
		cli_notice(cli, "created CA %s: nodes can have certificates now", in.name);
	else
		cli_notice(cli, "created CA %s: every kds-ca signs with it whose option 'authority' names it", in.name);
	enum status_code rc = cli->json ? output_message(answer, st)
					: print_details((const Kds__V1__Authority *)answer, st);
	protobuf_c_message_free_unpacked(answer, NULL);
	return rc;
}

/* From the replicas: kds-ca need not have learned of it yet. */
static enum status_code run_show(struct cli *cli, struct status *st)
{
	char key[OBJECT_KEY_SIZE];
	Kds__V1__Object *object;
	const char *name = authority_name(cli);
	if (plain_name_check(name, "CA", st) != STATUS_OK)
		return st->code;
	snprintf(key, sizeof key, "ca/%s", name);
	if (objects_get(cli, key, st, &object) != STATUS_OK)
		return st->code;
	enum status_code rc;
	if (object->value_case == KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY) {
		const Kds__V1__CertificateAuthority *ca = object->certificate_authority;
		Kds__V1__Authority a = KDS__V1__AUTHORITY__INIT;
		a.name = ca->name;
		a.certificate = ca->certificate;
		a.signing = !ca->retired;
		rc = cli->json ? output_message(&a.base, st) : print_details(&a, st);
	} else {
		rc = status_set(st, STATUS_INTERNAL, "the answer holds no CA");
	}
	kds__v1__object__free_unpacked(object, NULL);
	return rc;
}

/* The key is not ours to see: left out, the replicas keep it. */
static enum status_code run_retire(struct cli *cli, struct status *st)
{
	char key[OBJECT_KEY_SIZE];
	Kds__V1__Object *object, *answer;
	const char *name = cli->args[0];
	if (plain_name_check(name, "CA", st) != STATUS_OK)
		return st->code;
	snprintf(key, sizeof key, "ca/%s", name);
	if (objects_get(cli, key, st, &object) != STATUS_OK)
		return st->code;
	enum status_code rc;
	if (object->value_case != KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY) {
		rc = status_set(st, STATUS_INTERNAL, "the answer holds no CA");
	} else {
		object->certificate_authority->retired = !cli_has(cli, OPT_UNDO);
		rc = objects_put(cli, object, &object->revision, st, &answer);
	}
	kds__v1__object__free_unpacked(object, NULL);
	if (rc != STATUS_OK)
		return rc;
	if (answer->certificate_authority->retired)
		cli_notice(cli, "retired CA %s: it signs nothing any more; what it signed stays valid until it expires", name);
	else
		cli_notice(cli, "CA %s signs again", name);
	rc = cli->json ? output_message(&answer->base, st) : STATUS_OK;
	kds__v1__object__free_unpacked(answer, NULL);
	return rc;
}

static enum status_code run_delete(struct cli *cli, struct status *st)
{
	char key[OBJECT_KEY_SIZE];
	Kds__V1__Object *answer;
	const char *name = cli->args[0];
	if (plain_name_check(name, "CA", st) != STATUS_OK)
		return st->code;
	snprintf(key, sizeof key, "ca/%s", name);
	if (objects_delete(cli, key, NULL, st, &answer) != STATUS_OK)
		return st->code;
	cli_notice(cli, "deleted CA %s: what it signed is refused from now on", name);
	enum status_code rc = cli->json ? output_message(&answer->base, st) : STATUS_OK;
	kds__v1__object__free_unpacked(answer, NULL);
	return rc;
}

static enum status_code add_row(struct table *t, const Kds__V1__Authority *a, struct status *st)
{
	gnutls_x509_crt_t crt;
	struct x509_info info;
	char until[OUTPUT_TIME_SIZE], hex[80];
	enum status_code rc = import(a, st, &crt);
	if (rc != STATUS_OK)
		return rc;
	rc = x509_info_read(crt, st, &info);
	gnutls_x509_crt_deinit(crt);
	if (rc != STATUS_OK)
		return rc;
	table_add(t, "%s", a->name);
	table_add(t, "%s", info.common_name);
	table_add(t, "%" PRIu64, x509_info_serial(&info));
	table_add(t, "%s", a->signing ? "yes" : "no");
	table_add(t, "%s", output_time(info.not_after, until));
	table_add(t, "%s", output_hex(info.key_id, info.key_id_len, hex, sizeof hex));
	x509_info_free(&info);
	return STATUS_OK;
}

static enum status_code run_list(struct cli *cli, struct status *st)
{
	static const char *const headings[] = { "NAME", "SUBJECT", "SERIAL", "SIGNS", "VALID UNTIL", "KEY ID" };
	Kds__V1__BundleResponse *bundle = NULL;
	if (get_bundle(cli, st, &bundle) != STATUS_OK)
		return st->code;
	enum status_code rc = STATUS_OK;
	struct table *t = NULL;
	if (cli->json) {
		rc = output_message(&bundle->base, st);
	} else if (!(t = table_new(headings, 6))) {
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	} else {
		for (size_t i = 0; i < bundle->n_authorities && rc == STATUS_OK; i++)
			rc = add_row(t, bundle->authorities[i], st);
		if (rc == STATUS_OK)
			rc = table_print(t, st);
	}
	table_free(t);
	kds__v1__bundle_response__free_unpacked(bundle, NULL);
	return rc;
}

static const struct argp_option bundle_options[] = {
	{ "out", OPT_OUT, "FILE", 0, "Write it there (default: standard output)", 0 },
	{ 0 },
};

static const struct argp_option create_options[] = {
	{ "common-name", OPT_COMMON_NAME, "NAME", 0,
	  "Of its certificate (default: the cluster's name, with its own behind unless that is \"default\")", 0 },
	{ 0 },
};

static const struct argp_option show_options[] = {
	{ "local", OPT_LOCAL, NULL, 0, "Take what one replica has now, perhaps not the newest; works without a quorum",
	  0 },
	{ 0 },
};

static const struct argp_option retire_options[] = {
	{ "undo", OPT_UNDO, NULL, 0, "Let it sign again", 0 },
	{ 0 },
};

static const struct cli_command commands[] = {
	{
	    .verb = "create",
	    .arguments = "[NAME]",
	    .purpose = "Create a CA to sign the nodes' certificates with, once for a new cluster",
	    .examples = "  kds-cli ca create\n"
			"  kds-cli ca create second --common-name 'Second CA of example.com'\n"
			"\nWithout a NAME it is \"default\", which kds-ca signs with unless the option\n"
			"`authority' of its configuration names another. Its key leaves the hosts of\n"
			"kds-ca only sealed.",
	    .options = create_options,
	    .max_args = 1,
	    .run = run_create,
	},
	{
	    .verb = "show",
	    .arguments = "[NAME]",
	    .purpose = "Show one CA",
	    .examples = "  kds-cli ca show\n"
			"  kds-cli ca show second",
	    .options = show_options,
	    .max_args = 1,
	    .run = run_show,
	},
	{
	    .verb = "retire",
	    .arguments = "NAME",
	    .purpose = "Let a CA sign no more; its certificates stay valid until they expire",
	    .examples = "  kds-cli ca retire second\n"
			"  kds-cli ca retire --undo second\n"
			"\nA kds-ca signs with one CA alone (its option `authority'): one that signs with\n"
			"this CA signs nothing until its option names another.",
	    .options = retire_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_retire,
	},
	{
	    .verb = "delete",
	    .arguments = "NAME",
	    .purpose = "Delete a retired CA: certificates that it signed are refused at once",
	    .examples = "  kds-cli ca delete second\n"
			"\nIts key goes with it. A CA that still signs is not deleted: retire it first,\n"
			"and wait until what it signed has expired (at most 168 hours).",
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_delete,
	},
	{
	    .verb = "list",
	    .arguments = "",
	    .purpose = "List the cluster's CAs, retired ones too",
	    .examples = "  kds-cli ca list",
	    .run = run_list,
	},
	{
	    .verb = "bundle",
	    .arguments = "",
	    .purpose = "Print the certificates of all the cluster's CAs in PEM",
	    .examples = "  kds-cli ca bundle --out ca.pem\n"
			"\nWhat a program needs to verify the nodes' certificates. The services are under\n"
			"the infrastructure CA instead (infra-ca.crt), which is not in it.",
	    .options = bundle_options,
	    .run = run_bundle,
	},
};

const struct cli_noun cli_ca = {
	.name = "ca",
	.purpose = "The CAs that sign the nodes' certificates",
	.commands = commands,
	.n_commands = sizeof commands / sizeof commands[0],
};
