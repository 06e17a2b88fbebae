#include <kds/kds.h>

#include <stdlib.h>
#include <string.h>

#include "clients/libkds/settings.h"
#include "common/base/file_trust.h"
#include "common/base/secret.h"
#include "common/rpc/channel.h"
#include "keydist.pb-c.h"

#define CA_FILE_MAX (1 << 20)

struct kds_allocator {
	struct tls_credentials *credentials;
	struct trust *trust;
	struct rpc_channel *channel;
};

static int report(enum status_code rc, const struct status *st, struct kds_error *error)
{
	if (!error)
		return (int)rc;
	error->code = (int)rc;
	memset(error->message, 0, sizeof error->message);
	if (rc != STATUS_OK)
		memcpy(error->message, st->message, strnlen(st->message, sizeof error->message - 1));
	return (int)rc;
}

static enum status_code load_trust(const struct settings *s, struct status *st, struct trust **ret_trust)
{
	struct buffer pem = { 0 };
	enum status_code rc = file_trust_read(s->ca, CA_FILE_MAX, st, &pem);
	if (rc == STATUS_OK)
		rc = trust_new(s->cluster, s->kds_name, &(struct slice){ pem.data, pem.len }, st, ret_trust);
	buffer_free(&pem);
	return rc;
}

static enum status_code open_allocator(const struct settings *s, kds_allocator *a, struct status *st)
{
	enum status_code rc = load_trust(s, st, &a->trust);
	if (rc == STATUS_OK)
		rc = tls_credentials_load(s->certificate, s->key, TLS_MINIMUM_1_3, st, &a->credentials);
	if (rc != STATUS_OK)
		return rc;
	const struct rpc_channel_options options = {
		.addresses = (const char *const *)s->addresses,
		.n_addresses = s->n_addresses,
		.credentials = a->credentials,
		.trust = a->trust,
		.expect_roles = PEER_KEYDIST,
		.default_timeout_ms = s->timeout_ms,
		.limits = CONN_LIMITS_DEFAULT,
	};
	return rpc_channel_new(&options, st, &a->channel);
}

int kds_allocator_new(const struct kds_options *options, kds_allocator **ret_allocator, struct kds_error *error)
{
	struct status st;
	struct settings settings = { 0 };
	kds_allocator *a = calloc(1, sizeof *a);
	enum status_code rc = settings_read(options, &st, &settings);
	if (rc == STATUS_OK && !a)
		rc = status_set(&st, STATUS_RESOURCE_EXHAUSTED, "make an allocator: out of memory");
	if (rc == STATUS_OK)
		rc = open_allocator(&settings, a, &st);
	settings_free(&settings);
	if (rc == STATUS_OK)
		*ret_allocator = a;
	else
		kds_allocator_free(a);
	return report(rc, &st, error);
}

void kds_allocator_free(kds_allocator *allocator)
{
	if (!allocator)
		return;
	rpc_channel_free(allocator->channel);
	tls_credentials_unref(allocator->credentials);
	trust_free(allocator->trust);
	free(allocator);
}

static enum status_code take_key(const Kds__V1__GroupKey *answer, struct status *st, struct kds_key *ret_key)
{
	size_t ident_len = answer->ident.len, key_len = answer->key.len;
	if (ident_len == 0 || ident_len > sizeof ret_key->ident || key_len != sizeof ret_key->key)
		return status_set(st, STATUS_DATA_LOSS, "the ident has %zu bytes and the key %zu; update libkds", ident_len,
				  key_len);
	memset(ret_key, 0, sizeof *ret_key);
	memcpy(ret_key->ident, answer->ident.data, ident_len);
	ret_key->ident_len = ident_len;
	memcpy(ret_key->key, answer->key.data, key_len);
	ret_key->key_len = key_len;
	ret_key->nonce_ms = answer->nonce_ms;
	return STATUS_OK;
}

static enum status_code ask(kds_allocator *a, const char *method, const ProtobufCMessage *request, struct status *st,
			    struct kds_key *ret_key)
{
	const struct rpc_call_options options = { .secret = true };
	ProtobufCMessage *message;
	enum status_code rc =
	    rpc_channel_wait(a->channel, &kds__v1__key_dist__descriptor, method, request, &options, st, &message);
	if (rc != STATUS_OK)
		return rc;
	Kds__V1__GroupKey *answer = (Kds__V1__GroupKey *)message;
	rc = take_key(answer, st, ret_key);
	secret_wipe(answer->key.data, answer->key.len);
	protobuf_c_message_free_unpacked(message, NULL);
	return rc;
}

int kds_key_create(kds_allocator *allocator, const char *group, struct kds_key *ret_key, struct kds_error *error)
{
	struct status st;
	Kds__V1__CreateKeyRequest request = KDS__V1__CREATE_KEY_REQUEST__INIT;
	request.group = (char *)group;
	enum status_code rc = ask(allocator, "Create", &request.base, &st, ret_key);
	if (rc != STATUS_OK)
		status_prefix(&st, "create a key for %.100s", group);
	return report(rc, &st, error);
}

int kds_key_restore(kds_allocator *allocator, const void *ident, size_t ident_len, struct kds_key *ret_key,
		    struct kds_error *error)
{
	struct status st;
	Kds__V1__RestoreKeyRequest request = KDS__V1__RESTORE_KEY_REQUEST__INIT;
	request.ident = (ProtobufCBinaryData){ .data = (uint8_t *)ident, .len = ident_len };
	enum status_code rc = ask(allocator, "Restore", &request.base, &st, ret_key);
	if (rc != STATUS_OK)
		status_prefix(&st, "restore a key");
	return report(rc, &st, error);
}

void kds_key_wipe(struct kds_key *key)
{
	if (key)
		secret_wipe(key, sizeof *key);
}

const char *kds_version(void)
{
	return KDS_VERSION;
}
