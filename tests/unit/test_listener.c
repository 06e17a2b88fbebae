// links: common_net common_x509 common_base
#include "tests/support/support.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

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

static void test_listener_limits(void **state)
{
	struct wire *w = *state;
	struct sp_client clients[3];
	gnutls_certificate_credentials_t credentials = admin_credentials(w);
	w->options.max_connections = 3;
	w->options.max_per_address = 2;
	wire_listen(w);
	const char *address = listener_address(w->listener);
	assert_true(sp_open(&clients[0], "127.21.1.1", address, credentials));
	assert_true(sp_open(&clients[1], "127.21.1.1", address, credentials));
	assert_false(sp_open(&clients[2], "127.21.1.1", address, credentials)); /* a third from one host */
	assert_true(sp_open(&clients[2], "127.21.1.2", address, credentials));
	struct sp_client fourth;
	assert_false(sp_open(&fourth, "127.21.1.3", address, credentials));
	struct listener_stats stats;
	listener_stats(w->listener, &stats);
	assert_int_equal(stats.accepted, 3);
	assert_int_equal(stats.refused, 2);
	assert_int_equal(stats.open, 3);
	sp_close(&clients[0], false);
	wire_wait_open(w, 2);
	assert_true(sp_open(&clients[0], "127.21.1.1", address, credentials));
	for (int i = 0; i < 3; i++)
		sp_close(&clients[i], false);
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
		TEST(test_listener_anonymous),
		TEST(test_listener_recheck),
		TEST(test_listener_new_credentials),
		TEST(test_listener_idle),
		TEST(test_listener_peer_never_reads),
		TEST(test_listener_frame_length),
		TEST(test_listener_peers_that_leave),
		TEST(test_listener_peers_that_stop),
		TEST(test_listener_tls12),
		TEST(test_listener_descriptors_run_out),
		TEST(test_listener_churn),
		TEST(test_listener_stop_under_way),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
