#include "services/serial/restore.h"

#include <inttypes.h>
#include <string.h>

#include "common/backup/check.h"
#include "common/base/log.h"
#include "services/serial/genesis.h"
#include "services/serial/state_loader.h"

#define GENESIS_INDEX 2 /* the last of the entries that the state stands for */

static enum status_code check_names(const char *file, const struct backup_summary *s, const struct engine_options *o,
				    struct status *st)
{
	const Kds__V1__Cluster *c = s->header->cluster;
	if (!s->restore)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%.120s is a backup as it was saved: `kds-cli backup restore' prepares it for a new cluster",
				  file);
	if (strcmp(c->name, o->cluster) != 0 || strcmp(c->kds_name, o->kds_name) != 0 ||
	    strcmp(c->cluster_id, o->cluster_id) != 0)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%.60s is of the cluster %.60s (%.40s), the configuration of %.60s (%.40s)", file, c->name,
				  c->cluster_id, o->cluster, o->cluster_id);
	return STATUS_OK;
}

static enum status_code load_rows(void *loader, struct slice rows, struct status *st)
{
	return state_loader_feed(loader, rows, st);
}

/* Loads the file's rows; it must still be the one that was checked. */
static enum status_code load(sqlite3 *db, const char *file, const struct backup_summary *checked, struct status *st)
{
	struct state_loader *l = NULL;
	struct backup_summary loaded = { 0 };
	enum status_code rc = state_loader_new(db, STATE_READER_LASTING, st, &l);
	if (rc != STATUS_OK)
		return rc;
	rc = backup_file_read(file, load_rows, l, st, &loaded);
	if (rc == STATUS_OK && memcmp(loaded.digest, checked->digest, sizeof loaded.digest) != 0)
		rc = status_set(st, STATUS_DATA_LOSS, "%s was changed while it was read", file);
	if (rc == STATUS_OK)
		rc = state_loader_end(l, st);
	backup_summary_fini(&loaded);
	state_loader_free(l);
	return rc;
}

static enum status_code begin_state(sqlite3 *db, const Kds__V1__BackupRestore *restore, struct status *st)
{
	struct state *state = NULL;
	enum status_code rc = state_open(db, st, &state);
	if (rc == STATUS_OK)
		rc = state_restore(state, restore, GENESIS_INDEX, st);
	if (rc == STATUS_OK)
		rc = state_flush(state, st);
	state_close(state);
	return rc;
}

enum status_code restore_begin(struct store *store, const char *file, const struct engine_options *options,
			       struct status *st)
{
	struct backup_summary s = { 0 };
	struct store_genesis genesis = { 0 };
	enum status_code rc = backup_verify(file, st, &s);
	if (rc == STATUS_OK)
		rc = check_names(file, &s, options, st);
	if (rc == STATUS_OK)
		rc = genesis_make_restored(options, s.digest, sizeof s.digest, s.restore->recovered, st, &genesis);
	if (rc != STATUS_OK) {
		backup_summary_fini(&s);
		return status_prefix(st, "restore");
	}
	store_begin(store);
	rc = load(store_sqlite(store), file, &s, st);
	if (rc == STATUS_OK)
		rc = begin_state(store_sqlite(store), s.restore, st);
	if (rc == STATUS_OK) {
		store_replace_log(store, &genesis);
		store_commit(store);
		log_info("begun with a backup file=%s time_ms=%" PRIu64 " last_serial=%" PRIu64 " skipped=%" PRIu64
			 " min_serial=%" PRIu64,
			 file, s.header->time_ms, s.header->last_serial, s.restore->skip, s.restore->min_serial);
	} else {
		store_rollback(store);
		status_prefix(st, "restore");
	}
	genesis_free(&genesis);
	backup_summary_fini(&s);
	return rc;
}

enum status_code restore_check(const struct store_genesis *stored, struct status *st)
{
	Kds__V1__Command *c = kds__v1__command__unpack(NULL, stored->command.len, stored->command.data);
	bool restored = c && c->op_case == KDS__V1__COMMAND__OP_GENESIS && c->genesis->restored.len > 0;
	kds__v1__command__free_unpacked(c, NULL);
	if (restored)
		return STATUS_OK;
	return status_set(st, STATUS_FAILED_PRECONDITION,
			  "restore: data-dir holds a cluster's state already, which did not begin with a backup; empty data-dir "
			  "to begin with the backup, or remove the option restore");
}
