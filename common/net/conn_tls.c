/*
 * GnuTLS over buffers: its pull takes from `in` and its push adds to `cipher`; neither blocks. What GnuTLS calls
 * GNUTLS_E_AGAIN is "call again": with the next read, or at once where some of this one is left.
 *
 * A peer's key costs what its maker chose, so its chain is verified before anything is computed with a key in it. GnuTLS
 * asks its verify function too late for that in TLS 1.3: CertificateVerify is checked first. So the chain is judged in
 * a hook ahead of that message, and once more where GnuTLS asks, which is ahead of every signature in TLS 1.2. The second
 * time costs a hash (trust_verify_handshake()), and nobody comes past both. Reading a certificate has its price, too: the
 * same hook looks at each before GnuTLS does.
 */
#include <errno.h>
#include <string.h>

#include "common/net/conn_internal.h"
#include "common/net/trust_verify.h"
#include "common/x509/shape.h"

/*
 * What a peer without a verified certificate may make us hold. GnuTLS counts the messages of a handshake together, our
 * own among them, and most of both ends' is a chain: all the names that a leaf may have, and for each certificate its
 * key, signature and the rest (1.8 KiB with RSA of 4096 bits).
 */
#define CHAIN_BYTES_MAX (X509_NAMES_MAX + CHAIN_MAX * X509_BESIDES_NAMES)
#define HANDSHAKE_MAX (2 * CHAIN_BYTES_MAX + 8192)
/*
 * It counts a message when it is whole, though, and a message may say that it has 16 MiB. So bytes are counted here that
 * bring no plain text: those of a handshake, and later of KeyUpdates, alerts and the like, which whoever sends nothing else has
 * no use for.
 */
#define BARREN_MAX (128 * 1024)
/* More than one round of conn_tls_encrypt() writes; the rest is for answers to KeyUpdate, which a peer asks for. */
#define CIPHER_MAX (256 * 1024)
#define RECORD_MAX 16384

static ssize_t push(gnutls_transport_ptr_t conn, const void *data, size_t len)
{
	struct conn *c = conn;
	if (c->cipher.len > CIPHER_MAX || !buffer_append(&c->cipher, data, len)) {
		gnutls_transport_set_errno(c->session, ENOBUFS);
		return -1;
	}
	return (ssize_t)len;
}

static ssize_t pull(gnutls_transport_ptr_t conn, void *data, size_t len)
{
	struct conn *c = conn;
	size_t left = c->in.len - c->in.used;
	if (left == 0) {
		gnutls_transport_set_errno(c->session, EAGAIN);
		return -1;
	}
	if (len > left)
		len = left;
	memcpy(data, c->in.data + c->in.used, len);
	c->in.used += len;
	return (ssize_t)len;
}

static enum status_code check_role(const struct conn *c, const struct identity *id, struct status *st)
{
	if (!c->server && !id->infrastructure)
		return status_set(st, STATUS_UNAUTHENTICATED,
				  "the server's certificate is '%s' of a cluster's CA, not a service's", id->common_name);
	if (c->roles == 0 || (id->roles & c->roles))
		return STATUS_OK;
	char wanted[96], has[96];
	return status_set(st, STATUS_PERMISSION_DENIED, "'%s' has the role %s; needed is %s", id->common_name,
			  peer_roles_describe(id->roles, has, sizeof has),
			  peer_roles_describe(c->roles, wanted, sizeof wanted));
}

/* Without the mutex, as all of the handshake. */
static int refuse_peer(struct conn *c, gnutls_alert_description_t alert, const struct status *why)
{
	pthread_mutex_lock(&c->mutex);
	c->alert = alert;
	conn_blame(c, why->code, "%s", why->message);
	pthread_mutex_unlock(&c->mutex);
	return GNUTLS_E_CERTIFICATE_ERROR;
}

/* Nothing else verifies the peer. */
static int verify_peer(gnutls_session_t session)
{
	struct conn *c = gnutls_session_get_ptr(session);
	unsigned n = 0;
	const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &n);
	if (n == 0 && c->anonymous)
		return 0;
	struct status st;
	struct identity *id = NULL;
	gnutls_alert_description_t alert = GNUTLS_A_BAD_CERTIFICATE;
	enum status_code rc = trust_verify_handshake(c->trust, chain, n, c->server ? TRUST_CLIENT : TRUST_SERVER, &st,
						     &alert, &id);
	if (rc == STATUS_OK) {
		rc = check_role(c, id, &st);
		alert = GNUTLS_A_ACCESS_DENIED;
	}
	if (rc != STATUS_OK) {
		identity_unref(id);
		return refuse_peer(c, alert, &st);
	}
	pthread_mutex_lock(&c->mutex);
	struct identity *before = c->identity;
	c->identity = id;
	pthread_mutex_unlock(&c->mutex);
	identity_unref(before);
	return 0;
}

/* Takes a number of `size` bytes off the front. False: there are not so many. */
static bool take_number(struct slice *from, unsigned size, size_t *ret_number)
{
	const uint8_t *p = from->data;
	size_t n = 0;
	if (from->len < size)
		return false;
	for (unsigned i = 0; i < size; i++)
		n = n << 8 | p[i];
	*from = (struct slice){ .data = p + size, .len = from->len - size };
	*ret_number = n;
	return true;
}

/* The same with the bytes behind it that it is the length of. */
static bool take_vector(struct slice *from, unsigned size, struct slice *ret_vector)
{
	size_t n;
	if (!take_number(from, size, &n) || n > from->len)
		return false;
	const uint8_t *p = from->data;
	*ret_vector = (struct slice){ .data = p, .len = n };
	*from = (struct slice){ .data = p + n, .len = from->len - n };
	return true;
}

/* Each certificate of a Certificate message: RFC 8446 §4.4.2, RFC 5246 §7.4.2. */
static enum status_code check_shapes(struct slice message, bool is_13, struct status *st)
{
	struct slice list, certificate, rest;
	bool whole = (!is_13 || take_vector(&message, 1, &rest)) && take_vector(&message, 3, &list);
	while (whole && list.len > 0) {
		whole = take_vector(&list, 3, &certificate) && (!is_13 || take_vector(&list, 2, &rest));
		if (whole && x509_check_shape(certificate, st) != STATUS_OK)
			return st->code = STATUS_UNAUTHENTICATED;
	}
	return whole ? STATUS_OK : status_set(st, STATUS_UNAUTHENTICATED, "a malformed list of certificates");
}

/* GnuTLS parses the peer's certificate as soon as it has this message. */
static int before_certificate(gnutls_session_t session, const gnutls_datum_t *message)
{
	struct status st;
	struct slice bytes = { .data = message->data, .len = message->size };
	bool is_13 = gnutls_protocol_get_version(session) >= GNUTLS_TLS1_3;
	if (check_shapes(bytes, is_13, &st) == STATUS_OK)
		return 0;
	return refuse_peer(gnutls_session_get_ptr(session), GNUTLS_A_BAD_CERTIFICATE, &st);
}

static int before_message(gnutls_session_t session, unsigned type, unsigned when, unsigned incoming,
			  const gnutls_datum_t *message)
{
	(void)when;
	if (!incoming)
		return 0;
	switch (type) {
	case GNUTLS_HANDSHAKE_CERTIFICATE_PKT:
		return before_certificate(session, message);
	case GNUTLS_HANDSHAKE_CERTIFICATE_VERIFY:
		return verify_peer(session);
	default:
		return 0;
	}
}

enum status_code conn_tls_init(struct conn *c, struct status *st)
{
	/* No tickets: a resumed session would skip verify_peer(). */
	unsigned flags = GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;
	flags |= c->server ? GNUTLS_SERVER : GNUTLS_CLIENT | GNUTLS_KEY_SHARE_TOP;
	int rv = gnutls_init(&c->session, flags);
	if (rv >= 0)
		rv = gnutls_priority_set(c->session, tls_credentials_priority(c->credentials));
	if (rv >= 0)
		rv = gnutls_credentials_set(c->session, GNUTLS_CRD_CERTIFICATE, tls_credentials_gnutls(c->credentials));
	if (rv < 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "TLS session: %s", gnutls_strerror(rv));
	gnutls_session_set_ptr(c->session, c);
	gnutls_session_set_verify_function(c->session, verify_peer);
	gnutls_handshake_set_hook_function(c->session, GNUTLS_HANDSHAKE_ANY, GNUTLS_HOOK_PRE, before_message);
	gnutls_transport_set_ptr(c->session, c);
	gnutls_transport_set_push_function(c->session, push);
	gnutls_transport_set_pull_function(c->session, pull);
	gnutls_handshake_set_timeout(c->session, GNUTLS_INDEFINITE_TIMEOUT); /* ours covers the SP hello too */
	gnutls_handshake_set_max_packet_length(c->session, HANDSHAKE_MAX);
	return STATUS_OK;
}

static bool blames_certificate(gnutls_alert_description_t alert)
{
	switch (alert) {
	case GNUTLS_A_BAD_CERTIFICATE:
	case GNUTLS_A_UNSUPPORTED_CERTIFICATE:
	case GNUTLS_A_CERTIFICATE_REVOKED:
	case GNUTLS_A_CERTIFICATE_EXPIRED:
	case GNUTLS_A_CERTIFICATE_UNKNOWN:
	case GNUTLS_A_UNKNOWN_CA:
	case GNUTLS_A_ACCESS_DENIED:
	case GNUTLS_A_CERTIFICATE_REQUIRED:
		return true;
	default:
		return false;
	}
}

/* What a refused certificate's owner can do about it. */
static const char *advice(gnutls_alert_description_t alert)
{
	switch (alert) {
	case GNUTLS_A_CERTIFICATE_REQUIRED:
		return "configure one";
	case GNUTLS_A_CERTIFICATE_EXPIRED:
		return "an administrator can make a new one";
	case GNUTLS_A_CERTIFICATE_REVOKED:
		return "its serial is below min_serial, or its service was removed: an administrator can make a new one";
	case GNUTLS_A_ACCESS_DENIED:
		return "it lacks the role this port asks for, or its node was removed";
	default:
		return "use one that this cluster issued for this purpose";
	}
}

static void peer_alerted(struct conn *c)
{
	gnutls_alert_description_t alert = gnutls_alert_get(c->session);
	const char *name = gnutls_alert_get_name(alert);
	const char *peer = c->server ? "client" : "server";
	if (blames_certificate(alert))
		conn_blame(c, STATUS_UNAUTHENTICATED, "the %s refused our certificate: %s; %s", peer, name ? name : "?",
			   advice(alert));
	else if (alert == GNUTLS_A_INTERNAL_ERROR) /* of our servers' (listener.c) */
		conn_blame(c, STATUS_UNAVAILABLE, "the %s has no room for another connection of ours (TLS alert: %s)", peer,
			   name ? name : "?");
	else
		conn_blame(c, STATUS_UNAVAILABLE, "TLS alert from the %s: %s", peer, name ? name : "unknown");
	conn_kill(c);
}

/* A fatal error of GnuTLS's: who is told what. */
static enum tls_progress fail(struct conn *c, int rv)
{
	if (rv == GNUTLS_E_FATAL_ALERT_RECEIVED) {
		peer_alerted(c);
		return TLS_FAILED;
	}
	int level = GNUTLS_AL_FATAL;
	int alert = c->alert ? (int)c->alert : gnutls_error_to_alert(rv, &level);
	if (rv == GNUTLS_E_CERTIFICATE_REQUIRED || rv == GNUTLS_E_NO_CERTIFICATE_FOUND)
		conn_blame(c, STATUS_UNAUTHENTICATED, "the peer sent no certificate");
	conn_blame(c, STATUS_UNAVAILABLE, "TLS: %s", gnutls_strerror(rv));
	conn_refuse(c, alert > 0 ? (gnutls_alert_description_t)alert : GNUTLS_A_INTERNAL_ERROR);
	return TLS_FAILED;
}

/*
 * GnuTLS says "again" also when it has read a record that is not all its caller waits for: a part of a message, a
 * KeyUpdate; of an alert that ends nothing it says that it was one. What follows is still to be read, here or never.
 * Zero: call again now.
 */
static int after_again(struct conn *c, size_t used_before)
{
	size_t taken = c->in.used - used_before;
	c->barren += taken;
	if (c->barren > BARREN_MAX)
		return GNUTLS_E_HANDSHAKE_TOO_LARGE;
	if (c->in.used == c->in.len)
		return GNUTLS_E_AGAIN;
	return taken > 0 ? 0 : GNUTLS_E_INTERNAL_ERROR;
}

/* Without the mutex. */
static int compute_handshake(struct conn *c)
{
	int rv;
	do {
		size_t used = c->in.used;
		rv = gnutls_handshake(c->session);
		if (rv == GNUTLS_E_AGAIN)
			rv = after_again(c, used);
		else if (rv >= 0)
			return 0;
	} while (rv >= 0 || (rv != GNUTLS_E_AGAIN && !gnutls_error_is_fatal(rv)));
	return rv;
}

/* What GnuTLS does not ask for. */
static enum tls_progress check_handshake(struct conn *c)
{
	/* RFC 7627 §5.3: without it two sessions of 1.2 can be made to share their secret. */
	if (gnutls_protocol_get_version(c->session) < GNUTLS_TLS1_3 &&
	    !gnutls_session_ext_master_secret_status(c->session)) {
		c->alert = GNUTLS_A_INSUFFICIENT_SECURITY;
		conn_blame(c, STATUS_UNAVAILABLE, "the peer offers TLS 1.2 without extended master secret");
		return fail(c, GNUTLS_E_INSUFFICIENT_SECURITY);
	}
	/* verify_peer() has run, or GnuTLS let somebody by. */
	if (!c->identity && !c->anonymous) {
		c->alert = GNUTLS_A_CERTIFICATE_REQUIRED;
		conn_blame(c, STATUS_UNAUTHENTICATED, "the peer sent no certificate");
		return fail(c, GNUTLS_E_CERTIFICATE_REQUIRED);
	}
	/* conn_recheck() has passed over this one since it was verified. */
	struct status st;
	if (c->identity && trust_recheck(c->trust, c->identity, &st) != STATUS_OK) {
		c->alert = GNUTLS_A_CERTIFICATE_REVOKED;
		conn_blame(c, st.code, "%s", st.message);
		return fail(c, GNUTLS_E_CERTIFICATE_ERROR);
	}
	return TLS_DONE;
}

enum tls_progress conn_tls_handshake(struct conn *c)
{
	c->dispatching = c->computing = true;
	pthread_mutex_unlock(&c->mutex);
	int rv = compute_handshake(c);
	pthread_mutex_lock(&c->mutex);
	c->dispatching = c->computing = false;
	if (c->state != CONN_HANDSHAKE)
		return TLS_FAILED;
	if (rv == GNUTLS_E_AGAIN)
		return TLS_AGAIN;
	if (rv < 0)
		return fail(c, rv);
	c->barren = 0;
	return check_handshake(c);
}

enum tls_progress conn_tls_decrypt(struct conn *c)
{
	for (;;) {
		/* Plain text is never longer than its cipher text; GnuTLS may hold a part of a record besides. */
		size_t used = c->in.used, want = c->in.len - used;
		if (c->plain.cap - c->plain.len < 256 && !conn_reserve(&c->plain, want > 1024 ? want : 1024)) {
			conn_blame(c, STATUS_RESOURCE_EXHAUSTED, "out of memory");
			conn_kill(c);
			return TLS_FAILED;
		}
		ssize_t n = gnutls_record_recv(c->session, c->plain.data + c->plain.len, c->plain.cap - c->plain.len);
		if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_WARNING_ALERT_RECEIVED) {
			n = after_again(c, used);
			if (n == 0)
				continue;
		}
		if (n > 0) {
			c->plain.len += (size_t)n;
			c->barren = 0;
		} else if (n == 0) {
			return TLS_CLOSED;
		} else if (n == GNUTLS_E_AGAIN) {
			return TLS_AGAIN;
		} else if (n == GNUTLS_E_REHANDSHAKE || gnutls_error_is_fatal((int)n)) {
			/* A handshake again, in 1.2: a new identity in the middle of things. */
			return fail(c, (int)n);
		}
	}
}

bool conn_tls_encrypt(struct conn *c, size_t max)
{
	if (c->last_alert || c->state < CONN_HELLO)
		return true;
	while (c->out_used < c->out.len && c->cipher.len < max) {
		size_t len = c->out.len - c->out_used;
		ssize_t n = gnutls_record_send(c->session, c->out.data + c->out_used, len < RECORD_MAX ? len : RECORD_MAX);
		if (n > 0) {
			c->out_used += (size_t)n;
		} else if (n == 0 || gnutls_error_is_fatal((int)n) || n == GNUTLS_E_AGAIN) {
			conn_blame(c, STATUS_UNAVAILABLE, "TLS: %s", gnutls_strerror((int)n));
			conn_kill(c);
			return false;
		}
	}
	if (c->out_used == c->out.len) {
		conn_consume(&c->out, c->out.len);
		c->out_used = 0;
	}
	return true;
}

void conn_tls_bye(struct conn *c)
{
	c->last_alert = true;
	(void)gnutls_bye(c->session, GNUTLS_SHUT_WR); /* fails only where nothing more can be said anyway */
}

void conn_tls_alert(struct conn *c, gnutls_alert_description_t alert)
{
	c->last_alert = true;
	(void)gnutls_alert_send(c->session, GNUTLS_AL_FATAL, alert); /* the same */
	conn_consume(&c->out, c->out.len);
	c->out_used = 0;
}
