/*
 * The envelope of every RPC (proto/rpc.proto), read in place and written without the generated code: it is on the way
 * of each call, and neither side needs a copy of it.
 */
#ifndef RPC_ENVELOPE_H
#define RPC_ENVELOPE_H

#include "common/base/buffer.h"
#include "common/net/identity.h"

/* SP's own header before the envelope: the request id with bit 31 set, behind what devices on the way put there. */
#define SP_ID_BIT UINT32_C(0x80000000)
#define SP_MAX_WORDS 8

/*
 * The length in bytes of the header that `frame` begins with. 0: over SP_MAX_WORDS hops, to be dropped as NNG does;
 * SIZE_MAX: no id in it at all, the peer does not speak the protocol.
 */
size_t sp_header_length(struct slice frame);
uint32_t sp_id(const uint8_t bytes[static 4]);
void sp_put_id(uint8_t out[static 4], uint32_t id);

#define REQUEST_ID_MAX 32
#define TRACE_ID_MAX 64
#define METHOD_MAX 64
#define CALLER_MAX 640 /* a packed Caller */
/*
 * So much of a frame is kept for all but the payload, of requests and answers alike: SP's header, the envelope's other
 * fields, and whom a replica passes the request on for. The largest payload is then the same on every way: straight to
 * the leader or through another replica, for a client near by or behind devices.
 */
#define ENVELOPE_ROOM 1024

/* All borrowed from the frame. */
struct request_envelope {
	struct slice method;
	struct slice payload;
	struct slice request_id;
	struct slice trace_id;
	struct slice on_behalf_of; /* a packed Caller */
	bool forwarded;            /* on_behalf_of is there */
	uint32_t timeout_ms;
};

/* INVALID_ARGUMENT: malformed, a field twice, too long or not text. */
enum status_code request_parse(struct slice wire, struct status *st, struct request_envelope *ret_request) MUST_CHECK;

/* INVALID_ARGUMENT with the limit: what both sides say of a payload over frame size less ENVELOPE_ROOM. */
enum status_code request_too_large(const char *method, size_t bytes, size_t most, struct status *st);

/* Appends all but the timeout, which differs from try to try. False: no memory. */
bool request_pack(const struct request_envelope *request, struct buffer *out) MUST_CHECK;
/* The timeout, to stand anywhere behind that; the length. */
#define REQUEST_TIMEOUT_MAX 6
size_t request_pack_timeout(uint32_t timeout_ms, uint8_t out[static REQUEST_TIMEOUT_MAX]);

/* A Caller of the identity. False: no memory, or over CALLER_MAX, as no certificate of ours is. */
bool caller_pack(const struct identity *id, struct buffer *out) MUST_CHECK;
/*
 * The identity that a replica forwards for; the caller owns the reference. INVALID_ARGUMENT: malformed.
 * PERMISSION_DENIED: it claims what no connection can have (PEER_SELF, unknown bits).
 */
enum status_code caller_parse(struct slice wire, struct status *st, struct identity **ret_identity) MUST_CHECK;

/* All borrowed from the frame, or from whoever packs it. */
struct response_envelope {
	enum status_code code;
	struct slice message;
	struct slice field;   /* of the first detail that names one, as the next two */
	struct slice ask;
	uint32_t retry_after_ms;
	struct slice payload;
};

enum status_code response_parse(struct slice wire, struct status *st,
				struct response_envelope *ret_response) MUST_CHECK;

/*
 * All but the payload's own bytes, which follow it: out is the frame's second part, the payload its third. The message
 * is cut to fit. Returns the length.
 */
#define RESPONSE_HEAD_MAX 1024
size_t response_pack_head(const struct response_envelope *response, uint8_t out[static RESPONSE_HEAD_MAX]);

#endif
