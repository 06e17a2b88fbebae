/* kds-serial's own options, read and checked. */
#ifndef SERIAL_CONFIG_H
#define SERIAL_CONFIG_H

#include "common/daemon/options.h"
#include "services/serial/engine.h"

/*
 *  - id: this replica's number, as in its `replica` section
 *  - peer-listen: "host:port" for the other replicas; without: the address of its `replica` section
 *  - rpc-address: "host:port" under which the others reach `listen`; without: `listen`, which must then name a host
 *  - data-dir: directory of the database
 *  - election-timeout: ms without a leader's word before an election (1000)
 *  - heartbeat: ms between a leader's words (100)
 *  - log-tail: applied entries that stay in the log, for replicas that come back soon (8192)
 *  - restore: a file that `kds-cli backup restore` prepared: an empty data-dir begins with it
 *  - replica NAME { id = N  address = "host:port" }: each replica that began the cluster, the same in every file
 *  - join: this replica was added later (`kds-cli cluster add`): it takes everything from the others, and its `replica`
 *    sections only say where it finds them
 */
extern const cfg_opt_t serial_options[];

#define SERIAL_PEER_PORT 7401
#define LOG_TAIL_MIN 256
#define LOG_TAIL_MAX 1000000
#define SERIAL_FIRST_REPLICAS_MAX 7
#define SERIAL_REPLICAS_MAX 32 /* to join */

struct serial_config {
	uint64_t id;
	bool join;
	char *peer_listen, *rpc_address, *data_dir;
	char *restore; /* NULL: none */
	unsigned election_ms, heartbeat_ms, log_tail;
	struct engine_member members[SERIAL_REPLICAS_MAX]; /* by id; strings are the config's own */
	size_t n_members;
};

/* INVALID_ARGUMENT: names file and option and says what to do. The caller frees with serial_config_fini(). */
enum status_code serial_config_read(const struct daemon_options *o, struct status *st,
				    struct serial_config *ret_config) MUST_CHECK;
void serial_config_fini(struct serial_config *c);

#endif
