/*
 * Loads etcd as load.c loads kds-serial, and prints the same line: gRPC's frames over HTTP/2 (libnghttp2) and mutual TLS.
 *
 *   bench-etcd put|get|txn ADDRESS:PORT CERT KEY CA IN_FLIGHT SECONDS [PUTS BYTES]
 *
 * put: etcdserverpb.KV/Put of 8 bytes under a key of 8 bytes; get: a linearizable Range of one such key; txn: a KV/Txn of
 * PUTS puts of BYTES each, one operation each for `rate` and `total`. A few connections, one thread: it costs far less
 * than the server, and is not what limits it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "tests/bench/samples.h"

#define CONNECTIONS_MAX 4
#define KEYS 10000
#define KEY_BYTES 8
#define PUTS_MAX 128 /* etcd's default for a transaction */
#define VALUE_MAX 256
#define OUT_BYTES 16384
#define WARM_UP_US 1000000
#define DRAIN_US 5000000

struct connection {
	int fd;
	gnutls_session_t tls;
	nghttp2_session *http;
	uint8_t out[OUT_BYTES]; /* what TLS has not taken yet; offered again as it was */
	size_t out_len;
	const uint8_t *more; /* of nghttp2, did not fit into `out` */
	size_t more_len;
};

/* One operation under way, and what its request is. */
struct slot {
	uint64_t started_us;
	uint8_t body[5 + PUTS_MAX * (KEY_BYTES + VALUE_MAX + 16)];
	size_t len, sent;
	bool ok; /* grpc-status: 0 */
};

static const char *address, *path;
static enum { PUT, GET, TXN } operation;
static unsigned puts_each = 1, value_bytes = 8;
static struct connection connections[CONNECTIONS_MAX];
static unsigned n_connections, running, failures;
static bool stopping;

static _Noreturn void die(const char *what, const char *why)
{
	fprintf(stderr, "bench-etcd: %s: %s\n", what, why);
	exit(1);
}

/* Requests: gRPC's frame is u8 compressed, u32 length, message. */

static uint8_t *put_length(uint8_t *p, size_t len)
{
	for (; len >= 0x80; len >>= 7)
		*p++ = (uint8_t)(len | 0x80);
	*p++ = (uint8_t)len;
	return p;
}

/* bytes key = 1; RangeRequest and PutRequest begin alike. */
static uint8_t *pack_key(uint8_t *p, unsigned number)
{
	char key[16];
	snprintf(key, sizeof key, "key%05u", number % KEYS);
	*p++ = 1 << 3 | 2;
	*p++ = KEY_BYTES;
	memcpy(p, key, KEY_BYTES);
	return p + KEY_BYTES;
}

/* PutRequest: the key, and bytes value = 2. */
static uint8_t *pack_put(uint8_t *p, unsigned number)
{
	p = pack_key(p, number);
	*p++ = 2 << 3 | 2;
	p = put_length(p, value_bytes);
	memset(p, 'v', value_bytes);
	return p + value_bytes;
}

/* TxnRequest: repeated RequestOp success = 2, in it PutRequest request_put = 2. A key may stand in it once. */
static uint8_t *pack_txn(uint8_t *p, unsigned *number)
{
	uint8_t put[KEY_BYTES + VALUE_MAX + 16], head[8];
	for (unsigned i = 0; i < puts_each; i++) {
		size_t len = (size_t)(pack_put(put, (*number)++) - put);
		uint8_t *head_end = head;
		*head_end++ = 2 << 3 | 2;
		head_end = put_length(head_end, len);
		size_t head_len = (size_t)(head_end - head);
		*p++ = 2 << 3 | 2;
		p = put_length(p, head_len + len);
		memcpy(p, head, head_len);
		memcpy(p + head_len, put, len);
		p += head_len + len;
	}
	return p;
}

static void pack(struct slot *s)
{
	static unsigned number;
	uint8_t *end = s->body + 5;
	if (operation == TXN)
		end = pack_txn(end, &number);
	else
		end = operation == PUT ? pack_put(end, number++) : pack_key(end, number++);
	s->len = (size_t)(end - s->body);
	s->body[0] = 0;
	uint32_t message = htonl((uint32_t)(s->len - 5));
	memcpy(s->body + 1, &message, 4);
	s->sent = 0;
}

/* HTTP/2 */

static ssize_t read_body(nghttp2_session *http, int32_t stream, uint8_t *buf, size_t len, uint32_t *flags,
			 nghttp2_data_source *source, void *user)
{
	struct slot *s = source->ptr;
	(void)http;
	(void)stream;
	(void)user;
	size_t n = s->len - s->sent < len ? s->len - s->sent : len;
	memcpy(buf, s->body + s->sent, n);
	s->sent += n;
	if (s->sent == s->len)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return (ssize_t)n;
}

static nghttp2_nv field(const char *name, const char *value)
{
	return (nghttp2_nv){ (uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE };
}

static void ask(struct connection *c, struct slot *s)
{
	const nghttp2_nv head[] = {
		field(":method", "POST"),
		field(":scheme", "https"),
		field(":path", path),
		field(":authority", address),
		field("te", "trailers"),
		field("content-type", "application/grpc"),
	};
	nghttp2_data_provider body = { .source = { .ptr = s }, .read_callback = read_body };
	pack(s);
	s->ok = false;
	s->started_us = clock_monotonic_us();
	if (nghttp2_submit_request(c->http, NULL, head, sizeof head / sizeof *head, &body, s) < 0)
		die(path, "no stream");
}

static int on_header(nghttp2_session *http, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
		     const uint8_t *value, size_t value_len, uint8_t flags, void *user)
{
	struct slot *s = nghttp2_session_get_stream_user_data(http, frame->hd.stream_id);
	(void)flags;
	(void)user;
	if (s && name_len == 11 && memcmp(name, "grpc-status", 11) == 0)
		s->ok = value_len == 1 && *value == '0';
	else if (name_len == 12 && memcmp(name, "grpc-message", 12) == 0 && failures == 0)
		fprintf(stderr, "bench-etcd: first failure: %.*s\n", (int)value_len, (const char *)value);
	return 0;
}

static int on_close(nghttp2_session *http, int32_t stream, uint32_t error, void *user)
{
	struct slot *s = nghttp2_session_get_stream_user_data(http, stream);
	(void)error;
	if (!s)
		return 0;
	if (s->ok)
		for (unsigned i = 0; i < puts_each; i++)
			samples_add(s->started_us);
	else
		failures++;
	/* A slot whose request failed rests: a dead server must not become a busy loop. */
	if (stopping || !s->ok)
		running--;
	else
		ask(user, s);
	return 0;
}

static void start_http(struct connection *c)
{
	nghttp2_session_callbacks *callbacks;
	const nghttp2_settings_entry settings = { NGHTTP2_SETTINGS_ENABLE_PUSH, 0 };
	if (nghttp2_session_callbacks_new(&callbacks) != 0)
		die(address, "out of memory");
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
	if (nghttp2_session_client_new(&c->http, callbacks, c) != 0 ||
	    nghttp2_submit_settings(c->http, NGHTTP2_FLAG_NONE, &settings, 1) != 0)
		die(address, "out of memory");
	nghttp2_session_callbacks_del(callbacks);
}

/* Connections */

static int dial(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	char host[64];
	int port, on = 1;
	if (sscanf(address, "%63[0-9.]:%d", host, &port) != 2 || inet_pton(AF_INET, host, &to.sin_addr) != 1)
		die(address, "not IPV4:PORT");
	to.sin_port = htons((uint16_t)port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
		die(address, strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return fd;
}

static void start_connection(struct connection *c, gnutls_certificate_credentials_t credentials)
{
	const gnutls_datum_t h2 = { (unsigned char *)"h2", 2 };
	int rv;
	c->fd = dial();
	gnutls_init(&c->tls, GNUTLS_CLIENT | GNUTLS_NONBLOCK);
	gnutls_set_default_priority(c->tls);
	gnutls_credentials_set(c->tls, GNUTLS_CRD_CERTIFICATE, credentials);
	gnutls_session_set_verify_cert(c->tls, NULL, 0);
	gnutls_alpn_set_protocols(c->tls, &h2, 1, GNUTLS_ALPN_MANDATORY);
	gnutls_transport_set_int(c->tls, c->fd);
	do
		rv = gnutls_handshake(c->tls);
	while (rv == GNUTLS_E_INTERRUPTED || rv == GNUTLS_E_AGAIN);
	if (rv < 0)
		die(address, gnutls_strerror(rv));
	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	start_http(c);
}

static void connect_all(const char *cert, const char *key, const char *ca, unsigned in_flight)
{
	gnutls_certificate_credentials_t credentials;
	gnutls_certificate_allocate_credentials(&credentials);
	int rv = gnutls_certificate_set_x509_key_file(credentials, cert, key, GNUTLS_X509_FMT_PEM);
	if (rv == 0)
		rv = gnutls_certificate_set_x509_trust_file(credentials, ca, GNUTLS_X509_FMT_PEM);
	if (rv < 0)
		die(cert, gnutls_strerror(rv));
	n_connections = in_flight < CONNECTIONS_MAX ? in_flight : CONNECTIONS_MAX;
	for (unsigned i = 0; i < n_connections; i++)
		start_connection(&connections[i], credentials);
}

/* Fills c->out, in one TLS record what nghttp2 gives frame by frame. */
static void gather(struct connection *c)
{
	while (c->out_len < OUT_BYTES) {
		if (c->more_len == 0) {
			ssize_t n = nghttp2_session_mem_send(c->http, &c->more);
			if (n < 0)
				die("HTTP/2", nghttp2_strerror((int)n));
			if (n == 0)
				return;
			c->more_len = (size_t)n;
		}
		size_t n = c->more_len < OUT_BYTES - c->out_len ? c->more_len : OUT_BYTES - c->out_len;
		memcpy(c->out + c->out_len, c->more, n);
		c->out_len += n;
		c->more += n;
		c->more_len -= n;
	}
}

/* False: the socket is full. */
static bool send_all(struct connection *c)
{
	for (;;) {
		/* What TLS has begun to send must be offered again unchanged. */
		if (c->out_len == 0)
			gather(c);
		if (c->out_len == 0)
			return true;
		ssize_t n = gnutls_record_send(c->tls, c->out, c->out_len);
		if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
			return false;
		if (n < 0)
			die("send", gnutls_strerror((int)n));
		memmove(c->out, c->out + n, c->out_len - (size_t)n);
		c->out_len -= (size_t)n;
	}
}

static void receive(struct connection *c)
{
	uint8_t in[16384];
	ssize_t n;
	while ((n = gnutls_record_recv(c->tls, in, sizeof in)) > 0) {
		ssize_t taken = nghttp2_session_mem_recv(c->http, in, (size_t)n);
		if (taken < 0)
			die("HTTP/2", nghttp2_strerror((int)taken));
	}
	if (n != GNUTLS_E_AGAIN && n != GNUTLS_E_INTERRUPTED && (n == 0 || gnutls_error_is_fatal((int)n)))
		die("receive", n == 0 ? "the server closed the connection" : gnutls_strerror((int)n));
}

static void serve(int wait_ms)
{
	struct pollfd fds[CONNECTIONS_MAX];
	for (unsigned i = 0; i < n_connections; i++)
		fds[i] = (struct pollfd){
			.fd = connections[i].fd,
			.events = send_all(&connections[i]) ? POLLIN : POLLIN | POLLOUT,
		};
	if (poll(fds, n_connections, wait_ms) < 0 && errno != EINTR)
		die("poll", strerror(errno));
	for (unsigned i = 0; i < n_connections; i++)
		if (fds[i].revents & POLLIN)
			receive(&connections[i]);
}

static void serve_for(uint64_t us)
{
	uint64_t end = clock_monotonic_us() + us;
	while (running > 0 && clock_monotonic_us() < end)
		serve(10);
}

static void choose(const char *name, char **rest, int n)
{
	static const char *const names[] = { "put", "get", "txn" };
	static const char *const paths[] = { "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range", "/etcdserverpb.KV/Txn" };
	for (unsigned i = 0; i < 3; i++) {
		if (strcmp(name, names[i]) == 0) {
			operation = i;
			path = paths[i];
		}
	}
	if (!path)
		die(name, "is neither put nor get nor txn");
	if (operation != TXN)
		return;
	puts_each = n > 0 ? (unsigned)atoi(rest[0]) : 0;
	value_bytes = n > 1 ? (unsigned)atoi(rest[1]) : value_bytes;
	if (puts_each < 1 || puts_each > PUTS_MAX || value_bytes < 1 || value_bytes > VALUE_MAX)
		die(name, "1 to 128 PUTS of 1 to 256 BYTES");
}

int main(int argc, char **argv)
{
	if (argc < 8)
		die("usage", "see the source's first lines");
	unsigned in_flight = (unsigned)atoi(argv[6]);
	double seconds = atof(argv[7]);
	address = argv[2];
	choose(argv[1], argv + 8, argc - 8);
	samples_init();
	connect_all(argv[3], argv[4], argv[5], in_flight);
	struct slot *slots = calloc(in_flight, sizeof *slots);
	if (!slots)
		die("slots", "out of memory");
	running = in_flight;
	for (unsigned i = 0; i < in_flight; i++)
		ask(&connections[i % n_connections], &slots[i]);
	serve_for(WARM_UP_US);
	samples_start();
	serve_for((uint64_t)(seconds * 1e6));
	samples_stop();
	stopping = true;
	serve_for(DRAIN_US);
	free(slots);
	if (!samples_print(in_flight, failures))
		die(path, "nothing succeeded");
	return 0;
}
