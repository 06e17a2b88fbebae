/*
 * A bare GnuTLS client and server, the yardstick for common/net and common/rpc: blocking sockets, a thread a connection.
 *
 *   bench-wire echo    ADDRESS CERT KEY CA raw|rpc CONNECTIONS IN_FLIGHT SECONDS
 *   bench-wire connect ADDRESS CERT KEY CA bare|rpc THREADS COUNT
 *   bench-wire serve   ADDRESS CERT KEY CA
 *   bench-wire idle    ADDRESS CERT KEY CA CONNECTIONS     (opens them, prints "open", waits for end of input)
 *
 * `raw` sends SP frames of 200 bytes to any echoing server, `rpc` the same bytes inside Health.Echo.
 * `connect bare` counts handshakes that both ends finished; `connect rpc` adds the SP hello and one Health.Echo.
 * Prints one line of key=value pairs.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <gnutls/gnutls.h>

#include "health.pb-c.h"
#include "rpc.pb-c.h"

#define ECHO_BYTES 200
#define FRAME_MAX 512
#define READ_BYTES (64 * 1024)
#define PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.3"

static gnutls_certificate_credentials_t credentials;
static struct sockaddr_in address;

static _Noreturn void die(const char *what, const char *why)
{
	fprintf(stderr, "bench-wire: %s: %s\n", what, why);
	exit(1);
}

static void check(const char *what, int rv)
{
	if (rv < 0)
		die(what, gnutls_strerror(rv));
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void load(const char *where, const char *certificate, const char *key, const char *ca)
{
	char host[64];
	const char *colon = strrchr(where, ':');
	if (!colon || (size_t)(colon - where) >= sizeof host)
		die(where, "an address is HOST:PORT");
	snprintf(host, sizeof host, "%.*s", (int)(colon - where), where);
	address.sin_family = AF_INET;
	address.sin_port = htons((uint16_t)atoi(colon + 1));
	if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
		die(where, "not an IPv4 address");
	check("credentials", gnutls_certificate_allocate_credentials(&credentials));
	check(ca, gnutls_certificate_set_x509_trust_file(credentials, ca, GNUTLS_X509_FMT_PEM));
	check(certificate, gnutls_certificate_set_x509_key_file(credentials, certificate, key, GNUTLS_X509_FMT_PEM));
}

/* One TLS connection over a blocking socket. */
struct link {
	int fd;
	gnutls_session_t tls;
};

static void link_handshake(struct link *l, unsigned flags)
{
	int one = 1;
	setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	check("session", gnutls_init(&l->tls, flags | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS));
	check("priority", gnutls_priority_set_direct(l->tls, PRIORITY, NULL));
	check("credentials", gnutls_credentials_set(l->tls, GNUTLS_CRD_CERTIFICATE, credentials));
	gnutls_session_set_verify_cert(l->tls, NULL, 0);
	if (flags & GNUTLS_SERVER)
		gnutls_certificate_server_set_request(l->tls, GNUTLS_CERT_REQUIRE);
	gnutls_transport_set_int(l->tls, l->fd);
	int rv;
	do {
		rv = gnutls_handshake(l->tls);
	} while (rv < 0 && !gnutls_error_is_fatal(rv));
	check("handshake", rv);
}

static void link_open(struct link *l)
{
	l->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (l->fd < 0 || connect(l->fd, (struct sockaddr *)&address, sizeof address) < 0)
		die("connect", strerror(errno));
	link_handshake(l, GNUTLS_CLIENT);
}

static void link_close(struct link *l)
{
	gnutls_deinit(l->tls);
	close(l->fd);
}

static void link_send(struct link *l, const uint8_t *data, size_t len)
{
	while (len > 0) {
		ssize_t n = gnutls_record_send(l->tls, data, len);
		check("send", (int)n);
		data += n;
		len -= (size_t)n;
	}
}

static size_t link_receive(struct link *l, uint8_t *data, size_t size)
{
	ssize_t n;
	do {
		n = gnutls_record_recv(l->tls, data, size);
	} while (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED);
	check("receive", (int)n);
	if (n == 0)
		die("receive", "the server closed the connection");
	return (size_t)n;
}

static void link_receive_exactly(struct link *l, uint8_t *data, size_t len)
{
	while (len > 0) {
		size_t n = link_receive(l, data, len);
		data += n;
		len -= n;
	}
}

static void sp_hello(struct link *l)
{
	static const uint8_t req[8] = { 0, 'S', 'P', 0, 0, 0x30, 0, 0 };
	static const uint8_t rep[8] = { 0, 'S', 'P', 0, 0, 0x31, 0, 0 };
	uint8_t theirs[8];
	link_send(l, req, sizeof req);
	link_receive_exactly(l, theirs, sizeof theirs);
	if (memcmp(theirs, rep, sizeof rep) != 0)
		die("hello", "not an SP REP server");
}

/* u64 length | u32 request id | body; the id is filled in by set_id(). */
static size_t make_frame(uint8_t *frame, bool rpc)
{
	uint8_t data[ECHO_BYTES] = { 0 };
	size_t body = ECHO_BYTES;
	memset(frame, 0, FRAME_MAX);
	if (rpc) {
		Kds__V1__EchoRequest echo = KDS__V1__ECHO_REQUEST__INIT;
		echo.data = (ProtobufCBinaryData){ .data = data, .len = sizeof data };
		uint8_t payload[FRAME_MAX];
		Kds__V1__Request request = KDS__V1__REQUEST__INIT;
		request.method = "Health.Echo";
		request.payload.len = kds__v1__echo_request__pack(&echo, payload);
		request.payload.data = payload;
		body = kds__v1__request__pack(&request, frame + 12);
	}
	frame[7] = (uint8_t)((body + 4) & 0xFF);
	frame[6] = (uint8_t)((body + 4) >> 8);
	return 12 + body;
}

static void set_id(uint8_t *frame, uint32_t id)
{
	id = htonl(id | 0x80000000u);
	memcpy(frame + 8, &id, sizeof id);
}

static uint64_t be64(const uint8_t *p)
{
	uint64_t v = 0;
	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

static atomic_bool stop;
static atomic_ulong answered;

struct echo {
	bool rpc;
	unsigned in_flight;
	pthread_t thread;
};

static void *echo_main(void *arg)
{
	struct echo *e = arg;
	struct link l;
	link_open(&l);
	sp_hello(&l);
	uint8_t frame[FRAME_MAX];
	size_t len = make_frame(frame, e->rpc);
	uint8_t *out = malloc((size_t)e->in_flight * len);
	uint8_t *in = malloc(READ_BYTES);
	if (!out || !in)
		die("memory", "none left");
	uint32_t id = 0;
	size_t have = 0;
	unsigned due = e->in_flight;
	while (!atomic_load(&stop)) {
		for (unsigned i = 0; i < due; i++) {
			set_id(frame, id++);
			memcpy(out + i * len, frame, len);
		}
		link_send(&l, out, due * len);
		have += link_receive(&l, in + have, READ_BYTES - have);
		size_t off = 0;
		due = 0;
		while (have - off >= 8 && have - off - 8 >= be64(in + off)) {
			off += 8 + be64(in + off);
			due++;
		}
		memmove(in, in + off, have - off);
		have -= off;
		atomic_fetch_add(&answered, due);
	}
	free(out);
	free(in);
	link_close(&l);
	return NULL;
}

static void run_echo(bool rpc, unsigned connections, unsigned in_flight, double seconds)
{
	struct echo *all = calloc(connections, sizeof *all);
	if (!all)
		die("memory", "none left");
	for (unsigned i = 0; i < connections; i++) {
		all[i] = (struct echo){ .rpc = rpc, .in_flight = in_flight };
		if (pthread_create(&all[i].thread, NULL, echo_main, &all[i]) != 0)
			die("thread", "cannot start");
	}
	usleep(500000); /* warm up */
	unsigned long before = atomic_load(&answered);
	double start = now();
	usleep((useconds_t)(seconds * 1e6));
	double took = now() - start;
	unsigned long count = atomic_load(&answered) - before;
	atomic_store(&stop, true);
	for (unsigned i = 0; i < connections; i++)
		pthread_join(all[i].thread, NULL);
	free(all);
	printf("rate=%.0f connections=%u in_flight=%u\n", (double)count / took, connections, in_flight);
}

struct connector {
	bool rpc;
	unsigned count;
	pthread_t thread;
};

static void *connector_main(void *arg)
{
	struct connector *c = arg;
	uint8_t frame[FRAME_MAX], answer[FRAME_MAX];
	size_t len = make_frame(frame, true);
	set_id(frame, 1);
	for (unsigned i = 0; i < c->count; i++) {
		struct link l;
		link_open(&l);
		if (c->rpc) {
			sp_hello(&l);
			link_send(&l, frame, len);
			link_receive_exactly(&l, answer, 8);
			uint64_t rest = be64(answer);
			if (rest > sizeof answer)
				die("answer", "too long");
			link_receive_exactly(&l, answer, rest);
		} else {
			link_receive_exactly(&l, answer, 1); /* the server has verified us too */
		}
		link_close(&l);
	}
	return NULL;
}

static void run_connect(bool rpc, unsigned threads, unsigned count)
{
	struct connector *all = calloc(threads, sizeof *all);
	if (!all)
		die("memory", "none left");
	double start = now();
	for (unsigned i = 0; i < threads; i++) {
		all[i] = (struct connector){ .rpc = rpc, .count = count / threads };
		if (pthread_create(&all[i].thread, NULL, connector_main, &all[i]) != 0)
			die("thread", "cannot start");
	}
	for (unsigned i = 0; i < threads; i++)
		pthread_join(all[i].thread, NULL);
	free(all);
	printf("rate=%.0f threads=%u\n", (double)(count / threads * threads) / (now() - start), threads);
}

static void *serve_one(void *arg)
{
	struct link l = { .fd = (int)(intptr_t)arg };
	uint8_t byte = 1;
	link_handshake(&l, GNUTLS_SERVER);
	link_send(&l, &byte, 1);
	while (read(l.fd, &byte, 1) > 0)
		;
	link_close(&l);
	return NULL;
}

static void run_serve(void)
{
	int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 128) < 0)
		die("listen", strerror(errno));
	puts("ready");
	fflush(stdout);
	for (;;) {
		int peer = accept(fd, NULL, NULL);
		pthread_t thread;
		if (peer < 0 || pthread_create(&thread, NULL, serve_one, (void *)(intptr_t)peer) != 0)
			die("accept", strerror(errno));
		pthread_detach(thread);
	}
}

static void run_idle(unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct link l; /* ends with the process */
		link_open(&l);
		sp_hello(&l);
	}
	puts("open");
	fflush(stdout);
	while (getchar() != EOF)
		;
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (argc < 6)
		die("usage", "bench-wire echo|connect|serve|idle ADDRESS CERT KEY CA ...; see the source's first lines");
	load(argv[2], argv[3], argv[4], argv[5]);
	if (strcmp(argv[1], "echo") == 0 && argc == 10)
		run_echo(strcmp(argv[6], "rpc") == 0, (unsigned)atoi(argv[7]), (unsigned)atoi(argv[8]), atof(argv[9]));
	else if (strcmp(argv[1], "connect") == 0 && argc == 9)
		run_connect(strcmp(argv[6], "rpc") == 0, (unsigned)atoi(argv[7]), (unsigned)atoi(argv[8]));
	else if (strcmp(argv[1], "serve") == 0)
		run_serve();
	else if (strcmp(argv[1], "idle") == 0 && argc == 7)
		run_idle((unsigned)atoi(argv[6]));
	else
		die("usage", "wrong arguments; see the source's first lines");
	return 0;
}
