// links: service_serial common_daemon common_rpc common_net common_base kds_proto
/*
 * What kds-serial answers: three replicas in one process, engines, servers and forwarding, called over loopback TLS by
 * an administrator, a CA, a distributor and a node. Each test asks leader and followers alike.
 */
#include "tests/support/support.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <gnutls/crypto.h>

#include "common/base/clock.h"
#include "services/serial/api.h"
#include "services/serial/level.h"
#include "tests/support/pki.h"

#define N 3
#define PATIENCE_MS 30000

enum caller { ADMIN, CA, KEYDIST, SERIAL, CALLERS };

struct replica {
	char dir[512], name[32], peer[64], rpc[64];
	struct tls_credentials *credentials;
	struct engine *engine;
	struct watch *watch;
	struct forward *forward;
	struct backup *backup;
	struct rpc_server *server;
	struct api *api;
	struct listener *listener;
};

static struct cluster {
	struct pki *pki;
	struct trust *trust;
	char *dir;
	struct engine_member members[N];
	struct replica replicas[N];
	struct tls_credentials *callers[CALLERS]; /* SERIAL: serial9, which is no member */
	struct rpc_channel *channels[CALLERS][N]; /* to one replica alone */
	int leader, follower;
} cluster;

static void pause_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
	nanosleep(&t, NULL);
}

static void ok(enum status_code code, const struct status *st)
{
	if (code != STATUS_OK)
		fail_msg("%s", st->message);
}

static void changed(void *arg, struct state *state, uint64_t revision)
{
	(void)state;
	watch_changed(((struct replica *)arg)->watch, revision);
}

static void leader_changed(void *arg)
{
	forward_leader_changed(((struct replica *)arg)->forward);
}

static struct tls_credentials *load(const struct pki_leaf *leaf)
{
	struct status st;
	struct tls_credentials *credentials = NULL;
	ok(tls_credentials_load(leaf->certificate, leaf->key, TLS_MINIMUM_1_3, &st, &credentials), &st);
	return credentials;
}

static void prepare_replica(int i)
{
	struct replica *r = &cluster.replicas[i];
	snprintf(r->dir, sizeof r->dir, "%s/serial%d", cluster.dir, i + 1);
	snprintf(r->name, sizeof r->name, "serial%d", i + 1);
	snprintf(r->peer, sizeof r->peer, "%s.%d:7401", support_net(), i + 1);
	snprintf(r->rpc, sizeof r->rpc, "%s.%d:7400", support_net(), i + 1);
	r->credentials = load(pki_service(cluster.pki, "serial", r->name));
	cluster.members[i] = (struct engine_member){ (uint64_t)i + 1, r->name, r->peer };
}

static void start_replica(int i)
{
	struct replica *r = &cluster.replicas[i];
	struct status st;
	ok(watch_new(&st, &r->watch), &st);
	const struct engine_options engine = {
		.id = (uint64_t)i + 1,
		.data_dir = r->dir,
		.peer_listen = r->peer,
		.rpc_address = r->rpc,
		.cluster = PKI_CLUSTER,
		.kds_name = PKI_KDS_NAME,
		.cluster_id = "api-test",
		.members = cluster.members,
		.n_members = N,
		.election_ms = 600,
		.heartbeat_ms = 60,
		.credentials = r->credentials,
		.trust = cluster.trust,
		.changed = changed,
		.leader_changed = leader_changed,
		.arg = r,
	};
	ok(forward_new(r->credentials, cluster.trust, PATIENCE_MS, &st, &r->forward), &st);
	ok(engine_start(&engine, &st, &r->engine), &st);
	ok(watch_start(r->watch, r->engine, &st), &st);
	ok(forward_start(r->forward, r->engine, &st), &st);
	ok(rpc_server_new(NULL, &st, &r->server), &st);
	const struct backup_options backup = { .data_dir = r->dir, .replica = r->name, .page_max = 200 };
	ok(backup_new(&backup, &st, &r->backup), &st);
	ok(api_new(r->server, r->engine, r->forward, r->watch, r->backup, cluster.trust, &st, &r->api), &st);
	const struct listener_options listener = {
		.address = r->rpc,
		.self = SP_REP,
		.credentials = r->credentials,
		.trust = cluster.trust,
		.limits = CONN_LIMITS_DEFAULT,
		.handlers = rpc_server_handlers(r->server),
	};
	ok(listener_start(&listener, &st, &r->listener), &st);
}

static void stop_replica(int i)
{
	struct replica *r = &cluster.replicas[i];
	if (!r->engine)
		return;
	listener_stop(r->listener);
	watch_stop(r->watch);
	forward_stop(r->forward);
	backup_free(r->backup);
	engine_stop(r->engine);
	rpc_server_free(r->server);
	forward_free(r->forward);
	api_free(r->api);
	watch_free(r->watch);
	r->engine = NULL;
}

/* All replicas know the same version, so they soon agree on it. */
static void wait_for_level(void)
{
	for (uint64_t end = clock_monotonic_ms() + PATIENCE_MS; clock_monotonic_ms() < end; pause_ms(20)) {
		int there = 0;
		for (int i = 0; i < N; i++)
			there += engine_level(cluster.replicas[i].engine) == level_known();
		if (there == N)
			return;
	}
	fail_msg("the level of commands was not raised");
}

/* Waits until every replica knows the leader and where it serves. */
static void find_leader(void)
{
	for (uint64_t end = clock_monotonic_ms() + PATIENCE_MS; clock_monotonic_ms() < end; pause_ms(20)) {
		uint64_t id = 0, first = 0;
		char address[64];
		int know = 0, running = 0;
		for (int i = 0; i < N; i++) {
			if (!cluster.replicas[i].engine)
				continue;
			running++;
			if (!engine_leader(cluster.replicas[i].engine, &id, address, sizeof address) || !address[0])
				continue;
			first = first ? first : id;
			know += id == first;
		}
		if (know < running || !engine_is_leader(cluster.replicas[first - 1].engine))
			continue;
		cluster.leader = (int)first - 1;
		do
			cluster.follower = cluster.follower ? cluster.follower - 1 : N - 1;
		while (cluster.follower == cluster.leader || !cluster.replicas[cluster.follower].engine);
		return;
	}
	fail_msg("no leader");
}

static struct rpc_channel *channel_of(struct tls_credentials *credentials, int replica)
{
	const char *address = cluster.replicas[replica].rpc;
	struct status st;
	struct rpc_channel *channel = NULL;
	const struct rpc_channel_options o = {
		.addresses = &address,
		.n_addresses = 1,
		.credentials = credentials,
		.trust = cluster.trust,
		.expect_roles = PEER_SERIAL,
		.default_timeout_ms = PATIENCE_MS,
		.limits = CONN_LIMITS_DEFAULT,
	};
	ok(rpc_channel_new(&o, &st, &channel), &st);
	return channel;
}

static void make_channels(void)
{
	cluster.callers[ADMIN] = load(pki_admin(cluster.pki));
	cluster.callers[CA] = load(pki_service(cluster.pki, "ca", "ca1"));
	cluster.callers[KEYDIST] = load(pki_service(cluster.pki, "keydist", "keydist1"));
	cluster.callers[SERIAL] = load(pki_service(cluster.pki, "serial", "serial9"));
	for (int c = 0; c < CALLERS; c++)
		for (int i = 0; i < N; i++)
			cluster.channels[c][i] = channel_of(cluster.callers[c], i);
}

static int setup(void **arg)
{
	(void)arg;
	struct status st;
	cluster.pki = pki_new();
	cluster.dir = support_make_directory();
	const struct slice anchors = pki_ca_pem(cluster.pki, PKI_INFRASTRUCTURE);
	ok(trust_new(PKI_CLUSTER, PKI_KDS_NAME, &anchors, &st, &cluster.trust), &st);
	for (int i = 0; i < N; i++)
		prepare_replica(i);
	for (int i = 0; i < N; i++)
		start_replica(i);
	make_channels();
	find_leader();
	wait_for_level();
	return 0;
}

static int teardown(void **arg)
{
	(void)arg;
	for (int c = 0; c < CALLERS; c++) {
		for (int i = 0; i < N; i++)
			rpc_channel_free(cluster.channels[c][i]);
		tls_credentials_unref(cluster.callers[c]);
	}
	for (int i = 0; i < N; i++)
		stop_replica(i);
	for (int i = 0; i < N; i++)
		tls_credentials_unref(cluster.replicas[i].credentials);
	trust_free(cluster.trust);
	pki_free(cluster.pki);
	support_remove_directory(cluster.dir);
	return 0;
}

/* One call; the answer, or NULL with the failure in st. */
static struct status st;

static void *call_with(enum caller caller, int replica, const ProtobufCServiceDescriptor *service, const char *method,
		       const ProtobufCMessage *in, const struct rpc_call_options *options)
{
	ProtobufCMessage *answer = NULL;
	struct rpc_channel *channel = cluster.channels[caller][replica];
	st.code = STATUS_OK;
	enum status_code rc = rpc_channel_wait(channel, service, method, in, options, &st, &answer);
	/* A replica has sent an administrator's write on to the leader: the next call asks that replica again. */
	if (caller == ADMIN && (strcmp(method, "Put") == 0 || strcmp(method, "Delete") == 0))
		rpc_channel_drop(channel);
	return rc == STATUS_OK ? answer : NULL;
}

static void *call_on(struct rpc_channel *channel, const ProtobufCServiceDescriptor *service, const char *method,
		     const ProtobufCMessage *in, const struct rpc_call_options *options)
{
	ProtobufCMessage *answer = NULL;
	st.code = STATUS_OK;
	return rpc_channel_wait(channel, service, method, in, options, &st, &answer) == STATUS_OK ? answer : NULL;
}

static void *call(enum caller caller, int replica, const ProtobufCServiceDescriptor *service, const char *method,
		  const ProtobufCMessage *in)
{
	return call_with(caller, replica, service, method, in, NULL);
}

static void drop(void *answer)
{
	if (!answer)
		fail_msg("%s", st.message);
	protobuf_c_message_free_unpacked(answer, NULL);
}

static void refused(void *answer, enum status_code code, const char *words)
{
	assert_null(answer);
	assert_string_equal(status_name(st.code), status_name(code));
	if (!strstr(st.message, words))
		fail_msg("'%s' does not say '%s'", st.message, words);
}

#define REPLICAS_SERVICE &kds__v1__replicas__descriptor
#define SERIAL_SERVICE &kds__v1__serial__descriptor
#define CONFIG_SERVICE &kds__v1__config__descriptor

static Kds__V1__SerialStatus *show(enum caller caller, int replica, bool local)
{
	Kds__V1__ShowRequest in = KDS__V1__SHOW_REQUEST__INIT;
	in.local = local;
	return call(caller, replica, SERIAL_SERVICE, "Show", &in.base);
}

static Kds__V1__AllocateResponse *allocate(enum caller caller, int replica, uint32_t count,
					   const struct rpc_call_options *options)
{
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = count;
	return call_with(caller, replica, SERIAL_SERVICE, "Allocate", &in.base, options);
}

static Kds__V1__Object *put(enum caller caller, int replica, Kds__V1__Object *o)
{
	Kds__V1__PutRequest in = KDS__V1__PUT_REQUEST__INIT;
	in.object = o;
	return call(caller, replica, CONFIG_SERVICE, "Put", &in.base);
}

/* One that is not there yet. */
static Kds__V1__Object *enter(enum caller caller, int replica, Kds__V1__Object *o)
{
	Kds__V1__PutRequest in = KDS__V1__PUT_REQUEST__INIT;
	in.object = o;
	in.check_revision = true;
	return call(caller, replica, CONFIG_SERVICE, "Put", &in.base);
}

static Kds__V1__Object *put_setting(enum caller caller, int replica, const char *name, const char *value)
{
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	setting.name = (char *)name;
	setting.value = (char *)value;
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_SETTING;
	o.setting = &setting;
	return put(caller, replica, &o);
}

static Kds__V1__Object *get(enum caller caller, int replica, const char *key)
{
	Kds__V1__GetRequest in = KDS__V1__GET_REQUEST__INIT;
	in.key = (char *)key;
	return call(caller, replica, CONFIG_SERVICE, "Get", &in.base);
}

static Kds__V1__WatchResponse *watch(enum caller caller, int replica, uint64_t since, const char *prefix,
				     unsigned timeout_ms)
{
	char *prefixes[] = { (char *)prefix };
	Kds__V1__WatchRequest in = KDS__V1__WATCH_REQUEST__INIT;
	in.since_revision = since;
	in.n_prefixes = prefix ? 1 : 0;
	in.prefixes = prefixes;
	const struct rpc_call_options options = { .timeout_ms = timeout_ms };
	return call_with(caller, replica, CONFIG_SERVICE, "Watch", &in.base, &options);
}

static void test_serial_api_every_replica_takes_writes_and_reads(void **arg)
{
	(void)arg;
	for (int i = 0; i < N; i++) {
		Kds__V1__SerialStatus *before = show(ADMIN, i, false);
		assert_non_null(before);
		Kds__V1__AllocateResponse *a = allocate(CA, i, 7, NULL);
		if (!a)
			fail_msg("replica %d: %s", i + 1, st.message);
		assert_int_equal(a->first, before->last_serial + 1);
		assert_int_equal(a->last, before->last_serial + 7);
		/* Another replica, at once: what was answered is seen. */
		Kds__V1__SerialStatus *after = show(KEYDIST, (i + 1) % N, false);
		assert_non_null(after);
		assert_int_equal(after->last_serial, a->last);
		drop(before);
		drop(after);
		drop(a);
		drop(show(SERIAL, i, true));
	}
}

static void check_read_from(const Kds__V1__ReadFrom *from, int replica)
{
	assert_non_null(from);
	assert_true(from->revision > 0);
	/* Seconds at most, however slow the machine: it has a leader. */
	assert_in_range(from->age_ms, 0, replica == cluster.leader ? 0 : 60000);
}

static void test_serial_api_local_answers_say_so(void **arg)
{
	(void)arg;
	for (int i = 0; i < N; i++) {
		Kds__V1__SerialStatus *far = show(ADMIN, i, false), *near = show(ADMIN, i, true);
		assert_null(far->read_from);
		check_read_from(near->read_from, i);
		assert_int_equal(near->read_from->revision, near->revision);
		drop(far);
		drop(near);

		Kds__V1__GetRequest get_request = KDS__V1__GET_REQUEST__INIT;
		get_request.key = "cluster";
		get_request.local = true;
		Kds__V1__Object *o = call(ADMIN, i, CONFIG_SERVICE, "Get", &get_request.base);
		assert_int_equal(o->revision, 1);
		check_read_from(o->read_from, i);
		/* Nobody can have it stored. */
		Kds__V1__Node node = KDS__V1__NODE__INIT;
		node.name = "read-from.example.com";
		Kds__V1__Object written = KDS__V1__OBJECT__INIT;
		written.value_case = KDS__V1__OBJECT__VALUE_NODE;
		written.node = &node;
		written.read_from = o->read_from;
		drop(put(ADMIN, i, &written));
		drop(o);
		o = get(ADMIN, i, "node/read-from.example.com");
		assert_null(o->read_from);
		drop(o);

		Kds__V1__ListRequest list_request = KDS__V1__LIST_REQUEST__INIT;
		list_request.local = true;
		Kds__V1__ListResponse *l = call(ADMIN, i, CONFIG_SERVICE, "List", &list_request.base);
		check_read_from(l->read_from, i);
		drop(l);
		Kds__V1__HistoryRequest history_request = KDS__V1__HISTORY_REQUEST__INIT;
		history_request.local = true;
		Kds__V1__HistoryResponse *h = call(ADMIN, i, CONFIG_SERVICE, "History", &history_request.base);
		check_read_from(h->read_from, i);
		assert_true(h->n_entries > 0);
		drop(h);
		refused(call(CA, i, CONFIG_SERVICE, "History", &history_request.base), STATUS_PERMISSION_DENIED, "admin");
		Kds__V1__ListCertificatesRequest certificates = KDS__V1__LIST_CERTIFICATES_REQUEST__INIT;
		certificates.local = true;
		Kds__V1__ListCertificatesResponse *c =
		    call(ADMIN, i, SERIAL_SERVICE, "ListCertificates", &certificates.base);
		check_read_from(c->read_from, i);
		drop(c);
	}
}

static void test_serial_api_a_request_id_counts_once_through_any_replica(void **arg)
{
	(void)arg;
	const struct rpc_call_options options = { .request_id = { "one and the same", 16 } };
	Kds__V1__AllocateResponse *first = allocate(CA, cluster.follower, 5, &options);
	assert_non_null(first);
	for (int i = 0; i < N; i++) {
		Kds__V1__AllocateResponse *again = allocate(CA, i, 5, &options);
		assert_non_null(again);
		assert_int_equal(again->first, first->first);
		drop(again);
	}
	drop(first);
}

static void test_serial_api_roles_are_asked_for_on_every_replica(void **arg)
{
	(void)arg;
	for (int i = 0; i < N; i++) {
		refused(allocate(ADMIN, i, 1, NULL), STATUS_PERMISSION_DENIED, "ca");
		Kds__V1__SetMinRequest min = KDS__V1__SET_MIN_REQUEST__INIT;
		min.value_case = KDS__V1__SET_MIN_REQUEST__VALUE_ALL;
		min.all = true;
		refused(call(CA, i, SERIAL_SERVICE, "SetMin", &min.base), STATUS_PERMISSION_DENIED, "admin");
		refused(put_setting(CA, i, "x", "y"), STATUS_PERMISSION_DENIED, "admin");
		refused(put_setting(SERIAL, i, "x", "y"), STATUS_PERMISSION_DENIED, "admin");

		Kds__V1__MasterKey key = KDS__V1__MASTER_KEY__INIT;
		key.published_ms = key.use_from_ms = 1;
		key.sealed_key = (ProtobufCBinaryData){ 4, (uint8_t *)"seal" };
		Kds__V1__Object o = KDS__V1__OBJECT__INIT;
		o.value_case = KDS__V1__OBJECT__VALUE_MASTER_KEY;
		o.master_key = &key;
		refused(put(ADMIN, i, &o), STATUS_PERMISSION_DENIED, "keydist");
		refused(put(CA, i, &o), STATUS_PERMISSION_DENIED, "keydist");

		Kds__V1__DeleteRequest deletion = KDS__V1__DELETE_REQUEST__INIT;
		deletion.key = "ca/default";
		refused(call(CA, i, CONFIG_SERVICE, "Delete", &deletion.base), STATUS_PERMISSION_DENIED, "changed by the role admin");
		refused(call(KEYDIST, i, CONFIG_SERVICE, "Delete", &deletion.base), STATUS_PERMISSION_DENIED, "admin");
	}
}

static struct identity *someone(unsigned role)
{
	struct identity *id = identity_new();
	assert_non_null(id);
	free(id->role_name);
	id->roles = role;
	id->role_name = strdup("someone");
	assert_non_null(id->role_name);
	return id;
}

/* A follower does not write for an administrator, it says who does. */
static void test_serial_api_administrators_are_sent_to_the_leader(void **arg)
{
	(void)arg;
	const struct rpc_call_options once = { .no_retry = true };
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	setting.name = (char *)"site.sent-on";
	setting.value = (char *)"1";
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_SETTING;
	o.setting = &setting;
	Kds__V1__PutRequest in = KDS__V1__PUT_REQUEST__INIT;
	in.object = &o;
	refused(call_with(ADMIN, cluster.follower, CONFIG_SERVICE, "Put", &in.base, &once), STATUS_UNAVAILABLE,
		cluster.replicas[cluster.leader].rpc);
	/* A channel follows, whichever replica it knows. */
	for (int i = 0; i < N; i++)
		drop(put_setting(ADMIN, i, "site.sent-on", "2"));
	/* The leader believes no replica that it is one's wish. */
	struct identity *admin = someone(PEER_ADMIN);
	struct rpc_channel *channel = channel_of(cluster.replicas[cluster.follower].credentials, cluster.leader);
	const struct rpc_call_options behalf = { .no_retry = true, .on_behalf_of = admin };
	refused(call_on(channel, CONFIG_SERVICE, "Put", &in.base, &behalf), STATUS_UNAVAILABLE, "itself");
	Kds__V1__HistoryRequest read = KDS__V1__HISTORY_REQUEST__INIT;
	void *history = call_on(channel, CONFIG_SERVICE, "History", &read.base, &behalf);
	if (!history)
		fail_msg("%s", st.message);
	drop(history);
	rpc_channel_free(channel);
	identity_unref(admin);
}

/* From the moment it is added until it is removed. */
static void test_serial_api_members_alone_pass_calls_on(void **arg)
{
	(void)arg;
	struct identity *ca = someone(PEER_CA);
	const struct rpc_call_options behalf = { .no_retry = true, .on_behalf_of = ca };
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	in.count = 1;
	refused(call_with(SERIAL, cluster.leader, SERIAL_SERVICE, "Allocate", &in.base, &behalf),
		STATUS_PERMISSION_DENIED, "on_behalf_of");
	Kds__V1__AddReplicaRequest add = KDS__V1__ADD_REPLICA_REQUEST__INIT;
	char address[64];
	snprintf(address, sizeof address, "%s.9:7401", support_net());
	add.name = (char *)"serial9";
	add.address = address;
	drop(call(ADMIN, cluster.leader, REPLICAS_SERVICE, "Add", &add.base));
	void *answer = NULL;
	for (int i = 0; !answer && i < 500; i++, pause_ms(answer ? 0 : 20)) /* its object is applied, then published */
		answer = call_with(SERIAL, cluster.leader, SERIAL_SERVICE, "Allocate", &in.base, &behalf);
	drop(answer);
	Kds__V1__RemoveReplicaRequest removal = KDS__V1__REMOVE_REPLICA_REQUEST__INIT;
	removal.name = add.name;
	drop(call(ADMIN, cluster.leader, REPLICAS_SERVICE, "Remove", &removal.base));
	for (int i = 0; i < 500; i++, pause_ms(20)) {
		answer = call_with(SERIAL, cluster.leader, SERIAL_SERVICE, "Allocate", &in.base, &behalf);
		if (!answer)
			break;
		drop(answer);
	}
	refused(answer, STATUS_PERMISSION_DENIED, "on_behalf_of");
	identity_unref(ca);
}

/* The largest payload is the same at the leader and through another replica, to the byte. */
static void test_serial_api_one_largest_request(void **arg)
{
	(void)arg;
	const struct rpc_call_options once = { .no_retry = true };
	Kds__V1__DeleteRequest in = KDS__V1__DELETE_REQUEST__INIT;
	const size_t most = RPC_PAYLOAD_MAX, lengths[] = { most, most + 1, most + 900, (1 << 20) + 100 };
	char *key = malloc(lengths[3]);
	assert_non_null(key);
	for (int i = 0; i < N; i++)
		for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
			size_t len = lengths[l] - 4; /* tag and length */
			memset(key, 'x', len);
			key[len] = '\0';
			in.key = key;
			assert_int_equal(kds__v1__delete_request__get_packed_size(&in), lengths[l]);
			/* No kind of object: the leader explains that, having unpacked it. */
			refused(call_with(CA, i, CONFIG_SERVICE, "Delete", &in.base, &once), STATUS_INVALID_ARGUMENT,
				lengths[l] == most ? "key" : "more than the 1047552 of a message");
		}
	free(key);
}

static void test_serial_api_names_the_field(void **arg)
{
	(void)arg;
	for (int i = 0; i < N; i++) {
		refused(allocate(CA, i, 0, NULL), STATUS_INVALID_ARGUMENT, "count");
		refused(put_setting(ADMIN, i, "../x", "y"), STATUS_INVALID_ARGUMENT, "object.setting.name");
		refused(put_setting(ADMIN, i, "site.a/b", "y"), STATUS_INVALID_ARGUMENT, "object.setting.name");
		refused(put_setting(ADMIN, i, "certificate.node.lifetime", "168h"), STATUS_INVALID_ARGUMENT,
			"object.setting.value");
		Kds__V1__Node node = KDS__V1__NODE__INIT;
		node.name = PKI_KDS_NAME;
		Kds__V1__Object o = KDS__V1__OBJECT__INIT;
		o.value_case = KDS__V1__OBJECT__VALUE_NODE;
		o.node = &node;
		refused(put(ADMIN, i, &o), STATUS_INVALID_ARGUMENT, "key distribution service");
		refused(get(ADMIN, i, "node/nobody"), STATUS_NOT_FOUND, "node/nobody");
	}
}

/* A certificate as a CA records it: of node1, for itself. */
struct recorded {
	Kds__V1__IssuedCertificate message;
	uint8_t fingerprint[32];
};

static void make_record(struct recorded *r, uint64_t serial)
{
	static uint8_t key_id[] = { 1, 2, 3, 4 };
	Kds__V1__IssuedCertificate *c = &r->message;
	kds__v1__issued_certificate__init(c);
	memset(r->fingerprint, (int)(serial % 251), sizeof r->fingerprint);
	c->serial = serial;
	c->fingerprint = (ProtobufCBinaryData){ sizeof r->fingerprint, r->fingerprint };
	c->issuer_key_id = (ProtobufCBinaryData){ sizeof key_id, key_id };
	c->subject = "node1.example.com";
	c->profile = "node";
	c->requester = "admin/admin";
	c->not_before = time(NULL);
	c->not_after = c->not_before + 3600;
}

/* Its result; the caller drops the response. */
static Kds__V1__RecordResponse *record(enum caller caller, int replica, Kds__V1__IssuedCertificate *certificate)
{
	Kds__V1__RecordRequest in = KDS__V1__RECORD_REQUEST__INIT;
	in.n_certificates = 1;
	in.certificates = &certificate;
	Kds__V1__RecordResponse *out = call(caller, replica, SERIAL_SERVICE, "Record", &in.base);
	if (!out)
		fail_msg("%s", st.message);
	assert_int_equal(out->n_results, 1);
	return out;
}

/* The record of the cluster CA's certificate, which has a serial of the first block. */
static void record_authority(void)
{
	uint8_t serial[32];
	size_t len = sizeof serial;
	struct slice der = pki_ca_der(cluster.pki, PKI_CLUSTER_CA);
	struct recorded r;
	drop(allocate(CA, cluster.leader, 1, NULL));
	assert_int_equal(gnutls_x509_crt_get_serial(pki_ca_crt(cluster.pki, PKI_CLUSTER_CA), serial, &len), 0);
	assert_true(len == 1 && serial[0] > 0);
	make_record(&r, serial[0]);
	assert_int_equal(gnutls_hash_fast(GNUTLS_DIG_SHA256, der.data, der.len, r.fingerprint), 0);
	r.message.profile = "ca";
	r.message.requester = "ca/ca1";
	Kds__V1__RecordResponse *out = record(CA, cluster.leader, &r.message);
	if (out->results[0]->code != STATUS_OK)
		fail_msg("%s", out->results[0]->message);
	drop(out);
}

/* Why a record is refused is said by code, and to people; through whichever replica it comes. */
static void test_serial_api_refused_records_say_why(void **arg)
{
	(void)arg;
	for (int i = 0; i < N; i++) {
		Kds__V1__AllocateResponse *block = allocate(CA, i, 2, NULL);
		assert_non_null(block);
		struct recorded r;
		make_record(&r, block->first);
		Kds__V1__RecordResponse *out = record(CA, i, &r.message);
		assert_int_equal(out->results[0]->code, STATUS_OK);
		assert_string_equal(out->results[0]->message, "");
		drop(out);
		r.fingerprint[0] ^= 1;
		out = record(CA, i, &r.message);
		assert_int_equal(out->results[0]->code, STATUS_ALREADY_EXISTS);
		assert_int_equal(out->results[0]->refusal, KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_TAKEN);
		assert_non_null(strstr(out->results[0]->message, "belongs to another"));
		drop(out);
		/* A node that nobody entered. */
		make_record(&r, block->last);
		r.message.requester = "node/node1.example.com";
		r.message.requester_serial = block->first;
		r.message.requester_issuer = r.message.issuer_key_id;
		out = record(CA, i, &r.message);
		assert_int_equal(out->results[0]->code, STATUS_PERMISSION_DENIED);
		assert_int_equal(out->results[0]->refusal, KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REQUESTER_UNKNOWN);
		assert_non_null(strstr(out->results[0]->message, "node/node1.example.com is not in the cluster"));
		drop(out);
		drop(block);
	}
}

/* Who wrote it is said with the role: a node can have the same name. */
static void test_serial_api_history_says_in_which_role(void **arg)
{
	(void)arg;
	Kds__V1__Object *o = put_setting(ADMIN, cluster.follower, "site.role", "x");
	drop(o);
	Kds__V1__HistoryRequest in = KDS__V1__HISTORY_REQUEST__INIT;
	in.key = "setting/site.role";
	Kds__V1__HistoryResponse *h = call(ADMIN, cluster.leader, CONFIG_SERVICE, "History", &in.base);
	assert_non_null(h);
	assert_int_equal(h->n_entries, 1);
	assert_memory_equal(h->entries[0]->requester, "admin/", 6);
	drop(h);
}

static void test_serial_api_a_nodes_names_fit_a_certificate(void **arg)
{
	(void)arg;
	char groups[60][256], *list[60];
	Kds__V1__Node node = KDS__V1__NODE__INIT;
	node.name = "many.example.com";
	node.groups = list;
	for (int i = 0; i < 60; i++) {
		int len = snprintf(groups[i], sizeof groups[i], "urn:example:%d:", i);
		memset(groups[i] + len, 'g', (size_t)(255 - len));
		groups[i][255] = '\0';
		list[i] = groups[i];
	}
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_NODE;
	o.node = &node;
	node.n_groups = 60;
	refused(put(ADMIN, cluster.follower, &o), STATUS_INVALID_ARGUMENT, "60 groups take 16065 bytes");
	assert_non_null(strstr(st.message, "12288 are allowed"));
	node.n_groups = 45;
	drop(put(ADMIN, cluster.follower, &o));
}

static void test_serial_api_a_ca_certificate_must_be_one(void **arg)
{
	(void)arg;
	Kds__V1__CertificateAuthority a = KDS__V1__CERTIFICATE_AUTHORITY__INIT;
	a.name = "default";
	a.certificate = (ProtobufCBinaryData){ 4, (uint8_t *)"junk" };
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
	o.certificate_authority = &a;
	refused(enter(CA, cluster.follower, &o), STATUS_INVALID_ARGUMENT, "object.certificate_authority.certificate");
	const struct pki_leaf *node = pki_node(cluster.pki, "node1.example.com", 0);
	a.certificate = (ProtobufCBinaryData){ node->der.size, node->der.data };
	refused(enter(CA, cluster.follower, &o), STATUS_INVALID_ARGUMENT, "not a CA");
	/* Nobody would have a role any more. */
	struct slice ca = pki_ca_der(cluster.pki, PKI_INFRASTRUCTURE);
	a.certificate = (ProtobufCBinaryData){ ca.len, (uint8_t *)ca.data };
	refused(enter(CA, cluster.follower, &o), STATUS_INVALID_ARGUMENT, "has the infrastructure CA's key");
	refused(put(ADMIN, cluster.leader, &o), STATUS_INVALID_ARGUMENT, "has the infrastructure CA's key");
	ca = pki_ca_der(cluster.pki, PKI_CLUSTER_CA);
	a.certificate = (ProtobufCBinaryData){ ca.len, (uint8_t *)ca.data };
	refused(enter(CA, cluster.follower, &o), STATUS_FAILED_PRECONDITION, "no record");
	record_authority();
	drop(enter(CA, cluster.follower, &o));
	a.retired = true;
	refused(put(CA, cluster.follower, &o), STATUS_PERMISSION_DENIED, "changed by the role admin");
	Kds__V1__DeleteRequest deletion = KDS__V1__DELETE_REQUEST__INIT;
	deletion.key = "ca/default";
	refused(call(ADMIN, cluster.follower, CONFIG_SERVICE, "Delete", &deletion.base), STATUS_FAILED_PRECONDITION, "retire it");
}

/* What is sealed is seen by the kind of daemon that can open it. */
static void test_serial_api_sealed_keys_go_to_their_daemons_alone(void **arg)
{
	(void)arg;
	struct slice der = pki_ca_der(cluster.pki, PKI_CLUSTER_CA);
	Kds__V1__CertificateAuthority a = KDS__V1__CERTIFICATE_AUTHORITY__INIT;
	a.name = "sealed";
	a.certificate = (ProtobufCBinaryData){ der.len, (uint8_t *)der.data };
	a.sealed_key = (ProtobufCBinaryData){ 6, (uint8_t *)"sealed" };
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	o.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
	o.certificate_authority = &a;
	drop(enter(CA, cluster.leader, &o));
	Kds__V1__MasterKey key = KDS__V1__MASTER_KEY__INIT;
	key.published_ms = key.use_from_ms = 77;
	key.sealed_key = (ProtobufCBinaryData){ 6, (uint8_t *)"sealed" };
	o.value_case = KDS__V1__OBJECT__VALUE_MASTER_KEY;
	o.master_key = &key;
	drop(put(KEYDIST, cluster.leader, &o));
	for (int i = 0; i < N; i++)
		for (enum caller c = ADMIN; c < CALLERS; c++) {
			Kds__V1__Object *ca = get(c, i, "ca/sealed"),
					*master = get(c, i, "masterkey/00000000000000000077");
			assert_non_null(ca);
			assert_non_null(master);
			assert_int_equal(ca->certificate_authority->sealed_key.len, c == CA ? 6 : 0);
			assert_int_equal(master->master_key->sealed_key.len, c == KEYDIST ? 6 : 0);
			drop(ca);
			drop(master);
			Kds__V1__WatchResponse *w = watch(c, i, 0, "masterkey/", PATIENCE_MS);
			assert_non_null(w);
			assert_int_equal(w->n_objects, 1);
			assert_int_equal(w->objects[0]->master_key->sealed_key.len, c == KEYDIST ? 6 : 0);
			drop(w);
		}
}

/* A watch that waits on another thread. */
struct watching {
	pthread_t thread;
	int replica;
	uint64_t since;
	Kds__V1__WatchResponse *answer;
	struct status status;
};

static void *watch_thread(void *arg)
{
	struct watching *w = arg;
	char *prefix = "setting/site.watched";
	Kds__V1__WatchRequest in = KDS__V1__WATCH_REQUEST__INIT;
	in.since_revision = w->since;
	in.n_prefixes = 1;
	in.prefixes = &prefix;
	ProtobufCMessage *answer = NULL;
	if (rpc_channel_wait(cluster.channels[KEYDIST][w->replica], CONFIG_SERVICE, "Watch", &in.base, NULL, &w->status,
			     &answer) == STATUS_OK)
		w->answer = (Kds__V1__WatchResponse *)answer;
	return NULL;
}

static void test_serial_api_watches_hear_on_every_replica(void **arg)
{
	(void)arg;
	Kds__V1__SerialStatus *now = show(ADMIN, cluster.leader, false);
	assert_non_null(now);
	struct watching w[N];
	for (int i = 0; i < N; i++) {
		w[i] = (struct watching){ .replica = i, .since = now->revision };
		assert_int_equal(pthread_create(&w[i].thread, NULL, watch_thread, &w[i]), 0);
	}
	drop(now);
	drop(put_setting(ADMIN, cluster.follower, "site.other", "1"));
	drop(put_setting(ADMIN, cluster.follower, "site.watched", "1"));
	for (int i = 0; i < N; i++) {
		pthread_join(w[i].thread, NULL);
		if (!w[i].answer)
			fail_msg("replica %d: %s", i + 1, w[i].status.message);
		assert_int_equal(w[i].answer->n_objects, 1);
		assert_string_equal(w[i].answer->objects[0]->key, "setting/site.watched");
		drop(w[i].answer);
	}
}

static void test_serial_api_watch_ends_before_its_deadline(void **arg)
{
	(void)arg;
	Kds__V1__SerialStatus *now = show(ADMIN, cluster.leader, false);
	assert_non_null(now);
	for (int i = 0; i < N; i++) {
		Kds__V1__WatchResponse *w = watch(ADMIN, i, now->revision, "node/", 2000);
		if (!w)
			fail_msg("%s", st.message);
		assert_int_equal(w->n_objects, 0);
		assert_false(w->restart);
		assert_int_equal(w->revision, now->revision);
		drop(w);
	}
	drop(now);
}

static void test_serial_api_watch_from_a_future_revision_starts_again(void **arg)
{
	(void)arg;
	for (int i = 0; i < N; i++) {
		Kds__V1__WatchResponse *w = watch(ADMIN, i, 1000000, NULL, PATIENCE_MS);
		if (!w)
			fail_msg("%s", st.message);
		assert_true(w->restart);
		drop(w);
	}
}

static void test_serial_api_watch_bounds_its_prefixes(void **arg)
{
	(void)arg;
	char *prefixes[65];
	for (int i = 0; i < 65; i++)
		prefixes[i] = "node/";
	Kds__V1__WatchRequest in = KDS__V1__WATCH_REQUEST__INIT;
	in.n_prefixes = 65;
	in.prefixes = prefixes;
	refused(call(ADMIN, cluster.follower, CONFIG_SERVICE, "Watch", &in.base), STATUS_INVALID_ARGUMENT, "prefixes");
	prefixes[0] = "cluster";
	in.n_prefixes = 64;
	drop(call(ADMIN, cluster.follower, CONFIG_SERVICE, "Watch", &in.base));
}

static void test_serial_api_view_tells_of_all(void **arg)
{
	(void)arg;
	Kds__V1__ViewRequest in = KDS__V1__VIEW_REQUEST__INIT;
	for (int i = 0; i < N; i++) {
		Kds__V1__ViewResponse *v = call(ADMIN, i, &kds__v1__replicas__descriptor, "View", &in.base);
		assert_non_null(v);
		assert_int_equal(v->asked_id, i + 1);
		assert_int_equal(v->leader_id, cluster.leader + 1);
		assert_int_equal(v->n_members, N);
		drop(v);
	}
}

#define BACKUP_SERVICE &kds__v1__backup__descriptor

static Kds__V1__BackupReadResponse *read_page(enum caller caller, int replica, uint64_t session, uint32_t page,
					      uint64_t at_least)
{
	Kds__V1__BackupReadRequest in = KDS__V1__BACKUP_READ_REQUEST__INIT;
	in.session = session;
	in.page = page;
	in.at_least = at_least;
	const struct rpc_call_options brief = { .timeout_ms = 2000, .no_retry = true };
	return call_with(caller, replica, BACKUP_SERVICE, "Read", &in.base, &brief);
}

/* The pages behind the first, up to the last; how many there were. */
static uint32_t read_rest(int replica, uint64_t session, struct buffer *rows)
{
	bool last = false;
	uint32_t n = 0;
	while (!last) {
		Kds__V1__BackupReadResponse *page = read_page(ADMIN, replica, session, ++n, 0);
		assert_non_null(page);
		assert_null(page->header);
		assert_true(page->rows.len <= 200);
		assert_true(buffer_append(rows, page->rows.data, page->rows.len));
		last = page->last;
		drop(page);
	}
	return n;
}

static void test_serial_api_backup_pages(void **arg)
{
	(void)arg;
	drop(put_setting(ADMIN, cluster.follower, "site.before-the-backup", "1"));
	Kds__V1__BackupPositionRequest ask = KDS__V1__BACKUP_POSITION_REQUEST__INIT;
	Kds__V1__BackupPosition *at = call(ADMIN, cluster.follower, BACKUP_SERVICE, "Position", &ask.base);
	assert_non_null(at);
	Kds__V1__BackupReadResponse *first = NULL;
	for (int i = 0; !first && i < 100; i++) { /* the follower may be a little behind */
		first = read_page(ADMIN, cluster.follower, 0, 0, at->index);
		if (!first)
			assert_int_equal(st.code, STATUS_UNAVAILABLE);
		pause_ms(first ? 0 : 50);
	}
	assert_non_null(first);
	assert_non_null(first->header);
	assert_true(first->header->index >= at->index);
	assert_string_equal(first->header->cluster->name, PKI_CLUSTER);
	assert_false(first->last);

	/* What is written meanwhile is not in it. */
	drop(put_setting(ADMIN, cluster.follower, "site.behind-the-backup", "1"));
	struct buffer rows = { 0 };
	uint32_t last = read_rest(cluster.follower, first->session, &rows);
	assert_non_null(memmem(rows.data, rows.len, "site.before-the-backup", 22));
	assert_null(memmem(rows.data, rows.len, "site.behind-the-backup", 22));

	/* Who asks again gets the same; another page there is not, nor another session. */
	Kds__V1__BackupReadResponse *again = read_page(ADMIN, cluster.follower, first->session, last, 0);
	assert_non_null(again);
	assert_true(again->last);
	assert_memory_equal(again->rows.data, rows.data + rows.len - again->rows.len, again->rows.len);
	refused(read_page(ADMIN, cluster.follower, first->session, last + 1, 0), STATUS_INVALID_ARGUMENT, "no more");
	refused(read_page(ADMIN, cluster.follower, first->session, 0, 0), STATUS_INVALID_ARGUMENT, "page");
	refused(read_page(ADMIN, cluster.follower, first->session + 2, 0, 0), STATUS_NOT_FOUND, "begin again");
	refused(read_page(ADMIN, cluster.leader, first->session, 0, 0), STATUS_NOT_FOUND, "begin again");
	/* Not yet there. */
	refused(read_page(ADMIN, cluster.follower, 0, 0, at->index + 1000000), STATUS_UNAVAILABLE, "ask another");
	buffer_free(&rows);
	drop(first);
	drop(again);
	drop(at);
}

static void test_serial_api_backups_are_few_at_a_time(void **arg)
{
	(void)arg;
	Kds__V1__BackupReadResponse *one = read_page(ADMIN, cluster.follower, 0, 0, 0);
	Kds__V1__BackupReadResponse *two = read_page(ADMIN, cluster.follower, 0, 0, 0);
	struct buffer rows = { 0 };
	assert_non_null(one);
	assert_non_null(two);
	refused(read_page(ADMIN, cluster.follower, 0, 0, 0), STATUS_RESOURCE_EXHAUSTED, "ask another");
	read_rest(cluster.follower, one->session, &rows);
	drop(read_page(ADMIN, cluster.follower, 0, 0, 0)); /* the first is done */
	refused(read_page(ADMIN, cluster.follower, 0, 0, 0), STATUS_RESOURCE_EXHAUSTED, "ask another");
	buffer_free(&rows);
	drop(one);
	drop(two);
}

static void test_serial_api_backup_is_for_administrators(void **arg)
{
	(void)arg;
	Kds__V1__BackupPositionRequest ask = KDS__V1__BACKUP_POSITION_REQUEST__INIT;
	for (int c = CA; c < CALLERS; c++) {
		refused(read_page((enum caller)c, 0, 0, 0, 0), STATUS_PERMISSION_DENIED, "admin");
		refused(call((enum caller)c, 0, BACKUP_SERVICE, "Position", &ask.base), STATUS_PERMISSION_DENIED, "admin");
	}
}

/* Last: one replica is gone afterwards. */
/* A client that does not repeat anything itself: the replicas do. */
struct stubborn {
	pthread_t thread;
	int replica;
	atomic_bool *enough;
	unsigned calls;
	struct status failure;
};

static void *write_and_read(void *arg)
{
	struct stubborn *s = arg;
	struct rpc_channel *channel = cluster.channels[CA][s->replica];
	Kds__V1__AllocateRequest write = KDS__V1__ALLOCATE_REQUEST__INIT;
	Kds__V1__ShowRequest read = KDS__V1__SHOW_REQUEST__INIT;
	write.count = 1;
	uint64_t last = 0;
	while (!atomic_load(s->enough) && s->failure.code == STATUS_OK) {
		uint8_t id[16] = { (uint8_t)s->replica, 'i', 'd' };
		memcpy(id + 8, &s->calls, sizeof s->calls);
		const struct rpc_call_options once = { .no_retry = true, .request_id = { id, sizeof id } };
		const struct rpc_call_options once_without_id = { .no_retry = true };
		ProtobufCMessage *answer = NULL;
		s->calls++;
		if (rpc_channel_wait(channel, SERIAL_SERVICE, "Allocate", &write.base, &once, &s->failure, &answer) != STATUS_OK)
			break;
		uint64_t serial = ((Kds__V1__AllocateResponse *)answer)->first;
		protobuf_c_message_free_unpacked(answer, NULL);
		if (rpc_channel_wait(channel, SERIAL_SERVICE, "Show", &read.base, &once_without_id, &s->failure, &answer) !=
		    STATUS_OK)
			break;
		if (serial <= last || ((Kds__V1__SerialStatus *)answer)->last_serial < serial)
			status_set(&s->failure, STATUS_DATA_LOSS, "serial %" PRIu64 " behind %" PRIu64, serial, last);
		last = serial;
		protobuf_c_message_free_unpacked(answer, NULL);
	}
	return NULL;
}

static void on_transfer(void *arg, const struct status *result, uint64_t leader)
{
	(void)result;
	(void)leader;
	atomic_store((atomic_bool *)arg, true);
}

static void test_serial_api_a_new_leader_fails_no_call(void **arg)
{
	(void)arg;
	atomic_bool enough = false;
	struct stubborn clients[N] = { 0 };
	for (int i = 0; i < N; i++) {
		clients[i].replica = i;
		clients[i].enough = &enough;
		assert_int_equal(pthread_create(&clients[i].thread, NULL, write_and_read, &clients[i]), 0);
	}
	for (int round = 0; round < 6; round++) {
		atomic_bool done = false;
		pause_ms(50);
		find_leader();
		engine_transfer(cluster.replicas[cluster.leader].engine, 0, on_transfer, &done);
		while (!atomic_load(&done))
			pause_ms(5);
	}
	pause_ms(50);
	atomic_store(&enough, true);
	for (int i = 0; i < N; i++) {
		pthread_join(clients[i].thread, NULL);
		if (clients[i].failure.code != STATUS_OK)
			fail_msg("client of replica %d, call %u: %s", i + 1, clients[i].calls, clients[i].failure.message);
	}
	find_leader();
}

static void test_serial_api_calls_survive_a_leader_that_goes(void **arg)
{
	(void)arg;
	Kds__V1__AllocateResponse *before = allocate(CA, cluster.follower, 1, NULL);
	assert_non_null(before);
	stop_replica(cluster.leader);
	/* The channel tries again with the same request id until somebody leads. */
	Kds__V1__AllocateResponse *after = allocate(CA, cluster.follower, 1, NULL);
	if (!after)
		fail_msg("%s", st.message);
	assert_true(after->first > before->last);
	drop(before);
	drop(after);
	find_leader();

	/* Without a majority: local reads alone. */
	int last = cluster.follower;
	stop_replica(cluster.leader);
	Kds__V1__SerialStatus *alone = show(ADMIN, last, true);
	assert_non_null(alone);
	/* It led, or follows one that is gone: either way it ages from now on. */
	for (int i = 0; i < 6000 && alone->read_from->age_ms < 1000; i++) {
		drop(alone);
		usleep(10000);
		alone = show(ADMIN, last, true);
	}
	assert_true(alone->read_from->age_ms >= 1000);
	drop(alone);
	const struct rpc_call_options brief = { .timeout_ms = 1500 };
	Kds__V1__ShowRequest in = KDS__V1__SHOW_REQUEST__INIT;
	assert_null(call_with(ADMIN, last, SERIAL_SERVICE, "Show", &in.base, &brief));
	assert_true(st.code == STATUS_UNAVAILABLE || st.code == STATUS_DEADLINE_EXCEEDED);
	assert_null(allocate(CA, last, 1, &brief));
	assert_true(st.code == STATUS_UNAVAILABLE || st.code == STATUS_DEADLINE_EXCEEDED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_serial_api_every_replica_takes_writes_and_reads),
		cmocka_unit_test(test_serial_api_local_answers_say_so),
		cmocka_unit_test(test_serial_api_a_request_id_counts_once_through_any_replica),
		cmocka_unit_test(test_serial_api_roles_are_asked_for_on_every_replica),
		cmocka_unit_test(test_serial_api_administrators_are_sent_to_the_leader),
		cmocka_unit_test(test_serial_api_members_alone_pass_calls_on),
		cmocka_unit_test(test_serial_api_one_largest_request),
		cmocka_unit_test(test_serial_api_names_the_field),
		cmocka_unit_test(test_serial_api_refused_records_say_why),
		cmocka_unit_test(test_serial_api_history_says_in_which_role),
		cmocka_unit_test(test_serial_api_a_nodes_names_fit_a_certificate),
		cmocka_unit_test(test_serial_api_a_ca_certificate_must_be_one),
		cmocka_unit_test(test_serial_api_sealed_keys_go_to_their_daemons_alone),
		cmocka_unit_test(test_serial_api_watches_hear_on_every_replica),
		cmocka_unit_test(test_serial_api_watch_ends_before_its_deadline),
		cmocka_unit_test(test_serial_api_watch_from_a_future_revision_starts_again),
		cmocka_unit_test(test_serial_api_watch_bounds_its_prefixes),
		cmocka_unit_test(test_serial_api_view_tells_of_all),
		cmocka_unit_test(test_serial_api_backup_pages),
		cmocka_unit_test(test_serial_api_backups_are_few_at_a_time),
		cmocka_unit_test(test_serial_api_backup_is_for_administrators),
		cmocka_unit_test(test_serial_api_a_new_leader_fails_no_call),
		cmocka_unit_test(test_serial_api_calls_survive_a_leader_that_goes),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
