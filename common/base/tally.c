#include "common/base/tally.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>

static const char *const names[TALLY_COUNT] = {
	[TALLY_HANDSHAKE_TIMEOUT] = "handshake-timeout",
	[TALLY_HANDSHAKE_FAILED] = "handshake-failed",
	[TALLY_CERTIFICATE_REFUSED] = "certificate-refused",
	[TALLY_UNAUTHENTICATED_DROPPED] = "unauthenticated-dropped",
	[TALLY_CONNECTIONS_FULL] = "connections-full",
	[TALLY_CONNECTIONS_ADDRESS] = "connections-address",
	[TALLY_CONNECTIONS_IDENTITY] = "connections-identity",
	[TALLY_MEMORY_FULL] = "memory-full",
	[TALLY_FRAME_TOO_LARGE] = "frame-too-large",
	[TALLY_FRAME_SLOW] = "frame-slow",
	[TALLY_NOT_READING] = "not-reading",
	[TALLY_IDLE] = "idle",
	[TALLY_REQUEST_MALFORMED] = "request-malformed",
	[TALLY_REQUEST_FORBIDDEN] = "request-forbidden",
	[TALLY_REQUEST_RATE] = "request-rate",
	[TALLY_REQUESTS_FULL] = "requests-full",
	[TALLY_REQUESTS_IDENTITY] = "requests-identity",
	[TALLY_WAITING_IDENTITY] = "waiting-identity",
	[TALLY_REQUEST_MEMORY] = "request-memory",
	[TALLY_REQUEST_EXPIRED] = "request-expired",
};

static atomic_uint_fast64_t sums[TALLY_COUNT];
static uint64_t reported[TALLY_COUNT]; /* the reporter's */

void tally_add(enum tally which)
{
	atomic_fetch_add_explicit(&sums[which], 1, memory_order_relaxed);
}

uint64_t tally_sum(enum tally which)
{
	return atomic_load_explicit(&sums[which], memory_order_relaxed);
}

const char *tally_name(enum tally which)
{
	return names[which];
}

bool tally_report(char *buf, size_t size)
{
	size_t used = 0;
	for (unsigned i = 0; i < TALLY_COUNT; i++) {
		uint64_t sum = tally_sum((enum tally)i), more = sum - reported[i];
		reported[i] = sum;
		if (more == 0 || used >= size)
			continue;
		int n = snprintf(buf + used, size - used, "%s%s=%" PRIu64, used ? " " : "", names[i], more);
		used += n > 0 ? (size_t)n : 0;
	}
	return used > 0;
}
