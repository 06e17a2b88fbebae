/*
 * What every daemon's main() does around its own work: signals, listener, trust, Health, reload, orderly stop.
 */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include "common/daemon/options.h"
#include "common/net/listener.h"
#include "common/rpc/server.h"

struct daemon;

/*
 * Loads credentials and trust as the options say, logs what it runs with. With --check-config all of that is done and
 * nothing else. FAILED_PRECONDITION and INVALID_ARGUMENT say which file or option and what to do. Blocks.
 * `options` is borrowed and must outlive the daemon. Blocks SIGTERM, SIGINT and SIGHUP for all threads made later.
 */
enum status_code daemon_new(const struct daemon_options *options, struct status *st,
			    struct daemon **ret_daemon) MUST_CHECK;
/* After daemon_run(), or where it was never reached. NULL is allowed. */
void daemon_free(struct daemon *d);

struct rpc_server *daemon_server(struct daemon *d);
struct trust *daemon_trust(struct daemon *d);
struct tls_credentials *daemon_credentials(struct daemon *d); /* borrowed until the next reload: take a reference */
const struct daemon_options *daemon_options_of(struct daemon *d);

/* Health.Check asks this: false with a reason while the daemon cannot do its work. Any thread. NULL: always ready. */
typedef bool (*daemon_ready_fn)(void *arg, char *reason, size_t size);
void daemon_set_ready(struct daemon *d, daemon_ready_fn ready, void *arg);

/* Health.Check asks this too: what needs an administrator although the daemon serves, one daemon_alarm() each; some at
 * most, further ones are left out. Any thread. */
struct daemon_alarms;
typedef void (*daemon_alarms_fn)(void *arg, struct daemon_alarms *alarms);
void daemon_set_alarms(struct daemon *d, daemon_alarms_fn alarms, void *arg);
void daemon_alarm(struct daemon_alarms *alarms, const char *format, ...) PRINTF_LIKE(2, 3);

/* Called after SIGHUP has replaced the credentials: give them to channels and further listeners. */
typedef void (*daemon_reload_fn)(void *arg, struct tls_credentials *credentials);
void daemon_set_reload(struct daemon *d, daemon_reload_fn reload, void *arg);

/* Called once when the daemon was told to stop, while it still serves: hand on what others should do from now on. May
 * block for a second or two. Before daemon_run(). */
void daemon_set_hand_over(struct daemon *d, void (*hand_over)(void *arg), void *arg);

/* The trust changed: closes connections that no longer pass. Any thread. */
void daemon_trust_changed(struct daemon *d);

/* Peers with none of these roles (identity.h) are refused in the handshake; without this call anyone with a certificate
 * gets as far as the method tables. Before daemon_listen(). */
void daemon_set_allow(struct daemon *d, unsigned roles);

/* Registers Health, opens the RPC port. After the daemon's own services were added to daemon_server(). */
enum status_code daemon_listen(struct daemon *d, struct status *st) MUST_CHECK;
/* The bound address ("127.0.0.1:7400"), which tells the port when `listen` leaves it to the system. Lives until
 * daemon_run() closes the port; NULL before and after. */
const char *daemon_address(struct daemon *d);

/*
 * Waits for SIGTERM or SIGINT, or daemon_stop(). Then hands over, answers the calls at hand (for 2 s at most) and refuses
 * others (UNAVAILABLE), closes the RPC port and returns. Blocks. Meanwhile SIGHUP reloads, connections whose certificate
 * expires are closed, memory that a burst leaves behind goes back to the system, and what was refused (tally.h) is logged, one
 * line in ten seconds.
 */
void daemon_run(struct daemon *d);
/* Instead of it with --check-config, when all was well: says so, where there would be nothing but silence. */
void daemon_checked(const struct daemon_options *o);
/* Makes daemon_run() return, also where it is still to begin: sends this process SIGTERM. Any thread. */
void daemon_stop(struct daemon *d);

/* Logs `st`, prints "program: message" on standard error when the log would not; the exit status of a failed start:
 * 2 for INVALID_ARGUMENT, 1 otherwise. */
int daemon_start_failed(const struct daemon_options *o, const struct status *st);

#endif
