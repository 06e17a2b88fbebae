#include "clients/cli/infra.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clients/cli/objects.h"
#include "clients/cli/passphrase.h"
#include "clients/cli/session.h"

/* FILE beside the infrastructure CA's certificate, where `init` put it. */
static enum status_code beside_ca(const struct cli *cli, const char *file, struct status *st, char path[PATH_MAX])
{
	const char *ca = session_ca_file(cli->session);
	const char *slash = strrchr(ca, '/');
	int n = snprintf(path, PATH_MAX, "%.*s%s", slash ? (int)(slash - ca) + 1 : 0, ca, file);
	return n < PATH_MAX ? STATUS_OK : status_set(st, STATUS_INVALID_ARGUMENT, "%s: the path is too long", ca);
}

enum status_code infra_authority(const struct cli *cli, struct status *st, struct pki_authority **ret_authority)
{
	char default_key[PATH_MAX], default_passphrase[PATH_MAX];
	if (beside_ca(cli, "infra-ca.key", st, default_key) != STATUS_OK ||
	    beside_ca(cli, "passphrase", st, default_passphrase) != STATUS_OK)
		return st->code;
	const char *key = cli_has(cli, OPT_CA_KEY) ? cli_value(cli, OPT_CA_KEY) : default_key;
	const char *file = cli_value(cli, OPT_PASSPHRASE_FILE);
	if (!file)
		file = access(default_passphrase, F_OK) == 0 ? default_passphrase : "-";
	char *passphrase = NULL;
	enum status_code rc = passphrase_read(file, false, st, &passphrase);
	if (rc == STATUS_OK)
		rc = pki_authority_load(session_ca_file(cli->session), key, passphrase, st, ret_authority);
	passphrase_free(passphrase);
	return rc;
}

enum status_code infra_plan(struct cli *cli, struct init_plan *plan, struct status *st)
{
	Kds__V1__Object *o = NULL;
	if (objects_get(cli, "cluster", st, &o) != STATUS_OK)
		return st->code;
	plan->cluster = session_cluster(cli->session);
	plan->kds_name = session_kds_name(cli->session);
	if (o->value_case == KDS__V1__OBJECT__VALUE_CLUSTER)
		snprintf(plan->cluster_id, sizeof plan->cluster_id, "%s", o->cluster->cluster_id);
	kds__v1__object__free_unpacked(o, NULL);
	return STATUS_OK;
}
