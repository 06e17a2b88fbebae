/* The Health service that every daemon serves (proto/health.proto). */
#ifndef DAEMON_HEALTH_H
#define DAEMON_HEALTH_H

#include "common/daemon/daemon.h"

struct health;

/* Both strings are borrowed: "kds-ca", "ca1". */
enum status_code health_new(const char *service, const char *name, struct status *st,
			    struct health **ret_health) MUST_CHECK;
void health_free(struct health *h);

/* Before the server's first listener starts. */
enum status_code health_serve(struct health *h, struct rpc_server *server, struct status *st) MUST_CHECK;

/* As daemon_set_ready(). */
void health_set_ready(struct health *h, daemon_ready_fn ready, void *arg);
/* As daemon_set_alarms(). */
void health_set_alarms(struct health *h, daemon_alarms_fn alarms, void *arg);
/* When the certificate ends, in seconds of Unix time: Check raises an alarm a week before. */
void health_set_not_after(struct health *h, int64_t not_after);
/* Whose connections Check counts. NULL: none any more; when it returns, nobody uses the former one. */
void health_set_listener(struct health *h, struct listener *listener);

#endif
