#include "services/serial/backup.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/backup/file.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/secret.h"
#include "common/rpc/message.h"
#include "services/serial/state_reader.h"

#define SESSIONS_MAX 2
#define WAITING_MAX 16
#define IDLE_MS 30000
#define WAL_MAX ((uint64_t)512 << 20)
#define SWEEP_MS 1000

struct session {
	uint64_t id;                /* random; 0: free */
	struct state_reader *reader; /* NULL once the last page was read: nothing is pinned any more */
	uint32_t page;              /* which one `answer` is */
	struct buffer answer;       /* packed, for who asks again */
	uint64_t used_ms;
};

struct request {
	struct rpc_call *call;
	const Kds__V1__BackupReadRequest *in;
};

struct backup {
	char database[4096], wal[4100];
	char *replica;
	uint64_t wal_max;
	unsigned idle_ms;
	size_t page_max;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool stopping;
	struct request waiting[WAITING_MAX];
	size_t n_waiting;

	/* The thread's own. */
	struct session sessions[SESSIONS_MAX];
	uint64_t given_up[SESSIONS_MAX]; /* ids of the sessions that were ended because of the write-ahead log */
};

static void end_session(struct session *s)
{
	state_reader_close(s->reader);
	buffer_wipe(&s->answer);
	*s = (struct session){ 0 };
}

static uint64_t wal_size(const struct backup *b)
{
	struct stat sb;
	return stat(b->wal, &sb) == 0 ? (uint64_t)sb.st_size : 0;
}

/* Ends the sessions that nobody uses; and all that pin something when that costs too much. */
static void sweep(struct backup *b)
{
	uint64_t now = clock_monotonic_ms(), wal = 0;
	for (size_t i = 0; i < SESSIONS_MAX; i++) {
		struct session *s = &b->sessions[i];
		if (s->id != 0 && now - s->used_ms >= b->idle_ms) {
			log_info("backup ended reason=idle");
			end_session(s);
		}
		if (s->reader && wal == 0)
			wal = wal_size(b);
		if (s->reader && wal > b->wal_max) {
			log_warning("backup given up: %s has grown to %" PRIu64 " bytes meanwhile", b->wal, wal);
			b->given_up[i] = s->id;
			end_session(s);
		}
	}
}

static struct session *find_session(struct backup *b, uint64_t id)
{
	for (size_t i = 0; i < SESSIONS_MAX; i++)
		if (b->sessions[i].id == id)
			return &b->sessions[i];
	return NULL;
}

/* A free one, or one that was read to its end. */
static struct session *find_room(struct backup *b)
{
	struct session *s = find_session(b, 0);
	for (size_t i = 0; !s && i < SESSIONS_MAX; i++)
		if (!b->sessions[i].reader) {
			s = &b->sessions[i];
			end_session(s);
		}
	return s;
}

/* Reads the session's next page into its answer. */
static enum status_code read_page(struct backup *b, struct session *s, const Kds__V1__BackupHeader *header,
				  struct status *st)
{
	struct buffer rows = { 0 };
	bool last = false;
	enum status_code rc = state_reader_next(s->reader, b->page_max, &rows, &last, st);
	if (rc == STATUS_OK) {
		Kds__V1__BackupReadResponse out = KDS__V1__BACKUP_READ_RESPONSE__INIT;
		out.session = s->id;
		out.header = (Kds__V1__BackupHeader *)header;
		out.rows = (ProtobufCBinaryData){ rows.len, rows.data };
		out.last = last;
		s->answer.len = 0;
		rc = message_pack(&out.base, &s->answer, st);
	}
	buffer_wipe(&rows);
	if (rc == STATUS_OK && last) {
		state_reader_close(s->reader);
		s->reader = NULL;
	}
	return rc;
}

static enum status_code read_first(struct backup *b, struct session *s, uint64_t at_least, struct status *st)
{
	uint64_t index = state_reader_index(s->reader);
	if (index < at_least)
		return status_set(st, STATUS_UNAVAILABLE,
				  "this replica has applied %" PRIu64 " of %" PRIu64 " entries; try again, or ask another", index,
				  at_least);
	Kds__V1__BackupHeader *h = NULL;
	enum status_code rc = state_reader_header(s->reader, b->replica, st, &h);
	if (rc == STATUS_OK)
		rc = read_page(b, s, h, st);
	if (rc == STATUS_OK)
		log_info("backup begun index=%" PRIu64 " revision=%" PRIu64, h->index, h->revision);
	kds__v1__backup_header__free_unpacked(h, NULL);
	return rc;
}

/* A new session with its first page. */
static enum status_code begin_session(struct backup *b, const Kds__V1__BackupReadRequest *in, struct status *st,
				      struct session **ret_session)
{
	struct session *s = find_room(b);
	if (in->page != 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "page: a session begins with page 0");
	if (!s)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED,
				  "%d backups are being read from this replica; try again in a minute, or ask another",
				  SESSIONS_MAX);
	enum status_code rc = state_reader_open(b->database, STATE_READER_LASTING, st, &s->reader);
	if (rc == STATUS_NOT_FOUND)
		return status_set(st, STATUS_UNAVAILABLE, "%s", st->message);
	uint64_t id = 0;
	if (rc == STATUS_OK)
		rc = secret_random(&id, sizeof id, st);
	if (rc == STATUS_OK) {
		s->id = id | 1; /* never 0 */
		rc = read_first(b, s, in->at_least, st);
	}
	if (rc != STATUS_OK) {
		end_session(s);
		return rc;
	}
	*ret_session = s;
	return STATUS_OK;
}

static enum status_code no_session(const struct backup *b, uint64_t id, struct status *st)
{
	for (size_t i = 0; i < SESSIONS_MAX; i++)
		if (b->given_up[i] == id)
			return status_set(st, STATUS_ABORTED,
					  "the backup was given up: while it was read, the changes that wait for it had grown to "
					  "%" PRIu64 " MiB on this replica; try again, or another replica",
					  b->wal_max >> 20);
	return status_set(st, STATUS_NOT_FOUND,
			  "there is no such backup under way here (any more): it ends when nothing is asked for %u s, or "
			  "this replica was restarted; begin again",
			  b->idle_ms / 1000);
}

static enum status_code continue_session(struct backup *b, const Kds__V1__BackupReadRequest *in, struct status *st,
					 struct session **ret_session)
{
	struct session *s = find_session(b, in->session);
	if (!s)
		return no_session(b, in->session, st);
	if (in->page == s->page + 1 && s->reader) {
		enum status_code rc = read_page(b, s, NULL, st);
		if (rc != STATUS_OK) {
			end_session(s);
			return rc;
		}
		s->page++;
	} else if (in->page != s->page) {
		return status_set(st, STATUS_INVALID_ARGUMENT, "page: the last one was %" PRIu32 "%s", s->page,
				  s->reader ? "" : ", and there are no more");
	}
	*ret_session = s;
	return STATUS_OK;
}

static void answer(struct backup *b, const struct request *r)
{
	struct session *s = NULL;
	struct status st;
	enum status_code rc = r->in->session == 0 ? begin_session(b, r->in, &st, &s) : continue_session(b, r->in, &st, &s);
	if (rc != STATUS_OK) {
		rpc_call_fail_status(r->call, &st);
		return;
	}
	s->used_ms = clock_monotonic_ms();
	rpc_call_relay(r->call, STATUS_OK, "", (struct slice){ s->answer.data, s->answer.len });
}

static bool any_session(const struct backup *b)
{
	for (size_t i = 0; i < SESSIONS_MAX; i++)
		if (b->sessions[i].id != 0)
			return true;
	return false;
}

/* With the lock. Until something waits, or a session must be looked at. */
static void wait_for_work(struct backup *b)
{
	if (!any_session(b)) {
		pthread_cond_wait(&b->wake, &b->lock);
		return;
	}
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += SWEEP_MS / 1000;
	pthread_cond_timedwait(&b->wake, &b->lock, &at);
}

static void *run(void *arg)
{
	struct backup *b = arg;
	pthread_mutex_lock(&b->lock);
	while (!b->stopping) {
		struct request r = { 0 };
		if (b->n_waiting > 0) {
			r = b->waiting[0];
			memmove(b->waiting, b->waiting + 1, --b->n_waiting * sizeof r);
		} else {
			wait_for_work(b);
		}
		pthread_mutex_unlock(&b->lock);
		sweep(b);
		if (r.call)
			answer(b, &r);
		pthread_mutex_lock(&b->lock);
	}
	for (size_t i = 0; i < b->n_waiting; i++)
		rpc_call_fail(b->waiting[i].call, STATUS_UNAVAILABLE, "this replica is stopping; ask another");
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

enum status_code backup_new(const struct backup_options *options, struct status *st, struct backup **ret_backup)
{
	struct backup *b = calloc(1, sizeof *b);
	if (!b || !(b->replica = strdup(options->replica))) {
		free(b);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the backups: out of memory");
	}
	snprintf(b->database, sizeof b->database, "%s/replica.db", options->data_dir);
	snprintf(b->wal, sizeof b->wal, "%s-wal", b->database);
	b->wal_max = options->wal_max ? options->wal_max : WAL_MAX;
	b->idle_ms = options->idle_ms ? options->idle_ms : IDLE_MS;
	b->page_max = options->page_max ? options->page_max : BACKUP_PAGE_MAX;
	pthread_mutex_init(&b->lock, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&b->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	int rv = pthread_create(&b->thread, NULL, run, b);
	if (rv != 0) {
		pthread_cond_destroy(&b->wake);
		pthread_mutex_destroy(&b->lock);
		free(b->replica);
		free(b);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the backups: %s", strerror(rv));
	}
	*ret_backup = b;
	return STATUS_OK;
}

void backup_free(struct backup *b)
{
	if (!b)
		return;
	pthread_mutex_lock(&b->lock);
	b->stopping = true;
	pthread_cond_signal(&b->wake);
	pthread_mutex_unlock(&b->lock);
	pthread_join(b->thread, NULL);
	for (size_t i = 0; i < SESSIONS_MAX; i++)
		end_session(&b->sessions[i]);
	pthread_cond_destroy(&b->wake);
	pthread_mutex_destroy(&b->lock);
	free(b->replica);
	free(b);
}

void backup_read(struct backup *b, struct rpc_call *call, const Kds__V1__BackupReadRequest *in)
{
	pthread_mutex_lock(&b->lock);
	bool taken = b->n_waiting < WAITING_MAX && !b->stopping;
	if (taken) {
		b->waiting[b->n_waiting++] = (struct request){ call, in };
		pthread_cond_signal(&b->wake);
	}
	pthread_mutex_unlock(&b->lock);
	if (!taken)
		rpc_call_fail(call, STATUS_RESOURCE_EXHAUSTED, "too many ask this replica for backups; try again later");
}
