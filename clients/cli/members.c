#include "clients/cli/members.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clients/cli/infra.h"
#include "clients/cli/init.h"
#include "clients/cli/objects.h"
#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "serial.pb-c.h"

#define WAIT_DEFAULT_S 600
#define WAIT_MAX_S 86400
#define ASK_EVERY_MS 250

static enum status_code ask(struct cli *cli, const char *method, const ProtobufCMessage *input, struct status *st,
			    ProtobufCMessage **ret_answer)
{
	const struct session_request request = {
		.role = PEER_SERIAL,
		.service = &kds__v1__replicas__descriptor,
		.method = method,
		.input = input,
	};
	return session_call(cli, &request, st, ret_answer);
}

static enum status_code ask_members(struct cli *cli, struct status *st, Kds__V1__MembersResponse **ret_members)
{
	Kds__V1__MembersRequest in = KDS__V1__MEMBERS_REQUEST__INIT;
	ProtobufCMessage *answer = NULL;
	if (ask(cli, "Members", &in.base, st, &answer) != STATUS_OK)
		return st->code;
	*ret_members = (Kds__V1__MembersResponse *)answer;
	return STATUS_OK;
}

static const Kds__V1__MemberState *find(const Kds__V1__MembersResponse *members, uint64_t id)
{
	for (size_t i = 0; i < members->n_members; i++)
		if (members->members[i]->replica->id == id)
			return members->members[i];
	return NULL;
}

/*
 * members
 */
static const char *role_of(const Kds__V1__MemberState *m)
{
	if (!m->member)
		return "-";
	return m->votes ? "voter" : "standby";
}

static const char *wanted_of(const Kds__V1__MemberState *m)
{
	if (m->replica->removed)
		return "removed";
	return m->replica->voter ? "voter" : "standby";
}

enum status_code members_run_list(struct cli *cli, struct status *st)
{
	static const char *const headings[] = { "ID",  "NAME",      "ROLE", "LEADS",       "PEER ADDRESS",
						"LAG", "REACHABLE", "NEXT", "IT WAITS FOR" };
	Kds__V1__MembersResponse *members = NULL;
	if (ask_members(cli, st, &members) != STATUS_OK)
		return st->code;
	struct table *t = cli->json ? NULL : table_new(headings, sizeof headings / sizeof *headings);
	enum status_code rc = STATUS_OK;
	if (cli->json)
		rc = output_message(&members->base, st);
	else if (!t)
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	for (size_t i = 0; t && i < members->n_members; i++) {
		const Kds__V1__MemberState *m = members->members[i];
		bool settled = strcmp(role_of(m), wanted_of(m)) == 0;
		table_add(t, "%" PRIu64, m->replica->id);
		table_add(t, "%s", m->replica->name);
		table_add(t, "%s", role_of(m));
		table_add(t, "%s", m->leader ? "yes" : "-");
		table_add(t, "%s", *m->replica->address ? m->replica->address : "-");
		table_add(t, "%" PRIu64, m->member ? m->lag : 0);
		table_add(t, "%s", m->reachable ? "yes" : "NO");
		table_add(t, "%s", settled ? "-" : wanted_of(m));
		table_add(t, "%s", settled ? "-" : m->waits_for);
	}
	if (t)
		rc = table_print(t, st);
	table_free(t);
	kds__v1__members_response__free_unpacked(members, NULL);
	return rc;
}

/*
 * Waiting until the membership is what was asked for
 */
static void pause_ms(unsigned ms)
{
	const struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };
	nanosleep(&t, NULL);
}

/* Says it once, not each time that it is asked. */
static void report(const struct cli *cli, const char *name, const Kds__V1__MemberState *m, char last[STATUS_MESSAGE_MAX])
{
	char line[STATUS_MESSAGE_MAX];
	if (!m)
		snprintf(line, sizeof line, "%s is no member any more", name);
	else if (*m->waits_for)
		snprintf(line, sizeof line, "%s is %s, to be %s; waits for: %s", name,
			 m->member ? role_of(m) : "not a member yet", wanted_of(m), m->waits_for);
	else
		snprintf(line, sizeof line, "%s is a %s", name, role_of(m));
	output_sanitize(line);
	if (strcmp(line, last) != 0)
		cli_notice(cli, "%s", line);
	snprintf(last, STATUS_MESSAGE_MAX, "%s", line);
}

/* A leader that changes meanwhile, as when it is removed itself, is asked again. */
static enum status_code wait_for(struct cli *cli, const Kds__V1__Replica *r, struct status *st)
{
	uint64_t seconds = 0;
	char last[STATUS_MESSAGE_MAX] = "";
	if (cli_number(cli, OPT_WAIT, 0, WAIT_MAX_S, WAIT_DEFAULT_S, st, &seconds) != STATUS_OK)
		return st->code;
	uint64_t end = clock_monotonic_ms() + seconds * 1000;
	while (seconds > 0) {
		Kds__V1__MembersResponse *members = NULL;
		enum status_code rc = ask_members(cli, st, &members);
		if (rc != STATUS_OK && rc != STATUS_UNAVAILABLE && rc != STATUS_DEADLINE_EXCEEDED)
			return rc;
		bool done = false;
		if (rc == STATUS_OK) {
			const Kds__V1__MemberState *m = find(members, r->id);
			report(cli, r->name, m, last);
			done = m ? !*m->waits_for && strcmp(role_of(m), wanted_of(m)) == 0 : r->removed;
			kds__v1__members_response__free_unpacked(members, NULL);
		}
		if (done)
			return STATUS_OK;
		if (clock_monotonic_ms() >= end)
			return status_set(st, STATUS_DEADLINE_EXCEEDED,
					  "%.60s is not yet what was asked for; the cluster goes on by itself: see "
					  "kds-cli cluster members",
					  r->name);
		pause_ms(ASK_EVERY_MS);
	}
	return STATUS_OK;
}

static enum status_code finish(struct cli *cli, ProtobufCMessage *answer, struct status *st)
{
	const Kds__V1__Replica *r = (const Kds__V1__Replica *)answer;
	enum status_code rc = wait_for(cli, r, st);
	if (rc == STATUS_OK && cli->json)
		rc = output_message(answer, st);
	protobuf_c_message_free_unpacked(answer, NULL);
	return rc;
}

/*
 * add
 */
struct addition {
	struct init_plan plan;
	struct init_service service;
	char address[HOST_TEXT_SIZE], peer_address[HOST_TEXT_SIZE];
	struct pki_authority *authority; /* --out */
	bool made;                       /* that directory */
};

/* All that can fail is tried before the cluster is changed. */
static enum status_code prepare(struct cli *cli, struct addition *a, struct status *st)
{
	const char *address = cli_value(cli, OPT_ADDRESS), *peer = cli_value(cli, OPT_PEER_ADDRESS);
	const char *out = cli_value(cli, OPT_OUT);
	struct host peer_host;
	if (!address)
		return status_set(st, STATUS_INVALID_ARGUMENT, "give --address; see kds-cli cluster add --help");
	if (session_open(cli, st) != STATUS_OK || init_plan_listen(cli, &a->plan, st) != STATUS_OK ||
	    host_parse(address, strlen(address), 7400, "--address", st, &a->service.host) != STATUS_OK)
		return st->code;
	host_format(&a->service.host, a->service.host.port, a->address);
	host_format(&a->service.host, a->service.host.port + 1, a->peer_address);
	if (peer) {
		if (host_parse(peer, strlen(peer), 7401, "--peer-address", st, &peer_host) != STATUS_OK)
			return st->code;
		host_format(&peer_host, peer_host.port, a->peer_address);
	}
	a->service.kind = INIT_SERIAL;
	snprintf(a->service.name, sizeof a->service.name, "%s", cli->args[0]);
	a->plan.root = out;
	enum status_code rc = infra_plan(cli, &a->plan, st);
	if (rc != STATUS_OK || !out)
		return rc;
	if (mkdir(out, 0700) < 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "make the directory %.200s: %s", out, strerror(errno));
	a->made = true;
	return infra_authority(cli, st, &a->authority);
}

/* The configuration file's text. The caller frees. */
static char *compose(const struct addition *a, const Kds__V1__MembersResponse *members)
{
	struct init_neighbour replicas[64];
	size_t n = 0, len = 0;
	char *text = NULL;
	FILE *f = open_memstream(&text, &len);
	if (!f)
		return NULL;
	for (size_t i = 0; i < members->n_members && n < 63; i++) {
		const Kds__V1__Replica *r = members->members[i]->replica;
		if (!r->removed && *r->address && r->id != a->service.id)
			replicas[n++] = (struct init_neighbour){ r->id, r->name, r->address };
	}
	replicas[n++] = (struct init_neighbour){ a->service.id, a->service.name, a->peer_address };
	init_put_joining(f, &a->plan, &a->service, replicas, n);
	if (fclose(f) == 0)
		return text;
	free(text);
	return NULL;
}

static enum status_code write_directory(const struct addition *a, const char *text, struct status *st)
{
	char path[PATH_MAX];
	enum status_code rc = init_path(&a->plan, ".", "kds-serial.conf", st, path, sizeof path);
	if (rc == STATUS_OK)
		rc = file_write(path, (struct slice){ (const uint8_t *)text, strlen(text) }, 0644, false, st);
	if (rc == STATUS_OK)
		rc = init_path(&a->plan, ".", "data", st, path, sizeof path);
	if (rc == STATUS_OK && mkdir(path, 0700) < 0)
		rc = status_set(st, STATUS_FAILED_PRECONDITION, "make %s: %s", path, strerror(errno));
	return rc == STATUS_OK ? init_issue(&a->plan, a->authority, &a->service, ".", st) : rc;
}

/* What the new host needs. */
static enum status_code hand_out(struct cli *cli, const struct addition *a, struct status *st)
{
	Kds__V1__MembersResponse *members = NULL;
	if (ask_members(cli, st, &members) != STATUS_OK)
		return st->code;
	char *text = compose(a, members);
	kds__v1__members_response__free_unpacked(members, NULL);
	enum status_code rc = STATUS_OK;
	if (!text)
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "write the configuration: out of memory");
	else if (a->authority)
		rc = write_directory(a, text, st);
	else if (!cli->json)
		printf("%s", text);
	free(text);
	if (rc != STATUS_OK)
		return rc;
	const char *name = a->service.name;
	cli_notice(cli, "%s has the id %u", name, a->service.id);
	if (a->authority)
		cli_notice(cli, "bring the folder %s to its host and start: kds-serial --config kds-serial.conf", a->plan.root);
	else
		cli_notice(cli,
			   "on its host: %s as kds-serial.conf, an empty directory data, infra-ca.crt, and what this "
			   "makes:\n  kds-cli service issue serial %s %s --key service.key --out service.crt\n"
			   "then start: kds-serial --config kds-serial.conf",
			   cli->json ? "what cluster add prints without --json" : "the text above", name, a->service.host.name);
	return STATUS_OK;
}

enum status_code members_run_add(struct cli *cli, struct status *st)
{
	struct addition a = { 0 };
	Kds__V1__AddReplicaRequest in = KDS__V1__ADD_REPLICA_REQUEST__INIT;
	ProtobufCMessage *answer = NULL;
	enum status_code rc = prepare(cli, &a, st);
	if (rc == STATUS_OK) {
		in.name = a.service.name;
		in.address = a.peer_address;
		in.rpc_address = a.address;
		in.standby = cli_has(cli, OPT_STANDBY);
		rc = ask(cli, "Add", &in.base, st, &answer);
	}
	if (rc == STATUS_OK) {
		a.service.id = (unsigned)((const Kds__V1__Replica *)answer)->id;
		rc = hand_out(cli, &a, st);
		if (rc != STATUS_OK)
			rc = status_prefix(st,
					   "%.60s was added, but what its host needs was not made (kds-cli cluster remove "
					   "%.60s, then try again)",
					   a.service.name, a.service.name);
	} else if (a.made) {
		(void)rmdir(a.plan.root); /* or the next try would find it there */
	}
	pki_authority_free(a.authority);
	if (rc == STATUS_OK)
		return finish(cli, answer, st);
	if (answer)
		protobuf_c_message_free_unpacked(answer, NULL);
	return rc;
}

/*
 * remove, promote, demote, transfer
 */
enum status_code members_run_remove(struct cli *cli, struct status *st)
{
	Kds__V1__RemoveReplicaRequest in = KDS__V1__REMOVE_REPLICA_REQUEST__INIT;
	ProtobufCMessage *answer = NULL;
	in.name = (char *)(uintptr_t)cli->args[0]; /* only read */
	if (ask(cli, "Remove", &in.base, st, &answer) != STATUS_OK)
		return st->code;
	return finish(cli, answer, st);
}

static enum status_code set_voter(struct cli *cli, bool voter, struct status *st)
{
	Kds__V1__SetVoterRequest in = KDS__V1__SET_VOTER_REQUEST__INIT;
	ProtobufCMessage *answer = NULL;
	in.name = (char *)(uintptr_t)cli->args[0]; /* only read */
	in.voter = voter;
	if (ask(cli, "SetVoter", &in.base, st, &answer) != STATUS_OK)
		return st->code;
	return finish(cli, answer, st);
}

enum status_code members_run_promote(struct cli *cli, struct status *st)
{
	return set_voter(cli, true, st);
}

enum status_code members_run_demote(struct cli *cli, struct status *st)
{
	return set_voter(cli, false, st);
}

enum status_code members_run_transfer(struct cli *cli, struct status *st)
{
	Kds__V1__TransferRequest in = KDS__V1__TRANSFER_REQUEST__INIT;
	ProtobufCMessage *answer = NULL;
	if (cli->n_args > 0)
		in.name = (char *)(uintptr_t)cli->args[0]; /* only read */
	if (ask(cli, "Transfer", &in.base, st, &answer) != STATUS_OK)
		return st->code;
	enum status_code rc = STATUS_OK;
	if (cli->json)
		rc = output_message(answer, st);
	else
		cli_notice(cli, "replica %" PRIu64 " leads now", ((const Kds__V1__TransferResponse *)answer)->id);
	protobuf_c_message_free_unpacked(answer, NULL);
	return rc;
}

const struct argp_option members_add_options[] = {
	{ "address", OPT_ADDRESS, "HOST[:PORT]", 0,
	  "Where it will serve (port 7400), with the port behind it for the other replicas", 0 },
	{ "peer-address", OPT_PEER_ADDRESS, "HOST:PORT", 0, "Where the other replicas reach it, if not there", 0 },
	{ "listen", OPT_LISTEN, "ADDRESS", 0, INIT_LISTEN_HELP, 0 },
	{ "standby", OPT_STANDBY, NULL, 0, "Let it replicate without a vote", 0 },
	{ "out", OPT_OUT, "DIR", 0,
	  "Make this directory with all that its host needs: configuration, key, certificate; needs the infrastructure "
	  "CA's key",
	  0 },
	{ "ca-key", OPT_CA_KEY, "FILE", 0, "The infrastructure CA's key; default: infra-ca.key beside its certificate", 0 },
	{ "passphrase-file", OPT_PASSPHRASE_FILE, "FILE", 0,
	  "Its passphrase, the first line of FILE (-: ask); default: the file passphrase beside it", 0 },
	{ "wait", OPT_WAIT, "SECONDS", 0, "Wait so long until it is a voter (600; 0: not at all)", 0 },
	{ 0 },
};

const struct argp_option members_wait_options[] = {
	{ "wait", OPT_WAIT, "SECONDS", 0, "Wait so long for it (600; 0: not at all)", 0 },
	{ 0 },
};
