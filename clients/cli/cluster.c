/* kds-cli cluster: the replicas' view of themselves, and whether every process can do its work. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/cli/members.h"
#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/rpc/json.h"
#include "health.pb-c.h"
#include "serial.pb-c.h"

static const char *role_name(Kds__V1__RaftRole role)
{
	switch (role) {
	case KDS__V1__RAFT_ROLE__RAFT_ROLE_LEADER:
		return "leader";
	case KDS__V1__RAFT_ROLE__RAFT_ROLE_FOLLOWER:
		return "follower";
	case KDS__V1__RAFT_ROLE__RAFT_ROLE_CANDIDATE:
		return "candidate";
	case KDS__V1__RAFT_ROLE__RAFT_ROLE_UNKNOWN:
	default:
		return "-";
	}
}

#define MEASURES 9 /* columns of the view that need a status */

static const Kds__V1__ViewResponse *view_of(const struct session_reply *reply)
{
	return (const Kds__V1__ViewResponse *)reply->answer;
}

static size_t count_reachable(const Kds__V1__ViewResponse *v)
{
	size_t n = 0;
	for (size_t i = 0; i < v->n_members; i++)
		n += v->members[i]->reachable != 0;
	return n;
}

/* Asks all replicas, as one that is cut off sees less than the others: a view with a quorum is the cluster's, else the
 * one that sees most. NULL: none answered. */
static const struct session_reply *best_view(const struct session_reply *replies, size_t n)
{
	const struct session_reply *best = NULL;
	for (size_t i = 0; i < n; i++) {
		const Kds__V1__ViewResponse *v = view_of(&replies[i]);
		if (!v)
			continue;
		const Kds__V1__ViewResponse *b = best ? view_of(best) : NULL;
		if (!b || v->quorum > b->quorum || (v->quorum == b->quorum && count_reachable(v) > count_reachable(b)))
			best = &replies[i];
	}
	return best;
}

static enum status_code ask_views(struct cli *cli, struct status *st, struct session_reply **ret_replies, size_t *ret_n)
{
	Kds__V1__ViewRequest in = KDS__V1__VIEW_REQUEST__INIT;
	const struct session_request request = {
		.service = &kds__v1__replicas__descriptor,
		.method = "View",
		.input = &in.base,
	};
	return session_ask_all(cli, PEER_SERIAL, &request, st, ret_replies, ret_n);
}

static const Kds__V1__ReplicaStatus *leader_of(const Kds__V1__ViewResponse *v)
{
	for (size_t i = 0; i < v->n_members; i++)
		if (v->members[i]->id == v->leader_id && v->members[i]->reachable)
			return v->members[i]->status;
	return NULL;
}

/* How many entries it is behind what is committed. */
static void add_lag(struct table *t, const Kds__V1__ReplicaStatus *s, const Kds__V1__ReplicaStatus *leader)
{
	if (!leader)
		table_add(t, "-");
	else
		table_add(t, "%" PRIu64,
			  leader->commit_index > s->applied_index ? leader->commit_index - s->applied_index : 0);
}

static void add_clock(struct table *t, const Kds__V1__Member *m)
{
	int64_t ms = m->clock_offset_ms;
	uint64_t size = ms < 0 ? -(uint64_t)ms : (uint64_t)ms;
	if (m->clock_known)
		table_add(t, "%c%" PRIu64 ".%03" PRIu64 " s", ms < 0 ? '-' : '+', size / 1000, size % 1000);
	else
		table_add(t, "-");
}

static void add_disk(struct table *t, const Kds__V1__ReplicaStatus *s)
{
	if (s->total_bytes == 0)
		table_add(t, "-");
	else
		table_add(t, "%.1f GiB (%.0f%%)", (double)s->free_bytes / (1 << 30),
			  100.0 * (double)s->free_bytes / (double)s->total_bytes);
}

static void add_member(struct table *t, const Kds__V1__Member *m, const Kds__V1__ReplicaStatus *leader)
{
	const Kds__V1__ReplicaStatus *s = m->status;
	table_add(t, "%" PRIu64, m->id);
	table_add(t, "%s", *m->name ? m->name : "-");
	table_add(t, "%s", *m->rpc_address ? m->rpc_address : m->address);
	table_add(t, "%s", m->reachable ? "yes" : "NO");
	/* What one that is away said last of its role would show two leaders. */
	table_add(t, "%s%s", s && m->reachable ? role_name(s->role) : "-", m->voter ? "" : " (standby)");
	if (!s) {
		for (int i = 0; i < MEASURES; i++)
			table_add(t, "-");
		return;
	}
	table_add(t, "%" PRIu64, s->term);
	table_add(t, "%" PRIu64, s->applied_index);
	add_lag(t, s, leader);
	table_add(t, "%" PRIu64, s->last_serial);
	table_add(t, "%" PRIu64, s->min_serial);
	table_add(t, "%s", s->version);
	add_clock(t, m);
	add_disk(t, s);
	table_add(t, "%u.%u s", m->age_ms / 1000, m->age_ms % 1000 / 100);
}

/* One sentence: is there a majority, and if not, what that means. */
static void print_quorum(const Kds__V1__ViewResponse *v)
{
	size_t voters = 0, reachable = 0;
	for (size_t i = 0; i < v->n_members; i++) {
		voters += v->members[i]->voter != 0;
		reachable += v->members[i]->voter && v->members[i]->reachable;
	}
	if (v->quorum)
		printf("\nQuorum: yes. Replica %" PRIu64 " leads; %zu of %zu voters are reachable.\n", v->leader_id,
		       reachable, voters);
	else
		printf("\nQuorum: NO. %zu of %zu voters are reachable from replica %" PRIu64
		       "; nothing can be changed or signed until %zu are and agree on a leader.\n",
		       reachable, voters, v->asked_id, voters / 2 + 1);
}

/* What the cluster can lose, in all and beyond what is away already. */
static void print_survival(const Kds__V1__ViewResponse *v)
{
	size_t voters = 0, reachable = 0;
	for (size_t i = 0; i < v->n_members; i++) {
		voters += v->members[i]->voter != 0;
		reachable += v->members[i]->voter && v->members[i]->reachable;
	}
	size_t majority = voters / 2 + 1;
	if (voters == 1)
		printf("It has one voter and survives the loss of none: keep backups, or add replicas.\n");
	else if (voters == 2)
		printf("It has two voters and survives the loss of neither: add a third.\n");
	else if (voters > 2)
		printf("It survives the loss of %zu of %zu voters; %zu more can be lost now.\n", voters - majority, voters,
		       reachable > majority ? reachable - majority : 0);
}

static void print_alarms(const Kds__V1__ViewResponse *v)
{
	if (v->n_alarms > 0)
		printf("\nAlarms:\n");
	for (size_t i = 0; i < v->n_alarms; i++) {
		char line[STATUS_MESSAGE_MAX];
		snprintf(line, sizeof line, "%s", v->alarms[i]->text);
		output_sanitize(line);
		printf("  - %s\n", line);
	}
}

/* Why it did not answer, without the address where that stands beside it. */
static const char *reason_of(const struct session_reply *reply)
{
	const char *message = reply->status.message;
	size_t len = strlen(reply->address);
	return strncmp(message, reply->address, len) == 0 && strncmp(message + len, ": ", 2) == 0 ? message + len + 2
												  : message;
}

static void print_silent(const struct session_reply *replies, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (replies[i].answer)
			continue;
		char line[STATUS_MESSAGE_MAX];
		snprintf(line, sizeof line, "%s", reason_of(&replies[i]));
		output_sanitize(line);
		printf("No answer from %s: %s\n", replies[i].address, line);
	}
}

static enum status_code print_view(const struct session_reply *best, const struct session_reply *replies, size_t n,
				   struct status *st)
{
	static const char *const headings[] = { "REPLICA", "NAME",        "ADDRESS",    "REACHABLE", "ROLE",
						"TERM",    "APPLIED",     "LAG",        "LAST SERIAL", "MIN SERIAL",
						"VERSION", "CLOCK",       "FREE DISK",  "AGE" };
	const Kds__V1__ViewResponse *v = view_of(best);
	struct table *t = table_new(headings, sizeof headings / sizeof *headings);
	if (!t)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	for (size_t i = 0; i < v->n_members; i++)
		add_member(t, v->members[i], leader_of(v));
	printf("Cluster %s as replica %" PRIu64 " at %s sees it:\n\n", v->cluster, v->asked_id, best->address);
	enum status_code rc = table_print(t, st);
	table_free(t);
	if (rc != STATUS_OK)
		return rc;
	print_quorum(v);
	print_survival(v);
	print_silent(replies, n);
	print_alarms(v);
	return STATUS_OK;
}

/* None answered: the first one's reason stands for all, with how many there were. */
static enum status_code none_answered(const struct session_reply *replies, size_t n, struct status *st)
{
	*st = replies[0].status;
	return n == 1 ? st->code : status_prefix(st, "none of %zu replicas answers", n);
}

static enum status_code run_view(struct cli *cli, struct status *st)
{
	struct session_reply *replies;
	size_t n;
	if (ask_views(cli, st, &replies, &n) != STATUS_OK)
		return st->code;
	const struct session_reply *best = best_view(replies, n);
	enum status_code rc;
	if (!best)
		rc = none_answered(replies, n, st);
	else
		rc = cli->json ? output_message(best->answer, st) : print_view(best, replies, n, st);
	session_replies_free(replies, n);
	return rc;
}

/*
 * health
 */
static const char *daemon_name(unsigned role)
{
	return role == PEER_SERIAL ? "kds-serial" : role == PEER_CA ? "kds-ca" : "kds-keydist";
}

static const Kds__V1__CheckResponse *check_of(const struct session_reply *reply)
{
	return (const Kds__V1__CheckResponse *)reply->answer;
}

/* NULL: nothing is wrong. */
static const char *problem_of(const struct session_reply *reply)
{
	const Kds__V1__CheckResponse *c = check_of(reply);
	if (!c)
		return reason_of(reply);
	if (c->serving)
		return NULL;
	return *c->reason ? c->reason : "cannot do its work and does not say why";
}

/* It does its work, and needs an administrator. */
static const char *alarm_of(const struct session_reply *reply)
{
	const Kds__V1__CheckResponse *c = check_of(reply);
	return c && c->n_alarms > 0 ? c->alarms[0] : NULL;
}

static void format_uptime(uint64_t seconds, char *buf, size_t size)
{
	if (seconds >= 86400)
		snprintf(buf, size, "%" PRIu64 "d %" PRIu64 "h", seconds / 86400, seconds % 86400 / 3600);
	else if (seconds >= 3600)
		snprintf(buf, size, "%" PRIu64 "h %" PRIu64 "m", seconds / 3600, seconds % 3600 / 60);
	else
		snprintf(buf, size, "%" PRIu64 "m %" PRIu64 "s", seconds / 60, seconds % 60);
}

struct verdict {
	const Kds__V1__ViewResponse *view; /* NULL: no replica answers */
	char quorum_problem[160];          /* "": there is a quorum */
	bool healthy;
};

/* What a process refused since it started, by reason, in a line. */
static void print_refused(const struct session_reply *reply)
{
	const Kds__V1__CheckResponse *c = check_of(reply);
	if (!c || c->n_refused == 0)
		return;
	char line[1024];
	size_t used = (size_t)snprintf(line, sizeof line, "Refused by %s %.64s:", daemon_name(reply->role), c->name);
	for (size_t i = 0; i < c->n_refused && used < sizeof line; i++)
		used += (size_t)snprintf(line + used, sizeof line - used, " %.64s=%" PRIu64, c->refused[i]->reason,
					 c->refused[i]->count);
	output_sanitize(line);
	printf("%s\n", line);
}

static void print_own_alarms(const struct session_reply *reply)
{
	const Kds__V1__CheckResponse *c = check_of(reply);
	for (size_t i = 0; c && i < c->n_alarms; i++) {
		char line[1024];
		snprintf(line, sizeof line, "Alarm of %s %.64s: %s", daemon_name(reply->role), c->name, c->alarms[i]);
		output_sanitize(line);
		printf("%s\n", line);
	}
}

static enum status_code print_health(const struct session_reply *replies, size_t n, const struct verdict *v,
				     struct status *st)
{
	static const char *const headings[] = { "PROCESS", "NAME",   "ADDRESS",     "OK",
						"VERSION", "UPTIME", "CONNECTIONS", "PROBLEM" };
	struct table *t = table_new(headings, 8);
	if (!t)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	for (size_t i = 0; i < n; i++) {
		const Kds__V1__CheckResponse *c = check_of(&replies[i]);
		const char *problem = problem_of(&replies[i]), *alarm = alarm_of(&replies[i]);
		char uptime[48] = "-";
		if (c)
			format_uptime(c->uptime_s, uptime, sizeof uptime);
		table_add(t, "%s", daemon_name(replies[i].role));
		table_add(t, "%s", c ? c->name : "-");
		table_add(t, "%s", replies[i].address);
		table_add(t, "%s", problem ? "NO" : alarm ? "ALARM" : "yes");
		table_add(t, "%s", c ? c->version : "-");
		table_add(t, "%s", uptime);
		if (c)
			table_add(t, "%u", c->connections);
		else
			table_add(t, "-");
		table_add(t, "%s", problem ? problem : alarm ? "see below" : "-");
	}
	enum status_code rc = table_print(t, st);
	table_free(t);
	if (rc != STATUS_OK)
		return rc;
	printf("\nQuorum: %s%s\n", *v->quorum_problem ? "NO, " : "yes", v->quorum_problem);
	for (size_t i = 0; i < n; i++)
		print_refused(&replies[i]);
	for (size_t i = 0; i < n; i++)
		print_own_alarms(&replies[i]);
	if (v->view)
		print_alarms(v->view);
	return STATUS_OK;
}

/* As they are in the view. */
static enum status_code alarms_json(const Kds__V1__ViewResponse *v, struct status *st, json_t **ret_alarms)
{
	json_t *alarms = json_array();
	enum status_code rc = STATUS_OK;
	for (size_t i = 0; v && i < v->n_alarms && rc == STATUS_OK; i++) {
		json_t *alarm = NULL;
		rc = json_from_message(&v->alarms[i]->base, true, st, &alarm);
		if (rc == STATUS_OK && json_array_append_new(alarms, alarm) < 0)
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	}
	if (rc == STATUS_OK)
		*ret_alarms = alarms;
	else
		json_decref(alarms);
	return rc;
}

static enum status_code health_json(const struct session_reply *replies, size_t n, const struct verdict *v,
				    struct status *st)
{
	json_t *processes = json_array(), *alarms = NULL;
	enum status_code rc = STATUS_OK;
	for (size_t i = 0; i < n && rc == STATUS_OK; i++) {
		json_t *check = NULL;
		if (replies[i].answer)
			rc = json_from_message(replies[i].answer, true, st, &check);
		const char *problem = problem_of(&replies[i]);
		if (rc == STATUS_OK &&
		    json_array_append_new(processes,
					  json_pack("{ss,ss,sb,ss*,so*}", "process", daemon_name(replies[i].role),
						    "address", replies[i].address, "ok", problem == NULL, "problem",
						    problem, "check", check)) < 0)
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	}
	if (rc == STATUS_OK)
		rc = alarms_json(v->view, st, &alarms);
	if (rc != STATUS_OK) {
		json_decref(processes);
		return rc;
	}
	const char *problem = *v->quorum_problem ? v->quorum_problem : NULL;
	return output_json(json_pack("{sb,sb,ss*,so,so}", "healthy", v->healthy, "quorum", problem == NULL, "quorumProblem",
				     problem, "processes", processes, "alarms", alarms),
			   st);
}

/* What is wrong with the quorum, in `problem`; "": nothing. */
static void check_quorum(const Kds__V1__ViewResponse *v, size_t n, char *problem, size_t size)
{
	problem[0] = '\0';
	if (!v)
		snprintf(problem, size, "none of %zu replicas answers", n);
	else if (!v->quorum)
		snprintf(problem, size, "replica %" PRIu64 " reaches %zu of %zu and sees no leader they follow", v->asked_id,
			 count_reachable(v), v->n_members);
}

/* Is it more than an upgrade under way? */
static bool has_faults(const Kds__V1__ViewResponse *v)
{
	for (size_t i = 0; v && i < v->n_alarms; i++)
		if (v->alarms[i]->kind != KDS__V1__ALARM_KIND__ALARM_VERSIONS)
			return true;
	return false;
}

static enum status_code report_health(struct cli *cli, const struct session_reply *replies, size_t n,
				      const struct session_reply *views, size_t n_views, struct status *st)
{
	const struct session_reply *best = best_view(views, n_views);
	struct verdict v = { .view = best ? view_of(best) : NULL };
	check_quorum(v.view, n_views, v.quorum_problem, sizeof v.quorum_problem);
	v.healthy = !*v.quorum_problem && !has_faults(v.view);
	for (size_t i = 0; i < n; i++)
		v.healthy = v.healthy && !problem_of(&replies[i]) && !alarm_of(&replies[i]);
	cli->no = !v.healthy;
	return cli->json ? health_json(replies, n, &v, st) : print_health(replies, n, &v, st);
}

static enum status_code run_health(struct cli *cli, struct status *st)
{
	Kds__V1__CheckRequest in = KDS__V1__CHECK_REQUEST__INIT;
	const struct session_request request = {
		.service = &kds__v1__health__descriptor,
		.method = "Check",
		.input = &in.base,
	};
	struct session_reply *replies, *views;
	size_t n, n_views;
	if (session_ask_all(cli, PEER_SERIAL | PEER_CA | PEER_KEYDIST, &request, st, &replies, &n) != STATUS_OK)
		return st->code;
	enum status_code rc = ask_views(cli, st, &views, &n_views);
	if (rc == STATUS_OK) {
		rc = report_health(cli, replies, n, views, n_views, st);
		session_replies_free(views, n_views);
	}
	session_replies_free(replies, n);
	return rc;
}

static const struct cli_command commands[] = {
	{
	    .verb = "view",
	    .arguments = "",
	    .purpose = "Show the replicas, and whether a majority agrees",
	    .examples = "  kds-cli cluster view\n"
			"  kds-cli --json cluster view\n"
			"\nAll configured replicas are asked; the view of one with a quorum is shown,\n"
			"else of the one that sees most. CLOCK is each replica's clock less that of\n"
			"the one that answers. Alarms stand at the end, each with what to do.",
	    .run = run_view,
	},
	{
	    .verb = "health",
	    .arguments = "",
	    .purpose = "Can every process do its work, and is no alarm raised? Exit status 1: no",
	    .examples = "  kds-cli cluster health\n"
			"  kds-cli cluster health --timeout 1 > /dev/null || echo 'look at the cluster'\n",
	    .run = run_health,
	},
	{
	    .verb = "members",
	    .arguments = "",
	    .purpose = "List the replicas: ids, roles, addresses, and what is being changed",
	    .examples = "  kds-cli cluster members\n",
	    .run = members_run_list,
	},
	{
	    .verb = "add",
	    .arguments = "NAME --address HOST[:PORT]",
	    .purpose = "Add a replica: first a standby; once it has everything it votes",
	    .examples = "  kds-cli cluster add serial4 --address d.example.com --out serial4\n"
			"  kds-cli cluster add serial4 --address 192.0.2.4:7400 --standby\n"
			"\nIt gets an id that no replica had before. When seven replicas vote\n"
			"already, it stays a standby. The command waits, and says how far it is,\n"
			"while the new host is set up.\n",
	    .options = members_add_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = members_run_add,
	},
	{
	    .verb = "remove",
	    .arguments = "NAME",
	    .purpose = "Remove a replica for good; refused where it would cost the quorum",
	    .examples = "  kds-cli cluster remove serial2\n",
	    .options = members_wait_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = members_run_remove,
	},
	{
	    .verb = "promote",
	    .arguments = "NAME",
	    .purpose = "Give a standby a vote; it must be reachable and have everything",
	    .examples = "  kds-cli cluster promote serial4\n",
	    .options = members_wait_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = members_run_promote,
	},
	{
	    .verb = "demote",
	    .arguments = "NAME",
	    .purpose = "Make a voter a standby; refused where it would cost the quorum",
	    .examples = "  kds-cli cluster demote serial2\n",
	    .options = members_wait_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = members_run_demote,
	},
	{
	    .verb = "transfer",
	    .arguments = "[NAME]",
	    .purpose = "Hand the leadership to a replica, or to the one that has most",
	    .examples = "  kds-cli cluster transfer\n"
			"  kds-cli cluster transfer serial2\n",
	    .max_args = 1,
	    .run = members_run_transfer,
	},
};

const struct cli_noun cli_cluster = {
	.name = "cluster",
	.purpose = "The replicas and the health of every process",
	.commands = commands,
	.n_commands = sizeof commands / sizeof commands[0],
};
