/*
 * libkds: group keys from a KDS cluster, for C programs.
 *
 *     struct kds_options options = { .config_file = NULL }; // $KDS_CONFIG, ~/.config/kds/cli.conf, /etc/kds/cli.conf
 *     struct kds_error error;
 *     kds_allocator *a;
 *     struct kds_key key;
 *     if (kds_allocator_new(&options, &a, &error) != KDS_OK ||
 *         kds_key_create(a, "urn:example:prjA", &key, &error) != KDS_OK)
 *             errx(1, "%s", error.message);
 *     // send key.ident along with what key.key protects; the receiver calls kds_key_restore() with it
 *     kds_key_wipe(&key);
 *     kds_allocator_free(a);
 *
 * Calls block, at most options.timeout_ms. An allocator may be used by several threads at once, not after fork().
 * Nothing is printed. What a call fills in stays untouched when it fails; `error` may be NULL.
 */
#ifndef KDS_KDS_H
#define KDS_KDS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KDS_API __attribute__((visibility("default")))

/* gRPC's canonical codes. */
enum kds_code {
	KDS_OK = 0,
	KDS_INVALID_ARGUMENT = 3,
	KDS_DEADLINE_EXCEEDED = 4,
	KDS_NOT_FOUND = 5,
	KDS_PERMISSION_DENIED = 7,
	KDS_RESOURCE_EXHAUSTED = 8,
	KDS_FAILED_PRECONDITION = 9,
	KDS_OUT_OF_RANGE = 11,
	KDS_INTERNAL = 13,
	KDS_UNAVAILABLE = 14,
	KDS_DATA_LOSS = 15,
	KDS_UNAUTHENTICATED = 16
};

struct kds_error {
	int code;          /* enum kds_code, or another gRPC code */
	char message[256]; /* one line: what was being done, what went wrong, what to do */
};

/* NULL or 0: from the configuration file, else the default. With all the strings given, no file is needed. */
struct kds_options {
	const char *config_file;      /* cli.conf */
	const char *cluster;          /* its name, which the servers' certificates must state */
	const char *certificate_file; /* the kds-client certificate, PEM, before its chain */
	const char *key_file;
	const char *ca_file;          /* infrastructure CA, PEM */
	const char *addresses;        /* of kds-keydist: "host:port,host:port" */
	unsigned timeout_ms;          /* of one call; 10000 */
};

#define KDS_KEY_SIZE 32
#define KDS_IDENT_MAX 288

struct kds_key {
	uint8_t ident[KDS_IDENT_MAX]; /* names the key; not secret */
	size_t ident_len;
	uint8_t key[KDS_KEY_SIZE];    /* secret */
	size_t key_len;
	uint64_t nonce_ms;            /* the time the key stands for, Unix ms */
};

typedef struct kds_allocator kds_allocator;

/* Reads files, does not connect yet. The caller frees with kds_allocator_free(). */
KDS_API int kds_allocator_new(const struct kds_options *options, kds_allocator **ret_allocator,
			      struct kds_error *error);
KDS_API void kds_allocator_free(kds_allocator *allocator);

/* Sender: a key for a group of this client's certificate (URI without fragment). */
KDS_API int kds_key_create(kds_allocator *allocator, const char *group, struct kds_key *ret_key,
			   struct kds_error *error);
/* Receiver: the key that an ident names; PERMISSION_DENIED: the certificate does not name its group. */
KDS_API int kds_key_restore(kds_allocator *allocator, const void *ident, size_t ident_len, struct kds_key *ret_key,
			    struct kds_error *error);
/* Overwrites the secret. */
KDS_API void kds_key_wipe(struct kds_key *key);

KDS_API const char *kds_version(void);

#ifdef __cplusplus
}
#endif
#endif
