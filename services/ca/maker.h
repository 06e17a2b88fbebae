/*
 * Makes a cluster's CA where an administrator asks for it (Ca.Create). Nothing else does.
 *
 * A serial -> a draft (key, certificate; the key sealed at once) -> its record -> "ca/<name>": each step once a quorum has
 * the one before. A step whose answer is lost is asked for again as the same: with the same request id, the same draft. So
 * one request makes one CA or none, and a request id that made one gets that one again. One request at a time, on a
 * thread of its own, as its calls to kds-serial are waited for.
 */
#ifndef CA_MAKER_H
#define CA_MAKER_H

#include "common/net/trust.h"
#include "common/rpc/channel.h"
#include "common/x509/seal.h"
#include "services/ca/serials.h"

struct maker;

struct maker_result {
	struct status status;
	const char *field;          /* INVALID_ARGUMENT: which of CreateAuthorityRequest; "" otherwise */
	struct slice certificate;   /* DER, on OK; borrowed until done() returns */
};

/* All borrowed until done(). */
struct maker_request {
	const char *name, *common_name;
	const struct identity *caller;
	struct slice request_id;    /* of the caller's; may be empty */
	uint64_t deadline_ms;       /* monotonic */
	/* Once, on the maker's thread or from within maker_submit(). ALREADY_EXISTS: there is one of this name. */
	void (*done)(void *arg, const struct maker_result *result);
	void *arg;
};

/* `channel` (to kds-serial), `serials`, `seal` and `trust` must outlive it. */
enum status_code maker_start(struct rpc_channel *channel, struct serials *serials, const struct seal *seal,
			     struct trust *trust, struct status *st, struct maker **ret_maker) MUST_CHECK;
/* Refuses what is new, ends what is under way with its next step, a few seconds at most. NULL is allowed. */
void maker_stop(struct maker *m);

/* Never blocks. The struct itself is copied. */
void maker_submit(struct maker *m, const struct maker_request *request);

#endif
