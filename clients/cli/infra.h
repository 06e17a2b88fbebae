/* The infrastructure CA at an administrator's, who issues with it. */
#ifndef CLI_INFRA_H
#define CLI_INFRA_H

#include "clients/cli/cli.h"
#include "clients/cli/init.h"
#include "clients/cli/pki.h"

/* Opens it: the configured certificate, --ca-key or infra-ca.key beside it, and --passphrase-file, or the file passphrase
 * beside it, or a prompt. After session_open(). Errors as pki_authority_load(). Blocks. */
enum status_code infra_authority(const struct cli *cli, struct status *st,
				 struct pki_authority **ret_authority) MUST_CHECK;

/* Whom further services belong to: the names of the configuration and the cluster's id, which is asked for. Names are borrowed
 * from the session. Blocks. */
enum status_code infra_plan(struct cli *cli, struct init_plan *plan, struct status *st) MUST_CHECK;

#endif
