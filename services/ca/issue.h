/*
 * The issuing pipeline. A request goes through
 *   the node's configuration -> a worker (checks the CSR, takes a serial, builds and signs) -> the recorder (Serial.Record,
 *   many certificates a call, several calls under way) -> its answer, once a quorum holds the record.
 * Nothing signed leaves in another way. Without a quorum the answer is UNAVAILABLE before the caller's deadline, and the
 * serial is lost. In every queue on the way those who asked take turns by identity (common/base/turns.h).
 *
 * What was true when a request came may not be any more when its certificate is there, so it is looked at again:
 *  - The record says who asked, with which certificate: the state machine refuses it for one who has fallen below
 *    min_serial, or whose node is gone, in the same order for all. Before the certificate leaves, the caller and the serial
 *    are held against what this process knows by then.
 *  - The commit of the record tells the newest revision of the configuration as well: when the node was changed since it
 *    was looked up, the certificate is thrown away and made again. So none leaves that the configuration did not allow.
 *  - A record that is refused for its serial costs another serial and signature, a few times.
 *
 * One request id, one certificate: a record refused as repeated is of an earlier try, whose answer was lost. The
 * certificate is made again from that record's serial and times, and is the same or does not leave (ABORTED).
 */
#ifndef CA_ISSUE_H
#define CA_ISSUE_H

#include "common/net/trust.h"
#include "services/ca/keeper.h"
#include "services/ca/nodes.h"
#include "services/ca/profiles.h"
#include "services/ca/serials.h"

struct issuing;

struct issuing_options {
	struct keeper *keeper;       /* all of these must outlive it */
	struct nodes *nodes;
	struct serials *serials;
	struct rpc_channel *channel; /* to kds-serial */
	struct trust *trust;         /* who calls, and min_serial */
	const char *kds_name;        /* copied */
	const struct settings *settings; /* lifetimes: those in force when a certificate is made */
	unsigned workers;            /* 0: one a core */
};

enum status_code issuing_start(const struct issuing_options *options, struct status *st,
			       struct issuing **ret_issuing) MUST_CHECK;
/* Refuses what is new, waits for the answers of what is under way (a second or two without a quorum), frees. */
void issuing_stop(struct issuing *p);

struct issue_result {
	struct status status;
	const char *field;   /* INVALID_ARGUMENT: which of SignRequest; "" otherwise */
	/* On OK: */
	const char *certificate; /* PEM, its chain behind it; borrowed until done() returns */
	uint64_t serial;
	int64_t not_before, not_after;
};

/* All borrowed until done(). */
struct issue_request {
	struct slice csr;
	const char *node;        /* its name */
	Kds__V1__Profile profile;
	uint32_t lifetime_s;     /* 0: the default */
	const struct identity *caller;
	struct slice request_id; /* of the caller's; may be empty */
	uint64_t deadline_ms;    /* monotonic */
	/* Nobody waits any more: asked before each costly step. Any thread. */
	bool (*expired)(void *arg);
	/* Once, on any thread, perhaps from within issuing_submit(). */
	void (*done)(void *arg, const struct issue_result *result);
	void *arg;
};

/* Never blocks. The struct itself is copied. */
void issuing_submit(struct issuing *p, const struct issue_request *request);

/* Could the newest certificate be recorded? Why not otherwise. Any thread. */
enum status_code issuing_health(struct issuing *p, struct status *st) MUST_CHECK;

#endif
