/*
 * Passes calls on to the leader's RPC port, on behalf of their caller: same request id, one try within what is left of
 * the deadline, at most 3 s (who called tries again). A call that was passed on to us is not passed on again, so none
 * can go round in circles.
 */
#ifndef SERIAL_FORWARD_H
#define SERIAL_FORWARD_H

#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "services/serial/engine.h"

struct forward;

/* All borrowed but the credentials, of which a reference is taken. Does not connect yet. */
enum status_code forward_new(struct engine *engine, struct tls_credentials *credentials, struct trust *trust,
			     struct status *st, struct forward **ret_forward) MUST_CHECK;
/* Answers what is under way with UNAVAILABLE. When no new calls can come. NULL is allowed. */
void forward_free(struct forward *f);
void forward_set_credentials(struct forward *f, struct tls_credentials *credentials);

/* Answers `call` with the leader's answer, or UNAVAILABLE. `payload` is copied. Any thread, never blocks. */
void forward_call(struct forward *f, struct rpc_call *call, const char *method, struct slice payload);

#endif
