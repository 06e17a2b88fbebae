#include "common/net/user_timeout.h"

#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/net/address.h"

/* As address_format() has it, for a socket that listens. */
static bool listens_on(int fd, const char *address)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} bound;
	socklen_t size = sizeof bound;
	int listens = 0;
	socklen_t flag_size = sizeof listens;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &flag_size) != 0 || !listens ||
	    getsockname(fd, &bound.any, &size) != 0)
		return false;
	nng_sockaddr a = { .s_family = NNG_AF_UNSPEC };
	if (bound.any.sa_family == AF_INET) {
		a.s_in.sa_family = NNG_AF_INET;
		a.s_in.sa_port = bound.v4.sin_port;
		memcpy(&a.s_in.sa_addr, &bound.v4.sin_addr, sizeof a.s_in.sa_addr);
	} else if (bound.any.sa_family == AF_INET6) {
		a.s_in6.sa_family = NNG_AF_INET6;
		a.s_in6.sa_port = bound.v6.sin6_port;
		memcpy(a.s_in6.sa_addr, &bound.v6.sin6_addr, sizeof a.s_in6.sa_addr);
	}
	char text[ADDRESS_TEXT_MAX];
	address_format(&a, text);
	return strcmp(text, address) == 0;
}

bool user_timeout_set(const char *address, unsigned ms)
{
	DIR *open = opendir("/proc/self/fd");
	bool set = false;
	if (!open)
		return false;
	for (const struct dirent *e = readdir(open); e && !set; e = readdir(open)) {
		int fd = atoi(e->d_name); /* "." and "..": 0, which is looked at anyway */
		set = listens_on(fd, address) && setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms) == 0;
	}
	closedir(open);
	return set;
}
