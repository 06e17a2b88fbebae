#include "services/serial/peers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/rpc/message.h"
#include "services/serial/level.h"

/* Fields may be added to a version; what an older replica would misunderstand is a new one. */
#define PROTOCOL_VERSION 1
#define PROTOCOL_OLDEST 1
#define GENESIS_SIZE 32
#define RPC_ADDRESS_SIZE 256
#define RETRY_MIN_MS 50
#define RETRY_MAX_MS 1000
#define COMPLAIN_EVERY_MS 10000
/* An unpacked message of many tiny entries is several times its frame. */
#define MESSAGE_MEMORY_MAX ((size_t)32 << 20)

struct peer {
	struct peers *owner;
	uint64_t id;
	char *name, *address;
	/* Our stream to it. */
	struct conn *out; /* set by conn_dial() before a callback can run; valid while `dialled` */
	bool dialled;     /* from the call of conn_dial() to the end of `down` */
	bool up;          /* the hello left: messages may follow */
	uint64_t up_ms, retry_ms;
	unsigned backoff_ms;
	/* Its streams to us, after their hello: one, or for a moment two. */
	unsigned n_in;
	char rpc_address[RPC_ADDRESS_SIZE];
	uint64_t complained_ms;
};

struct peers {
	pthread_mutex_t mutex;
	pthread_cond_t changed; /* a stream ended, or stopping */
	pthread_t dialler;
	bool stopping;
	struct peers_options options; /* its strings and members are not used after the start */
	struct tls_credentials *credentials;
	struct trust *trust;
	struct listener *listener;
	struct buffer hello; /* packed */
	atomic_uint level;   /* of the state */
	char *cluster_id;
	uint8_t genesis[GENESIS_SIZE];
	struct peer *members; /* without ourselves */
	size_t n_members;
	uint64_t complained_ms; /* of strangers */
};

/* One accepted stream. */
struct inbound {
	struct peer *peer;
	bool greeted;
};

static struct peer *find_id(struct peers *p, uint64_t id)
{
	for (size_t i = 0; i < p->n_members; i++)
		if (p->members[i].id == id)
			return &p->members[i];
	return NULL;
}

static struct peer *find_name(struct peers *p, const char *name)
{
	for (size_t i = 0; i < p->n_members; i++)
		if (strcmp(p->members[i].name, name) == 0)
			return &p->members[i];
	return NULL;
}

/* Whoever cannot work with us tries again each second: say so now and then. */
static bool may_complain(struct peers *p, uint64_t *last_ms)
{
	uint64_t now = clock_monotonic_ms();
	pthread_mutex_lock(&p->mutex);
	bool due = *last_ms == 0 || now - *last_ms >= COMPLAIN_EVERY_MS;
	if (due)
		*last_ms = now;
	pthread_mutex_unlock(&p->mutex);
	return due;
}

static void complain(struct peer *peer, const char *what, const char *why)
{
	if (may_complain(peer->owner, &peer->complained_ms))
		log_warning("%s replica %s (%s): %s", what, peer->name, peer->address, why);
}

static void tell_link(struct peer *peer, bool outgoing, bool up)
{
	const struct peers_options *o = &peer->owner->options;
	if (o->link)
		o->link(o->arg, peer->id, outgoing, up);
}

/* Our streams to the others */

static void out_up(void *arg, struct conn *c)
{
	struct peer *peer = arg;
	struct peers *p = peer->owner;
	const struct identity *id = conn_identity(c);
	if (!id || !(id->roles & PEER_SERIAL) || strcmp(id->role_name, peer->name) != 0) {
		complain(peer, "left", id ? "its certificate names another replica; correct its address or certificate"
					  : "it has no certificate");
		conn_close(c);
		return;
	}
	const struct slice hello = { p->hello.data, p->hello.len };
	if (conn_send(c, &hello, 1) != STATUS_OK) {
		conn_close(c);
		return;
	}
	pthread_mutex_lock(&p->mutex);
	peer->up = true;
	peer->up_ms = clock_monotonic_ms();
	pthread_mutex_unlock(&p->mutex);
	tell_link(peer, true, true);
}

/* A PUSH peer never hears anything. */
static void out_frame(void *arg, struct conn *c, const uint8_t *data, size_t len)
{
	(void)data;
	(void)len;
	complain(arg, "left", "it sent something on a stream that is ours to send on");
	conn_close(c);
}

static void out_down(void *arg, struct conn *c, const struct status *why)
{
	struct peer *peer = arg;
	struct peers *p = peer->owner;
	pthread_mutex_lock(&p->mutex);
	bool was_up = peer->up;
	peer->up = false;
	pthread_mutex_unlock(&p->mutex);
	if (was_up)
		tell_link(peer, true, false);
	if (why->code != STATUS_OK && why->code != STATUS_UNAVAILABLE)
		complain(peer, "cannot reach", why->message);
	uint64_t now = clock_monotonic_ms();
	pthread_mutex_lock(&p->mutex);
	/* Whoever throws us out at once is not asked 20 times a second. */
	if (was_up && now - peer->up_ms >= RETRY_MAX_MS)
		peer->backoff_ms = RETRY_MIN_MS;
	peer->retry_ms = now + peer->backoff_ms;
	peer->backoff_ms = peer->backoff_ms * 2 < RETRY_MAX_MS ? peer->backoff_ms * 2 : RETRY_MAX_MS;
	peer->dialled = false;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->mutex);
	/* The reference that conn_dial() gave. `p` may be gone by now. */
	conn_unref(c);
}

static struct conn_limits limits(void)
{
	struct conn_limits l = CONN_LIMITS_DEFAULT;
	l.max_frame = PEERS_FRAME_MAX;
	l.max_output = (size_t)64 << 20; /* a follower that comes back is sent 16 MiB at once (replica_messages.c) */
	l.write_ms = 5000;
	return l;
}

static void dial(struct peer *peer, struct tls_credentials *credentials)
{
	struct peers *p = peer->owner;
	const struct conn_dial o = {
		.address = peer->address,
		.self = SP_PUSH,
		.credentials = credentials,
		.trust = p->trust,
		.expect_roles = PEER_SERIAL,
		.limits = limits(),
		.handlers = { .up = out_up, .frame = out_frame, .down = out_down, .arg = peer },
	};
	struct status st;
	if (conn_dial(&o, &st, &peer->out) == STATUS_OK)
		return;
	complain(peer, "cannot reach", st.message);
	pthread_mutex_lock(&p->mutex);
	peer->dialled = false;
	peer->retry_ms = clock_monotonic_ms() + RETRY_MAX_MS;
	pthread_mutex_unlock(&p->mutex);
}

/* The one to dial now, or NULL and when to look again (UINT64_MAX: when something changed). */
static struct peer *next_peer(struct peers *p, uint64_t *ret_when)
{
	uint64_t now = clock_monotonic_ms();
	*ret_when = UINT64_MAX;
	for (size_t i = 0; i < p->n_members; i++) {
		struct peer *peer = &p->members[i];
		if (!peer->dialled && peer->retry_ms <= now)
			return peer;
		if (!peer->dialled && peer->retry_ms < *ret_when)
			*ret_when = peer->retry_ms;
	}
	return NULL;
}

static void *dial_all(void *arg)
{
	struct peers *p = arg;
	pthread_mutex_lock(&p->mutex);
	while (!p->stopping) {
		uint64_t when;
		struct peer *peer = next_peer(p, &when);
		if (peer) {
			peer->dialled = true;
			struct tls_credentials *credentials = tls_credentials_ref(p->credentials);
			pthread_mutex_unlock(&p->mutex);
			dial(peer, credentials);
			tls_credentials_unref(credentials);
			pthread_mutex_lock(&p->mutex);
		} else if (when == UINT64_MAX) {
			pthread_cond_wait(&p->changed, &p->mutex);
		} else {
			struct timespec at = { (time_t)(when / 1000), (long)(when % 1000) * 1000000 };
			pthread_cond_timedwait(&p->changed, &p->mutex, &at);
		}
	}
	pthread_mutex_unlock(&p->mutex);
	return NULL;
}

/* Their streams to us */

static void in_up(void *arg, struct conn *c)
{
	struct peers *p = arg;
	const struct identity *id = conn_identity(c);
	struct peer *peer = id && (id->roles & PEER_SERIAL) ? find_name(p, id->role_name) : NULL;
	if (!peer) {
		if (may_complain(p, &p->complained_ms))
			log_warning("refused a stream from %s: '%s' is no replica of this cluster's configuration",
				    conn_peer_address(c), id ? id->role_name : "");
		conn_close(c);
		return;
	}
	struct inbound *in = calloc(1, sizeof *in);
	if (!in) {
		conn_close(c);
		return;
	}
	in->peer = peer;
	conn_set_data(c, in);
}

/* NULL: it may talk to us. */
static const char *refuse_hello(const struct peers *p, const struct peer *peer, const Kds__V1__PeerMessage *m)
{
	if (m->message_case != KDS__V1__PEER_MESSAGE__MESSAGE_HELLO)
		return "it did not say hello first";
	const Kds__V1__PeerHello *hello = m->hello;
	uint32_t oldest = hello->oldest_version ? hello->oldest_version : hello->version;
	if (hello->version < PROTOCOL_OLDEST || oldest > PROTOCOL_VERSION)
		return "its version of kds-serial is too far from this one's; install the same version everywhere";
	if (hello->level < atomic_load(&p->level))
		return "its version of kds-serial does not know the commands that the replicas have agreed on; install the "
		       "version that the others run";
	if (strcmp(hello->cluster_id, p->cluster_id) != 0)
		return "it belongs to another cluster; compare cluster-id in both configuration files";
	if (hello->from != peer->id)
		return "its id is another here; compare the replica sections of both configuration files";
	if (hello->genesis.len != GENESIS_SIZE || memcmp(hello->genesis.data, p->genesis, GENESIS_SIZE) != 0)
		return "its log began differently; compare cluster, kds-name and the replica sections of both configuration "
		       "files";
	return NULL;
}

static bool take_hello(struct peers *p, struct inbound *in, const Kds__V1__PeerMessage *m)
{
	struct peer *peer = in->peer;
	const char *why = refuse_hello(p, peer, m);
	if (why) {
		complain(peer, "refused", why);
		return false;
	}
	in->greeted = true;
	pthread_mutex_lock(&p->mutex);
	snprintf(peer->rpc_address, sizeof peer->rpc_address, "%s", m->hello->rpc_address);
	bool first = peer->n_in++ == 0;
	pthread_mutex_unlock(&p->mutex);
	if (first)
		tell_link(peer, false, true);
	return true;
}

static void in_frame(void *arg, struct conn *c, const uint8_t *data, size_t len)
{
	struct peers *p = arg;
	struct inbound *in = conn_data(c);
	if (!in)
		return; /* being closed */
	struct arena *arena = arena_new(MESSAGE_MEMORY_MAX);
	const ProtobufCMessage *unpacked = NULL;
	struct status st;
	char field[64];
	if (!arena)
		return; /* dropped, as Raft allows */
	if (message_unpack(&kds__v1__peer_message__descriptor, (struct slice){ data, len }, arena, &st, field, sizeof field,
			   &unpacked) != STATUS_OK) {
		complain(in->peer, "refused", st.message);
		conn_close(c);
		goto out;
	}
	const Kds__V1__PeerMessage *m = (const Kds__V1__PeerMessage *)unpacked;
	if (!in->greeted) {
		if (!take_hello(p, in, m))
			conn_close(c);
		goto out;
	}
	p->options.message(p->options.arg, in->peer->id, arena, m, len);
	return;
out:
	arena_free(arena);
}

static void in_down(void *arg, struct conn *c, const struct status *why)
{
	struct peers *p = arg;
	struct inbound *in = conn_data(c);
	(void)why;
	if (!in)
		return;
	if (in->greeted) {
		pthread_mutex_lock(&p->mutex);
		bool last = --in->peer->n_in == 0;
		pthread_mutex_unlock(&p->mutex);
		if (last)
			tell_link(in->peer, false, false);
	}
	free(in);
}

/* Start and stop */

static enum status_code copy_members(struct peers *p, const struct peers_options *o)
{
	p->members = calloc(o->n_members ? o->n_members : 1, sizeof *p->members);
	if (!p->members)
		return STATUS_RESOURCE_EXHAUSTED;
	for (size_t i = 0; i < o->n_members; i++) {
		if (o->members[i].id == o->self)
			continue;
		struct peer *peer = &p->members[p->n_members++];
		*peer = (struct peer){ .owner = p, .id = o->members[i].id, .backoff_ms = RETRY_MIN_MS };
		peer->name = strdup(o->members[i].name);
		peer->address = strdup(o->members[i].address);
		if (!peer->name || !peer->address)
			return STATUS_RESOURCE_EXHAUSTED;
	}
	p->cluster_id = strdup(o->cluster_id);
	return p->cluster_id ? STATUS_OK : STATUS_RESOURCE_EXHAUSTED;
}

static enum status_code pack_hello(struct peers *p, const struct peers_options *o, struct status *st)
{
	Kds__V1__PeerHello hello = KDS__V1__PEER_HELLO__INIT;
	hello.version = PROTOCOL_VERSION;
	hello.oldest_version = PROTOCOL_OLDEST;
	hello.level = level_known();
	hello.cluster_id = p->cluster_id;
	hello.from = o->self;
	hello.rpc_address = (char *)o->rpc_address; /* packing only reads */
	hello.genesis.data = p->genesis;
	hello.genesis.len = sizeof p->genesis;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_HELLO;
	m.hello = &hello;
	return message_pack(&m.base, &p->hello, st);
}

static enum status_code listen_for_peers(struct peers *p, const struct peers_options *o, struct status *st)
{
	struct listener_options l = {
		.address = o->listen,
		.self = SP_PULL,
		.credentials = o->credentials,
		.trust = o->trust,
		.allow_roles = PEER_SERIAL,
		.max_connections = 64,
		.max_per_address = 64, /* all replicas of a test run on one host */
		.limits = limits(),
		.handlers = { .up = in_up, .frame = in_frame, .down = in_down, .arg = p },
	};
	l.limits.idle_ms = 10000; /* a replica says how it is twice a second */
	return listener_start(&l, st, &p->listener);
}

static void peers_free(struct peers *p)
{
	for (size_t i = 0; p->members && i < p->n_members; i++) {
		free(p->members[i].name);
		free(p->members[i].address);
	}
	free(p->members);
	free(p->cluster_id);
	buffer_free(&p->hello);
	tls_credentials_unref(p->credentials);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->mutex);
	free(p);
}

enum status_code peers_start(const struct peers_options *options, struct status *st, struct peers **ret_peers)
{
	if (options->genesis.len != GENESIS_SIZE)
		return status_set(st, STATUS_INVALID_ARGUMENT, "start the peers: the genesis hash has %d bytes", GENESIS_SIZE);
	struct peers *p = calloc(1, sizeof *p);
	if (!p)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the peers: out of memory");
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&p->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&p->mutex, NULL);
	p->options = *options;
	p->trust = options->trust;
	p->credentials = tls_credentials_ref(options->credentials);
	memcpy(p->genesis, options->genesis.data, GENESIS_SIZE);
	enum status_code rc = copy_members(p, options);
	if (rc != STATUS_OK)
		status_set(st, rc, "start the peers: out of memory");
	if (rc == STATUS_OK)
		rc = pack_hello(p, options, st);
	if (rc == STATUS_OK)
		rc = listen_for_peers(p, options, st);
	if (rc == STATUS_OK && pthread_create(&p->dialler, NULL, dial_all, p) != 0) {
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the peers: no thread");
		listener_stop(p->listener);
	}
	if (rc != STATUS_OK) {
		peers_free(p);
		return rc;
	}
	*ret_peers = p;
	return STATUS_OK;
}

/* Under the mutex. */
static bool any_dialled(const struct peers *p)
{
	for (size_t i = 0; i < p->n_members; i++)
		if (p->members[i].dialled)
			return true;
	return false;
}

void peers_stop(struct peers *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->mutex);
	p->stopping = true;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->mutex);
	pthread_join(p->dialler, NULL);
	listener_stop(p->listener);
	/* The dialler is gone: conn_dial() has returned for each, so `out` is set where `dialled` is. conn_close()
	 * calls nothing back on this thread. */
	pthread_mutex_lock(&p->mutex);
	for (size_t i = 0; i < p->n_members; i++)
		if (p->members[i].dialled)
			conn_close(p->members[i].out);
	while (any_dialled(p))
		pthread_cond_wait(&p->changed, &p->mutex);
	pthread_mutex_unlock(&p->mutex);
	peers_free(p);
}

void peers_set_level(struct peers *p, unsigned level)
{
	atomic_store(&p->level, level);
}

bool peers_send(struct peers *p, uint64_t to, struct slice message)
{
	struct peer *peer = find_id(p, to);
	if (!peer)
		return false;
	pthread_mutex_lock(&p->mutex);
	struct conn *c = peer->up ? conn_ref(peer->out) : NULL;
	pthread_mutex_unlock(&p->mutex);
	if (!c)
		return false;
	bool sent = conn_send(c, &message, 1) == STATUS_OK;
	conn_unref(c);
	return sent;
}

bool peers_connected(struct peers *p, uint64_t id)
{
	struct peer *peer = find_id(p, id);
	if (!peer)
		return false;
	pthread_mutex_lock(&p->mutex);
	bool up = peer->up;
	pthread_mutex_unlock(&p->mutex);
	return up;
}

bool peers_gone(struct peers *p, uint64_t id)
{
	struct peer *peer = find_id(p, id);
	if (!peer)
		return false;
	pthread_mutex_lock(&p->mutex);
	bool gone = !peer->up && peer->n_in == 0;
	pthread_mutex_unlock(&p->mutex);
	return gone;
}

void peers_rpc_address(struct peers *p, uint64_t id, char *buf, size_t size)
{
	struct peer *peer = find_id(p, id);
	pthread_mutex_lock(&p->mutex);
	snprintf(buf, size, "%s", peer ? peer->rpc_address : "");
	pthread_mutex_unlock(&p->mutex);
}

void peers_recheck(struct peers *p)
{
	listener_recheck(p->listener);
	for (size_t i = 0; i < p->n_members; i++) {
		struct peer *peer = &p->members[i];
		struct status st;
		pthread_mutex_lock(&p->mutex);
		struct conn *c = peer->up ? conn_ref(peer->out) : NULL;
		pthread_mutex_unlock(&p->mutex);
		if (c && trust_recheck(p->trust, conn_identity(c), &st) != STATUS_OK) {
			complain(peer, "left", st.message);
			conn_close(c);
		}
		conn_unref(c);
	}
}

void peers_set_credentials(struct peers *p, struct tls_credentials *credentials)
{
	struct tls_credentials *fresh = tls_credentials_ref(credentials);
	pthread_mutex_lock(&p->mutex);
	struct tls_credentials *old = p->credentials;
	p->credentials = fresh;
	pthread_mutex_unlock(&p->mutex);
	tls_credentials_unref(old);
	listener_set_credentials(p->listener, credentials);
}
