/*
 * "host:port" and "[v6]:port", as users write them, to what NNG takes; and back from a socket's address.
 * Pure functions.
 */
#ifndef NET_ADDRESS_H
#define NET_ADDRESS_H

#include <nng/nng.h>
#include <stdbool.h>

#include "common/base/status.h"

#define ADDRESS_URL_MAX 300
#define ADDRESS_TEXT_MAX 64 /* "[v6]:port" */

/*
 * "tcp://host:port". To dial it takes a host and a port of 1 to 65535; to listen the host may be empty or "*" and the
 * port 0. INVALID_ARGUMENT.
 */
enum status_code address_to_url(const char *address, bool listening, struct status *st,
				char ret_url[ADDRESS_URL_MAX]) MUST_CHECK;

/* "127.0.0.1:4711"; "unknown" for what is neither IPv4 nor IPv6. */
void address_format(const nng_sockaddr *address, char ret_text[ADDRESS_TEXT_MAX]);

/* The 16 bytes by which connections of one host are counted (IPv4 as mapped, RFC 4291 §2.5.5.2). */
void address_host(const nng_sockaddr *address, uint8_t ret_host[16]);

#endif
