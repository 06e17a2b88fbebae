#include "common/backup/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <gnutls/crypto.h>

#include "common/rpc/message.h"

#define MAGIC "KDS backup 1\n"
#define MAGIC_SIZE (sizeof MAGIC - 1)
#define MAGIC_VERSION 11 /* where the digit is */
#define HEAD_SIZE (4 + BACKUP_DIGEST_SIZE)
#define PART_MAX (BACKUP_PAGE_MAX + 4096)
#define PART_MEMORY (PART_MAX + ((size_t)64 << 10))

/* Writing */

struct backup_writer {
	struct file_writer file;
	gnutls_hash_hd_t hash; /* over all that was written */
	uint64_t parts;
	struct buffer packed;
};

static enum status_code put(struct backup_writer *w, const void *data, size_t len, struct status *st)
{
	if (gnutls_hash(w->hash, data, len) < 0)
		return status_set(st, STATUS_INTERNAL, "write %s: cannot hash", w->file.path);
	return file_writer_put(&w->file, (struct slice){ data, len }, st);
}

enum status_code backup_writer_new(const char *path, bool replace, struct status *st,
				   struct backup_writer **ret_writer)
{
	struct backup_writer *w = calloc(1, sizeof *w);
	if (!w)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "write %s: out of memory", path);
	enum status_code rc = file_writer_open(&w->file, path, 0600, replace, st);
	if (rc == STATUS_OK && gnutls_hash_init(&w->hash, GNUTLS_DIG_SHA256) < 0)
		rc = status_set(st, STATUS_INTERNAL, "write %s: cannot hash", path);
	if (rc == STATUS_OK)
		rc = put(w, MAGIC, MAGIC_SIZE, st);
	if (rc != STATUS_OK) {
		backup_writer_free(w);
		return rc;
	}
	*ret_writer = w;
	return STATUS_OK;
}

void backup_writer_free(struct backup_writer *w)
{
	if (!w)
		return;
	file_writer_abort(&w->file);
	if (w->hash)
		gnutls_hash_deinit(w->hash, NULL);
	buffer_wipe(&w->packed);
	free(w);
}

static enum status_code put_part(struct backup_writer *w, const Kds__V1__BackupPart *part, struct status *st)
{
	uint8_t head[HEAD_SIZE];
	w->packed.len = 0;
	if (message_pack(&part->base, &w->packed, st) != STATUS_OK)
		return st->code;
	size_t len = w->packed.len;
	for (int i = 0; i < 4; i++)
		head[i] = (uint8_t)(len >> (24 - 8 * i));
	if (len > PART_MAX || gnutls_hash_fast(GNUTLS_DIG_SHA256, w->packed.data, len, head + 4) < 0)
		return status_set(st, STATUS_INTERNAL, "write %s: cannot pack a part of %zu bytes", w->file.path, len);
	w->parts++;
	enum status_code rc = put(w, head, sizeof head, st);
	return rc == STATUS_OK ? put(w, w->packed.data, len, st) : rc;
}

enum status_code backup_writer_header(struct backup_writer *w, const Kds__V1__BackupHeader *header, struct status *st)
{
	Kds__V1__BackupPart part = KDS__V1__BACKUP_PART__INIT;
	part.part_case = KDS__V1__BACKUP_PART__PART_HEADER;
	part.header = (Kds__V1__BackupHeader *)header;
	return put_part(w, &part, st);
}

enum status_code backup_writer_rows(struct backup_writer *w, struct slice rows, struct status *st)
{
	Kds__V1__BackupPart part = KDS__V1__BACKUP_PART__INIT;
	part.part_case = KDS__V1__BACKUP_PART__PART_ROWS;
	part.rows = (ProtobufCBinaryData){ rows.len, (uint8_t *)rows.data };
	return put_part(w, &part, st);
}

enum status_code backup_writer_restore(struct backup_writer *w, const Kds__V1__BackupRestore *restore,
				       struct status *st)
{
	Kds__V1__BackupPart part = KDS__V1__BACKUP_PART__INIT;
	part.part_case = KDS__V1__BACKUP_PART__PART_RESTORE;
	part.restore = (Kds__V1__BackupRestore *)restore;
	return put_part(w, &part, st);
}

enum status_code backup_writer_end(struct backup_writer *w, struct status *st, uint8_t ret_digest[BACKUP_DIGEST_SIZE])
{
	uint8_t digest[BACKUP_DIGEST_SIZE];
	Kds__V1__BackupEnd end = KDS__V1__BACKUP_END__INIT;
	end.parts = w->parts;
	end.digest = (ProtobufCBinaryData){ sizeof digest, digest };
	gnutls_hash_output(w->hash, digest);
	Kds__V1__BackupPart part = KDS__V1__BACKUP_PART__INIT;
	part.part_case = KDS__V1__BACKUP_PART__PART_END;
	part.end = &end;
	enum status_code rc = put_part(w, &part, st);
	if (rc == STATUS_OK)
		rc = file_writer_commit(&w->file, st);
	if (rc == STATUS_OK)
		memcpy(ret_digest, digest, sizeof digest);
	return rc;
}

/* Reading */

struct reading {
	const char *path;
	FILE *file;
	gnutls_hash_hd_t hash; /* over all that was read; of the part in hand only once it is known not to be the end */
	uint64_t parts;
	bool ended;
	struct buffer bytes;   /* of the part in hand */
	struct arena *arena;   /* its message */
	backup_rows_fn rows;
	void *arg;
	struct backup_summary summary;
};

static enum status_code damaged(struct reading *r, struct status *st, const char *what)
{
	return status_set(st, STATUS_DATA_LOSS, "%s is damaged: %s (at byte %llu)", r->path, what,
			  (unsigned long long)r->summary.bytes);
}

/* Exactly `len` bytes, or *ret_end with none at all. */
static enum status_code take(struct reading *r, void *data, size_t len, bool *ret_end, struct status *st)
{
	size_t n = fread(data, 1, len, r->file);
	if (n < len && ferror(r->file))
		return status_set(st, STATUS_FAILED_PRECONDITION, "read %s: %s", r->path, strerror(errno));
	if (n < len && (n > 0 || !ret_end))
		return damaged(r, st, "it ends in the middle of a part");
	r->summary.bytes += n;
	if (ret_end)
		*ret_end = n == 0;
	return STATUS_OK;
}

static enum status_code read_magic(struct reading *r, struct status *st)
{
	char magic[MAGIC_SIZE];
	bool end = false;
	struct status ignored;
	if (take(r, magic, sizeof magic, &end, &ignored) != STATUS_OK || end ||
	    memcmp(magic, MAGIC, MAGIC_VERSION) != 0 || magic[MAGIC_SIZE - 1] != '\n')
		return status_set(st, STATUS_DATA_LOSS, "%s is not a backup of KDS", r->path);
	if (magic[MAGIC_VERSION] != MAGIC[MAGIC_VERSION])
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%s has format '%c' of backups, this version knows %c; use the version that wrote it",
				  r->path, magic[MAGIC_VERSION] > ' ' && magic[MAGIC_VERSION] < 127 ? magic[MAGIC_VERSION] : '?',
				  MAGIC[MAGIC_VERSION]);
	gnutls_hash(r->hash, magic, sizeof magic);
	return STATUS_OK;
}

/* A part's message goes into r->bytes, its length and checksum into `head`. */
static enum status_code read_part(struct reading *r, uint8_t head[HEAD_SIZE], bool *ret_end, struct status *st)
{
	enum status_code rc = take(r, head, HEAD_SIZE, ret_end, st);
	if (rc != STATUS_OK || *ret_end)
		return rc;
	size_t len = (size_t)head[0] << 24 | (size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3];
	if (len == 0 || len > PART_MAX)
		return damaged(r, st, "a part has an impossible length");
	r->bytes.len = 0;
	if (!buffer_reserve(&r->bytes, len))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read %s: out of memory", r->path);
	rc = take(r, r->bytes.data, len, NULL, st);
	if (rc != STATUS_OK)
		return rc;
	r->bytes.len = len;
	uint8_t hash[BACKUP_DIGEST_SIZE];
	if (gnutls_hash_fast(GNUTLS_DIG_SHA256, r->bytes.data, len, hash) < 0)
		return status_set(st, STATUS_INTERNAL, "read %s: cannot hash", r->path);
	return memcmp(hash, head + 4, sizeof hash) == 0 ? STATUS_OK : damaged(r, st, "a checksum does not match");
}

static enum status_code take_end(struct reading *r, const Kds__V1__BackupEnd *end, struct status *st)
{
	gnutls_hash_output(r->hash, r->summary.digest);
	if (end->parts != r->parts || end->digest.len != BACKUP_DIGEST_SIZE ||
	    memcmp(end->digest.data, r->summary.digest, BACKUP_DIGEST_SIZE) != 0)
		return damaged(r, st, "the checksum of the whole does not match");
	r->ended = true;
	return STATUS_OK;
}

/* A message that outlives its part. NULL: no memory. */
static void *keep(const ProtobufCMessage *message)
{
	struct buffer packed = { 0 };
	struct status st;
	void *copy = NULL;
	if (message_pack(message, &packed, &st) == STATUS_OK)
		copy = protobuf_c_message_unpack(message->descriptor, NULL, packed.len, packed.data);
	buffer_free(&packed);
	return copy;
}

/* Header, rows, decisions, end: in this order. */
static enum status_code take_part(struct reading *r, const Kds__V1__BackupPart *part, struct status *st)
{
	struct backup_summary *s = &r->summary;
	bool first = r->parts == 0, header = part->part_case == KDS__V1__BACKUP_PART__PART_HEADER;
	if (first != header)
		return damaged(r, st, "its header is not at its beginning");
	switch (part->part_case) {
	case KDS__V1__BACKUP_PART__PART_HEADER:
		if (!part->header->cluster)
			return damaged(r, st, "its header names no cluster");
		s->header = keep(&part->header->base);
		return s->header ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "read %s: out of memory", r->path);
	case KDS__V1__BACKUP_PART__PART_ROWS:
		if (s->restore)
			return damaged(r, st, "rows follow what was decided");
		return r->rows ? r->rows(r->arg, (struct slice){ part->rows.data, part->rows.len }, st) : STATUS_OK;
	case KDS__V1__BACKUP_PART__PART_RESTORE:
		if (s->restore)
			return damaged(r, st, "something was decided twice");
		s->restore = keep(&part->restore->base);
		return s->restore ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "read %s: out of memory", r->path);
	case KDS__V1__BACKUP_PART__PART_END:
		return take_end(r, part->end, st);
	default:
		return damaged(r, st, "a part says nothing");
	}
}

static enum status_code read_parts(struct reading *r, struct status *st)
{
	uint8_t head[HEAD_SIZE];
	for (;;) {
		bool end = false;
		enum status_code rc = read_part(r, head, &end, st);
		if (rc != STATUS_OK)
			return rc;
		if (end)
			return r->ended ? STATUS_OK : damaged(r, st, "its end is missing");
		if (r->ended)
			return damaged(r, st, "something follows its end");
		const ProtobufCMessage *part = NULL;
		r->arena = arena_new(PART_MEMORY);
		if (!r->arena)
			return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read %s: out of memory", r->path);
		struct status why;
		if (message_unpack(&kds__v1__backup_part__descriptor, (struct slice){ r->bytes.data, r->bytes.len }, r->arena,
				   &why, NULL, 0, &part) != STATUS_OK)
			return damaged(r, st, "a part is not what it should be");
		rc = take_part(r, (const Kds__V1__BackupPart *)part, st);
		if (rc != STATUS_OK)
			return rc;
		gnutls_hash(r->hash, head, sizeof head);
		gnutls_hash(r->hash, r->bytes.data, r->bytes.len);
		r->parts++;
		arena_wipe(r->arena);
		r->arena = NULL;
	}
}

static enum status_code open_file(struct reading *r, struct status *st)
{
	int fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	r->file = fd >= 0 ? fdopen(fd, "rb") : NULL;
	if (r->file)
		return STATUS_OK;
	enum status_code rc = status_set(st, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_FAILED_PRECONDITION, "read %s: %s",
					 r->path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return rc;
}

enum status_code backup_file_read(const char *path, backup_rows_fn rows, void *arg, struct status *st,
				  struct backup_summary *ret_summary)
{
	struct reading r = { .path = path, .rows = rows, .arg = arg };
	enum status_code rc = open_file(&r, st);
	if (rc != STATUS_OK)
		return rc;
	if (gnutls_hash_init(&r.hash, GNUTLS_DIG_SHA256) < 0)
		rc = status_set(st, STATUS_INTERNAL, "read %s: cannot hash", path);
	if (rc == STATUS_OK)
		rc = read_magic(&r, st);
	if (rc == STATUS_OK)
		rc = read_parts(&r, st);
	fclose(r.file);
	if (r.hash)
		gnutls_hash_deinit(r.hash, NULL);
	arena_wipe(r.arena);
	buffer_wipe(&r.bytes);
	if (rc == STATUS_OK)
		*ret_summary = r.summary;
	else
		backup_summary_fini(&r.summary);
	return rc;
}

void backup_summary_fini(struct backup_summary *s)
{
	kds__v1__backup_header__free_unpacked(s->header, NULL);
	kds__v1__backup_restore__free_unpacked(s->restore, NULL);
	*s = (struct backup_summary){ 0 };
}
