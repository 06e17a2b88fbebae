#include "services/serial/membership.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Voters, and how many of them the leader reaches, if `member` had the role `role`. */
struct votes {
	unsigned voters, reachable;
};

static struct votes count(const struct membership *m, const struct membership_member *member, enum membership_role role,
			  bool wanted)
{
	struct votes v = { 0 };
	for (size_t i = 0; i < m->n; i++) {
		const struct membership_member *x = &m->members[i];
		enum membership_role is = wanted && x->wants < x->has ? x->wants : x->has;
		if ((x == member ? role : is) != MEMBERSHIP_VOTER)
			continue;
		v.voters++;
		v.reachable += x->reachable || x->id == m->self;
	}
	return v;
}

static bool has_majority(struct votes v)
{
	return v.reachable > v.voters / 2;
}

static const struct membership_member *find(const struct membership *m, const char *name)
{
	/* One that is leaving may have the name of one that comes: the latter is meant. */
	const struct membership_member *found = NULL;
	for (size_t i = 0; i < m->n; i++)
		if (strcmp(m->members[i].name, name) == 0 && (!found || m->members[i].wants != MEMBERSHIP_NONE))
			found = &m->members[i];
	return found;
}

/* Who can lead at once: the voter that has most of the log. */
static const struct membership_member *best_leader(const struct membership *m)
{
	const struct membership_member *best = NULL;
	for (size_t i = 0; i < m->n; i++) {
		const struct membership_member *x = &m->members[i];
		if (x->id != m->self && x->has == MEMBERSHIP_VOTER && x->wants == MEMBERSHIP_VOTER && x->reachable &&
		    x->caught_up && (!best || x->lag < best->lag))
			best = x;
	}
	return best;
}

static bool name_is_taken(const struct membership *m, const struct membership_member *member)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->members[i].has != MEMBERSHIP_NONE && m->members[i].id != member->id &&
		    strcmp(m->members[i].name, member->name) == 0)
			return true;
	return false;
}

/* Nobody may vote whose data directory could be another one's tomorrow: all that vote are on record first. */
static const struct membership_member *unrecorded_voter(const struct membership *m)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->members[i].has == MEMBERSHIP_VOTER && m->members[i].wants == MEMBERSHIP_VOTER &&
		    !m->members[i].recorded)
			return &m->members[i];
	return NULL;
}

/* Why this member cannot become a voter now; NULL: it can. */
static const char *unfit(const struct membership *m, const struct membership_member *x, char *buf, size_t size)
{
	const struct membership_member *unknown = unrecorded_voter(m);
	if (!x->reachable)
		snprintf(buf, size, "replica %s cannot be reached: start it, and compare addresses and certificate", x->name);
	else if (!x->recorded)
		snprintf(buf, size, "replica %s has not said yet which data directory it has", x->name);
	else if (!x->caught_up)
		snprintf(buf, size, "replica %s is catching up: %" PRIu64 " entries are missing", x->name, x->lag);
	else if (unknown)
		snprintf(buf, size, "the data directory of replica %s is not on record yet: start it", unknown->name);
	else if (!has_majority(count(m, x, MEMBERSHIP_VOTER, false)))
		snprintf(buf, size, "too few of the voters can be reached for one more");
	else
		return NULL;
	return buf;
}

/* Why its vote cannot be taken from it now; NULL: it can. */
static const char *needed(const struct membership *m, const struct membership_member *x, bool wanted, char *buf,
			  size_t size)
{
	struct votes v = count(m, x, MEMBERSHIP_NONE, wanted);
	if (v.voters == 0)
		snprintf(buf, size, "%s is the last replica that votes: add another one first", x->name);
	else if (!has_majority(v))
		snprintf(buf, size,
			 "it would cost the quorum: without %s %u of %u voters could be reached, and %u are needed; start "
			 "the others first",
			 x->name, v.reachable, v.voters, v.voters / 2 + 1);
	else
		return NULL;
	return buf;
}

const char *membership_waits_for(const struct membership *m, const struct membership_member *x, char *buf, size_t size)
{
	if (x->has == x->wants)
		return "";
	if (x->has == MEMBERSHIP_NONE)
		return name_is_taken(m, x) ? "another replica of this name is still a member" : "its turn";
	if (x->wants == MEMBERSHIP_VOTER) {
		const char *why = unfit(m, x, buf, size);
		return why ? why : "its turn";
	}
	const char *why = x->has == MEMBERSHIP_VOTER ? needed(m, x, false, buf, size) : NULL;
	if (!why && x->id == m->self)
		return best_leader(m) ? "another leader" : "another replica that can lead";
	return why ? why : "its turn";
}

static struct membership_step step(enum membership_kind kind, const struct membership_member *member,
				   enum membership_role role)
{
	return (struct membership_step){ .kind = kind, .member = member, .role = role };
}

/* Less than it has; *ret_step is set when something can be done. */
static bool next_demotion(const struct membership *m, struct membership_step *ret_step)
{
	char buf[STATUS_MESSAGE_MAX];
	for (size_t i = 0; i < m->n; i++) {
		const struct membership_member *x = &m->members[i];
		if (x->wants >= x->has || (x->has == MEMBERSHIP_VOTER && needed(m, x, false, buf, sizeof buf)))
			continue;
		if (x->id != m->self) {
			*ret_step = step(MEMBERSHIP_SET, x, x->wants);
			return true;
		}
		const struct membership_member *heir = best_leader(m);
		if (heir) {
			*ret_step = step(MEMBERSHIP_TRANSFER, heir, MEMBERSHIP_VOTER);
			return true;
		}
	}
	return false;
}

static bool next_promotion(const struct membership *m, struct membership_step *ret_step)
{
	char buf[STATUS_MESSAGE_MAX];
	for (size_t i = 0; i < m->n; i++) {
		const struct membership_member *x = &m->members[i];
		if (x->wants <= x->has)
			continue;
		if (x->has == MEMBERSHIP_NONE && !name_is_taken(m, x)) {
			*ret_step = step(MEMBERSHIP_SET, x, MEMBERSHIP_STANDBY);
			return true;
		}
		if (x->has == MEMBERSHIP_STANDBY && !unfit(m, x, buf, sizeof buf)) {
			*ret_step = step(MEMBERSHIP_SET, x, MEMBERSHIP_VOTER);
			return true;
		}
	}
	return false;
}

/*
 * A voter that stays away gives its vote to a standby that is ready: one command changes what is wanted of both. In the
 * log the first loses its vote before the other gets one.
 */
static bool next_replacement(const struct membership *m, struct membership_step *ret_step)
{
	const struct membership_member *away = NULL, *heir = NULL;
	char buf[STATUS_MESSAGE_MAX];
	for (size_t i = 0; i < m->n; i++) {
		const struct membership_member *x = &m->members[i];
		if (x->has != x->wants)
			return false; /* one change at a time */
		if (x->has == MEMBERSHIP_VOTER && x->id != m->self && x->away_ms >= m->replace_after_ms)
			away = x;
		if (x->has == MEMBERSHIP_STANDBY && x->reachable && x->caught_up && x->recorded)
			heir = x;
	}
	if (m->replace_after_ms == 0 || !away || !heir || needed(m, away, true, buf, sizeof buf))
		return false;
	*ret_step = (struct membership_step){ .kind = MEMBERSHIP_REPLACE, .member = away, .heir = heir };
	return true;
}

struct membership_step membership_next(const struct membership *m)
{
	struct membership_step s = { .kind = MEMBERSHIP_NOTHING };
	(void)(next_demotion(m, &s) || next_promotion(m, &s) || next_replacement(m, &s));
	return s;
}

enum status_code membership_check(const struct membership *m, const Kds__V1__ChangeReplicaRequest *change,
				  struct status *st)
{
	const struct membership_member *x = find(m, change->name);
	if (!x)
		return STATUS_OK; /* the state answers */
	char buf[STATUS_MESSAGE_MAX];
	const char *why = NULL;
	if (change->change_case == KDS__V1__CHANGE_REPLICA_REQUEST__CHANGE_VOTER && change->voter)
		why = x->has == MEMBERSHIP_VOTER ? NULL : unfit(m, x, buf, sizeof buf);
	else if (x->has == MEMBERSHIP_VOTER)
		why = needed(m, x, true, buf, sizeof buf);
	return why ? status_set(st, STATUS_FAILED_PRECONDITION, "%s", why) : STATUS_OK;
}
