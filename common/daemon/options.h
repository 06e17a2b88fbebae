/*
 * A daemon's command line and configuration file, read the same way by all three.
 *
 *   kds-ca --config FILE [--check-config] [--log-level LEVEL] [--help] [--version]
 *
 * The file is libconfuse's: `name = value`, strings quoted, lists in braces, `section title { ... }`. Each daemon names its
 * own options behind the common ones. Relative paths are relative to the file. An unknown option, a wrong type or a missing
 * required one is an error that names file, line and option.
 *
 * Common options:
 *   cluster, kds-name, cluster-id, name     strings, as `kds-cli init` wrote them; name is the one in the role URI
 *   listen                                  "host:port" of the RPC port
 *   certificate, key, ca                    PEM files: this service's chain and key, the infrastructure CA
 *   serial-addresses                        list of "host:port": the replicas' RPC ports (kds-ca and kds-keydist)
 *   tls-min                                 "1.2" (default) or "1.3"
 *   max-connections (10000), max-connections-per-node (512), max-connections-per-service (2048; each administrator, too),
 *   max-unauthenticated (1024), max-unauthenticated-per-address (256)
 *                                           who gets a connection to the RPC port (common/net/admission.h)
 *   buffer-memory                           MiB that the buffers of all connections may take (256; common/net/budget.h)
 *   idle-timeout                            seconds, 600; 0: none
 *   log-level
 */
#ifndef DAEMON_OPTIONS_H
#define DAEMON_OPTIONS_H

#include <argp.h>
#include <confuse.h>
#include <stdbool.h>

#include "common/base/log.h"
#include "common/net/listener.h"

struct daemon_options {
	const char *program;  /* "kds-ca" */
	char *config_file;
	bool check_only;
	/* common options; strings are the struct's own */
	char *cluster, *kds_name, *cluster_id, *name;
	char *listen;
	char *certificate, *key, *ca;
	char **serial_addresses;
	size_t n_serial_addresses;
	enum tls_minimum tls_minimum;
	struct slot_limits slots;
	unsigned buffer_mib, idle_s;
	size_t max_frame;     /* as the program says */
	enum log_level log_level;
	cfg_t *cfg;           /* the whole file, for the daemon's own options; freed with the options */
};

/* A daemon's part of the contract above. */
struct daemon_program {
	const char *name;          /* "kds-ca" */
	const char *purpose;       /* one line for --help */
	const cfg_opt_t *own;      /* its own options, ended by CFG_END(); NULL: none */
	unsigned default_port;     /* for `listen` without a port */
	size_t max_frame;          /* bytes of the largest request that its port takes; 0: 1 MiB */
	bool needs_serial;         /* serial-addresses must be there */
	/* Arguments of its own on the command line, and what their parser fills; NULL: none. */
	const struct argp *arguments;
	void *arguments_input;
};

/*
 * Parses argv and the file, then starts the log ("kds-ca/ca1"). --help and --version print and exit 0, as argp does;
 * usage errors exit 2. A wrong file: INVALID_ARGUMENT, with file and line. Blocks. The caller frees with
 * daemon_options_free().
 */
enum status_code daemon_options_parse(const struct daemon_program *program, int argc, char **argv, struct status *st,
				      struct daemon_options *ret_options) MUST_CHECK;
void daemon_options_free(struct daemon_options *o);

/* A number of the daemon's own (CFG_INT) with its bounds. INVALID_ARGUMENT names file, option and bounds. */
enum status_code daemon_options_number(const struct daemon_options *o, const char *option, unsigned min, unsigned max,
				       struct status *st, unsigned *ret) MUST_CHECK;
/* A path option of the daemon's own, made absolute. The caller frees. NULL: unset, or no memory. */
char *daemon_options_path(const struct daemon_options *o, const char *option) MUST_CHECK;

#endif
