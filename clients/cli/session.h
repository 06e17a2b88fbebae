/*
 * The cluster as the command sees it: cli.conf, the identity it acts with, channels to the daemons. Everything is made
 * when first used, so that commands without a server need none of it.
 */
#ifndef CLI_SESSION_H
#define CLI_SESSION_H

#include <protobuf-c/protobuf-c.h>

#include "clients/cli/cli.h"
#include "common/net/identity.h"
#include "common/net/trust.h"

/* Reads the configuration into cli->session, once. Blocks on the file. */
enum status_code session_open(struct cli *cli, struct status *st) MUST_CHECK;
/* NULL is allowed. */
void session_close(struct session *s);

/* Of the open session. Borrowed. */
const char *session_cluster(const struct session *s);
const char *session_kds_name(const struct session *s);
const char *session_ca_file(const struct session *s);
/* Configured "host:port" addresses of the daemons with this role (PEER_SERIAL, PEER_CA, PEER_KEYDIST). */
char *const *session_addresses(const struct session *s, unsigned role, size_t *ret_n);

struct session_request {
	unsigned role;       /* which daemons serve it */
	const char *address; /* ask this process alone, once; NULL: the configured ones, until one answers */
	const ProtobufCServiceDescriptor *service;
	const char *method; /* "Show" */
	const ProtobufCMessage *input;
	unsigned timeout_ms; /* 0: as configured or given */
	bool secret;         /* request or answer holds a secret */
	bool long_poll;      /* the answer may take the whole timeout */
};

/* Opens the session, asks, waits. The caller frees the answer: protobuf_c_message_free_unpacked(ret_answer, NULL). */
enum status_code session_call(struct cli *cli, const struct session_request *request, struct status *st,
			      ProtobufCMessage **ret_answer) MUST_CHECK;

/* A channel to one process alone, for several calls; the caller frees it with rpc_channel_free(). */
struct rpc_channel;
enum status_code session_dial(struct cli *cli, unsigned role, const char *address, struct status *st,
			      struct rpc_channel **ret_channel) MUST_CHECK;

/* One process and what it said. */
struct session_reply {
	unsigned role;
	const char *address; /* borrowed from the session */
	struct status status;
	ProtobufCMessage *answer; /* NULL on failure */
};
/*
 * Asks every configured process of `roles` the same thing at once (request->role, address and timeout do not count),
 * each at most three seconds long unless --timeout was given. The caller frees with session_replies_free().
 */
enum status_code session_ask_all(struct cli *cli, unsigned roles, const struct session_request *request,
				 struct status *st, struct session_reply **ret_replies, size_t *ret_n) MUST_CHECK;
void session_replies_free(struct session_reply *replies, size_t n);

#endif
