/*
 * kds-cli service add: the folder of a further kds-ca or kds-keydist. The cluster itself keeps no list of them: who has the
 * certificate and the sealing keys is one, and clients find it by the addresses in their configuration.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clients/cli/infra.h"
#include "clients/cli/init.h"
#include "clients/cli/objects.h"
#include "clients/cli/output.h"
#include "clients/cli/service.h"
#include "clients/cli/session.h"

struct addition {
	struct init_plan plan;
	struct init_service service;
	struct pki_authority *authority;
	char default_seal[PATH_MAX];
};

static enum status_code parse_service(const struct cli *cli, struct init_service *s, struct status *st)
{
	const char *role = cli->args[0], *host = cli->args[2];
	if (strcmp(role, "serial") == 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "a replica is a member too: kds-cli cluster add");
	s->kind = INIT_CA;
	if (strcmp(role, "keydist") == 0)
		s->kind = INIT_KEYDIST;
	else if (strcmp(role, "ca") != 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "'%.40s' is no role of a further service: give ca or keydist",
				  role);
	if (service_check_name(cli->args[1], st) != STATUS_OK)
		return st->code;
	snprintf(s->name, sizeof s->name, "%s", cli->args[1]);
	return host_parse(host, strlen(host), init_kind_port(s->kind), "HOST", st, &s->host);
}

/* A name that was removed is refused everywhere, whatever certificate comes with it. */
static enum status_code check_not_removed(struct cli *cli, const char *name, struct status *st)
{
	char key[sizeof SERVICE_KEY_PREFIX + 64];
	Kds__V1__Object *o = NULL;
	snprintf(key, sizeof key, SERVICE_KEY_PREFIX "%s", name);
	enum status_code rc = objects_get(cli, key, st, &o);
	if (rc == STATUS_NOT_FOUND)
		return STATUS_OK;
	if (rc != STATUS_OK)
		return rc;
	if (o->value_case == KDS__V1__OBJECT__VALUE_SERVICE && o->service->removed)
		rc = status_set(st, STATUS_FAILED_PRECONDITION,
				"%s was removed: choose another name, or kds-cli service restore %s", name, name);
	kds__v1__object__free_unpacked(o, NULL);
	return rc;
}

/* Where the configuration says that they are. */
static enum status_code add_replicas(struct cli *cli, struct init_plan *plan, struct status *st)
{
	size_t n;
	char *const *addresses = session_addresses(cli->session, PEER_SERIAL, &n);
	for (size_t i = 0; i < n && plan->n_services < INIT_SERVICES_MAX; i++) {
		struct init_service *s = &plan->services[plan->n_services++];
		*s = (struct init_service){ .kind = INIT_SERIAL };
		if (host_parse(addresses[i], strlen(addresses[i]), init_kind_port(INIT_SERIAL), "serial-addresses", st,
			       &s->host) != STATUS_OK)
			return st->code;
	}
	return STATUS_OK;
}

/* --seal, or where `init` left that of the first one: beside the administrator's folder. */
static enum status_code find_seal(struct cli *cli, struct addition *a, struct status *st)
{
	const char *kind = init_kind_name(a->service.kind), *ca = session_ca_file(cli->session);
	const char *slash = strrchr(ca, '/');
	a->plan.seal = cli_value(cli, OPT_SEAL);
	if (a->plan.seal && access(a->plan.seal, R_OK) < 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "--seal %.200s: %s", a->plan.seal, strerror(errno));
	if (a->plan.seal)
		return STATUS_OK;
	snprintf(a->default_seal, sizeof a->default_seal, "%.*s../%s1/%s.seal", slash ? (int)(slash - ca) + 1 : 0, ca, kind,
		 kind);
	a->plan.seal = a->default_seal;
	if (access(a->default_seal, F_OK) == 0)
		return STATUS_OK;
	return status_set(st, STATUS_INVALID_ARGUMENT,
			  "give --seal FILE, the %s.seal of a kds-%s of this cluster: all of them have the same", kind, kind);
}

static enum status_code prepare(struct cli *cli, struct addition *a, struct status *st)
{
	if (!cli_value(cli, OPT_OUT))
		return status_set(st, STATUS_INVALID_ARGUMENT, "give --out DIR; see kds-cli service add --help");
	enum status_code rc = parse_service(cli, &a->service, st);
	if (rc == STATUS_OK)
		rc = session_open(cli, st);
	if (rc == STATUS_OK)
		rc = init_plan_listen(cli, &a->plan, st);
	if (rc == STATUS_OK)
		rc = find_seal(cli, a, st);
	if (rc == STATUS_OK)
		rc = infra_plan(cli, &a->plan, st);
	if (rc == STATUS_OK)
		rc = check_not_removed(cli, a->service.name, st);
	if (rc == STATUS_OK)
		rc = add_replicas(cli, &a->plan, st);
	return rc == STATUS_OK ? infra_authority(cli, st, &a->authority) : rc;
}

static enum status_code fill(const struct init_plan *plan, void *arg, struct status *st)
{
	const struct addition *a = arg;
	enum status_code rc = init_make_service(plan, &a->service, ".", st);
	return rc == STATUS_OK ? init_issue(plan, a->authority, &a->service, ".", st) : rc;
}

static enum status_code print_result(struct cli *cli, const struct addition *a, const char *dir, struct status *st)
{
	char address[HOST_TEXT_SIZE];
	const char *kind = init_kind_name(a->service.kind);
	host_format(&a->service.host, a->service.host.port, address);
	if (cli->json)
		return output_json(json_pack("{ss,ss,ss,ss}", "directory", dir, "name", a->service.name, "kind", kind,
					     "address", address),
				   st);
	printf("Made %s for kds-%s %s at %s. Next:\n\n"
	       "  1. Bring it to its host, and to no other: it holds private keys.\n"
	       "  2. There: kds-%s --config %s/kds-%s.conf\n"
	       "  3. Add \"%s\" to %s-addresses in cli.conf, here and at its users.\n",
	       dir, kind, a->service.name, address, kind, dir, kind, address, kind);
	return STATUS_OK;
}

enum status_code service_run_add(struct cli *cli, struct status *st)
{
	struct addition a = { 0 };
	const char *dir = cli_value(cli, OPT_OUT);
	enum status_code rc = prepare(cli, &a, st);
	if (rc == STATUS_OK)
		rc = init_make_folder(&a.plan, dir, fill, &a, st);
	pki_authority_free(a.authority);
	return rc == STATUS_OK ? print_result(cli, &a, dir, st) : rc;
}

const struct argp_option service_add_options[] = {
	{ "out", OPT_OUT, "DIR", 0, "The directory to make; it may exist, empty", 0 },
	{ "seal", OPT_SEAL, "FILE", 0,
	  "The sealing keys that those of its kind have, ca.seal or keydist.seal, to be copied into it (default: where "
	  "`init' left them)",
	  0 },
	{ "listen", OPT_LISTEN, "ADDRESS", 0, INIT_LISTEN_HELP, 0 },
	{ "ca-key", OPT_CA_KEY, "FILE", 0, "The infrastructure CA's key (default: infra-ca.key beside its certificate)",
	  0 },
	{ "passphrase-file", OPT_PASSPHRASE_FILE, "FILE", 0,
	  "Its first line opens that key (-: ask, or read standard input; default: passphrase beside it)", 0 },
	{ 0 },
};
