/* kds-cli backup: its files. backup.c (save, verify), backup_restore.c. */
#ifndef CLI_BACKUP_H
#define CLI_BACKUP_H

#include "clients/cli/cli.h"

extern const struct argp_option backup_restore_options[];
enum status_code backup_run_restore(struct cli *cli, struct status *st);

#endif
