// links: common_net common_x509 common_base
#include "tests/support/support.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/supplemental/tls/tls.h>

#include "common/net/conn_internal.h"
#include "tests/support/wire.h"

static void close_and_wait(struct conn *c, struct wire_log *log)
{
	conn_close(c);
	wire_wait_down(log, 1);
	conn_unref(c);
	wire_log_fini(log);
}

static void test_conn_echo(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	wire_listen(w);
	wire_log_init(&log);
	struct conn *c = wire_dial(w, w->admin, &log);
	assert_string_equal(conn_peer_address(c), listener_address(w->listener));
	wire_wait_up(&log, 1);
	assert_int_equal(log.roles, PEER_SERIAL);
	wire_wait_up(&w->log, 1);
	assert_int_equal(w->log.roles, PEER_ADMIN);
	assert_string_equal(conn_identity(c)->role_name, "serial1");

	struct slice parts[] = { { "hel", 3 }, { NULL, 0 }, { "lo", 2 } };
	assert_int_equal(conn_send(c, parts, 3), STATUS_OK);
	wire_wait_frames(&log, 1);
	assert_int_equal(log.last.len, 5);
	assert_memory_equal(log.last.data, "hello", 5);
	wire_send(c, "", 0);
	wire_wait_frames(&log, 2);
	assert_int_equal(log.last.len, 0);

	conn_close(c);
	conn_close(c);
	wire_expect(&log, STATUS_OK, "");
	wire_expect(&w->log, STATUS_OK, "");
	struct slice late = { "x", 1 };
	assert_int_equal(conn_send(c, &late, 1), STATUS_UNAVAILABLE);
	conn_close(c);
	conn_unref(c);
	wire_log_fini(&log);
}

/* Sizes around those of records, reads and writes; all at once, so that frames end anywhere in a record. */
static void test_conn_frames_of_all_sizes(void **state)
{
	static const size_t sizes[] = { 0,     1,     7,     8,	    9,	   255,	  2039,	  2040, 2048,
					16375, 16376, 16377, 16384, 65528, 65536, 262144, 1 << 20 };
	enum { N = sizeof sizes / sizeof sizes[0] };
	struct wire *w = *state;
	struct wire_log log;
	wire_listen(w);
	wire_log_init(&log);
	struct conn *c = wire_dial(w, w->admin, &log);
	wire_wait_up(&log, 1);
	uint8_t *data = malloc(1 << 20);
	assert_non_null(data);
	for (size_t i = 0; i < 1 << 20; i++)
		data[i] = (uint8_t)(i * 7 + i / 251);
	size_t total = 0;
	for (int i = 0; i < N; i++) {
		wire_send(c, data, sizes[i]);
		total += sizes[i];
	}
	wire_wait_frames(&log, N);
	assert_int_equal(log.bytes, total);
	assert_int_equal(log.last.len, 1 << 20);
	assert_memory_equal(log.last.data, data, 1 << 20);
	free(data);
	close_and_wait(c, &log);
}

struct sender {
	struct conn *c;
	unsigned n;
	bool failed;
};

static void *send_many(void *arg)
{
	struct sender *s = arg;
	uint8_t data[200] = { 0 };
	struct slice part = { data, sizeof data };
	for (unsigned i = 0; i < s->n; i++)
		s->failed |= conn_send(s->c, &part, 1) != STATUS_OK;
	return NULL;
}

static void test_conn_many_senders(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	wire_listen(w);
	wire_log_init(&log);
	struct conn *c = wire_dial(w, w->admin, &log);
	wire_wait_up(&log, 1);
	pthread_t threads[3];
	struct sender senders[3];
	for (int i = 0; i < 3; i++) {
		senders[i] = (struct sender){ .c = c, .n = 2000 };
		assert_int_equal(pthread_create(&threads[i], NULL, send_many, &senders[i]), 0);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], NULL);
		assert_false(senders[i].failed);
	}
	wire_wait_frames(&log, 6000);
	assert_int_equal(log.bytes, 6000 * 200);
	close_and_wait(c, &log);
}

/* Until the callback that brought it up, which would write what is sent meanwhile, is through: it ends with a read. */
static void wait_for_callbacks(struct conn *c)
{
	for (bool idle = false; !idle; usleep(1000)) {
		pthread_mutex_lock(&c->mutex);
		idle = c->read_pending && !c->write_pending;
		pthread_mutex_unlock(&c->mutex);
	}
}

/* The answer to what another thread sends meanwhile shows that nothing held back has left. */
static void test_conn_hold(void **state)
{
	struct wire *w = *state;
	struct wire_log held_log, other_log;
	wire_listen(w);
	wire_log_init(&held_log);
	wire_log_init(&other_log);
	struct conn *held = wire_dial(w, w->admin, &held_log), *other = wire_dial(w, w->admin, &other_log);
	wire_wait_up(&held_log, 1);
	wire_wait_up(&other_log, 1);
	wait_for_callbacks(held);
	conn_hold();
	conn_hold();
	wire_send(held, "one", 3);
	conn_release();
	wire_send(held, "three", 5);
	for (unsigned i = 1; i <= 10; i++) {
		struct sender s = { .c = other, .n = 1 };
		pthread_t thread;
		assert_int_equal(pthread_create(&thread, NULL, send_many, &s), 0);
		pthread_join(thread, NULL);
		wire_wait_frames(&other_log, i);
	}
	pthread_mutex_lock(&held_log.mutex);
	unsigned early = held_log.frames;
	pthread_mutex_unlock(&held_log.mutex);
	conn_release();
	wire_wait_frames(&held_log, 2);
	assert_int_equal(held_log.bytes, 8);
	wire_send(held, "now", 3);
	wire_wait_frames(&held_log, 3);
	close_and_wait(held, &held_log);
	close_and_wait(other, &other_log);
	assert_int_equal(early, 0);
}

/* What is held back goes to many connections, or to one that is closed before. */
static void test_conn_hold_many(void **state)
{
	enum { N = 40 };
	struct wire *w = *state;
	struct wire_log logs[N];
	struct conn *conns[N];
	wire_listen(w);
	for (int i = 0; i < N; i++) {
		wire_log_init(&logs[i]);
		conns[i] = wire_dial(w, w->admin, &logs[i]);
		wire_wait_up(&logs[i], 1);
	}
	conn_hold();
	for (int i = 0; i < N; i++)
		for (int k = 0; k < 3; k++)
			wire_send(conns[i], "frame", 5);
	close_and_wait(conns[0], &logs[0]);
	conn_release();
	for (int i = 1; i < N; i++) {
		wire_wait_frames(&logs[i], 3);
		close_and_wait(conns[i], &logs[i]);
	}
}

/* What was sent before the close arrives, and in its order. */
static void test_conn_close_flushes(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	struct status st;
	w->options.self = SP_PULL;
	w->log.echo = false;
	wire_listen(w);
	wire_log_init(&log);
	struct conn_dial options = wire_dial_options(w, w->admin, &log);
	options.self = SP_PUSH;
	struct conn *c;
	assert_int_equal(conn_dial(&options, &st, &c), STATUS_OK);
	wire_wait_up(&log, 1);
	uint32_t i;
	for (i = 0; i < 3000; i++) {
		uint32_t data[64] = { i };
		wire_send(c, data, sizeof data);
	}
	close_and_wait(c, &log);
	wire_wait_down(&w->log, 1);
	assert_int_equal(w->log.frames, 3000);
	i--;
	assert_memory_equal(w->log.last.data, &i, sizeof i);
	wire_expect(&w->log, STATUS_OK, "");
}

static void test_conn_server_answers_then_closes(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	w->log.close_after_frame = true;
	wire_listen(w);
	wire_log_init(&log);
	struct conn *c = wire_dial(w, w->admin, &log);
	wire_wait_up(&log, 1);
	uint8_t data[100000] = { 0 };
	wire_send(c, data, sizeof data);
	wire_expect(&log, STATUS_OK, "closed by the peer");
	assert_int_equal(log.frames, 1);
	assert_int_equal(log.bytes, sizeof data);
	close_and_wait(c, &log);
}

static void test_conn_close_in_up(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	wire_listen(w);
	wire_log_init(&log);
	log.close_in_up = true;
	struct conn *c = wire_dial(w, w->admin, &log);
	wire_expect(&log, STATUS_OK, "");
	assert_int_equal(log.ups, 1);
	close_and_wait(c, &log);
}

static void test_conn_unref_before_up(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	wire_listen(w);
	wire_log_init(&log);
	conn_unref(wire_dial(w, w->admin, &log)); /* does not close */
	wire_wait_up(&log, 1);
	listener_stop(w->listener);
	w->listener = NULL;
	wire_expect(&log, STATUS_OK, "closed by the peer");
	wire_log_fini(&log);
}

static void test_conn_close_while_dialing(void **state)
{
	struct wire *w = *state;
	wire_listen(w);
	for (int i = 0; i < 50; i++) {
		struct wire_log log;
		wire_log_init(&log);
		struct conn *c = wire_dial(w, w->admin, &log);
		if (i % 2)
			sched_yield();
		close_and_wait(c, &log);
	}
	wire_wait_open(w, 0);
}

static void test_conn_nobody_there(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	wire_log_init(&log);
	struct conn *c = wire_dial(w, w->admin, &log);
	wire_expect(&log, STATUS_UNAVAILABLE, "127.21.0.1:1: connect: Connection refused");
	assert_int_equal(log.ups, 0);
	close_and_wait(c, &log);
}

/* Who accepts and never says a word. */
static void test_conn_silent_server(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	struct status st;
	nng_stream_listener *mute;
	nng_sockaddr bound;
	char address[32];
	assert_int_equal(nng_stream_listener_alloc(&mute, "tcp://127.21.0.2:0"), 0);
	assert_int_equal(nng_stream_listener_listen(mute), 0);
	assert_int_equal(nng_stream_listener_get_addr(mute, NNG_OPT_LOCADDR, &bound), 0);
	const uint8_t *port = (const uint8_t *)&bound.s_in.sa_port;
	snprintf(address, sizeof address, "127.21.0.2:%d", port[0] << 8 | port[1]);
	wire_log_init(&log);
	struct conn_dial options = wire_dial_options(w, w->admin, &log);
	options.address = address;
	options.limits.handshake_ms = 100;
	struct conn *c;
	assert_int_equal(conn_dial(&options, &st, &c), STATUS_OK);
	wire_expect(&log, STATUS_UNAVAILABLE, "within 100 ms");
	close_and_wait(c, &log);
	nng_stream_listener_free(mute);
}

/* The reason, then at once a reset: the system still holds the one when NNG learns of the other. */
static void test_conn_reason_ahead_of_reset(void **state)
{
	static const uint8_t revoked[] = { 21, 3, 3, 0, 2, 2, 44 }; /* a fatal alert in clear, RFC 8446 §6 */
	const struct linger reset = { .l_onoff = 1 };
	struct sockaddr_in bound = { .sin_family = AF_INET, .sin_addr = { htonl(0x7f150003) } };
	socklen_t len = sizeof bound;
	struct wire *w = *state;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&bound, len), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&bound, &len), 0);
	assert_int_equal(listen(listener, 8), 0);
	char address[32];
	snprintf(address, sizeof address, "127.21.0.3:%d", ntohs(bound.sin_port));
	for (int i = 0; i < 20; i++) {
		struct wire_log log;
		struct status st;
		wire_log_init(&log);
		struct conn_dial options = wire_dial_options(w, w->admin, &log);
		options.address = address;
		struct conn *c;
		assert_int_equal(conn_dial(&options, &st, &c), STATUS_OK);
		int fd = accept(listener, NULL, NULL);
		uint8_t some;
		assert_int_equal(recv(fd, &some, 1, 0), 1); /* of its ClientHello: it is connected */
		assert_int_equal(send(fd, revoked, sizeof revoked, MSG_NOSIGNAL), sizeof revoked);
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset), 0);
		close(fd);
		wire_expect(&log, STATUS_UNAUTHENTICATED, "the server refused our certificate: Certificate was revoked");
		close_and_wait(c, &log);
	}
	close(listener);
}

static void test_conn_bad_addresses(void **state)
{
	static const char *const bad[] = { "",	       "host",	   "host:",  ":7400", "host:0",	   "host:65536", "host:7x",
					   "::1:7400", "[::1]7400", "[]:1", "a b:1", "tcp://h:1", "h:1/x",	 "*:7400" };
	struct wire *w = *state;
	struct wire_log log;
	wire_log_init(&log);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct conn_dial options = wire_dial_options(w, w->admin, &log);
		struct conn *c = NULL;
		struct status st;
		options.address = bad[i];
		if (conn_dial(&options, &st, &c) != STATUS_INVALID_ARGUMENT)
			fail_msg("'%s' was taken", bad[i]);
		assert_null(c);
	}
	assert_int_equal(log.downs, 0);
	wire_log_fini(&log);
}

static void test_conn_names_and_v6(void **state)
{
	struct wire *w = *state;
	static const char *const hosts[] = { "[::1]:0", "localhost:0" };
	for (size_t i = 0; i < 2; i++) {
		struct wire_log log;
		struct status st;
		w->options.address = hosts[i];
		if (listener_start(&w->options, &st, &w->listener) != STATUS_OK)
			continue; /* a host without IPv6 */
		const char *bound = listener_address(w->listener);
		char address[64];
		snprintf(address, sizeof address, "%s%s", i ? "localhost" : "[::1]", strrchr(bound, ':'));
		wire_log_init(&log);
		struct conn_dial options = wire_dial_options(w, w->admin, &log);
		options.address = address;
		struct conn *c;
		assert_int_equal(conn_dial(&options, &st, &c), STATUS_OK);
		wire_wait_up(&log, 1);
		close_and_wait(c, &log);
		listener_stop(w->listener);
		w->listener = NULL;
	}
}

/* The server's reason reaches the client, though a client of TLS 1.3 is through with its handshake by then. */
static void refused_by_server(struct wire *w, const struct pki_leaf *leaf, enum status_code code, const char *why,
			      const char *told)
{
	struct wire_log log;
	unsigned before = w->log.downs;
	struct tls_credentials *credentials = NULL;
	struct status st;
	assert_int_equal(tls_credentials_load(leaf ? leaf->certificate : NULL, leaf ? leaf->key : NULL, TLS_MINIMUM_1_3, &st,
					      &credentials), STATUS_OK);
	wire_log_init(&log);
	struct conn *c = wire_dial(w, credentials, &log);
	wire_expect(&log, STATUS_UNAUTHENTICATED, told);
	wire_expect(&log, STATUS_UNAUTHENTICATED, "the server refused our certificate: ");
	assert_int_equal(log.ups, 0);
	wire_wait_down(&w->log, before + 1);
	wire_expect(&w->log, code, why);
	close_and_wait(c, &log);
	tls_credentials_unref(credentials);
}

static void test_conn_refused_by_server(void **state)
{
	struct wire *w = *state;
	trust_set_min_serial(w->trust, 1000);
	w->options.allow_roles = PEER_ADMIN | PEER_NODE;
	wire_listen(w);
	refused_by_server(w, pki_node(w->pki, "n", 999), STATUS_PERMISSION_DENIED, "min_serial 1000", "revoked");
	const char *const groups[] = { "urn:x:y", NULL };
	refused_by_server(w, pki_kds_client(w->pki, "n", groups, 2000), STATUS_PERMISSION_DENIED, "needed is admin, node",
			  "Access was denied");
	struct pki_spec stranger = { .common_name = "n", .ca = PKI_STRANGER };
	refused_by_server(w, pki_issue(w->pki, &stranger), STATUS_UNAUTHENTICATED, "does not trust", "CA is unknown");
	struct pki_spec server = { .common_name = "n", .ca = PKI_CLUSTER_CA, .serial = 1000, .usage = PKI_USAGE_SERVER };
	refused_by_server(w, pki_issue(w->pki, &server), STATUS_UNAUTHENTICATED, "this end of TLS", "not supported");
	refused_by_server(w, NULL, STATUS_UNAUTHENTICATED, "no certificate", "required");
	assert_int_equal(w->log.ups, 0);
	struct listener_stats stats;
	wire_wait_open(w, 0);
	listener_stats(w->listener, &stats);
	assert_int_equal(stats.failed, 5);
}

static void refused_by_client(struct wire *w, unsigned expect_roles, enum status_code code, const char *why)
{
	struct wire_log log;
	struct status st;
	wire_log_init(&log);
	struct conn_dial options = wire_dial_options(w, w->admin, &log);
	options.expect_roles = expect_roles;
	struct conn *c;
	unsigned before = w->log.downs;
	assert_int_equal(conn_dial(&options, &st, &c), STATUS_OK);
	wire_expect(&log, code, why);
	assert_int_equal(log.ups, 0);
	wire_wait_down(&w->log, before + 1);
	wire_expect(&w->log, STATUS_UNAUTHENTICATED, "the client refused our certificate");
	close_and_wait(c, &log);
}

static void test_conn_refused_by_client(void **state)
{
	struct wire *w = *state;
	wire_listen(w);
	refused_by_client(w, PEER_CA, STATUS_PERMISSION_DENIED, "has the role serial; needed is ca");
	const char *const removed[] = { "serial1" };
	assert_int_equal(trust_set_removed_services(w->trust, removed, 1, NULL), STATUS_OK);
	refused_by_client(w, 0, STATUS_PERMISSION_DENIED, "'serial1' was removed");
	/* A node is no server, whatever its certificate allows. */
	struct tls_credentials *node = wire_credentials(pki_node(w->pki, "n", 0));
	listener_set_credentials(w->listener, node);
	tls_credentials_unref(node);
	refused_by_client(w, 0, STATUS_UNAUTHENTICATED, "not a service's");
}

static void test_conn_other_protocol(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	w->options.self = SP_PULL;
	wire_listen(w);
	wire_log_init(&log);
	struct conn *c = wire_dial(w, w->admin, &log);
	wire_expect(&log, STATUS_UNAVAILABLE, "another protocol");
	wire_expect(&w->log, STATUS_UNAVAILABLE, "another protocol");
	assert_int_equal(log.ups, 0);
	close_and_wait(c, &log);
}

static void test_conn_frame_too_long(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	w->options.limits.max_frame = 1000;
	wire_listen(w);
	wire_log_init(&log);
	struct conn *c = wire_dial(w, w->admin, &log);
	wire_wait_up(&log, 1);
	uint8_t data[1001] = { 0 };
	wire_send(c, data, 1000);
	wire_wait_frames(&log, 1);
	wire_send(c, data, 1001);
	wire_expect(&w->log, STATUS_RESOURCE_EXHAUSTED, "a frame of 1001 bytes; at most 1000");
	close_and_wait(c, &log);
	assert_int_equal(w->log.frames, 1);
}

static void test_conn_output_is_bounded(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	struct status st;
	wire_listen(w);
	wire_log_init(&log);
	struct conn_dial options = wire_dial_options(w, w->admin, &log);
	options.limits.max_output = 4096;
	struct conn *c;
	assert_int_equal(conn_dial(&options, &st, &c), STATUS_OK);
	wire_wait_up(&log, 1);
	uint8_t data[4096] = { 0 };
	struct slice fits = { data, 4088 - 200 }, over = { data, 4089 };
	assert_int_equal(conn_send(c, &fits, 1), STATUS_OK);
	wire_wait_frames(&log, 1);
	assert_int_equal(conn_send(c, &over, 1), STATUS_RESOURCE_EXHAUSTED);
	wire_expect(&log, STATUS_RESOURCE_EXHAUSTED, "does not read");
	close_and_wait(c, &log);
}

/* NNG's own REQ over its own TLS: 1.2 where it is mbedTLS 2.28. */
static void test_conn_nng_req(void **state)
{
	struct wire *w = *state;
	const struct pki_leaf *admin = pki_admin(w->pki);
	char url[64], both[8192];
	w->log.close_after_frame = false;
	wire_listen(w);
	snprintf(url, sizeof url, "tls+tcp://%s", listener_address(w->listener));
	gnutls_datum_t certificate, key;
	assert_int_equal(gnutls_load_file(admin->certificate, &certificate), 0);
	assert_int_equal(gnutls_load_file(admin->key, &key), 0);
	struct slice ca = pki_ca_pem(w->pki, PKI_INFRASTRUCTURE);
	snprintf(both, sizeof both, "%.*s", (int)ca.len, (const char *)ca.data);

	nng_tls_config *config;
	nng_socket socket;
	nng_dialer dialer;
	assert_int_equal(nng_tls_config_alloc(&config, NNG_TLS_MODE_CLIENT), 0);
	assert_int_equal(nng_tls_config_ca_chain(config, both, NULL), 0);
	assert_int_equal(nng_tls_config_own_cert(config, (char *)certificate.data, (char *)key.data, NULL), 0);
	assert_int_equal(nng_tls_config_auth_mode(config, NNG_TLS_AUTH_MODE_REQUIRED), 0);
	assert_int_equal(nng_tls_config_server_name(config, PKI_KDS_NAME), 0);
	assert_int_equal(nng_req0_open(&socket), 0);
	assert_int_equal(nng_dialer_create(&dialer, socket, url), 0);
	assert_int_equal(nng_dialer_set_ptr(dialer, NNG_OPT_TLS_CONFIG, config), 0);
	assert_int_equal(nng_dialer_start(dialer, 0), 0);
	assert_int_equal(nng_socket_set_ms(socket, NNG_OPT_RECVTIMEO, 20000), 0);
	for (size_t len = 1; len < 100000; len = len * 3 + 1) {
		uint8_t *data = malloc(len), *answer;
		assert_non_null(data);
		memset(data, (int)len, len);
		size_t answer_len;
		assert_int_equal(nng_send(socket, data, len, 0), 0);
		assert_int_equal(nng_recv(socket, &answer, &answer_len, NNG_FLAG_ALLOC), 0);
		assert_int_equal(answer_len, len);
		assert_memory_equal(answer, data, len);
		nng_free(answer, answer_len);
		free(data);
	}
	nng_close(socket);
	nng_tls_config_free(config);
	gnutls_free(certificate.data);
	gnutls_free(key.data);
	assert_int_equal(w->log.roles, PEER_ADMIN);
	wire_wait_down(&w->log, 1);
}

/* Both ends of one connection, at rest; both struct conn of this process. */

static _Atomic(struct conn *) accepted;
static void (*noted_up)(void *arg, struct conn *c);

static void keep(void *arg, struct conn *c)
{
	atomic_store(&accepted, c);
	noted_up(arg, c);
}

static struct conn *connect_both(struct wire *w, struct wire_log *log)
{
	noted_up = w->options.handlers.up;
	w->options.handlers.up = keep;
	wire_listen(w);
	wire_log_init(log);
	struct conn *c = wire_dial(w, w->admin, log);
	wire_wait_up(log, 1);
	wire_wait_up(&w->log, 1);
	wait_for_callbacks(c);
	wait_for_callbacks(accepted);
	return c;
}

/* As if so many records had been sent and received. */
static void set_sequence(struct conn *c, uint32_t n)
{
	uint8_t bytes[8] = { 0, 0, 0, 0, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n };
	pthread_mutex_lock(&c->mutex);
	for (unsigned read = 0; read < 2; read++)
		assert_int_equal(gnutls_record_set_state(c->session, read, bytes), 0);
	pthread_mutex_unlock(&c->mutex);
}

static uint64_t records_sent(struct conn *c)
{
	uint8_t bytes[8];
	uint64_t n = 0;
	pthread_mutex_lock(&c->mutex);
	assert_int_equal(gnutls_record_get_state(c->session, 0, NULL, NULL, NULL, bytes), 0);
	pthread_mutex_unlock(&c->mutex);
	for (int i = 0; i < 8; i++)
		n = n << 8 | bytes[i];
	return n;
}

/* After 2^24 records GnuTLS changes its keys by itself: both ends, and each goes on reading. */
static void test_conn_rekey(void **state)
{
	enum { LIMIT = 1 << 24, EARLY = 20, FRAMES = 50 };
	struct wire *w = *state;
	struct wire_log log;
	struct conn *c = connect_both(w, &log);
	for (unsigned round = 0; round < 3; round++) {
		set_sequence(c, LIMIT - EARLY);
		set_sequence(accepted, LIMIT - EARLY - round); /* not always both in the same frame */
		for (unsigned i = 0; i < 2; i++) { /* what one sends the other must expect */
			struct conn *from = i ? accepted : c, *to = i ? c : accepted;
			uint8_t bytes[8];
			pthread_mutex_lock(&from->mutex);
			assert_int_equal(gnutls_record_get_state(from->session, 0, NULL, NULL, NULL, bytes), 0);
			pthread_mutex_unlock(&from->mutex);
			pthread_mutex_lock(&to->mutex);
			assert_int_equal(gnutls_record_set_state(to->session, 1, bytes), 0);
			pthread_mutex_unlock(&to->mutex);
		}
		for (unsigned i = 1; i <= FRAMES; i++) {
			wire_send(c, "0123456789", 10);
			wire_wait_frames(&log, round * FRAMES + i);
		}
		wait_for_callbacks(c);
		wait_for_callbacks(accepted);
		assert_true(records_sent(c) < FRAMES);
		assert_true(records_sent(accepted) < FRAMES);
	}
	close_and_wait(c, &log);
}

static void has_no_trace(struct conn *c, uint8_t mark)
{
	pthread_mutex_lock(&c->mutex);
	const struct buffer *buffers[] = { &c->out, &c->plain };
	unsigned found = 0;
	assert_int_equal(c->out.len + c->plain.len, 0);
	for (int i = 0; i < 2; i++) {
		for (size_t at = 0; at + 4 < buffers[i]->cap; at++)
			found += buffers[i]->data[at] == mark && memcmp(buffers[i]->data + at, buffers[i]->data + at + 1, 3) == 0;
	}
	pthread_mutex_unlock(&c->mutex);
	assert_int_equal(found, 0);
}

/* What was plain text is wiped where it stood, also in buffers that are kept for more. */
static void test_conn_leaves_no_trace(void **state)
{
	static uint8_t data[300000];
	struct wire *w = *state;
	struct wire_log log;
	struct conn *c = connect_both(w, &log);
	memset(data, 0xa5, sizeof data);
	for (unsigned i = 1; i <= 20; i++) {
		wire_send(c, data, sizeof data / i);
		wire_wait_frames(&log, i);
		wait_for_callbacks(c);
		wait_for_callbacks(accepted);
		has_no_trace(c, 0xa5);
		has_no_trace(accepted, 0xa5);
	}
	close_and_wait(c, &log);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, wire_set_up, wire_tear_down)
		TEST(test_conn_echo),
		TEST(test_conn_frames_of_all_sizes),
		TEST(test_conn_many_senders),
		TEST(test_conn_hold),
		TEST(test_conn_hold_many),
		TEST(test_conn_close_flushes),
		TEST(test_conn_server_answers_then_closes),
		TEST(test_conn_close_in_up),
		TEST(test_conn_unref_before_up),
		TEST(test_conn_close_while_dialing),
		TEST(test_conn_nobody_there),
		TEST(test_conn_silent_server),
		TEST(test_conn_reason_ahead_of_reset),
		TEST(test_conn_bad_addresses),
		TEST(test_conn_names_and_v6),
		TEST(test_conn_refused_by_server),
		TEST(test_conn_refused_by_client),
		TEST(test_conn_other_protocol),
		TEST(test_conn_frame_too_long),
		TEST(test_conn_output_is_bounded),
		TEST(test_conn_nng_req),
		TEST(test_conn_rekey),
		TEST(test_conn_leaves_no_trace),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
