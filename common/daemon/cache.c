#include "common/daemon/cache.h"

#include <string.h>

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "common/base/file.h"
#include "common/rpc/message.h"

#define MAGIC "KDSCACH2" /* 1 had no nodes, and must not be taken to say that there are none */
#define MAGIC_LEN (sizeof MAGIC - 1)
#define DIGEST_LEN 32
#define HEAD_LEN (MAGIC_LEN + DIGEST_LEN)
#define FILE_MAX ((size_t)64 << 20)
#define OBJECT_BUDGET ((size_t)8 << 20) /* of one object unpacked */

struct image {
	struct buffer bytes;
	bool failed; /* out of memory */
};

static void append_frame(struct image *image, struct slice frame)
{
	const uint8_t head[4] = { (uint8_t)(frame.len >> 24), (uint8_t)(frame.len >> 16), (uint8_t)(frame.len >> 8),
				  (uint8_t)frame.len };
	if (frame.len > FILE_MAX || !buffer_append(&image->bytes, head, sizeof head) ||
	    !buffer_append(&image->bytes, frame.data, frame.len))
		image->failed = true;
}

static void append_object(void *arg, const char *key, struct slice packed)
{
	(void)key;
	append_frame(arg, packed);
}

enum status_code cache_write(const char *path, const char *cluster_id, const struct objects *objects,
			     struct status *st)
{
	static const uint8_t no_digest[DIGEST_LEN];
	struct image image = { 0 };
	enum status_code rc;

	if (!buffer_append(&image.bytes, MAGIC, MAGIC_LEN) || !buffer_append(&image.bytes, no_digest, DIGEST_LEN))
		image.failed = true;
	append_frame(&image, (struct slice){ cluster_id, strlen(cluster_id) });
	objects_walk(objects, append_object, &image);
	if (image.failed || image.bytes.len > FILE_MAX) {
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "write %s: out of memory", path);
		goto out;
	}
	int rv = gnutls_hash_fast(GNUTLS_DIG_SHA256, image.bytes.data + HEAD_LEN, image.bytes.len - HEAD_LEN,
				  image.bytes.data + MAGIC_LEN);
	if (rv < 0) {
		rc = status_set(st, STATUS_INTERNAL, "write %s: %s", path, gnutls_strerror(rv));
		goto out;
	}
	rc = file_write(path, (struct slice){ image.bytes.data, image.bytes.len }, 0600, true, st);
out:
	buffer_free(&image.bytes);
	return rc;
}

/* Takes the next frame off `rest`. False: it ends within one. */
static bool take_frame(struct slice *rest, struct slice *ret_frame)
{
	const uint8_t *p = rest->data;
	if (rest->len < 4)
		return false;
	size_t len = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
	if (len > rest->len - 4)
		return false;
	*ret_frame = (struct slice){ p + 4, len };
	*rest = (struct slice){ p + 4 + len, rest->len - 4 - len };
	return true;
}

static enum status_code damaged(const char *path, struct status *st)
{
	return status_set(st, STATUS_DATA_LOSS, "read %s: damaged; it is made anew once a replica answers", path);
}

static enum status_code put_object(struct slice packed, struct objects *objects, struct status *st)
{
	struct arena *arena = arena_new(OBJECT_BUDGET);
	if (!arena)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	const ProtobufCMessage *message;
	char field[64];
	bool changed;
	enum status_code rc =
	    message_unpack(&kds__v1__object__descriptor, packed, arena, st, field, sizeof field, &message);
	if (rc == STATUS_OK)
		rc = objects_put(objects, (const Kds__V1__Object *)message, st, &changed);
	arena_free(arena);
	return rc;
}

static enum status_code read_image(const char *path, struct slice image, const char *cluster_id,
				   struct objects *objects, struct status *st)
{
	const uint8_t *p = image.data;
	uint8_t digest[DIGEST_LEN];
	if (image.len < HEAD_LEN || memcmp(p, MAGIC, MAGIC_LEN) != 0 ||
	    gnutls_hash_fast(GNUTLS_DIG_SHA256, p + HEAD_LEN, image.len - HEAD_LEN, digest) < 0 ||
	    memcmp(p + MAGIC_LEN, digest, DIGEST_LEN) != 0)
		return damaged(path, st);
	struct slice rest = { p + HEAD_LEN, image.len - HEAD_LEN };
	struct slice frame;
	if (!take_frame(&rest, &frame))
		return damaged(path, st);
	if (frame.len != strlen(cluster_id) || memcmp(frame.data, cluster_id, frame.len) != 0)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "read %s: it is of another cluster; give each cluster a data-dir of its own", path);
	while (rest.len > 0) {
		if (!take_frame(&rest, &frame))
			return damaged(path, st);
		enum status_code rc = put_object(frame, objects, st);
		if (rc != STATUS_OK) {
			status_prefix(st, "read %s", path);
			return rc;
		}
	}
	return STATUS_OK;
}

enum status_code cache_read(const char *path, const char *cluster_id, struct objects *objects, struct status *st)
{
	struct buffer file = { 0 };
	enum status_code rc = file_read(path, FILE_MAX, st, &file);
	if (rc == STATUS_OK)
		rc = read_image(path, (struct slice){ file.data, file.len }, cluster_id, objects, st);
	buffer_free(&file);
	return rc;
}
