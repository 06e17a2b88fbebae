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
/* What may come back on a stream that is ours to send on. */
#define HEARD_MAX 256
#define STRANGERS_MAX 1024
#define HEARD_MEMORY_MAX ((size_t)16 << 10)
/* An unpacked message of many tiny entries is several times its frame. */
#define MESSAGE_MEMORY_MAX ((size_t)32 << 20)

struct peer {
	struct peers *owner;
	uint64_t id;
	char *name, *address;
	/* Our stream to it. */
	struct conn *out; /* set by conn_dial() before a callback can run; valid while `dialled` */
	bool dialled;     /* from the call of conn_dial() to the end of `down` */
	bool open;        /* conn_dial() has returned: `out` is set */
	bool up;          /* the hello left: messages may follow */
	uint64_t up_ms, retry_ms;
	unsigned backoff_ms;
	/* Its streams to us, after their hello: one, or for a moment two. */
	unsigned n_in;
	char rpc_address[RPC_ADDRESS_SIZE];
	uint64_t incarnation; /* as its last hello said; 0: none yet */
	bool gone;            /* no member any more; it stays here, as callbacks may be about to use it */
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
	atomic_uint level; /* of the state */
	char *cluster_id, *rpc_address;
	uint8_t genesis[GENESIS_SIZE];
	bool has_genesis;
	uint64_t highest_id;
	bool welcomes; /* strangers */
	struct peer **members; /* without ourselves */
	size_t n_members;
	struct inbound *inbound; /* all streams to us */
	uint64_t complained_ms; /* of strangers */
};

/* One accepted stream. */
struct inbound {
	struct peer *peer; /* NULL: nobody's, who is told why and closed */
	uint64_t incarnation;
	struct conn *conn; /* borrowed: it lives until its `down` takes this off the list */
	bool greeted;
	struct inbound *next;
};

/* Under the mutex, as find_name(). */
static struct peer *find_id(struct peers *p, uint64_t id)
{
	for (size_t i = 0; i < p->n_members; i++)
		if (p->members[i]->id == id && !p->members[i]->gone)
			return p->members[i];
	return NULL;
}

static struct peer *find_name(struct peers *p, const char *name)
{
	for (size_t i = 0; i < p->n_members; i++)
		if (strcmp(p->members[i]->name, name) == 0 && !p->members[i]->gone)
			return p->members[i];
	return NULL;
}

static void peer_free(struct peer *peer)
{
	if (!peer)
		return;
	free(peer->name);
	free(peer->address);
	free(peer);
}

/* Under the mutex. */
static bool add_peer(struct peers *p, const struct peers_member *m)
{
	struct peer **all = realloc(p->members, (p->n_members + 1) * sizeof *all);
	if (all)
		p->members = all;
	struct peer *peer = all ? calloc(1, sizeof *peer) : NULL;
	if (!peer)
		return false;
	*peer = (struct peer){ .owner = p, .id = m->id, .backoff_ms = RETRY_MIN_MS };
	peer->name = strdup(m->name);
	peer->address = strdup(m->address);
	if (!peer->name || !peer->address) {
		peer_free(peer);
		return false;
	}
	p->members[p->n_members++] = peer;
	return true;
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

/* The last frame on a stream that is about to be closed; whoever misses it asks again. */
static void say_removed(struct conn *c, uint64_t id)
{
	Kds__V1__Standing standing = KDS__V1__STANDING__INIT;
	standing.removed = id;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_STANDING;
	m.standing = &standing;
	uint8_t packed[32]; /* a number in a message in a message */
	const struct slice frame = { packed, kds__v1__peer_message__pack(&m, packed) };
	if (conn_send(c, &frame, 1) != STATUS_OK)
		log_debug("a replica that was removed did not hear so");
}

static bool send_hello(struct peers *p, struct conn *c)
{
	uint8_t genesis[GENESIS_SIZE];
	pthread_mutex_lock(&p->mutex);
	bool has_genesis = p->has_genesis;
	memcpy(genesis, p->genesis, sizeof genesis);
	pthread_mutex_unlock(&p->mutex);
	Kds__V1__PeerHello hello = KDS__V1__PEER_HELLO__INIT;
	hello.version = PROTOCOL_VERSION;
	hello.oldest_version = PROTOCOL_OLDEST;
	hello.level = level_known();
	hello.cluster_id = p->cluster_id;
	hello.from = p->options.self;
	hello.rpc_address = p->rpc_address;
	hello.incarnation = p->options.incarnation;
	hello.genesis.data = genesis;
	hello.genesis.len = has_genesis ? sizeof genesis : 0;
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_HELLO;
	m.hello = &hello;
	struct buffer packed = { 0 };
	struct status st;
	bool ok = message_pack(&m.base, &packed, &st) == STATUS_OK;
	const struct slice frame = { packed.data, packed.len };
	ok = ok && conn_send(c, &frame, 1) == STATUS_OK;
	buffer_free(&packed);
	return ok;
}

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
	if (!send_hello(p, c)) {
		conn_close(c);
		return;
	}
	pthread_mutex_lock(&p->mutex);
	peer->up = true;
	peer->up_ms = clock_monotonic_ms();
	pthread_mutex_unlock(&p->mutex);
	tell_link(peer, true, true);
}

/* A PUSH peer hears nothing, but that it was removed. */
static void out_frame(void *arg, struct conn *c, const uint8_t *data, size_t len)
{
	struct peer *peer = arg;
	struct peers *p = peer->owner;
	struct arena *arena = arena_new(HEARD_MEMORY_MAX);
	const ProtobufCMessage *unpacked = NULL;
	struct status st;
	if (arena && len <= HEARD_MAX &&
	    message_unpack(&kds__v1__peer_message__descriptor, (struct slice){ data, len }, arena, &st, NULL, 0, &unpacked) ==
		STATUS_OK &&
	    ((const Kds__V1__PeerMessage *)unpacked)->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_STANDING) {
		const struct peers_sender from = { .id = peer->id };
		p->options.message(p->options.arg, &from, arena, (const Kds__V1__PeerMessage *)unpacked, len);
	} else {
		complain(peer, "left", "it sent something on a stream that is ours to send on");
		arena_free(arena);
	}
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
	peer->dialled = peer->open = false;
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
	if (conn_dial(&o, &st, &peer->out) == STATUS_OK) {
		pthread_mutex_lock(&p->mutex);
		/* It may be down already: then `out` is not ours any more. */
		struct conn *c = peer->gone && peer->dialled ? conn_ref(peer->out) : NULL;
		peer->open = peer->dialled;
		pthread_mutex_unlock(&p->mutex);
		if (c)
			conn_close(c);
		conn_unref(c);
		return;
	}
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
		struct peer *peer = p->members[i];
		if (peer->gone || peer->dialled || peer->address[0] == '\0')
			continue;
		if (peer->retry_ms <= now)
			return peer;
		if (peer->retry_ms < *ret_when)
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
	struct inbound *in = calloc(1, sizeof *in);
	if (!in || !id || !(id->roles & PEER_SERIAL)) {
		free(in);
		conn_close(c);
		return;
	}
	pthread_mutex_lock(&p->mutex);
	in->peer = find_name(p, id->role_name);
	in->conn = c;
	in->next = p->inbound;
	p->inbound = in;
	conn_set_data(c, in);
	pthread_mutex_unlock(&p->mutex);
}

/* Who is no peer hears why, if there is an answer: it was one, and was removed. */
static void turn_away(struct peers *p, struct conn *c, uint64_t id)
{
	pthread_mutex_lock(&p->mutex);
	bool removed = id != 0 && id <= p->highest_id;
	pthread_mutex_unlock(&p->mutex);
	if (removed)
		say_removed(c, id);
	const struct identity *identity = conn_identity(c);
	if (may_complain(p, &p->complained_ms))
		log_warning("refused a stream from %s: '%s' %s", conn_peer_address(c), identity ? identity->role_name : "",
			    removed ? "is a replica that was removed" : "is no replica of this cluster");
	conn_close(c);
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
	if (hello->incarnation == 0)
		return "it does not say which data directory it has";
	/* One that was added has no log yet, perhaps it is we. */
	if (hello->genesis.len != 0 && hello->genesis.len != GENESIS_SIZE)
		return "its hello is damaged";
	if (hello->genesis.len != 0 && p->has_genesis && memcmp(hello->genesis.data, p->genesis, GENESIS_SIZE) != 0)
		return "its log began differently: it is of the time before a restore or recovery (then empty its data-dir and "
		       "add it to the cluster anew), or cluster, kds-name and the replica sections of both configuration "
		       "files differ";
	return NULL;
}

/* Under the mutex: a peer that is not dialled. NULL: no memory, or it is one under another name. */
static struct peer *take_in(struct peers *p, const char *name, uint64_t id)
{
	const struct peers_member stranger = { .id = id, .name = name, .address = "" };
	if (find_id(p, id) || p->n_members >= STRANGERS_MAX || !add_peer(p, &stranger))
		return NULL;
	return p->members[p->n_members - 1];
}

static bool take_hello(struct peers *p, struct conn *c, struct inbound *in, const Kds__V1__PeerMessage *m)
{
	pthread_mutex_lock(&p->mutex);
	/* It may have become a peer, or another one of its name may be. */
	struct peer *peer = in->peer ? in->peer : find_name(p, conn_identity(c)->role_name);
	if (!peer && p->welcomes && m->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_HELLO &&
	    m->hello->from != p->options.self)
		peer = take_in(p, conn_identity(c)->role_name, m->hello->from);
	in->peer = peer;
	const char *why = peer ? refuse_hello(p, peer, m) : NULL;
	bool hello = m->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_HELLO;
	pthread_mutex_unlock(&p->mutex);
	if (!peer || (hello && m->hello->from < peer->id)) {
		turn_away(p, c, hello ? m->hello->from : 0);
		return false;
	}
	if (why) {
		complain(peer, "refused", why);
		return false;
	}
	in->greeted = true;
	pthread_mutex_lock(&p->mutex);
	peer->incarnation = in->incarnation = m->hello->incarnation;
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
		if (in->peer)
			complain(in->peer, "refused", st.message);
		conn_close(c);
		goto out;
	}
	const Kds__V1__PeerMessage *m = (const Kds__V1__PeerMessage *)unpacked;
	if (!in->greeted) {
		if (!take_hello(p, c, in, m))
			conn_close(c);
		goto out;
	}
	const struct peers_sender from = { in->peer->id, in->incarnation };
	p->options.message(p->options.arg, &from, arena, m, len);
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
	pthread_mutex_lock(&p->mutex);
	struct inbound **at = &p->inbound;
	while (*at != in)
		at = &(*at)->next;
	*at = in->next;
	bool last = in->greeted && --in->peer->n_in == 0;
	pthread_mutex_unlock(&p->mutex);
	if (last)
		tell_link(in->peer, false, false);
	free(in);
}

/* Start and stop */

static bool is_listed(const struct peer *peer, const struct peers_member *members, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (members[i].id == peer->id && strcmp(members[i].name, peer->name) == 0 &&
		    strcmp(members[i].address, peer->address) == 0)
			return true;
	return false;
}

static bool has_id(uint64_t id, const struct peers_member *members, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (members[i].id == id)
			return true;
	return false;
}

/* Under the mutex. */
static void dismiss(struct peers *p, struct peer *peer, bool is_removed)
{
	peer->gone = true;
	if (peer->up && peer->id <= p->highest_id && is_removed)
		say_removed(peer->out, peer->id);
	if (peer->open)
		conn_close(peer->out); /* calls nothing back on this thread */
	for (struct inbound *in = p->inbound; in; in = in->next)
		if (in->peer == peer)
			conn_close(in->conn);
}

bool peers_set_members(struct peers *p, const struct peers_member *members, size_t n)
{
	bool ok = true;
	pthread_mutex_lock(&p->mutex);
	for (size_t i = 0; i < p->n_members; i++)
		if (!p->members[i]->gone && !is_listed(p->members[i], members, n))
			dismiss(p, p->members[i], !has_id(p->members[i]->id, members, n));
	for (size_t i = 0; ok && i < n; i++)
		if (members[i].id != p->options.self && members[i].address[0] != '\0' && !find_id(p, members[i].id))
			ok = add_peer(p, &members[i]);
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->mutex);
	return ok;
}

void peers_set_highest_id(struct peers *p, uint64_t id)
{
	pthread_mutex_lock(&p->mutex);
	p->highest_id = id;
	pthread_mutex_unlock(&p->mutex);
}

void peers_welcome(struct peers *p, bool strangers)
{
	pthread_mutex_lock(&p->mutex);
	p->welcomes = strangers;
	pthread_mutex_unlock(&p->mutex);
}

void peers_set_genesis(struct peers *p, struct slice genesis)
{
	pthread_mutex_lock(&p->mutex);
	memcpy(p->genesis, genesis.data, GENESIS_SIZE);
	p->has_genesis = true;
	pthread_mutex_unlock(&p->mutex);
}

static enum status_code listen_for_peers(struct peers *p, const struct peers_options *o, struct status *st)
{
	struct listener_options l = {
		.address = o->listen,
		.self = SP_PULL,
		.credentials = o->credentials,
		.trust = o->trust,
		.allow_roles = PEER_SERIAL,
		/* A member has one stream, and after a break of the network those that are not given up yet: no member can
		 * take the others' slots, nor can who has no certificate. */
		.slots = { .max_connections = 512, .max_per_service = 32, .max_strangers = 256, .max_strangers_address = 64 },
		.limits = limits(),
		.handlers = { .up = in_up, .frame = in_frame, .down = in_down, .arg = p },
	};
	l.limits.idle_ms = 10000; /* a replica says how it is twice a second */
	return listener_start(&l, st, &p->listener);
}

static void peers_free(struct peers *p)
{
	for (size_t i = 0; i < p->n_members; i++)
		peer_free(p->members[i]);
	free(p->members);
	free(p->cluster_id);
	free(p->rpc_address);
	tls_credentials_unref(p->credentials);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->mutex);
	free(p);
}

enum status_code peers_start(const struct peers_options *options, struct status *st, struct peers **ret_peers)
{
	if (options->genesis.len != 0 && options->genesis.len != GENESIS_SIZE)
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
	p->cluster_id = strdup(options->cluster_id);
	p->rpc_address = strdup(options->rpc_address);
	if (options->genesis.len > 0)
		peers_set_genesis(p, options->genesis);
	enum status_code rc = STATUS_OK;
	if (!p->cluster_id || !p->rpc_address || !peers_set_members(p, options->members, options->n_members))
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the peers: out of memory");
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
		if (p->members[i]->dialled)
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
		if (p->members[i]->dialled)
			conn_close(p->members[i]->out);
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
	pthread_mutex_lock(&p->mutex);
	const struct peer *peer = find_id(p, to);
	struct conn *c = peer && peer->up ? conn_ref(peer->out) : NULL;
	pthread_mutex_unlock(&p->mutex);
	if (!c)
		return false;
	bool sent = conn_send(c, &message, 1) == STATUS_OK;
	conn_unref(c);
	return sent;
}

bool peers_connected(struct peers *p, uint64_t id)
{
	pthread_mutex_lock(&p->mutex);
	const struct peer *peer = find_id(p, id);
	bool up = peer && peer->up;
	pthread_mutex_unlock(&p->mutex);
	return up;
}

bool peers_gone(struct peers *p, uint64_t id)
{
	pthread_mutex_lock(&p->mutex);
	const struct peer *peer = find_id(p, id);
	bool gone = peer && !peer->up && peer->n_in == 0;
	pthread_mutex_unlock(&p->mutex);
	return gone;
}

void peers_rpc_address(struct peers *p, uint64_t id, char *buf, size_t size)
{
	pthread_mutex_lock(&p->mutex);
	const struct peer *peer = find_id(p, id);
	snprintf(buf, size, "%s", peer ? peer->rpc_address : "");
	pthread_mutex_unlock(&p->mutex);
}

uint64_t peers_incarnation(struct peers *p, uint64_t id)
{
	pthread_mutex_lock(&p->mutex);
	const struct peer *peer = find_id(p, id);
	uint64_t incarnation = peer ? peer->incarnation : 0;
	pthread_mutex_unlock(&p->mutex);
	return incarnation;
}

void peers_recheck(struct peers *p)
{
	listener_recheck(p->listener);
	for (size_t i = 0;; i++) {
		struct status st;
		pthread_mutex_lock(&p->mutex);
		struct peer *peer = i < p->n_members ? p->members[i] : NULL;
		struct conn *c = peer && peer->up ? conn_ref(peer->out) : NULL;
		pthread_mutex_unlock(&p->mutex);
		if (!peer)
			break;
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
