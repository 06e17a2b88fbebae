/*
 * What NNG has no call for: the time after which the system gives up a connection on which it cannot get rid of what was
 * written, because the peer's host is gone (else a quarter of an hour) or because the peer does not read (else never, as
 * long as its host answers). TCP_USER_TIMEOUT (tcp(7)) covers both, and accepted sockets inherit it.
 */
#ifndef NET_USER_TIMEOUT_H
#define NET_USER_TIMEOUT_H

#include <stdbool.h>

/*
 * Sets it on the listening socket of this process that is bound to `address` ("127.0.0.1:7400", as address_format() writes
 * it), which is found among the open descriptors. Before the first connection is accepted. False: there is none, or no /proc.
 */
bool user_timeout_set(const char *address, unsigned ms);

#endif
