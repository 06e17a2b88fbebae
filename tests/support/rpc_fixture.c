#include "tests/support/rpc_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/support/support.h"

struct rpc_pki *rpc_pki_new(void)
{
	struct rpc_pki *p = calloc(1, sizeof *p);
	assert_non_null(p);
	p->pki = pki_new();
	struct slice pem = pki_ca_pem(p->pki, PKI_INFRASTRUCTURE);
	struct slice ca = pki_ca_der(p->pki, PKI_CLUSTER_CA);
	assert_int_equal(trust_new(PKI_CLUSTER, PKI_KDS_NAME, &pem, NULL, &p->trust), STATUS_OK);
	assert_int_equal(trust_set_cluster_cas(p->trust, &ca, 1, NULL), STATUS_OK);
	p->serial = pki_service(p->pki, "serial", "serial1");
	p->admin = pki_admin(p->pki);
	p->node = pki_node(p->pki, "node1.example.com", 0);
	p->stranger = pki_issue(p->pki, &(struct pki_spec){ .common_name = "stranger", .ca = PKI_STRANGER });
	return p;
}

void rpc_pki_free(struct rpc_pki *p)
{
	trust_free(p->trust);
	pki_free(p->pki);
	free(p);
}

struct tls_credentials *rpc_pki_credentials(const struct pki_leaf *leaf)
{
	struct tls_credentials *c = NULL;
	struct status st = { .code = STATUS_OK };
	if (tls_credentials_load(leaf ? leaf->certificate : NULL, leaf ? leaf->key : NULL, TLS_MINIMUM_1_3, &st, &c) !=
	    STATUS_OK)
		fail_msg("%s", st.message);
	return c;
}

static void hold(struct served *s, struct rpc_call *call)
{
	pthread_mutex_lock(&s->mutex);
	assert_true(s->n_held < HELD_MAX);
	s->held[s->n_held++] = call;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->mutex);
}

static struct served *served_of_health(Kds__V1__Health_Service *service)
{
	struct served *s;
	memcpy(&s, service + 1, sizeof s);
	return s;
}

static struct served *served_of_serial(Kds__V1__Serial_Service *service)
{
	struct served *s;
	memcpy(&s, service + 1, sizeof s);
	return s;
}

static void health_check(Kds__V1__Health_Service *service, const Kds__V1__CheckRequest *input,
			 Kds__V1__CheckResponse_Closure closure, void *closure_data)
{
	(void)input;
	(void)closure;
	struct served *s = served_of_health(service);
	pthread_mutex_lock(&s->mutex);
	s->checks++;
	pthread_mutex_unlock(&s->mutex);
	hold(s, closure_data);
}

static void health_echo(Kds__V1__Health_Service *service, const Kds__V1__EchoRequest *input,
			Kds__V1__EchoResponse_Closure closure, void *closure_data)
{
	struct served *s = served_of_health(service);
	pthread_mutex_lock(&s->mutex);
	s->echoes++;
	pthread_mutex_unlock(&s->mutex);
	rpc_call_secret(closure_data);
	Kds__V1__EchoResponse out = KDS__V1__ECHO_RESPONSE__INIT;
	out.data = input->data;
	closure(&out, closure_data);
}

static void serial_allocate(Kds__V1__Serial_Service *service, const Kds__V1__AllocateRequest *input,
			    Kds__V1__AllocateResponse_Closure closure, void *closure_data)
{
	(void)service;
	(void)input;
	(void)closure;
	rpc_call_fail_field(closure_data, "count", "takes %d to %d", 1, 65536);
}

static void serial_record(Kds__V1__Serial_Service *service, const Kds__V1__RecordRequest *input,
			  Kds__V1__RecordResponse_Closure closure, void *closure_data)
{
	(void)input;
	(void)closure;
	hold(served_of_serial(service), closure_data);
}

static void serial_set_min(Kds__V1__Serial_Service *service, const Kds__V1__SetMinRequest *input,
			   Kds__V1__SerialStatus_Closure closure, void *closure_data)
{
	(void)service;
	Kds__V1__SerialStatus out = KDS__V1__SERIAL_STATUS__INIT;
	out.min_serial = input->value_case == KDS__V1__SET_MIN_REQUEST__VALUE_MIN_SERIAL ? input->min_serial : 0;
	closure(&out, closure_data);
}

static bool note_show(struct served *s, const struct rpc_call *call)
{
	struct slice id = rpc_call_request_id(call);
	const struct identity *who = rpc_call_identity(call);
	pthread_mutex_lock(&s->mutex);
	if (s->shows++ == 0) {
		memcpy(s->first_id, id.data, id.len);
		s->first_id_len = id.len;
	}
	s->shows_of_id += id.len == s->first_id_len && memcmp(id.data, s->first_id, id.len) == 0;
	(void)snprintf(s->trace_id, sizeof s->trace_id, "%s", rpc_call_trace_id(call));
	(void)snprintf(s->caller, sizeof s->caller, "%s", who->common_name);
	s->caller_roles = who->roles;
	bool able = s->unavailable == 0;
	s->unavailable -= !able;
	pthread_mutex_unlock(&s->mutex);
	return able;
}

static void serial_show(Kds__V1__Serial_Service *service, const Kds__V1__ShowRequest *input,
			Kds__V1__SerialStatus_Closure closure, void *closure_data)
{
	(void)input;
	if (!note_show(served_of_serial(service), closure_data)) {
		char ask[64];
		struct served *s = served_of_serial(service);
		pthread_mutex_lock(&s->mutex);
		(void)snprintf(ask, sizeof ask, "%s", s->ask);
		pthread_mutex_unlock(&s->mutex);
		rpc_call_redirect(closure_data, ask, "no leader just now");
		return;
	}
	Kds__V1__SerialStatus out = KDS__V1__SERIAL_STATUS__INIT;
	out.last_serial = 42;
	closure(&out, closure_data);
}

static void serial_list(Kds__V1__Serial_Service *service, const Kds__V1__ListCertificatesRequest *input,
			Kds__V1__ListCertificatesResponse_Closure closure, void *closure_data)
{
	(void)input;
	struct served *s = served_of_serial(service);
	Kds__V1__ListCertificatesResponse out = KDS__V1__LIST_CERTIFICATES_RESPONSE__INIT;
	Kds__V1__IssuedCertificate c = KDS__V1__ISSUED_CERTIFICATE__INIT, *list[] = { &c };
	char *subject = malloc(s->big_answer + 1);
	assert_non_null(subject);
	memset(subject, 'x', s->big_answer);
	subject[s->big_answer] = '\0';
	c.subject = subject;
	out.n_certificates = 1;
	out.certificates = list;
	closure(&out, closure_data);
	free(subject);
}

static bool route(void *arg, struct rpc_call *call, const char *method, struct slice payload)
{
	struct served *s = arg;
	(void)payload;
	assert_string_equal(method, "Serial.SetMin");
	pthread_mutex_lock(&s->mutex);
	bool take = s->take_routes;
	s->routed++;
	pthread_mutex_unlock(&s->mutex);
	if (take)
		hold(s, call);
	return take;
}

static bool may_forward(void *arg, const struct identity *peer)
{
	struct served *s = arg;
	(void)peer;
	pthread_mutex_lock(&s->mutex);
	bool may = !s->removed;
	pthread_mutex_unlock(&s->mutex);
	return may;
}

static void add_services(struct served *s)
{
	static const struct rpc_access health[] = {
		{ "Check", PEER_ANYONE, 0, 0 },
		{ "Echo", PEER_ANYONE, RPC_ANONYMOUS, 0 },
	};
	static const struct rpc_access serial[] = {
		{ "Allocate", PEER_ANYONE, 0, 0 },
		{ "Record", PEER_ANYONE, RPC_LONG_POLL, 0 },
		{ "SetMin", PEER_ADMIN | PEER_CA, RPC_ROUTED, 0 },
		{ "Show", PEER_ANYONE, RPC_READ, SHOW_RATE },
		{ "ListCertificates", PEER_ANYONE, 0, 0 },
	};
	s->health.base = (Kds__V1__Health_Service)KDS__V1__HEALTH__INIT(health_);
	s->health.served = s;
	s->serial.base = (Kds__V1__Serial_Service){
		.base = KDS__V1__SERIAL__BASE_INIT,
		.allocate = serial_allocate,
		.record = serial_record,
		.set_min = serial_set_min,
		.show = serial_show,
		.list_certificates = serial_list,
	};
	s->serial.served = s;
	assert_int_equal(rpc_server_add(s->server, &s->health.base.base, health, 2, NULL), STATUS_OK);
	assert_int_equal(rpc_server_add(s->server, &s->serial.base.base, serial, 5, NULL), STATUS_OK);
	rpc_server_set_route(s->server, route, s);
	rpc_server_set_may_forward(s->server, may_forward, s);
}

struct served *served_start(const struct rpc_pki *p, const char *address, const struct rpc_server_limits *limits)
{
	struct served *s = calloc(1, sizeof *s);
	assert_non_null(s);
	pthread_mutex_init(&s->mutex, NULL);
	pthread_cond_init(&s->changed, NULL);
	assert_int_equal(rpc_server_new(limits, NULL, &s->server), STATUS_OK);
	add_services(s);
	struct tls_credentials *credentials = rpc_pki_credentials(p->serial);
	struct listener_options options = {
		.address = address,
		.self = SP_REP,
		.credentials = credentials,
		.trust = p->trust,
		.limits = CONN_LIMITS_DEFAULT,
		.handlers = rpc_server_handlers(s->server),
	};
	struct status st = { .code = STATUS_OK };
	if (listener_start(&options, &st, &s->listener) != STATUS_OK)
		fail_msg("%s", st.message);
	tls_credentials_unref(credentials);
	return s;
}

const char *served_address(const struct served *s)
{
	return listener_address(s->listener);
}

void served_wait_held(struct served *s, unsigned n)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 20;
	pthread_mutex_lock(&s->mutex);
	int rv = 0;
	while (s->n_held < n && rv == 0)
		rv = pthread_cond_timedwait(&s->changed, &s->mutex, &until);
	unsigned held = s->n_held;
	pthread_mutex_unlock(&s->mutex);
	if (held < n)
		fail_msg("%u calls are held, not %u", held, n);
}

void served_release(struct served *s, const char *name)
{
	struct rpc_call *held[HELD_MAX];
	pthread_mutex_lock(&s->mutex);
	unsigned n = s->n_held;
	memcpy(held, s->held, sizeof held);
	s->n_held = 0;
	pthread_mutex_unlock(&s->mutex);
	Kds__V1__CheckResponse out = KDS__V1__CHECK_RESPONSE__INIT;
	char text[64];
	(void)snprintf(text, sizeof text, "%s", name);
	out.name = text;
	uint8_t packed[128];
	size_t len = kds__v1__check_response__pack(&out, packed);
	for (unsigned i = 0; i < n; i++)
		rpc_call_relay(held[i], STATUS_OK, "", (struct slice){ packed, len });
}

void served_close(struct served *s)
{
	if (s->listener)
		listener_stop(s->listener);
	s->listener = NULL;
}

void served_stop(struct served *s)
{
	served_close(s);
	served_release(s, "");
	rpc_server_free(s->server);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->mutex);
	free(s);
}
