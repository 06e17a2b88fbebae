/*
 * What follows the state on this replica, on a thread of its own: the trust (cluster CAs, min_serial, removed services)
 * at once, and a mirror in plain text for people and scripts, at most once a second:
 *   DIR/ca/serial    "last_serial N", "min_serial N", "highest_issued N", a line each
 *   DIR/ca/cert.pem  the cluster's CA certificates
 */
#ifndef SERIAL_PUBLISH_H
#define SERIAL_PUBLISH_H

#include "common/daemon/daemon.h"
#include "services/serial/engine.h"

struct publish;

enum status_code publish_new(struct status *st, struct publish **ret_publish) MUST_CHECK;
/*
 * The first time before it returns, so that no peer is judged by less than what this replica knows; blocks. `engine`,
 * `daemon` and `data_dir` must outlive publish_stop().
 */
enum status_code publish_start(struct publish *p, struct engine *engine, struct daemon *daemon, const char *data_dir,
			       struct status *st) MUST_CHECK;
/* Writes the mirror a last time. */
void publish_stop(struct publish *p);
void publish_free(struct publish *p);

/* The state has reached `revision`. Any thread, also before publish_start(); never blocks. */
void publish_changed(struct publish *p, uint64_t revision);

#endif
