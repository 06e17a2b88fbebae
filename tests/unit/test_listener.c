// links: common_net common_x509 common_base
#include "tests/support/support.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/base/tally.h"
#include "common/net/budget.h"
#include "tests/support/sp_client.h"
#include "tests/support/wire.h"

/* What a client outside of common/ presents: the administrator's certificate. */
static gnutls_certificate_credentials_t admin_credentials(struct wire *w)
{
	const struct pki_leaf *admin = pki_admin(w->pki);
	return sp_credentials(pki_ca_file(w->pki, PKI_INFRASTRUCTURE), admin->certificate, admin->key);
}

static unsigned failed_so_far(struct wire *w)
{
	struct listener_stats stats;
	listener_stats(w->listener, &stats);
	return (unsigned)stats.failed;
}

static void pause_ms(long ms)
{
	const struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
	nanosleep(&t, NULL);
}

static void must_answer(struct wire *w)
{
	struct wire_log log;
	wire_log_init(&log);
	struct conn *c = wire_dial(w, w->admin, &log);
	wire_wait_up(&log, 1);
	wire_send(c, "ping", 4);
	wire_wait_frames(&log, 1);
	conn_close(c);
	wire_wait_down(&log, 1);
	conn_unref(c);
	wire_log_fini(&log);
}

static void test_listener_address_in_use(void **state)
{
	struct wire *w = *state;
	struct listener *second = NULL;
	struct status st;
	wire_listen(w);
	struct listener_options options = w->options;
	options.address = listener_address(w->listener);
	assert_int_equal(listener_start(&options, &st, &second), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "in use"));
	options.address = "192.0.2.1:7400"; /* RFC 5737: nobody's */
	assert_int_equal(listener_start(&options, &st, &second), STATUS_FAILED_PRECONDITION);
	options.address = "nonsense";
	assert_int_equal(listener_start(&options, &st, &second), STATUS_INVALID_ARGUMENT);
	assert_null(second);
}

static gnutls_certificate_credentials_t node_credentials(struct wire *w, const char *name)
{
	const struct pki_leaf *node = pki_node(w->pki, name, 0);
	return sp_credentials(pki_ca_file(w->pki, PKI_INFRASTRUCTURE), node->certificate, node->key);
}

static struct listener_stats stats_of(struct wire *w)
{
	struct listener_stats stats;
	listener_stats(w->listener, &stats);
	return stats;
}

/* So many connections an identity; others, and the administrator, have their own. */
static void test_listener_limits(void **state)
{
	struct wire *w = *state;
	struct sp_client clients[4], refused;
	gnutls_certificate_credentials_t admin = admin_credentials(w);
	gnutls_certificate_credentials_t n1 = node_credentials(w, "n1"), n2 = node_credentials(w, "n2");
	w->options.slots = (struct slot_limits){ .max_connections = 4, .max_per_node = 2 };
	wire_listen(w);
	const char *address = listener_address(w->listener);
	uint64_t identity = tally_sum(TALLY_CONNECTIONS_IDENTITY), full = tally_sum(TALLY_CONNECTIONS_FULL);
	assert_true(sp_open(&clients[0], "127.21.1.1", address, n1));
	assert_true(sp_open(&clients[1], "127.21.1.2", address, n1));
	assert_false(sp_open(&refused, "127.21.1.3", address, n1)); /* a third of one node */
	assert_true(sp_open(&clients[2], "127.21.1.1", address, n2));
	assert_false(sp_open(&refused, "127.21.1.1", address, n2)); /* a quarter is not for nodes */
	assert_true(sp_open(&clients[3], "127.21.1.1", address, admin));
	assert_false(sp_open(&refused, "127.21.1.1", address, admin)); /* no more at all */
	assert_int_equal(stats_of(w).refused, 3);
	assert_int_equal(tally_sum(TALLY_CONNECTIONS_IDENTITY) - identity, 1);
	assert_int_equal(tally_sum(TALLY_CONNECTIONS_FULL) - full, 2);
	wire_wait_open(w, 4);
	sp_close(&clients[0], false);
	wire_wait_open(w, 3);
	assert_true(sp_open(&clients[0], "127.21.1.1", address, n1));
	for (int i = 0; i < 4; i++)
		sp_close(&clients[i], false);
	wire_wait_open(w, 0);
	gnutls_certificate_free_credentials(n1);
	gnutls_certificate_free_credentials(n2);
	gnutls_certificate_free_credentials(admin);
}

/* Its certificate is good, so it is told that there is no room: it may come back. */
static void test_listener_limit_is_told(void **state)
{
	struct wire *w = *state;
	struct wire_log first, second;
	w->options.slots.max_per_service = 1;
	wire_listen(w);
	wire_log_init(&first);
	wire_log_init(&second);
	struct conn *a = wire_dial(w, w->admin, &first);
	wire_wait_up(&first, 1);
	struct conn *b = wire_dial(w, w->admin, &second);
	wire_expect(&second, STATUS_UNAVAILABLE, "no room for another connection");
	assert_int_equal(second.ups, 0);
	conn_close(a);
	wire_wait_down(&first, 1);
	conn_unref(a);
	conn_unref(b);
	wire_log_fini(&first);
	wire_log_fini(&second);
}

struct silent_flood {
	const char *address;
	atomic_bool stop;
	unsigned opened;
};

/* As fast as it can, and from the honest peer's own address: connects, says nothing. */
static void *flood_silently(void *arg)
{
	struct silent_flood *f = arg;
	struct sp_client held[64];
	for (; !atomic_load(&f->stop); f->opened++) {
		struct sp_client *c = &held[f->opened % 64];
		if (f->opened >= 64)
			sp_close(c, true);
		if (!sp_connect(c, "127.21.1.1", f->address))
			c->fd = -1;
	}
	for (unsigned i = 0; i < 64 && i < f->opened; i++)
		sp_close(&held[i], true);
	return NULL;
}

/* Connections that say nothing, however many, leave whoever speaks the time for its handshake, also a slow one. */
static void test_listener_silent_flood(void **state)
{
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = admin_credentials(w);
	w->options.slots = (struct slot_limits){ .max_strangers = 128, .max_strangers_address = 64 };
	wire_listen(w);
	uint64_t dropped = tally_sum(TALLY_UNAUTHENTICATED_DROPPED);
	/* The fault as it was seen: as many as there are slots, held. */
	struct sp_client held[200], c;
	for (int i = 0; i < 200; i++)
		assert_true(sp_connect(&held[i], "127.21.1.1", listener_address(w->listener)));
	assert_true(sp_open(&c, "127.21.1.1", listener_address(w->listener), credentials));
	sp_close(&c, false);
	assert_true(stats_of(w).unauthenticated <= 64);
	for (int i = 0; i < 200; i++)
		sp_close(&held[i], true);
	/* And a stream of them: now the place is a matter of luck, and it is tried again. */
	struct silent_flood flood = { .address = listener_address(w->listener) };
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, flood_silently, &flood), 0);
	unsigned served = 0;
	for (int i = 0; i < 200 && served < 20; i++) {
		served += sp_open(&c, "127.21.1.1", flood.address, credentials);
		sp_close(&c, false);
	}
	assert_int_equal(served, 20);
	atomic_store(&flood.stop, true);
	pthread_join(thread, NULL);
	assert_true(tally_sum(TALLY_UNAUTHENTICATED_DROPPED) > dropped);
	assert_true(stats_of(w).displaced > 0);
	wire_wait_open(w, 0);
	gnutls_certificate_free_credentials(credentials);
}

static void test_listener_anonymous(void **state)
{
	struct wire *w = *state;
	struct status st;
	w->options.anonymous = true;
	wire_listen(w);
	struct tls_credentials *none;
	assert_int_equal(tls_credentials_load(NULL, NULL, TLS_MINIMUM_1_3, &st, &none), STATUS_OK);
	struct wire_log log;
	wire_log_init(&log);
	struct conn *c = wire_dial(w, none, &log);
	wire_wait_up(&log, 1);
	wire_wait_up(&w->log, 1);
	assert_true(w->log.anonymous);
	conn_close(c);
	wire_wait_down(&log, 1);
	conn_unref(c);
	wire_log_fini(&log);
	/* A bad certificate is worse than none. */
	struct pki_spec stranger = { .common_name = "n", .ca = PKI_STRANGER };
	struct tls_credentials *bad = wire_credentials(pki_issue(w->pki, &stranger));
	wire_log_init(&log);
	c = wire_dial(w, bad, &log);
	wire_expect(&log, STATUS_UNAUTHENTICATED, "refused our certificate");
	conn_unref(c);
	wire_log_fini(&log);
	/* A good one is taken. */
	must_answer(w);
	assert_false(w->log.anonymous);
	tls_credentials_unref(bad);
	tls_credentials_unref(none);
}

static void test_listener_recheck(void **state)
{
	struct wire *w = *state;
	struct wire_log node_log, admin_log;
	wire_listen(w);
	wire_log_init(&node_log);
	wire_log_init(&admin_log);
	struct tls_credentials *node = wire_credentials(pki_node(w->pki, "n", 5));
	struct conn *of_node = wire_dial(w, node, &node_log), *of_admin = wire_dial(w, w->admin, &admin_log);
	wire_wait_up(&node_log, 1);
	wire_wait_up(&admin_log, 1);
	wire_wait_up(&w->log, 2);
	listener_recheck(w->listener);
	trust_set_min_serial(w->trust, 6);
	listener_recheck(w->listener);
	wire_expect(&node_log, STATUS_UNAUTHENTICATED, "the server refused our certificate: Certificate was revoked");
	wire_wait_down(&w->log, 1);
	wire_expect(&w->log, STATUS_PERMISSION_DENIED, "min_serial 6");
	wire_send(of_admin, "still", 5);
	wire_wait_frames(&admin_log, 1);
	conn_close(of_admin);
	wire_wait_down(&admin_log, 1);
	conn_unref(of_admin);
	conn_unref(of_node);
	tls_credentials_unref(node);
	wire_log_fini(&node_log);
	wire_log_fini(&admin_log);
}

static void test_listener_new_credentials(void **state)
{
	struct wire *w = *state;
	struct wire_log before, after;
	struct status st;
	wire_listen(w);
	wire_log_init(&before);
	wire_log_init(&after);
	struct conn *first = wire_dial(w, w->admin, &before), *second;
	wire_wait_up(&before, 1);
	struct tls_credentials *ca = wire_credentials(pki_service(w->pki, "ca", "ca1"));
	listener_set_credentials(w->listener, ca);
	tls_credentials_unref(ca);
	struct conn_dial options = wire_dial_options(w, w->admin, &after);
	options.expect_roles = PEER_CA;
	assert_int_equal(conn_dial(&options, &st, &second), STATUS_OK);
	wire_wait_up(&after, 1);
	wire_send(first, "x", 1);
	wire_wait_frames(&before, 1);
	listener_stop(w->listener);
	w->listener = NULL;
	wire_expect(&before, STATUS_OK, "closed by the peer");
	wire_expect(&after, STATUS_OK, "closed by the peer");
	conn_unref(first);
	conn_unref(second);
	wire_log_fini(&before);
	wire_log_fini(&after);
}

static void test_listener_idle(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	w->options.limits.idle_ms = 300;
	wire_listen(w);
	wire_log_init(&log);
	struct conn *c = wire_dial(w, w->admin, &log);
	wire_wait_up(&log, 1);
	for (int i = 0; i < 6; i++) {
		pause_ms(80);
		struct slice part = { "x", 1 };
		if (conn_send(c, &part, 1) != STATUS_OK)
			break; /* a very slow machine */
	}
	wire_expect(&w->log, STATUS_OK, "idle for 300 ms");
	wire_expect(&log, STATUS_OK, "closed by the peer");
	conn_unref(c);
	wire_log_fini(&log);
}

/* Work in hand is not idleness, and its end begins a new span. */
static void test_listener_busy_is_not_idle(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	w->options.limits.idle_ms = 200;
	wire_listen(w);
	wire_log_init(&log);
	struct conn *c = wire_dial(w, w->admin, &log);
	wire_wait_up(&log, 1);
	wire_wait_up(&w->log, 1);
	struct conn *theirs = conn_ref(w->log.conn);
	conn_set_busy(theirs, 1);
	pause_ms(1000);
	assert_int_equal(wire_downs(&log), 0);
	uint64_t idle = tally_sum(TALLY_IDLE);
	conn_set_busy(theirs, -1);
	wire_expect(&w->log, STATUS_OK, "idle for 200 ms");
	assert_int_equal(tally_sum(TALLY_IDLE) - idle, 1);
	wire_wait_down(&log, 1);
	conn_unref(theirs);
	conn_unref(c);
	wire_log_fini(&log);
}

/* Byte after byte of a frame that never ends: progress does not count. */
static void test_listener_slow_frame(void **state)
{
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = admin_credentials(w);
	struct sp_client c;
	w->options.limits.frame_ms = 2000;
	wire_listen(w);
	uint64_t slow = tally_sum(TALLY_FRAME_SLOW);
	assert_true(sp_open(&c, NULL, listener_address(w->listener), credentials));
	static const uint8_t head[8] = { [6] = 0x40 };
	assert_true(sp_write(&c, head, sizeof head));
	for (int i = 0; i < 1000 && wire_downs(&w->log) == 0 && sp_write(&c, "x", 1); i++)
		pause_ms(20);
	wire_expect(&w->log, STATUS_UNAVAILABLE, "is not complete");
	assert_int_equal(tally_sum(TALLY_FRAME_SLOW) - slow, 1);
	sp_close(&c, false);
	/* Frames that end in time go on for longer than that. */
	assert_true(sp_open(&c, NULL, listener_address(w->listener), credentials));
	for (int i = 0; i < 120; i++) {
		uint8_t answer[64];
		static const uint8_t half[8] = { [7] = 8 };
		assert_true(sp_write(&c, half, sizeof half));
		pause_ms(20);
		assert_true(sp_write(&c, "\x80\0\0\1abcd", 8));
		assert_true(sp_read(&c, answer, 16));
	}
	sp_close(&c, false);
	wire_wait_open(w, 0);
	gnutls_certificate_free_credentials(credentials);
}

/* Frames begun on many connections of one node: it stops at its share, and another node's request of the same size is served. */
static void test_listener_memory(void **state)
{
	enum { N = 40 };
	struct wire *w = *state;
	struct sp_client clients[N], other;
	gnutls_certificate_credentials_t n1 = node_credentials(w, "n1"), n2 = node_credentials(w, "n2");
	const size_t budget = 16 << 20, most = 900 << 10;
	budget_set_limit(budget);
	wire_listen(w);
	uint64_t refused = tally_sum(TALLY_MEMORY_FULL);
	uint8_t *data = calloc(1, most), head[8] = { [5] = 0x0f };
	assert_non_null(data);
	for (int i = 0; i < N; i++) {
		assert_true(sp_open(&clients[i], NULL, listener_address(w->listener), n1));
		(void)(sp_write(&clients[i], head, sizeof head) && sp_write(&clients[i], data, most)); /* some are cut off */
	}
	for (int i = 0; i < 1000 && tally_sum(TALLY_MEMORY_FULL) == refused; i++)
		pause_ms(10);
	assert_true(tally_sum(TALLY_MEMORY_FULL) > refused);
	assert_true(budget_used() < budget * 3 / 4);
	uint8_t *answer = malloc(most + 64);
	assert_non_null(answer);
	size_t len;
	assert_true(sp_open(&other, NULL, listener_address(w->listener), n2));
	assert_true(sp_request(&other, data, most, answer, most + 64, &len));
	assert_int_equal(len, most);
	sp_close(&other, false);
	for (int i = 0; i < N; i++)
		sp_close(&clients[i], true);
	wire_wait_open(w, 0);
	assert_int_equal(budget_used(), 0);
	budget_set_limit(BUDGET_DEFAULT);
	free(answer);
	free(data);
	gnutls_certificate_free_credentials(n1);
	gnutls_certificate_free_credentials(n2);
}

/* What a burst needed is given back, though the connection stays. */
static void test_listener_idle_connections_keep_no_buffers(void **state)
{
	struct wire *w = *state;
	struct wire_log log;
	wire_listen(w);
	wire_log_init(&log);
	struct conn *c = wire_dial(w, w->admin, &log);
	wire_wait_up(&log, 1);
	uint8_t *data = calloc(1, 1 << 20);
	assert_non_null(data);
	for (unsigned i = 1; i <= 3; i++) {
		wire_send(c, data, 1 << 20);
		wire_wait_frames(&log, i);
	}
	for (int i = 0; i < 1500 && budget_used() > 256 << 10; i++)
		pause_ms(10);
	assert_true(budget_used() <= 256 << 10);
	wire_send(c, "still", 5);
	wire_wait_frames(&log, 4);
	conn_close(c);
	wire_wait_down(&log, 1);
	conn_unref(c);
	wire_log_fini(&log);
	free(data);
}

/* Reads a little now and then: each byte is progress, and would have kept the answers in our memory for hours. */
static void test_listener_peer_reads_slowly(void **state)
{
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = admin_credentials(w);
	struct sp_client c;
	w->options.limits.write_ms = 500;
	wire_listen(w);
	assert_true(sp_connect(&c, NULL, listener_address(w->listener)));
	const int small = 4096;
	assert_int_equal(setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
	assert_true(sp_handshake(&c, credentials) && sp_hello(&c));
	const struct timeval patience = { .tv_usec = 100000 };
	assert_int_equal(setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience), 0);
	uint8_t *data = calloc(1, 65536), drop[1024];
	assert_non_null(data);
	while (sp_send(&c, data, 65536))
		;
	uint64_t unread = tally_sum(TALLY_NOT_READING);
	for (int i = 0; i < 1000 && wire_downs(&w->log) == 0; i++) {
		(void)recv(c.fd, drop, sizeof drop, MSG_DONTWAIT);
		pause_ms(20);
	}
	wire_expect(&w->log, STATUS_UNAVAILABLE, ""); /* the system may notice first */
	assert_int_equal(tally_sum(TALLY_NOT_READING) - unread, 1);
	sp_close(&c, true);
	wire_wait_open(w, 0);
	free(data);
	gnutls_certificate_free_credentials(credentials);
}

/* An answer that the system took, and that nobody reads: our buffers are empty, nothing is left to do, and still it goes. */
static void test_listener_answer_never_read(void **state)
{
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = admin_credentials(w);
	struct sp_client c;
	w->options.limits.write_ms = 500;
	wire_listen(w);
	assert_true(sp_connect(&c, NULL, listener_address(w->listener)));
	const int small = 4096;
	assert_int_equal(setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
	assert_true(sp_handshake(&c, credentials) && sp_hello(&c));
	uint64_t unread = tally_sum(TALLY_NOT_READING);
	uint8_t data[30000] = { 0 };
	for (int i = 0; i < 6; i++) /* more than the peer's window of 64 KiB */
		assert_true(sp_send(&c, data, sizeof data));
	wire_expect(&w->log, STATUS_UNAVAILABLE, "the connection broke");
	assert_int_equal(tally_sum(TALLY_NOT_READING) - unread, 1);
	sp_close(&c, true);
	wire_wait_open(w, 0);
	gnutls_certificate_free_credentials(credentials);
	must_answer(w);
}

/* Requests without end and never a look at the answers: memory is bounded, and so is the time. */
static void test_listener_peer_never_reads(void **state)
{
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = admin_credentials(w);
	struct sp_client c;
	w->options.limits.write_ms = 300;
	wire_listen(w);
	assert_true(sp_open(&c, NULL, listener_address(w->listener), credentials));
	uint8_t *data = calloc(1, 65536);
	assert_non_null(data);
	/* Both sides' socket buffers fill, then the server stops reading, then its write times out. */
	while (sp_send(&c, data, 65536))
		;
	wire_expect(&w->log, STATUS_UNAVAILABLE, "has not read for 300 ms");
	sp_close(&c, true);
	wire_wait_open(w, 0);
	free(data);
	gnutls_certificate_free_credentials(credentials);
	must_answer(w);
}

static void test_listener_frame_length(void **state)
{
	static const uint8_t huge[8] = { 0x80 }, all[8] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = admin_credentials(w);
	wire_listen(w);
	for (unsigned i = 0; i < 2; i++) {
		struct sp_client c;
		assert_true(sp_open(&c, NULL, listener_address(w->listener), credentials));
		assert_true(sp_write(&c, i ? all : huge, 8));
		assert_true(sp_wait_closed(&c));
		sp_close(&c, false);
		wire_wait_down(&w->log, i + 1);
		wire_expect(&w->log, STATUS_RESOURCE_EXHAUSTED, "a frame of");
	}
	wire_wait_open(w, 0);
	assert_int_equal(w->log.frames, 0);
	gnutls_certificate_free_credentials(credentials);
}

/* How far a client gets before it stops or goes away. */
enum stage {
	STAGE_CONNECTED,
	STAGE_GARBAGE,
	STAGE_HALF_HELLO,
	STAGE_TLS,
	STAGE_HALF_SP_HELLO,
	STAGE_SP,
	STAGE_HALF_FRAME,
	STAGES,
};

static void go_to(struct sp_client *c, enum stage stage, const char *address,
		  gnutls_certificate_credentials_t credentials)
{
	static const uint8_t record[] = { 0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3 }, hello[4] = { 0, 'S', 'P', 0 };
	static const uint8_t frame[20] = { [6] = 1 };
	assert_true(sp_connect(c, NULL, address));
	if (stage == STAGE_GARBAGE)
		assert_true(sp_write(c, "GET / HTTP/1.1\r\n\r\n", 18));
	if (stage == STAGE_HALF_HELLO)
		assert_true(sp_write(c, record, sizeof record)); /* the head of a ClientHello that never goes on */
	if (stage >= STAGE_TLS)
		assert_true(sp_handshake(c, credentials));
	if (stage == STAGE_HALF_SP_HELLO)
		assert_true(sp_write(c, hello, sizeof hello));
	if (stage >= STAGE_SP)
		assert_true(sp_hello(c));
	if (stage == STAGE_HALF_FRAME)
		assert_true(sp_write(c, frame, sizeof frame)); /* 256 bytes promised, 12 sent */
}

/* Ends: by FIN, by reset, by a half-close and then a reset (which kills NNG's own listener). */
static void test_listener_peers_that_leave(void **state)
{
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = admin_credentials(w);
	wire_listen(w);
	const char *address = listener_address(w->listener);
	for (int end = 0; end < 3; end++) {
		for (enum stage stage = 0; stage < STAGES; stage++) {
			struct sp_client c;
			go_to(&c, stage, address, credentials);
			if (end == 2)
				assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
			sp_close(&c, end > 0);
		}
	}
	wire_wait_open(w, 0);
	assert_int_equal(w->log.frames, 0);
	must_answer(w);
	gnutls_certificate_free_credentials(credentials);
}

/* All stay, and say nothing more: who is not through with the handshake is put out. */
static void test_listener_peers_that_stop(void **state)
{
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = admin_credentials(w);
	struct sp_client clients[STAGE_SP];
	w->options.limits.handshake_ms = 1000;
	wire_listen(w);
	for (enum stage stage = 0; stage < STAGE_SP; stage++) {
		go_to(&clients[stage], stage, listener_address(w->listener), credentials);
		assert_true(sp_wait_closed(&clients[stage]));
	}
	wire_wait_open(w, 0);
	assert_int_equal(failed_so_far(w), STAGE_SP);
	for (enum stage stage = 0; stage < STAGE_SP; stage++)
		sp_close(&clients[stage], false);
	gnutls_certificate_free_credentials(credentials);
}

/* TLS 1.2 is spoken, its renegotiation is not. */
static void test_listener_tls12(void **state)
{
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = admin_credentials(w);
	wire_listen(w);
	static const char *const priorities[] = { "NORMAL:-VERS-ALL:+VERS-TLS1.2",
						  "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-CBC",
						  "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+DHE-RSA:+RSA",
						  "NORMAL:-VERS-ALL:+VERS-TLS1.2:%NO_SESSION_HASH",
						  "NORMAL:-VERS-ALL:+VERS-TLS1.1" };
	for (size_t i = 0; i < sizeof priorities / sizeof priorities[0]; i++) {
		struct sp_client c;
		assert_true(sp_connect(&c, NULL, listener_address(w->listener)));
		assert_int_equal(gnutls_init(&c.session, GNUTLS_CLIENT), 0);
		assert_int_equal(gnutls_priority_set_direct(c.session, priorities[i], NULL), 0);
		assert_int_equal(gnutls_credentials_set(c.session, GNUTLS_CRD_CERTIFICATE, credentials), 0);
		gnutls_transport_set_int(c.session, c.fd);
		int rv = gnutls_handshake(c.session);
		if (i == 0) {
			assert_int_equal(rv, 0);
			assert_true(sp_hello(&c));
			wire_wait_up(&w->log, 1);
			do
				rv = gnutls_handshake(c.session); /* again */
			while (rv == GNUTLS_E_GOT_APPLICATION_DATA || rv == GNUTLS_E_WARNING_ALERT_RECEIVED);
			assert_true(rv < 0);
		} else if (rv == 0) {
			assert_false(sp_hello(&c));
		}
		assert_true(sp_wait_closed(&c));
		sp_close(&c, false);
		wire_wait_open(w, 0);
	}
	assert_int_equal(w->log.ups, 1);
	gnutls_certificate_free_credentials(credentials);
	must_answer(w);
}

/* Out of descriptors: new peers wait, and are served when there are some again. */
static void test_listener_descriptors_run_out(void **state)
{
	struct wire *w = *state;
	struct rlimit before, low;
	struct sp_client c;
	gnutls_certificate_credentials_t credentials = admin_credentials(w);
	wire_listen(w);
	must_answer(w);
	wire_wait_open(w, 0);
	assert_true(sp_connect(&c, NULL, listener_address(w->listener)));
	pause_ms(50); /* lets the server have its end before there is none */
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	struct sp_client second = { .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) };
	int spare = dup(second.fd);
	assert_true(spare >= 0);
	low = before;
	low.rlim_cur = (rlim_t)spare;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	close(second.fd);
	/* One descriptor below the limit is free: the client's own end takes it, the server finds none. */
	bool connected = sp_connect(&second, NULL, listener_address(w->listener));
	pause_ms(300);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	close(spare);
	if (connected) {
		assert_true(sp_handshake(&second, credentials));
		assert_true(sp_hello(&second));
		sp_close(&second, false);
	}
	sp_close(&c, false);
	must_answer(w);
	gnutls_certificate_free_credentials(credentials);
}

/* Until it is killed: many connections under way, none of which is waited for. */
static void connect_and_leave(const struct sockaddr_in *to)
{
	enum { N = 128 };
	const struct linger reset = { .l_onoff = 1 };
	int fds[N] = { 0 };
	for (unsigned i = 0;; i = (i + 1) % N) {
		if (fds[i] > 0) {
			(void)setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
			close(fds[i]);
		}
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)connect(fds[i], (const struct sockaddr *)to, sizeof *to);
	}
}

static unsigned open_descriptors(void)
{
	unsigned n = 0;
	DIR *dir = opendir("/proc/self/fd");
	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Connections that come and go faster than NNG gives their descriptors back: they take no more than those that stay. */
static void test_listener_descriptors_of_a_flood(void **state)
{
	enum { PLACES = 32, CHILDREN = 4, SPARE = 256 + 32 };
	struct wire *w = *state;
	pid_t children[CHILDREN];
	unsigned most = 0;
	w->options.slots = (struct slot_limits){ .max_connections = PLACES / 2, .max_strangers = PLACES / 2 };
	wire_listen(w);
	struct sockaddr_in to = { .sin_family = AF_INET };
	to.sin_port = htons((uint16_t)atoi(strchr(listener_address(w->listener), ':') + 1));
	assert_int_equal(inet_pton(AF_INET, "127.21.0.1", &to.sin_addr), 1);
	for (int i = 0; i < CHILDREN; i++) {
		children[i] = fork();
		assert_true(children[i] >= 0);
		if (children[i] == 0)
			connect_and_leave(&to);
	}
	for (int i = 0; i < 300; i++) {
		unsigned n = open_descriptors();
		most = n > most ? n : most;
		pause_ms(10);
	}
	for (int i = 0; i < CHILDREN; i++) {
		kill(children[i], SIGKILL);
		assert_int_equal(waitpid(children[i], NULL, 0), children[i]);
	}
	assert_in_range(most, 1, PLACES + SPARE);
	wire_wait_open(w, 0);
	must_answer(w);
}

struct churn {
	struct wire *w;
	unsigned seed;
};

static void *connect_again_and_again(void *arg)
{
	struct churn *churn = arg;
	for (int i = 0; i < 40; i++) {
		struct wire_log log;
		wire_log_init(&log);
		struct conn *c = wire_dial(churn->w, churn->w->admin, &log);
		int what = rand_r(&churn->seed) % 4;
		if (what > 0)
			wire_wait_up(&log, 1);
		struct slice part = { "churn", 5 };
		/* May fail when the server closed first: that is the point. */
		enum status_code rc = what > 1 ? conn_send(c, &part, 1) : STATUS_OK;
		if (what > 2 && rc == STATUS_OK)
			wire_wait_frames(&log, 1);
		conn_close(c);
		wire_wait_down(&log, 1);
		conn_unref(c);
		wire_log_fini(&log);
	}
	return NULL;
}

static void test_listener_churn(void **state)
{
	struct wire *w = *state;
	pthread_t threads[4];
	struct churn churns[4];
	wire_listen(w);
	for (unsigned i = 0; i < 4; i++) {
		churns[i] = (struct churn){ .w = w, .seed = i };
		assert_int_equal(pthread_create(&threads[i], NULL, connect_again_and_again, &churns[i]), 0);
	}
	for (int i = 0; i < 50; i++) {
		listener_recheck(w->listener);
		listener_set_credentials(w->listener, w->server);
		pause_ms(2);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	wire_wait_open(w, 0);
	must_answer(w);
}

/* All of a cluster's clients come back at once, from behind one address: they do not displace each other for long. */
static void test_listener_herd(void **state)
{
	enum { N = 400 };
	struct wire *w = *state;
	struct wire_log *logs = calloc(N, sizeof *logs);
	struct conn **clients = calloc(N, sizeof *clients);
	assert_true(logs && clients);
	wire_listen(w);
	for (unsigned i = 0; i < N; i++) {
		wire_log_init(&logs[i]);
		clients[i] = wire_dial(w, w->admin, &logs[i]);
	}
	/* Whoever had to go tries again, as clients do. */
	unsigned again = 0;
	for (unsigned i = 0; i < N; i++) {
		for (int try = 0; try < 20000 && !wire_ups(&logs[i]); try++) {
			if (wire_downs(&logs[i])) {
				conn_unref(clients[i]);
				wire_log_fini(&logs[i]);
				wire_log_init(&logs[i]);
				clients[i] = wire_dial(w, w->admin, &logs[i]);
				again++;
			}
			pause_ms(1);
		}
		assert_int_equal(wire_ups(&logs[i]), 1);
	}
	assert_true(again < N);
	for (unsigned i = 0; i < N; i++)
		conn_close(clients[i]);
	for (unsigned i = 0; i < N; i++) {
		wire_wait_down(&logs[i], 1);
		conn_unref(clients[i]);
		wire_log_fini(&logs[i]);
	}
	free(clients);
	free(logs);
}

/* Stopped while peers are at all stages. */
static void test_listener_stop_under_way(void **state)
{
	struct wire *w = *state;
	gnutls_certificate_credentials_t credentials = admin_credentials(w);
	struct sp_client clients[STAGES];
	wire_listen(w);
	for (enum stage stage = 0; stage < STAGES; stage++)
		go_to(&clients[stage], stage, listener_address(w->listener), credentials);
	listener_stop(w->listener);
	w->listener = NULL;
	for (enum stage stage = 0; stage < STAGES; stage++) {
		assert_true(sp_wait_closed(&clients[stage]));
		sp_close(&clients[stage], false);
	}
	assert_true(w->log.ups <= w->log.downs);
	gnutls_certificate_free_credentials(credentials);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, wire_set_up, wire_tear_down)
		TEST(test_listener_address_in_use),
		TEST(test_listener_limits),
		TEST(test_listener_limit_is_told),
		TEST(test_listener_silent_flood),
		TEST(test_listener_anonymous),
		TEST(test_listener_recheck),
		TEST(test_listener_new_credentials),
		TEST(test_listener_idle),
		TEST(test_listener_busy_is_not_idle),
		TEST(test_listener_slow_frame),
		TEST(test_listener_memory),
		TEST(test_listener_idle_connections_keep_no_buffers),
		TEST(test_listener_peer_reads_slowly),
		TEST(test_listener_answer_never_read),
		TEST(test_listener_peer_never_reads),
		TEST(test_listener_frame_length),
		TEST(test_listener_peers_that_leave),
		TEST(test_listener_peers_that_stop),
		TEST(test_listener_tls12),
		TEST(test_listener_descriptors_run_out),
		TEST(test_listener_descriptors_of_a_flood),
		TEST(test_listener_churn),
		TEST(test_listener_herd),
		TEST(test_listener_stop_under_way),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
