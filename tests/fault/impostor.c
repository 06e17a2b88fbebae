/*
 * links: test_support
 *
 * A server that presents certificates with a key that costs (support/huge_key.h) to everybody who dials it.
 *
 *   impostor CA CHAIN VERSION ADDRESS...
 *
 * CHAIN: 0 to 2, as the header numbers them. VERSION: 1.2 or 1.3. Prints "ready", then a line for each handshake in which the
 * client has got the signature, which is garbage. Until it is ended.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/huge_key.h"

#define ADDRESSES_MAX 8

static gnutls_certificate_credentials_t credentials;
static const char *priority;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "impostor: %s\n", what);
	exit(1);
}

static int listen_on(const char *text)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	char host[64];
	const int one = 1;
	const char *colon = strrchr(text, ':');
	if (!colon || (size_t)(colon - text) >= sizeof host)
		die("an address is host:port");
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = '\0';
	address.sin_port = htons((uint16_t)atoi(colon + 1));
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || inet_pton(AF_INET, host, &address.sin_addr) != 1 ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 64) != 0)
		die("cannot listen");
	return fd;
}

/* One handshake, in a thread of its own: the client may compute for long. */
static void *serve(void *arg)
{
	int fd = (int)(intptr_t)arg, rv;
	gnutls_session_t session;
	unsigned long before = huge_key_signed();
	if (gnutls_init(&session, GNUTLS_SERVER | GNUTLS_NO_SIGNAL) < 0 ||
	    gnutls_priority_set_direct(session, priority, NULL) < 0 ||
	    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials) < 0)
		die("no session");
	gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUEST);
	gnutls_transport_set_int(session, fd);
	gnutls_handshake_set_timeout(session, 60000);
	do
		rv = gnutls_handshake(session);
	while (rv < 0 && !gnutls_error_is_fatal(rv));
	if (huge_key_signed() > before)
		printf("signed, then: %s\n", gnutls_strerror(rv));
	fflush(stdout);
	gnutls_deinit(session);
	close(fd);
	return NULL;
}

static void accept_one(int listener)
{
	pthread_t thread;
	int fd = accept(listener, NULL, NULL);
	if (fd < 0)
		return;
	if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) != 0)
		die("no thread");
	pthread_detach(thread);
}

int main(int argc, char **argv)
{
	struct pollfd listeners[ADDRESSES_MAX];
	if (argc < 5 || argc - 4 > ADDRESSES_MAX) {
		fprintf(stderr, "usage: impostor CA CHAIN VERSION ADDRESS...\n");
		return 2;
	}
	const nfds_t n = (nfds_t)(argc - 4);
	credentials = huge_key_credentials(argv[1], (enum huge_key_chain)(atoi(argv[2]) % HUGE_CHAINS));
	priority = strcmp(argv[3], "1.2") == 0 ? "NORMAL:-VERS-ALL:+VERS-TLS1.2" : "NORMAL:-VERS-ALL:+VERS-TLS1.3";
	for (nfds_t i = 0; i < n; i++)
		listeners[i] = (struct pollfd){ .fd = listen_on(argv[4 + i]), .events = POLLIN };
	puts("ready");
	fflush(stdout);
	for (;;) {
		if (poll(listeners, n, -1) < 0)
			die("poll failed");
		for (nfds_t i = 0; i < n; i++)
			if (listeners[i].revents)
				accept_one(listeners[i].fd);
	}
}
