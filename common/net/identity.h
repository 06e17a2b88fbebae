/*
 * Who a peer is: taken once from its verified chain, then immutable and shared by reference.
 */
#ifndef NET_IDENTITY_H
#define NET_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/status.h"

/* Bits. The first four need the infrastructure CA and a role URI kds://<cluster>/role/<role>/<name>. */
enum peer_role {
	PEER_SERIAL = 1 << 0,
	PEER_CA = 1 << 1,
	PEER_KEYDIST = 1 << 2,
	PEER_ADMIN = 1 << 3,
	PEER_NODE = 1 << 4,       /* signed by a cluster CA, profile node */
	PEER_KDS_CLIENT = 1 << 5, /* signed by a cluster CA, names the KDS as dNSName, clientAuth alone */
	PEER_SELF = 1 << 6,       /* no connection: the process asks itself */
};
#define PEER_SERVICES (PEER_SERIAL | PEER_CA | PEER_KEYDIST | PEER_ADMIN)
#define PEER_ANYONE (PEER_SERVICES | PEER_NODE | PEER_KDS_CLIENT | PEER_SELF)

#define IDENTITY_KEY_ID_MAX 32
#define IDENTITY_SERIAL_MAX 20 /* RFC 5280 §4.1.2.2 */
#define IDENTITY_ANCHOR_SIZE 32

struct identity {
	unsigned roles;      /* bits of enum peer_role; 0: nobody in particular */
	bool infrastructure; /* chain ends in the infrastructure CA */
	char *common_name;
	char *role_name;     /* from the role URI; "" without */
	char **dns_names;
	size_t n_dns_names;
	char **uris;
	size_t n_uris;
	uint8_t issuer_key_id[IDENTITY_KEY_ID_MAX]; /* x509_key_id() of the key that signed it */
	size_t issuer_key_id_len;
	uint8_t serial[IDENTITY_SERIAL_MAX]; /* big-endian, no leading zero byte */
	size_t serial_len;
	int64_t not_after;  /* Unix seconds; of the chain's shortest */
	uint8_t anchor[IDENTITY_ANCHOR_SIZE]; /* SHA-256 of the CA certificate that vouches for it; for trust_recheck() */
	uint8_t *spki;      /* DER SubjectPublicKeyInfo of the certificate's key */
	size_t spki_len;
};

/* Counted references; immutable once shared, so any thread may read. NULL is allowed in both. */
struct identity *identity_ref(struct identity *id);
void identity_unref(struct identity *id);

/* One zeroed identity with one reference, strings empty. NULL: no memory. */
struct identity *identity_new(void) MUST_CHECK;

/* The serial as a number; UINT64_MAX when it does not fit (then it is none of ours). */
uint64_t identity_serial(const struct identity *id);

/*
 * What an identity is called in records, histories and quotas: "node/<common name>" for a node and its KDS client,
 * "<role>/<name>" for a service ("ca/ca1"), so that a node cannot go by a service's name. NULL: "nobody/". Cut to fit.
 */
#define IDENTITY_LABEL_MAX 280
const char *identity_label(const struct identity *id, char ret_label[IDENTITY_LABEL_MAX]);

/* "admin", "serial", ... for one bit; "nobody" for 0. Static storage. */
const char *peer_role_name(unsigned role);
/* The bit for "admin", "serial", "ca", "keydist"; 0: no such role. */
unsigned peer_role_parse(const char *name, size_t len);
/* Writes "admin, ca" for a mask into buf, for error messages. */
const char *peer_roles_describe(unsigned roles, char *buf, size_t size);

#endif
