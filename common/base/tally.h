/*
 * What this process refused, shed or cut off, counted by reason: Health.Check tells the sums, the log one line a period.
 *
 * Who attacks decides how often something is refused, so a line for each would fill the disk, and writing it would hold
 * up whoever writes. Counting is one atomic addition: under any lock, on any thread, as often as it happens. The one
 * table of reasons is in tally.c; counts are the process's and only go up.
 */
#ifndef BASE_TALLY_H
#define BASE_TALLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tally {
	/* Connections, before their certificate was verified. */
	TALLY_HANDSHAKE_TIMEOUT,       /* no TLS and SP handshake in time */
	TALLY_HANDSHAKE_FAILED,        /* no TLS, or no SP */
	TALLY_CERTIFICATE_REFUSED,     /* does not verify, below min_serial, without the role */
	TALLY_UNAUTHENTICATED_DROPPED, /* the oldest such connection made room for a new one */
	/* Connections, limits. */
	TALLY_CONNECTIONS_FULL,        /* as many as the process takes */
	TALLY_CONNECTIONS_ADDRESS,     /* of one host */
	TALLY_CONNECTIONS_IDENTITY,    /* of one identity */
	TALLY_MEMORY_FULL,             /* the buffers of all connections */
	TALLY_FRAME_TOO_LARGE,
	TALLY_FRAME_SLOW,              /* begun and not finished in time */
	TALLY_NOT_READING,             /* the peer does not read its answers */
	TALLY_IDLE,
	/* Requests. */
	TALLY_REQUEST_MALFORMED,
	TALLY_REQUEST_FORBIDDEN,       /* the caller may not call that method */
	TALLY_REQUEST_RATE,            /* one identity's rate of one method */
	TALLY_REQUESTS_FULL,           /* as many as the process answers at once */
	TALLY_REQUESTS_IDENTITY,       /* of one identity */
	TALLY_WAITING_IDENTITY,        /* long polls of one identity, or of its role */
	TALLY_REQUEST_MEMORY,
	TALLY_REQUEST_EXPIRED,         /* its deadline passed, or the caller left */
	TALLY_COUNT,
};

void tally_add(enum tally which);
uint64_t tally_sum(enum tally which);
/* "handshake-timeout": stable, for people and programs. Static storage. */
const char *tally_name(enum tally which);

/* Writes what was added since the last report as "handshake-timeout=3 idle=1" and begins anew; false: nothing was. One
 * caller. */
bool tally_report(char *buf, size_t size);

#endif
