// links: common_daemon
#include "tests/support/support.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/tally.h"
#include "common/daemon/daemon.h"
#include "common/rpc/channel.h"
#include "health.pb-c.h"
#include "tests/support/pki.h"
#include "tests/support/sp_client.h"

struct fixture {
	struct pki *pki;
	struct daemon_options options;
	struct daemon *daemon;
	struct status st;
	/* A client of it. */
	struct trust *trust;
	struct tls_credentials *credentials;
	struct rpc_channel *channel;
	pthread_t runner;
	atomic_int reloads;
};

static void write_text(const char *path, const char *text, size_t len)
{
	struct status st;
	assert_int_equal(file_write(path, (struct slice){ text, len }, 0600, true, &st), STATUS_OK);
}

static void copy_file(const char *from, const char *to)
{
	struct status st;
	struct buffer bytes = { 0 };
	assert_int_equal(file_read(from, 1 << 20, &st, &bytes), STATUS_OK);
	write_text(to, (const char *)bytes.data, bytes.len);
	buffer_free(&bytes);
}

/* The daemon's own files, which a test may replace. */
static void install(struct fixture *f, const struct pki_leaf *leaf)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/service.crt", pki_directory(f->pki));
	copy_file(leaf->certificate, path);
	snprintf(path, sizeof path, "%s/service.key", pki_directory(f->pki));
	copy_file(leaf->key, path);
}

static void parse(struct fixture *f, const char *listen)
{
	static const struct daemon_program program = { .name = "kds-test", .purpose = "Tests.", .default_port = 1 };
	char text[4096], path[4096];
	int n = snprintf(text, sizeof text,
			 "cluster = \"" PKI_CLUSTER "\"\nkds-name = \"" PKI_KDS_NAME "\"\ncluster-id = \"id\"\n"
			 "name = \"keydist1\"\nlisten = \"%s\"\ncertificate = \"service.crt\"\n"
			 "key = \"service.key\"\nca = \"infra-ca.crt\"\nlog-level = \"error\"\n",
			 listen);
	snprintf(path, sizeof path, "%s/kds.conf", pki_directory(f->pki));
	write_text(path, text, (size_t)n);
	char *argv[] = { (char *)"kds-test", (char *)"--config", path, NULL };
	assert_int_equal(daemon_options_parse(&program, 3, argv, &f->st, &f->options), STATUS_OK);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	assert_non_null(f);
	f->pki = pki_new();
	install(f, pki_service(f->pki, "keydist", "keydist1"));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	rpc_channel_free(f->channel);
	tls_credentials_unref(f->credentials);
	trust_free(f->trust);
	daemon_free(f->daemon);
	daemon_options_free(&f->options);
	pki_free(f->pki);
	free(f);
	return 0;
}

static void *run(void *arg)
{
	daemon_run(((struct fixture *)arg)->daemon);
	return NULL;
}

static void serve(struct fixture *f)
{
	parse(f, "127.0.0.1:0");
	assert_int_equal(daemon_new(&f->options, &f->st, &f->daemon), STATUS_OK);
	if (daemon_listen(f->daemon, &f->st) != STATUS_OK)
		fail_msg("%s", f->st.message);
	assert_int_equal(pthread_create(&f->runner, NULL, run, f), 0);
}

static void stop(struct fixture *f)
{
	daemon_stop(f->daemon);
	pthread_join(f->runner, NULL);
}

static void connect_as(struct fixture *f, const struct pki_leaf *leaf)
{
	const char *const addresses[] = { daemon_address(f->daemon) };
	struct slice ca = pki_ca_pem(f->pki, PKI_INFRASTRUCTURE);
	assert_int_equal(trust_new(PKI_CLUSTER, PKI_KDS_NAME, &ca, &f->st, &f->trust), STATUS_OK);
	assert_int_equal(tls_credentials_load(leaf->certificate, leaf->key, TLS_MINIMUM_1_3, &f->st, &f->credentials),
			 STATUS_OK);
	const struct rpc_channel_options options = {
		.addresses = addresses,
		.n_addresses = 1,
		.credentials = f->credentials,
		.trust = f->trust,
		.expect_roles = PEER_KEYDIST,
		.limits = CONN_LIMITS_DEFAULT,
	};
	assert_int_equal(rpc_channel_new(&options, &f->st, &f->channel), STATUS_OK);
}

static Kds__V1__CheckResponse *check(struct fixture *f)
{
	const Kds__V1__CheckRequest in = KDS__V1__CHECK_REQUEST__INIT;
	ProtobufCMessage *answer;
	enum status_code rc =
	    rpc_channel_wait(f->channel, &kds__v1__health__descriptor, "Check", &in.base, NULL, &f->st, &answer);
	if (rc != STATUS_OK)
		fail_msg("%s", f->st.message);
	return (Kds__V1__CheckResponse *)answer;
}

/* How often something was refused for this reason, as the daemon says. */
static uint64_t answer_counts(struct fixture *f, const char *reason)
{
	uint64_t count = 0;
	Kds__V1__CheckResponse *answer = check(f);
	for (size_t i = 0; i < answer->n_refused; i++)
		if (strcmp(answer->refused[i]->reason, reason) == 0)
			count = answer->refused[i]->count;
	kds__v1__check_response__free_unpacked(answer, NULL);
	return count;
}

static void alarms(void *arg, struct daemon_alarms *alarms)
{
	for (int i = 0; i < *(int *)arg; i++)
		daemon_alarm(alarms, "alarm %d", i);
}

static atomic_bool now_ready;

static bool ready(void *arg, char *reason, size_t size)
{
	(void)arg;
	snprintf(reason, size, "not yet");
	return atomic_load(&now_ready);
}

static void test_daemon_health(void **state)
{
	struct fixture *f = *state;
	serve(f);
	connect_as(f, pki_admin(f->pki));
	Kds__V1__CheckResponse *answer = check(f);
	assert_true(answer->serving);
	assert_string_equal(answer->service, "kds-test");
	assert_string_equal(answer->name, "keydist1");
	assert_string_equal(answer->version, KDS_VERSION);
	assert_int_equal(answer->connections, 1);
	assert_int_equal(answer->n_alarms, 1); /* the fixture's certificates are short-lived */
	assert_non_null(strstr(answer->alarms[0], "certificate of this process expires"));
	kds__v1__check_response__free_unpacked(answer, NULL);

	daemon_set_ready(f->daemon, ready, f);
	answer = check(f);
	assert_false(answer->serving);
	assert_string_equal(answer->reason, "not yet");
	kds__v1__check_response__free_unpacked(answer, NULL);
	atomic_store(&now_ready, true);
	answer = check(f);
	assert_true(answer->serving);
	kds__v1__check_response__free_unpacked(answer, NULL);

	assert_int_equal(answer_counts(f, "idle"), 0);
	tally_add(TALLY_IDLE);
	tally_add(TALLY_IDLE);
	assert_int_equal(answer_counts(f, "idle"), 2);
	int n_alarms = 2;
	daemon_set_alarms(f->daemon, alarms, &n_alarms);
	answer = check(f);
	assert_true(answer->serving);
	assert_int_equal(answer->n_alarms, 3);
	assert_string_equal(answer->alarms[2], "alarm 1");
	kds__v1__check_response__free_unpacked(answer, NULL);
	n_alarms = 100; /* more than anybody reads */
	answer = check(f);
	assert_in_range(answer->n_alarms, 3, 20);
	kds__v1__check_response__free_unpacked(answer, NULL);
	daemon_set_alarms(f->daemon, NULL, NULL);

	Kds__V1__EchoRequest in = KDS__V1__ECHO_REQUEST__INIT;
	in.data = (ProtobufCBinaryData){ .data = (uint8_t *)"hello", .len = 5 };
	ProtobufCMessage *echo;
	enum status_code rc =
	    rpc_channel_wait(f->channel, &kds__v1__health__descriptor, "Echo", &in.base, NULL, &f->st, &echo);
	assert_int_equal(rc, STATUS_OK);
	assert_memory_equal(((Kds__V1__EchoResponse *)echo)->data.data, "hello", 5);
	protobuf_c_message_free_unpacked(echo, NULL);
	stop(f);
}

static void count_reload(void *arg, struct tls_credentials *credentials)
{
	struct fixture *f = arg;
	assert_non_null(credentials);
	atomic_fetch_add(&f->reloads, 1);
}

/* The serial of the certificate that a new connection is shown. */
static uint64_t shown_serial(struct fixture *f)
{
	struct tls_credentials *c = tls_credentials_ref(daemon_credentials(f->daemon));
	gnutls_x509_crt_t *list;
	unsigned n;
	uint8_t serial[32];
	size_t size = sizeof serial;
	assert_true(gnutls_certificate_get_x509_crt(tls_credentials_gnutls(c), 0, &list, &n) >= 0);
	assert_true(gnutls_x509_crt_get_serial(list[0], serial, &size) >= 0);
	for (unsigned i = 0; i < n; i++)
		gnutls_x509_crt_deinit(list[i]);
	gnutls_free(list);
	tls_credentials_unref(c);
	return serial[size - 1];
}

static void hang_up(struct fixture *f, int reloads)
{
	kill(getpid(), SIGHUP);
	for (int i = 0; i < 3000 && atomic_load(&f->reloads) < reloads; i++)
		usleep(10000);
}

static void test_daemon_reloads_its_certificate(void **state)
{
	struct fixture *f = *state;
	struct pki_spec spec = { .common_name = PKI_KDS_NAME };
	serve(f);
	daemon_set_reload(f->daemon, count_reload, f);
	uint64_t before = shown_serial(f);

	spec.uris = (const char *const[]){ "kds://" PKI_CLUSTER "/role/keydist/keydist1", NULL };
	install(f, pki_issue(f->pki, &spec));
	hang_up(f, 1);
	assert_int_equal(atomic_load(&f->reloads), 1);
	connect_as(f, pki_admin(f->pki));
	kds__v1__check_response__free_unpacked(check(f), NULL);

	char path[4096];
	snprintf(path, sizeof path, "%s/service.crt", pki_directory(f->pki));
	write_text(path, "no certificate", 14);
	kill(getpid(), SIGHUP); /* refused: the former stays */
	rpc_channel_free(f->channel);
	f->channel = NULL;
	trust_free(f->trust);
	tls_credentials_unref(f->credentials);
	connect_as(f, pki_admin(f->pki));
	kds__v1__check_response__free_unpacked(check(f), NULL);
	stop(f);
	assert_int_equal(atomic_load(&f->reloads), 1);
	assert_true(shown_serial(f) != before);
}

static void test_daemon_stops_at_a_signal(void **state)
{
	struct fixture *f = *state;
	serve(f);
	kill(getpid(), SIGTERM);
	pthread_join(f->runner, NULL);
	assert_null(daemon_address(f->daemon)); /* the port is closed */
	daemon_trust_changed(f->daemon);
	struct daemon *second; /* one that is never run */
	assert_int_equal(daemon_new(&f->options, &f->st, &second), STATUS_OK);
	assert_int_equal(daemon_listen(second, &f->st), STATUS_OK);
	daemon_trust_changed(second);
	daemon_free(second);
}

/* What it was told by is taken, however early: left behind, it would stop the process's next daemon as it begins. */
static void test_daemon_stops_before_it_runs(void **state)
{
	struct fixture *f = *state;
	sigset_t waiting;
	parse(f, "127.0.0.1:0");
	assert_int_equal(daemon_new(&f->options, &f->st, &f->daemon), STATUS_OK);
	assert_int_equal(daemon_listen(f->daemon, &f->st), STATUS_OK);
	daemon_stop(f->daemon);
	daemon_run(f->daemon);
	assert_int_equal(sigpending(&waiting), 0);
	assert_false(sigismember(&waiting, SIGTERM));
}

static void test_daemon_refuses_a_taken_port(void **state)
{
	struct fixture *f = *state;
	char taken[64];
	serve(f);
	snprintf(taken, sizeof taken, "%s", daemon_address(f->daemon));
	free(f->options.listen);
	f->options.listen = strdup(taken);
	struct daemon *second;
	assert_int_equal(daemon_new(&f->options, &f->st, &second), STATUS_OK);
	assert_int_equal(daemon_listen(second, &f->st), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(f->st.message, taken));
	daemon_free(second);
	stop(f);
}

static void expect_refusal(struct fixture *f, const char *says)
{
	struct daemon *daemon = NULL;
	enum status_code rc = daemon_new(&f->options, &f->st, &daemon);
	assert_int_not_equal(rc, STATUS_OK);
	assert_int_equal(f->st.code, rc);
	assert_null(daemon);
	if (!strstr(f->st.message, says))
		fail_msg("'%s' does not say '%s'", f->st.message, says);
}

static void test_daemon_says_what_is_wrong_with_its_files(void **state)
{
	struct fixture *f = *state;
	char path[4096];
	parse(f, "127.0.0.1:0");
	snprintf(path, sizeof path, "%s/service.key", pki_directory(f->pki));
	assert_int_equal(chmod(path, 0644), 0);
	expect_refusal(f, "service.key");
	assert_int_equal(unlink(path), 0);
	expect_refusal(f, "service.key");
	copy_file(pki_admin(f->pki)->key, path);
	expect_refusal(f, "service");
	install(f, pki_service(f->pki, "keydist", "keydist2"));
	expect_refusal(f, "service.crt is for kds-keydist 'keydist2', not for kds-test 'keydist1'");
	f->options.program = "kds-ca";
	install(f, pki_service(f->pki, "keydist", "keydist1"));
	expect_refusal(f, "is for kds-keydist 'keydist1', not for kds-ca 'keydist1'");
	f->options.program = "kds-keydist";
	install(f, pki_node(f->pki, "keydist1", 0));
	expect_refusal(f, "no peer would accept");
	install(f, pki_service(f->pki, "keydist", "keydist1"));
	assert_int_equal(daemon_new(&f->options, &f->st, &f->daemon), STATUS_OK);
	snprintf(path, sizeof path, "%s/infra-ca.crt", pki_directory(f->pki));
	write_text(path, "nothing", 7);
	expect_refusal(f, "option 'ca' in");
}

static void test_daemon_prepares_its_process(void **state)
{
	struct fixture *f = *state;
	struct rlimit limit;
	sigset_t blocked;
	struct sigaction pipe_action;
	parse(f, "127.0.0.1:0");
	assert_int_equal(daemon_new(&f->options, &f->st, &f->daemon), STATUS_OK);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_true(limit.rlim_cur == limit.rlim_max);
	assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &blocked), 0);
	assert_true(sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGINT) && sigismember(&blocked, SIGHUP));
	assert_int_equal(sigaction(SIGPIPE, NULL, &pipe_action), 0);
	assert_true(pipe_action.sa_handler == SIG_IGN);
}

static atomic_int trims;

/* glibc's, which the daemon calls, is not reached. */
int malloc_trim(size_t pad)
{
	(void)pad;
	return atomic_fetch_add(&trims, 1);
}

static void test_daemon_gives_memory_back(void **state)
{
	struct fixture *f = *state;
	serve(f);
	connect_as(f, pki_admin(f->pki));
	for (int i = 0; i < 300; i++)
		kds__v1__check_response__free_unpacked(check(f), NULL);
	for (int i = 0; i < 3000 && atomic_load(&trims) == 0; i++)
		usleep(10000);
	assert_true(atomic_load(&trims) > 0);
	stop(f);
}

static void wait_connections(struct fixture *f, unsigned n)
{
	unsigned open = n + 1;
	for (int i = 0; i < 3000 && open != n; i++) {
		usleep(10000);
		Kds__V1__CheckResponse *answer = check(f);
		open = (unsigned)answer->connections;
		kds__v1__check_response__free_unpacked(answer, NULL);
	}
	assert_int_equal(open, n);
}

static void test_daemon_closes_when_a_certificate_expires(void **state)
{
	struct fixture *f = *state;
	const struct pki_spec spec = {
		.common_name = "admin",
		.uris = (const char *const[]){ "kds://" PKI_CLUSTER "/role/admin/admin", NULL },
		.ends_in = 5,
	};
	const struct pki_leaf *leaf = pki_issue(f->pki, &spec);
	gnutls_certificate_credentials_t brief =
	    sp_credentials(pki_ca_file(f->pki, PKI_INFRASTRUCTURE), leaf->certificate, leaf->key);
	struct sp_client c;
	serve(f);
	connect_as(f, pki_admin(f->pki));
	assert_true(sp_open(&c, NULL, daemon_address(f->daemon), brief));
	wait_connections(f, 2);
	assert_true(sp_wait_closed(&c));
	wait_connections(f, 1);
	sp_close(&c, false);
	gnutls_certificate_free_credentials(brief);
	stop(f);
}

static void test_daemon_exit_status(void **state)
{
	(void)state;
	const struct daemon_options none = { 0 };
	struct status st;
	status_set(&st, STATUS_INVALID_ARGUMENT, "wrong");
	assert_int_equal(daemon_start_failed(&none, &st), 2);
	status_set(&st, STATUS_FAILED_PRECONDITION, "missing");
	assert_int_equal(daemon_start_failed(&none, &st), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_daemon_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(prepares_its_process),
		TEST(health),
		TEST(reloads_its_certificate),
		TEST(stops_at_a_signal),
		TEST(stops_before_it_runs),
		TEST(refuses_a_taken_port),
		TEST(says_what_is_wrong_with_its_files),
		TEST(gives_memory_back),
		TEST(closes_when_a_certificate_expires),
		cmocka_unit_test(test_daemon_exit_status),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
