/*
 * The file of a backup.
 *
 *     "KDS backup 1\n"
 *     parts: u32 length of the message, big-endian | 32 bytes SHA-256 of it | BackupPart (proto/backup.proto)
 *
 * A header comes first, rows follow in order, then in a file that was prepared for a new cluster what was decided, then
 * the end, which holds a SHA-256 over all that is before it; nothing follows. That hash names the content: it is the
 * backup's digest. All of it blocks on the disk.
 */
#ifndef BACKUP_FILE_H
#define BACKUP_FILE_H

#include "backup.pb-c.h"
#include "common/base/file.h"

#define BACKUP_DIGEST_SIZE 32
#define BACKUP_PAGE_MAX ((size_t)256 << 10) /* bytes of rows in one part */

/*
 * Writing: nothing is at `path` before backup_writer_end(), and never half a file. Mode 0600: it holds sealed keys.
 * ALREADY_EXISTS unless `replace`.
 */
struct backup_writer;
enum status_code backup_writer_new(const char *path, bool replace, struct status *st,
				   struct backup_writer **ret_writer) MUST_CHECK;
/* Frees; without backup_writer_end() nothing is left. NULL is allowed. */
void backup_writer_free(struct backup_writer *w);
enum status_code backup_writer_header(struct backup_writer *w, const Kds__V1__BackupHeader *header,
				      struct status *st) MUST_CHECK;
enum status_code backup_writer_rows(struct backup_writer *w, struct slice rows, struct status *st) MUST_CHECK;
enum status_code backup_writer_restore(struct backup_writer *w, const Kds__V1__BackupRestore *restore,
				       struct status *st) MUST_CHECK;
/* The file is there, durable. */
enum status_code backup_writer_end(struct backup_writer *w, struct status *st,
				   uint8_t ret_digest[BACKUP_DIGEST_SIZE]) MUST_CHECK;

/* What a file is, apart from its rows. */
struct backup_summary {
	Kds__V1__BackupHeader *header;
	Kds__V1__BackupRestore *restore; /* NULL: nothing was decided yet, it is as it was saved */
	uint8_t digest[BACKUP_DIGEST_SIZE];
	uint64_t bytes;
};
void backup_summary_fini(struct backup_summary *s);

typedef enum status_code (*backup_rows_fn)(void *arg, struct slice rows, struct status *st);

/*
 * Reads the file once and checks every checksum. `rows` gets the stream as it comes (NULL: nobody wants it): what it
 * made of it counts only when this returns OK. DATA_LOSS: damaged, or not a backup; FAILED_PRECONDITION: of a newer
 * format, or what `rows` returned; otherwise as file_read(). Memory stays below some MiB, whatever the file says. The
 * caller frees with backup_summary_fini().
 */
enum status_code backup_file_read(const char *path, backup_rows_fn rows, void *arg, struct status *st,
				  struct backup_summary *ret_summary) MUST_CHECK;

#endif
