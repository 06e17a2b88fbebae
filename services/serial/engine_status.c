#include "services/serial/engine_internal.h"

#include <inttypes.h>
#include <sys/statvfs.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/rpc/message.h"

static void send_standing(struct engine *e, uint64_t id)
{
	Kds__V1__Standing standing;
	members_standing(e->members, id, &standing);
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_STANDING;
	m.standing = &standing;
	struct buffer packed = { 0 };
	struct status st;
	if (message_pack(&m.base, &packed, &st) == STATUS_OK)
		(void)peers_send(e->peers, id, (struct slice){ packed.data, packed.len });
	buffer_free(&packed);
}

static void send_status(struct engine *e)
{
	Kds__V1__PeerMessage m = KDS__V1__PEER_MESSAGE__INIT;
	m.message_case = KDS__V1__PEER_MESSAGE__MESSAGE_STATUS;
	m.status = &e->status;
	e->scratch.len = 0;
	if (!buffer_reserve(&e->scratch, kds__v1__peer_message__get_packed_size(&m)))
		return;
	e->scratch.len = kds__v1__peer_message__pack(&m, e->scratch.data);
	size_t n;
	const uint64_t *ids = members_ids(e->members, &n);
	for (size_t i = 0; i < n; i++) {
		if (ids[i] == e->status.id)
			continue;
		(void)peers_send(e->peers, ids[i], (struct slice){ e->scratch.data, e->scratch.len });
		send_standing(e, ids[i]);
	}
}

uint64_t engine_gone_leader(struct engine *e)
{
	uint64_t leader = e->leader_id;
	return leader != 0 && leader != e->status.id && peers_gone(e->peers, leader) ? leader : 0;
}

/* Has the leader been lost, and is it on us to replace it? After replica_status(). */
static void watch_leader(struct engine *e, uint64_t gone, uint64_t now)
{
	struct failover_voter others[FAILOVER_VOTERS_MAX];
	raft_id ids[FAILOVER_VOTERS_MAX];
	size_t n_ids = replica_voters(e->replica, ids, FAILOVER_VOTERS_MAX);
	e->leader_id = e->status.leader_id;
	struct failover_facts facts = {
		.now_ms = now,
		.term = e->status.term,
		.leader = e->leader_id,
		.gone = gone != 0 && gone == e->leader_id,
		.last_term = e->status.last_term,
		.last_index = e->status.last_index,
		.others = others,
	};
	for (size_t i = 0; i < n_ids; i++) {
		if (ids[i] == e->status.id)
			facts.votes = true;
		else
			others[facts.n_others++] = view_report(e->view, ids[i]);
	}
	view_leader_facts(e->view, facts.leader, facts.term, &facts.heard_ms, &facts.resigned);
	struct failover_advice advice = failover_advise(&e->failover, &facts);
	if (advice.lost_term != 0 && advice.lost_term != e->status.lost_term)
		log_info("lost the leader term=%" PRIu64 " leader=%" PRIu64 " because=%s", advice.lost_term, facts.leader,
			 facts.gone ? "gone" : facts.resigned ? "resigned" : "silent");
	e->status.lost_term = advice.lost_term;
	e->failover_due_ms = advice.due_ms;
	if (advice.stand && members_take_part(e->members)) {
		replica_stand(e->replica);
		replica_finish(e->replica);
		replica_status(e->replica, &e->status);
		e->leader_id = e->status.leader_id;
	}
}

static void level_raised(void *arg, const struct state_result *result)
{
	struct engine *e = arg;
	e->raising = false;
	if (result->status.code != STATUS_OK)
		log_debug("the level of commands was not raised: %s", result->status.message);
}

/* Once every replica has a version that knows more, the cluster uses it (level.h). */
static void raise_level(struct engine *e)
{
	unsigned known = view_level_known(e->view);
	if (!replica_leads(e->replica) || e->raising || e->status.level == 0 || known <= e->status.level)
		return;
	log_info("every replica knows commands of level %u: they are in use from now on", known);
	Kds__V1__RaiseLevel raise = KDS__V1__RAISE_LEVEL__INIT;
	raise.level = known;
	Kds__V1__Command command = KDS__V1__COMMAND__INIT;
	command.requester = (char *)"kds-serial"; /* packing only reads */
	command.op_case = KDS__V1__COMMAND__OP_RAISE_LEVEL;
	command.raise_level = &raise;
	e->raising = true;
	engine_propose(e, &command, level_raised, e);
}

/* Of the file system that the database is on. */
static void measure_disk(struct engine *e)
{
	struct statvfs fs;
	if (statvfs(e->data_dir, &fs) != 0)
		return;
	e->status.free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	e->status.total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
}

void engine_publish_status(struct engine *e, uint64_t gone, bool changed, uint64_t now)
{
	if (now >= e->status_due_ms)
		measure_disk(e);
	Kds__V1__RaftRole role = e->status.role;
	uint64_t term = e->status.term, leader = e->status.leader_id, lost = e->status.lost_term;
	replica_status(e->replica, &e->status);
	bool new_leader = e->status.leader_id != e->leader_id || e->status.term != term;
	if (atomic_exchange(&e->reported, false) || gone || new_leader || e->failover.lost_term != 0 ||
	    now >= e->failover_due_ms)
		watch_leader(e, gone, now);
	if (e->status.lost_term != 0)
		e->status.leader_id = 0;
	e->status.time_ms = clock_unix_ms();
	e->status.scanned_ms = integrity_scanned_ms(e->integrity);
	if (changed || e->status.revision == 0) { /* 0: just started */
		Kds__V1__SerialStatus serials;
		state_serial_status(e->state, &serials);
		e->status.last_serial = serials.last_serial;
		e->status.min_serial = serials.min_serial;
		e->status.revision = serials.revision;
		e->status.level = state_level(e->state);
		atomic_store(&e->level, e->status.level);
		peers_set_level(e->peers, e->status.level);
	}
	atomic_store(&e->fresh_ms, replica_fresh_ms(e->replica));
	view_publish(e->view, &e->status);
	bool news = role != e->status.role || term != e->status.term || leader != e->status.leader_id ||
		    lost != e->status.lost_term;
	if (news && e->leader_changed)
		e->leader_changed(e->arg);
	if (!atomic_exchange(&e->announce, false) && !news && now < e->status_due_ms)
		return;
	e->status_due_ms = now + e->status_every_ms;
	send_status(e);
	raise_level(e);
}
