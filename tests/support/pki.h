/*
 * Certificates for tests, made with GnuTLS alone (so that a mistake in common/x509 does not hide itself): an
 * infrastructure CA, one cluster CA, a CA that nobody trusts, and what they sign. Every failure ends the test.
 */
#ifndef TESTS_PKI_H
#define TESTS_PKI_H

#include <gnutls/x509.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/buffer.h"

#define PKI_CLUSTER "cluster.example.com"
#define PKI_KDS_NAME "key.example.com"

struct pki;

enum pki_ca {
	PKI_INFRASTRUCTURE,
	PKI_CLUSTER_CA,
	PKI_STRANGER, /* a self-signed CA that is no anchor anywhere */
	PKI_CAS,
};

enum pki_usage { PKI_USAGE_BOTH, PKI_USAGE_SERVER, PKI_USAGE_CLIENT, PKI_USAGE_NONE };

/* A certificate with its key. All of it belongs to the pki. */
struct pki_leaf {
	const char *certificate; /* path of a PEM file */
	const char *key;         /* path of a PEM file, mode 0600 */
	gnutls_x509_crt_t crt;
	gnutls_x509_privkey_t private_key;
	gnutls_datum_t der;
};

/* What differs from leaf to leaf; zeroed is a certificate that is valid now for an hour. */
struct pki_spec {
	const char *common_name;
	enum pki_ca ca;
	uint64_t serial;            /* 0: the next one of this pki, from 1 */
	enum pki_usage usage;
	const char *const *dns_names; /* NULL-terminated, or NULL */
	const char *const *uris;      /* the same */
	int64_t starts_in;          /* seconds from now; 0: a minute ago */
	int64_t ends_in;            /* seconds from now; 0: in an hour */
	bool is_ca;                 /* makes a sub-CA: see pki_issue_under() */
};

/* Makes the CAs in a fresh directory; infra-ca.crt, cluster-ca.crt and stranger-ca.crt stand in it. */
struct pki *pki_new(void);
void pki_free(struct pki *p);

const char *pki_directory(const struct pki *p);
/* Path of a CA's PEM file. */
const char *pki_ca_file(const struct pki *p, enum pki_ca ca);
/* The same in memory. Borrowed. */
struct slice pki_ca_pem(const struct pki *p, enum pki_ca ca);
struct slice pki_ca_der(const struct pki *p, enum pki_ca ca);
gnutls_x509_crt_t pki_ca_crt(const struct pki *p, enum pki_ca ca);
gnutls_x509_privkey_t pki_ca_key(const struct pki *p, enum pki_ca ca);

/* Any certificate. */
const struct pki_leaf *pki_issue(struct pki *p, const struct pki_spec *spec);
/* The same signed by a sub-CA made before; the file holds the leaf and then that CA's certificate. */
const struct pki_leaf *pki_issue_under(struct pki *p, const struct pki_leaf *ca, const struct pki_spec *spec);

/* A service's: "serial", "serial1" gives kds://cluster.example.com/role/serial/serial1, server and client. */
const struct pki_leaf *pki_service(struct pki *p, const char *role, const char *name);
/* The administrator's: role admin, client alone. */
const struct pki_leaf *pki_admin(struct pki *p);
/* A node's own, under the cluster's CA. `serial` 0: the next. */
const struct pki_leaf *pki_node(struct pki *p, const char *node, uint64_t serial);
/* A key distribution client's; `groups` NULL-terminated ("urn:x:prjA#10s"). */
const struct pki_leaf *pki_kds_client(struct pki *p, const char *node, const char *const *groups, uint64_t serial);

#endif
