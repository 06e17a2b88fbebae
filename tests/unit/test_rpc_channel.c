// links: test_support common_rpc common_net kds_proto
#include "tests/support/support.h"

#include <arpa/inet.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/rpc/channel.h"
#include "tests/support/rpc_fixture.h"

#define ADDRESS "127.22.0.2:0"

static struct rpc_pki *certificates;

static int make_certificates(void **state)
{
	(void)state;
	certificates = rpc_pki_new();
	return 0;
}

static int free_certificates(void **state)
{
	(void)state;
	rpc_pki_free(certificates);
	return 0;
}

static struct rpc_channel *open_channel_with(const struct pki_leaf *leaf, const char *const *addresses, size_t n,
					     unsigned max_pending, struct conn_limits limits)
{
	struct tls_credentials *credentials = rpc_pki_credentials(leaf);
	struct rpc_channel_options options = {
		.addresses = addresses,
		.n_addresses = n,
		.credentials = credentials,
		.trust = certificates->trust,
		.expect_roles = PEER_SERIAL,
		.default_timeout_ms = 20000,
		.max_pending = max_pending,
		.limits = limits,
	};
	struct rpc_channel *ch = NULL;
	assert_int_equal(rpc_channel_new(&options, NULL, &ch), STATUS_OK);
	tls_credentials_unref(credentials);
	return ch;
}

static struct rpc_channel *open_channel(const struct pki_leaf *leaf, const char *const *addresses, size_t n)
{
	return open_channel_with(leaf, addresses, n, 0, CONN_LIMITS_DEFAULT);
}

/* Serial.Show, blocking. */
static enum status_code show_with(struct rpc_channel *ch, const struct rpc_call_options *options, struct status *st)
{
	Kds__V1__ShowRequest in = KDS__V1__SHOW_REQUEST__INIT;
	ProtobufCMessage *answer = NULL;
	const ProtobufCServiceDescriptor *service = &kds__v1__serial__descriptor;
	enum status_code rc = rpc_channel_wait(ch, service, "Show", &in.base, options, st, &answer);
	if (rc == STATUS_OK) {
		assert_true(((Kds__V1__SerialStatus *)answer)->last_serial == 42);
		protobuf_c_message_free_unpacked(answer, NULL);
	} else {
		assert_null(answer);
	}
	return rc;
}

static enum status_code show(struct rpc_channel *ch, unsigned timeout_ms)
{
	struct rpc_call_options options = { .timeout_ms = timeout_ms };
	struct status st = { .code = STATUS_OK };
	return show_with(ch, &options, &st);
}

/* What asynchronous calls came to. */
struct results {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	unsigned n;
	unsigned ok;
	struct status last;
	char field[64];
	char name[64]; /* of the last Health.Check */
	pthread_t thread;
};
#define RESULTS_INIT { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER }

static void on_done(void *arg, const struct rpc_result *result)
{
	struct results *r = arg;
	pthread_mutex_lock(&r->mutex);
	r->n++;
	r->ok += result->status.code == STATUS_OK;
	r->last = result->status;
	r->thread = pthread_self();
	(void)snprintf(r->field, sizeof r->field, "%s", result->field);
	if (result->message && result->message->descriptor == &kds__v1__check_response__descriptor)
		(void)snprintf(r->name, sizeof r->name, "%s", ((const Kds__V1__CheckResponse *)result->message)->name);
	assert_true(result->status.code == STATUS_OK || (!result->message && result->payload.len == 0));
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->mutex);
}

static void wait_results(struct results *r, unsigned n)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 30;
	pthread_mutex_lock(&r->mutex);
	int rv = 0;
	while (r->n < n && rv == 0)
		rv = pthread_cond_timedwait(&r->changed, &r->mutex, &until);
	unsigned got = r->n;
	pthread_mutex_unlock(&r->mutex);
	if (got < n)
		fail_msg("%u answers, not %u", got, n);
}

static void start_check(struct rpc_channel *ch, struct results *r, unsigned timeout_ms, bool no_retry)
{
	Kds__V1__CheckRequest in = KDS__V1__CHECK_REQUEST__INIT;
	struct rpc_call_options options = { .done = on_done, .arg = r, .timeout_ms = timeout_ms, .no_retry = no_retry };
	rpc_channel_call(ch, &kds__v1__health__descriptor, 0, &in.base, &options);
}

/* A socket that takes connections and never says a word, as a stopped process does. Closed with close(). */
static int open_mute(char address[static 32])
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = inet_addr("127.22.0.3") };
	socklen_t len = sizeof sa;
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	(void)snprintf(address, 32, "127.22.0.3:%d", ntohs(sa.sin_port));
	return fd;
}

/* An address where nobody listens. */
static void dead_address(char address[static 32])
{
	close(open_mute(address));
}

/*
 * Tests
 */

static void test_channel_calls_in_every_way(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(s) };
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 1);
	struct rpc_call_options options = { .trace_id = "abc", .request_id = { "my id", 5 } };
	assert_int_equal(show_with(ch, &options, NULL), STATUS_OK);
	assert_string_equal(s->trace_id, "abc");
	assert_int_equal(s->first_id_len, 5);
	assert_memory_equal(s->first_id, "my id", 5);
	assert_string_equal(s->caller, "node1.example.com");
	assert_int_equal(show_with(ch, NULL, NULL), STATUS_OK);

	/* a generated stub */
	struct results r = RESULTS_INIT;
	struct rpc_call_options async = { .done = on_done, .arg = &r, .secret = true };
	Kds__V1__EchoRequest echo = KDS__V1__ECHO_REQUEST__INIT;
	ProtobufCService *health = rpc_channel_service(ch, &kds__v1__health__descriptor);
	assert_non_null(health);
	assert_ptr_equal(health, rpc_channel_service(ch, &kds__v1__health__descriptor));
	kds__v1__health__echo(health, &echo, RPC_CLOSURE(Kds__V1__EchoResponse), &async);
	wait_results(&r, 1);
	assert_int_equal(r.ok, 1);

	/* raw */
	rpc_channel_call_raw(ch, "Serial.Allocate", (struct slice){ .len = 0 }, &async);
	wait_results(&r, 2);
	assert_int_equal(r.last.code, STATUS_INVALID_ARGUMENT);
	assert_string_equal(r.last.message, "count: takes 1 to 65536");
	assert_string_equal(r.field, "count");

	ProtobufCMessage *answer = NULL;
	struct status st;
	assert_int_equal(rpc_channel_wait(ch, &kds__v1__serial__descriptor, "None", &echo.base, NULL, &st, &answer),
			 STATUS_UNIMPLEMENTED);
	rpc_channel_free(ch);
	served_stop(s);
}

static void test_channel_pipelines_on_one_connection(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(s) };
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 1);
	struct results r = RESULTS_INIT, held = RESULTS_INIT;
	start_check(ch, &held, 0, false);
	struct rpc_call_options options = { .done = on_done, .arg = &r };
	Kds__V1__ShowRequest in = KDS__V1__SHOW_REQUEST__INIT;
	for (int i = 0; i < 500; i++)
		rpc_channel_call(ch, &kds__v1__serial__descriptor, 3, &in.base, &options);
	wait_results(&r, 500); /* all overtake the first */
	assert_int_equal(r.ok, 500);
	assert_int_equal(held.n, 0);
	served_release(s, "first");
	wait_results(&held, 1);
	assert_string_equal(held.name, "first");
	struct listener_stats stats;
	listener_stats(s->listener, &stats);
	assert_int_equal(stats.accepted, 1);
	rpc_channel_free(ch);
	served_stop(s);
}

struct crowd {
	struct rpc_channel *ch;
	atomic_uint ok;
};

static void *crowd_main(void *arg)
{
	struct crowd *c = arg;
	for (int i = 0; i < 50; i++)
		c->ok += show(c->ch, 0) == STATUS_OK;
	return NULL;
}

static void test_channel_from_many_threads(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(s) };
	struct crowd crowd = { .ch = open_channel(certificates->node, addresses, 1) };
	pthread_t threads[8];
	for (int i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, crowd_main, &crowd), 0);
	for (int i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(crowd.ok, 400);
	rpc_channel_free(crowd.ch);
	served_stop(s);
}

static void test_channel_retries_unavailable_with_the_same_id(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	s->unavailable = 3;
	const char *addresses[] = { served_address(s) };
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 1);
	assert_int_equal(show(ch, 0), STATUS_OK);
	assert_int_equal(s->shows, 4);
	assert_int_equal(s->shows_of_id, 4);
	assert_true(s->first_id_len == 16);
	/* the next call is another request */
	assert_int_equal(show(ch, 0), STATUS_OK);
	assert_int_equal(s->shows_of_id, 4);
	/* asked not to: once */
	s->unavailable = 1;
	struct rpc_call_options once = { .no_retry = true };
	struct status st;
	assert_int_equal(show_with(ch, &once, &st), STATUS_UNAVAILABLE);
	assert_string_equal(st.message, "no leader just now");
	assert_int_equal(s->shows, 6);
	/* to the end */
	s->unavailable = 1000000;
	struct rpc_call_options brief = { .timeout_ms = 300 };
	assert_int_equal(show_with(ch, &brief, &st), STATUS_UNAVAILABLE);
	assert_string_equal(st.message, "Serial.Show: tried for 300 ms: no leader just now");
	rpc_channel_free(ch);
	served_stop(s);
}

static void test_channel_unavailable_goes_to_the_next_address(void **state)
{
	(void)state;
	struct served *a = served_start(certificates, ADDRESS, NULL), *b = served_start(certificates, ADDRESS, NULL);
	a->unavailable = 1000000;
	const char *addresses[] = { served_address(a), served_address(b) };
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 2);
	struct results held = RESULTS_INIT;
	start_check(ch, &held, 0, false);
	served_wait_held(a, 1);
	assert_int_equal(show(ch, 0), STATUS_OK);
	assert_int_equal(b->shows, 1);
	/* what else was in flight has moved along */
	served_wait_held(b, 1);
	served_release(b, "b");
	wait_results(&held, 1);
	assert_string_equal(held.name, "b");
	rpc_channel_free(ch);
	served_stop(a);
	served_stop(b);
}

static void test_channel_passes_dead_addresses(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	char dead[2][32];
	dead_address(dead[0]);
	dead_address(dead[1]);
	const char *addresses[] = { dead[0], dead[1], served_address(s) };
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 3);
	assert_int_equal(show(ch, 0), STATUS_OK);
	rpc_channel_free(ch);
	served_stop(s);
}

static void test_channel_nobody_there(void **state)
{
	(void)state;
	char dead[32];
	dead_address(dead);
	const char *addresses[] = { dead };
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 1);
	struct status st;
	struct rpc_call_options brief = { .timeout_ms = 300 };
	assert_int_equal(show_with(ch, &brief, &st), STATUS_UNAVAILABLE);
	char want[80];
	(void)snprintf(want, sizeof want, "Serial.Show: no connection to %s within 300 ms: ", dead);
	assert_memory_equal(st.message, want, strlen(want));
	assert_true(strlen(st.message) > strlen(want));
	struct rpc_call_options once = { .no_retry = true };
	assert_int_equal(show_with(ch, &once, &st), STATUS_UNAVAILABLE);
	rpc_channel_free(ch);
}

static void test_channel_survives_lost_connections(void **state)
{
	(void)state;
	struct served *a = served_start(certificates, ADDRESS, NULL), *b = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(a), served_address(b) };
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 2);
	struct results r = RESULTS_INIT, once = RESULTS_INIT;
	start_check(ch, &r, 0, false);
	start_check(ch, &once, 0, true);
	served_wait_held(a, 2);
	served_close(a);
	wait_results(&once, 1);
	assert_int_equal(once.last.code, STATUS_UNAVAILABLE);
	served_wait_held(b, 1);
	served_release(b, "second");
	wait_results(&r, 1);
	assert_string_equal(r.name, "second");
	rpc_channel_free(ch);
	served_stop(a);
	served_stop(b);
}

static void test_channel_deadline(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(s) };
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 1);
	struct results r = RESULTS_INIT;
	start_check(ch, &r, 200, false);
	wait_results(&r, 1);
	assert_int_equal(r.last.code, STATUS_DEADLINE_EXCEEDED);
	assert_int_equal(show(ch, 0), STATUS_OK);
	rpc_channel_free(ch);
	served_stop(s);
}

/* A stopped process: the kernel takes the connection, nothing answers. */
static void test_channel_leaves_a_server_that_never_answers(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	char mute[32];
	int fd = open_mute(mute);
	const char *addresses[] = { mute, served_address(s) };
	struct conn_limits limits = CONN_LIMITS_DEFAULT;
	limits.handshake_ms = 60000; /* so that it is the channel that gives up */
	struct rpc_channel *ch = open_channel_with(certificates->node, addresses, 2, 0, limits);
	assert_int_equal(show(ch, 3000), STATUS_OK);
	rpc_channel_free(ch);
	ch = open_channel_with(certificates->node, addresses, 1, 0, limits);
	struct status st;
	struct rpc_call_options brief = { .timeout_ms = 300 };
	assert_int_equal(show_with(ch, &brief, &st), STATUS_UNAVAILABLE);
	rpc_channel_free(ch);
	close(fd);
	served_stop(s);
}

/* A server that is up and holds a call is given up only when it does not answer Health.Check either. */
static void test_channel_silence(void **state)
{
	(void)state;
	struct served *a = served_start(certificates, ADDRESS, NULL), *b = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(a), served_address(b) };
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 2);
	struct results r = RESULTS_INIT;
	Kds__V1__RecordRequest in = KDS__V1__RECORD_REQUEST__INIT;
	struct rpc_call_options options = { .done = on_done, .arg = &r, .timeout_ms = 3000 };
	rpc_channel_call(ch, &kds__v1__serial__descriptor, 1, &in.base, &options);
	/* a's Health.Check holds the probe too, so a is silent; b is asked */
	served_wait_held(b, 1);
	assert_int_equal(a->checks, 1);
	served_release(b, "");
	wait_results(&r, 1);
	assert_int_equal(r.ok, 1);
	/* b answers the probe: it keeps the call to its end, here beyond the time of an attempt */
	rpc_channel_call(ch, &kds__v1__serial__descriptor, 1, &in.base, &options);
	served_wait_held(b, 2); /* the call and the probe */
	struct rpc_call *call = b->held[0];
	rpc_call_relay(b->held[1], STATUS_OK, "", (struct slice){ .len = 0 });
	b->n_held = 0;
	served_wait_held(b, 1); /* the next probe: an attempt's time has passed since the first */
	served_release(b, "");
	rpc_call_relay(call, STATUS_OK, "", (struct slice){ .len = 0 });
	wait_results(&r, 2);
	assert_int_equal(r.ok, 2);
	struct listener_stats stats;
	listener_stats(b->listener, &stats);
	assert_int_equal(stats.accepted, 1);
	rpc_channel_free(ch);
	served_stop(a);
	served_stop(b);
}

static void send_on(struct served *s, unsigned times, const char *to)
{
	pthread_mutex_lock(&s->mutex);
	s->unavailable = times;
	(void)snprintf(s->ask, sizeof s->ask, "%s", to);
	pthread_mutex_unlock(&s->mutex);
}

static void test_channel_goes_where_it_is_sent(void **state)
{
	(void)state;
	struct served *a = served_start(certificates, ADDRESS, NULL), *b = served_start(certificates, ADDRESS, NULL);
	struct served *c = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(a), served_address(c) };
	send_on(a, 1, served_address(b));
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 1); /* b is none of its own */
	assert_int_equal(show(ch, 0), STATUS_OK);
	assert_int_equal(a->shows, 1);
	assert_int_equal(b->shows, 1);
	assert_memory_equal(a->first_id, b->first_id, 16);
	assert_int_equal(show(ch, 0), STATUS_OK); /* it stays */
	assert_int_equal(b->shows, 2);
	rpc_channel_drop(ch); /* until it is lost: then its own address again */
	assert_int_equal(show(ch, 0), STATUS_OK);
	assert_int_equal(a->shows, 2);
	rpc_channel_free(ch);
	/* One that tells once, no retry: the caller is told. */
	struct rpc_call_options once = { .no_retry = true };
	struct status st;
	send_on(a, 2, served_address(c));
	ch = open_channel(certificates->node, addresses, 2);
	assert_int_equal(show_with(ch, &once, &st), STATUS_UNAVAILABLE);
	assert_int_equal(show(ch, 0), STATUS_OK); /* among its own */
	assert_int_equal(c->shows, 1);
	rpc_channel_free(ch);
	served_stop(a);
	served_stop(b);
	served_stop(c);
}

static void test_channel_is_not_led_astray(void **state)
{
	(void)state;
	struct served *a = served_start(certificates, ADDRESS, NULL), *b = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(a) };
	char dead[32], mute[32];
	dead_address(dead);
	send_on(a, 1, dead);
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 1);
	assert_int_equal(show(ch, 0), STATUS_OK); /* nobody there: back to its own */
	int fd = open_mute(mute);
	send_on(a, 1, mute);
	assert_int_equal(show(ch, 0), STATUS_OK); /* no server of the role that is expected */
	close(fd);
	send_on(a, 1, "not an address");
	assert_int_equal(show(ch, 0), STATUS_OK);
	/* Two that send each other's callers to and fro: three steps, then a pause. */
	send_on(a, UINT32_MAX, served_address(b));
	send_on(b, UINT32_MAX, served_address(a));
	assert_int_equal(show(ch, 1500), STATUS_UNAVAILABLE);
	assert_in_range(a->shows + b->shows, 4, 100);
	rpc_channel_free(ch);
	served_stop(a);
	served_stop(b);
}

static void test_channel_drop(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	const char *address = served_address(s);
	struct rpc_channel *ch = open_channel(certificates->node, &address, 1);
	struct results once = RESULTS_INIT, again = RESULTS_INIT;
	Kds__V1__RecordRequest in = KDS__V1__RECORD_REQUEST__INIT;
	rpc_channel_drop(ch); /* nothing is connected yet */
	struct rpc_call_options options = { .done = on_done, .arg = &again };
	rpc_channel_call(ch, &kds__v1__serial__descriptor, 1, &in.base, &options);
	options = (struct rpc_call_options){ .done = on_done, .arg = &once, .no_retry = true };
	rpc_channel_call(ch, &kds__v1__serial__descriptor, 1, &in.base, &options);
	served_wait_held(s, 2);
	rpc_channel_drop(ch);
	wait_results(&once, 1);
	assert_int_equal(once.ok, 0);
	served_wait_held(s, 3); /* one of them came again, on a new connection */
	served_release(s, "");
	wait_results(&again, 1);
	assert_int_equal(again.ok, 1);
	struct listener_stats stats;
	listener_stats(s->listener, &stats);
	assert_int_equal(stats.accepted, 2);
	rpc_channel_free(ch);
	served_stop(s);
}

static void test_channel_refused_everywhere(void **state)
{
	(void)state;
	struct served *a = served_start(certificates, ADDRESS, NULL), *b = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(a), served_address(b) };
	struct rpc_channel *ch = open_channel(certificates->stranger, addresses, 2);
	struct status st;
	assert_int_equal(show_with(ch, NULL, &st), STATUS_UNAUTHENTICATED);
	assert_int_equal(show_with(ch, NULL, &st), STATUS_UNAUTHENTICATED);
	/* with a good certificate it works: the next connection uses it */
	struct tls_credentials *good = rpc_pki_credentials(certificates->node);
	rpc_channel_set_credentials(ch, good);
	tls_credentials_unref(good);
	assert_int_equal(show(ch, 0), STATUS_OK);
	rpc_channel_free(ch);
	served_stop(a);
	served_stop(b);
}

static void test_channel_leaves_a_server_that_was_removed(void **state)
{
	(void)state;
	static const char *const removed[] = { "serial1" };
	struct served *s = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(s) };
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 1);
	struct status st;
	assert_int_equal(show_with(ch, NULL, &st), STATUS_OK);
	assert_int_equal(trust_set_removed_services(certificates->trust, removed, 1, &st), STATUS_OK);
	assert_int_equal(show_with(ch, NULL, &st), STATUS_PERMISSION_DENIED);
	assert_non_null(strstr(st.message, "'serial1' was removed"));
	assert_int_equal(trust_set_removed_services(certificates->trust, NULL, 0, &st), STATUS_OK);
	assert_int_equal(show_with(ch, NULL, &st), STATUS_OK);
	rpc_channel_free(ch);
	served_stop(s);
}

static void test_channel_new_addresses(void **state)
{
	(void)state;
	struct served *a = served_start(certificates, ADDRESS, NULL), *b = served_start(certificates, ADDRESS, NULL);
	char mute[32];
	int fd = open_mute(mute);
	const char *addresses[] = { mute };
	struct conn_limits limits = CONN_LIMITS_DEFAULT;
	limits.handshake_ms = 60000; /* the old address must not have to time out first */
	struct rpc_channel *ch = open_channel_with(certificates->node, addresses, 1, 0, limits);
	struct results r = RESULTS_INIT;
	start_check(ch, &r, 0, false);
	addresses[0] = served_address(a);
	assert_int_equal(rpc_channel_set_addresses(ch, addresses, 1, NULL), STATUS_OK);
	served_wait_held(a, 1);
	/* an open connection stays */
	addresses[0] = served_address(b);
	assert_int_equal(rpc_channel_set_addresses(ch, addresses, 1, NULL), STATUS_OK);
	served_release(a, "a");
	wait_results(&r, 1);
	assert_string_equal(r.name, "a");
	served_close(a);
	assert_int_equal(show(ch, 0), STATUS_OK);
	assert_int_equal(b->shows, 1);
	assert_int_equal(rpc_channel_set_addresses(ch, addresses, 0, NULL), STATUS_INVALID_ARGUMENT);
	rpc_channel_free(ch);
	close(fd);
	served_stop(a);
	served_stop(b);
}

static void test_channel_limits(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(s) };
	struct rpc_channel *ch = open_channel_with(certificates->node, addresses, 1, 2, CONN_LIMITS_DEFAULT);
	struct results held = RESULTS_INIT, r = RESULTS_INIT;
	start_check(ch, &held, 0, false);
	start_check(ch, &held, 0, false);
	served_wait_held(s, 2);
	start_check(ch, &r, 0, false);
	wait_results(&r, 1);
	assert_int_equal(r.last.code, STATUS_RESOURCE_EXHAUSTED);
	assert_false(pthread_equal(r.thread, pthread_self()));
	served_release(s, "");
	wait_results(&held, 2);
	assert_int_equal(held.ok, 2);
	/* more than a frame holds */
	Kds__V1__EchoRequest in = KDS__V1__ECHO_REQUEST__INIT;
	in.data.len = (1 << 20) - 20;
	in.data.data = calloc(1, in.data.len);
	assert_non_null(in.data.data);
	struct rpc_call_options options = { .done = on_done, .arg = &r };
	rpc_channel_call(ch, &kds__v1__health__descriptor, 1, &in.base, &options);
	wait_results(&r, 2);
	assert_int_equal(r.last.code, STATUS_INVALID_ARGUMENT);
	in.data.len -= 2000;
	rpc_channel_call(ch, &kds__v1__health__descriptor, 1, &in.base, &options);
	wait_results(&r, 3);
	assert_int_equal(r.last.code, STATUS_OK);
	free(in.data.data);
	rpc_channel_free(ch);
	served_stop(s);
}

/* More at once than the connection may hold in its output: refused, not lost. */
static void test_channel_bounds_its_output(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(s) };
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 1);
	Kds__V1__EchoRequest in = KDS__V1__ECHO_REQUEST__INIT;
	in.data.len = 500000;
	in.data.data = calloc(1, in.data.len);
	assert_non_null(in.data.data);
	struct results r = RESULTS_INIT;
	struct rpc_call_options options = { .done = on_done, .arg = &r };
	for (int i = 0; i < 20; i++)
		rpc_channel_call(ch, &kds__v1__health__descriptor, 1, &in.base, &options);
	wait_results(&r, 20);
	assert_true(r.ok >= 7);
	struct listener_stats stats;
	listener_stats(s->listener, &stats);
	assert_int_equal(stats.accepted, 1);
	free(in.data.data);
	rpc_channel_free(ch);
	served_stop(s);
}

struct again {
	struct rpc_channel *ch;
	struct results results;
};

static void on_done_again(void *arg, const struct rpc_result *result)
{
	struct again *a = arg;
	if (result->status.code == STATUS_CANCELLED && a->results.n == 0)
		start_check(a->ch, &a->results, 0, false); /* a caller that does not give up */
	on_done(&a->results, result);
}

static void test_channel_free_cancels(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	const char *addresses[] = { served_address(s) };
	struct again again = { .ch = open_channel(certificates->node, addresses, 1), .results = RESULTS_INIT };
	Kds__V1__CheckRequest in = KDS__V1__CHECK_REQUEST__INIT;
	struct rpc_call_options options = { .done = on_done_again, .arg = &again };
	rpc_channel_call(again.ch, &kds__v1__health__descriptor, 0, &in.base, &options);
	served_wait_held(s, 1);
	rpc_channel_free(again.ch);
	assert_int_equal(again.results.n, 2);
	assert_int_equal(again.results.ok, 0);
	/* before it ever connected, and while it connects */
	rpc_channel_free(open_channel(certificates->node, addresses, 1));
	struct results r = RESULTS_INIT;
	struct rpc_channel *ch = open_channel(certificates->node, addresses, 1);
	start_check(ch, &r, 0, false);
	rpc_channel_free(ch);
	assert_int_equal(r.n, 1);
	rpc_channel_free(NULL);
	served_stop(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_channel_calls_in_every_way),
		cmocka_unit_test(test_channel_pipelines_on_one_connection),
		cmocka_unit_test(test_channel_from_many_threads),
		cmocka_unit_test(test_channel_retries_unavailable_with_the_same_id),
		cmocka_unit_test(test_channel_unavailable_goes_to_the_next_address),
		cmocka_unit_test(test_channel_passes_dead_addresses),
		cmocka_unit_test(test_channel_nobody_there),
		cmocka_unit_test(test_channel_survives_lost_connections),
		cmocka_unit_test(test_channel_deadline),
		cmocka_unit_test(test_channel_leaves_a_server_that_never_answers),
		cmocka_unit_test(test_channel_silence),
		cmocka_unit_test(test_channel_goes_where_it_is_sent),
		cmocka_unit_test(test_channel_is_not_led_astray),
		cmocka_unit_test(test_channel_drop),
		cmocka_unit_test(test_channel_refused_everywhere),
		cmocka_unit_test(test_channel_leaves_a_server_that_was_removed),
		cmocka_unit_test(test_channel_new_addresses),
		cmocka_unit_test(test_channel_limits),
		cmocka_unit_test(test_channel_bounds_its_output),
		cmocka_unit_test(test_channel_free_cancels),
	};
	return cmocka_run_group_tests_name("rpc_channel", tests, make_certificates, free_certificates);
}
