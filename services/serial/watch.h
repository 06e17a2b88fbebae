/*
 * Config.Watch: long polls, answered when something they ask for changes, or with nothing shortly before their
 * deadline.
 *
 * One thread keeps those who wait. When the revision moves it reads the state once for all who asked the same (on the
 * engine's thread), and answers from its own: thousands of watchers cost a commit no more than a few.
 */
#ifndef SERIAL_WATCH_H
#define SERIAL_WATCH_H

#include "common/rpc/server.h"
#include "services/serial/engine.h"

struct watch;

enum status_code watch_new(struct status *st, struct watch **ret_watch) MUST_CHECK;
/* `engine` must outlive watch_stop(). */
enum status_code watch_start(struct watch *w, struct engine *engine, struct status *st) MUST_CHECK;
/* Answers those who wait with UNAVAILABLE. When no new calls can come. */
void watch_stop(struct watch *w);
void watch_free(struct watch *w);

/* The state has reached `revision`. Any thread, also before watch_start(); never blocks. */
void watch_changed(struct watch *w, uint64_t revision);
/* The highest that watch_changed() was told. */
uint64_t watch_revision(struct watch *w);

/* Takes the call over. `in` lives until its answer; sealed: state.h. Any thread. */
void watch_call(struct watch *w, struct rpc_call *call, const Kds__V1__WatchRequest *in, unsigned sealed);

#endif
