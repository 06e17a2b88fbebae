/* kds-cli backup: the cluster's state in a file, saved and verified. */
#include "clients/cli/backup.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/backup/check.h"
#include "common/base/clock.h"
#include "common/rpc/channel.h"

#define PAGE_TIMEOUT_MS 5000
#define PROGRESS_MS 200

/* What is known of a file */

static enum status_code print_json(const char *file, const struct backup_summary *s, struct status *st)
{
	const Kds__V1__BackupHeader *h = s->header;
	char digest[2 * BACKUP_DIGEST_SIZE + 1], number[7][24];
	const uint64_t numbers[] = { h->revision,   h->index,  h->last_serial, h->highest_issued,
				     h->min_serial, h->issued, s->bytes };
	for (size_t i = 0; i < 7; i++)
		snprintf(number[i], sizeof number[i], "%" PRIu64, numbers[i]);
	char time[OUTPUT_TIME_SIZE];
	return output_json(json_pack("{sb,ss,ss,ss,ss,ss,ss,ss,ss,ss,ss,ss,ss,ss,ss,ss,sb}", "valid", true, "file", file,
				     "cluster", h->cluster->name, "kdsName", h->cluster->kds_name, "clusterId",
				     h->cluster->cluster_id, "revision", number[0], "index", number[1], "lastSerial",
				     number[2], "highestIssued", number[3], "minSerial", number[4], "issued", number[5],
				     "bytes", number[6], "digest",
				     output_hex(s->digest, sizeof s->digest, digest, sizeof digest), "time",
				     output_time((int64_t)(h->time_ms / 1000), time), "version", h->version, "replica",
				     h->replica, "prepared", s->restore != NULL),
			   st);
}

static enum status_code print_summary(const struct cli *cli, const char *file, const struct backup_summary *s,
				      struct status *st)
{
	if (cli->json)
		return print_json(file, s, st);
	const Kds__V1__BackupHeader *h = s->header;
	char digest[2 * BACKUP_DIGEST_SIZE + 1], time[OUTPUT_TIME_SIZE];
	struct table *t = table_new(NULL, 2);
	if (!t)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	table_field(t, "file", "%s", file);
	table_field(t, "size", "%" PRIu64 " bytes", s->bytes);
	table_field(t, "sha256", "%s", output_hex(s->digest, sizeof s->digest, digest, sizeof digest));
	table_field(t, "cluster", "%s (%s)", h->cluster->name, h->cluster->cluster_id);
	table_field(t, "saved", "%s from %s, version %s", output_time((int64_t)(h->time_ms / 1000), time), h->replica,
		    h->version);
	table_field(t, "revision", "%" PRIu64 " (entry %" PRIu64 " of the log)", h->revision, h->index);
	table_field(t, "handed to CAs", "up to %" PRIu64, h->last_serial);
	table_field(t, "highest issued", "%" PRIu64, h->highest_issued);
	table_field(t, "minimum", "%" PRIu64, h->min_serial);
	table_field(t, "certificates", "%" PRIu64 " not expired", h->issued);
	if (s->restore)
		table_field(t, "prepared", "for a new cluster: serials from %" PRIu64 " on, minimum %" PRIu64,
			    h->last_serial + s->restore->skip + 1, s->restore->min_serial);
	enum status_code rc = table_print(t, st);
	table_free(t);
	return rc;
}

/* save */

struct saving {
	struct cli *cli;
	const char *file;
	uint64_t at_least;
	struct rpc_channel *channel;
	struct backup_writer *writer;
	struct backup_check *check;
	struct backup_summary summary;
	bool remote; /* the failure is the replica's: another may do better */
	uint64_t shown_ms;
};

static void show_progress(struct saving *s)
{
	uint64_t now = clock_monotonic_ms();
	if (s->cli->quiet || !isatty(STDERR_FILENO) || now - s->shown_ms < PROGRESS_MS)
		return;
	fprintf(stderr, "\r%.1f MiB", (double)s->summary.bytes / (1 << 20));
	s->shown_ms = now;
}

static void clear_progress(const struct saving *s)
{
	if (s->shown_ms)
		fprintf(stderr, "\r\033[K");
}

static enum status_code ask_page(struct saving *s, uint64_t session, uint32_t page, struct status *st,
				 Kds__V1__BackupReadResponse **ret_page)
{
	Kds__V1__BackupReadRequest in = KDS__V1__BACKUP_READ_REQUEST__INIT;
	const struct rpc_call_options options = {
		.timeout_ms = s->cli->timeout_ms ? s->cli->timeout_ms : PAGE_TIMEOUT_MS,
		.secret = true, /* sealed, but still keys */
	};
	ProtobufCMessage *answer = NULL;
	in.session = session;
	in.page = page;
	in.at_least = session ? 0 : s->at_least;
	if (rpc_channel_wait(s->channel, &kds__v1__backup__descriptor, "Read", &in.base, &options, st, &answer) !=
	    STATUS_OK) {
		s->remote = true;
		return st->code;
	}
	*ret_page = (Kds__V1__BackupReadResponse *)answer;
	return STATUS_OK;
}

/* The first page brings the header, which stays with the summary. */
static enum status_code take_header(struct saving *s, Kds__V1__BackupReadResponse *page, struct status *st)
{
	if (!page->header || !page->header->cluster)
		return status_set(st, STATUS_INTERNAL, "the replica's answer has no header");
	s->summary.header = page->header;
	page->header = NULL;
	return backup_writer_header(s->writer, s->summary.header, st);
}

static enum status_code take_page(struct saving *s, const Kds__V1__BackupReadResponse *page, struct status *st)
{
	const struct slice rows = { page->rows.data, page->rows.len };
	if (rows.len > BACKUP_PAGE_MAX)
		return status_set(st, STATUS_INTERNAL, "the replica's answer is too long");
	enum status_code rc = backup_check_feed(s->check, rows, st);
	/* The last page may be empty. */
	if (rc == STATUS_OK && rows.len > 0)
		rc = backup_writer_rows(s->writer, rows, st);
	s->summary.bytes += rows.len;
	show_progress(s);
	return rc;
}

static enum status_code save_pages(struct saving *s, struct status *st)
{
	uint64_t session = 0;
	bool last = false;
	enum status_code rc = STATUS_OK;
	for (uint32_t n = 0; rc == STATUS_OK && !last; n++) {
		Kds__V1__BackupReadResponse *page = NULL;
		rc = ask_page(s, session, n, st, &page);
		if (rc != STATUS_OK)
			return rc;
		session = page->session;
		last = page->last;
		if (n == 0)
			rc = take_header(s, page, st);
		if (rc == STATUS_OK)
			rc = take_page(s, page, st);
		kds__v1__backup_read_response__free_unpacked(page, NULL);
	}
	return rc == STATUS_OK ? backup_check_end(s->check, s->summary.header, st) : rc;
}

/* The whole file from one replica. */
static enum status_code save_from(struct saving *s, const char *address, bool replace, struct status *st)
{
	cli_detail(s->cli, "reading from %s", address);
	s->remote = false;
	backup_summary_fini(&s->summary);
	s->check = backup_check_new();
	enum status_code rc = s->check ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	if (rc == STATUS_OK)
		rc = backup_writer_new(s->file, replace, st, &s->writer);
	if (rc == STATUS_OK)
		rc = session_dial(s->cli, PEER_SERIAL, address, st, &s->channel);
	if (rc == STATUS_OK)
		rc = save_pages(s, st);
	if (rc == STATUS_OK)
		rc = backup_writer_end(s->writer, st, s->summary.digest);
	rpc_channel_free(s->channel);
	backup_writer_free(s->writer);
	backup_check_free(s->check);
	s->channel = NULL;
	s->writer = NULL;
	s->check = NULL;
	clear_progress(s);
	return rc == STATUS_OK ? rc : status_prefix(st, "backup from %s", address);
}

/* Each replica in turn, until one gives all of it. */
static enum status_code save_from_any(struct saving *s, bool replace, struct status *st)
{
	size_t n = 1;
	const char *given = cli_value(s->cli, OPT_ADDRESS);
	char *const *addresses = given ? NULL : session_addresses(s->cli->session, PEER_SERIAL, &n);
	enum status_code rc = status_set(st, STATUS_INVALID_ARGUMENT, "the configuration has no serial-addresses");
	for (size_t i = 0; i < n; i++) {
		rc = save_from(s, given ? given : addresses[i], replace, st);
		if (rc == STATUS_OK || !s->remote || rc == STATUS_PERMISSION_DENIED)
			break;
		if (i + 1 < n)
			cli_notice(s->cli, "%s; trying the next replica", st->message);
	}
	return rc;
}

static enum status_code ask_position(struct cli *cli, struct status *st, uint64_t *ret_index)
{
	Kds__V1__BackupPositionRequest in = KDS__V1__BACKUP_POSITION_REQUEST__INIT;
	const struct session_request request = {
		.role = PEER_SERIAL,
		.service = &kds__v1__backup__descriptor,
		.method = "Position",
		.input = &in.base,
	};
	ProtobufCMessage *answer = NULL;
	if (session_call(cli, &request, st, &answer) != STATUS_OK)
		return st->code;
	*ret_index = ((const Kds__V1__BackupPosition *)answer)->index;
	protobuf_c_message_free_unpacked(answer, NULL);
	return STATUS_OK;
}

static enum status_code run_save(struct cli *cli, struct status *st)
{
	struct saving s = { .cli = cli, .file = cli->args[0] };
	bool replace = cli_has(cli, OPT_FORCE);
	if (!replace && access(s.file, F_OK) == 0)
		return status_set(st, STATUS_ALREADY_EXISTS, "%.180s is there already; give another name, or --force",
				  s.file);
	enum status_code rc = session_open(cli, st);
	/* What was answered before must be in it; --local takes what there is. */
	if (rc == STATUS_OK && !cli_has(cli, OPT_LOCAL))
		rc = ask_position(cli, st, &s.at_least);
	if (rc == STATUS_OK)
		rc = save_from_any(&s, replace, st);
	struct backup_summary written = { 0 };
	if (rc == STATUS_OK)
		rc = backup_file_read(s.file, NULL, NULL, st, &written);
	if (rc == STATUS_OK)
		rc = print_summary(cli, s.file, &written, st);
	backup_summary_fini(&written);
	backup_summary_fini(&s.summary);
	return rc;
}

/* verify */

static enum status_code run_verify(struct cli *cli, struct status *st)
{
	const char *file = cli->args[0];
	struct backup_summary s = { 0 };
	enum status_code rc = backup_verify(file, st, &s);
	if (rc == STATUS_DATA_LOSS) {
		cli->no = true;
		if (!cli->json) {
			output_sanitize(st->message); /* it may quote the file */
			fprintf(stderr, "kds-cli: backup verify: %s\n", st->message);
			return STATUS_OK;
		}
		return output_json(json_pack("{sb,ss,ss}", "valid", false, "file", file, "problem", st->message), st);
	}
	if (rc == STATUS_NOT_FOUND)
		return cli_bad_input(st);
	if (rc != STATUS_OK)
		return rc;
	rc = print_summary(cli, file, &s, st);
	backup_summary_fini(&s);
	return rc;
}

static const struct argp_option save_options[] = {
	{ "address", OPT_ADDRESS, "HOST[:PORT]", 0, "Read from this replica (default: the configured ones, until one gives all)",
	  0 },
	{ "force", OPT_FORCE, NULL, 0, "Replace FILE", 0 },
	{ "local", OPT_LOCAL, NULL, 0, "Take what that replica has, perhaps not the newest; works without a quorum", 0 },
	{ 0 },
};

static const struct cli_command commands[] = {
	{
	    .verb = "save",
	    .arguments = "FILE",
	    .purpose = "Save the cluster's state, as of now or later, while it runs",
	    .examples = "  kds-cli backup save kds-$(date +%F).backup\n"
			"  kds-cli backup save --address c.example.com kds.backup --force\n"
			"\nFILE appears whole or not at all, readable by its owner alone: it holds the\n"
			"keys of CAs and key distribution, sealed. The files ca.seal and keydist.seal\n"
			"open them; keep copies of those elsewhere.",
	    .options = save_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = run_save,
	},
	{
	    .verb = "verify",
	    .arguments = "FILE",
	    .purpose = "Is this file whole and consistent? Says what it holds. Exit status 1: no",
	    .examples = "  kds-cli backup verify kds.backup",
	    .min_args = 1,
	    .max_args = 1,
	    .offline = true,
	    .run = run_verify,
	},
	{
	    .verb = "restore",
	    .arguments = "FILE --dir DIR --min-serial keep|all|N",
	    .purpose = "Prepare a new cluster that begins with a backup",
	    .examples = "  kds-cli backup restore kds.backup --dir restored --min-serial keep \\\n"
			"      --replicas a.example.com,b.example.com,c.example.com\n"
			"\nDIR gets a folder for each replica. Serials that the old cluster may have\n"
			"handed out after the backup are skipped. Its infrastructure CA (--config)\n"
			"goes on, so the other services and their certificates stay. The old replicas\n"
			"must not run any more; they and the new ones refuse each other.",
	    .options = backup_restore_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = backup_run_restore,
	},
};

const struct cli_noun cli_backup = {
	.name = "backup",
	.purpose = "The cluster's state in a file",
	.commands = commands,
	.n_commands = sizeof commands / sizeof commands[0],
};
