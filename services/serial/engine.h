/*
 * The quorum engine: a replica (replica.h) with the peers as its network, and one libuv thread that gives it turns.
 *
 * A turn drains the input (peers' messages, the timer, reads, proposals), which arrives through a queue that other
 * threads fill (inbox.h), and finishes: applies, answers, one transaction, sends. What came meanwhile makes the next
 * turn: the slower the disk, the more shares a transaction.
 */
#ifndef SERIAL_ENGINE_H
#define SERIAL_ENGINE_H

#include "services/serial/peers.h"
#include "services/serial/state.h"
#include "services/serial/store.h"

struct engine;

#define LOG_TAIL_DEFAULT 8192 /* entries */

struct engine_member {
	uint64_t id;
	const char *name;
	const char *address; /* peer address */
};

struct engine_options {
	uint64_t id;
	const char *data_dir;
	const char *peer_listen;
	const char *rpc_address;
	/* The first configuration and genesis; every replica derives the same log entries 1 and 2 from them. With `join`
	 * it was added later: it gets its log from the others, and `members` only say where they are. */
	bool join;
	const char *cluster, *kds_name, *cluster_id;
	const struct engine_member *members;
	size_t n_members;
	/* A file that `kds-cli backup restore` prepared: an empty data_dir begins with it (restore.h). NULL: none. */
	const char *restore;
	unsigned election_ms, heartbeat_ms;
	unsigned log_tail; /* as in replica_options */
	struct tls_credentials *credentials;
	struct trust *trust;
	/* On the engine's thread, once at its start and after each turn that changed the state: what watchers and
	 * trust need. */
	void (*changed)(void *arg, struct state *state, uint64_t revision);
	/* On the engine's thread, when another leads or none is known any more: engine_leader() says so. May be NULL. */
	void (*leader_changed)(void *arg);
	/* On the engine's thread, once: this replica was removed, or its data directory is not the one that its id took part
	 * with (admission.h). It does nothing any more: end the process. */
	void (*ended)(void *arg, const char *why);
	void *arg;
};

/*
 * Opens the store and state (errors as store_open()), starts the peers and the thread. FAILED_PRECONDITION also: this
 * replica's log began with another cluster, kds-name, cluster-id or other replicas than the options say (genesis.h).
 * Blocks; strings and members are not used after it returns, credentials and trust are.
 */
enum status_code engine_start(const struct engine_options *options, struct status *st,
			      struct engine **ret_engine) MUST_CHECK;
/* What waits is answered with UNAVAILABLE. Frees. No call may be under way or follow. Not from the engine's thread. */
void engine_stop(struct engine *e);

/*
 * Proposes a command; any thread, never blocks. `done` runs once, on the engine's thread: with the state machine's
 * result, or UNAVAILABLE (not leader, leadership lost, stopping): then it is unknown whether the command was or will be
 * applied. RESOURCE_EXHAUSTED: too many wait. FAILED_PRECONDITION: not all replicas know commands of its version
 * (level.h; 0: LEVEL_FIRST). `command` is packed before it returns; the engine stamps time_ms, which
 * never goes back, whoever leads. (Only when memory is gone `done` runs before this returns, with UNAVAILABLE.)
 */
typedef void (*engine_done_fn)(void *arg, const struct state_result *result);
void engine_propose(struct engine *e, Kds__V1__Command *command, engine_done_fn done, void *arg);

/*
 * Runs `read` on the engine's thread with the state. linearizable: only as leader, when a majority has confirmed that it
 * still is (Ongaro's thesis, §6.4), in a round of messages that all who wait share: it sees what was answered before it
 * came. `st` is UNAVAILABLE (RESOURCE_EXHAUSTED: too many wait) and state NULL otherwise. Any thread, never blocks.
 */
typedef void (*engine_read_fn)(void *arg, struct state *state, const struct status *st);
void engine_read(struct engine *e, bool linearizable, engine_read_fn read, void *arg);

/*
 * Hands the leadership over, to the voter `id` or (0) to the most advanced one that is connected (Ongaro's thesis, §3.10).
 * Meanwhile proposals are UNAVAILABLE. `done` runs once, on the engine's thread, within two election timeouts: OK with
 * who leads now (this replica, where it was asked for); FAILED_PRECONDITION: this replica does not lead, or another
 * handover is under way; NOT_FOUND: `id` is no voter; UNAVAILABLE: no connection to it, or nobody leads yet;
 * DEADLINE_EXCEEDED: it did not take over, this replica still leads. Any thread, never blocks.
 */
typedef void (*engine_transfer_fn)(void *arg, const struct status *st, uint64_t leader);
void engine_transfer(struct engine *e, uint64_t id, engine_transfer_fn done, void *arg);

/*
 * How old this replica's state is: it holds all that was committed so many ms ago, as far as its leader told (the
 * message's way is not counted). 0 while it leads; one that was cut off finds out within an election timeout.
 * UINT64_MAX: it has heard of no leader since it started. Any thread.
 */
uint64_t engine_age_ms(struct engine *e);

/*
 * In an engine_read_fn alone: may the administrator change the membership so? FAILED_PRECONDITION with the reason,
 * UNAVAILABLE: not the leader. And the members as the leader sees them, a MembersResponse, appended to `out`.
 */
enum status_code engine_check_change(struct engine *e, const Kds__V1__ChangeReplicaRequest *change,
				     struct status *st) MUST_CHECK;
enum status_code engine_members(struct engine *e, struct status *st, struct buffer *out) MUST_CHECK;
/* Likewise; 0: none has this name. */
uint64_t engine_member_id(struct engine *e, const char *name);

/* Any thread, from a published copy: are we leader, and who is. rpc address "" while unknown. */
bool engine_is_leader(struct engine *e);
bool engine_leader(struct engine *e, uint64_t *ret_id, char *rpc_address, size_t size);

/* Is this the name of a replica that is a member, and is not to be removed? As this replica knows it. Any thread. */
bool engine_has_member(struct engine *e, const char *name);

/* Of commands that may be proposed (level.h); 0: not known yet. Any thread. */
unsigned engine_level(struct engine *e);

/* How many replicas vote now, whoever began the cluster; 0: that is not known yet. Any thread. */
size_t engine_count_voters(struct engine *e);
/* Is a majority of the voters there, so that there is a leader or soon will be? Any thread. */
bool engine_hears_majority(struct engine *e);

/* Fills a ViewResponse that is freed with kds__v1__view_response__free_unpacked(); NULL: no memory. Any thread. */
Kds__V1__ViewResponse *engine_view(struct engine *e);

/* The trust changed: closes the streams to and from replicas that it no longer takes. Any thread. */
void engine_recheck(struct engine *e);
void engine_set_credentials(struct engine *e, struct tls_credentials *credentials);

#endif
