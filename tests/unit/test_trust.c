// links: common_net common_x509 common_base
#include "tests/support/support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <gnutls/abstract.h>

#include "common/net/chain_cache.h"
#include "common/net/trust.h"
#include "common/x509/key.h"
#include "tests/support/pki.h"

struct fixture {
	struct pki *pki;
	struct trust *trust;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	assert_non_null(f);
	f->pki = pki_new();
	struct slice infrastructure = pki_ca_pem(f->pki, PKI_INFRASTRUCTURE);
	struct slice cluster = pki_ca_der(f->pki, PKI_CLUSTER_CA);
	struct status st;
	assert_int_equal(trust_new(PKI_CLUSTER, PKI_KDS_NAME, &infrastructure, &st, &f->trust), STATUS_OK);
	assert_int_equal(trust_set_cluster_cas(f->trust, &cluster, 1, &st), STATUS_OK);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	trust_free(f->trust);
	pki_free(f->pki);
	free(f);
	return 0;
}

static struct identity *verified(struct fixture *f, const struct pki_leaf *leaf, enum trust_purpose purpose)
{
	struct status st;
	struct identity *id = NULL;
	if (trust_verify(f->trust, &leaf->der, 1, purpose, &st, &id) != STATUS_OK)
		fail_msg("%s: %s", status_name(st.code), st.message);
	return id;
}

/* The message must hold `text`, the alert be `alert`; what is refused leaves no identity. */
static void refused_chain(struct fixture *f, const gnutls_datum_t *chain, unsigned n, enum trust_purpose purpose,
			  enum status_code code, gnutls_alert_description_t alert, const char *text)
{
	struct status st;
	struct identity *id = NULL;
	gnutls_alert_description_t told = GNUTLS_A_CLOSE_NOTIFY;
	/* Twice: nothing that was refused may be remembered as good. */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(trust_verify_handshake(f->trust, chain, n, purpose, &st, &told, &id), code);
		assert_null(id);
		assert_int_equal(told, alert);
		if (!strstr(st.message, text))
			fail_msg("'%s' does not say '%s'", st.message, text);
	}
}

static void refused(struct fixture *f, const struct pki_leaf *leaf, enum trust_purpose purpose, enum status_code code,
		    gnutls_alert_description_t alert, const char *text)
{
	refused_chain(f, &leaf->der, 1, purpose, code, alert, text);
}

static void test_trust_nodes(void **state)
{
	struct fixture *f = *state;
	static const char *const groups[] = { "urn:example:prjA", NULL };
	const struct pki_leaf *node = pki_node(f->pki, "node1.example.com", 0);
	const struct pki_leaf *client = pki_kds_client(f->pki, "node2.example.com", groups, 0);
	const struct pki_leaf *service = pki_service(f->pki, "ca", "ca1");
	struct status st;
	assert_int_equal(trust_add_node(f->trust, "node1.example.com", &st), STATUS_OK);
	assert_int_equal(trust_add_node(f->trust, "node1.example.com", &st), STATUS_OK);
	/* Nobody said yet that these are all. */
	assert_false(trust_nodes_known(f->trust));
	struct identity *first = verified(f, node, TRUST_CLIENT), *second = verified(f, client, TRUST_CLIENT);
	trust_set_nodes_known(f->trust);
	assert_true(trust_nodes_known(f->trust));
	assert_int_equal(trust_recheck(f->trust, first, &st), STATUS_OK);
	assert_int_equal(trust_recheck(f->trust, second, &st), STATUS_PERMISSION_DENIED);
	assert_non_null(strstr(st.message, "node2.example.com"));
	refused(f, client, TRUST_CLIENT, STATUS_PERMISSION_DENIED, GNUTLS_A_ACCESS_DENIED, "is not in the cluster");
	identity_unref(verified(f, service, TRUST_CLIENT)); /* no node, and needs not be */

	assert_int_equal(trust_add_node(f->trust, "node2.example.com", &st), STATUS_OK);
	trust_remove_node(f->trust, "node1.example.com");
	trust_remove_node(f->trust, "node3.example.com");
	assert_int_equal(trust_recheck(f->trust, second, &st), STATUS_OK);
	assert_int_equal(trust_recheck(f->trust, first, &st), STATUS_PERMISSION_DENIED);
	refused(f, node, TRUST_SERVER, STATUS_PERMISSION_DENIED, GNUTLS_A_ACCESS_DENIED, "is not in the cluster");
	identity_unref(first);
	identity_unref(second);
}

static void test_trust_service(void **state)
{
	struct fixture *f = *state;
	const struct pki_leaf *leaf = pki_service(f->pki, "serial", "serial2");
	for (enum trust_purpose purpose = TRUST_CLIENT; purpose <= TRUST_SERVER; purpose++) {
		struct identity *id = verified(f, leaf, purpose);
		assert_int_equal(id->roles, PEER_SERIAL);
		assert_true(id->infrastructure);
		assert_string_equal(id->common_name, PKI_KDS_NAME);
		assert_string_equal(id->role_name, "serial2");
		assert_int_equal(id->n_dns_names, 1);
		assert_string_equal(id->dns_names[0], PKI_KDS_NAME);
		identity_unref(id);
	}
}

static void test_trust_identity_fields(void **state)
{
	struct fixture *f = *state;
	const char *const groups[] = { "urn:x:prjA#10s", "urn:x:prjB", NULL };
	const struct pki_leaf *leaf = pki_kds_client(f->pki, "node1.example.com", groups, 0x1234567890);
	struct identity *id = verified(f, leaf, TRUST_CLIENT);
	assert_int_equal(id->roles, PEER_KDS_CLIENT);
	assert_false(id->infrastructure);
	assert_string_equal(id->common_name, "node1.example.com");
	assert_string_equal(id->role_name, "");
	assert_int_equal(id->n_uris, 2);
	assert_string_equal(id->uris[0], groups[0]);
	assert_string_equal(id->uris[1], groups[1]);
	assert_int_equal(identity_serial(id), 0x1234567890);
	assert_int_equal(id->serial_len, 5);

	uint8_t key_id[64];
	size_t len = sizeof key_id;
	assert_int_equal(gnutls_x509_crt_get_subject_key_id(pki_ca_crt(f->pki, PKI_CLUSTER_CA), key_id, &len, NULL), 0);
	assert_int_equal(id->issuer_key_id_len, len);
	assert_memory_equal(id->issuer_key_id, key_id, len);

	gnutls_pubkey_t key;
	gnutls_datum_t spki;
	assert_int_equal(gnutls_pubkey_init(&key), 0);
	assert_int_equal(gnutls_pubkey_import_x509(key, leaf->crt, 0), 0);
	assert_int_equal(gnutls_pubkey_export2(key, GNUTLS_X509_FMT_DER, &spki), 0);
	assert_int_equal(id->spki_len, spki.size);
	assert_memory_equal(id->spki, spki.data, spki.size);
	assert_int_equal(id->not_after, gnutls_x509_crt_get_expiration_time(leaf->crt));
	gnutls_free(spki.data);
	gnutls_pubkey_deinit(key);
	identity_unref(id);
}

static void test_trust_node(void **state)
{
	struct fixture *f = *state;
	struct identity *id = verified(f, pki_node(f->pki, "node1.example.com", 0), TRUST_CLIENT);
	assert_int_equal(id->roles, PEER_NODE);
	assert_false(id->infrastructure);
	identity_unref(id);
}

static void test_trust_role_only_from_infrastructure(void **state)
{
	struct fixture *f = *state;
	const char *const uris[] = { "kds://" PKI_CLUSTER "/role/admin/admin", NULL };
	struct pki_spec spec = { .common_name = "evil", .ca = PKI_CLUSTER_CA, .uris = uris };
	struct identity *id = verified(f, pki_issue(f->pki, &spec), TRUST_CLIENT);
	assert_int_equal(id->roles, PEER_NODE);
	identity_unref(id);
}

/* A CA of the cluster that stands under the infrastructure CA must not lend it its roles. */
static void test_trust_role_not_through_cluster_ca(void **state)
{
	struct fixture *f = *state;
	struct status st;
	struct pki_spec sub_spec = { .common_name = "sub CA", .ca = PKI_INFRASTRUCTURE, .is_ca = true };
	const struct pki_leaf *sub = pki_issue(f->pki, &sub_spec);
	struct slice der = { sub->der.data, sub->der.size };
	const char *const uris[] = { "kds://" PKI_CLUSTER "/role/admin/admin", NULL };
	struct pki_spec spec = { .common_name = "evil", .uris = uris };
	const struct pki_leaf *leaf = pki_issue_under(f->pki, sub, &spec);
	gnutls_datum_t chain[3] = { leaf->der, sub->der };
	struct slice root = pki_ca_der(f->pki, PKI_INFRASTRUCTURE);
	chain[2] = (gnutls_datum_t){ .data = (unsigned char *)(uintptr_t)root.data, .size = (unsigned)root.len };

	struct identity *id;
	assert_int_equal(trust_verify(f->trust, chain, 2, TRUST_CLIENT, &st, &id), STATUS_OK);
	assert_int_equal(id->roles, PEER_ADMIN); /* as an issuing CA under the root it may */
	identity_unref(id);
	assert_int_equal(trust_set_cluster_cas(f->trust, &der, 1, &st), STATUS_OK);
	for (unsigned n = 1; n <= 3; n++) {
		assert_int_equal(trust_verify(f->trust, chain, n, TRUST_CLIENT, &st, &id), STATUS_OK);
		assert_int_equal(id->roles, PEER_NODE);
		identity_unref(id);
	}
}

static void test_trust_role_uri_must_fit(void **state)
{
	struct fixture *f = *state;
	static const char *const bad[] = {
		"kds://other.example.com/role/admin/admin", "kds://" PKI_CLUSTER "/role/king/admin",
		"kds://" PKI_CLUSTER "/role/admin/",	    "kds://" PKI_CLUSTER "/role/admin",
		"kds://" PKI_CLUSTER "/role/admin/a/b",	    "kds://" PKI_CLUSTER ".evil/role/admin/admin",
		"kds://" PKI_CLUSTER "/role/node/n1",
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		const char *const uris[] = { bad[i], NULL };
		struct pki_spec spec = { .common_name = "x", .ca = PKI_INFRASTRUCTURE, .uris = uris };
		refused(f, pki_issue(f->pki, &spec), TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE, bad[i]);
	}
	const char *const two[] = { "kds://" PKI_CLUSTER "/role/serial/a", "kds://" PKI_CLUSTER "/role/ca/b", NULL };
	struct pki_spec spec = { .common_name = "x", .ca = PKI_INFRASTRUCTURE, .uris = two };
	refused(f, pki_issue(f->pki, &spec), TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE, "two services");
}

static void test_trust_roles_add_up(void **state)
{
	struct fixture *f = *state;
	const char *const uris[] = { "kds://" PKI_CLUSTER "/role/ca/one", "kds://" PKI_CLUSTER "/role/keydist/one",
				     "https://example.com/", NULL };
	struct pki_spec spec = { .common_name = "x", .ca = PKI_INFRASTRUCTURE, .uris = uris };
	struct identity *id = verified(f, pki_issue(f->pki, &spec), TRUST_CLIENT);
	char text[64];
	assert_int_equal(id->roles, PEER_CA | PEER_KEYDIST);
	assert_string_equal(peer_roles_describe(id->roles, text, sizeof text), "ca, keydist");
	identity_unref(id);

	struct pki_spec none = { .common_name = "nobody", .ca = PKI_INFRASTRUCTURE };
	id = verified(f, pki_issue(f->pki, &none), TRUST_CLIENT);
	assert_int_equal(id->roles, 0);
	assert_true(id->infrastructure);
	identity_unref(id);
}

/* Whoever names the KDS and could be a server would pose as it. */
static void test_trust_kds_name_for_clients_alone(void **state)
{
	struct fixture *f = *state;
	const char *const dns[] = { PKI_KDS_NAME, NULL }, *const upper[] = { "KEY.example.com", NULL };
	struct pki_spec spec = { .common_name = "n", .ca = PKI_CLUSTER_CA, .dns_names = dns, .usage = PKI_USAGE_BOTH };
	refused(f, pki_issue(f->pki, &spec), TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE, PKI_KDS_NAME);
	spec.usage = PKI_USAGE_NONE;
	refused(f, pki_issue(f->pki, &spec), TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE, PKI_KDS_NAME);
	spec.dns_names = upper;
	spec.usage = PKI_USAGE_SERVER;
	refused(f, pki_issue(f->pki, &spec), TRUST_SERVER, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE, PKI_KDS_NAME);
}

static void test_trust_refuses(void **state)
{
	struct fixture *f = *state;
	struct pki *p = f->pki;
	struct pki_spec stranger = { .common_name = "s", .ca = PKI_STRANGER };
	refused(f, pki_issue(p, &stranger), TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_UNKNOWN_CA, "does not trust");
	struct pki_spec expired = { .common_name = "e", .ca = PKI_CLUSTER_CA, .starts_in = -7200, .ends_in = -3600 };
	refused(f, pki_issue(p, &expired), TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_CERTIFICATE_EXPIRED, "expired");
	struct pki_spec early = { .common_name = "e", .ca = PKI_CLUSTER_CA, .starts_in = 600 };
	refused(f, pki_issue(p, &early), TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE, "not valid yet");
	refused(f, pki_admin(p), TRUST_SERVER, STATUS_UNAUTHENTICATED, GNUTLS_A_UNSUPPORTED_CERTIFICATE, "this end");
	struct pki_spec server = { .common_name = "s", .ca = PKI_CLUSTER_CA, .usage = PKI_USAGE_SERVER };
	refused(f, pki_issue(p, &server), TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_UNSUPPORTED_CERTIFICATE, "this end");
	refused_chain(f, NULL, 0, TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_CERTIFICATE_REQUIRED, "no certificate");

	struct slice ca = pki_ca_der(p, PKI_CLUSTER_CA);
	gnutls_datum_t as_peer = { .data = (unsigned char *)(uintptr_t)ca.data, .size = (unsigned)ca.len };
	refused_chain(f, &as_peer, 1, TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE, "CA's");

	const struct pki_leaf *node = pki_node(p, "n", 0);
	gnutls_datum_t many[9];
	for (int i = 0; i < 9; i++)
		many[i] = node->der;
	refused_chain(f, many, 9, TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE, "at most");
	uint8_t junk[] = { 0x30, 0x03, 0x02, 0x01, 0x01 };
	gnutls_datum_t bad = { .data = junk, .size = sizeof junk };
	refused_chain(f, &bad, 1, TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE, "certificate");
}

/* A bit flipped in the signature of a certificate that was just found good. */
static void test_trust_refuses_forged(void **state)
{
	struct fixture *f = *state;
	const struct pki_leaf *leaf = pki_node(f->pki, "n", 0);
	identity_unref(verified(f, leaf, TRUST_CLIENT));
	uint8_t *copy = malloc(leaf->der.size);
	assert_non_null(copy);
	memcpy(copy, leaf->der.data, leaf->der.size);
	copy[leaf->der.size - 4] ^= 1;
	gnutls_datum_t forged = { .data = copy, .size = leaf->der.size };
	refused_chain(f, &forged, 1, TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE, "does not verify");
	free(copy);
}

static void test_trust_min_serial(void **state)
{
	struct fixture *f = *state;
	struct status st;
	const struct pki_leaf *old = pki_node(f->pki, "n", 41), *now = pki_node(f->pki, "n", 42);
	struct identity *id = verified(f, old, TRUST_CLIENT);
	trust_set_min_serial(f->trust, 42);
	assert_int_equal(trust_min_serial(f->trust), 42);
	refused(f, old, TRUST_CLIENT, STATUS_PERMISSION_DENIED, GNUTLS_A_CERTIFICATE_REVOKED, "min_serial 42");
	assert_int_equal(trust_recheck(f->trust, id, &st), STATUS_PERMISSION_DENIED);
	identity_unref(id);
	identity_unref(verified(f, now, TRUST_CLIENT));
	/* Certificates of the infrastructure have serials of their own. */
	identity_unref(verified(f, pki_admin(f->pki), TRUST_CLIENT));
}

static void test_trust_removed_service(void **state)
{
	struct fixture *f = *state;
	struct status st;
	const struct pki_leaf *ca1 = pki_service(f->pki, "ca", "ca1"), *ca2 = pki_service(f->pki, "ca", "ca2");
	struct identity *id = verified(f, ca1, TRUST_SERVER);
	const char *const removed[] = { "ca1" };
	assert_int_equal(trust_set_removed_services(f->trust, removed, 1, &st), STATUS_OK);
	refused(f, ca1, TRUST_SERVER, STATUS_PERMISSION_DENIED, GNUTLS_A_CERTIFICATE_REVOKED, "'ca1' was removed");
	assert_int_equal(trust_recheck(f->trust, id, &st), STATUS_PERMISSION_DENIED);
	identity_unref(verified(f, ca2, TRUST_SERVER));
	assert_int_equal(trust_set_removed_services(f->trust, NULL, 0, &st), STATUS_OK);
	assert_int_equal(trust_recheck(f->trust, id, &st), STATUS_OK);
	identity_unref(id);
}

static void test_trust_recheck_follows_cas(void **state)
{
	struct fixture *f = *state;
	struct status st;
	struct identity *node = verified(f, pki_node(f->pki, "n", 0), TRUST_CLIENT);
	struct identity *admin = verified(f, pki_admin(f->pki), TRUST_CLIENT);
	assert_int_equal(trust_recheck(f->trust, node, &st), STATUS_OK);
	struct slice both[] = { pki_ca_der(f->pki, PKI_STRANGER), pki_ca_der(f->pki, PKI_CLUSTER_CA) };
	assert_int_equal(trust_set_cluster_cas(f->trust, both, 2, &st), STATUS_OK);
	assert_int_equal(trust_recheck(f->trust, node, &st), STATUS_OK);
	assert_int_equal(trust_set_cluster_cas(f->trust, both, 1, &st), STATUS_OK);
	assert_int_equal(trust_recheck(f->trust, node, &st), STATUS_UNAUTHENTICATED);
	assert_int_equal(trust_recheck(f->trust, admin, &st), STATUS_OK);
	identity_unref(node);
	identity_unref(admin);
}

/* The chains remembered under a CA go with it. */
static void test_trust_forgets_with_the_ca(void **state)
{
	struct fixture *f = *state;
	struct status st;
	const struct pki_leaf *leaf = pki_node(f->pki, "n", 0);
	struct identity *first = verified(f, leaf, TRUST_CLIENT), *second = verified(f, leaf, TRUST_CLIENT);
	assert_ptr_equal(first, second); /* from the cache */
	assert_int_equal(trust_set_cluster_cas(f->trust, NULL, 0, &st), STATUS_OK);
	refused(f, leaf, TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_UNKNOWN_CA, "does not trust");
	identity_unref(first);
	identity_unref(second);
}

static void test_trust_sub_ca(void **state)
{
	struct fixture *f = *state;
	struct status st;
	struct pki_spec sub_spec = { .common_name = "issuing", .ca = PKI_INFRASTRUCTURE, .is_ca = true, .ends_in = 1800 };
	const struct pki_leaf *sub = pki_issue(f->pki, &sub_spec);
	const char *const uris[] = { "kds://" PKI_CLUSTER "/role/keydist/k1", NULL };
	struct pki_spec spec = { .common_name = "k", .uris = uris };
	const struct pki_leaf *leaf = pki_issue_under(f->pki, sub, &spec);
	gnutls_datum_t chain[] = { leaf->der, sub->der };
	struct identity *id;
	assert_int_equal(trust_verify(f->trust, chain, 2, TRUST_SERVER, &st, &id), STATUS_OK);
	assert_int_equal(id->roles, PEER_KEYDIST);
	assert_int_equal(id->not_after, gnutls_x509_crt_get_expiration_time(sub->crt)); /* the shorter life counts */
	identity_unref(id);
	refused_chain(f, chain, 1, TRUST_SERVER, STATUS_UNAUTHENTICATED, GNUTLS_A_UNKNOWN_CA, "does not trust");
	/* A leaf cannot sign. */
	struct pki_spec under_leaf = { .common_name = "x" };
	const struct pki_leaf *node = pki_node(f->pki, "n", 0);
	const struct pki_leaf *grandchild = pki_issue_under(f->pki, node, &under_leaf);
	gnutls_datum_t bad[] = { grandchild->der, node->der };
	assert_int_equal(trust_verify(f->trust, bad, 2, TRUST_CLIENT, &st, &id), STATUS_UNAUTHENTICATED);
}

static void test_trust_new_refuses(void **state)
{
	struct fixture *f = *state;
	struct status st;
	struct trust *t = NULL;
	struct slice junk = { "junk", 4 };
	assert_int_equal(trust_new("c", "k", &junk, &st, &t), STATUS_INVALID_ARGUMENT);
	const struct pki_leaf *leaf = pki_admin(f->pki);
	gnutls_datum_t pem;
	assert_int_equal(gnutls_x509_crt_export2(leaf->crt, GNUTLS_X509_FMT_PEM, &pem), 0);
	struct slice not_ca = { pem.data, pem.size };
	assert_int_equal(trust_new("c", "k", &not_ca, &st, &t), STATUS_INVALID_ARGUMENT);
	assert_null(t);
	gnutls_free(pem.data);
	/* A bad list leaves the former in force. */
	struct slice bad[] = { pki_ca_der(f->pki, PKI_STRANGER), { leaf->der.data, leaf->der.size } };
	assert_int_equal(trust_set_cluster_cas(f->trust, bad, 2, &st), STATUS_INVALID_ARGUMENT);
	identity_unref(verified(f, pki_node(f->pki, "n", 0), TRUST_CLIENT));
}

static void test_trust_role_names(void **state)
{
	(void)state;
	char text[64], tiny[8];
	assert_int_equal(peer_role_parse("keydist", 7), PEER_KEYDIST);
	assert_int_equal(peer_role_parse("keydis", 6), 0);
	assert_int_equal(peer_role_parse("node", 4), 0);
	assert_string_equal(peer_role_name(PEER_ADMIN), "admin");
	assert_string_equal(peer_role_name(0), "nobody");
	assert_string_equal(peer_roles_describe(0, text, sizeof text), "nobody");
	assert_string_equal(peer_roles_describe(PEER_ADMIN | PEER_NODE, text, sizeof text), "admin, node");
	assert_string_equal(peer_roles_describe(PEER_ANYONE, tiny, sizeof tiny), "serial,");
}

static void test_trust_cache_is_bounded(void **state)
{
	(void)state;
	struct chain_cache *cache = chain_cache_new();
	struct identity *a = identity_new(), *b = identity_new();
	assert_non_null(cache);
	assert_non_null(a);
	assert_non_null(b);
	uint8_t one[CHAIN_DIGEST_SIZE] = { 1, 2, 3 }, other[CHAIN_DIGEST_SIZE] = { 1, 2, 4 };
	assert_null(chain_cache_find(cache, one));
	chain_cache_put(cache, one, a);
	assert_null(chain_cache_find(cache, other)); /* same slot, other chain */
	chain_cache_put(cache, other, b);
	assert_null(chain_cache_find(cache, one));
	struct identity *found = chain_cache_find(cache, other);
	assert_ptr_equal(found, b);
	chain_cache_free(cache);
	identity_unref(found);
	identity_unref(a);
	identity_unref(b);
}

struct race {
	struct fixture *f;
	const struct pki_leaf *leaf;
	atomic_bool bad;
};

static void *verify_again_and_again(void *arg)
{
	struct race *r = arg;
	for (int i = 0; i < 300; i++) {
		struct identity *id = NULL;
		struct status st;
		if (trust_verify(r->f->trust, &r->leaf->der, 1, TRUST_CLIENT, &st, &id) == STATUS_OK) {
			/* By now the CA may be gone or the serial too low; nothing else may be wrong with it. */
			enum status_code rc = trust_recheck(r->f->trust, id, &st);
			if (rc != STATUS_OK && rc != STATUS_UNAUTHENTICATED && rc != STATUS_PERMISSION_DENIED)
				r->bad = true;
			identity_unref(id);
		}
	}
	return NULL;
}

static void test_trust_changes_under_readers(void **state)
{
	struct fixture *f = *state;
	struct race race = { .f = f, .leaf = pki_node(f->pki, "n", 7) };
	pthread_t threads[2];
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, verify_again_and_again, &race), 0);
	struct slice cas[] = { pki_ca_der(f->pki, PKI_CLUSTER_CA), pki_ca_der(f->pki, PKI_STRANGER) };
	const char *const removed[] = { "a", "b" };
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(trust_set_cluster_cas(f->trust, cas, i % 3, NULL), STATUS_OK);
		trust_set_min_serial(f->trust, i % 10);
		assert_int_equal(trust_set_removed_services(f->trust, removed, i % 3, NULL), STATUS_OK);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_false(race.bad);
}

/* Certificates that pki.h does not make */

struct made {
	gnutls_x509_crt_t crt;
	gnutls_x509_privkey_t key;
	gnutls_datum_t der;
	uint8_t key_id[20];
};

struct make {
	const char *name;
	const struct made *issuer;         /* NULL: self-signed */
	bool ca;
	int path_len;                      /* of a CA; -1: none */
	const uint8_t *says_key_id;        /* SKI, 20 bytes; NULL: none */
	const uint8_t *says_issuer_key_id; /* AKI, the same */
	gnutls_digest_algorithm_t digest;  /* 0: SHA-256 */
	gnutls_x509_privkey_t key;         /* taken over; NULL: a new one */
	gnutls_x509_crt_t key_of;          /* whose public key it has; NULL: that of `key` */
	uint8_t serial;                    /* 0: 1 */
};

static void make(const struct make *spec, struct made *ret_made)
{
	struct made m = { .key = spec->key };
	time_t now = time(NULL);
	if (!m.key)
		assert_int_equal(x509_key_generate(NULL, &m.key), STATUS_OK);
	assert_int_equal(gnutls_x509_crt_init(&m.crt), 0);
	assert_int_equal(gnutls_x509_crt_set_version(m.crt, 3), 0);
	assert_int_equal(gnutls_x509_crt_set_key(m.crt, m.key), 0);
	gnutls_pubkey_t public;
	assert_int_equal(gnutls_pubkey_init(&public), 0);
	if (spec->key_of) {
		assert_int_equal(gnutls_pubkey_import_x509(public, spec->key_of, 0), 0);
		assert_int_equal(gnutls_x509_crt_set_pubkey(m.crt, public), 0);
	}
	const uint8_t serial = spec->serial ? spec->serial : 1;
	assert_int_equal(gnutls_x509_crt_set_serial(m.crt, &serial, 1), 0);
	assert_int_equal(gnutls_x509_crt_set_dn_by_oid(m.crt, GNUTLS_OID_X520_COMMON_NAME, 0, spec->name,
						       (unsigned)strlen(spec->name)), 0);
	assert_int_equal(gnutls_x509_crt_set_activation_time(m.crt, now - 60), 0);
	assert_int_equal(gnutls_x509_crt_set_expiration_time(m.crt, now + 3600), 0);
	if (spec->ca)
		assert_int_equal(gnutls_x509_crt_set_basic_constraints(m.crt, 1, spec->path_len), 0);
	if (spec->says_key_id)
		assert_int_equal(gnutls_x509_crt_set_subject_key_id(m.crt, spec->says_key_id, 20), 0);
	if (spec->says_issuer_key_id)
		assert_int_equal(gnutls_x509_crt_set_authority_key_id(m.crt, spec->says_issuer_key_id, 20), 0);
	assert_int_equal(gnutls_x509_crt_sign2(m.crt, spec->issuer ? spec->issuer->crt : m.crt,
					       spec->issuer ? spec->issuer->key : m.key,
					       spec->digest ? spec->digest : GNUTLS_DIG_SHA256, 0), 0);
	assert_int_equal(gnutls_x509_crt_export2(m.crt, GNUTLS_X509_FMT_DER, &m.der), 0);
	assert_int_equal(gnutls_pubkey_import_x509(public, m.crt, 0), 0);
	assert_int_equal(x509_key_id(public, NULL, m.key_id), STATUS_OK);
	gnutls_pubkey_deinit(public);
	*ret_made = m;
}

static void unmake(struct made *m)
{
	gnutls_x509_crt_deinit(m->crt);
	if (m->key)
		gnutls_x509_privkey_deinit(m->key);
	gnutls_free(m->der.data);
}

static struct slice der_of(const struct made *m)
{
	return (struct slice){ m->der.data, m->der.size };
}

/* Who signed is told by the key that did, whatever the leaf says of it. */
static void test_trust_issuer_is_the_key(void **state)
{
	struct fixture *f = *state;
	struct made ca, leaf, sub, under;
	uint8_t others[20];
	size_t len = sizeof others;
	assert_int_equal(gnutls_x509_crt_get_subject_key_id(pki_ca_crt(f->pki, PKI_CLUSTER_CA), others, &len, NULL), 0);
	make(&(struct make){ .name = "no key id", .ca = true, .path_len = -1 }, &ca);
	make(&(struct make){ .name = "n", .issuer = &ca, .says_issuer_key_id = others }, &leaf);
	make(&(struct make){ .name = "sub", .issuer = &ca, .ca = true, .path_len = 0 }, &sub);
	make(&(struct make){ .name = "n", .issuer = &sub, .says_issuer_key_id = others }, &under);
	struct slice cas[] = { pki_ca_der(f->pki, PKI_CLUSTER_CA), der_of(&ca) };
	assert_int_equal(trust_set_cluster_cas(f->trust, cas, 2, NULL), STATUS_OK);
	const gnutls_datum_t direct[] = { leaf.der, sub.der }, chain[] = { under.der, sub.der, ca.der };
	struct identity *id = NULL;
	for (unsigned n = 1; n <= 2; n++) { /* what stands behind in the chain did not sign */
		assert_int_equal(trust_verify(f->trust, direct, n, TRUST_CLIENT, NULL, &id), STATUS_OK);
		assert_int_equal(id->issuer_key_id_len, 20);
		assert_memory_equal(id->issuer_key_id, ca.key_id, 20);
		identity_unref(id);
	}
	for (unsigned n = 2; n <= 3; n++) {
		assert_int_equal(trust_verify(f->trust, chain, n, TRUST_CLIENT, NULL, &id), STATUS_OK);
		assert_memory_equal(id->issuer_key_id, sub.key_id, 20);
		identity_unref(id);
	}
	unmake(&ca);
	unmake(&leaf);
	unmake(&sub);
	unmake(&under);
}

/* A CA that says it has another's key is none, as an anchor and in a chain. */
static void test_trust_refuses_a_false_key_id(void **state)
{
	struct fixture *f = *state;
	struct made liar, ca, sub, leaf;
	struct status st;
	uint8_t others[20];
	size_t len = sizeof others;
	assert_int_equal(gnutls_x509_crt_get_subject_key_id(pki_ca_crt(f->pki, PKI_CLUSTER_CA), others, &len, NULL), 0);
	make(&(struct make){ .name = "liar", .ca = true, .path_len = -1, .says_key_id = others }, &liar);
	struct slice cas[] = { pki_ca_der(f->pki, PKI_CLUSTER_CA), der_of(&liar) };
	assert_int_equal(trust_set_cluster_cas(f->trust, cas, 2, &st), STATUS_INVALID_ARGUMENT);
	assert_non_null(strstr(st.message, "trust anchor 'CN=liar': its subject key identifier"));
	make(&(struct make){ .name = "ca", .ca = true, .path_len = -1 }, &ca);
	make(&(struct make){ .name = "sub", .issuer = &ca, .ca = true, .path_len = -1, .says_key_id = others }, &sub);
	make(&(struct make){ .name = "n", .issuer = &sub }, &leaf);
	cas[1] = der_of(&ca);
	assert_int_equal(trust_set_cluster_cas(f->trust, cas, 2, &st), STATUS_OK);
	const gnutls_datum_t chain[] = { leaf.der, sub.der };
	refused_chain(f, chain, 2, TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE, "subject key identifier");
	unmake(&liar);
	unmake(&ca);
	unmake(&sub);
	unmake(&leaf);
}

/* One name with two keys is refused, a CA's renewal is not. */
static void test_trust_anchors_of_one_name(void **state)
{
	struct fixture *f = *state;
	struct made ca, other, renewed, posing;
	struct status st;
	make(&(struct make){ .name = "ca", .ca = true, .path_len = 0 }, &ca);
	make(&(struct make){ .name = "ca", .ca = true, .path_len = 0 }, &other);
	make(&(struct make){ .name = "ca", .ca = true, .path_len = -1, .key = ca.key }, &renewed);
	make(&(struct make){ .name = PKI_CLUSTER " infrastructure CA", .ca = true, .path_len = 0 }, &posing);
	struct slice two[] = { der_of(&ca), der_of(&other) }, both[] = { der_of(&ca), der_of(&renewed) };
	struct slice infrastructure = der_of(&posing);
	assert_int_equal(trust_set_cluster_cas(f->trust, two, 2, &st), STATUS_INVALID_ARGUMENT);
	assert_non_null(strstr(st.message, "two CAs named 'CN=ca' have different keys"));
	assert_int_equal(trust_set_cluster_cas(f->trust, &infrastructure, 1, &st), STATUS_INVALID_ARGUMENT);
	assert_non_null(strstr(st.message, "infrastructure CA' have different keys"));
	assert_int_equal(trust_set_cluster_cas(f->trust, both, 2, &st), STATUS_OK);
	renewed.key = NULL; /* ca's */
	unmake(&ca);
	unmake(&other);
	unmake(&renewed);
	unmake(&posing);
}

/* A certificate with the infrastructure CA's name and key, which is no secret, takes no role away: what bears it is none of
 * the cluster's. */
static void test_trust_refuses_the_infrastructure_key(void **state)
{
	struct fixture *f = *state;
	gnutls_x509_crt_t infrastructure = pki_ca_crt(f->pki, PKI_INFRASTRUCTURE);
	const char *const names[] = { PKI_CLUSTER " infrastructure CA", "another" };
	for (size_t i = 0; i < 2; i++) {
		struct made shadow;
		struct status st;
		make(&(struct make){ .name = names[i], .ca = true, .path_len = -1, .key_of = infrastructure }, &shadow);
		struct slice cas[] = { pki_ca_der(f->pki, PKI_CLUSTER_CA), der_of(&shadow) };
		assert_int_equal(trust_check_cluster_ca(f->trust, cas[1], &st), STATUS_INVALID_ARGUMENT);
		assert_non_null(strstr(st.message, "has the infrastructure CA's key"));
		assert_int_equal(trust_set_cluster_cas(f->trust, cas, 2, &st), STATUS_INVALID_ARGUMENT);
		assert_int_equal(trust_follow_cluster_cas(f->trust, cas, 2, &st), STATUS_OK);
		struct identity *admin = verified(f, pki_admin(f->pki), TRUST_CLIENT);
		assert_int_equal(admin->roles, PEER_ADMIN);
		identity_unref(admin);
		identity_unref(verified(f, pki_node(f->pki, "n", 0), TRUST_CLIENT));
		unmake(&shadow);
	}
}

/* One CA that cannot be trusted, or not beside an older one, does not take the others with it. */
static void test_trust_leaves_out_what_it_cannot_follow(void **state)
{
	struct fixture *f = *state;
	struct made old, other, weak, leaf, late;
	struct status st;
	make(&(struct make){ .name = "ca", .ca = true, .path_len = 0, .serial = 7 }, &old);
	make(&(struct make){ .name = "ca", .ca = true, .path_len = 0, .serial = 8 }, &other);
	make(&(struct make){ .name = "weak", .ca = true, .path_len = 0, .digest = GNUTLS_DIG_SHA1 }, &weak);
	make(&(struct make){ .name = "n", .issuer = &old }, &leaf);
	make(&(struct make){ .name = "n", .issuer = &other }, &late);
	struct slice cas[] = { der_of(&other), { "junk", 4 }, der_of(&weak), der_of(&old) };
	assert_int_equal(trust_follow_cluster_cas(f->trust, cas, 4, &st), STATUS_OK);
	struct identity *id = NULL;
	assert_int_equal(trust_verify(f->trust, &leaf.der, 1, TRUST_CLIENT, &st, &id), STATUS_OK);
	identity_unref(id);
	identity_unref(verified(f, pki_admin(f->pki), TRUST_CLIENT));
	assert_int_equal(trust_verify(f->trust, &late.der, 1, TRUST_CLIENT, &st, &id), STATUS_UNAUTHENTICATED);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(trust_check_cluster_ca(f->trust, cas[i], &st), STATUS_INVALID_ARGUMENT);
	assert_int_equal(trust_check_cluster_ca(f->trust, cas[3], &st), STATUS_OK); /* again the same */
	unmake(&old);
	unmake(&other);
	unmake(&weak);
	unmake(&leaf);
	unmake(&late);
}

/* A path length is kept to: 0 signs leaves alone. */
static void test_trust_path_length(void **state)
{
	struct fixture *f = *state;
	for (int allowed = 0; allowed <= 2; allowed++) {
		struct made cas[4], leaves[4];
		make(&(struct make){ .name = "root", .ca = true, .path_len = allowed }, &cas[0]);
		for (int i = 1; i < 4; i++)
			make(&(struct make){ .name = (const char *[]){ "", "one", "two", "three" }[i], .issuer = &cas[i - 1],
					     .ca = true, .path_len = -1 }, &cas[i]);
		for (int i = 0; i < 4; i++)
			make(&(struct make){ .name = "n", .issuer = &cas[i] }, &leaves[i]);
		struct slice root = der_of(&cas[0]);
		assert_int_equal(trust_set_cluster_cas(f->trust, &root, 1, NULL), STATUS_OK);
		for (int depth = 0; depth < 4; depth++) {
			gnutls_datum_t chain[5] = { leaves[depth].der };
			for (int i = 0; i < depth; i++)
				chain[1 + i] = cas[depth - i].der;
			struct identity *id = NULL;
			if (depth > allowed) {
				refused_chain(f, chain, (unsigned)depth + 1, TRUST_CLIENT, STATUS_UNAUTHENTICATED,
					      GNUTLS_A_BAD_CERTIFICATE, "path length");
				continue;
			}
			assert_int_equal(trust_verify(f->trust, chain, (unsigned)depth + 1, TRUST_CLIENT, NULL, &id), STATUS_OK);
			identity_unref(id);
		}
		for (int i = 0; i < 4; i++) {
			unmake(&cas[i]);
			unmake(&leaves[i]);
		}
	}
}

static void test_trust_refuses_sha1(void **state)
{
	struct fixture *f = *state;
	struct made ca, leaf, sub, under, root;
	struct status st;
	make(&(struct make){ .name = "ca", .ca = true, .path_len = -1 }, &ca);
	make(&(struct make){ .name = "n", .issuer = &ca, .digest = GNUTLS_DIG_SHA1 }, &leaf);
	make(&(struct make){ .name = "sub", .issuer = &ca, .ca = true, .path_len = 0, .digest = GNUTLS_DIG_SHA1 }, &sub);
	make(&(struct make){ .name = "n", .issuer = &sub }, &under);
	make(&(struct make){ .name = "root", .ca = true, .path_len = -1, .digest = GNUTLS_DIG_SHA1 }, &root);
	struct slice good = der_of(&ca), bad = der_of(&root);
	assert_int_equal(trust_set_cluster_cas(f->trust, &good, 1, NULL), STATUS_OK);
	const gnutls_datum_t chain[] = { under.der, sub.der };
	refused_chain(f, &leaf.der, 1, TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE,
		      "ECDSA-SHA1 is not accepted");
	refused_chain(f, chain, 2, TRUST_CLIENT, STATUS_UNAUTHENTICATED, GNUTLS_A_BAD_CERTIFICATE,
		      "ECDSA-SHA1 is not accepted");
	assert_int_equal(trust_set_cluster_cas(f->trust, &bad, 1, &st), STATUS_INVALID_ARGUMENT);
	assert_non_null(strstr(st.message, "'CN=root': a signature of the kind ECDSA-SHA1"));
	unmake(&ca);
	unmake(&leaf);
	unmake(&sub);
	unmake(&under);
	unmake(&root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_trust_service),
		cmocka_unit_test(test_trust_identity_fields),
		cmocka_unit_test(test_trust_node),
		cmocka_unit_test(test_trust_nodes),
		cmocka_unit_test(test_trust_role_only_from_infrastructure),
		cmocka_unit_test(test_trust_role_not_through_cluster_ca),
		cmocka_unit_test(test_trust_role_uri_must_fit),
		cmocka_unit_test(test_trust_roles_add_up),
		cmocka_unit_test(test_trust_kds_name_for_clients_alone),
		cmocka_unit_test(test_trust_refuses),
		cmocka_unit_test(test_trust_refuses_forged),
		cmocka_unit_test(test_trust_min_serial),
		cmocka_unit_test(test_trust_removed_service),
		cmocka_unit_test(test_trust_recheck_follows_cas),
		cmocka_unit_test(test_trust_forgets_with_the_ca),
		cmocka_unit_test(test_trust_sub_ca),
		cmocka_unit_test(test_trust_new_refuses),
		cmocka_unit_test(test_trust_role_names),
		cmocka_unit_test(test_trust_cache_is_bounded),
		cmocka_unit_test(test_trust_changes_under_readers),
		cmocka_unit_test(test_trust_issuer_is_the_key),
		cmocka_unit_test(test_trust_refuses_a_false_key_id),
		cmocka_unit_test(test_trust_anchors_of_one_name),
		cmocka_unit_test(test_trust_refuses_the_infrastructure_key),
		cmocka_unit_test(test_trust_leaves_out_what_it_cannot_follow),
		cmocka_unit_test(test_trust_path_length),
		cmocka_unit_test(test_trust_refuses_sha1),
	};
	/* Tests change the trust: each has its own. */
	struct CMUnitTest with_fixture[sizeof tests / sizeof tests[0]];
	memcpy(with_fixture, tests, sizeof tests);
	for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
		with_fixture[i].setup_func = set_up;
		with_fixture[i].teardown_func = tear_down;
	}
	return cmocka_run_group_tests(with_fixture, NULL, NULL);
}
