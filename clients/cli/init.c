/* kds-cli init: a new cluster's trust and configuration, made in one directory, whole or not at all. */
#include "clients/cli/init.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clients/cli/output.h"
#include "clients/cli/passphrase.h"
#include "common/base/secret.h"
#include "common/x509/name.h"

static const char *const kind_names[INIT_KINDS] = { "serial", "ca", "keydist" };
static const unsigned kind_ports[INIT_KINDS] = { 7400, 7410, 7420 };
static const int kind_options[INIT_KINDS] = { OPT_REPLICAS, OPT_CA_HOST, OPT_KEYDIST_HOST };
static const char *const kind_option_names[INIT_KINDS] = { "--replicas", "--ca-host", "--keydist-host" };
static const char *const kind_defaults[INIT_KINDS] = { "127.0.1.1,127.0.1.2,127.0.1.3", "127.0.0.1", "127.0.0.1" };

const char *init_kind_name(enum init_kind kind)
{
	return kind_names[kind];
}

enum status_code init_path(const struct init_plan *plan, const char *folder, const char *file, struct status *st,
			   char *buf, size_t size)
{
	int n = snprintf(buf, size, "%s/%s/%s", plan->root, folder, file);
	if (n < 0 || (size_t)n >= size)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%.100s: the path is too long", plan->root);
	return STATUS_OK;
}

unsigned init_kind_port(enum init_kind kind)
{
	return kind_ports[kind];
}

/* A random UUID, RFC 9562 §5.4. */
static enum status_code make_uuid(char text[37], struct status *st)
{
	uint8_t b[16];
	if (secret_random(b, sizeof b, st) != STATUS_OK)
		return st->code;
	b[6] = (uint8_t)((b[6] & 0x0F) | 0x40);
	b[8] = (uint8_t)((b[8] & 0x3F) | 0x80);
	snprintf(text, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2],
		 b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
	return STATUS_OK;
}

enum status_code init_plan_kind(const struct cli *cli, enum init_kind kind, struct init_plan *plan, struct status *st)
{
	struct host hosts[INIT_REPLICAS_MAX];
	size_t n;
	const char *text = cli_value(cli, kind_options[kind]);
	if (host_parse_list(text ? text : kind_defaults[kind], kind_ports[kind], kind_option_names[kind],
			    INIT_REPLICAS_MAX, st, hosts, &n) != STATUS_OK)
		return st->code;
	for (size_t i = 0; i < n; i++) {
		struct init_service *s = &plan->services[plan->n_services++];
		*s = (struct init_service){ .kind = kind, .id = (unsigned)i + 1, .host = hosts[i] };
		snprintf(s->name, sizeof s->name, "%s%u", init_kind_name(kind), s->id);
	}
	return STATUS_OK;
}

enum status_code init_plan_listen(const struct cli *cli, struct init_plan *plan, struct status *st)
{
	const char *text = cli_value(cli, OPT_LISTEN);
	struct host listen;
	if (!text)
		return STATUS_OK;
	if (host_parse(text, strlen(text), 0, "--listen", st, &listen) != STATUS_OK)
		return st->code;
	if (!listen.numeric || listen.port != 0)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "--listen: '%.100s': give an address without a port, as 0.0.0.0", text);
	plan->listen = listen;
	return STATUS_OK;
}

/* A replica also takes the port behind its own. */
static bool collide(const struct init_service *a, const struct init_service *b)
{
	if (strcmp(a->host.name, b->host.name) != 0)
		return false;
	unsigned a_last = a->host.port + (a->kind == INIT_SERIAL), b_last = b->host.port + (b->kind == INIT_SERIAL);
	return a->host.port <= b_last && b->host.port <= a_last;
}

enum status_code init_check_addresses(const struct init_plan *plan, struct status *st)
{
	for (size_t i = 0; i < plan->n_services; i++) {
		for (size_t j = i + 1; j < plan->n_services; j++) {
			const struct init_service *a = &plan->services[i], *b = &plan->services[j];
			if (collide(a, b))
				return status_set(
				    st, STATUS_INVALID_ARGUMENT,
				    "%s and %s would both use %.100s:%u; give one of them another host or port",
				    a->name, b->name, b->host.name, b->host.port);
		}
	}
	return STATUS_OK;
}

static enum status_code required(const struct cli *cli, int option, const char *name, struct status *st,
				 const char **ret)
{
	const char *value = cli_value(cli, option);
	if (!value || !*value)
		return status_set(st, STATUS_INVALID_ARGUMENT, "give --%s; see kds-cli init --help", name);
	*ret = value;
	return STATUS_OK;
}

static enum status_code make_plan(const struct cli *cli, struct init_plan *plan, const char **ret_dir,
				  struct status *st)
{
	if (required(cli, OPT_CLUSTER, "cluster", st, &plan->cluster) != STATUS_OK ||
	    required(cli, OPT_KDS_NAME, "kds-name", st, &plan->kds_name) != STATUS_OK ||
	    required(cli, OPT_DIR, "dir", st, ret_dir) != STATUS_OK ||
	    x509_check_dns_name(plan->cluster, "--cluster", st) != STATUS_OK ||
	    x509_check_dns_name(plan->kds_name, "--kds-name", st) != STATUS_OK ||
	    make_uuid(plan->cluster_id, st) != STATUS_OK)
		return st->code;
	for (enum init_kind kind = INIT_SERIAL; kind < INIT_KINDS; kind++) {
		if (init_plan_kind(cli, kind, plan, st) != STATUS_OK)
			return st->code;
	}
	enum status_code rc = init_plan_listen(cli, plan, st);
	return rc == STATUS_OK ? init_check_addresses(plan, st) : rc;
}

static int remove_one(const char *path, const struct stat *sb, int type, struct FTW *ftw)
{
	(void)sb;
	(void)type;
	(void)ftw;
	return remove(path);
}

/* Says so before any work is done; rename() decides in the end. */
static enum status_code check_free(const char *dir, struct status *st)
{
	DIR *d = opendir(dir);
	if (!d && errno == ENOENT)
		return STATUS_OK;
	if (!d)
		return status_set(st, STATUS_FAILED_PRECONDITION, "%s: %s", dir, strerror(errno));
	const struct dirent *entry;
	do
		entry = readdir(d);
	while (entry && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
	closedir(d);
	if (entry)
		return status_set(st, STATUS_ALREADY_EXISTS,
				  "%.150s is not empty; give a directory that is, or does not exist", dir);
	return STATUS_OK;
}

struct more {
	init_more_fn fn;
	void *arg;
};

static enum status_code fill(const struct init_plan *plan, void *arg, struct status *st)
{
	const struct more *more = arg;
	char path[PATH_MAX];
	/* The administrator of a CA that goes on has a folder already. */
	size_t n_folders = plan->n_services + (plan->authority ? 0 : 1);
	for (size_t i = 0; i < n_folders; i++) {
		const char *folder = i < plan->n_services ? plan->services[i].name : "admin";
		if (init_path(plan, folder, "", st, path, sizeof path) != STATUS_OK)
			return st->code;
		if (mkdir(path, 0700) < 0)
			return status_set(st, STATUS_FAILED_PRECONDITION, "make %s: %s", path, strerror(errno));
	}
	enum status_code rc = init_make_pki(plan, st);
	if (rc == STATUS_OK)
		rc = init_make_files(plan, st);
	return rc == STATUS_OK && more->fn ? more->fn(plan, more->arg, st) : rc;
}

/* In a directory beside it, renamed when all is there: a failure leaves nothing half-made. */
enum status_code init_make_folder(struct init_plan *plan, const char *dir, init_more_fn fill_it, void *arg,
				  struct status *st)
{
	char target[PATH_MAX], temporary[PATH_MAX];
	int len = snprintf(target, sizeof target, "%s", dir);
	while (len > 1 && target[len - 1] == '/')
		target[--len] = '\0';
	int n = snprintf(temporary, sizeof temporary, "%s.init-XXXXXX", target);
	if (n < 0 || (size_t)n >= sizeof temporary)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%.100s: the path is too long", target);
	if (check_free(target, st) != STATUS_OK)
		return st->code;
	if (!mkdtemp(temporary))
		return status_set(st, errno == EACCES ? STATUS_PERMISSION_DENIED : STATUS_INVALID_ARGUMENT,
				  "make a directory beside %.150s: %s", target, strerror(errno));
	plan->root = temporary;
	enum status_code rc = fill_it(plan, arg, st);
	if (rc == STATUS_OK && rename(temporary, target) < 0)
		rc = status_set(st, STATUS_FAILED_PRECONDITION, "rename the new directory to %.150s: %s", target,
				strerror(errno));
	if (rc != STATUS_OK)
		nftw(temporary, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return rc;
}

enum status_code init_make_directory(struct init_plan *plan, const char *dir, init_more_fn more, void *arg,
				     struct status *st)
{
	struct more added = { more, arg };
	return init_make_folder(plan, dir, fill, &added, st);
}

static enum status_code print_json(const struct init_plan *plan, const char *dir, struct status *st)
{
	char address[HOST_TEXT_SIZE];
	json_t *services = json_array();
	for (size_t i = 0; i < plan->n_services; i++) {
		const struct init_service *s = &plan->services[i];
		if (json_array_append_new(services,
					  json_pack("{ss,ss,ss}", "name", s->name, "kind", init_kind_name(s->kind),
						    "address", host_format(&s->host, s->host.port, address))) < 0)
			return status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	}
	return output_json(json_pack("{ss,ss,ss,ss,so}", "directory", dir, "cluster", plan->cluster, "kdsName",
				     plan->kds_name, "clusterId", plan->cluster_id, "services", services),
			   st);
}

static enum status_code print_result(const struct init_plan *plan, const char *dir, struct status *st)
{
	char address[HOST_TEXT_SIZE], real[PATH_MAX];
	static const char *const headings[] = { "FOLDER", "PROCESS", "ADDRESS" };
	if (!realpath(dir, real))
		return status_set(st, STATUS_INTERNAL, "%s: %s", dir, strerror(errno));
	struct table *t = table_new(headings, 3);
	if (!t)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	for (size_t i = 0; i < plan->n_services; i++) {
		const struct init_service *s = &plan->services[i];
		table_add(t, "%s/", s->name);
		table_add(t, "kds-%s", init_kind_name(s->kind));
		table_add(t, "%s", host_format(&s->host, s->host.port, address));
	}
	table_add(t, "admin/");
	table_add(t, "kds-cli");
	table_add(t, "-");
	printf("Made the cluster %s (key distribution service %s) in %s:\n\n", plan->cluster, plan->kds_name, real);
	enum status_code rc = table_print(t, st);
	table_free(t);
	if (rc != STATUS_OK)
		return rc;
	printf("\nNext:\n"
	       "  1. Each folder holds private keys: bring it to the host that it is for, and to no other.\n"
	       "  2. Keep admin/infra-ca.key%s off the hosts: who has it can make services.\n"
	       "  3. Start the processes, the replicas first:\n",
	       plan->keep_passphrase ? " and admin/passphrase" : "");
	for (size_t i = 0; i < plan->n_services; i++) {
		const struct init_service *s = &plan->services[i];
		printf("       kds-%s --config %s/%s/kds-%s.conf\n", init_kind_name(s->kind), real, s->name,
		       init_kind_name(s->kind));
	}
	printf("  4. Look at the cluster, create the CA that signs nodes, and add a node:\n"
	       "       export KDS_CONFIG=%s/admin/cli.conf\n"
	       "       kds-cli cluster view\n"
	       "       kds-cli ca create\n"
	       "       kds-cli node add node1.example.com --group 'urn:example:prjA#10s'\n",
	       real);
	return STATUS_OK;
}

static enum status_code run_init(struct cli *cli, struct status *st)
{
	struct init_plan plan = { 0 };
	const char *dir = NULL;
	char *passphrase = NULL;
	const char *file = cli_value(cli, OPT_PASSPHRASE_FILE);
	enum status_code rc = make_plan(cli, &plan, &dir, st);
	if (rc == STATUS_OK)
		rc = file ? passphrase_read(file, true, st, &passphrase) : passphrase_random(st, &passphrase);
	if (rc == STATUS_OK) {
		plan.passphrase = passphrase;
		plan.keep_passphrase = !file;
		rc = init_make_directory(&plan, dir, NULL, NULL, st);
	}
	passphrase_free(passphrase);
	if (rc != STATUS_OK)
		return rc;
	size_t n_replicas = 0;
	while (n_replicas < plan.n_services && plan.services[n_replicas].kind == INIT_SERIAL)
		n_replicas++;
	if (n_replicas % 2 == 0)
		cli_notice(cli, "note: %zu replicas survive no more failures than %zu would; 3 or 5 are usual",
			   n_replicas, n_replicas - 1);
	return cli->json ? print_json(&plan, dir, st) : print_result(&plan, dir, st);
}

static const struct argp_option init_options[] = {
	{ "cluster", OPT_CLUSTER, "NAME", 0, "The cluster's DNS name", 0 },
	{ "kds-name", OPT_KDS_NAME, "NAME", 0, "The DNS name of its key distribution service", 0 },
	{ "dir", OPT_DIR, "DIR", 0, "The directory to make; it may exist, empty", 0 },
	{ "replicas", OPT_REPLICAS, "HOST,...", 0,
	  "Where kds-serial runs, HOST or HOST:PORT (port 7400, and the one behind it for the others); "
	  "default 127.0.1.1,127.0.1.2,127.0.1.3",
	  0 },
	{ "ca-host", OPT_CA_HOST, "HOST,...", 0, "Where kds-ca runs (port 7410); default 127.0.0.1", 0 },
	{ "keydist-host", OPT_KEYDIST_HOST, "HOST,...", 0, "Where kds-keydist runs (port 7420); default 127.0.0.1", 0 },
	{ "listen", OPT_LISTEN, "ADDRESS", 0, INIT_LISTEN_HELP, 0 },
	{ "passphrase-file", OPT_PASSPHRASE_FILE, "FILE", 0,
	  "Encrypt the infrastructure CA's key with the first line of FILE (-: ask, or read standard input); "
	  "default: a random one, kept in DIR/admin/passphrase",
	  0 },
	{ 0 },
};

static const struct cli_command commands[] = {
	{
	    .arguments = "--cluster NAME --kds-name NAME --dir DIR",
	    .purpose = "Make a new cluster: its infrastructure CA, first certificates, configuration files",
	    .examples = "  kds-cli init --cluster c.example.com --kds-name key.example.com --dir kds\n"
			"  kds-cli init --cluster c.example.com --kds-name key.example.com --dir kds \\\n"
			"      --replicas a.example.com,b.example.com,c.example.com:8400 \\\n"
			"      --ca-host a.example.com --keydist-host b.example.com,c.example.com\n"
			"\nA folder for each process is made, and admin/ for the administrator. The\n"
			"directory appears whole or not at all.",
	    .options = init_options,
	    .offline = true,
	    .run = run_init,
	},
};

const struct cli_noun cli_init = {
	.name = "init",
	.purpose = "Make a new cluster: keys, certificates, configuration files",
	.commands = commands,
	.n_commands = sizeof commands / sizeof commands[0],
};
