/*
 * kds-cli backup restore: a new cluster's files, of which each replica begins with the backup. What must be decided is
 * decided here, and is in the file that all replicas get: serials that are skipped, min_serial, and an id, so that no two
 * restores make the same cluster.
 */
#include "clients/cli/backup.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "clients/cli/infra.h"
#include "clients/cli/init.h"
#include "clients/cli/output.h"
#include "clients/cli/passphrase.h"
#include "clients/cli/session.h"
#include "common/backup/check.h"
#include "common/base/secret.h"

#define RESTORE_FILE "restore.kds"

struct restoring {
	struct cli *cli;
	const char *file, *dir;
	struct backup_summary backup;
	Kds__V1__BackupRestore decided;
	uint8_t id[16];
	struct init_plan plan;
};

/* What was decided */

static enum status_code decide_min_serial(struct restoring *r, struct status *st)
{
	const char *text = cli_value(r->cli, OPT_MIN_SERIAL);
	const Kds__V1__BackupHeader *h = r->backup.header;
	if (!text)
		return status_set(
		    st, STATUS_INVALID_ARGUMENT,
		    "decide with --min-serial what becomes of certificates that were issued after this backup, of which nothing"
		    " is known: keep accepts them, all refuses every one issued so far (nodes need new ones), N those below N");
	if (strcmp(text, "keep") == 0)
		r->decided.min_serial = h->min_serial;
	else if (strcmp(text, "all") == 0)
		r->decided.min_serial = h->last_serial + r->decided.skip + 1;
	else if (cli_parse_number(text, "--min-serial", 0, INT64_MAX, st, &r->decided.min_serial) != STATUS_OK)
		return status_set(st, STATUS_INVALID_ARGUMENT, "--min-serial '%.40s': give keep, all or a serial number", text);
	return STATUS_OK;
}

static enum status_code decide(struct restoring *r, struct status *st)
{
	kds__v1__backup_restore__init(&r->decided);
	r->decided.id = (ProtobufCBinaryData){ sizeof r->id, r->id };
	enum status_code rc =
	    cli_number(r->cli, OPT_SKIP, BACKUP_SKIP_MIN, INT64_MAX / 4, BACKUP_SKIP_MIN, st, &r->decided.skip);
	if (rc == STATUS_OK)
		rc = decide_min_serial(r, st);
	if (rc == STATUS_OK)
		rc = secret_random(r->id, sizeof r->id, st);
	return rc == STATUS_OK ? backup_check_restore(r->backup.header, &r->decided, st) : rc;
}

/* The file of each replica */

static enum status_code copy_rows(void *writer, struct slice rows, struct status *st)
{
	return backup_writer_rows(writer, rows, st);
}

static enum status_code write_file(const struct restoring *r, const char *path, struct status *st)
{
	struct backup_writer *w = NULL;
	struct backup_summary read = { 0 };
	uint8_t digest[BACKUP_DIGEST_SIZE];
	enum status_code rc = backup_writer_new(path, false, st, &w);
	if (rc == STATUS_OK)
		rc = backup_writer_header(w, r->backup.header, st);
	if (rc == STATUS_OK)
		rc = backup_file_read(r->file, copy_rows, w, st, &read);
	if (rc == STATUS_OK && memcmp(read.digest, r->backup.digest, sizeof digest) != 0)
		rc = status_set(st, STATUS_ABORTED, "%s was changed while it was read", r->file);
	if (rc == STATUS_OK)
		rc = backup_writer_restore(w, &r->decided, st);
	if (rc == STATUS_OK)
		rc = backup_writer_end(w, st, digest);
	backup_writer_free(w);
	backup_summary_fini(&read);
	return rc;
}

static enum status_code write_files(const struct init_plan *plan, void *arg, struct status *st)
{
	const struct restoring *r = arg;
	enum status_code rc = STATUS_OK;
	for (size_t i = 0; rc == STATUS_OK && i < plan->n_services; i++) {
		char path[PATH_MAX];
		if (plan->services[i].kind != INIT_SERIAL)
			continue;
		rc = init_path(plan, plan->services[i].name, RESTORE_FILE, st, path, sizeof path);
		if (rc == STATUS_OK)
			rc = write_file(r, path, st);
	}
	return rc;
}

/* The whole */

static enum status_code make_plan(struct restoring *r, struct status *st)
{
	struct init_plan *p = &r->plan;
	const Kds__V1__Cluster *c = r->backup.header->cluster;
	bool new_ca = cli_has(r->cli, OPT_NEW_CA);
	p->cluster = c->name;
	p->kds_name = c->kds_name;
	p->restore = RESTORE_FILE;
	if (strlen(c->cluster_id) >= sizeof p->cluster_id)
		return status_set(st, STATUS_DATA_LOSS, "%s: the cluster's id is too long", r->file);
	snprintf(p->cluster_id, sizeof p->cluster_id, "%s", c->cluster_id);
	enum status_code rc = init_plan_kind(r->cli, INIT_SERIAL, p, st);
	if (rc == STATUS_OK && new_ca)
		rc = init_plan_kind(r->cli, INIT_CA, p, st);
	if (rc == STATUS_OK && new_ca)
		rc = init_plan_kind(r->cli, INIT_KEYDIST, p, st);
	if (rc == STATUS_OK)
		rc = init_plan_listen(r->cli, p, st);
	return rc == STATUS_OK ? init_check_addresses(p, st) : rc;
}

/* With the infrastructure CA that the configuration names, so that the services' certificates stay valid. */
static enum status_code make_with_old_ca(struct restoring *r, struct status *st)
{
	struct pki_authority *authority = NULL;
	if (session_open(r->cli, st) != STATUS_OK)
		return status_prefix(st, "the old cluster's administrator's configuration is needed (or --new-ca)");
	if (strcmp(session_cluster(r->cli->session), r->plan.cluster) != 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "the backup is of the cluster %.80s, the configuration of %.80s",
				  r->plan.cluster, session_cluster(r->cli->session));
	enum status_code rc = infra_authority(r->cli, st, &authority);
	if (rc == STATUS_OK) {
		r->plan.authority = authority;
		rc = init_make_directory(&r->plan, r->dir, write_files, r, st);
	}
	pki_authority_free(authority);
	return rc;
}

static enum status_code make_with_new_ca(struct restoring *r, struct status *st)
{
	char *passphrase = NULL;
	const char *file = cli_value(r->cli, OPT_PASSPHRASE_FILE);
	enum status_code rc = file ? passphrase_read(file, true, st, &passphrase) : passphrase_random(st, &passphrase);
	r->plan.passphrase = passphrase;
	r->plan.keep_passphrase = !file;
	if (rc == STATUS_OK)
		rc = init_make_directory(&r->plan, r->dir, write_files, r, st);
	passphrase_free(passphrase);
	return rc;
}

static enum status_code print_json(const struct restoring *r, struct status *st)
{
	char number[4][24];
	const Kds__V1__BackupHeader *h = r->backup.header;
	const uint64_t numbers[] = { h->last_serial, r->decided.skip, h->last_serial + r->decided.skip + 1,
				     r->decided.min_serial };
	for (size_t i = 0; i < 4; i++)
		snprintf(number[i], sizeof number[i], "%" PRIu64, numbers[i]);
	return output_json(json_pack("{ss,ss,ss,ss,ss,ss,ss}", "directory", r->dir, "cluster", r->plan.cluster, "clusterId",
				     r->plan.cluster_id, "lastSerial", number[0], "skipped", number[1], "firstSerial",
				     number[2], "minSerial", number[3]),
			   st);
}

static void print_addresses(const struct init_plan *p)
{
	char address[HOST_TEXT_SIZE];
	printf("       serial-addresses = {");
	for (size_t i = 0, n = 0; i < p->n_services; i++)
		if (p->services[i].kind == INIT_SERIAL)
			printf("%s\"%s\"", n++ ? ", " : "",
			       host_format(&p->services[i].host, p->services[i].host.port, address));
	printf("}\n");
}

static void print_result(const struct restoring *r)
{
	const struct init_plan *p = &r->plan;
	const Kds__V1__BackupHeader *h = r->backup.header;
	char time[OUTPUT_TIME_SIZE];
	printf("Prepared in %s: the cluster %s as it was at %s.\n\n", r->dir, p->cluster,
	       output_time((int64_t)(h->time_ms / 1000), time));
	printf("  Serial numbers: %" PRIu64 " were handed out when it was saved. %" PRIu64 " more are skipped, as some of\n"
	       "  them may have been handed out since: the next one is %" PRIu64 ".\n"
	       "  Certificates with a serial below %" PRIu64 " are refused.\n"
	       "  Records of certificates, and changes of the configuration, that came after the backup are lost.\n",
	       h->last_serial, r->decided.skip, h->last_serial + r->decided.skip + 1, r->decided.min_serial);
	printf("\nNext:\n"
	       "  1. See that no replica of the old cluster runs, nor will run again.\n"
	       "  2. Bring each folder to its host, and start the replicas:\n");
	for (size_t i = 0; i < p->n_services; i++)
		if (p->services[i].kind == INIT_SERIAL)
			printf("       kds-serial --config %s/%s/kds-serial.conf\n", r->dir, p->services[i].name);
	if (p->authority) {
		printf("  3. Every kds-ca and kds-keydist, and cli.conf, stay as they are; if the addresses are new:\n");
		print_addresses(p);
		return;
	}
	printf("  3. The infrastructure CA is new. Put the old cluster's ca.seal into each ca folder and its keydist.seal into\n"
	       "     each keydist folder: nothing else opens its keys. Then start kds-ca and kds-keydist.\n");
}

enum status_code backup_run_restore(struct cli *cli, struct status *st)
{
	struct restoring r = { .cli = cli, .file = cli->args[0], .dir = cli_value(cli, OPT_DIR) };
	if (!r.dir || !*r.dir)
		return status_set(st, STATUS_INVALID_ARGUMENT, "give --dir, the directory to make");
	enum status_code rc = backup_verify(r.file, st, &r.backup);
	if (rc != STATUS_OK)
		return rc == STATUS_NOT_FOUND ? cli_bad_input(st) : rc;
	if (r.backup.restore)
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "%s was prepared already; give the backup as it was saved", r.file);
	if (rc == STATUS_OK)
		rc = decide(&r, st);
	if (rc == STATUS_OK)
		rc = make_plan(&r, st);
	if (rc == STATUS_OK)
		rc = cli_has(cli, OPT_NEW_CA) ? make_with_new_ca(&r, st) : make_with_old_ca(&r, st);
	if (rc == STATUS_OK && cli->json)
		rc = print_json(&r, st);
	else if (rc == STATUS_OK)
		print_result(&r);
	backup_summary_fini(&r.backup);
	return rc;
}

const struct argp_option backup_restore_options[] = {
	{ "dir", OPT_DIR, "DIR", 0, "The directory to make; it may exist, empty", 0 },
	{ "min-serial", OPT_MIN_SERIAL, "keep|all|N", 0,
	  "Of the certificates issued so far, known or not, refuse none more, all, or those with a serial below N", 0 },
	{ "skip", OPT_SKIP, "N", 0, "Serial numbers never to be handed out (default and least: 1000000)", 0 },
	{ "replicas", OPT_REPLICAS, "HOST,...", 0, "Where kds-serial will run, as for `init'", 0 },
	{ "listen", OPT_LISTEN, "ADDRESS", 0, INIT_LISTEN_HELP, 0 },
	{ "ca-key", OPT_CA_KEY, "FILE", 0, "The infrastructure CA's key (default: infra-ca.key beside its certificate)",
	  0 },
	{ "passphrase-file", OPT_PASSPHRASE_FILE, "FILE", 0,
	  "Its first line opens that key (-: ask, or read standard input; default: passphrase beside it)", 0 },
	{ "new-ca", OPT_NEW_CA, NULL, 0,
	  "Make a new infrastructure CA, and new certificates for all services, because the old one is lost", 0 },
	{ "ca-host", OPT_CA_HOST, "HOST,...", 0, "With --new-ca: where kds-ca runs", 0 },
	{ "keydist-host", OPT_KEYDIST_HOST, "HOST,...", 0, "With --new-ca: where kds-keydist runs", 0 },
	{ 0 },
};
