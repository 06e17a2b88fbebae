#include "services/serial/state_internal.h"

#include <inttypes.h>
#include <string.h>

#include "common/base/plain_name.h"
#include "common/net/identity.h"
#include "common/x509/cert.h"
#include "common/x509/name.h"
#include "services/serial/level.h"
#include "services/serial/membership.h"

#define REQUEST_ID_MAX 32
#define NAME_MAX_TEXT 253 /* a DNS name: subjects, addresses */
#define REQUEST_DIGEST_BYTES 32
#define CLUSTER_ID_MAX 64
#define SEALED_MAX (16 << 10)
#define CERTIFICATE_MAX (16 << 10)
#define SETTING_MAX (64 << 10)
#define GROUPS_MAX 256
#define ADDRESSES_MAX 64
#define ALLOCATE_MAX 65536
#define FINGERPRINT_BYTES 32
#define KEY_ID_MAX 32

/* INVALID_ARGUMENT that names the field. */
#define INVALID(st, ret_field, field, ...)                                                                             \
	(*(ret_field) = (field), status_set((st), STATUS_INVALID_ARGUMENT, __VA_ARGS__))

/* Text of a peer that stands in records and tables: no control characters. */
static bool plain_text(const char *text, size_t max)
{
	size_t len = strlen(text);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return false;
	return len > 0 && len <= max;
}

static enum status_code validate_genesis(const Kds__V1__Genesis *g, struct status *st, const char **ret_field)
{
	if (!g->cluster)
		return INVALID(st, ret_field, "genesis.cluster", "the cluster's description is missing");
	*ret_field = "genesis.cluster.name";
	enum status_code rc = x509_check_dns_name(g->cluster->name, "cluster name", st);
	if (rc != STATUS_OK)
		return rc;
	*ret_field = "genesis.cluster.kds_name";
	rc = x509_check_dns_name(g->cluster->kds_name, "KDS name", st);
	if (rc != STATUS_OK)
		return rc;
	if (!plain_text(g->cluster->cluster_id, CLUSTER_ID_MAX))
		return INVALID(st, ret_field, "genesis.cluster.cluster_id", "the cluster id has 1 to %d characters",
			       CLUSTER_ID_MAX);
	if (g->first_serial == 0 || g->first_serial > SERIAL_MAX / 2)
		return INVALID(st, ret_field, "genesis.first_serial", "the first serial is a positive number");
	return STATUS_OK;
}

/* Of what all replicas of this level take. */
static size_t requester_max(unsigned version)
{
	return version >= LEVEL_ASKED ? IDENTITY_LABEL_MAX - 1 : NAME_MAX_TEXT;
}

/* Nodes ask with a certificate, and for themselves alone. */
static enum status_code validate_asked(const Kds__V1__IssuedCertificate *c, struct status *st)
{
	bool node = state_requester_is_node(c->requester);
	if (node && (c->requester_serial == 0 || c->requester_serial > SERIAL_MAX))
		return status_set(st, STATUS_INVALID_ARGUMENT, "requester_serial: of the certificate that the node asked with");
	if (node && (c->requester_issuer.len == 0 || c->requester_issuer.len > KEY_ID_MAX))
		return status_set(st, STATUS_INVALID_ARGUMENT, "requester_issuer: 1 to %d bytes", KEY_ID_MAX);
	if (!node && (c->requester_serial != 0 || c->requester_issuer.len > 0))
		return status_set(st, STATUS_INVALID_ARGUMENT, "requester_serial: of nodes alone");
	if (node && (strcmp(c->profile, "ca") == 0 || strcmp(strchr(c->requester, '/') + 1, c->subject) != 0))
		return status_set(st, STATUS_INVALID_ARGUMENT, "subject: %.100s asked, and a node gets certificates for itself",
				  c->requester);
	if (c->request_id.len > REQUEST_ID_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "request_id: at most %d bytes", REQUEST_ID_MAX);
	if (c->request_digest.len != (c->request_id.len > 0 ? REQUEST_DIGEST_BYTES : 0))
		return status_set(st, STATUS_INVALID_ARGUMENT, "request_digest: %d bytes with a request id, none without",
				  REQUEST_DIGEST_BYTES);
	return STATUS_OK;
}

enum status_code state_validate_certificate(const Kds__V1__IssuedCertificate *c, unsigned version, struct status *st)
{
	bool ca = strcmp(c->profile, "ca") == 0;
	int64_t seconds = 0;
	if (c->serial == 0 || c->serial > SERIAL_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "serial: 1 to %" PRIu64, SERIAL_MAX);
	if (c->fingerprint.len != FINGERPRINT_BYTES)
		return status_set(st, STATUS_INVALID_ARGUMENT, "fingerprint: the SHA-256 of the DER, %d bytes",
				  FINGERPRINT_BYTES);
	if (!plain_text(c->subject, NAME_MAX_TEXT))
		return status_set(st, STATUS_INVALID_ARGUMENT, "subject: the common name, 1 to %d characters",
				  NAME_MAX_TEXT);
	if (c->issuer_key_id.len == 0 || c->issuer_key_id.len > KEY_ID_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "issuer_key_id: 1 to %d bytes", KEY_ID_MAX);
	if (!ca && strcmp(c->profile, "node") != 0 && strcmp(c->profile, "kds-client") != 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "profile: 'node', 'kds-client' or 'ca'");
	if (!plain_text(c->requester, requester_max(version)))
		return status_set(st, STATUS_INVALID_ARGUMENT, "requester: 1 to %zu characters", requester_max(version));
	if (c->not_before < 0 || __builtin_sub_overflow(c->not_after, c->not_before, &seconds) || seconds <= 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "not_after: must be behind not_before");
	if (!ca && seconds >= X509_LEAF_SECONDS_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "not_after: a certificate lives less than %d hours",
				  X509_LEAF_SECONDS_MAX / 3600);
	return version >= LEVEL_ASKED ? validate_asked(c, st) : STATUS_OK;
}

static enum status_code validate_set_min(const Kds__V1__SetMinRequest *in, struct status *st, const char **ret_field)
{
	switch (in->value_case) {
	case KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL:
		if (in->min_serial == 0 || in->min_serial > SERIAL_MAX)
			return INVALID(st, ret_field, "min_serial", "min_serial is 1 to %" PRIu64, SERIAL_MAX);
		return STATUS_OK;
	case KDS__V1__SET_MIN_REQUEST__VALUE_LATEST:
		if (!in->latest)
			return INVALID(st, ret_field, "latest", "latest is true or not given");
		return STATUS_OK;
	case KDS__V1__SET_MIN_REQUEST__VALUE_ALL:
		if (!in->all)
			return INVALID(st, ret_field, "all", "all is true or not given");
		return STATUS_OK;
	default:
		return INVALID(st, ret_field, "value", "give one of min_serial, latest and all");
	}
}

static enum status_code validate_groups(const Kds__V1__Node *n, struct status *st)
{
	unsigned lengths[GROUPS_MAX];
	if (n->n_groups > GROUPS_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "a node has at most %d groups", GROUPS_MAX);
	for (size_t i = 0; i < n->n_groups; i++) {
		enum status_code rc = x509_parse_group(n->groups[i], st, &lengths[i], NULL);
		if (rc != STATUS_OK)
			return rc;
		/* Without the fragment: a certificate that names one group twice leaves open which precision holds. */
		for (size_t k = 0; k < i; k++)
			if (lengths[k] == lengths[i] && memcmp(n->groups[k], n->groups[i], lengths[i]) == 0)
				return status_set(st, STATUS_INVALID_ARGUMENT, "the group %.*s is there twice",
						  (int)lengths[i], n->groups[i]);
	}
	return STATUS_OK;
}

static enum status_code validate_node(const Kds__V1__Node *n, struct status *st, const char **ret_field)
{
	*ret_field = "object.node.name";
	enum status_code rc = x509_check_dns_name(n->name, "node name", st);
	if (rc != STATUS_OK)
		return rc;
	*ret_field = "object.node.addresses";
	if (n->n_addresses > ADDRESSES_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "a node has at most %d addresses", ADDRESSES_MAX);
	for (size_t i = 0; i < n->n_addresses; i++) {
		uint8_t bytes[16];
		unsigned len;
		rc = x509_parse_address(n->addresses[i], st, bytes, &len);
		if (rc != STATUS_OK)
			return rc;
		for (size_t k = 0; k < i; k++)
			if (strcmp(n->addresses[k], n->addresses[i]) == 0)
				return status_set(st, STATUS_INVALID_ARGUMENT, "the address %s is there twice",
						  n->addresses[i]);
	}
	*ret_field = "object.node.groups";
	return validate_groups(n, st);
}

static enum status_code validate_authority(const Kds__V1__CertificateAuthority *a, struct status *st,
					   const char **ret_field)
{
	*ret_field = "object.certificate_authority.name";
	enum status_code rc = plain_name_check(a->name, "certificate authority", st);
	if (rc != STATUS_OK)
		return rc;
	if (a->certificate.len == 0 || a->certificate.len > CERTIFICATE_MAX)
		return INVALID(st, ret_field, "object.certificate_authority.certificate",
			       "the certificate of a CA has 1 to %d bytes", CERTIFICATE_MAX);
	if (a->sealed_key.len > SEALED_MAX)
		return INVALID(st, ret_field, "object.certificate_authority.sealed_key",
			       "a sealed key has at most %d bytes", SEALED_MAX);
	return STATUS_OK;
}

static enum status_code validate_master_key(const Kds__V1__MasterKey *m, struct status *st, const char **ret_field)
{
	if (m->published_ms == 0 || m->published_ms > SERIAL_MAX)
		return INVALID(st, ret_field, "object.master_key.published_ms", "the time of publication is missing");
	if (m->use_from_ms < m->published_ms || m->use_from_ms > SERIAL_MAX)
		return INVALID(st, ret_field, "object.master_key.use_from_ms",
			       "a masterKey is used from its publication on, or later");
	if (m->sealed_key.len == 0 || m->sealed_key.len > SEALED_MAX)
		return INVALID(st, ret_field, "object.master_key.sealed_key", "a sealed key has 1 to %d bytes",
			       SEALED_MAX);
	return STATUS_OK;
}

static enum status_code validate_put(const Kds__V1__PutRequest *in, struct status *st, const char **ret_field)
{
	if (!in->object)
		return INVALID(st, ret_field, "object", "the object is missing");
	const Kds__V1__Object *o = in->object;
	if (o->deleted)
		return INVALID(st, ret_field, "object.deleted", "to delete an object call Config.Delete");
	switch (o->value_case) {
	case KDS__V1__OBJECT__VALUE_NODE:
		return validate_node(o->node, st, ret_field);
	case KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY:
		return validate_authority(o->certificate_authority, st, ret_field);
	case KDS__V1__OBJECT__VALUE_MASTER_KEY:
		return validate_master_key(o->master_key, st, ret_field);
	case KDS__V1__OBJECT__VALUE_SETTING:
		*ret_field = "object.setting.name";
		if (strlen(o->setting->value) > SETTING_MAX)
			return INVALID(st, ret_field, "object.setting.value", "a setting has at most %d bytes",
				       SETTING_MAX);
		return plain_name_check(o->setting->name, "setting", st);
	case KDS__V1__OBJECT__VALUE_SERVICE:
		*ret_field = "object.service.name";
		return plain_name_check(o->service->name, "service", st);
	case KDS__V1__OBJECT__VALUE_CLUSTER:
		return INVALID(st, ret_field, "object.cluster", "the cluster's names are fixed when it is made");
	case KDS__V1__OBJECT__VALUE_MIN_SERIAL:
		return INVALID(st, ret_field, "object.min_serial", "min_serial is changed by Serial.SetMin alone");
	case KDS__V1__OBJECT__VALUE_REPLICA:
		return INVALID(st, ret_field, "object.replica", "replicas are changed by the service Replicas alone");
	default:
		return INVALID(st, ret_field, "object",
			       "the object has no value: give a node, certificate_authority,"
			       " master_key, setting or service");
	}
}

enum status_code state_validate_key(const char *key, struct status *st)
{
	static const char *const kinds[] = { "node/", "ca/", "masterkey/", "setting/", "service/" };
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		size_t len = strlen(kinds[i]);
		if (strncmp(key, kinds[i], len) == 0 && key[len] != '\0' && strlen(key) < OBJECT_KEY_MAX)
			return STATUS_OK;
	}
	if (strcmp(key, "cluster") == 0 || strcmp(key, "serial/min") == 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s is part of every cluster and cannot be deleted",
				  key);
	return status_set(st, STATUS_INVALID_ARGUMENT,
			  "a key is node/NAME, ca/NAME, masterkey/NUMBER, setting/NAME or service/NAME");
}

/* "host:port"; the api looks closer. `missing`: it may be empty. */
static bool plain_address(const char *address, bool missing)
{
	return (missing && *address == '\0') ||
	       (plain_text(address, NAME_MAX_TEXT) && strchr(address, ' ') == NULL && strrchr(address, ':') != NULL);
}

static enum status_code validate_add_replica(const Kds__V1__AddReplicaRequest *in, struct status *st,
					     const char **ret_field)
{
	*ret_field = "name";
	enum status_code rc = plain_name_check(in->name, "replica", st);
	if (rc != STATUS_OK)
		return rc;
	if (!plain_address(in->address, false))
		return INVALID(st, ret_field, "address", "the address is where it listens for the other replicas: host:port");
	if (!plain_address(in->rpc_address, true))
		return INVALID(st, ret_field, "rpc_address", "the RPC address is where it serves: host:port");
	return STATUS_OK;
}

static enum status_code validate_change_replica(const Kds__V1__ChangeReplicaRequest *in, struct status *st,
						const char **ret_field)
{
	if (in->change_case == KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE__NOT_SET ||
	    (in->change_case == KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_REMOVED && !in->removed))
		return INVALID(st, ret_field, "change", "give what is to be changed");
	*ret_field = "name";
	return plain_name_check(in->name, "replica", st);
}

/* Only leaders write it: more than that it can be stored is not asked. */
static enum status_code validate_note_replicas(const Kds__V1__ReplicaList *in, struct status *st, const char **ret_field)
{
	if (in->n_replicas == 0 || in->n_replicas > MEMBERSHIP_MAX)
		return INVALID(st, ret_field, "replicas", "1 to %d replicas", MEMBERSHIP_MAX);
	for (size_t i = 0; i < in->n_replicas; i++) {
		const Kds__V1__Replica *r = in->replicas[i];
		if (r->id == 0 || r->id > SERIAL_MAX || !plain_text(r->name, NAME_MAX_TEXT) ||
		    !plain_address(r->address, true) || !plain_address(r->rpc_address, true))
			return INVALID(st, ret_field, "replicas", "replica %zu has no id or name", i + 1);
	}
	return STATUS_OK;
}

static enum status_code validate_operation(const Kds__V1__Command *c, struct status *st, const char **ret_field)
{
	switch (c->op_case) {
	case KDS__V1__COMMAND__OP_GENESIS:
		return validate_genesis(c->genesis, st, ret_field);
	case KDS__V1__COMMAND__OP_ALLOCATE:
		if (c->allocate->count == 0 || c->allocate->count > ALLOCATE_MAX)
			return INVALID(st, ret_field, "count", "a block has 1 to %d serials", ALLOCATE_MAX);
		return STATUS_OK;
	case KDS__V1__COMMAND__OP_RECORD:
		/* Each certificate is checked, and answered, by itself. */
		if (c->record->n_certificates == 0 || c->record->n_certificates > RECORD_CERTIFICATES_MAX)
			return INVALID(st, ret_field, "certificates", "record 1 to %d certificates at once",
				       RECORD_CERTIFICATES_MAX);
		return STATUS_OK;
	case KDS__V1__COMMAND__OP_SET_MIN:
		return validate_set_min(c->set_min, st, ret_field);
	case KDS__V1__COMMAND__OP_PUT:
		return validate_put(c->put, st, ret_field);
	case KDS__V1__COMMAND__OP_DELETE:
		*ret_field = "key";
		return state_validate_key(c->delete_->key, st);
	case KDS__V1__COMMAND__OP_RAISE_LEVEL:
		if (c->raise_level->level == 0)
			return INVALID(st, ret_field, "level", "a level is at least %d", LEVEL_FIRST);
		return STATUS_OK;
	case KDS__V1__COMMAND__OP_ADD_REPLICA:
		return validate_add_replica(c->add_replica, st, ret_field);
	case KDS__V1__COMMAND__OP_CHANGE_REPLICA:
		return validate_change_replica(c->change_replica, st, ret_field);
	case KDS__V1__COMMAND__OP_NOTE_REPLICAS:
		return validate_note_replicas(c->note_replicas, st, ret_field);
	default:
		return INVALID(st, ret_field, "op", "the command has no operation");
	}
}

enum status_code state_validate(const Kds__V1__Command *c, struct status *st, const char **ret_field)
{
	const char *field = "";
	enum status_code rc;
	if (c->request_id.len > REQUEST_ID_MAX)
		rc = INVALID(st, &field, "request_id", "a request id has at most %d bytes", REQUEST_ID_MAX);
	else if (c->op_case != KDS__V1__COMMAND__OP_GENESIS && !plain_text(c->requester, requester_max(c->version)))
		rc = INVALID(st, &field, "requester", "the caller's name has 1 to %zu characters", requester_max(c->version));
	else
		rc = validate_operation(c, st, &field);
	if (rc != STATUS_OK)
		*ret_field = field;
	return rc;
}
