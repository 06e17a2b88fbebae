/*
 * Does a stream of rows make a state that could have been? Serials, blocks, records, objects are compared with each other
 * and with the header that came with them. Tables that it does not know are taken for what they are. Needs no database.
 * Memory: 24 bytes for an object or a block's range.
 */
#ifndef BACKUP_CHECK_H
#define BACKUP_CHECK_H

#include "common/backup/file.h"

struct backup_check;

/* NULL: no memory. */
struct backup_check *backup_check_new(void) MUST_CHECK;
void backup_check_free(struct backup_check *c);

/* The stream's next bytes; DATA_LOSS says which row is wrong. (Of the type of backup_rows_fn.) */
enum status_code backup_check_feed(void *check, struct slice rows, struct status *st) MUST_CHECK;
/* The stream has ended. */
enum status_code backup_check_end(struct backup_check *c, const Kds__V1__BackupHeader *header,
				  struct status *st) MUST_CHECK;

/* The serials that a new cluster may begin behind, and the range of its min_serial, as Serial.SetMin would take it. */
#define BACKUP_SKIP_MIN UINT64_C(1000000)
/* INVALID_ARGUMENT: impossible with this header. */
enum status_code backup_check_restore(const Kds__V1__BackupHeader *header, const Kds__V1__BackupRestore *restore,
				      struct status *st) MUST_CHECK;

/* The whole of it: reads the file, checks what it holds. Errors as backup_file_read(). */
enum status_code backup_verify(const char *path, struct status *st, struct backup_summary *ret_summary) MUST_CHECK;

#endif
