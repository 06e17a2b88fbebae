/* "host", "host:port", "v6", "[v6]:port": where a daemon is. Pure functions. */
#ifndef CLI_HOST_H
#define CLI_HOST_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/status.h"

struct host {
	char name[254]; /* DNS name or address in text, without brackets */
	bool numeric;   /* an address */
	unsigned port;
};

#define HOST_TEXT_SIZE 264

/* INVALID_ARGUMENT says what is wrong, naming `what` ("--replicas"). */
enum status_code host_parse(const char *text, size_t len, unsigned default_port, const char *what, struct status *st,
			    struct host *ret_host) MUST_CHECK;

/* A list with commas between, at most `max`; sets *ret_n. INVALID_ARGUMENT also for none and for too many. */
enum status_code host_parse_list(const char *text, unsigned default_port, const char *what, size_t max,
				 struct status *st, struct host *ret_hosts, size_t *ret_n) MUST_CHECK;

/* "name:port" or "[v6]:port" with `port` instead of its own. Returns buf. */
const char *host_format(const struct host *h, unsigned port, char buf[HOST_TEXT_SIZE]);

#endif
