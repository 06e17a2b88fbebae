#include "clients/cli/init.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/file.h"
#include "common/base/secret.h"
#include "common/x509/seal.h"

#define SEAL_FILE_MAX 4096

/* Text that is composed with stdio and written as one file. */
struct text {
	FILE *stream;
	char *data;
	size_t len;
};

static enum status_code text_open(struct text *t, struct status *st)
{
	*t = (struct text){ 0 };
	t->stream = open_memstream(&t->data, &t->len);
	return t->stream ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

static enum status_code text_save(struct text *t, const struct init_plan *plan, const char *folder, const char *file,
				  mode_t mode, struct status *st)
{
	char path[PATH_MAX];
	enum status_code rc = STATUS_OK;
	if (fclose(t->stream) != 0)
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "write %s: out of memory", file);
	if (rc == STATUS_OK)
		rc = init_path(plan, folder, file, st, path, sizeof path);
	if (rc == STATUS_OK)
		rc = file_write(path, (struct slice){ .data = t->data, .len = t->len }, mode, false, st);
	free(t->data);
	return rc;
}

static void put_addresses(FILE *f, const struct init_plan *plan, enum init_kind kind)
{
	const char *separator = "";
	char address[HOST_TEXT_SIZE];
	fprintf(f, "%s-addresses = {", init_kind_name(kind));
	for (size_t i = 0; i < plan->n_services; i++) {
		const struct init_service *s = &plan->services[i];
		if (s->kind != kind)
			continue;
		fprintf(f, "%s\"%s\"", separator, host_format(&s->host, s->host.port, address));
		separator = ", ";
	}
	fputs("}\n", f);
}

/* Where it listens, on `port`, into buf. */
static const char *listen_address(const struct init_plan *plan, const struct init_service *s, unsigned port,
				  char buf[HOST_TEXT_SIZE])
{
	return host_format(plan->listen.name[0] ? &plan->listen : &s->host, port, buf);
}

/* What all daemons have. */
static void put_common(FILE *f, const struct init_plan *plan, const struct init_service *s)
{
	const char *kind = init_kind_name(s->kind);
	char address[HOST_TEXT_SIZE];
	fprintf(f,
		"# kds-%s of the cluster %s, made by kds-cli and yours to edit.\n"
		"# Paths are relative to this file. To check it: kds-%s --config FILE --check-config\n"
		"\n"
		"cluster = \"%s\"\n"
		"kds-name = \"%s\"\n"
		"cluster-id = \"%s\"\n"
		"# As in the certificate's role URI:\n"
		"name = \"%s\"\n"
		"\n"
		"listen = \"%s\"\n"
		"certificate = \"service.crt\"\n"
		"key = \"service.key\"\n"
		"# The infrastructure CA; the services and the administrator are under it:\n"
		"ca = \"infra-ca.crt\"\n",
		kind, plan->cluster, kind, plan->cluster, plan->kds_name, plan->cluster_id, s->name,
		listen_address(plan, s, s->host.port, address));
	if (s->kind != INIT_SERIAL)
		put_addresses(f, plan, INIT_SERIAL);
	fputs("\n"
	      "# With their defaults (\"1.3\" shuts out stock NNG of Debian 12):\n"
	      "# tls-min = \"1.2\"\n"
	      "# log-level = \"info\"\n"
	      "\n",
	      f);
}

/* What a replica has, but for the others. */
static void put_replica(FILE *f, const struct init_plan *plan, const struct init_service *self)
{
	char address[HOST_TEXT_SIZE];
	if (plan->listen.name[0])
		fprintf(f, "# Under which the other replicas reach what is behind `listen':\nrpc-address = \"%s\"\n\n",
			host_format(&self->host, self->host.port, address));
	fprintf(f,
		"# This replica's number; never to be used again once its data is lost.\n"
		"id = %u\n"
		"peer-listen = \"%s\"\n"
		"data-dir = \"data\"\n"
		"\n"
		"# Milliseconds:\n"
		"# election-timeout = 1000\n"
		"# heartbeat = 100\n"
		"# Entries of the log that are kept for replicas that were away:\n"
		"# log-tail = 8192\n"
		"\n",
		self->id, listen_address(plan, self, self->host.port + 1, address));
}

static void put_serial(FILE *f, const struct init_plan *plan, const struct init_service *self)
{
	char address[HOST_TEXT_SIZE];
	put_replica(f, plan, self);
	if (plan->restore)
		fprintf(f, "# An empty data-dir begins with this backup:\nrestore = \"%s\"\n\n", plan->restore);
	fputs("# All replicas that began the cluster, this one too; the same in each one's file.\n", f);
	for (size_t i = 0; i < plan->n_services; i++) {
		const struct init_service *s = &plan->services[i];
		if (s->kind == INIT_SERIAL)
			fprintf(f, "replica \"%s\" {\n\tid = %u\n\taddress = \"%s\"\n}\n", s->name, s->id,
				host_format(&s->host, s->host.port + 1, address));
	}
}

void init_put_joining(FILE *f, const struct init_plan *plan, const struct init_service *self,
		      const struct init_neighbour *replicas, size_t n_replicas)
{
	put_common(f, plan, self);
	put_replica(f, plan, self);
	fputs("# It was added to a cluster that was there already. Where it finds the others, until it knows better:\n"
	      "join = true\n",
	      f);
	for (size_t i = 0; i < n_replicas; i++)
		fprintf(f, "replica \"%s\" {\n\tid = %" PRIu64 "\n\taddress = \"%s\"\n}\n", replicas[i].name, replicas[i].id,
			replicas[i].address);
}

static void put_ca(FILE *f)
{
	fputs("# Opens the CA's key; every kds-ca of the cluster has the same file.\n"
	      "seal = \"ca.seal\"\n"
	      "\n"
	      "# Which of the cluster's CAs this one signs with:\n"
	      "# authority = \"default\"\n"
	      "# Serial numbers taken at a time:\n"
	      "# block-size = 1000\n"
	      "# Signing threads; 0: one a core:\n"
	      "# workers = 0\n",
	      f);
}

static void put_keydist(FILE *f)
{
	fputs("# Opens the master keys; every kds-keydist of the cluster has the same file.\n"
	      "seal = \"keydist.seal\"\n"
	      "data-dir = \"data\"\n",
	      f);
}

static enum status_code make_directory(const struct init_plan *plan, const char *folder, const char *name,
				       struct status *st)
{
	char path[PATH_MAX];
	if (init_path(plan, folder, name, st, path, sizeof path) != STATUS_OK)
		return st->code;
	if (mkdir(path, 0700) < 0)
		return status_set(st, STATUS_FAILED_PRECONDITION, "make %s: %s", path, strerror(errno));
	return STATUS_OK;
}

/* The first of a new cluster's kind gets a new sealing key, all others a copy. */
static enum status_code make_seal(const struct init_plan *plan, const struct init_service *s, const char *folder,
				  struct status *st)
{
	char file[32], first[32], path[PATH_MAX], from[PATH_MAX];
	uint8_t *data;
	size_t len;
	snprintf(file, sizeof file, "%s.seal", init_kind_name(s->kind));
	snprintf(first, sizeof first, "%s1", init_kind_name(s->kind));
	if (init_path(plan, folder, file, st, path, sizeof path) != STATUS_OK ||
	    init_path(plan, first, file, st, from, sizeof from) != STATUS_OK)
		return st->code;
	if (!plan->seal && s->id == 1)
		return seal_create_file(path, st);
	if (secret_read_file(plan->seal ? plan->seal : from, SEAL_FILE_MAX, st, &data, &len) != STATUS_OK)
		return st->code;
	enum status_code rc = file_write(path, (struct slice){ .data = data, .len = len }, 0600, false, st);
	secret_free(data, len + 1);
	return rc;
}

enum status_code init_make_service(const struct init_plan *plan, const struct init_service *s, const char *folder,
				   struct status *st)
{
	struct text t;
	char file[32];
	snprintf(file, sizeof file, "kds-%s.conf", init_kind_name(s->kind));
	if (text_open(&t, st) != STATUS_OK)
		return st->code;
	put_common(t.stream, plan, s);
	if (s->kind == INIT_SERIAL)
		put_serial(t.stream, plan, s);
	else if (s->kind == INIT_CA)
		put_ca(t.stream);
	else
		put_keydist(t.stream);
	enum status_code rc = text_save(&t, plan, folder, file, 0644, st);
	if (rc == STATUS_OK && s->kind != INIT_CA)
		rc = make_directory(plan, folder, "data", st);
	/* Those of a cluster that goes on are not made again. */
	if (rc == STATUS_OK && s->kind != INIT_SERIAL && !plan->restore)
		rc = make_seal(plan, s, folder, st);
	return rc;
}

static enum status_code make_admin(const struct init_plan *plan, struct status *st)
{
	struct text t;
	if (text_open(&t, st) != STATUS_OK)
		return st->code;
	fprintf(t.stream,
		"# kds-cli of the cluster %s, as its administrator. Made by kds-cli init and yours to edit.\n"
		"# Paths are relative to this file.\n"
		"\n"
		"cluster = \"%s\"\n"
		"kds-name = \"%s\"\n"
		"\n",
		plan->cluster, plan->cluster, plan->kds_name);
	for (enum init_kind kind = INIT_SERIAL; kind < INIT_KINDS; kind++)
		put_addresses(t.stream, plan, kind);
	fputs("\n"
	      "certificate = \"admin.crt\"\n"
	      "key = \"admin.key\"\n"
	      "ca = \"infra-ca.crt\"\n"
	      "\n"
	      "# Seconds to wait for an answer:\n"
	      "timeout = 10\n",
	      t.stream);
	return text_save(&t, plan, "admin", "cli.conf", 0644, st);
}

static enum status_code save_passphrase(const struct init_plan *plan, struct status *st)
{
	char path[PATH_MAX];
	struct buffer line = { 0 };
	enum status_code rc = init_path(plan, "admin", "passphrase", st, path, sizeof path);
	if (rc == STATUS_OK &&
	    (!buffer_append(&line, plan->passphrase, strlen(plan->passphrase)) || !buffer_append(&line, "\n", 1)))
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "write %s: out of memory", path);
	if (rc == STATUS_OK)
		rc = file_write(path, (struct slice){ .data = line.data, .len = line.len }, 0600, false, st);
	buffer_wipe(&line);
	return rc;
}

enum status_code init_make_files(const struct init_plan *plan, struct status *st)
{
	enum status_code rc = plan->authority ? STATUS_OK : make_admin(plan, st);
	if (rc == STATUS_OK && plan->keep_passphrase)
		rc = save_passphrase(plan, st);
	for (size_t i = 0; i < plan->n_services && rc == STATUS_OK; i++)
		rc = init_make_service(plan, &plan->services[i], plan->services[i].name, st);
	return rc;
}
