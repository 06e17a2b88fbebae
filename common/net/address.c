#include "common/net/address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOST_MAX 253 /* RFC 1035 §2.3.4, without the root's dot */
#define HOST_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
#define V6_CHARACTERS "abcdefABCDEF0123456789:."

/* Where the host ends, at the colon before the port. NULL: it is no host. */
static const char *end_of_host(const char *address, bool listening)
{
	if (address[0] == '[') {
		size_t len = strspn(address + 1, V6_CHARACTERS);
		const char *end = address + 1 + len;
		return len > 0 && end[0] == ']' && end[1] == ':' ? end + 1 : NULL;
	}
	size_t len = listening && address[0] == '*' ? 1 : strspn(address, HOST_CHARACTERS);
	if (len > HOST_MAX || (len == 0 && !listening))
		return NULL;
	return address[len] == ':' ? address + len : NULL;
}

static bool is_port(const char *text, bool listening)
{
	size_t len = strspn(text, "0123456789");
	if (len == 0 || len > 5 || text[len] != '\0')
		return false;
	long port = strtol(text, NULL, 10);
	return port <= 65535 && (port > 0 || listening);
}

enum status_code address_to_url(const char *address, bool listening, struct status *st, char ret_url[ADDRESS_URL_MAX])
{
	const char *colon = end_of_host(address, listening);
	if (!colon || !is_port(colon + 1, listening))
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "address '%.80s': write it as \"host:port\", IPv6 as \"[::1]:port\"", address);
	snprintf(ret_url, ADDRESS_URL_MAX, "tcp://%s", address);
	return STATUS_OK;
}

void address_format(const nng_sockaddr *address, char ret_text[ADDRESS_TEXT_MAX])
{
	char host[INET6_ADDRSTRLEN];
	if (address->s_family == NNG_AF_INET && inet_ntop(AF_INET, &address->s_in.sa_addr, host, sizeof host))
		snprintf(ret_text, ADDRESS_TEXT_MAX, "%s:%u", host, ntohs(address->s_in.sa_port));
	else if (address->s_family == NNG_AF_INET6 && inet_ntop(AF_INET6, address->s_in6.sa_addr, host, sizeof host))
		snprintf(ret_text, ADDRESS_TEXT_MAX, "[%s]:%u", host, ntohs(address->s_in6.sa_port));
	else
		snprintf(ret_text, ADDRESS_TEXT_MAX, "unknown");
}

void address_host(const nng_sockaddr *address, uint8_t ret_host[16])
{
	memset(ret_host, 0, 16);
	if (address->s_family == NNG_AF_INET6) {
		memcpy(ret_host, address->s_in6.sa_addr, 16);
	} else if (address->s_family == NNG_AF_INET) {
		memset(ret_host + 10, 0xff, 2);
		memcpy(ret_host + 12, &address->s_in.sa_addr, 4);
	}
}
