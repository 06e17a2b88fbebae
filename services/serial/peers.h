/*
 * Streams between replicas: to each peer one PUSH stream that we dial, from each one PULL stream that it dials. TLS
 * 1.3, both ends with the role `serial`. The first frame is a PeerHello (state.proto); who sends is what the
 * certificate's role name says ("serial<id>" or as configured), nothing else; a hello of another cluster or genesis
 * closes the stream. Nothing is buffered for a peer that is not connected.
 */
#ifndef SERIAL_PEERS_H
#define SERIAL_PEERS_H

#include "common/net/listener.h"
#include "state.pb-c.h"

#define PEERS_FRAME_MAX ((size_t)4 << 20) /* bytes of one message */

struct peers;

struct peers_member {
	uint64_t id;
	const char *name;    /* role name its certificate must have */
	const char *address; /* peer address "host:port" */
};

struct peers_sender {
	uint64_t id;
	uint64_t incarnation; /* of its data directory, as its hello said */
};

struct peers_options {
	uint64_t self;
	const char *listen;          /* our peer address */
	const char *rpc_address;     /* ours, told to the others */
	const char *cluster_id;
	struct slice genesis;        /* 32 bytes; empty: none yet */
	uint64_t incarnation;        /* of our data directory */
	struct tls_credentials *credentials;
	struct trust *trust;
	const struct peers_member *members; /* copied; one with our own id does not count */
	size_t n_members;
	/* On NNG's threads: a message from a peer, checked (message.h), of `size` bytes; the callee owns `arena`, in
	 * which it lives. From one that is no member any more there is a Standing at most, which says that we are none. */
	void (*message)(void *arg, const struct peers_sender *from, struct arena *arena,
			const Kds__V1__PeerMessage *message, size_t size);
	/* A stream to (outgoing) or from a peer came up or broke. NNG's threads, no lock held. */
	void (*link)(void *arg, uint64_t peer, bool outgoing, bool up);
	void *arg;
};

/* Listens and dials (again and again, 50 ms to 1 s apart), from a thread of its own. Errors as listener_start(). */
enum status_code peers_start(const struct peers_options *options, struct status *st,
			     struct peers **ret_peers) MUST_CHECK;
/* Closes every stream and waits until the last callback has run. Frees. NULL is allowed. */
void peers_stop(struct peers *p);

/* From now on these are the peers: streams to and from others are closed, and others are dialled. Copied; one without
 * an address is left out. False: no memory, and some are missing: call again. Any thread but a callback's. */
bool peers_set_members(struct peers *p, const struct peers_member *members, size_t n) MUST_CHECK;
/* Ids up to here were given to somebody: who comes with one and is no peer was removed, and is told so. */
void peers_set_highest_id(struct peers *p, uint64_t id);
/* Whether streams from replicas that are no peers are taken, too: by one that joins and does not know all of them. */
void peers_welcome(struct peers *p, bool strangers);
/* We have a log now: 32 bytes. */
void peers_set_genesis(struct peers *p, struct slice genesis);

/* Sends a packed PeerMessage; never blocks. False: not connected or full; it is dropped, as Raft allows. Any thread. */
bool peers_send(struct peers *p, uint64_t to, struct slice message);
bool peers_connected(struct peers *p, uint64_t id);
/* No stream to it and none from it. False for who is no peer. */
bool peers_gone(struct peers *p, uint64_t id);
/* Which data directory it said it has; 0: it did not yet. */
uint64_t peers_incarnation(struct peers *p, uint64_t id);
/* "" while unknown. Copies into buf. */
void peers_rpc_address(struct peers *p, uint64_t id, char *buf, size_t size);
/* The level of commands that the replicated state has (level.h): who does not know it is not talked to. Any thread. */
void peers_set_level(struct peers *p, unsigned level);
/* Closes the streams whose other end the trust no longer takes. Any thread but a callback's. */
void peers_recheck(struct peers *p);
void peers_set_credentials(struct peers *p, struct tls_credentials *credentials);

#endif
