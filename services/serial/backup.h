/*
 * Backup.Read: gives this replica's state away, page by page, from one moment for each session (state_reader.h).
 *
 * One thread reads from the disk, so that neither the engine nor the network waits. What is pinned keeps SQLite's
 * write-ahead log from being used again: sessions are few, end when nobody asks for 30 s, and are given up when that log
 * has grown to 512 MiB.
 */
#ifndef SERIAL_BACKUP_H
#define SERIAL_BACKUP_H

#include "backup.pb-c.h"
#include "common/rpc/server.h"

struct backup;

struct backup_options {
	const char *data_dir;
	const char *replica; /* its name, for the header */
	/* 0: the defaults, above and of common/backup/file.h. */
	uint64_t wal_max; /* bytes */
	unsigned idle_ms;
	size_t page_max; /* bytes of rows in an answer */
};

/* Starts the thread. Strings are copied. */
enum status_code backup_new(const struct backup_options *options, struct status *st,
			    struct backup **ret_backup) MUST_CHECK;
/* Answers what waits with UNAVAILABLE. When no new calls can come. NULL is allowed. */
void backup_free(struct backup *b);

/* Takes the call over; never blocks. `in` lives until its answer. Any thread. */
void backup_read(struct backup *b, struct rpc_call *call, const Kds__V1__BackupReadRequest *in);

#endif
