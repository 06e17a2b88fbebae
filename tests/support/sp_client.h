/*
 * A blocking client for the wire format (docs/protocol.md), step by step, on sockets and GnuTLS alone: none of common/, so that
 * a test can stop at any point, do what no honest client does, and does not lean on the code it tests.
 */
#ifndef TESTS_SP_CLIENT_H
#define TESTS_SP_CLIENT_H

#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct sp_client {
	int fd;
	gnutls_session_t session; /* NULL before the handshake */
	uint32_t next_id;
};

/* Trusts `ca_file`; presents nothing when `certificate_file` is NULL. Failure ends the program. */
gnutls_certificate_credentials_t sp_credentials(const char *ca_file, const char *certificate_file, const char *key_file);

/* TCP alone: from the loopback address `from` (NULL: any) to "host:port". Every later step gives up after 20 s. */
bool sp_connect(struct sp_client *c, const char *from, const char *address);
/* True also when a TLS 1.3 server is about to refuse: the client's side ends first. */
bool sp_handshake(struct sp_client *c, gnutls_certificate_credentials_t credentials);
/* Its two halves, for who sets something in the session between them. `priority` is GnuTLS's; NULL: the library's own. */
bool sp_tls_begin(struct sp_client *c, gnutls_certificate_credentials_t credentials, const char *priority);
bool sp_tls_finish(struct sp_client *c);
/* Sends REQ's hello and checks that REP's comes back. */
bool sp_hello(struct sp_client *c);
/* The same for any pair of SP's protocols: 0x50 (PUSH) to 0x51 (PULL) between replicas. */
bool sp_hello_as(struct sp_client *c, uint8_t ours, uint8_t theirs);
/* All three. */
bool sp_open(struct sp_client *c, const char *from, const char *address, gnutls_certificate_credentials_t credentials);

/* Bytes inside TLS, or in clear before the handshake. */
bool sp_write(struct sp_client *c, const void *data, size_t len);
bool sp_read(struct sp_client *c, void *data, size_t len);

/* One request, its payload in and out; false: no answer, or not this request's. */
bool sp_request(struct sp_client *c, const void *payload, size_t len, uint8_t *answer, size_t size, size_t *ret_len);
/* Only the request's frame. */
bool sp_send(struct sp_client *c, const void *payload, size_t len);

/* Waits at most 20 s for the server to be the one that closes; what it sends until then is dropped. */
bool sp_wait_closed(struct sp_client *c);

/* Ends the connection; `reset`: with RST instead of FIN. */
void sp_close(struct sp_client *c, bool reset);

#endif
