#include "services/serial/recover.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/backup/check.h"
#include "common/base/clock.h"
#include "common/base/secret.h"
#include "services/serial/codec.h"
#include "services/serial/genesis.h"
#include "services/serial/restore.h"
#include "services/serial/state_reader.h"

#define MEMBERS_MAX 64
#define LISTEN_MS 4000 /* at least: who cannot connect tries again each second */
#define ENTRIES_AT_ONCE 1024

enum { KEY_RECOVER = 256, KEY_MIN_SERIAL, KEY_SKIP, KEY_CONFIRM };

static const struct argp_option argp_options[] = {
	{ 0, 0, 0, 0, "When a majority of the replicas is lost for good:", 1 },
	{ "recover", KEY_RECOVER, 0, 0, "Make what this replica has the beginning of a new cluster of this one", 1 },
	{ "min-serial", KEY_MIN_SERIAL, "keep|all|N", 0,
	  "Of the certificates issued so far, known or not, refuse none more, all, or those with a serial below N", 1 },
	{ "skip", KEY_SKIP, "N", 0, "Serial numbers never to be handed out (default and least: 1000000)", 1 },
	{ "yes-lose-what-the-majority-had", KEY_CONFIRM, 0, 0, "Do it, having read what is lost", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct recover_arguments *a = state->input;
	switch (key) {
	case KEY_RECOVER:
		a->recover = true;
		return 0;
	case KEY_MIN_SERIAL:
		a->min_serial = arg;
		return 0;
	case KEY_SKIP:
		a->skip = arg;
		return 0;
	case KEY_CONFIRM:
		a->confirmed = true;
		return 0;
	case ARGP_KEY_END:
		if (!a->recover && (a->min_serial || a->skip || a->confirmed))
			argp_error(state, "--min-serial, --skip and --yes-lose-what-the-majority-had belong to --recover");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp recover_argp = { .options = argp_options, .parser = parse };

/* A member of the log's membership, and what was heard of it. */
struct member {
	uint64_t id;
	char name[256];
	const char *address; /* NULL: nobody knows */
	bool voter, alive;
	uint64_t leader_id;
	uint64_t last_index, last_term;
};

struct recovery {
	const struct engine_options *options;
	const char *name; /* ours */
	struct store *store;
	struct store_start at;
	uint64_t last_term; /* of our log's last entry */
	struct member members[MEMBERS_MAX];
	size_t n_members, n_voters;
	Kds__V1__ReplicaList *known; /* what the state says of them */
	Kds__V1__BackupRestore decided;
	uint8_t id[16]; /* its id */
	pthread_mutex_t lock; /* for what was heard */
};

/* Who there is */

static const char *address_of(const struct recovery *r, uint64_t id)
{
	const struct engine_options *o = r->options;
	for (size_t i = 0; i < r->known->n_replicas; i++)
		if (r->known->replicas[i]->id == id)
			return r->known->replicas[i]->address;
	for (size_t i = 0; i < o->n_members; i++)
		if (o->members[i].id == id)
			return o->members[i].address;
	return NULL;
}

static enum status_code read_replicas(struct recovery *r, struct status *st)
{
	struct state *state = NULL;
	enum status_code rc = state_open(store_sqlite(r->store), st, &state);
	if (rc == STATUS_OK)
		rc = state_replicas(state, st, &r->known);
	state_close(state);
	return rc;
}

static enum status_code read_membership(struct recovery *r, struct status *st)
{
	enum status_code rc = read_replicas(r, st);
	if (rc != STATUS_OK)
		return rc;
	struct slice data = store_configuration(r->store);
	const struct raft_buffer encoded = { .base = (void *)data.data, .len = data.len };
	struct raft_configuration c;
	if (data.len == 0)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "recover: this replica never had a state: it has nothing to begin a cluster with");
	if (!codec_configuration_valid(data) || raft_configuration_decode(&encoded, &c) != 0)
		return status_set(st, STATUS_DATA_LOSS,
				  "recover: the stored membership does not decode: check the disk, and recover another replica");
	for (unsigned i = 0; i < c.n && r->n_members < MEMBERS_MAX; i++) {
		struct member *m = &r->members[r->n_members++];
		*m = (struct member){ .id = c.servers[i].id, .voter = c.servers[i].role == RAFT_VOTER };
		snprintf(m->name, sizeof m->name, "%s", c.servers[i].address);
		m->address = address_of(r, m->id);
		r->n_voters += m->voter;
	}
	raft_configuration_close(&c);
	for (size_t i = 0; i < r->n_members; i++)
		if (!r->members[i].address)
			return status_set(st, STATUS_FAILED_PRECONDITION,
					  "recover: replica %.60s is a member, but its address is not known here; name it in a "
					  "section 'replica %.60s' of the configuration file, so that it can be asked",
					  r->members[i].name, r->members[i].name);
	return STATUS_OK;
}

/* Are they alive? Streams to and from them tell, and what they say of themselves. */

static struct member *find_member(struct recovery *r, uint64_t id)
{
	for (size_t i = 0; i < r->n_members; i++)
		if (r->members[i].id == id)
			return &r->members[i];
	return NULL;
}

static void on_link(void *arg, uint64_t peer, bool outgoing, bool up)
{
	struct recovery *r = arg;
	(void)outgoing;
	pthread_mutex_lock(&r->lock);
	struct member *m = find_member(r, peer);
	if (m && up)
		m->alive = true;
	pthread_mutex_unlock(&r->lock);
}

static void on_message(void *arg, const struct peers_sender *from, struct arena *arena,
		       const Kds__V1__PeerMessage *message, size_t size)
{
	struct recovery *r = arg;
	(void)size;
	pthread_mutex_lock(&r->lock);
	struct member *m = find_member(r, from->id);
	if (m && message->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_STATUS) {
		m->alive = true;
		m->leader_id = message->status->leader_id;
		m->last_index = message->status->last_index;
		m->last_term = message->status->last_term;
	}
	pthread_mutex_unlock(&r->lock);
	arena_free(arena);
}

static enum status_code listen_for_others(struct recovery *r, struct status *st)
{
	const struct engine_options *o = r->options;
	struct peers_member members[MEMBERS_MAX];
	for (size_t i = 0; i < r->n_members; i++)
		members[i] = (struct peers_member){ r->members[i].id, r->members[i].name, r->members[i].address };
	struct store_genesis genesis;
	uint8_t hash[GENESIS_HASH_SIZE];
	if (!store_read_genesis(r->store, &genesis))
		return status_set(st, STATUS_DATA_LOSS, "recover: the log's first entries are missing");
	enum status_code rc = genesis_hash(&genesis, st, hash);
	genesis_free(&genesis);
	const struct peers_options p = {
		.self = o->id,
		.listen = o->peer_listen,
		.rpc_address = o->rpc_address,
		.cluster_id = o->cluster_id,
		.genesis = { hash, sizeof hash },
		.incarnation = store_incarnation(r->store),
		.credentials = o->credentials,
		.trust = o->trust,
		.members = members,
		.n_members = r->n_members,
		.message = on_message,
		.link = on_link,
		.arg = r,
	};
	struct peers *peers = NULL;
	if (rc == STATUS_OK)
		rc = peers_start(&p, st, &peers);
	if (rc != STATUS_OK)
		return status_prefix(st, "recover");
	/* Long enough for all of them to try again, and to notice that a leader is gone. */
	unsigned ms = LISTEN_MS + 2 * o->election_ms;
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };
	printf("Listening for the other replicas for %u s ...\n", (ms + 999) / 1000);
	fflush(stdout);
	nanosleep(&t, NULL);
	peers_stop(peers);
	return STATUS_OK;
}

static bool has_more(const struct member *m, const struct recovery *r)
{
	return m->last_term > r->last_term || (m->last_term == r->last_term && m->last_index > r->at.last);
}

/* May this one go on without the others? */
static enum status_code check_others(const struct recovery *r, struct status *st)
{
	const struct member *more = NULL;
	size_t here = 0;
	for (size_t i = 0; i < r->n_members; i++) {
		const struct member *m = &r->members[i];
		bool self = m->id == r->options->id;
		here += m->voter && (self || m->alive);
		if (!self)
			printf("  %s (%s): %s\n", m->name, m->address, m->alive ? "is there" : "does not answer");
		if (!self && m->leader_id != 0)
			return status_set(st, STATUS_FAILED_PRECONDITION,
					  "recover: refused: replica %.60s follows a leader, so a majority is alive; start this "
					  "replica as always",
					  m->name);
		if (!self && m->alive && has_more(m, r) &&
		    (!more || m->last_term > more->last_term ||
		     (m->last_term == more->last_term && m->last_index > more->last_index)))
			more = m;
	}
	if (here > r->n_voters / 2)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "recover: refused: with this replica %zu of %zu that vote are there, which is a majority; start "
				  "it as always and they go on",
				  here, r->n_voters);
	if (more)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "recover: refused: replica %.60s has entries up to %" PRIu64 ", this one up to %llu; recover "
				  "there",
				  more->name, more->last_index, r->at.last);
	return STATUS_OK;
}

/* What is decided */

static bool parse_number(const char *text, uint64_t *ret_number)
{
	char *end = NULL;
	if (text[0] < '0' || text[0] > '9' || strlen(text) > 19)
		return false;
	*ret_number = strtoull(text, &end, 10);
	return *end == '\0';
}

static enum status_code decide(struct recovery *r, const struct recover_arguments *a,
			       const Kds__V1__BackupHeader *h, struct status *st)
{
	Kds__V1__BackupRestore *d = &r->decided;
	kds__v1__backup_restore__init(d);
	d->id = (ProtobufCBinaryData){ sizeof r->id, r->id };
	d->recovered = true;
	d->skip = BACKUP_SKIP_MIN;
	if (a->skip && !parse_number(a->skip, &d->skip))
		return status_set(st, STATUS_INVALID_ARGUMENT, "--skip '%.40s': give a number", a->skip);
	if (!a->min_serial)
		return status_set(
		    st, STATUS_INVALID_ARGUMENT,
		    "decide with --min-serial what becomes of certificates that this replica never heard of: keep accepts them,"
		    " all refuses every one issued so far (nodes need new ones), N those with a serial below N");
	d->min_serial = h->min_serial;
	if (strcmp(a->min_serial, "all") == 0)
		d->min_serial = h->last_serial + d->skip + 1;
	else if (strcmp(a->min_serial, "keep") != 0 && !parse_number(a->min_serial, &d->min_serial))
		return status_set(st, STATUS_INVALID_ARGUMENT, "--min-serial '%.40s': give keep, all or a serial number",
				  a->min_serial);
	enum status_code rc = secret_random(r->id, sizeof r->id, st);
	return rc == STATUS_OK ? backup_check_restore(h, d, st) : rc;
}

static void explain(const struct recovery *r, const Kds__V1__BackupHeader *h)
{
	printf("This replica has entries up to %llu of the log; revision %" PRIu64 ", serials up to %" PRIu64
	       ", %" PRIu64 " certificates.\n"
	       "What the lost majority has answered with OK and this replica never got is lost:\n"
	       "changes of the configuration, records of certificates, a higher min_serial.\n"
	       "Serials: %" PRIu64 " are skipped, the next one is %" PRIu64 ".\n"
	       "Certificates with a serial below %" PRIu64 " are refused.\n"
	       "The other replicas' data is of no use any more: they are refused when they come back.\n",
	       r->at.last, h->revision, h->last_serial, h->issued, r->decided.skip, h->last_serial + r->decided.skip + 1,
	       r->decided.min_serial);
	fflush(stdout);
}

/* What this replica has */

struct tail {
	struct state *state;
	struct state_result result;
	struct status *st;
	enum status_code rc;
};

static void apply_entry(void *arg, raft_index index, raft_term term, unsigned short type, struct slice data)
{
	struct tail *t = arg;
	(void)term;
	if (t->rc == STATUS_OK && type == RAFT_COMMAND)
		t->rc = state_apply(t->state, index, data, t->st, &t->result);
}

/* Some of the last entries may have been committed by those who are lost, and answered: all are taken for it. What was
 * not answered was unknown to have happened, and has happened now. In the open transaction. */
static enum status_code apply_tail(struct recovery *r, struct status *st)
{
	struct tail t = { .st = st };
	enum status_code rc = state_open(store_sqlite(r->store), st, &t.state);
	if (rc != STATUS_OK)
		return rc;
	for (raft_index next = r->at.applied + 1; t.rc == STATUS_OK && next <= r->at.last;) {
		raft_index n = r->at.last + 1 - next < ENTRIES_AT_ONCE ? r->at.last + 1 - next : ENTRIES_AT_ONCE;
		if (!store_read(r->store, next, (unsigned)n, apply_entry, &t))
			t.rc = status_set(st, STATUS_DATA_LOSS, "recover: an entry is missing in the log");
		next += n;
	}
	if (t.rc == STATUS_OK)
		t.rc = state_flush(t.state, st);
	state_result_fini(&t.result);
	state_close(t.state);
	return t.rc;
}

static enum status_code copy_rows(struct state_reader *reader, struct backup_writer *w, struct status *st)
{
	struct buffer rows = { 0 };
	bool end = false;
	enum status_code rc = STATUS_OK;
	while (rc == STATUS_OK && !end) {
		rows.len = 0;
		rc = state_reader_next(reader, BACKUP_PAGE_MAX, &rows, &end, st);
		if (rc == STATUS_OK && rows.len > 0)
			rc = backup_writer_rows(w, (struct slice){ rows.data, rows.len }, st);
	}
	buffer_wipe(&rows);
	return rc;
}

/* The state with what was decided, in a file of data-dir. */
static enum status_code save(const struct recovery *r, struct state_reader *reader, const Kds__V1__BackupHeader *h,
			     const char *path, struct status *st)
{
	struct backup_writer *w = NULL;
	uint8_t digest[BACKUP_DIGEST_SIZE];
	enum status_code rc = backup_writer_new(path, false, st, &w);
	if (rc == STATUS_OK)
		rc = backup_writer_header(w, h, st);
	if (rc == STATUS_OK)
		rc = copy_rows(reader, w, st);
	if (rc == STATUS_OK)
		rc = backup_writer_restore(w, &r->decided, st);
	if (rc == STATUS_OK)
		rc = backup_writer_end(w, st, digest);
	backup_writer_free(w);
	return rc;
}

/* A cluster of this replica alone. */
static enum status_code begin_anew(const struct recovery *r, const char *path, struct status *st)
{
	const struct engine_member self = { r->options->id, r->name, r->options->peer_listen };
	struct engine_options alone = *r->options;
	alone.members = &self;
	alone.n_members = 1;
	return restore_begin(r->store, path, &alone, st);
}

/* Decides, explains, and writes the file. In the open transaction, of which nothing stays. */
static enum status_code make_file(struct recovery *r, const struct recover_arguments *a, const char *path,
				  struct status *st)
{
	struct state_reader *reader = NULL;
	Kds__V1__BackupHeader *h = NULL;
	enum status_code rc = apply_tail(r, st);
	if (rc == STATUS_OK)
		rc = state_reader_attach(store_sqlite(r->store), STATE_READER_LASTING, st, &reader);
	if (rc == STATUS_OK)
		rc = state_reader_header(reader, r->name, st, &h);
	if (rc == STATUS_OK)
		rc = decide(r, a, h, st);
	if (rc == STATUS_OK) {
		explain(r, h);
		if (!a->confirmed)
			rc = status_set(st, STATUS_INVALID_ARGUMENT,
					"nothing was changed; to do it, add --yes-lose-what-the-majority-had");
	}
	if (rc == STATUS_OK)
		rc = save(r, reader, h, path, st);
	kds__v1__backup_header__free_unpacked(h, NULL);
	state_reader_close(reader);
	return rc;
}

static enum status_code recover(struct recovery *r, const struct recover_arguments *a, struct status *st)
{
	char path[4200];
	snprintf(path, sizeof path, "%s/recovered-%" PRIu64 ".kds", r->options->data_dir, clock_unix_ms());
	store_begin(r->store);
	enum status_code rc = make_file(r, a, path, st);
	store_rollback(r->store);
	if (rc == STATUS_OK)
		rc = begin_anew(r, path, st);
	if (rc != STATUS_OK)
		return rc;
	printf("Done. The state that it began with is in %s.\n"
	       "Next: remove the other replicas' sections from the configuration file, start this replica as always, then\n"
	       "add others with `kds-cli cluster add'.\n",
	       path);
	return STATUS_OK;
}

enum status_code recover_run(const struct recover_arguments *arguments, const struct engine_options *options,
			     const char *name, struct status *st)
{
	struct recovery *r = calloc(1, sizeof *r);
	if (!r)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "recover: out of memory");
	r->options = options;
	r->name = name;
	pthread_mutex_init(&r->lock, NULL);
	const struct store_identity id = { .cluster_id = options->cluster_id, .replica_id = options->id };
	enum status_code rc = store_open(options->data_dir, &id, st, &r->store);
	if (rc == STATUS_OK) {
		store_start_values(r->store, &r->at);
		size_t n;
		const struct store_run *runs = store_runs(r->store, &n);
		r->last_term = n > 0 ? runs[n - 1].term : r->at.applied_term;
		rc = read_membership(r, st);
	}
	if (rc == STATUS_OK)
		rc = listen_for_others(r, st);
	if (rc == STATUS_OK)
		rc = check_others(r, st);
	if (rc == STATUS_OK)
		rc = recover(r, arguments, st);
	store_close(r->store);
	kds__v1__replica_list__free_unpacked(r->known, NULL);
	pthread_mutex_destroy(&r->lock);
	free(r);
	return rc;
}
