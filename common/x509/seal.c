#include "common/x509/seal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "common/base/base64.h"
#include "common/base/file.h"
#include "common/base/secret.h"

#define SEAL_VERSION 1
#define SEAL_LINE "kds-seal-1"
#define SEAL_KEYS_MAX 16
#define SEAL_FILE_MAX 4096
#define PURPOSE_MAX 255

enum { ID_SIZE = 8, NONCE_SIZE = 12, KEY_SIZE = 32, TAG_SIZE = 16, HEAD_SIZE = 1 + ID_SIZE, HASH_SIZE = 32 };
#define KEY_TEXT_SIZE (44 + 1) /* in base64 */

struct seal_key {
	uint8_t id[ID_SIZE];
	uint8_t key[KEY_SIZE];
};

/* In secret memory as a whole. */
struct seal {
	char path[256]; /* for messages; may be cut */
	size_t n;
	struct seal_key keys[SEAL_KEYS_MAX]; /* the newest first */
};

/* An id that follows from the key: a damaged line cannot pass for another key. */
static enum status_code key_id(const uint8_t key[KEY_SIZE], struct status *st, uint8_t ret_id[ID_SIZE])
{
	uint8_t input[sizeof SEAL_LINE + KEY_SIZE], hash[HASH_SIZE];
	memcpy(input, SEAL_LINE, sizeof SEAL_LINE);
	memcpy(input + sizeof SEAL_LINE, key, KEY_SIZE);
	int rv = gnutls_hash_fast(GNUTLS_DIG_SHA256, input, sizeof input, hash);
	secret_wipe(input, sizeof input);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "sealing key id: %s", gnutls_strerror(rv));
	memcpy(ret_id, hash, ID_SIZE);
	return STATUS_OK;
}

static void id_to_hex(const uint8_t id[ID_SIZE], char ret_hex[2 * ID_SIZE + 1])
{
	for (int i = 0; i < ID_SIZE; i++)
		snprintf(ret_hex + 2 * i, 3, "%02x", id[i]);
}

static void format_line(const struct seal_key *k, char *line, size_t size)
{
	char hex[2 * ID_SIZE + 1], base64[KEY_TEXT_SIZE];
	id_to_hex(k->id, hex);
	base64_encode((struct slice){ k->key, KEY_SIZE }, base64);
	snprintf(line, size, SEAL_LINE " %s %s\n", hex, base64);
	secret_wipe(base64, sizeof base64);
}

enum status_code seal_create_file(const char *path, struct status *st)
{
	char line[128] = "";
	struct seal_key k;
	enum status_code rc = secret_random(k.key, KEY_SIZE, st);
	if (rc == STATUS_OK)
		rc = key_id(k.key, st, k.id);
	if (rc != STATUS_OK)
		goto out;
	format_line(&k, line, sizeof line);
	rc = file_write(path, (struct slice){ line, strlen(line) }, 0600, false, st);
out:
	secret_wipe(&k, sizeof k);
	secret_wipe(line, sizeof line);
	return rc;
}

/* One line, NUL-terminated, without its newline. */
static enum status_code parse_line(struct seal *s, char *line, unsigned number, struct status *st)
{
	char *rest = NULL;
	const char *word = strtok_r(line, " \t\r", &rest);
	if (!word || word[0] == '#')
		return STATUS_OK;
	const char *id = strtok_r(NULL, " \t\r", &rest);
	char *base64 = strtok_r(NULL, " \t\r", &rest);
	if (strcmp(word, SEAL_LINE) != 0 || !base64 || strtok_r(NULL, " \t\r", &rest))
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%s:%u: not a sealing key; copy the file again from another host", s->path, number);
	if (s->n == SEAL_KEYS_MAX)
		return status_set(st, STATUS_FAILED_PRECONDITION, "%s: more than %d sealing keys; drop the oldest (last) ones",
				  s->path, SEAL_KEYS_MAX);
	struct seal_key *k = &s->keys[s->n];
	char hex[2 * ID_SIZE + 1] = "";
	size_t len;
	/* Where it stands, which is secret memory. */
	bool ok = base64_decode((struct slice){ base64, strlen(base64) }, (uint8_t *)base64, &len) && len == KEY_SIZE;
	if (ok) {
		memcpy(k->key, base64, KEY_SIZE);
		ok = key_id(k->key, NULL, k->id) == STATUS_OK;
		id_to_hex(k->id, hex);
	}
	if (!ok || strcmp(hex, id) != 0)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%s:%u: damaged, key and key id differ; copy the file again from another host", s->path,
				  number);
	s->n++;
	return STATUS_OK;
}

static enum status_code parse_file(struct seal *s, char *text, struct status *st)
{
	unsigned number = 0;
	while (text) {
		char *line = strsep(&text, "\n");
		enum status_code rc = parse_line(s, line, ++number, st);
		if (rc != STATUS_OK)
			return rc;
	}
	if (s->n == 0)
		return status_set(st, STATUS_FAILED_PRECONDITION, "%s: no sealing key in it; copy it from another host",
				  s->path);
	return STATUS_OK;
}

enum status_code seal_load(const char *path, struct status *st, struct seal **ret_seal)
{
	uint8_t *text = NULL;
	size_t len = 0;
	enum status_code rc = secret_read_file(path, SEAL_FILE_MAX, st, &text, &len);
	if (rc == STATUS_NOT_FOUND)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%s: no such file; copy it from another host of the same kind, or from where kds-cli init made it",
				  path);
	if (rc != STATUS_OK)
		return rc;
	struct seal *s = secret_alloc(sizeof *s);
	if (!s) {
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "%s: out of memory", path);
		goto out;
	}
	snprintf(s->path, sizeof s->path, "%s", path);
	rc = parse_file(s, (char *)text, st);
	if (rc == STATUS_OK) {
		*ret_seal = s;
		s = NULL;
	}
out:
	seal_free(s);
	secret_free(text, len + 1);
	return rc;
}

void seal_free(struct seal *s)
{
	secret_free(s, sizeof *s);
}

static enum status_code cipher_init(const struct seal_key *k, struct status *st, gnutls_aead_cipher_hd_t *ret_cipher)
{
	gnutls_datum_t key = { .data = (unsigned char *)k->key, .size = KEY_SIZE };
	int rv = gnutls_aead_cipher_init(ret_cipher, GNUTLS_CIPHER_AES_256_GCM, &key);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "seal: %s", gnutls_strerror(rv));
	return STATUS_OK;
}

/* Associated data: the head of what is sealed and the purpose. Returns its length; 0: the purpose is too long. */
static size_t associated(const uint8_t head[HEAD_SIZE], const char *purpose, uint8_t ret[HEAD_SIZE + PURPOSE_MAX])
{
	size_t len = strlen(purpose);
	if (len > PURPOSE_MAX)
		return 0;
	memcpy(ret, head, HEAD_SIZE);
	memcpy(ret + HEAD_SIZE, purpose, len);
	return HEAD_SIZE + len;
}

enum status_code seal_close(const struct seal *s, const char *purpose, struct slice clear, struct status *st,
			    struct buffer *out)
{
	const struct seal_key *k = &s->keys[0];
	uint8_t head[HEAD_SIZE + NONCE_SIZE] = { SEAL_VERSION };
	memcpy(head + 1, k->id, ID_SIZE);
	uint8_t *nonce = head + HEAD_SIZE;
	enum status_code rc = secret_random(nonce, NONCE_SIZE, st);
	if (rc != STATUS_OK)
		return rc;
	uint8_t aad[HEAD_SIZE + PURPOSE_MAX];
	size_t aad_len = associated(head, purpose, aad);
	if (aad_len == 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "seal: purpose longer than %d bytes", PURPOSE_MAX);
	size_t sealed_len = clear.len + TAG_SIZE;
	if (!buffer_reserve(out, sizeof head + sealed_len))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "seal: out of memory");
	gnutls_aead_cipher_hd_t cipher;
	rc = cipher_init(k, st, &cipher);
	if (rc != STATUS_OK)
		return rc;
	memcpy(out->data + out->len, head, sizeof head);
	int rv = gnutls_aead_cipher_encrypt(cipher, nonce, NONCE_SIZE, aad, aad_len, TAG_SIZE, clear.data, clear.len,
					    out->data + out->len + sizeof head, &sealed_len);
	gnutls_aead_cipher_deinit(cipher);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "seal: %s", gnutls_strerror(rv));
	out->len += sizeof head + sealed_len;
	return STATUS_OK;
}

static const struct seal_key *find_key(const struct seal *s, const uint8_t id[ID_SIZE])
{
	for (size_t i = 0; i < s->n; i++) {
		if (memcmp(s->keys[i].id, id, ID_SIZE) == 0)
			return &s->keys[i];
	}
	return NULL;
}

enum status_code seal_open(const struct seal *s, const char *purpose, struct slice sealed, struct status *st,
			   struct buffer *ret_clear)
{
	const uint8_t *head = sealed.data;
	if (sealed.len < HEAD_SIZE + NONCE_SIZE + TAG_SIZE || head[0] != SEAL_VERSION)
		return status_set(st, STATUS_DATA_LOSS, "unseal %s: not something sealed, or by a newer version", purpose);
	const struct seal_key *k = find_key(s, head + 1);
	if (!k) {
		char hex[2 * ID_SIZE + 1];
		id_to_hex(head + 1, hex);
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "%s does not open %s (sealed under key id %s): copy the sealing key from the host that made it",
				  s->path, purpose, hex);
	}
	uint8_t aad[HEAD_SIZE + PURPOSE_MAX];
	size_t aad_len = associated(head, purpose, aad);
	size_t clear_len = sealed.len - HEAD_SIZE - NONCE_SIZE - TAG_SIZE;
	if (aad_len == 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "unseal: purpose longer than %d bytes", PURPOSE_MAX);
	/* What grows by realloc() leaves copies behind: one allocation, before there is a secret in it. */
	if (!buffer_reserve(ret_clear, clear_len + 1))
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "unseal %s: out of memory", purpose);
	gnutls_aead_cipher_hd_t cipher;
	enum status_code rc = cipher_init(k, st, &cipher);
	if (rc != STATUS_OK)
		return rc;
	int rv = gnutls_aead_cipher_decrypt(cipher, head + HEAD_SIZE, NONCE_SIZE, aad, aad_len, TAG_SIZE,
					    head + HEAD_SIZE + NONCE_SIZE, clear_len + TAG_SIZE,
					    ret_clear->data + ret_clear->len, &clear_len);
	gnutls_aead_cipher_deinit(cipher);
	if (rv < 0)
		return status_set(st, STATUS_DATA_LOSS, "unseal %s: damaged, or sealed for another purpose", purpose);
	ret_clear->len += clear_len;
	return STATUS_OK;
}
