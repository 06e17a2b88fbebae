/* TLS as it may come and seldom does: cut into small records, with KeyUpdates in between; and with SHA-1, as it must not. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fault/hostile/hostile.h"
#include "tests/support/echo.h"

#define RECORD_HANDSHAKE 22
#define RECORD_CHANGE_CIPHER_SPEC 20
#define RECORD_HEAD 5
#define TLS12 "NORMAL:-VERS-ALL:+VERS-TLS1.2"
#define TLS13 "NORMAL:-VERS-ALL:+VERS-TLS1.3"

/* What stands between GnuTLS and the socket of one client. */
struct outlet {
	int fd;
	size_t piece;  /* handshake messages in clear go in records of so many bytes; 0: as they come */
	bool cork;     /* keep what is written, for one segment */
	bool sealed;   /* ChangeCipherSpec has gone: what follows is encrypted */
	uint8_t *data;
	size_t len, cap;
};

static void keep(struct outlet *o, const void *data, size_t len)
{
	if (o->len + len > o->cap) {
		o->cap = (o->len + len) * 2;
		o->data = realloc(o->data, o->cap);
		if (!o->data)
			die("out of memory");
	}
	memcpy(o->data + o->len, data, len);
	o->len += len;
}

static bool send_bytes(int fd, const uint8_t *data, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return true;
}

/* Sends what was kept, in two parts cut at `at`. */
static bool flush_at(struct outlet *o, size_t at)
{
	at = at < o->len ? at : o->len;
	bool ok = send_bytes(o->fd, o->data, at) && send_bytes(o->fd, o->data + at, o->len - at);
	o->len = 0;
	return ok;
}

/* One whole record as GnuTLS wrote it. */
static void cut_record(struct outlet *o, const uint8_t *record, size_t len)
{
	o->sealed = o->sealed || record[0] == RECORD_CHANGE_CIPHER_SPEC;
	if (o->sealed || record[0] != RECORD_HANDSHAKE) {
		keep(o, record, len);
		return;
	}
	for (size_t at = RECORD_HEAD; at < len;) {
		size_t n = len - at < o->piece ? len - at : o->piece;
		uint8_t head[RECORD_HEAD] = { record[0], record[1], record[2], (uint8_t)(n >> 8), (uint8_t)n };
		keep(o, head, sizeof head);
		keep(o, record + at, n);
		at += n;
	}
}

/* GnuTLS hands over whole records, one or more. */
static ssize_t push(gnutls_transport_ptr_t arg, const void *data, size_t len)
{
	struct outlet *o = arg;
	const uint8_t *bytes = data;
	if (!o->piece)
		keep(o, data, len);
	for (size_t at = 0; o->piece && at < len;) {
		size_t record = len - at < RECORD_HEAD ? 0 : RECORD_HEAD + (size_t)(bytes[at + 3] << 8 | bytes[at + 4]);
		if (record == 0 || record > len - at)
			die("GnuTLS wrote a part of a record");
		cut_record(o, bytes + at, record);
		at += record;
	}
	return o->cork || flush_at(o, o->len) ? (ssize_t)len : -1;
}

static bool begin(struct sp_client *c, struct outlet *o, unsigned i, const char *priority,
		  gnutls_certificate_credentials_t credentials)
{
	if (!connect_from(c, i) || !sp_tls_begin(c, credentials, priority))
		return false;
	o->fd = c->fd;
	gnutls_transport_set_ptr2(c->session, (gnutls_transport_ptr_t)(intptr_t)c->fd, o);
	gnutls_transport_set_push_function(c->session, push);
	return true;
}

static bool says_echo(struct sp_client *c, size_t len)
{
	static const uint8_t data[4096];
	return target.port == PORT_PEER ? say_hello(c) : say_hello(c) && echo(c, data, len);
}

/* On a peer port one replica may have few connections, and those that the daemon is closing count for a moment. */
static bool persist(bool (*once)(unsigned i, const char **why), unsigned i, const char **why)
{
	for (unsigned n = 0; !once(i, why); n++) {
		if (target.port != PORT_PEER || n == 20)
			return false;
		usleep(100000);
	}
	return true;
}

/* --- fragments ----------------------------------------------------------------------------------------------------------- */

/* RFC 8446 §5.1: a handshake message may be cut anywhere. ClientHello in 1.3; in 1.2 all but Finished. */
static bool try_cut_handshake(unsigned i, const char **why)
{
	struct sp_client c;
	const bool old = target.port != PORT_PEER && i / 64 % 2;
	struct outlet o = { .piece = 1 + i % 64 };
	static _Thread_local char text[64];
	snprintf(text, sizeof text, "TLS 1.%d in records of %zu bytes gets no answer", old ? 2 : 3, o.piece);
	*why = text;
	bool ok = begin(&c, &o, i, old ? TLS12 : TLS13, target.chain) && sp_tls_finish(&c) && says_echo(&c, 1000);
	sp_close(&c, !ok);
	free(o.data);
	return ok;
}

static bool cut_handshake(unsigned i, const char **why)
{
	return persist(try_cut_handshake, i, why);
}

/* Also what is encrypted: a chain of 8 certificates in records of 512 bytes, the least that GnuTLS sends, and more. */
static bool try_cut_all(unsigned i, const char **why)
{
	struct sp_client c;
	const bool old = target.port != PORT_PEER && i % 2;
	const size_t piece = 512 + i / 2 * 7 % 700;
	static _Thread_local char text[64];
	snprintf(text, sizeof text, "TLS 1.%d, records of %zu bytes, gets no answer", old ? 2 : 3, piece);
	*why = text;
	bool ok = connect_from(&c, i) && sp_tls_begin(&c, target.chain, old ? TLS12 : TLS13) &&
		  gnutls_record_set_max_size(c.session, piece) >= 0 && sp_tls_finish(&c) && says_echo(&c, 4096);
	sp_close(&c, !ok);
	return ok;
}

static bool cut_all(unsigned i, const char **why)
{
	return persist(try_cut_all, i, why);
}

/* --- KeyUpdate (RFC 8446 §4.6.3) ------------------------------------------------------------------------------------------- */

#define BURST 8   /* requests */
#define UPDATES 4 /* GnuTLS takes 8 a second */

static bool send_burst(struct sp_client *c, struct outlet *o, unsigned i)
{
	static const uint8_t data[700];
	size_t len;
	uint8_t *request = echo_request(data, 1 + i % sizeof data, &len);
	bool ok = true;
	o->cork = true;
	for (unsigned n = 0; ok && n < BURST; n++) {
		ok = sp_send(c, request, len);
		if (ok && n % (BURST / UPDATES) == i % (BURST / UPDATES))
			ok = gnutls_session_key_update(c->session, n < BURST / 2 ? 0 : GNUTLS_KU_PEER) >= 0;
	}
	o->cork = false;
	free(request);
	/* Half of them in one segment, the others cut at a place of their own. */
	return flush_at(o, i % 2 ? o->len : i * 37 % o->len) && ok;
}

/* As sp_read(), but what GnuTLS does by itself in between (the peer's own KeyUpdate) does not end it. */
static bool read_bytes(struct sp_client *c, uint8_t *data, size_t len)
{
	unsigned long until = now_ms() + 10000UL * target.patience;
	while (len > 0) {
		ssize_t n = gnutls_record_recv(c->session, data, len);
		if (n == GNUTLS_E_AGAIN && now_ms() < until)
			continue;
		if (n == 0 || (n < 0 && gnutls_error_is_fatal((int)n)) || (n < 0 && now_ms() >= until))
			return false;
		data += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return true;
}

static unsigned read_answers(struct sp_client *c)
{
	uint8_t head[8], answer[2048];
	for (unsigned n = 0; n < BURST; n++) {
		if (!read_bytes(c, head, sizeof head))
			return n;
		size_t len = (size_t)head[6] << 8 | head[7];
		if (len > sizeof answer || !read_bytes(c, answer, len))
			return n;
	}
	return BURST;
}

static bool update_keys(unsigned i, const char **why)
{
	struct sp_client c;
	struct outlet o = { 0 };
	static _Thread_local char text[80];
	*why = "cannot open a good connection";
	const struct timeval patience = { .tv_sec = 5 };
	bool ok = begin(&c, &o, i, TLS13, target.insider) && sp_tls_finish(&c) && say_hello(&c);
	if (ok) {
		(void)setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
		unsigned n = send_burst(&c, &o, i) ? read_answers(&c) : 0;
		snprintf(text, sizeof text, "%u of %d answers came to requests with KeyUpdates in between", n, BURST);
		*why = text;
		ok = n == BURST;
	}
	sp_close(&c, !ok);
	free(o.data);
	return ok;
}

/* Thousands, each of which asks for another of the daemon's: it may answer a few, and must not take them for ever. */
static bool try_flood_updates(unsigned i, const char **why)
{
	struct sp_client c;
	struct outlet o = { .cork = false };
	*why = "cannot open a good connection";
	bool ok = begin(&c, &o, i, TLS13, target.insider) && sp_tls_finish(&c) && say_hello(&c);
	if (ok) {
		*why = "2000 KeyUpdates at once were taken";
		o.cork = true;
		for (unsigned n = 0; n < 2000 && gnutls_session_key_update(c.session, n % 2 ? 0 : GNUTLS_KU_PEER) >= 0; n++)
			;
		o.cork = false;
		ok = !flush_at(&o, o.len) || sp_wait_closed(&c);
	}
	sp_close(&c, true);
	free(o.data);
	return ok;
}

static bool flood_updates(unsigned i, const char **why)
{
	return persist(try_flood_updates, i, why);
}

/* --- SHA-1 ----------------------------------------------------------------------------------------------------------------- */

static bool offer_sha1(unsigned i, const char **why)
{
	struct sp_client c;
	*why = "a client that knows no hash but SHA-1 was let in";
	bool ok = connect_from(&c, i);
	if (ok && sp_tls_begin(&c, target.insider, TLS12 ":-SIGN-ALL:+SIGN-ECDSA-SHA1:+SIGN-RSA-SHA1:%VERIFY_ALLOW_SIGN_WITH_SHA1"))
		ok = !sp_tls_finish(&c) || !say_hello(&c);
	else
		*why = "cannot connect";
	sp_close(&c, true);
	return ok;
}

const struct kind records[] = {
	{ .name = "handshake in small records", .ports = PORT_ANY, .once = cut_handshake },
	{ .name = "all in small records", .ports = PORT_ANY, .once = cut_all },
	{ .name = "KeyUpdates in a burst", .ports = PORT_RPC, .once = update_keys },
	{ .name = "flood of KeyUpdates", .ports = PORT_ANY, .once = flood_updates, .lanes = 32, .divisor = 5 },
	{ .name = "SHA-1 alone", .ports = PORT_ANY, .once = offer_sha1 },
	{ 0 },
};
