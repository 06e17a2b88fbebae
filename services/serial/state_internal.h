/*
 * What the files of the state machine share (state.h has what it is for).
 *
 *   state.c           opens, applies, flushes
 *   state_validate.c  what a command must look like, whatever the state
 *   state_serial.c    blocks, min_serial
 *   state_records.c   records of certificates
 *   state_asked.c     who asked for them, and whether they may
 *   state_live.c      how many of them are in use
 *   state_objects.c   configuration objects
 *   state_history.c   who changed them
 *   state_members.c   the replicas, as objects
 *   state_requests.c  request ids that were seen
 *   state_digest.c    the digest of all rows
 *   state_reads.c     answers
 *
 * A function that applies something returns OK also when it refuses (the refusal is in the result) and INTERNAL when
 * the replica must stop.
 */
#ifndef SERIAL_STATE_INTERNAL_H
#define SERIAL_STATE_INTERNAL_H

#include "services/serial/level.h"
#include "services/serial/state.h"

#define SERIAL_MAX ((uint64_t)INT64_MAX) /* SQLite's integers are signed */
#define RECORD_CERTIFICATES_MAX 4096     /* of one command */
/* A command comes from one frame (1 MiB) that was checked; unpacked it stays far below. */
#define COMMAND_MEMORY_MAX ((size_t)32 << 20)
/* Records are indexed by subject in blocks of 2^14 serials. */
#define ISSUED_BLOCK_BITS 14
#define SQL_TEXT(x) #x
#define SQL_NUMBER(x) SQL_TEXT(x)

/*
 * Every table of the state, in the order in which they are read and written as a whole: by snapshots, backups, the
 * digest and all else that must go over the whole state. Whoever adds a table adds it here. Rows are read with
 * SELECT *, in the order of the key. The digest follows each change by itself (state_digest.c).
 */
enum state_table_number {
	STATE_TABLE_NUMBERS,
	STATE_TABLE_BLOCKS,
	STATE_TABLE_ISSUED,
	STATE_TABLE_ASKED,
	STATE_TABLE_OBJECTS,
	STATE_TABLE_HISTORY,
	STATE_TABLE_REQUESTS,
	STATE_TABLES,
};
#define STATE_INDEXES_MAX 2
struct state_table {
	const char *name;
	const char *columns; /* as CREATE TABLE wants them */
	const char *key;     /* the column that is the primary key; the first */
	struct {
		const char *name, *on; /* columns or expressions */
	} indexes[STATE_INDEXES_MAX];
	/*
	 * The level (level.h) from which on it has rows; 0: it always had. Below, streams do not hold it, so that versions
	 * which do not know it take them; it counts for nothing in the digest; and such a version leaves it alone, empty
	 * as it is, in a database that it takes back.
	 */
	unsigned level;
	bool without_rowid; /* only where there are few rows: the digest reads them all at once */
	bool lasting; /* means something beyond this log: backups hold it */
};
extern const struct state_table state_tables[STATE_TABLES];
/* Makes the table, under a name of its own (a snapshot's begins so), unless it is there. False: sqlite3_errmsg(). */
bool state_make_table(sqlite3 *db, const struct state_table *t, const char *name) MUST_CHECK;

/*
 * Serials handed to one CA and still open for records: ascending, disjoint, neighbours merged. It keeps the newest 64
 * ranges; older ones are closed, and so is what lies at or below a record that has expired: a record in a closed
 * range is refused, so that a serial cannot come back after its record is gone.
 */
#define HOLDER_BLOCKS_MAX 64
struct block {
	uint64_t first, last;
};
struct holder {
	char *name; /* role name of the CA */
	struct block blocks[HOLDER_BLOCKS_MAX];
	unsigned n_blocks;
	bool dirty;
};
/* One more, and the one whose newest block is the oldest loses its blocks. */
#define HOLDERS_MAX 256

/* One row, written by state_flush(). */
struct numbers {
	uint64_t applied; /* index of the last command */
	uint64_t time_ms; /* the highest of all commands: it never goes back when another replica leads */
	uint64_t revision;
	uint64_t last_serial, min_serial, highest_issued;
	uint64_t issued;         /* rows of `issued` */
	uint64_t oldest_request; /* sequence number of the oldest request id still known */
	uint64_t level;          /* what the replicas have agreed to apply (level.h); 0 before genesis */
	uint64_t tombstones;     /* rows of `objects` that are deleted */
	uint64_t compacted;      /* highest revision of a tombstone that is gone */
};
#define NUMBERS 11
#define NUMBERS_COLUMNS                                                                                                \
	"applied, time_ms, revision, last_serial, min_serial, highest_issued, issued, oldest_request, level,"          \
	" tombstones, compacted"
/* In the order of NUMBERS_COLUMNS; and from a row of them. */
void state_numbers(const struct numbers *n, uint64_t ret_values[NUMBERS]);
void state_numbers_read(sqlite3_stmt *sql, struct numbers *ret_numbers);

enum statement {
	SQL_NUMBERS_GET,
	SQL_NUMBERS_PUT,
	SQL_BLOCKS_ALL,
	SQL_BLOCKS_PUT,
	SQL_BLOCKS_DELETE,
	SQL_ISSUED_GET,
	SQL_ISSUED_INSERT,
	SQL_ISSUED_OLDEST,
	SQL_ISSUED_DELETE,
	SQL_ISSUED_LIST,
	SQL_ISSUED_LIST_SUBJECT,
	SQL_ISSUED_NEXT,
	SQL_ISSUED_LIVE,
	SQL_ASKED_INSERT,
	SQL_ASKED_DELETE,
	SQL_ASKED_FIND,
	SQL_OBJECT_GET,
	SQL_OBJECT_PUT,
	SQL_OBJECT_DROP,
	SQL_AUTHORITIES_COUNT,
	SQL_TOMBSTONE_OLDEST,
	SQL_HISTORY_PUT,
	SQL_HISTORY_PRUNE,
	SQL_HISTORY_LIST,
	SQL_OBJECTS_BETWEEN,
	SQL_OBJECTS_LIST,
	SQL_OBJECTS_SINCE,
	SQL_REQUESTS_ALL,
	SQL_REQUESTS_INSERT,
	SQL_REQUESTS_DELETE,
	SQL_COUNT,
};

/* Makes those of state_tables that are not there, in the caller's transaction or one of its own. */
enum status_code state_make_tables(sqlite3 *db, struct status *st) MUST_CHECK;

struct requests;
struct digest;
struct live;
struct removed;

struct state {
	sqlite3 *db;
	sqlite3_stmt *sql[SQL_COUNT];
	struct numbers numbers;
	bool dirty; /* something waits for state_flush() */
	struct holder *holders[HOLDERS_MAX];
	unsigned n_holders;
	struct requests *requests;
	struct digest *digest;
	struct live *live;
	struct removed *removed;
	/* The record that expires first; expiry_s is INT64_MAX when there is none. */
	int64_t expiry_s;
	uint64_t expiry_serial;
	char *cluster, *kds_name; /* "" before genesis */
	struct settings settings; /* as the objects "setting/" say */
	const char *requester;    /* of the command that is being applied */
	uint64_t replicas_revision; /* of the newest object of a replica; 0: none */
	struct buffer scratch;
};

/* INTERNAL with SQLite's words. Returns the code. */
enum status_code state_sql_failed(struct state *s, struct status *st, const char *doing);
/* Runs a statement that returns no rows. */
enum status_code state_run(struct state *s, enum statement which, struct status *st, const char *doing) MUST_CHECK;
/* Borrowed until the statement's next step; never NULL for an empty one. */
struct slice state_column(sqlite3_stmt *sql, int column);
void state_bind_uint(sqlite3_stmt *sql, int parameter, uint64_t value);
void state_bind_blob(sqlite3_stmt *sql, int parameter, struct slice value); /* borrowed until the next step is done */
void state_bind_text(sqlite3_stmt *sql, int parameter, const char *value);  /* likewise */
/* Numbers in blobs: big-endian, so that a database can move between machines. */
void state_put_be(uint8_t *p, uint64_t value, int bytes);
uint64_t state_get_be(const uint8_t *p, int bytes);

/* The command is refused: fills the result and returns OK. `field`: static storage, NULL for none. */
enum status_code state_refuse(struct state_result *r, enum status_code code, const char *field, const char *format, ...)
    PRINTF_LIKE(4, 5);
/* The command's answer. INTERNAL: no memory. */
enum status_code state_answer(struct state_result *r, const ProtobufCMessage *answer, struct status *st) MUST_CHECK;

/* What of them is for people; initialised by the callee. */
void state_numbers_status(const struct numbers *n, Kds__V1__SerialStatus *ret_status);

/* state_validate.c */
/* Of a command of this version. */
enum status_code state_validate_certificate(const Kds__V1__IssuedCertificate *c, unsigned version,
					    struct status *st) MUST_CHECK;
/* Is this a key that Delete takes? */
enum status_code state_validate_key(const char *key, struct status *st) MUST_CHECK;

/* state_serial.c */
enum status_code state_serial_load(struct state *s, struct status *st) MUST_CHECK;
void state_serial_unload(struct state *s);
enum status_code state_serial_flush(struct state *s, struct status *st) MUST_CHECK;
/* Is it in an open block of this holder? */
bool state_is_open(const struct state *s, const char *holder, uint64_t serial);
/* Closes `serial` and what its holder has below it. */
void state_close_serials(struct state *s, uint64_t serial);
/* No serial that was handed out before can be recorded any more. */
enum status_code state_close_blocks(struct state *s, struct status *st) MUST_CHECK;
enum status_code state_allocate(struct state *s, const Kds__V1__Command *c, struct status *st,
				struct state_result *r) MUST_CHECK;
enum status_code state_set_min(struct state *s, const Kds__V1__Command *c, struct status *st,
			       struct state_result *r) MUST_CHECK;

/* state_records.c */
enum status_code state_records_load(struct state *s, struct status *st) MUST_CHECK;
/* Deletes records that expired longer ago than they are kept, at most `limit`, the first to expire first. */
enum status_code state_expire_records(struct state *s, size_t limit, struct status *st) MUST_CHECK;
enum status_code state_record(struct state *s, const Kds__V1__Command *c, struct arena *arena, struct status *st,
			      struct state_result *r) MUST_CHECK;
/* Is there a record of this certificate of a CA? `fingerprint`: 32 bytes. */
enum status_code state_knows_authority(struct state *s, uint64_t serial, const uint8_t *fingerprint, struct status *st,
				       bool *ret_known) MUST_CHECK;
/* The columns of a record, which statements select in this order; and from such a row. Strings and bytes are borrowed until
 * the statement's next step. INTERNAL: the row is damaged, or no memory. */
#define RECORD_COLUMNS                                                                                                 \
	"issued.serial, fingerprint, subject, issuer_key_id, not_before, not_after, profile, requester, recorded_ms,"  \
	" coalesce(requester_serial, 0), coalesce(requester_issuer, x''), coalesce(request_id, x''),"                  \
	" coalesce(request_digest, x'')"
#define RECORD_TABLES "issued LEFT JOIN asked ON asked.serial = issued.serial"
enum status_code state_record_read(sqlite3_stmt *sql, struct status *st,
				   Kds__V1__IssuedCertificate *ret_certificate) MUST_CHECK;

/* state_asked.c: a requester is a label (identity_label()), or the bare name of a service from before LEVEL_ASKED. */
bool state_requester_is_node(const char *requester);
/* Was this service removed from the cluster? False for nodes. */
bool state_requester_is_removed(const struct state *s, const char *requester);
/* A change of the object "service/...". INTERNAL: no memory. */
enum status_code state_note_service(struct state *s, const char *key, const Kds__V1__Object *o,
				    struct status *st) MUST_CHECK;
void state_removed_free(struct removed *removed);
/* May who asked for it still ask? Else the refusal. */
enum status_code state_check_requester(struct state *s, const Kds__V1__IssuedCertificate *c, struct status *st,
				       Kds__V1__RecordRefusal *ret_refusal) MUST_CHECK;
/* What this requester has on record under this request id. */
struct asked {
	uint64_t hash;   /* of both; 0: it has no id */
	uint64_t serial; /* 0: nothing */
	bool same;       /* it asked for the same */
};
enum status_code state_find_asked(struct state *s, const Kds__V1__IssuedCertificate *c, struct status *st,
				  struct asked *ret_asked) MUST_CHECK;
/* `hash`: as it was found. */
enum status_code state_put_asked(struct state *s, const Kds__V1__IssuedCertificate *c, uint64_t hash,
				 struct status *st) MUST_CHECK;
enum status_code state_drop_asked(struct state *s, uint64_t serial, struct status *st) MUST_CHECK;

/* state_live.c. A certificate is live from its record until it has expired or is below min_serial. Those of CAs are not
 * counted. */
enum status_code live_load(struct state *s, struct status *st) MUST_CHECK;
void live_free(struct live *l);
/* There is one more record. INTERNAL: no memory. */
enum status_code live_add(struct state *s, const Kds__V1__IssuedCertificate *c, struct status *st) MUST_CHECK;
/* Has the subject of this certificate `limit` live ones of its profile, or more? */
bool live_reached(struct state *s, const Kds__V1__IssuedCertificate *c, uint64_t limit);

/* state_objects.c */
enum status_code state_objects_load(struct state *s, struct status *st) MUST_CHECK;
enum status_code state_genesis(struct state *s, const Kds__V1__Genesis *in, struct status *st,
			       struct state_result *r) MUST_CHECK;
enum status_code state_put(struct state *s, const Kds__V1__Command *c, struct status *st,
			   struct state_result *r) MUST_CHECK;
enum status_code state_delete(struct state *s, const Kds__V1__Command *c, struct status *st,
			      struct state_result *r) MUST_CHECK;
/* Is there an object under the key? */
enum status_code state_exists(struct state *s, const char *key, struct status *st, bool *ret_exists) MUST_CHECK;
/* state_history.c: one change, of the object as it was written; previous: its revision before, 0: it was not there. */
enum status_code state_remember(struct state *s, const Kds__V1__Object *o, uint64_t previous,
				struct status *st) MUST_CHECK;

/* state_reads.c: one more element of an answer's field 1. Nobody's answer is larger, or looks at more rows. */
#define STATE_ANSWER_MAX ((size_t)512 << 10)
#define STATE_SCAN_MAX 4096
enum status_code state_append_element(struct slice packed, struct status *st, struct buffer *out) MUST_CHECK;

/* Gives the object the next revision, which it then has, and writes it in place of what is under the key. */
enum status_code state_write_object(struct state *s, const char *key, Kds__V1__Object *o, struct status *st) MUST_CHECK;
/* A new beginning: the replicas of before are forgotten, and deletions leave no trace, as every watcher starts again from
 * the state. */
enum status_code state_restore_objects(struct state *s, struct status *st) MUST_CHECK;
/* Writes the object "serial/min" with the next revision. */
enum status_code state_write_min(struct state *s, struct status *st) MUST_CHECK;
/* Writes the key of a value ("node/a.example.com") into buf; "" when it has none. */
#define OBJECT_KEY_MAX 272
void state_object_key(const Kds__V1__Object *o, char buf[OBJECT_KEY_MAX]);

/* state_members.c */
enum status_code state_members_load(struct state *s, struct status *st) MUST_CHECK;
enum status_code state_change_members(struct state *s, const Kds__V1__Command *c, struct status *st,
				      struct state_result *r) MUST_CHECK;

/* state_requests.c */
enum status_code requests_load(struct state *s, struct status *st) MUST_CHECK;
void requests_free(struct requests *q);
/* Forgets what is too old by the command's time. */
void requests_expire(struct state *s);
/* Was it seen? Then fills the result with the first answer. *ret_seen; INTERNAL: no memory. */
enum status_code requests_find(struct state *s, const Kds__V1__Command *c, struct status *st, struct state_result *r,
			       bool *ret_seen) MUST_CHECK;
enum status_code requests_remember(struct state *s, const Kds__V1__Command *c, const struct state_result *r,
				   struct status *st) MUST_CHECK;
enum status_code requests_flush(struct state *s, struct status *st) MUST_CHECK;
/* The entries of a row of the table, the last of which has the number `last`; stops at damage. */
typedef void (*requests_entry_fn)(void *arg, uint64_t number, struct slice entry);
void requests_each(struct slice row, uint64_t last, requests_entry_fn each, void *arg);

/* state_digest.c. `stored`: the digest's format and what digest_total() was when the numbers were written; empty, or of
 * another format: what the tables hold now is read and taken as right, which blocks. */
enum status_code digest_open(struct state *s, struct slice stored, struct status *st) MUST_CHECK;
void digest_close(struct state *s);
/* As state_digest(), which flushes first. */
enum status_code digest_total(struct state *s, struct status *st, uint8_t ret_digest[STATE_DIGEST_SIZE]) MUST_CHECK;
/* A request id comes or goes; the entry as it is in its row. */
void digest_request(struct state *s, uint64_t number, struct slice entry, bool comes);

#endif
