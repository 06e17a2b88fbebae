// links: common_net common_x509 common_base
/*
 * Connections against a peer of GnuTLS's alone that does what no honest one does: keys that nobody vouches for, messages
 * cut up, keys changed in the middle of things. A socket of the test's own, so that it decides what one segment holds.
 */
#include "tests/support/support.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gnutls/abstract.h>

#include "common/base/file.h"
#include "common/net/conn_internal.h"
#include "common/net/trust_verify.h"
#include "common/x509/cert.h"
#include "common/x509/key.h"
#include "common/x509/name.h"
#include "tests/support/sp_client.h"
#include "tests/support/wire.h"

#define TLS12 "NORMAL:-VERS-ALL:+VERS-TLS1.2"
#define TLS13 "NORMAL:-VERS-ALL:+VERS-TLS1.3"

enum { RECORD_HEAD = 5, RECORD_CCS = 20, RECORD_HANDSHAKE = 22 };

struct peer {
	struct sp_client sp;  /* socket and session: sp_*() work on it */
	struct buffer held;   /* what is not sent yet */
	bool hold;
	size_t fragment;      /* handshake records in clear are cut into pieces of so many bytes; 0: not */
	bool enciphered, silent; /* nothing came in time */
	unsigned records, hold_from; /* sent so far; from this one on they are held; 0: none */
};

static void write_all(int fd, const uint8_t *data, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
		if (n <= 0)
			return; /* the other end has hung up: reading tells */
		data += n;
		len -= (size_t)n;
	}
}

static void release(struct peer *p)
{
	p->hold = false;
	write_all(p->sp.fd, p->held.data, p->held.len);
	p->held.len = 0;
}

static void cut_up(struct peer *p, const uint8_t *record, size_t len)
{
	for (size_t at = 0; at < len; at += p->fragment) {
		size_t n = len - at < p->fragment ? len - at : p->fragment;
		uint8_t head[RECORD_HEAD] = { record[0], record[1], record[2], (uint8_t)(n >> 8), (uint8_t)n };
		assert_true(buffer_append(&p->held, head, sizeof head));
		assert_true(buffer_append(&p->held, record + RECORD_HEAD + at, n));
	}
}

static ssize_t peer_push(gnutls_transport_ptr_t arg, const void *data, size_t len)
{
	struct peer *p = arg;
	const uint8_t *bytes = data;
	for (size_t at = 0; at < len;) {
		size_t n = (size_t)bytes[at + 3] << 8 | bytes[at + 4];
		assert_true(at + RECORD_HEAD + n <= len);
		p->enciphered |= bytes[at] == RECORD_CCS;
		if (p->fragment && !p->enciphered && bytes[at] == RECORD_HANDSHAKE)
			cut_up(p, bytes + at, n);
		else
			assert_true(buffer_append(&p->held, bytes + at, RECORD_HEAD + n));
		at += RECORD_HEAD + n;
		p->records++;
		if (!p->hold)
			release(p);
		p->hold |= p->records + 1 == p->hold_from;
	}
	return (ssize_t)len;
}

static ssize_t peer_pull(gnutls_transport_ptr_t arg, void *data, size_t len)
{
	struct peer *p = arg;
	ssize_t n = recv(p->sp.fd, data, len, 0);
	p->silent = n < 0;
	return n;
}

/* GnuTLS gives up reading also where it has read a KeyUpdate. */
static void peer_read(struct peer *p, uint8_t *data, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = gnutls_record_recv(p->sp.session, data + at, len - at);
		if (n > 0)
			at += (size_t)n;
		else if (n != GNUTLS_E_AGAIN || p->silent)
			fail_msg("%zu of %zu bytes: %s", at, len, gnutls_strerror((int)n));
	}
}

static void peer_session(struct peer *p, unsigned flags, const char *priority, gnutls_certificate_credentials_t credentials)
{
	assert_int_equal(gnutls_init(&p->sp.session, flags | GNUTLS_NO_SIGNAL), 0);
	assert_int_equal(gnutls_priority_set_direct(p->sp.session, priority, NULL), 0);
	assert_int_equal(gnutls_credentials_set(p->sp.session, GNUTLS_CRD_CERTIFICATE, credentials), 0);
	gnutls_transport_set_ptr(p->sp.session, p);
	gnutls_transport_set_push_function(p->sp.session, peer_push);
	gnutls_transport_set_pull_function(p->sp.session, peer_pull);
	gnutls_handshake_set_timeout(p->sp.session, GNUTLS_INDEFINITE_TIMEOUT);
}

static int peer_handshake(struct peer *p)
{
	int rv;
	do
		rv = gnutls_handshake(p->sp.session);
	while (rv < 0 && !gnutls_error_is_fatal(rv));
	return rv;
}

static void peer_connect(struct peer *p, struct wire *w, const char *priority, gnutls_certificate_credentials_t credentials)
{
	*p = (struct peer){ 0 };
	assert_true(sp_connect(&p->sp, NULL, listener_address(w->listener)));
	peer_session(p, GNUTLS_CLIENT, priority, credentials);
}

static void peer_end(struct peer *p)
{
	sp_close(&p->sp, false);
	buffer_free(&p->held);
}

/* A port of the test's own, for connections that dial. */
static int open_port(char ret_address[32])
{
	const struct timeval patience = { .tv_sec = 20 };
	struct sockaddr_in bound = { .sin_family = AF_INET, .sin_addr = { htonl(0x7f150004) } };
	socklen_t len = sizeof bound;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&bound, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&bound, &len), 0);
	assert_int_equal(listen(fd, 8), 0);
	snprintf(ret_address, 32, "127.21.0.4:%d", ntohs(bound.sin_port));
	return fd;
}

static struct conn *dial(struct wire *w, const char *address, struct tls_credentials *credentials, struct wire_log *log)
{
	struct status st;
	struct conn *c;
	wire_log_init(log);
	struct conn_dial options = wire_dial_options(w, credentials, log);
	options.address = address;
	assert_int_equal(conn_dial(&options, &st, &c), STATUS_OK);
	return c;
}

static void peer_accept(struct peer *p, int port, const char *priority, gnutls_certificate_credentials_t credentials)
{
	const struct timeval patience = { .tv_sec = 20 };
	const int one = 1;
	*p = (struct peer){ .sp = { .fd = accept(port, NULL, NULL) } };
	assert_true(p->sp.fd >= 0);
	assert_int_equal(setsockopt(p->sp.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
	assert_int_equal(setsockopt(p->sp.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), 0);
	peer_session(p, GNUTLS_SERVER, priority, credentials);
	gnutls_certificate_server_set_request(p->sp.session, GNUTLS_CERT_REQUEST);
}

static void close_conn(struct conn *c, struct wire_log *log)
{
	conn_close(c);
	wire_wait_down(log, 1);
	conn_unref(c);
	wire_log_fini(log);
}

static struct tls_credentials *credentials_12(const struct pki_leaf *leaf)
{
	struct status st;
	struct tls_credentials *c = NULL;
	assert_int_equal(tls_credentials_load(leaf->certificate, leaf->key, TLS_MINIMUM_1_2, &st, &c), STATUS_OK);
	return c;
}

/* Keys that nobody vouches for */

/* A private key that signs at once, with whatever. */
static int junk_signature(gnutls_privkey_t key, gnutls_sign_algorithm_t algorithm, void *size, unsigned flags,
			  const gnutls_datum_t *hash, gnutls_datum_t *ret_signature)
{
	(void)key;
	(void)algorithm;
	(void)flags;
	(void)hash;
	ret_signature->size = *(unsigned *)size;
	ret_signature->data = gnutls_malloc(ret_signature->size);
	memset(ret_signature->data, 0x55, ret_signature->size);
	return 0;
}

static int junk_data_signature(gnutls_privkey_t key, gnutls_sign_algorithm_t algorithm, void *size, unsigned flags,
			       const gnutls_datum_t *data, gnutls_datum_t *ret_signature)
{
	return junk_signature(key, algorithm, size, flags, data, ret_signature);
}

static int junk_info(gnutls_privkey_t key, unsigned flags, void *size)
{
	(void)key;
	unsigned bytes = *(unsigned *)size;
	bool rsa = bytes > 100;
	if (flags & GNUTLS_PRIVKEY_INFO_PK_ALGO)
		return rsa ? GNUTLS_PK_RSA : GNUTLS_PK_ECDSA;
	if (flags & GNUTLS_PRIVKEY_INFO_PK_ALGO_BITS)
		return rsa ? (int)bytes * 8 : 256;
	if (flags & GNUTLS_PRIVKEY_INFO_HAVE_SIGN_ALGO)
		return 1;
	return -1;
}

/* Credentials whose signatures are junk: whoever looks at them first says so, and not what is wrong with the chain. */
static gnutls_certificate_credentials_t junk_credentials(gnutls_x509_crt_t *chain, unsigned n, unsigned *signature_size)
{
	gnutls_certificate_credentials_t credentials;
	gnutls_privkey_t key;
	gnutls_pcert_st pcerts[CHAIN_MAX];
	assert_int_equal(gnutls_certificate_allocate_credentials(&credentials), 0);
	gnutls_certificate_set_flags(credentials, GNUTLS_CERTIFICATE_SKIP_KEY_CERT_MATCH);
	assert_int_equal(gnutls_privkey_init(&key), 0);
	assert_int_equal(gnutls_privkey_import_ext4(key, signature_size, junk_data_signature, junk_signature, NULL, NULL,
						    junk_info, 0), 0);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(gnutls_pcert_import_x509(&pcerts[i], chain[i], 0), 0);
	assert_int_equal(gnutls_certificate_set_key(credentials, NULL, 0, pcerts, (int)n, key), 0);
	return credentials;
}

/* A certificate with an RSA key that nobody has; `ca`: a CA's. */
static gnutls_x509_crt_t rsa_certificate(struct wire *w, unsigned bits, unsigned exponent_bytes, bool ca)
{
	uint8_t n[8192], e[8192];
	gnutls_datum_t modulus = { n, bits / 8 }, exponent = { e, exponent_bytes };
	assert_true(modulus.size <= sizeof n && exponent.size <= sizeof e);
	memset(n, 0xa7, modulus.size);
	memset(e, 0x61, exponent.size);
	gnutls_pubkey_t key;
	gnutls_x509_crt_t crt;
	time_t now = time(NULL);
	assert_int_equal(gnutls_pubkey_init(&key), 0);
	assert_int_equal(gnutls_pubkey_import_rsa_raw(key, &modulus, &exponent), 0);
	assert_int_equal(gnutls_x509_crt_init(&crt), 0);
	assert_int_equal(gnutls_x509_crt_set_version(crt, 3), 0);
	assert_int_equal(gnutls_x509_crt_set_pubkey(crt, key), 0);
	assert_int_equal(gnutls_x509_crt_set_serial(crt, "\1", 1), 0);
	assert_int_equal(gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, "x", 1), 0);
	assert_int_equal(gnutls_x509_crt_set_activation_time(crt, now - 60), 0);
	assert_int_equal(gnutls_x509_crt_set_expiration_time(crt, now + 3600), 0);
	if (ca)
		assert_int_equal(gnutls_x509_crt_set_basic_constraints(crt, 1, -1), 0);
	assert_int_equal(gnutls_x509_crt_sign2(crt, pki_ca_crt(w->pki, PKI_STRANGER), pki_ca_key(w->pki, PKI_STRANGER),
					       GNUTLS_DIG_SHA256, 0), 0);
	gnutls_pubkey_deinit(key);
	return crt;
}

static void refused_as_client(struct wire *w, const char *priority, gnutls_certificate_credentials_t credentials,
			      const char *why)
{
	struct peer p;
	unsigned before = w->log.downs;
	peer_connect(&p, w, priority, credentials);
	if (peer_handshake(&p) == 0)
		assert_false(sp_hello(&p.sp));
	peer_end(&p);
	wire_wait_down(&w->log, before + 1);
	wire_expect(&w->log, STATUS_UNAUTHENTICATED, why);
}

static void refused_as_server(struct wire *w, const char *priority, gnutls_certificate_credentials_t credentials,
			      enum status_code code, const char *why)
{
	char address[32];
	struct peer p;
	struct wire_log log;
	int port = open_port(address);
	struct tls_credentials *both = credentials_12(pki_admin(w->pki));
	struct conn *c = dial(w, address, both, &log);
	peer_accept(&p, port, priority, credentials);
	(void)peer_handshake(&p);
	peer_end(&p);
	wire_expect(&log, code, why);
	assert_int_equal(log.ups, 0);
	close_conn(c, &log);
	tls_credentials_unref(both);
	close(port);
}

/*
 * Whatever the key, no signature by it is looked at: the one of its owner is junk here, and yet the chain is what is
 * blamed. Both ends, both versions.
 */
static void test_handshake_unknown_keys(void **state)
{
	static const char *const versions[] = { TLS12, TLS13 };
	struct wire *w = *state;
	struct pki_spec spec = { .common_name = "n", .ca = PKI_STRANGER };
	unsigned rsa = 8192 / 8, small = 70;
	gnutls_x509_crt_t stranger = pki_issue(w->pki, &spec)->crt;
	gnutls_x509_crt_t huge[2] = { rsa_certificate(w, 8192, 3, false), rsa_certificate(w, 16384, 2048, true) };
	gnutls_x509_crt_t long_exponent = rsa_certificate(w, 2048, 9, false);
	gnutls_x509_crt_t costly[CHAIN_MAX] = { stranger };
	for (unsigned i = 1; i < CHAIN_MAX; i++)
		costly[i] = huge[1];
	unsigned rsa_2048 = 256;
	struct {
		gnutls_certificate_credentials_t credentials;
		const char *why;
	} cases[] = {
		{ junk_credentials(&stranger, 1, &small), "does not trust" },
		{ junk_credentials(huge, 1, &rsa), "RSA key of 8192 bits" },
		{ junk_credentials(&long_exponent, 1, &rsa_2048), "exponent of 9 bytes" },
		{ junk_credentials(costly, CHAIN_MAX, &small), "RSA key of 16384 bits" },
	};
	wire_listen(w);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		for (size_t v = 0; v < 2; v++) {
			refused_as_client(w, versions[v], cases[i].credentials, cases[i].why);
			refused_as_server(w, versions[v], cases[i].credentials, STATUS_UNAUTHENTICATED, cases[i].why);
		}
		gnutls_certificate_free_credentials(cases[i].credentials);
	}
	gnutls_x509_crt_deinit(huge[0]);
	gnutls_x509_crt_deinit(huge[1]);
	gnutls_x509_crt_deinit(long_exponent);
}

/* With so many names in its subject, each of so many bytes. */
static gnutls_x509_crt_t crowded_certificate(struct wire *w, unsigned names, unsigned bytes)
{
	const struct pki_spec spec = { .common_name = "n", .ca = PKI_STRANGER };
	const struct pki_leaf *leaf = pki_issue(w->pki, &spec);
	gnutls_pubkey_t key;
	gnutls_x509_crt_t crt;
	char name[64];
	memset(name, 'a', sizeof name);
	assert_int_equal(gnutls_pubkey_init(&key), 0);
	assert_int_equal(gnutls_pubkey_import_x509(key, leaf->crt, 0), 0);
	assert_int_equal(gnutls_x509_crt_init(&crt), 0);
	assert_int_equal(gnutls_x509_crt_set_version(crt, 3), 0);
	assert_int_equal(gnutls_x509_crt_set_pubkey(crt, key), 0);
	assert_int_equal(gnutls_x509_crt_set_serial(crt, "\1", 1), 0);
	for (unsigned i = 0; i < names; i++)
		assert_int_equal(gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_ORGANIZATIONAL_UNIT_NAME, 0, name, bytes), 0);
	assert_int_equal(gnutls_x509_crt_set_activation_time(crt, time(NULL) - 60), 0);
	assert_int_equal(gnutls_x509_crt_set_expiration_time(crt, time(NULL) + 3600), 0);
	assert_int_equal(gnutls_x509_crt_sign2(crt, pki_ca_crt(w->pki, PKI_STRANGER), pki_ca_key(w->pki, PKI_STRANGER),
					       GNUTLS_DIG_SHA256, 0), 0);
	gnutls_pubkey_deinit(key);
	return crt;
}

/* Nor is a certificate read that takes long to read, wherever in the chain. */
static void test_handshake_costly_certificates(void **state)
{
	static const char *const versions[] = { TLS12, TLS13 };
	static const char *const why[] = { "certificate of too many parts", "at most 14848 are taken" };
	struct wire *w = *state;
	const struct pki_spec spec = { .common_name = "n", .ca = PKI_STRANGER };
	unsigned small = 70;
	gnutls_x509_crt_t costly[] = { crowded_certificate(w, 70, 1), crowded_certificate(w, 230, 64) };
	wire_listen(w);
	for (unsigned i = 0; i < 4; i++) {
		gnutls_x509_crt_t chain[2] = { i < 2 ? costly[i] : pki_issue(w->pki, &spec)->crt, costly[i % 2] };
		gnutls_certificate_credentials_t credentials = junk_credentials(chain, 2, &small);
		for (size_t v = 0; v < 2; v++) {
			refused_as_client(w, versions[v], credentials, why[i % 2]);
			refused_as_server(w, versions[v], credentials, STATUS_UNAUTHENTICATED, why[i % 2]);
		}
		gnutls_certificate_free_credentials(credentials);
	}
	gnutls_x509_crt_deinit(costly[0]);
	gnutls_x509_crt_deinit(costly[1]);
}

/* Whose certificate is good, but not its own. */
static void test_handshake_stolen_certificate(void **state)
{
	static const char *const versions[] = { TLS12, TLS13 };
	struct wire *w = *state;
	unsigned small = 70;
	gnutls_x509_crt_t admin = pki_admin(w->pki)->crt, serial = pki_service(w->pki, "serial", "serial9")->crt;
	gnutls_certificate_credentials_t client = junk_credentials(&admin, 1, &small);
	gnutls_certificate_credentials_t server = junk_credentials(&serial, 1, &small);
	wire_listen(w);
	for (size_t v = 0; v < 2; v++) {
		struct peer p;
		peer_connect(&p, w, versions[v], client);
		if (peer_handshake(&p) == 0)
			assert_false(sp_hello(&p.sp));
		peer_end(&p);
		wire_wait_down(&w->log, (unsigned)v + 1);
		wire_expect(&w->log, STATUS_UNAVAILABLE, "TLS: ");
		refused_as_server(w, versions[v], server, STATUS_UNAVAILABLE, "TLS: ");
	}
	assert_int_equal(w->log.ups, 0);
	gnutls_certificate_free_credentials(client);
	gnutls_certificate_free_credentials(server);
}

/* A client without a certificate sends no CertificateVerify; one that must not be is told so. */
static void test_handshake_no_certificate(void **state)
{
	static const char *const versions[] = { TLS12, TLS13 };
	struct wire *w = *state;
	gnutls_certificate_credentials_t none;
	assert_int_equal(gnutls_certificate_allocate_credentials(&none), 0);
	wire_listen(w);
	for (size_t v = 0; v < 2; v++)
		refused_as_client(w, versions[v], none, "no certificate");
	gnutls_certificate_free_credentials(none);
}

/* SHA-1 */

static gnutls_certificate_credentials_t honest(const struct pki_leaf *leaf)
{
	gnutls_certificate_credentials_t credentials;
	assert_int_equal(gnutls_certificate_allocate_credentials(&credentials), 0);
	assert_int_equal(gnutls_certificate_set_x509_key_file(credentials, leaf->certificate, leaf->key, GNUTLS_X509_FMT_PEM),
			 0);
	return credentials;
}

static void test_handshake_no_sha1(void **state)
{
	static const char sha1[] = TLS12 ":-SIGN-ALL:+SIGN-ECDSA-SHA1:+SIGN-RSA-SHA1:%VERIFY_ALLOW_SIGN_WITH_SHA1";
	struct wire *w = *state;
	struct peer p;
	gnutls_certificate_credentials_t client = honest(pki_admin(w->pki));
	gnutls_certificate_credentials_t server = honest(pki_service(w->pki, "serial", "serial9"));
	wire_listen(w);
	peer_connect(&p, w, sha1, client);
	assert_true(peer_handshake(&p) < 0);
	wire_wait_down(&w->log, 1);
	wire_expect(&w->log, STATUS_UNAVAILABLE, "TLS: ");
	peer_end(&p);
	refused_as_server(w, sha1, server, STATUS_UNAVAILABLE, "");
	/* The same with SHA-256 is taken. */
	peer_connect(&p, w, TLS12 ":-SIGN-ALL:+SIGN-ECDSA-SHA256", client);
	assert_int_equal(peer_handshake(&p), 0);
	assert_true(sp_hello(&p.sp));
	peer_end(&p);
	gnutls_certificate_free_credentials(client);
	gnutls_certificate_free_credentials(server);
}

/* Messages cut up */

/* An admin's chain of CHAIN_MAX certificates. */
static gnutls_certificate_credentials_t long_chain(struct wire *w)
{
	struct pki_spec ca_spec = { .common_name = "sub", .ca = PKI_INFRASTRUCTURE, .is_ca = true };
	const char *const uris[] = { "kds://" PKI_CLUSTER "/role/admin/admin", NULL };
	struct pki_spec spec = { .common_name = "admin", .uris = uris };
	gnutls_certificate_credentials_t credentials;
	const struct pki_leaf *cas[CHAIN_MAX - 1];
	gnutls_x509_crt_t chain[CHAIN_MAX];
	char name[32];
	cas[0] = pki_issue(w->pki, &ca_spec);
	for (unsigned i = 1; i < CHAIN_MAX - 1; i++) {
		snprintf(name, sizeof name, "sub %u", i);
		ca_spec.common_name = name;
		cas[i] = pki_issue_under(w->pki, cas[i - 1], &ca_spec);
	}
	const struct pki_leaf *leaf = pki_issue_under(w->pki, cas[CHAIN_MAX - 2], &spec);
	chain[0] = leaf->crt;
	for (unsigned i = 1; i < CHAIN_MAX; i++)
		chain[i] = cas[CHAIN_MAX - 1 - i]->crt;
	assert_int_equal(gnutls_certificate_allocate_credentials(&credentials), 0);
	assert_int_equal(gnutls_certificate_set_x509_key(credentials, chain, CHAIN_MAX, leaf->private_key), 0);
	return credentials;
}

static void send_frame(struct peer *p, uint8_t mark, size_t len)
{
	uint8_t data[4096];
	assert_true(len <= sizeof data);
	memset(data, mark, len);
	assert_true(sp_send(&p->sp, data, len));
}

static void read_frame(struct peer *p, uint8_t mark, size_t len)
{
	uint8_t head[12], data[4096];
	peer_read(p, head, sizeof head);
	assert_int_equal(head[7] | head[6] << 8, len + 4);
	peer_read(p, data, len);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(data[i], mark);
}

static void must_echo(struct peer *p, size_t len)
{
	send_frame(p, 0x3c, len);
	read_frame(p, 0x3c, len);
}

/* What is in clear at every size: all of a handshake of 1.2, of one of 1.3 the ClientHello. */
static void test_handshake_fragments(void **state)
{
	static const char *const versions[] = { TLS12, TLS13 };
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = long_chain(w);
	wire_listen(w);
	for (size_t v = 0; v < 2; v++) {
		for (size_t fragment = 1; fragment < 6000; fragment += fragment < 20 ? 1 : fragment / 5) {
			struct peer p;
			peer_connect(&p, w, versions[v], credentials);
			p.fragment = fragment;
			if (peer_handshake(&p) != 0)
				fail_msg("%s in pieces of %zu bytes is refused: %s", versions[v], fragment, w->log.why.message);
			assert_true(sp_hello(&p.sp));
			must_echo(&p, 5);
			peer_end(&p);
		}
	}
	gnutls_certificate_free_credentials(credentials);
}

/* The same for what a server says. */
static void test_handshake_fragments_of_a_server(void **state)
{
	struct wire *w = *state;
	char address[32];
	int port = open_port(address);
	struct tls_credentials *both = credentials_12(pki_admin(w->pki));
	gnutls_certificate_credentials_t credentials = honest(pki_service(w->pki, "serial", "serial9"));
	for (size_t fragment = 1; fragment < 3000; fragment += fragment < 8 ? 1 : fragment / 3) {
		static const uint8_t hello[8] = { 0, 'S', 'P', 0, 0, SP_REP, 0, 0 };
		struct peer p;
		struct wire_log log;
		struct conn *c = dial(w, address, both, &log);
		peer_accept(&p, port, TLS12, credentials);
		p.fragment = fragment;
		assert_int_equal(peer_handshake(&p), 0);
		assert_true(sp_write(&p.sp, hello, sizeof hello));
		wire_wait_up(&log, 1);
		peer_end(&p);
		close_conn(c, &log);
	}
	tls_credentials_unref(both);
	gnutls_certificate_free_credentials(credentials);
	close(port);
}

/* What is enciphered, too: 512 bytes are the least that a sender may be set to. */
static void test_handshake_short_records(void **state)
{
	static const char *const versions[] = { TLS12, TLS13 };
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = long_chain(w);
	wire_listen(w);
	for (size_t v = 0; v < 2; v++) {
		for (size_t size = 512; size < 1500; size += 97) {
			struct peer p;
			peer_connect(&p, w, versions[v], credentials);
			assert_int_equal(gnutls_record_set_max_size(p.sp.session, size), 0);
			assert_int_equal(peer_handshake(&p), 0);
			assert_true(sp_hello(&p.sp));
			must_echo(&p, 3000);
			peer_end(&p);
		}
	}
	gnutls_certificate_free_credentials(credentials);
}

/* One message that never ends: what it announces is not what we hold for it. */
static void test_handshake_endless_message(void **state)
{
	enum { PIECE = 16000, ANNOUNCED = 0xffffff };
	struct wire *w = *state;
	static uint8_t record[RECORD_HEAD + PIECE];
	struct sp_client c;
	const uint8_t head[] = { RECORD_HANDSHAKE, 3, 1, PIECE >> 8, PIECE & 0xff };
	const uint8_t client_hello[] = { 1, ANNOUNCED >> 16, ANNOUNCED >> 8 & 0xff, ANNOUNCED & 0xff, 3, 3 };
	wire_listen(w);
	assert_true(sp_connect(&c, NULL, listener_address(w->listener)));
	memcpy(record, head, sizeof head);
	memcpy(record + sizeof head, client_hello, sizeof client_hello);
	for (unsigned sent = 0; sent < ANNOUNCED / PIECE; sent++) {
		if (!sp_write(&c, record, sizeof record))
			break;
		memset(record + RECORD_HEAD, 0, PIECE);
	}
	sp_close(&c, false);
	wire_wait_down(&w->log, 1);
	wire_expect(&w->log, STATUS_UNAVAILABLE, "data size is too large");
}

/* Keys changed */

/* A KeyUpdate anywhere in a burst that arrives in one segment, asking for one in return or not. */
static void test_handshake_key_update_in_a_burst(void **state)
{
	enum { FRAMES = 5 };
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = honest(pki_admin(w->pki));
	wire_listen(w);
	for (unsigned flags = 0; flags <= GNUTLS_KU_PEER; flags += GNUTLS_KU_PEER) {
		for (unsigned where = 0; where <= FRAMES + 1; where++) { /* the last: at each place */
			struct peer p;
			peer_connect(&p, w, TLS13, credentials);
			assert_int_equal(peer_handshake(&p), 0);
			assert_true(sp_hello(&p.sp));
			p.hold = true;
			for (unsigned i = 0; i <= FRAMES; i++) {
				if (where == i || where == FRAMES + 1)
					assert_int_equal(gnutls_session_key_update(p.sp.session, where == i ? flags : 0), 0);
				if (i < FRAMES)
					send_frame(&p, (uint8_t)(i + 1), 20 + i);
			}
			release(&p);
			for (unsigned i = 0; i < FRAMES; i++)
				read_frame(&p, (uint8_t)(i + 1), 20 + i);
			must_echo(&p, 100);
			peer_end(&p);
		}
	}
	gnutls_certificate_free_credentials(credentials);
}

/* Whoever does nothing else is cut off, soon, and costs no memory until then. */
static void test_handshake_key_updates_without_end(void **state)
{
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = honest(pki_admin(w->pki));
	struct peer p;
	wire_listen(w);
	peer_connect(&p, w, TLS13, credentials);
	assert_int_equal(peer_handshake(&p), 0);
	assert_true(sp_hello(&p.sp));
	wire_wait_up(&w->log, 1);
	p.hold = true;
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(gnutls_session_key_update(p.sp.session, GNUTLS_KU_PEER), 0);
	release(&p);
	wire_wait_down(&w->log, 1);
	wire_expect(&w->log, STATUS_UNAVAILABLE, "TLS: Too many");
	peer_end(&p);
	gnutls_certificate_free_credentials(credentials);
}

/* The same for alerts that end nothing, as there are in 1.2. */
static void test_handshake_warnings_without_end(void **state)
{
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = honest(pki_admin(w->pki));
	struct peer p;
	wire_listen(w);
	peer_connect(&p, w, TLS12, credentials);
	assert_int_equal(peer_handshake(&p), 0);
	assert_true(sp_hello(&p.sp));
	assert_int_equal(gnutls_alert_send(p.sp.session, GNUTLS_AL_WARNING, GNUTLS_A_USER_CANCELED), 0);
	must_echo(&p, 100);
	p.hold = true;
	for (unsigned i = 0; i < 10000; i++)
		assert_int_equal(gnutls_alert_send(p.sp.session, GNUTLS_AL_WARNING, GNUTLS_A_USER_CANCELED), 0);
	release(&p);
	wire_wait_down(&w->log, 1);
	wire_expect(&w->log, STATUS_UNAVAILABLE, "TLS: ");
	peer_end(&p);
	gnutls_certificate_free_credentials(credentials);
}

/* Locks */

static sem_t inside, go_on;
static atomic_bool stopped;

/* GnuTLS asks a server for its certificate in the middle of the handshake, maybe more than once: here it waits. */
static int stop_here(gnutls_session_t session, const gnutls_datum_t *cas, int n_cas, const gnutls_pk_algorithm_t *algorithms,
		     int n_algorithms, gnutls_pcert_st **ret_pcerts, unsigned *ret_n, gnutls_privkey_t *ret_key)
{
	(void)session;
	(void)cas;
	(void)n_cas;
	(void)algorithms;
	(void)n_algorithms;
	(void)ret_pcerts;
	(void)ret_key;
	if (!atomic_exchange(&stopped, true)) {
		sem_post(&inside);
		sem_wait(&go_on);
	}
	*ret_n = 0;
	return -1;
}

/* Nobody waits for a handshake that is being computed: not the recheck after a change, not a listener's figures. */
static void test_handshake_holds_no_lock(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	struct listener_stats stats;
	stopped = false;
	sem_init(&inside, 0, 0);
	sem_init(&go_on, 0, 0);
	gnutls_certificate_set_retrieve_function2(tls_credentials_gnutls(w->server), stop_here);
	wire_listen(w);
	struct conn *c = dial(w, listener_address(w->listener), w->admin, &log);
	sem_wait(&inside);
	alarm(60); /* a lock that is held here is held for ever */
	listener_recheck(w->listener);
	listener_stats(w->listener, &stats);
	assert_int_equal(stats.open, 1);
	conn_close(c);
	wire_wait_down(&log, 1);
	alarm(0);
	sem_post(&go_on);
	wire_wait_down(&w->log, 1);
	close_conn(c, &log);
	sem_destroy(&inside);
	sem_destroy(&go_on);
}

/* Closed, or out of time, while it is computed. */
static void test_handshake_closed_inside(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	stopped = false;
	sem_init(&inside, 0, 0);
	sem_init(&go_on, 0, 0);
	gnutls_certificate_set_retrieve_function2(tls_credentials_gnutls(w->server), stop_here);
	w->options.limits.handshake_ms = 50;
	wire_listen(w);
	struct conn *c = dial(w, listener_address(w->listener), w->admin, &log);
	sem_wait(&inside);
	wire_wait_down(&log, 1); /* the timer has closed the socket */
	sem_post(&go_on);
	wire_wait_down(&w->log, 1);
	wire_expect(&w->log, STATUS_UNAVAILABLE, "within 50 ms");
	close_conn(c, &log);
	sem_destroy(&inside);
	sem_destroy(&go_on);
}

/*
 * A client is verified, the trust changes, and only then comes the end of its handshake. It is refused in any order; the
 * pause makes this one likely.
 */
static void test_handshake_trust_changes_inside(void **state)
{
	enum { FINISHED = 5 }; /* ClientHello, ChangeCipherSpec, Certificate, CertificateVerify, Finished: a record each */
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = honest(pki_node(w->pki, "n", 41));
	struct peer p;
	wire_listen(w);
	peer_connect(&p, w, TLS13, credentials);
	p.hold_from = FINISHED;
	assert_int_equal(peer_handshake(&p), 0);
	assert_int_equal(p.records, FINISHED);
	usleep(50000);
	trust_set_min_serial(w->trust, 42);
	listener_recheck(w->listener);
	release(&p);
	wire_wait_down(&w->log, 1);
	wire_expect(&w->log, STATUS_PERMISSION_DENIED, "min_serial 42");
	assert_int_equal(w->log.ups, 0);
	gnutls_certificate_free_credentials(credentials);
	peer_end(&p);
}

/* The largest certificate that may be made */

static gnutls_privkey_t signer_of(gnutls_x509_privkey_t key)
{
	gnutls_privkey_t signer;
	assert_int_equal(gnutls_privkey_init(&signer), 0);
	assert_int_equal(gnutls_privkey_import_x509(signer, key, 0), 0);
	return signer;
}

/* URIs that, with the common name, come to X509_NAMES_MAX; the first is the role's. */
static unsigned fill_names(const char *common_name, const char *uris[64], char text[64][256])
{
	size_t left = X509_NAMES_MAX - strlen(common_name) - X509_NAME_OVERHEAD;
	unsigned n = 0;
	while (left > 0) {
		size_t len = left > 512 ? 255 : left > 263 ? left / 2 - X509_NAME_OVERHEAD : left - X509_NAME_OVERHEAD;
		memset(text[n], 'x', len);
		text[n][len] = '\0';
		if (n == 0)
			len = (size_t)sprintf(text[0], "kds://" PKI_CLUSTER "/role/serial/serial1");
		else
			memcpy(text[n], "urn:x:", 6);
		uris[n] = text[n];
		n++;
		left -= len + X509_NAME_OVERHEAD;
	}
	return n;
}

/* Root and CAs, and the largest leaf under them, all with RSA keys of the largest size: CHAIN_MAX in all, in one file. */
static void make_largest(struct wire *w, gnutls_x509_privkey_t key, struct buffer *ret_root, char ret_chain_file[256])
{
	static char text[64][256];
	static const char *uris[64];
	gnutls_privkey_t signer = signer_of(key);
	gnutls_pubkey_t public;
	gnutls_x509_crt_t crts[CHAIN_MAX];
	struct buffer pem = { 0 };
	struct status st;
	time_t now = time(NULL);
	char name[65];
	assert_int_equal(gnutls_pubkey_init(&public), 0);
	assert_int_equal(gnutls_pubkey_import_privkey(public, signer, 0, 0), 0);
	for (unsigned i = 0; i < CHAIN_MAX; i++) {
		struct x509_issuer issuer = { .certificate = i ? crts[i - 1] : NULL, .key = signer };
		struct x509_template t = { .common_name = name, .not_before = now - 60, .not_after = now + 3600, .path_len = -1 };
		memset(name, 'n', 64);
		name[63] = (char)('a' + i);
		name[64] = '\0';
		t.usage = i < CHAIN_MAX - 1 ? X509_USAGE_CA : X509_USAGE_SERVER | X509_USAGE_CLIENT;
		if (i == CHAIN_MAX - 1) {
			t.uris = uris;
			t.n_uris = fill_names(name, uris, text);
		}
		if (x509_build(&t, public, &issuer, &st, &crts[i]) != STATUS_OK)
			fail_msg("%s", st.message);
	}
	assert_int_equal(x509_to_pem(crts[0], &st, ret_root), STATUS_OK);
	for (unsigned i = CHAIN_MAX; i-- > 0;) {
		assert_int_equal(x509_to_pem(crts[i], &st, &pem), STATUS_OK);
		gnutls_x509_crt_deinit(crts[i]);
	}
	snprintf(ret_chain_file, 256, "%s/largest.crt", pki_directory(w->pki));
	assert_int_equal(file_write(ret_chain_file, (struct slice){ pem.data, pem.len }, 0644, true, &st), STATUS_OK);
	buffer_free(&pem);
	gnutls_pubkey_deinit(public);
	gnutls_privkey_deinit(signer);
}

/* No certificate is made that an end of ours refuses for its length, and no chain of the depth that is taken. */
static void test_handshake_largest_certificate(void **state)
{
	struct wire *w = *state;
	char chain_file[256], key_file[256];
	gnutls_x509_privkey_t key;
	struct buffer root = { 0 };
	struct status st;
	struct trust *trust;
	struct tls_credentials *largest;
	assert_int_equal(gnutls_x509_privkey_init(&key), 0);
	assert_int_equal(gnutls_x509_privkey_generate(key, GNUTLS_PK_RSA, 4096, 0), 0);
	make_largest(w, key, &root, chain_file);
	snprintf(key_file, sizeof key_file, "%s/largest.key", pki_directory(w->pki));
	assert_int_equal(x509_key_save(key, NULL, key_file, &st), STATUS_OK);
	gnutls_x509_privkey_deinit(key);
	struct slice pem = { root.data, root.len };
	assert_int_equal(trust_new(PKI_CLUSTER, PKI_KDS_NAME, &pem, &st, &trust), STATUS_OK);
	buffer_free(&root);
	assert_int_equal(tls_credentials_load(chain_file, key_file, TLS_MINIMUM_1_2, &st, &largest), STATUS_OK);
	w->options.trust = trust;
	w->options.credentials = largest;
	wire_listen(w);

	struct wire_log log;
	struct conn *c;
	wire_log_init(&log);
	struct conn_dial options = wire_dial_options(w, largest, &log);
	options.trust = trust;
	assert_int_equal(conn_dial(&options, &st, &c), STATUS_OK);
	wire_wait_up(&log, 1);
	wire_wait_up(&w->log, 1);
	assert_int_equal(w->log.roles, PEER_SERIAL);
	close_conn(c, &log);

	struct peer p;
	gnutls_certificate_credentials_t credentials;
	assert_int_equal(gnutls_certificate_allocate_credentials(&credentials), 0);
	assert_int_equal(gnutls_certificate_set_x509_key_file(credentials, chain_file, key_file, GNUTLS_X509_FMT_PEM), 0);
	peer_connect(&p, w, TLS12, credentials);
	assert_int_equal(peer_handshake(&p), 0);
	assert_true(sp_hello(&p.sp));
	must_echo(&p, 10);
	peer_end(&p);
	gnutls_certificate_free_credentials(credentials);
	listener_stop(w->listener);
	w->listener = NULL;
	tls_credentials_unref(largest);
	trust_free(trust);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, wire_set_up, wire_tear_down)
		TEST(test_handshake_unknown_keys),
		TEST(test_handshake_costly_certificates),
		TEST(test_handshake_stolen_certificate),
		TEST(test_handshake_no_certificate),
		TEST(test_handshake_no_sha1),
		TEST(test_handshake_fragments),
		TEST(test_handshake_fragments_of_a_server),
		TEST(test_handshake_short_records),
		TEST(test_handshake_endless_message),
		TEST(test_handshake_key_update_in_a_burst),
		TEST(test_handshake_key_updates_without_end),
		TEST(test_handshake_warnings_without_end),
		TEST(test_handshake_holds_no_lock),
		TEST(test_handshake_closed_inside),
		TEST(test_handshake_trust_changes_inside),
		TEST(test_handshake_largest_certificate),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
