#include "services/serial/members.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/rpc/message.h"
#include "services/serial/admission.h"

#define KNOWN_MAX (2 * MEMBERSHIP_MAX)
#define TICK_MS 100
#define COMPLAIN_MS 10000
#define NAME_SIZE 256

/* One member, and what the leader has seen of it. */
struct known {
	uint64_t id;
	char name[NAME_SIZE], address[NAME_SIZE], rpc_address[NAME_SIZE];
	enum membership_role has, wants;
	uint64_t incarnation; /* on record; 0: none */
	/* The leader's: */
	bool reachable, caught_up;
	uint64_t seen_ms;        /* when it was reachable last, or when we began to look */
	raft_index match, round; /* `round`: what our log held at round_ms; having that soon enough is to be caught up */
	uint64_t round_ms;
};

struct members {
	struct members_options options;
	struct engine_member configured[KNOWN_MAX]; /* strings are ours; also those that told so themselves */
	size_t n_configured;
	struct known known[KNOWN_MAX];
	size_t n;
	uint64_t ids[KNOWN_MAX];
	bool settled; /* the first replicas are entered as objects */
	bool fresh;   /* `known` was filled once */
	bool is_joining; /* it is not in the membership of its own log, yet or any more */
	uint64_t state_revision, log_version;
	bool leads, proposing;
	struct admission admission;
	bool ended;
	uint64_t complain_ms;
	uint64_t due_ms;
};

static struct known *find(struct known *known, size_t n, uint64_t id)
{
	for (size_t i = 0; i < n; i++)
		if (known[i].id == id)
			return &known[i];
	return NULL;
}

/* False: no memory, or no room. */
static bool configure(struct members *m, uint64_t id, const char *name, const char *address)
{
	if (m->n_configured == KNOWN_MAX)
		return false;
	struct engine_member c = { id, strdup(name), strdup(address) };
	if (c.name && c.address) {
		m->configured[m->n_configured++] = c;
		m->fresh = false;
		return true;
	}
	free((char *)c.name);
	free((char *)c.address);
	return false;
}

/* Whether it takes part */

/* True: from now on. */
static bool begin_to_take_part(struct members *m)
{
	struct admission *a = &m->admission;
	if (!admission_ready(a))
		return false;
	struct store_record records[ADMISSION_MAX];
	for (size_t i = 0; i < a->n; i++)
		records[i] = (struct store_record){ a->others[i].id, a->others[i].incarnation };
	store_take_part(m->options.store, records, a->n);
	a->takes_part = true;
	log_info("takes part: all replicas that begin the cluster have met");
	return true;
}

static void recall(struct members *m)
{
	uint64_t ids[ADMISSION_MAX];
	size_t n = 0;
	for (size_t i = 0; !m->options.joins && i < m->n_configured && n < ADMISSION_MAX; i++)
		ids[n++] = m->configured[i].id;
	struct store *store = m->options.store;
	admission_init(&m->admission, m->options.self, store_incarnation(store), ids, n);
	if (m->options.joins && !store_takes_part(store))
		store_take_part(store, NULL, 0);
	struct store_record records[ADMISSION_MAX];
	size_t n_records = store_records(store, records, ADMISSION_MAX);
	for (size_t i = 0; i < n_records; i++)
		admission_recall(&m->admission, records[i].id, records[i].incarnation);
	m->admission.takes_part = store_takes_part(store);
	(void)begin_to_take_part(m); /* alone it need not wait */
}

/* At a first start, or when its data was lost and it has not heard so yet. */
static void complain(struct members *m, uint64_t now)
{
	if (m->admission.takes_part || now < m->complain_ms)
		return;
	m->complain_ms = now + COMPLAIN_MS;
	for (size_t i = 0; i < m->admission.n; i++)
		if (!m->admission.others[i].lets) {
			log_warning("waits to take part, also for replica %" PRIu64 ": when a cluster begins, all its replicas must "
				    "reach each other once; if this one has lost its data, remove it and add it anew",
				    m->admission.others[i].id);
			return;
		}
}

static void end(struct members *m, const char *why)
{
	if (!m->ended)
		m->options.ended(m->options.arg, why);
	m->ended = true;
}

static void end_as_another(struct members *m)
{
	char why[STATUS_MESSAGE_MAX];
	snprintf(why, sizeof why,
		 "replica %" PRIu64 " took part with another data directory than this one: after a loss it cannot come back "
		 "under its id. Empty data-dir, then: kds-cli cluster remove NAME; kds-cli cluster add NAME --address HOST",
		 m->options.self);
	end(m, why);
}

/* Until all in the state have theirs, what this one wrote down itself counts. */
static uint64_t on_record(const struct members *m, uint64_t id)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->known[i].id == id && m->known[i].incarnation != 0)
			return m->known[i].incarnation;
	return admission_record(&m->admission, id);
}

static void hear_standing(struct members *m, uint64_t from, uint64_t incarnation, const Kds__V1__Standing *s)
{
	if (s->removed == m->options.self)
		end(m, "this replica was removed from the cluster; its data directory is of no more use. To bring the host back: "
		       "kds-cli cluster add");
	else if (incarnation != 0 &&
		 !admission_told(&m->admission, from, incarnation, s->takes_part, s->knows_you))
		end_as_another(m);
	else if (m->is_joining && *s->name && *s->address && !find(m->known, m->n, from))
		(void)configure(m, from, s->name, s->address);
}

bool members_receive(struct members *m, uint64_t from, uint64_t incarnation, const Kds__V1__PeerMessage *message)
{
	if (message->message_case == KDS__V1__PEER_MESSAGE__MESSAGE_STANDING) {
		hear_standing(m, from, incarnation, message->standing);
		return false;
	}
	uint64_t expected = on_record(m, from);
	return m->admission.takes_part && !m->ended && (expected == 0 || incarnation == expected);
}

bool members_take_part(const struct members *m)
{
	return m->admission.takes_part && !m->ended;
}

void members_standing(const struct members *m, uint64_t id, Kds__V1__Standing *ret_standing)
{
	kds__v1__standing__init(ret_standing);
	const struct known *self = find((struct known *)m->known, m->n, m->options.self);
	if (self) {
		ret_standing->name = (char *)self->name; /* packing only reads */
		ret_standing->address = (char *)self->address;
	}
	ret_standing->takes_part = m->admission.takes_part;
	ret_standing->knows_you = on_record(m, id);
}

struct members *members_new(const struct members_options *o)
{
	struct members *m = calloc(1, sizeof *m);
	if (!m)
		return NULL;
	m->options = *o;
	bool ok = true;
	for (size_t i = 0; ok && i < o->n_configured; i++)
		ok = configure(m, o->configured[i].id, o->configured[i].name, o->configured[i].address);
	if (!ok) {
		members_free(m);
		return NULL;
	}
	recall(m);
	m->complain_ms = clock_monotonic_ms() + COMPLAIN_MS;
	return m;
}

void members_free(struct members *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->n_configured; i++) {
		free((char *)m->configured[i].name);
		free((char *)m->configured[i].address);
	}
	free(m);
}

/* Who they are */

static struct known *enter(struct known *known, size_t *n, uint64_t id, const char *name)
{
	struct known *k = find(known, *n, id);
	if (k || *n == KNOWN_MAX)
		return k;
	k = &known[(*n)++];
	*k = (struct known){ .id = id };
	snprintf(k->name, sizeof k->name, "%s", name);
	return k;
}

static void enter_log(struct members *m, struct known *known, size_t *n)
{
	struct replica_member members[REPLICA_MEMBERS_MAX];
	size_t n_members = replica_members(m->options.replica, members);
	for (size_t i = 0; i < n_members; i++) {
		struct known *k = enter(known, n, members[i].id, members[i].name);
		if (k)
			k->has = members[i].voter ? MEMBERSHIP_VOTER : MEMBERSHIP_STANDBY;
	}
	/* Until it finds itself in its log, whom the configuration file names may be who sends it. */
	m->is_joining = find(known, *n, m->options.self) == NULL;
	peers_welcome(m->options.peers, m->is_joining);
	for (size_t i = 0; m->is_joining && i < m->n_configured; i++)
		(void)enter(known, n, m->configured[i].id, m->configured[i].name);
}

static bool enter_objects(struct members *m, struct known *known, size_t *n)
{
	Kds__V1__ReplicaList *list = NULL;
	struct status st;
	if (state_replicas(m->options.state, &st, &list) != STATUS_OK) {
		log_error("read the replicas: %s", st.message);
		return false;
	}
	m->settled = list->n_replicas > 0;
	uint64_t highest = 0;
	for (size_t i = 0; i < list->n_replicas; i++) {
		const Kds__V1__Replica *r = list->replicas[i];
		if (r->id > highest)
			highest = r->id;
		struct known *k = r->removed ? NULL : enter(known, n, r->id, r->name);
		if (!k)
			continue;
		k->wants = r->voter ? MEMBERSHIP_VOTER : MEMBERSHIP_STANDBY;
		k->incarnation = r->incarnation;
		snprintf(k->address, sizeof k->address, "%s", r->address);
		snprintf(k->rpc_address, sizeof k->rpc_address, "%s", r->rpc_address);
	}
	peers_set_highest_id(m->options.peers, highest);
	kds__v1__replica_list__free_unpacked(list, NULL);
	return true;
}

static void enter_addresses(const struct members *m, struct known *known, size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (size_t c = 0; known[i].address[0] == '\0' && c < m->n_configured; c++)
			if (m->configured[c].id == known[i].id && strcmp(m->configured[c].name, known[i].name) == 0)
				snprintf(known[i].address, sizeof known[i].address, "%s", m->configured[c].address);
}

static void keep_progress(const struct members *m, struct known *k, uint64_t now)
{
	const struct known *old = find((struct known *)m->known, m->n, k->id);
	k->seen_ms = k->round_ms = now;
	k->round = UINT64_MAX;
	if (!old)
		return;
	k->reachable = old->reachable;
	k->caught_up = old->caught_up;
	k->seen_ms = old->seen_ms;
	k->match = old->match;
	k->round = old->round;
	k->round_ms = old->round_ms;
}

static void tell_others(struct members *m)
{
	struct peers_member peers[KNOWN_MAX];
	struct engine_member view[KNOWN_MAX];
	for (size_t i = 0; i < m->n; i++) {
		const struct known *k = &m->known[i];
		m->ids[i] = k->id;
		peers[i] = (struct peers_member){ k->id, k->name, k->address };
		view[i] = (struct engine_member){ k->id, k->name, k->address };
	}
	if (!peers_set_members(m->options.peers, peers, m->n) || !view_set_members(m->options.view, view, m->n)) {
		log_warning("out of memory for the members; trying again");
		m->fresh = false;
	}
	for (size_t i = 0; i < m->n; i++) {
		view_set_voter(m->options.view, m->known[i].id, m->known[i].has == MEMBERSHIP_VOTER);
		view_set_wanted(m->options.view, m->known[i].id, m->known[i].wants != MEMBERSHIP_NONE);
	}
}

static void refresh(struct members *m, uint64_t now)
{
	uint64_t revision = state_replicas_revision(m->options.state);
	uint64_t version = replica_members_version(m->options.replica);
	if (m->fresh && revision == m->state_revision && version == m->log_version)
		return;
	struct known known[KNOWN_MAX];
	size_t n = 0;
	enter_log(m, known, &n);
	if (!enter_objects(m, known, &n))
		return;
	enter_addresses(m, known, n);
	for (size_t i = 0; i < n; i++) {
		if (!m->settled)
			known[i].wants = known[i].has;
		keep_progress(m, &known[i], now);
	}
	memcpy(m->known, known, n * sizeof *known);
	m->n = n;
	m->fresh = true;
	m->state_revision = revision;
	m->log_version = version;
	tell_others(m);
	const struct known *self = find(m->known, m->n, m->options.self);
	if (self && self->incarnation != 0 && self->incarnation != store_incarnation(m->options.store))
		end_as_another(m);
}

const uint64_t *members_ids(const struct members *m, size_t *ret_n)
{
	*ret_n = m->n;
	return m->ids;
}

/* What the leader sees of them */

static void look(struct members *m, uint64_t now)
{
	struct replica_member members[REPLICA_MEMBERS_MAX];
	size_t n = replica_members(m->options.replica, members);
	raft_index last = replica_last_index(m->options.replica);
	for (size_t i = 0; i < m->n; i++) {
		struct known *k = &m->known[i];
		bool self = k->id == m->options.self;
		k->reachable = self || view_is_reachable(m->options.view, m->options.peers, k->id);
		if (k->reachable)
			k->seen_ms = now;
		k->match = self ? last : 0;
		for (size_t j = 0; !self && j < n; j++)
			if (members[j].id == k->id)
				k->match = members[j].match;
		if (k->match >= last || (k->round != UINT64_MAX && k->match >= k->round)) {
			k->caught_up = k->match >= last || now - k->round_ms <= m->options.election_ms;
			k->round = last;
			k->round_ms = now;
		} else if (k->round == UINT64_MAX) {
			k->round = last;
			k->round_ms = now;
		} else if (now - k->round_ms > m->options.election_ms) {
			k->caught_up = false;
		}
	}
}

/* As a new leader: what was seen as another one is old. */
static void begin_to_lead(struct members *m, uint64_t now)
{
	for (size_t i = 0; i < m->n; i++) {
		struct known *k = &m->known[i];
		k->reachable = k->caught_up = false;
		k->round = UINT64_MAX;
		k->seen_ms = k->round_ms = now;
	}
}

static void picture(const struct members *m, uint64_t now, struct membership *ret)
{
	uint64_t replace_after = state_setting(m->options.state, SETTING_REPLICA_REPLACE_AFTER);
	*ret = (struct membership){
		.self = m->options.self,
		.replace_after_ms = replace_after == SETTING_OFF ? 0 : replace_after,
	};
	raft_index last = replica_last_index(m->options.replica);
	for (size_t i = 0; i < m->n; i++) {
		const struct known *k = &m->known[i];
		ret->members[ret->n++] = (struct membership_member){
			.id = k->id,
			.name = k->name,
			.has = k->has,
			.wants = k->wants,
			.recorded = k->incarnation != 0,
			.reachable = k->reachable,
			.caught_up = k->caught_up,
			.lag = last - k->match,
			.away_ms = k->reachable ? 0 : now - k->seen_ms,
		};
	}
}

/* What the leader does */

static void proposed(void *arg, const struct state_result *result)
{
	struct members *m = arg;
	m->proposing = false;
	if (result->status.code != STATUS_OK && result->status.code != STATUS_UNAVAILABLE)
		log_warning("membership: %s", result->status.message);
}

static void propose(struct members *m, Kds__V1__Command *c)
{
	c->requester = (char *)"kds-serial"; /* packing only reads */
	m->proposing = true;
	m->options.propose(m->options.arg, c, proposed, m);
}

static uint64_t incarnation_of(const struct members *m, const struct known *k)
{
	if (k->id == m->options.self)
		return store_incarnation(m->options.store);
	uint64_t recorded = admission_record(&m->admission, k->id);
	return recorded ? recorded : peers_incarnation(m->options.peers, k->id);
}

/* Enters the first replicas, whole, or the data directories that are new. True: proposed. */
static bool note(struct members *m)
{
	Kds__V1__Replica replicas[KNOWN_MAX], *pointers[KNOWN_MAX];
	Kds__V1__ReplicaList list = KDS__V1__REPLICA_LIST__INIT;
	list.replicas = pointers;
	for (size_t i = 0; i < m->n; i++) {
		struct known *k = &m->known[i];
		uint64_t incarnation = k->incarnation ? k->incarnation : incarnation_of(m, k);
		bool news = k->wants != MEMBERSHIP_NONE && k->incarnation == 0 && incarnation != 0;
		if (m->settled && !news)
			continue;
		Kds__V1__Replica *r = &replicas[list.n_replicas];
		kds__v1__replica__init(r);
		r->id = k->id;
		r->name = k->name;
		r->address = k->address;
		r->voter = k->has == MEMBERSHIP_VOTER;
		r->incarnation = incarnation;
		pointers[list.n_replicas++] = r;
	}
	if (list.n_replicas == 0)
		return false;
	Kds__V1__Command c = KDS__V1__COMMAND__INIT;
	c.op_case = KDS__V1__COMMAND__OP_NOTE_REPLICAS;
	c.note_replicas = &list;
	propose(m, &c);
	return true;
}

static const char *describe(enum membership_role role)
{
	static const char *const words[] = { "no member", "a standby", "a voter" };
	return words[role];
}

/* Whoever leads then goes on. */
static void transferred(void *arg, const struct status *st, uint64_t leader)
{
	(void)arg;
	(void)leader;
	if (st->code != STATUS_OK)
		log_warning("hand over to be removed: %s", st->message);
}

static bool act(struct members *m, const struct membership_step *s)
{
	const struct membership_member *x = s->member;
	switch (s->kind) {
	case MEMBERSHIP_SET:
		if (!replica_change(m->options.replica, x->id, x->name, s->role))
			return true; /* it wants another turn first */
		log_info("membership replica=%" PRIu64 " name=%s becomes=\"%s\"", x->id, x->name, describe(s->role));
		return true;
	case MEMBERSHIP_REPLACE: {
		log_warning("replica %s is away for %" PRIu64 " s: its vote goes to %s", x->name, x->away_ms / 1000,
			    s->heir->name);
		Kds__V1__ChangeReplicaRequest in = KDS__V1__CHANGE_REPLICA_REQUEST__INIT;
		in.name = (char *)x->name;
		in.change_case = KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_REPLACED_BY;
		in.replaced_by = (char *)s->heir->name;
		Kds__V1__Command c = KDS__V1__COMMAND__INIT;
		c.op_case = KDS__V1__COMMAND__OP_CHANGE_REPLICA;
		c.change_replica = &in;
		propose(m, &c);
		return true;
	}
	case MEMBERSHIP_TRANSFER:
		replica_transfer(m->options.replica, x->id, transferred, m);
		return true;
	case MEMBERSHIP_NOTHING:
	default:
		return false;
	}
}

static bool lead(struct members *m, uint64_t now)
{
	if (m->proposing || replica_is_changing(m->options.replica))
		return false;
	if (note(m))
		return true;
	struct membership picture_now;
	picture(m, now, &picture_now);
	struct membership_step s = membership_next(&picture_now);
	return act(m, &s);
}

uint64_t members_turn(struct members *m, uint64_t now, bool *ret_again)
{
	refresh(m, now);
	*ret_again = begin_to_take_part(m);
	complain(m, now);
	bool leads = replica_leads(m->options.replica);
	if (leads && !m->leads)
		begin_to_lead(m, now);
	m->leads = leads;
	if (!leads)
		return m->admission.takes_part ? UINT64_MAX : m->complain_ms;
	if (now < m->due_ms)
		return m->due_ms;
	look(m, now);
	*ret_again = lead(m, now);
	m->due_ms = now + TICK_MS;
	return m->due_ms;
}

/* What others ask */

uint64_t members_id(const struct members *m, const char *name)
{
	uint64_t id = 0;
	for (size_t i = 0; i < m->n; i++)
		if (strcmp(m->known[i].name, name) == 0 && (id == 0 || m->known[i].wants != MEMBERSHIP_NONE))
			id = m->known[i].id;
	return id;
}

enum status_code members_check(struct members *m, const Kds__V1__ChangeReplicaRequest *change, struct status *st)
{
	if (!replica_leads(m->options.replica))
		return status_set(st, STATUS_UNAVAILABLE, "this replica does not lead; try again");
	if (replica_is_changing(m->options.replica))
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "another change of the membership is not committed yet; try again in a moment");
	struct membership now;
	look(m, clock_monotonic_ms());
	picture(m, clock_monotonic_ms(), &now);
	return membership_check(&now, change, st);
}

static enum status_code fill(struct members *m, const struct membership *now, size_t i, struct arena *arena,
			     Kds__V1__MemberState *out)
{
	const struct known *k = &m->known[i];
	const struct membership_member *x = &now->members[i];
	char buf[STATUS_MESSAGE_MAX];
	kds__v1__member_state__init(out);
	out->replica = arena_alloc(arena, sizeof *out->replica);
	if (!out->replica)
		return STATUS_RESOURCE_EXHAUSTED;
	kds__v1__replica__init(out->replica);
	out->replica->id = k->id;
	out->replica->name = (char *)k->name;
	out->replica->address = (char *)k->address;
	out->replica->rpc_address = (char *)k->rpc_address;
	out->replica->voter = k->wants == MEMBERSHIP_VOTER;
	out->replica->removed = k->wants == MEMBERSHIP_NONE;
	out->replica->incarnation = k->incarnation;
	out->member = k->has != MEMBERSHIP_NONE;
	out->votes = k->has == MEMBERSHIP_VOTER;
	out->leader = k->id == m->options.self;
	out->reachable = k->reachable;
	out->lag = x->lag;
	const char *why = membership_waits_for(now, x, buf, sizeof buf);
	out->waits_for = arena_strdup(arena, why);
	return out->waits_for ? STATUS_OK : STATUS_RESOURCE_EXHAUSTED;
}

static int by_id(const void *a, const void *b)
{
	const Kds__V1__MemberState *x = *(Kds__V1__MemberState *const *)a, *y = *(Kds__V1__MemberState *const *)b;
	return (x->replica->id > y->replica->id) - (x->replica->id < y->replica->id);
}

enum status_code members_list(struct members *m, struct status *st, struct buffer *out)
{
	if (!replica_leads(m->options.replica))
		return status_set(st, STATUS_UNAVAILABLE, "this replica does not lead; try again");
	struct membership now;
	look(m, clock_monotonic_ms());
	picture(m, clock_monotonic_ms(), &now);
	struct arena *arena = arena_new((size_t)1 << 20);
	Kds__V1__MembersResponse answer = KDS__V1__MEMBERS_RESPONSE__INIT;
	Kds__V1__MemberState members[KNOWN_MAX], *pointers[KNOWN_MAX];
	enum status_code rc = arena ? STATUS_OK : STATUS_RESOURCE_EXHAUSTED;
	for (size_t i = 0; rc == STATUS_OK && i < m->n; i++) {
		rc = fill(m, &now, i, arena, &members[i]);
		pointers[i] = &members[i];
	}
	if (rc == STATUS_OK) {
		answer.members = pointers;
		answer.n_members = m->n;
		qsort(pointers, m->n, sizeof *pointers, by_id);
		rc = message_pack(&answer.base, out, st);
	} else {
		status_set(st, rc, "list the members: out of memory");
	}
	arena_free(arena);
	return rc;
}
