/*
 * The replicated state machine: serial numbers, records, configuration objects. Deterministic: state and command alone
 * decide; time comes from the command. Lives in tables of the replica's database, cached in memory where reads need it.
 * Knows nothing of raft, sockets or envelopes. One thread: the engine's.
 *
 * Invariants, checked here and nowhere else:
 *  - a serial is in at most one block, and blocks only ever go up;
 *  - a record is accepted once, from the CA that holds its block, at or above min_serial (the same record again is OK),
 *    while who asked for it may still ask: a node of the configuration, with a certificate at or above min_serial, or a
 *    service that was not removed;
 *  - for one request id a requester has one record;
 *  - nobody has more live certificates of a profile than limit.live-certificates;
 *  - min_serial never goes down;
 *  - each change of an object, of min_serial too, gets the next revision, and a line in the history.
 *
 * What was deleted leaves a trace for watchers: of the newest 10,000 deletions. The highest revision whose trace is
 * gone is known, so that a watcher from below it is told to read the state anew.
 *
 * A CA's block is open for records until the CA holds 64 newer ranges (neighbouring blocks are one range), until it is below
 * min_serial, or until a record of it at or above the serial has expired: memory stays bounded, and a serial cannot come
 * back after its record is gone. min_serial can be raised to last_serial + 1 at most, which closes every block: higher
 * would refuse certificates that are not issued yet.
 *
 * Commands of a version before LEVEL_ASKED (level.h) do not say who asks and who asked as these invariants need it; what is
 * new with that level holds for commands from it on.
 */
#ifndef SERIAL_STATE_H
#define SERIAL_STATE_H

#include <sqlite3.h>

#include "common/base/buffer.h"
#include "common/base/settings.h"
#include "backup.pb-c.h"
#include "serial.pb-c.h"
#include "state.pb-c.h"

struct state;

/* Makes the tables where there are none, loads the caches. `db` is borrowed. DATA_LOSS: the tables contradict each
 * other. */
enum status_code state_open(sqlite3 *db, struct status *st, struct state **ret_state) MUST_CHECK;
void state_close(struct state *s);
/* The tables were replaced, in the transaction that is open: reads them as state_open() does. After a failure the state
 * can only be closed. Nothing may wait for state_flush(). */
enum status_code state_reload(struct state *s, struct status *st) MUST_CHECK;

/* What a command answers: a code with a message, and on OK the packed answer message of its RPC. */
struct state_result {
	struct status status;
	struct buffer answer; /* reused from one call to the next; state_result_fini() at the end */
	const char *field;    /* INVALID_ARGUMENT: which; "" otherwise; static storage */
};
void state_result_fini(struct state_result *r);

/*
 * Applies one committed command inside the caller's transaction. A refused command leaves the state as it was (but for
 * what has expired by the command's time) and says why in the result; a command of an unknown version or operation, or
 * one that does not unpack, is fatal by contract (the return is DATA_LOSS and the engine stops the process): applying
 * it elsewhere and not here would split the replicas. So is an index that is not above the last one: it was applied
 * before. An SQLite error is INTERNAL: the engine stops the process. Commands with a request id that was seen (the
 * newest 65,536 and 16 MiB of answers within 10 minutes of command time, 16,384 of any age) get the first answer again.
 */
enum status_code state_apply(struct state *s, uint64_t index, struct slice command, struct status *st,
			     struct state_result *ret_result) MUST_CHECK;

/*
 * Writes what state_apply() kept in memory so far (numbers, blocks, request ids): once for all commands of a
 * transaction, at its end. A transaction that would be committed without it is refused by SQLite. INTERNAL: the engine
 * stops the process.
 */
enum status_code state_flush(struct state *s, struct status *st) MUST_CHECK;

/*
 * Makes a state that was loaded from a backup the beginning of a new log, whose entries up to `index` it stands for, as
 * was decided: serials and revisions go on behind `skip` more, all blocks are closed, min_serial is set. The caller's
 * transaction holds it and state_flush(). DATA_LOSS, INTERNAL: the replica must not start.
 */
enum status_code state_restore(struct state *s, const Kds__V1__BackupRestore *restore, uint64_t index,
			       struct status *st) MUST_CHECK;

/*
 * The digest of the state: equal where the content is equal, on every replica, and different (but for one case in
 * 2^256) where a bit differs; against faults, not adversaries. Costs a flush, so it belongs into a transaction when
 * commands were applied since the last. INTERNAL as state_flush().
 */
#define STATE_DIGEST_SIZE 32
/* Raised when the digest of the same content becomes another. It is stored with each digest: one of another format, which
 * an older or newer version left or sent, is made anew from the tables; and such versions do not compare theirs. */
#define STATE_DIGEST_FORMAT 1
enum status_code state_digest(struct state *s, struct status *st, uint8_t ret_digest[STATE_DIGEST_SIZE]) MUST_CHECK;
/*
 * Reads the tables again, at most `rows` rows of one of them in this call (a small table all at once), and compares
 * their digest with the running one when all were read (*ret_done; the next call begins anew). Commands may be applied
 * between two calls. DATA_LOSS: the disk does not hold what was written, or the database was changed by another hand.
 * INTERNAL as state_flush().
 */
enum status_code state_scan_digest(struct state *s, unsigned rows, struct status *st, bool *ret_done) MUST_CHECK;

/* Could this command be well formed for anyone (names, sizes, kinds)? The api asks before it proposes, so that people
 * get an answer at once; state_apply() asks again. `field` as in state_result. */
enum status_code state_validate(const Kds__V1__Command *command, struct status *st, const char **ret_field) MUST_CHECK;

/*
 * Answers to records, for people: results say by code why a record was refused, and what is stored says no more. Was any of
 * the `n` of this RecordResponse? And the same answer with a text for each, appended to `out`; `ca`: who asked for `in`.
 */
bool state_any_refused(struct slice answer, size_t n) MUST_CHECK;
enum status_code state_explain(struct state *s, const char *ca, const Kds__V1__RecordRequest *in, struct slice answer,
			       struct status *st, struct buffer *out) MUST_CHECK;

/* Whose sealed keys an answer may hold; others are left out. Bits. */
enum state_sealed {
	STATE_SEALED_CA = 1 << 0,        /* of "ca/" */
	STATE_SEALED_MASTERKEY = 1 << 1, /* of "masterkey/" */
};

/*
 * Reads. Answers are packed into `out` (appended) or filled in; strings borrowed until the next state_apply().
 */
uint64_t state_revision(const struct state *s);
/* What the replicas have agreed to apply (level.h); 0 before genesis is applied. */
unsigned state_level(const struct state *s);
uint64_t state_time_ms(const struct state *s); /* of the newest command, Unix ms: it never goes back */
uint64_t state_applied(const struct state *s); /* index of the last command that was applied */
void state_serial_status(const struct state *s, Kds__V1__SerialStatus *ret_status); /* initialised by the callee */
const char *state_cluster_name(const struct state *s);                              /* "" before genesis is applied */
/* As settings_get(). */
uint64_t state_setting(const struct state *s, enum setting which);
/* Object answers; NOT_FOUND. */
enum status_code state_get(struct state *s, const char *key, unsigned sealed, struct status *st,
			   struct buffer *out) MUST_CHECK;
/* ListResponse; at most about 512 KiB an answer. */
enum status_code state_list(struct state *s, const Kds__V1__ListRequest *in, unsigned sealed, struct status *st,
			    struct buffer *out) MUST_CHECK;
/* WatchResponse with what is newer than since_revision, oldest first: of the next 4,096 objects and at most about 512
 * KiB (more = true); *ret_any: is there anything, or more. restart: since_revision is above the state's, or something
 * that the watcher may know was deleted and the trace of it compacted away. */
enum status_code state_changes(struct state *s, const Kds__V1__WatchRequest *in, unsigned sealed, struct status *st,
			       struct buffer *out, bool *ret_any) MUST_CHECK;
/* HistoryResponse. */
enum status_code state_history(struct state *s, const Kds__V1__HistoryRequest *in, struct status *st,
			       struct buffer *out) MUST_CHECK;
/* The objects of all replicas, the removed ones too, by name; the caller frees with
 * kds__v1__replica_list__free_unpacked(). And the revision of the newest of them; 0: none is entered yet. */
enum status_code state_replicas(struct state *s, struct status *st, Kds__V1__ReplicaList **ret_list) MUST_CHECK;
uint64_t state_replicas_revision(const struct state *s);
/* ListCertificatesResponse. */
enum status_code state_certificates(struct state *s, const Kds__V1__ListCertificatesRequest *in, struct status *st,
				    struct buffer *out) MUST_CHECK;

#endif
