#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "services/serial/clocks.h"
#include "tests/fault/simulation/check.h"
#include "tests/fault/simulation/client.h"
#include "tests/fault/simulation/disk.h"
#include "tests/fault/simulation/ending.h"
#include "tests/fault/simulation/members.h"
#include "tests/fault/simulation/network.h"
#include "tests/fault/simulation/node.h"

#define MISFORTUNE_MS 800 /* at most, from one to the next */
#define CHANGE_MS 400     /* at most, from one change of the membership to the next */
#define DOWN_MS 4000      /* at most, that a replica is down */
#define LONG_DOWN_MS 20000 /* likewise, now and then: long enough to need a snapshot */
#define CLOCK_MS 180000   /* at most, that a wall clock is wrong, mostly */
#define LONG_CLOCK_MS 3600000 /* now and then; records that should stay are valid for longer */
#define HEALING_MS 120000 /* at most, until all agree at the end */
#define LONE_TAIL_MIN 20  /* entries: more than one turn writes */
#define QUIET_MS 2000     /* the last transactions are committed, the last entries known as committed */

#define FAR_MS ((int64_t)365 * 24 * 3600 * 1000) /* that one clock at a time may be wrong by */
#define NOBODY NODES_MAX

struct plan {
	uint64_t misfortune_ms; /* the next */
	uint64_t change_ms;     /* the next of the membership */
	unsigned far;           /* whose clock is years off; NOBODY */
	uint64_t near_ms;       /* since when nobody's is */
	uint64_t restart_ms[NODES_MAX];
};

/* What all files use */

uint64_t sim_dice(struct sim *s, uint64_t n)
{
	/* SplitMix64 (Steele, Lea, Flood 2014). */
	uint64_t z = s->random += 0x9e3779b97f4a7c15u;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return (z ^ (z >> 31)) % n;
}

bool sim_chance(struct sim *s, unsigned percent)
{
	return percent > 0 && sim_dice(s, 100) < percent;
}

void sim_fail(const struct sim *s, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	fflush(stdout);
	fprintf(stderr, "seed %" PRIu64 ": step %" PRIu64 ", at %" PRIu64 " ms: ", s->seed, s->step,
		s->now_ms - START_MS);
	vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	va_end(ap);
	_exit(1);
}

void sim_trace(const struct sim *s, const char *format, ...)
{
	if (!s->verbose)
		return;
	va_list ap;
	va_start(ap, format);
	printf("%8" PRIu64 " %8" PRIu64 " ms  ", s->step, s->now_ms - START_MS);
	vprintf(format, ap);
	putchar('\n');
	va_end(ap);
}

void *sim_alloc(size_t size)
{
	void *p = calloc(1, size);
	if (!p)
		abort();
	return p;
}

void *sim_grow(void *array, size_t n, size_t *cap, size_t size)
{
	if (n < *cap)
		return array;
	size_t more = *cap ? *cap * 2 : 16;
	void *p = realloc(array, more * size);
	if (!p)
		abort();
	*cap = more;
	return p;
}

/* Misfortunes */

static void go_down(struct sim *s, struct plan *plan, unsigned i)
{
	struct node *n = s->nodes[i];
	bool power = sim_chance(s, 50);
	switch (sim_dice(s, 4)) {
	case 0:
		node_stop(n);
		break;
	case 1:
		node_crash(n, power);
		break;
	default:
		node_crash_within(n, (unsigned)sim_dice(s, 30), power);
		break;
	}
	plan->restart_ms[i] = s->now_ms + sim_dice(s, sim_chance(s, 20) ? LONG_DOWN_MS : DOWN_MS);
}

/* A moment's fault, or one that lasts until somebody looks after it, perhaps when the replica is started again. */
static void fail_disk(struct sim *s, struct plan *plan, unsigned i)
{
	node_fail_disk_within(s->nodes[i], (unsigned)sim_dice(s, 60), sim_chance(s, 50));
	plan->restart_ms[i] = s->now_ms + sim_dice(s, DOWN_MS);
}

static void cut_off(struct sim *s, unsigned i, bool from, bool to)
{
	sim_trace(s, "replica %u is cut off:%s%s", i + 1, from ? " cannot send" : "", to ? " cannot hear" : "");
	for (unsigned k = 0; k < s->n_nodes; k++) {
		if (from)
			network_cut(s->network, i, k);
		if (to)
			network_cut(s->network, k, i);
	}
}

static void divide(struct sim *s)
{
	uint64_t side = sim_dice(s, (uint64_t)1 << s->n_nodes);
	sim_trace(s, "the network falls in two: %#" PRIx64, side);
	for (unsigned i = 0; i < s->n_nodes; i++)
		for (unsigned k = 0; k < s->n_nodes; k++)
			if ((side >> i & 1) != (side >> k & 1))
				network_cut(s->network, i, k);
}

static void change_weather(struct sim *s)
{
	unsigned lose = sim_chance(s, 50) ? (unsigned)sim_dice(s, 25) : 0, delay = 1 + (unsigned)sim_dice(s, 60);
	sim_trace(s, "messages take %u ms, %u%% are lost", delay, lose);
	network_weather(s->network, lose, delay);
}

static void jump_clock(struct sim *s, struct plan *plan, unsigned i)
{
	int64_t most = sim_chance(s, 30) ? LONG_CLOCK_MS : CLOCK_MS, offset = (int64_t)sim_dice(s, 2 * (uint64_t)most) - most;
	bool may_be_far = s->voters_min > 1; /* else nobody could know */
	if (may_be_far && plan->far == NOBODY && s->now_ms > plan->near_ms + 2 * CLOCKS_WINDOW_MS && sim_chance(s, 50)) {
		plan->far = i;
		offset = sim_chance(s, 70) ? FAR_MS : -FAR_MS;
	} else if (plan->far == i) {
		plan->far = NOBODY;
		plan->near_ms = s->now_ms;
	}
	sim_trace(s, "the clock of replica %u jumps to %+" PRId64 " ms", i + 1, offset);
	node_set_clock(s->nodes[i], offset);
}

/* Another stands for election, and who leads learns nothing of it. */
static void depose(struct sim *s, unsigned by)
{
	for (unsigned i = 0; i < s->n_nodes; i++)
		if (i != by && node_leads(s->nodes[i]))
			cut_off(s, i, true, true);
	node_stand(s->nodes[by]);
}

static void misfortune(struct sim *s, struct plan *plan)
{
	unsigned i = (unsigned)sim_dice(s, s->n_nodes), k = (unsigned)sim_dice(s, s->n_nodes);
	plan->misfortune_ms = s->now_ms + sim_dice(s, MISFORTUNE_MS);
	switch (sim_dice(s, 22)) {
	case 0:
	case 1:
	case 2:
		go_down(s, plan, i);
		break;
	case 3:
		sim_trace(s, "nothing goes from replica %u to %u", i + 1, k + 1);
		network_cut(s->network, i, k);
		break;
	case 4:
		cut_off(s, i, sim_chance(s, 70), sim_chance(s, 70));
		break;
	case 5:
		divide(s);
		break;
	case 6:
		network_break(s->network, i, k);
		break;
	case 7:
		change_weather(s);
		break;
	case 8:
		jump_clock(s, plan, i);
		break;
	case 9:
		node_stall(s->nodes[i], sim_dice(s, 3 * s->election_ms));
		break;
	case 10:
	case 11:
		/* Whoever leads. */
		for (unsigned n = 0; n < s->n_nodes; n++)
			node_hand_over(s->nodes[n], sim_chance(s, 50) ? 0 : k + 1);
		break;
	case 12:
	case 13:
		node_stand(s->nodes[i]);
		if (sim_chance(s, 30))
			node_stand(s->nodes[k]);
		break;
	case 14:
	case 15:
		fail_disk(s, plan, i);
		break;
	case 16:
	case 17:
		depose(s, k);
		break;
	default:
		sim_trace(s, "the network is whole");
		network_heal(s->network);
		break;
	}
}

static void restart(struct sim *s, struct plan *plan)
{
	for (unsigned i = 0; i < s->n_nodes; i++) {
		if (node_running(s->nodes[i]) || plan->restart_ms[i] > s->now_ms)
			continue;
		if (sim_chance(s, 50))
			node_mend_disk(s->nodes[i]);
		node_start(s->nodes[i]);
		plan->restart_ms[i] = s->now_ms + sim_dice(s, DOWN_MS); /* if it does not run */
	}
}

/* The order of events */

static uint64_t next_restart(const struct sim *s, const struct plan *plan)
{
	uint64_t at = UINT64_MAX;
	for (unsigned i = 0; i < s->n_nodes; i++)
		if (!node_running(s->nodes[i]) && plan->restart_ms[i] < at)
			at = plan->restart_ms[i];
	return at;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* One thing happens: the one that is due first. */
static void step(struct sim *s, struct plan *plan)
{
	unsigned first = (unsigned)sim_dice(s, s->n_nodes), turn = NODES_MAX;
	uint64_t turn_at = UINT64_MAX;
	for (unsigned n = 0; n < s->n_nodes; n++) {
		unsigned i = (first + n) % s->n_nodes;
		if (node_next_turn(s->nodes[i]) < turn_at) {
			turn_at = node_next_turn(s->nodes[i]);
			turn = i;
		}
	}
	uint64_t at = least(clients_next(s->clients), next_restart(s, plan));
	at = least(at, least(plan->misfortune_ms, plan->change_ms));
	s->step++;
	s->now_ms = least(at, turn_at) > s->now_ms ? least(at, turn_at) : s->now_ms;
	network_pass_time(s->network);
	if (turn_at < at) {
		node_turn(s->nodes[turn]);
		return;
	}
	restart(s, plan);
	clients_act(s->clients);
	if (plan->misfortune_ms <= s->now_ms)
		misfortune(s, plan);
	if (plan->change_ms <= s->now_ms) {
		members_change(s);
		plan->change_ms = s->now_ms + sim_dice(s, CHANGE_MS);
	}
}

/* Do all members of the cluster? */
static bool all_agree(struct sim *s)
{
	bool members[NODES_MAX];
	uint64_t last = 0;
	if (!members_now(s, members))
		return false;
	for (unsigned i = 0; i < s->n_nodes; i++) {
		Kds__V1__ReplicaStatus status;
		if (!members[i])
			continue;
		if (!node_running(s->nodes[i]))
			return false;
		node_status(s->nodes[i], &status);
		if (status.leader_id == 0 || status.applied_index != status.last_index ||
		    (last != 0 && status.last_index != last))
			return false;
		last = status.last_index;
	}
	return true;
}

static void trace_replicas(struct sim *s)
{
	Kds__V1__ReplicaStatus status;
	for (unsigned i = 0; i < s->n_nodes; i++) {
		if (!node_running(s->nodes[i]))
			continue;
		node_status(s->nodes[i], &status);
		sim_trace(s,
			  "replica %u: role %d, term %" PRIu64 ", leader %" PRIu64 ", commit %" PRIu64
			  ", applied %" PRIu64 ", last %" PRIu64,
			  i + 1, (int)status.role, status.term, status.leader_id, status.commit_index,
			  status.applied_index, status.last_index);
		struct replica_member members[REPLICA_MEMBERS_MAX];
		size_t n = replica_members(node_replica(s->nodes[i]), members);
		for (size_t k = 0; k < n; k++)
			sim_trace(s, "  has replica %llu as a %s, with its log up to %llu", members[k].id,
				  members[k].voter ? "voter" : "standby", members[k].match);
	}
}

/* A replica that was removed learns it and ends (services/serial/members.c). Those that were would vote for each other, and
 * disturb. */
static void end_removed(struct sim *s, struct plan *plan)
{
	bool members[NODES_MAX];
	if (!members_now(s, members))
		return;
	for (unsigned i = 0; i < s->n_nodes; i++) {
		if (members[i] || !node_running(s->nodes[i]))
			continue;
		node_stop(s->nodes[i]);
		plan->restart_ms[i] = UINT64_MAX;
	}
}

static void run_until_agreed(struct sim *s, struct plan *plan)
{
	uint64_t end = s->now_ms + HEALING_MS, quiet = 0;
	while (quiet == 0 || s->now_ms < quiet) {
		step(s, plan);
		end_removed(s, plan);
		if (s->now_ms > end) {
			trace_replicas(s);
			/* A mutant is to be noticed for what it breaks: being stuck proves nothing. */
			if (s->mutant != MUTANT_NONE)
				_exit(0);
			sim_fail(s, "the replicas do not agree %d s after everything was healed", HEALING_MS / 1000);
		}
		if (!clients_finished(s->clients) || !all_agree(s))
			quiet = 0;
		else if (quiet == 0)
			quiet = s->now_ms + QUIET_MS;
	}
}

static void heal(struct sim *s, struct plan *plan)
{
	sim_trace(s, "everything is healed");
	plan->misfortune_ms = plan->change_ms = UINT64_MAX;
	s->healed = true;
	network_heal(s->network);
	network_weather(s->network, 0, 5);
	for (unsigned i = 0; i < s->n_nodes; i++) {
		node_crash_within(s->nodes[i], UINT32_MAX, false);
		node_mend_disk(s->nodes[i]);
		plan->restart_ms[i] = s->now_ms;
	}
	clients_finish(s->clients);
	run_until_agreed(s, plan);
	/* Repetitions of what was done long ago change nothing. */
	clients_repeat(s->clients);
	run_until_agreed(s, plan);
	bool members[NODES_MAX];
	if (!members_now(s, members))
		sim_fail(s, "nobody leads in the end");
	check_end(s->check, members);
	for (unsigned i = 0; i < s->n_nodes; i++)
		if (members[i])
			clients_check_end(s->clients, i);
}

static void report(struct sim *s)
{
	uint64_t answered, reads, repeated, leaders, committed, compared;
	clients_report(s->clients, &answered, &reads, &repeated);
	check_report(s->check, &leaders, &committed, &compared);
	sim_trace(s,
		  "%" PRIu64 " requests answered, %" PRIu64 " reads, %" PRIu64 " repeated; %" PRIu64
		  " leaders, %" PRIu64 " entries, %" PRIu64 " states compared, %u changes of the membership",
		  answered, reads, repeated, leaders, committed, compared, s->changes);
}

void sim_run(uint64_t seed, uint64_t steps, enum mutant mutant, bool verbose, const char *dir)
{
	struct sim s = {
		.seed = seed,
		.random = seed,
		.now_ms = START_MS,
		.mutant = mutant,
		.verbose = verbose,
		.dir = dir,
	};
	s.heartbeat_ms = 20 + (unsigned)sim_dice(&s, 100);
	s.election_ms = s.heartbeat_ms * (3 + (unsigned)sim_dice(&s, 8));
	s.n_nodes = s.n_members = sim_chance(&s, 60) ? 3 : 5;
	if (mutant == MUTANT_NONE && sim_chance(&s, 40))
		s.n_nodes += 1 + (unsigned)sim_dice(&s, NODES_MAX - s.n_members);
	bool snapshots = sim_chance(&s, 50) || mutant == MUTANT_CHANGED_PART || mutant == MUTANT_MOVED_SNAPSHOT;
	s.log_tail = snapshots ? 1 + (unsigned)sim_dice(&s, 60) : LOG_TAIL_DEFAULT;
	s.voters_min = s.n_nodes > s.n_members && sim_chance(&s, 40) ? 1 : 3;
	/* A lone voter may write, commit and compact an entry in one turn, unseen by the checks. */
	if (s.voters_min == 1 && s.log_tail < LONE_TAIL_MIN)
		s.log_tail = LONE_TAIL_MIN;
	s.snapshot_part = 1000 + sim_dice(&s, 8000); /* some dozen parts */
	s.check = check_new(&s);
	bool wild = sim_chance(&s, 25);
	sim_trace(&s, "%u replicas, %u that can be added, election timeout %u ms, heartbeat %u ms, log tail %u%s", s.n_members,
		  s.n_nodes - s.n_members, s.election_ms, s.heartbeat_ms, s.log_tail, wild ? ", a wild network" : "");
	s.network = network_new(&s, wild);
	for (unsigned i = 0; i < s.n_nodes; i++)
		s.nodes[i] = node_new(&s, i);
	for (unsigned i = 0; i < s.n_nodes; i++)
		node_start(s.nodes[i]);
	s.clients = clients_new(&s);
	struct plan plan = { .misfortune_ms = s.now_ms + 2 * s.election_ms, .far = NOBODY };
	plan.change_ms = s.n_nodes > s.n_members ? plan.misfortune_ms : UINT64_MAX;
	while (s.step < steps)
		step(&s, &plan);
	heal(&s, &plan);
	report(&s);
	for (unsigned i = 0; i < s.n_nodes; i++)
		node_stop(s.nodes[i]);
	for (unsigned i = 0; i < s.n_nodes; i++)
		node_free(s.nodes[i]);
	clients_free(s.clients);
	network_free(s.network);
	check_free(s.check);
	/* A sanitizer would complain of what processes that ended did not free. */
	if (ending_happened()) {
		fflush(stdout);
		_exit(0);
	}
}
