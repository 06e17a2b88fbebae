// links: test_support common_rpc common_net kds_proto
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/tally.h"
#include "common/rpc/envelope.h"
#include "common/rpc/message.h"
#include "rpc.pb-c.h"
#include "tests/support/rpc_fixture.h"
#include "tests/support/sp_client.h"

#define ADDRESS "127.22.0.1:0"

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

/*
 * A client that writes what it likes
 */

struct client {
	struct sp_client sp;
	gnutls_certificate_credentials_t credentials;
};

static struct client *open_client(const struct served *s, const struct pki_leaf *leaf)
{
	struct client *c = calloc(1, sizeof *c);
	assert_non_null(c);
	const char *ca = pki_ca_file(certificates->pki, PKI_INFRASTRUCTURE);
	c->credentials = sp_credentials(ca, leaf->certificate, leaf->key);
	assert_true(sp_open(&c->sp, NULL, served_address(s), c->credentials));
	return c;
}

static void close_client(struct client *c)
{
	sp_close(&c->sp, false);
	gnutls_certificate_free_credentials(c->credentials);
	free(c);
}

/* A frame as it stands. */
static void send_frame(struct client *c, const void *data, size_t len)
{
	struct buffer frame = { .len = 0 };
	uint8_t prefix[8];
	for (int i = 0; i < 8; i++)
		prefix[i] = (uint8_t)((uint64_t)len >> (56 - 8 * i));
	assert_true(buffer_append(&frame, prefix, sizeof prefix) && buffer_append(&frame, data, len));
	assert_true(sp_write(&c->sp, frame.data, frame.len));
	buffer_free(&frame);
}

struct request {
	uint32_t hops[SP_MAX_WORDS]; /* before the id */
	size_t n_hops;
	uint32_t id;
	const char *method;
	const ProtobufCMessage *input;
	unsigned timeout_ms;
	const char *trace_id;
	Kds__V1__Caller *on_behalf_of;
};

static void send_request(struct client *c, const struct request *r)
{
	struct buffer frame = { .len = 0 }, payload = { .len = 0 };
	uint8_t word[4];
	for (size_t i = 0; i < r->n_hops; i++) {
		sp_put_id(word, r->hops[i]);
		assert_true(buffer_append(&frame, word, 4));
	}
	sp_put_id(word, r->id | SP_ID_BIT);
	assert_true(buffer_append(&frame, word, 4));
	Kds__V1__Request envelope = KDS__V1__REQUEST__INIT;
	char method[128], trace[128];
	(void)snprintf(method, sizeof method, "%s", r->method);
	(void)snprintf(trace, sizeof trace, "%s", r->trace_id ? r->trace_id : "");
	envelope.method = method;
	envelope.trace_id = trace;
	envelope.timeout_ms = r->timeout_ms;
	envelope.on_behalf_of = r->on_behalf_of;
	if (r->input) {
		assert_int_equal(message_pack(r->input, &payload, NULL), STATUS_OK);
		envelope.payload = (ProtobufCBinaryData){ .data = payload.data, .len = payload.len };
	}
	assert_int_equal(message_pack(&envelope.base, &frame, NULL), STATUS_OK);
	send_frame(c, frame.data, frame.len);
	buffer_free(&frame);
	buffer_free(&payload);
}

struct reply {
	uint8_t header[SP_MAX_WORDS * 4];
	size_t header_len;
	Kds__V1__Response *response;
};

static struct reply receive(struct client *c)
{
	struct reply r = { .response = NULL };
	uint8_t prefix[8];
	assert_true(sp_read(&c->sp, prefix, sizeof prefix));
	uint64_t len = 0;
	for (int i = 0; i < 8; i++)
		len = len << 8 | prefix[i];
	assert_true(len >= 4 && len < 1 << 20);
	uint8_t *data = malloc(len);
	assert_non_null(data);
	assert_true(sp_read(&c->sp, data, len));
	r.header_len = sp_header_length((struct slice){ data, len });
	assert_true(r.header_len > 0 && r.header_len <= sizeof r.header);
	memcpy(r.header, data, r.header_len);
	r.response = kds__v1__response__unpack(NULL, len - r.header_len, data + r.header_len);
	assert_non_null(r.response);
	free(data);
	return r;
}

static uint32_t id_of(const struct reply *r)
{
	return sp_id(r->header + r->header_len - 4) & ~SP_ID_BIT;
}

static void expect_reply(struct client *c, uint32_t id, enum status_code code, const char *message)
{
	struct reply r = receive(c);
	assert_int_equal(id_of(&r), id);
	if ((enum status_code)r.response->code != code)
		fail_msg("%s: %s", status_name((enum status_code)r.response->code), r.response->message);
	if (message)
		assert_string_equal(r.response->message, message);
	kds__v1__response__free_unpacked(r.response, NULL);
}

static void call(struct client *c, uint32_t id, const char *method, enum status_code code, const char *message)
{
	send_request(c, &(struct request){ .id = id, .method = method });
	expect_reply(c, id, code, message);
}

/*
 * Tests
 */

static void test_server_answers_with_the_whole_header(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *c = open_client(s, certificates->node);
	Kds__V1__EchoRequest in = KDS__V1__ECHO_REQUEST__INIT;
	uint8_t bytes[] = "some bytes";
	in.data = (ProtobufCBinaryData){ .data = bytes, .len = sizeof bytes };
	struct request r = { .hops = { 1, 0x7FFFFFFF, 3 }, .n_hops = 3, .id = 77, .method = "Health.Echo" };
	r.input = &in.base;
	send_request(c, &r);
	struct reply reply = receive(c);
	assert_int_equal(reply.header_len, 16);
	assert_int_equal(sp_id(reply.header + 4), 0x7FFFFFFF);
	assert_int_equal(id_of(&reply), 77);
	assert_int_equal(reply.response->code, KDS__V1__CODE__OK);
	Kds__V1__EchoResponse *out =
	    kds__v1__echo_response__unpack(NULL, reply.response->payload.len, reply.response->payload.data);
	assert_non_null(out);
	assert_int_equal(out->data.len, sizeof bytes);
	assert_memory_equal(out->data.data, bytes, sizeof bytes);
	kds__v1__echo_response__free_unpacked(out, NULL);
	kds__v1__response__free_unpacked(reply.response, NULL);
	close_client(c);
	served_stop(s);
}

static void test_server_many_hops_are_dropped(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *c = open_client(s, certificates->node);
	send_request(c, &(struct request){ .n_hops = 8, .id = 1, .method = "Serial.Show" });
	call(c, 2, "Serial.Show", STATUS_OK, "");
	send_request(c, &(struct request){ .n_hops = 7, .id = 3, .method = "Serial.Show" });
	expect_reply(c, 3, STATUS_OK, "");
	close_client(c);
	served_stop(s);
}

static void test_server_closes_on_a_frame_without_id(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *c = open_client(s, certificates->node);
	send_frame(c, "\0\0\0\1\0\0\0\2", 8);
	assert_true(sp_wait_closed(&c->sp));
	close_client(c);
	served_stop(s);
}

static void test_server_refuses_what_is_wrong(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *c = open_client(s, certificates->node);
	call(c, 1, "Serial.Sho", STATUS_UNIMPLEMENTED, "this server has no method \"Serial.Sho\"");
	call(c, 2, "", STATUS_UNIMPLEMENTED, NULL);
	send_frame(c, "\x80\0\0\3\x0A\x7F", 6);
	expect_reply(c, 3, STATUS_INVALID_ARGUMENT, "request envelope: not a protobuf Request");
	send_frame(c, "\x80\0\0\4", 4); /* an empty envelope */
	expect_reply(c, 4, STATUS_UNIMPLEMENTED, NULL);
	send_frame(c, "\x80\0\0\5\x0A\x0BSerial.Show\x12\x01\x0A", 20);
	expect_reply(c, 5, STATUS_INVALID_ARGUMENT, "ShowRequest: not a protobuf ShowRequest");
	send_frame(c, "\x80\0\0\6\x0A\x0BSerial.Show\x12\x02\x0D\x01", 21);
	expect_reply(c, 6, STATUS_INVALID_ARGUMENT, NULL);
	close_client(c);
	served_stop(s);
}

static void test_server_names_the_field(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *c = open_client(s, certificates->node);
	send_request(c, &(struct request){ .id = 1, .method = "Serial.Allocate" });
	struct reply r = receive(c);
	assert_int_equal(r.response->code, KDS__V1__CODE__INVALID_ARGUMENT);
	assert_string_equal(r.response->message, "count: takes 1 to 65536");
	assert_int_equal(r.response->n_details, 1);
	assert_string_equal(r.response->details[0]->field, "count");
	kds__v1__response__free_unpacked(r.response, NULL);
	/* ListCertificates.subject is no UTF-8 */
	send_frame(c, "\x80\0\0\2\x0A\x17Serial.ListCertificates\x12\x03\x1A\x01\xFF", 34);
	r = receive(c);
	assert_int_equal(r.response->code, KDS__V1__CODE__INVALID_ARGUMENT);
	assert_string_equal(r.response->details[0]->field, "subject");
	kds__v1__response__free_unpacked(r.response, NULL);
	close_client(c);
	served_stop(s);
}

static void test_server_checks_roles(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *node = open_client(s, certificates->node), *admin = open_client(s, certificates->admin);
	call(node, 1, "Serial.SetMin", STATUS_PERMISSION_DENIED,
	     "Serial.SetMin is for: ca, admin; you are: node node1.example.com");
	call(admin, 1, "Serial.SetMin", STATUS_OK, "");
	assert_int_equal(s->routed, 1);
	close_client(node);
	close_client(admin);
	served_stop(s);
}

static void test_server_on_behalf_of(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *admin = open_client(s, certificates->admin), *serial = open_client(s, certificates->serial);
	Kds__V1__Caller who = KDS__V1__CALLER__INIT;
	char name[] = "node7.example.com";
	who.common_name = name;
	who.roles = PEER_NODE;
	/* an administrator may not, not even in the name of one who may less */
	send_request(admin, &(struct request){ .id = 1, .method = "Serial.Show", .on_behalf_of = &who });
	expect_reply(admin, 1, STATUS_PERMISSION_DENIED, NULL);
	send_request(serial, &(struct request){ .id = 1, .method = "Serial.Show", .on_behalf_of = &who });
	expect_reply(serial, 1, STATUS_OK, "");
	assert_string_equal(s->caller, name);
	assert_int_equal(s->caller_roles, PEER_NODE);
	/* the forwarded identity counts, both ways */
	send_request(serial, &(struct request){ .id = 2, .method = "Serial.SetMin", .on_behalf_of = &who });
	expect_reply(serial, 2, STATUS_PERMISSION_DENIED,
		     "Serial.SetMin is for: ca, admin; you are: node node7.example.com");
	who.roles = PEER_CA;
	send_request(serial, &(struct request){ .id = 3, .method = "Serial.SetMin", .on_behalf_of = &who });
	expect_reply(serial, 3, STATUS_OK, "");
	/* an administrator's write never, nor that of one who is something else besides; reads are */
	who.roles = PEER_ADMIN;
	send_request(serial, &(struct request){ .id = 5, .method = "Serial.SetMin", .on_behalf_of = &who });
	expect_reply(serial, 5, STATUS_UNAVAILABLE, NULL);
	who.roles = PEER_ADMIN | PEER_CA;
	send_request(serial, &(struct request){ .id = 6, .method = "Serial.SetMin", .on_behalf_of = &who });
	expect_reply(serial, 6, STATUS_UNAVAILABLE, NULL);
	send_request(serial, &(struct request){ .id = 7, .method = "Serial.Show", .on_behalf_of = &who });
	expect_reply(serial, 7, STATUS_OK, "");
	assert_int_equal(s->caller_roles, PEER_ADMIN | PEER_CA);
	/* a replica that is none any more */
	pthread_mutex_lock(&s->mutex);
	s->removed = true;
	pthread_mutex_unlock(&s->mutex);
	send_request(serial, &(struct request){ .id = 8, .method = "Serial.Show", .on_behalf_of = &who });
	expect_reply(serial, 8, STATUS_PERMISSION_DENIED, NULL);
	call(serial, 9, "Serial.Show", STATUS_OK, "");
	pthread_mutex_lock(&s->mutex);
	s->removed = false;
	pthread_mutex_unlock(&s->mutex);
	who.roles = PEER_SELF;
	send_request(serial, &(struct request){ .id = 4, .method = "Serial.Show", .on_behalf_of = &who });
	expect_reply(serial, 4, STATUS_PERMISSION_DENIED, NULL);
	close_client(admin);
	close_client(serial);
	served_stop(s);
}

/* kds-ca and kds-keydist: a replica gets nothing there in an administrator's name. */
static void test_server_without_forwarders_takes_nothing_on_behalf(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	rpc_server_set_may_forward(s->server, NULL, NULL);
	struct client *serial = open_client(s, certificates->serial);
	Kds__V1__Caller who = KDS__V1__CALLER__INIT;
	char name[] = "admin";
	who.common_name = name;
	who.roles = PEER_ADMIN;
	send_request(serial, &(struct request){ .id = 1, .method = "Serial.SetMin", .on_behalf_of = &who });
	expect_reply(serial, 1, STATUS_PERMISSION_DENIED, NULL);
	send_request(serial, &(struct request){ .id = 2, .method = "Serial.Show", .on_behalf_of = &who });
	expect_reply(serial, 2, STATUS_PERMISSION_DENIED, NULL);
	call(serial, 3, "Serial.Show", STATUS_OK, "");
	close_client(serial);
	served_stop(s);
}

static void test_server_answers_out_of_order_and_drops_repeats(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *c = open_client(s, certificates->node), *other = open_client(s, certificates->node);
	send_request(c, &(struct request){ .id = 1, .method = "Health.Check" });
	served_wait_held(s, 1);
	send_request(c, &(struct request){ .id = 1, .method = "Health.Check" }); /* as req0 does */
	call(c, 2, "Serial.Show", STATUS_OK, "");                                /* overtakes, comes after the repeat */
	assert_int_equal(s->n_held, 1);
	/* the same id behind another hop, or on another connection, is another request */
	send_request(c, &(struct request){ .hops = { 9 }, .n_hops = 1, .id = 1, .method = "Health.Check" });
	send_request(other, &(struct request){ .id = 1, .method = "Health.Check" });
	served_wait_held(s, 3);
	served_release(s, "name");
	struct reply r = receive(c);
	assert_int_equal(r.header_len, 4);
	kds__v1__response__free_unpacked(r.response, NULL);
	expect_reply(c, 1, STATUS_OK, "");
	expect_reply(other, 1, STATUS_OK, "");
	/* once answered, the id is free */
	call(c, 1, "Serial.Show", STATUS_OK, "");
	close_client(c);
	close_client(other);
	served_stop(s);
}

static void test_server_deadline(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *c = open_client(s, certificates->node);
	send_request(c, &(struct request){ .id = 1, .method = "Health.Check", .timeout_ms = 60000 });
	send_request(c, &(struct request){ .id = 2, .method = "Health.Check", .timeout_ms = 30 });
	expect_reply(c, 2, STATUS_DEADLINE_EXCEEDED, NULL);
	assert_true(rpc_call_expired(s->held[1]));
	assert_false(rpc_call_expired(s->held[0]));
	served_release(s, "late"); /* the late answer is dropped */
	expect_reply(c, 1, STATUS_OK, "");
	call(c, 3, "Serial.Show", STATUS_OK, "");
	struct rpc_server_stats stats;
	rpc_server_stats(s->server, &stats);
	assert_int_equal(stats.expired, 1);
	assert_int_equal(stats.calls, 3);
	assert_int_equal(stats.running, 0);
	close_client(c);
	served_stop(s);
}

static void test_server_connection_gone_expires_its_calls(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *c = open_client(s, certificates->node);
	send_request(c, &(struct request){ .id = 1, .method = "Health.Check" });
	send_request(c, &(struct request){ .id = 2, .method = "Serial.Record" });
	served_wait_held(s, 2);
	struct rpc_server_stats stats;
	rpc_server_stats(s->server, &stats);
	assert_int_equal(stats.running, 1);
	assert_int_equal(stats.waiting, 1);
	close_client(c);
	served_close(s); /* waits for `down` */
	assert_true(rpc_call_expired(s->held[0]));
	assert_true(rpc_call_expired(s->held[1]));
	served_stop(s);
}

static void test_server_limits(void **state)
{
	(void)state;
	struct rpc_server_limits limits = RPC_SERVER_LIMITS_DEFAULT;
	limits.max_calls = 2;
	limits.max_waiting = 1;
	limits.max_calls_connection = 3;
	struct served *s = served_start(certificates, ADDRESS, &limits);
	struct client *c = open_client(s, certificates->node), *other = open_client(s, certificates->node);
	send_request(c, &(struct request){ .id = 1, .method = "Health.Check" });
	send_request(c, &(struct request){ .id = 2, .method = "Health.Check" });
	send_request(c, &(struct request){ .id = 3, .method = "Serial.Record" });
	served_wait_held(s, 3);
	call(other, 1, "Serial.Show", STATUS_RESOURCE_EXHAUSTED,
	     "Serial.Show: this server has too many requests at hand; try again later");
	call(other, 2, "Serial.Record", STATUS_RESOURCE_EXHAUSTED, NULL);
	struct rpc_server_stats stats;
	rpc_server_stats(s->server, &stats);
	assert_int_equal(stats.shed, 2);
	served_release(s, "");
	for (int i = 0; i < 3; i++) {
		struct reply r = receive(c);
		kds__v1__response__free_unpacked(r.response, NULL);
	}
	call(other, 3, "Serial.Show", STATUS_OK, "");
	close_client(c);
	close_client(other);
	served_stop(s);

	limits.max_calls = 100;
	limits.max_calls_connection = 1;
	s = served_start(certificates, ADDRESS, &limits);
	c = open_client(s, certificates->node);
	other = open_client(s, certificates->node);
	send_request(c, &(struct request){ .id = 1, .method = "Health.Check" });
	served_wait_held(s, 1);
	call(c, 2, "Serial.Show", STATUS_RESOURCE_EXHAUSTED,
	     "Serial.Show: this connection has too many requests at hand; try again later");
	call(other, 2, "Serial.Show", STATUS_OK, "");
	served_release(s, "");
	expect_reply(c, 1, STATUS_OK, "");
	call(c, 3, "Serial.Show", STATUS_OK, ""); /* what is answered no longer counts */
	call(c, 4, "Serial.Show", STATUS_OK, "");
	close_client(c);
	close_client(other);
	served_stop(s);
}

/* Serial.Show until it is refused, at most `most` times: how often it was not. */
static unsigned show_until_refused(struct client *c, unsigned most, struct reply *ret_refusal)
{
	for (unsigned n = 0; n < most; n++) {
		send_request(c, &(struct request){ .id = n + 1, .method = "Serial.Show" });
		struct reply r = receive(c);
		if (r.response->code != KDS__V1__CODE__OK) {
			*ret_refusal = r;
			return n;
		}
		kds__v1__response__free_unpacked(r.response, NULL);
	}
	return most;
}

static void test_server_rate(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *c = open_client(s, certificates->node), *admin = open_client(s, certificates->admin);
	uint64_t before = tally_sum(TALLY_REQUEST_RATE);
	struct reply refusal = { .response = NULL };
	assert_int_equal(show_until_refused(c, 100, &refusal), 100); /* none is set */
	rpc_server_set_rate(s->server, SHOW_RATE, 1);
	assert_in_range(show_until_refused(c, 1000, &refusal), 10, 999);
	assert_int_equal(refusal.response->code, KDS__V1__CODE__RESOURCE_EXHAUSTED);
	assert_int_equal(refusal.response->n_details, 1);
	assert_string_equal(refusal.response->details[0]->reason, "RATE_LIMITED");
	assert_in_range(refusal.response->details[0]->retry_after_ms, 1, 1000);
	assert_non_null(strstr(refusal.response->message, "try again in"));
	kds__v1__response__free_unpacked(refusal.response, NULL);
	assert_true(tally_sum(TALLY_REQUEST_RATE) > before);
	/* A new connection begins no new account; another method and another caller are not meant. */
	close_client(c);
	c = open_client(s, certificates->node);
	assert_in_range(show_until_refused(c, 1000, &refusal), 0, 9);
	kds__v1__response__free_unpacked(refusal.response, NULL);
	call(c, 2000, "Health.Echo", STATUS_OK, "");
	assert_int_equal(show_until_refused(admin, 100, &refusal), 100);
	rpc_server_set_rate(s->server, SHOW_RATE, 0);
	assert_int_equal(show_until_refused(c, 100, &refusal), 100);
	close_client(c);
	close_client(admin);
	served_stop(s);
}

static void hold_many(struct served *s, struct client *c, const char *method, unsigned n, unsigned held)
{
	for (uint32_t i = 1; i <= n; i++)
		send_request(c, &(struct request){ .id = i, .method = method });
	served_wait_held(s, held);
}

static void test_server_limits_of_one_identity(void **state)
{
	(void)state;
	struct rpc_server_limits limits = RPC_SERVER_LIMITS_DEFAULT;
	limits.node = (struct rpc_share){ .calls = 3, .waiting = 2, .bytes = 20000 };
	struct served *s = served_start(certificates, ADDRESS, &limits);
	struct client *c = open_client(s, certificates->node), *again = open_client(s, certificates->node);
	struct client *admin = open_client(s, certificates->admin);
	uint64_t calls = tally_sum(TALLY_REQUESTS_IDENTITY), waiting = tally_sum(TALLY_WAITING_IDENTITY);
	uint64_t memory = tally_sum(TALLY_REQUEST_MEMORY);
	hold_many(s, c, "Health.Check", 2, 2);
	hold_many(s, again, "Health.Check", 1, 3); /* over both connections */
	call(again, 9, "Serial.Show", STATUS_RESOURCE_EXHAUSTED,
	     "Serial.Show: you have too many requests at hand; try again later");
	send_request(c, &(struct request){ .id = 10, .method = "Serial.Record" });
	send_request(c, &(struct request){ .id = 11, .method = "Serial.Record" });
	served_wait_held(s, 5);
	call(again, 12, "Serial.Record", STATUS_RESOURCE_EXHAUSTED, NULL);
	call(admin, 1, "Serial.Show", STATUS_OK, "");
	served_release(s, "");
	for (int i = 0; i < 4; i++)
		kds__v1__response__free_unpacked(receive(c).response, NULL);
	Kds__V1__EchoRequest in = KDS__V1__ECHO_REQUEST__INIT;
	uint8_t bytes[30000] = { 1 };
	in.data = (ProtobufCBinaryData){ .data = bytes, .len = sizeof bytes };
	send_request(c, &(struct request){ .id = 20, .method = "Health.Echo", .input = &in.base });
	expect_reply(c, 20, STATUS_RESOURCE_EXHAUSTED,
		     "Health.Echo: your requests at hand take too much memory; try again later");
	send_request(admin, &(struct request){ .id = 20, .method = "Health.Echo", .input = &in.base });
	expect_reply(admin, 20, STATUS_OK, "");
	assert_int_equal(tally_sum(TALLY_REQUESTS_IDENTITY), calls + 1);
	assert_int_equal(tally_sum(TALLY_WAITING_IDENTITY), waiting + 1);
	assert_int_equal(tally_sum(TALLY_REQUEST_MEMORY), memory + 1);
	close_client(c);
	close_client(again);
	close_client(admin);
	served_stop(s);
}

static void test_server_keeps_a_share_for_each_role(void **state)
{
	(void)state;
	struct rpc_server_limits limits = RPC_SERVER_LIMITS_DEFAULT;
	limits.max_calls = 16;
	struct served *s = served_start(certificates, ADDRESS, &limits);
	struct client *c = open_client(s, certificates->node), *serial = open_client(s, certificates->serial);
	struct client *admin = open_client(s, certificates->admin);
	hold_many(s, c, "Health.Check", 12, 12);
	call(c, 13, "Serial.Show", STATUS_RESOURCE_EXHAUSTED,
	     "Serial.Show: this server has too many requests at hand; try again later");
	hold_many(s, serial, "Health.Check", 2, 14);
	call(serial, 3, "Serial.Show", STATUS_RESOURCE_EXHAUSTED, NULL);
	call(admin, 1, "Serial.Show", STATUS_OK, "");
	close_client(c);
	close_client(serial);
	close_client(admin);
	served_stop(s);
}

/* Who passes a call on answers for it as well: a replica's flood is a replica's, whomever it names. */
static void test_server_counts_forwarded_calls_twice(void **state)
{
	(void)state;
	struct rpc_server_limits limits = RPC_SERVER_LIMITS_DEFAULT;
	limits.node.calls = 2;
	limits.service.calls = 3;
	struct served *s = served_start(certificates, ADDRESS, &limits);
	struct client *serial = open_client(s, certificates->serial);
	Kds__V1__Caller who = KDS__V1__CALLER__INIT;
	char names[2][8] = { "one", "two" };
	who.roles = PEER_NODE;
	who.common_name = names[0];
	for (uint32_t i = 1; i <= 2; i++)
		send_request(serial, &(struct request){ .id = i, .method = "Health.Check", .on_behalf_of = &who });
	served_wait_held(s, 2);
	send_request(serial, &(struct request){ .id = 3, .method = "Serial.Show", .on_behalf_of = &who });
	expect_reply(serial, 3, STATUS_RESOURCE_EXHAUSTED, NULL);
	who.common_name = names[1];
	send_request(serial, &(struct request){ .id = 4, .method = "Serial.Show", .on_behalf_of = &who });
	expect_reply(serial, 4, STATUS_OK, "");
	send_request(serial, &(struct request){ .id = 5, .method = "Health.Check", .on_behalf_of = &who });
	served_wait_held(s, 3);
	send_request(serial, &(struct request){ .id = 6, .method = "Serial.Show", .on_behalf_of = &who });
	expect_reply(serial, 6, STATUS_RESOURCE_EXHAUSTED, NULL);
	close_client(serial);
	served_stop(s);
}

static void test_server_counts_what_it_refuses(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *c = open_client(s, certificates->node);
	uint64_t malformed = tally_sum(TALLY_REQUEST_MALFORMED), forbidden = tally_sum(TALLY_REQUEST_FORBIDDEN);
	uint64_t expired = tally_sum(TALLY_REQUEST_EXPIRED);
	send_frame(c, "\x80\0\0\1\x0A\x7F", 6);
	expect_reply(c, 1, STATUS_INVALID_ARGUMENT, NULL);
	send_frame(c, "\x80\0\0\2\x0A\x0BSerial.Show\x12\x01\x0A", 20);
	expect_reply(c, 2, STATUS_INVALID_ARGUMENT, NULL);
	call(c, 3, "Serial.SetMin", STATUS_PERMISSION_DENIED, NULL);
	send_request(c, &(struct request){ .id = 4, .method = "Health.Check", .timeout_ms = 20 });
	expect_reply(c, 4, STATUS_DEADLINE_EXCEEDED, NULL);
	assert_int_equal(tally_sum(TALLY_REQUEST_MALFORMED), malformed + 2);
	assert_int_equal(tally_sum(TALLY_REQUEST_FORBIDDEN), forbidden + 1);
	assert_int_equal(tally_sum(TALLY_REQUEST_EXPIRED), expired + 1);
	close_client(c);
	served_stop(s);
}

/* What fits is the payload's affair alone; what is relayed is bounded as what a handler makes. */
static void test_server_bounds_payloads(void **state)
{
	(void)state;
	struct rpc_server_limits limits = RPC_SERVER_LIMITS_DEFAULT;
	limits.max_request = limits.max_answer = 5000;
	struct served *s = served_start(certificates, ADDRESS, &limits);
	struct client *c = open_client(s, certificates->admin);
	static uint8_t bytes[5001];
	Kds__V1__EchoRequest in = KDS__V1__ECHO_REQUEST__INIT;
	in.data = (ProtobufCBinaryData){ .data = bytes, .len = 4997 }; /* with its tag and length 5000 */
	char trace[65];
	memset(trace, 't', 64);
	trace[64] = '\0';
	send_request(c, &(struct request){ .id = 1, .method = "Health.Echo", .input = &in.base, .trace_id = trace });
	expect_reply(c, 1, STATUS_OK, "");
	in.data.len++;
	send_request(c, &(struct request){ .id = 2, .method = "Health.Echo", .input = &in.base });
	expect_reply(c, 2, STATUS_INVALID_ARGUMENT,
		     "Health.Echo: the request takes 5001 bytes, more than the 5000 of a message; send less at once");
	s->take_routes = true;
	for (size_t len = 5000; len <= 5001; len++) {
		send_request(c, &(struct request){ .id = (uint32_t)len, .method = "Serial.SetMin" });
		served_wait_held(s, 1);
		rpc_call_relay(s->held[0], STATUS_OK, "", (struct slice){ bytes, len });
		s->n_held = 0;
		expect_reply(c, (uint32_t)len, len == 5000 ? STATUS_OK : STATUS_RESOURCE_EXHAUSTED, NULL);
	}
	close_client(c);
	served_stop(s);
}

static void *drain(void *arg)
{
	rpc_server_drain(arg, 20000);
	return NULL;
}

static void test_server_drains(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *c = open_client(s, certificates->node), *poll;
	struct rpc_server_stats stats;
	pthread_t thread;
	send_request(c, &(struct request){ .id = 1, .method = "Health.Check" });
	served_wait_held(s, 1);
	rpc_server_drain(s->server, 1); /* in vain, but not for ever */
	assert_int_equal(pthread_create(&thread, NULL, drain, s->server), 0);
	call(c, 2, "Serial.Show", STATUS_UNAVAILABLE, "Serial.Show: this server is stopping; ask another");
	served_release(s, "node");
	expect_reply(c, 1, STATUS_OK, "");
	pthread_join(thread, NULL);
	close_client(c);
	served_stop(s);

	s = served_start(certificates, ADDRESS, NULL);
	poll = open_client(s, certificates->node);
	send_request(poll, &(struct request){ .id = 1, .method = "Serial.Record" });
	served_wait_held(s, 1);
	rpc_server_drain(s->server, 20000); /* no long poll is waited for: the test would take so long */
	rpc_server_stats(s->server, &stats);
	assert_int_equal(stats.waiting, 1);
	close_client(poll);
	served_stop(s);
}

static void test_server_bounds_request_and_answer(void **state)
{
	(void)state;
	struct rpc_server_limits limits = RPC_SERVER_LIMITS_DEFAULT;
	limits.max_answer = 5000;
	limits.max_unpacked = 20000;
	struct served *s = served_start(certificates, ADDRESS, &limits);
	struct client *c = open_client(s, certificates->node);
	s->big_answer = 4900;
	call(c, 1, "Serial.ListCertificates", STATUS_OK, "");
	s->big_answer = 5000;
	call(c, 2, "Serial.ListCertificates", STATUS_RESOURCE_EXHAUSTED, NULL);
	Kds__V1__EchoRequest in = KDS__V1__ECHO_REQUEST__INIT;
	uint8_t bytes[30000] = { 1 };
	in.data = (ProtobufCBinaryData){ .data = bytes, .len = sizeof bytes };
	send_request(c, &(struct request){ .id = 3, .method = "Health.Echo", .input = &in.base });
	expect_reply(c, 3, STATUS_RESOURCE_EXHAUSTED, NULL);
	close_client(c);
	served_stop(s);

	limits = RPC_SERVER_LIMITS_DEFAULT;
	limits.max_request_bytes = 20000;
	s = served_start(certificates, ADDRESS, &limits);
	c = open_client(s, certificates->node);
	send_request(c, &(struct request){ .id = 1, .method = "Health.Echo", .input = &in.base });
	expect_reply(c, 1, STATUS_RESOURCE_EXHAUSTED, NULL);
	in.data.len = 8000;
	for (uint32_t i = 2; i < 8; i++) {
		send_request(c, &(struct request){ .id = i, .method = "Health.Echo", .input = &in.base });
		expect_reply(c, i, STATUS_OK, "");
	}
	close_client(c);
	served_stop(s);
}

/* Two bytes a piece on the wire, and two hundred in memory. */
static void test_server_counts_what_requests_take_unpacked(void **state)
{
	(void)state;
	struct rpc_server_limits limits = RPC_SERVER_LIMITS_DEFAULT;
	limits.max_request_bytes = 300000;
	struct served *s = served_start(certificates, ADDRESS, &limits);
	struct client *c = open_client(s, certificates->node);
	Kds__V1__IssuedCertificate empty = KDS__V1__ISSUED_CERTIFICATE__INIT, *many[1000];
	for (size_t i = 0; i < 1000; i++)
		many[i] = &empty;
	Kds__V1__RecordRequest in = KDS__V1__RECORD_REQUEST__INIT;
	in.certificates = many;
	in.n_certificates = 1000;
	send_request(c, &(struct request){ .id = 1, .method = "Serial.Record", .input = &in.base });
	served_wait_held(s, 1);
	send_request(c, &(struct request){ .id = 2, .method = "Serial.Record", .input = &in.base });
	expect_reply(c, 2, STATUS_RESOURCE_EXHAUSTED,
		     "Serial.Record: the requests at hand take too much memory; try again later");
	served_release(s, "");
	expect_reply(c, 1, STATUS_OK, NULL);
	send_request(c, &(struct request){ .id = 3, .method = "Serial.Record", .input = &in.base });
	served_wait_held(s, 1);
	served_release(s, "");
	expect_reply(c, 3, STATUS_OK, NULL);
	close_client(c);
	served_stop(s);
}

static void test_server_route_takes_and_relays(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	s->take_routes = true;
	struct client *c = open_client(s, certificates->admin);
	send_request(c, &(struct request){ .id = 1, .method = "Serial.SetMin" });
	served_wait_held(s, 1);
	struct status st = { .code = STATUS_INVALID_ARGUMENT, .message = "min_serial: too low" };
	rpc_call_relay_error(s->held[0], &st, &(struct rpc_detail){ .field = "min_serial" });
	s->n_held = 0;
	struct reply r = receive(c);
	assert_int_equal(r.response->code, KDS__V1__CODE__INVALID_ARGUMENT);
	assert_string_equal(r.response->message, "min_serial: too low");
	assert_string_equal(r.response->details[0]->field, "min_serial");
	kds__v1__response__free_unpacked(r.response, NULL);
	send_request(c, &(struct request){ .id = 2, .method = "Serial.SetMin" });
	served_wait_held(s, 1);
	served_release(s, "relayed");
	expect_reply(c, 2, STATUS_OK, "");
	close_client(c);
	served_stop(s);
}

static void test_server_pipelining(void **state)
{
	(void)state;
	struct served *s = served_start(certificates, ADDRESS, NULL);
	struct client *c = open_client(s, certificates->node);
	for (uint32_t i = 1; i <= 200; i++)
		send_request(c, &(struct request){ .id = i, .method = "Serial.Show", .trace_id = "trace" });
	for (uint32_t i = 1; i <= 200; i++)
		expect_reply(c, i, STATUS_OK, "");
	assert_int_equal(s->shows, 200);
	assert_string_equal(s->trace_id, "trace");
	close_client(c);
	served_stop(s);
}

static void test_server_add_refuses_gaps(void **state)
{
	(void)state;
	static const struct rpc_access table[] = { { "Check", PEER_ANYONE, 0, 0 }, { "Echo", PEER_ANYONE, 0, 0 } };
	static const struct rpc_access misspelt[] = { { "Check", PEER_ANYONE, 0, 0 }, { "Ech", PEER_ANYONE, 0, 0 } };
	struct status st;
	struct rpc_server *s;
	assert_int_equal(rpc_server_new(NULL, &st, &s), STATUS_OK);
	struct served *full = served_start(certificates, ADDRESS, NULL);
	Kds__V1__Health_Service service = full->health.base;
	assert_int_equal(rpc_server_add(s, &service.base, table, 1, &st), STATUS_INTERNAL);
	assert_string_equal(st.message, "Health.Echo has no access row");
	assert_int_equal(rpc_server_add(s, &service.base, misspelt, 2, &st), STATUS_INTERNAL);
	rpc_server_free(s);
	assert_int_equal(rpc_server_new(NULL, &st, &s), STATUS_OK);
	service.echo = NULL;
	assert_int_equal(rpc_server_add(s, &service.base, table, 2, &st), STATUS_INTERNAL);
	assert_string_equal(st.message, "Health.Echo has no function");
	rpc_server_free(s);
	assert_int_equal(rpc_server_add(full->server, &full->health.base.base, table, 2, &st), STATUS_INTERNAL);
	assert_string_equal(st.message, "Health.Check is registered twice");
	served_stop(full);
	rpc_server_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_server_answers_with_the_whole_header),
		cmocka_unit_test(test_server_many_hops_are_dropped),
		cmocka_unit_test(test_server_closes_on_a_frame_without_id),
		cmocka_unit_test(test_server_refuses_what_is_wrong),
		cmocka_unit_test(test_server_names_the_field),
		cmocka_unit_test(test_server_checks_roles),
		cmocka_unit_test(test_server_on_behalf_of),
		cmocka_unit_test(test_server_without_forwarders_takes_nothing_on_behalf),
		cmocka_unit_test(test_server_answers_out_of_order_and_drops_repeats),
		cmocka_unit_test(test_server_deadline),
		cmocka_unit_test(test_server_connection_gone_expires_its_calls),
		cmocka_unit_test(test_server_limits),
		cmocka_unit_test(test_server_rate),
		cmocka_unit_test(test_server_limits_of_one_identity),
		cmocka_unit_test(test_server_keeps_a_share_for_each_role),
		cmocka_unit_test(test_server_counts_forwarded_calls_twice),
		cmocka_unit_test(test_server_counts_what_it_refuses),
		cmocka_unit_test(test_server_bounds_payloads),
		cmocka_unit_test(test_server_drains),
		cmocka_unit_test(test_server_bounds_request_and_answer),
		cmocka_unit_test(test_server_counts_what_requests_take_unpacked),
		cmocka_unit_test(test_server_route_takes_and_relays),
		cmocka_unit_test(test_server_pipelining),
		cmocka_unit_test(test_server_add_refuses_gaps),
	};
	return cmocka_run_group_tests_name("rpc", tests, make_certificates, free_certificates);
}
