#include "tests/fault/simulation/check.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "services/serial/clocks.h"
#include "tests/fault/simulation/digest.h"
#include "tests/fault/simulation/node.h"

#define SCAN_ROWS 40   /* of a table, each time */
#define DIGEST_EVERY 4 /* entries: often enough that all replicas are seen at the same ones */

struct id {
	raft_term term;
	uint64_t hash;
};

/* All that any log ever had at an index, by term. */
struct place {
	struct id *ids;
	size_t n, cap;
	struct id committed; /* term 0: nothing yet */
	uint64_t digest;     /* of the state behind it; 0: not known */
	uint8_t running[STATE_DIGEST_SIZE]; /* likewise, as the state says itself */
};

/* What the log of one replica has, as it was read from its store. */
struct mirror {
	struct id *ids; /* of index 1 on */
	size_t n, cap;
	uint64_t first; /* of the log: what is older was compacted, and counts as what was committed there */
	uint64_t commit;
	uint64_t revision, min_serial;
	uint64_t applied;
	uint64_t digested; /* the state was last looked at behind this entry */
	bool started; /* what a start found was looked at */
	bool led;
};

struct check {
	struct sim *sim;
	struct mirror mirrors[NODES_MAX];
	struct place *places; /* of index 1 on */
	size_t n_places, cap_places;
	uint64_t committed;     /* the highest index that was */
	uint64_t reached_ms;    /* the latest time that the clocks of a majority ever showed */
	raft_id *leaders;       /* by term */
	size_t n_leaders, cap_leaders;
	raft_id *votes[NODES_MAX]; /* of each replica by term */
	size_t n_votes[NODES_MAX], cap_votes[NODES_MAX];
	uint64_t led, compared;
};

struct check *check_new(struct sim *s)
{
	struct check *c = sim_alloc(sizeof *c);
	c->sim = s;
	return c;
}

void check_free(struct check *c)
{
	for (size_t i = 0; i < c->n_places; i++)
		free(c->places[i].ids);
	for (unsigned i = 0; i < NODES_MAX; i++) {
		free(c->mirrors[i].ids);
		free(c->votes[i]);
	}
	free(c->places);
	free(c->leaders);
	free(c);
}

static struct place *place(struct check *c, uint64_t index)
{
	while (c->n_places < index) {
		c->places = sim_grow(c->places, c->n_places, &c->cap_places, sizeof *c->places);
		c->places[c->n_places++] = (struct place){ 0 };
	}
	return &c->places[index - 1];
}

/* Who did what only one may do in a term: false when it was another. */
static bool only_one(raft_id **who, size_t *n, size_t *cap, uint64_t term, raft_id id)
{
	while (*n <= term) {
		*who = sim_grow(*who, *n, cap, sizeof **who);
		(*who)[(*n)++] = 0;
	}
	if ((*who)[term] == 0)
		(*who)[term] = id;
	return (*who)[term] == id;
}

void check_message(struct check *c, unsigned from, unsigned to, const Kds__V1__PeerMessage *m)
{
	if (m->message_case != KDS__V1__PEER_MESSAGE__MESSAGE_REQUEST_VOTE_RESULT)
		return;
	const Kds__V1__RequestVoteResult *r = m->request_vote_result;
	if (!r->pre_vote && r->vote_granted &&
	    !only_one(&c->votes[from], &c->n_votes[from], &c->cap_votes[from], r->term, to + 1))
		sim_fail(c->sim, "replica %u voted for two in term %" PRIu64, from + 1, r->term);
}

/* The log */

static void read_entry(void *arg, raft_index index, raft_term term, unsigned short type, struct slice data)
{
	struct id *id = arg;
	uint64_t head[] = { index, term, type };
	id->term = term;
	id->hash = digest_bytes(digest_bytes(DIGEST_START, head, sizeof head), data.data, data.len);
}

static struct id entry_of(struct check *c, unsigned index, uint64_t at)
{
	struct id id = { 0 };
	if (!store_read(node_store(c->sim->nodes[index]), at, 1, read_entry, &id))
		sim_fail(c->sim, "replica %u has no entry %" PRIu64, index + 1, at);
	return id;
}

/* Log matching: Raft §5.3. */
static void remember(struct check *c, unsigned index, uint64_t at, struct id id)
{
	struct place *p = place(c, at);
	for (size_t i = 0; i < p->n; i++) {
		if (p->ids[i].term != id.term)
			continue;
		if (p->ids[i].hash != id.hash)
			sim_fail(c->sim, "replica %u has another entry %" PRIu64 " of term %llu than others have",
				 index + 1, at, id.term);
		return;
	}
	p->ids = sim_grow(p->ids, p->n, &p->cap, sizeof *p->ids);
	p->ids[p->n++] = id;
}

/* What a log had at an index that was compacted: what was committed there, be it in this very turn. */
static void take_compacted(struct check *c, unsigned index, uint64_t at)
{
	struct mirror *m = &c->mirrors[index];
	const struct id *committed = &place(c, at)->committed;
	if (committed->term == 0 && at > m->n)
		sim_fail(c->sim, "replica %u has compacted entry %" PRIu64 ", which nobody has committed", index + 1,
			 at);
	if (at > m->n) {
		m->ids = sim_grow(m->ids, m->n, &m->cap, sizeof *m->ids);
		m->n++;
	}
	if (committed->term != 0)
		m->ids[at - 1] = *committed;
}

/* Brings the mirror up to date: what is gone is dropped from the end, what is new is read. */
static void read_log(struct check *c, unsigned index, uint64_t first, uint64_t last)
{
	struct mirror *m = &c->mirrors[index];
	if (m->n > last)
		m->n = last;
	for (; m->first < first; m->first++)
		take_compacted(c, index, m->first);
	while (m->n > 0 && m->n >= first) {
		struct id id = entry_of(c, index, m->n);
		if (id.term == m->ids[m->n - 1].term && id.hash == m->ids[m->n - 1].hash)
			break;
		m->n--;
	}
	while (m->n < last) {
		struct id id = entry_of(c, index, m->n + 1);
		remember(c, index, m->n + 1, id);
		m->ids = sim_grow(m->ids, m->n, &m->cap, sizeof *m->ids);
		m->ids[m->n++] = id;
	}
}

/* State machine safety: Raft §5.4.3. */
static void check_commit(struct check *c, unsigned index, uint64_t commit)
{
	struct mirror *m = &c->mirrors[index];
	if (commit > m->n)
		sim_fail(c->sim, "replica %u has committed entry %" PRIu64 " of %zu", index + 1, commit, m->n);
	for (; m->commit < commit; m->commit++) {
		struct id *id = &m->ids[m->commit], *committed = &place(c, m->commit + 1)->committed;
		if (committed->term == 0)
			*committed = *id;
		if (committed->term != id->term || committed->hash != id->hash)
			sim_fail(c->sim,
				 "replica %u has committed another entry %" PRIu64 " (term %llu) than others"
				 " (term %llu)",
				 index + 1, m->commit + 1, id->term, committed->term);
	}
	if (commit > c->committed)
		c->committed = commit;
}

/* Election safety, leader completeness: Raft §5.2, §5.4. */
static void check_leader(struct check *c, unsigned index, const Kds__V1__ReplicaStatus *status)
{
	struct mirror *m = &c->mirrors[index];
	bool leads = status->role == KDS__V1__RAFT_ROLE__RAFT_ROLE_LEADER;
	bool won = leads && !m->led;
	m->led = leads;
	if (!won)
		return;
	sim_trace(c->sim, "replica %u leads term %" PRIu64, index + 1, status->term);
	c->led++;
	if (!only_one(&c->leaders, &c->n_leaders, &c->cap_leaders, status->term, index + 1))
		sim_fail(c->sim, "replica %u leads term %" PRIu64 ", as replica %llu did", index + 1, status->term,
			 c->leaders[status->term]);
	for (uint64_t i = 1; i <= c->committed; i++) {
		const struct id *committed = &place(c, i)->committed;
		if (committed->term < status->term &&
		    (i > m->n || m->ids[i - 1].term != committed->term || m->ids[i - 1].hash != committed->hash))
			sim_fail(c->sim, "replica %u leads term %" PRIu64 " without the committed entry %" PRIu64,
				 index + 1, status->term, i);
	}
}

/* The state */

static void check_numbers(struct check *c, unsigned index)
{
	struct mirror *m = &c->mirrors[index];
	Kds__V1__SerialStatus serials;
	state_serial_status(node_state(c->sim->nodes[index]), &serials);
	if (serials.revision < m->revision || serials.min_serial < m->min_serial)
		sim_fail(c->sim,
			 "replica %u went back from revision %" PRIu64 ", min_serial %" PRIu64 " to %" PRIu64
			 ", %" PRIu64,
			 index + 1, m->revision, m->min_serial, serials.revision, serials.min_serial);
	m->revision = serials.revision;
	m->min_serial = serials.min_serial;
}

static void check_state(struct check *c, unsigned index, uint64_t applied)
{
	sqlite3 *db = store_sqlite(node_store(c->sim->nodes[index]));
	struct place *p = place(c, applied);
	uint64_t digest;
	uint8_t running[STATE_DIGEST_SIZE];
	struct status st;
	if (!digest_state(db, &digest))
		sim_fail(c->sim, "replica %u: %s", index + 1, sqlite3_errmsg(db));
	if (state_digest(node_state(c->sim->nodes[index]), &st, running) != STATUS_OK)
		sim_fail(c->sim, "replica %u: %s", index + 1, st.message);
	if (p->digest == 0) {
		p->digest = digest;
		memcpy(p->running, running, sizeof running);
	} else {
		c->compared++;
	}
	if (p->digest != digest)
		sim_fail(c->sim, "the state of replica %u behind entry %" PRIu64 " differs from another's", index + 1,
			 applied);
	if (memcmp(p->running, running, sizeof running) != 0)
		sim_fail(c->sim, "the digest of replica %u behind entry %" PRIu64 " differs from another's", index + 1,
			 applied);
}

/* The state's time is not ahead of what a majority's clocks have shown, as far as others could know. Where the membership
 * changes, any few may have been the voters. */
static void check_time(struct check *c, unsigned index)
{
	struct sim *s = c->sim;
	uint64_t clocks[NODES_MAX], time = state_time_ms(node_state(s->nodes[index]));
	unsigned voters = s->n_nodes == s->n_members ? s->n_members : s->voters_min;
	for (unsigned i = 0; i < s->n_nodes; i++)
		clocks[i] = node_clock_known(s->nodes[i]);
	uint64_t reached = clocks_agree(UINT64_MAX, clocks, s->n_nodes, voters) - CLOCKS_TOLERANCE_MS;
	if (reached > c->reached_ms)
		c->reached_ms = reached;
	if (time > c->reached_ms + CLOCKS_TOLERANCE_MS)
		sim_fail(s, "the state of replica %u is at %" PRIu64 " ms, but a majority's clocks never showed more than %"
			 PRIu64, index + 1, time, c->reached_ms);
}

/* What its disk holds is what it has written, by its own digest. Most mutants change the disk behind its back, and are to
 * be caught by what comes of it. */
static void check_scan(struct check *c, unsigned index, bool whole)
{
	struct status st;
	bool done;
	if (c->sim->mutant != MUTANT_NONE && c->sim->mutant != MUTANT_CHANGED_ROW)
		return;
	do {
		if (state_scan_digest(node_state(c->sim->nodes[index]), SCAN_ROWS, &st, &done) != STATUS_OK)
			sim_fail(c->sim, "replica %u: %s", index + 1, st.message);
	} while (whole && !done);
}

static void check_node(struct check *c, unsigned index)
{
	struct mirror *m = &c->mirrors[index];
	struct node *n = c->sim->nodes[index];
	Kds__V1__ReplicaStatus status;
	node_status(n, &status);
	read_log(c, index, status.first_index, status.last_index);
	check_leader(c, index, &status);
	check_commit(c, index, status.commit_index);
	check_numbers(c, index);
	check_time(c, index);
	/* Within a transaction the tables are half written. */
	if (status.applied_index == m->digested || !sqlite3_get_autocommit(store_sqlite(node_store(n))))
		return;
	/* What it started with or got from another, it has not written row by row. */
	bool new = !m->started || status.first_index > m->applied + 1;
	m->digested = m->applied = status.applied_index;
	check_scan(c, index, new);
	if (m->digested % DIGEST_EVERY == 0 || new)
		check_state(c, index, m->digested);
	m->started = true;
}

void check_started(struct check *c, unsigned index)
{
	struct mirror *m = &c->mirrors[index];
	m->n = m->commit = 0;
	m->first = 1;
	m->revision = m->min_serial = 0; /* what was applied, but not committed to the disk, is applied again */
	m->digested = m->applied = 0;
	m->led = m->started = false;
	check_node(c, index);
}

void check_turn(struct check *c, unsigned index)
{
	check_node(c, index);
}

void check_end(struct check *c, const bool replicas[NODES_MAX])
{
	for (unsigned i = 0; i < c->sim->n_nodes; i++) {
		if (!replicas[i])
			continue;
		struct mirror *m = &c->mirrors[i];
		m->n = m->commit = m->digested = m->applied = 0; /* all of it from the disk */
		m->first = 1;
		m->started = false;
		check_node(c, i);
		if (m->commit != c->committed)
			sim_fail(c->sim, "replica %u ends with entry %" PRIu64 ", others with %" PRIu64, i + 1,
				 m->commit, c->committed);
	}
}

void check_report(const struct check *c, uint64_t *ret_leaders, uint64_t *ret_committed, uint64_t *ret_compared)
{
	*ret_leaders = c->led;
	*ret_committed = c->committed;
	*ret_compared = c->compared;
}
