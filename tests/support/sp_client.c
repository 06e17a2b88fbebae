#include "tests/support/sp_client.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_S 20

gnutls_certificate_credentials_t sp_credentials(const char *ca_file, const char *certificate_file, const char *key_file)
{
	gnutls_certificate_credentials_t credentials;
	int rv = gnutls_certificate_allocate_credentials(&credentials);
	if (rv >= 0)
		rv = gnutls_certificate_set_x509_trust_file(credentials, ca_file, GNUTLS_X509_FMT_PEM);
	if (rv >= 0 && certificate_file)
		rv = gnutls_certificate_set_x509_key_file(credentials, certificate_file, key_file, GNUTLS_X509_FMT_PEM);
	if (rv < 0) {
		fprintf(stderr, "load %s, %s: %s\n", ca_file, certificate_file ? certificate_file : "-", gnutls_strerror(rv));
		exit(2);
	}
	return credentials;
}

static bool parse_address(const char *text, struct sockaddr_in *ret_address)
{
	char host[64];
	const char *colon = strrchr(text, ':');
	if (!colon || (size_t)(colon - text) >= sizeof host)
		return false;
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = '\0';
	*ret_address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1)) };
	return inet_pton(AF_INET, host, &ret_address->sin_addr) == 1;
}

bool sp_connect(struct sp_client *c, const char *from, const char *address)
{
	struct sockaddr_in to, source = { .sin_family = AF_INET };
	const struct timeval patience = { .tv_sec = PATIENCE_S };
	const int one = 1;
	*c = (struct sp_client){ .fd = -1 };
	if (!parse_address(address, &to))
		return false;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return false;
	if (setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0 ||
	    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) != 0 ||
	    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0 ||
	    (from && (inet_pton(AF_INET, from, &source.sin_addr) != 1 ||
		      bind(c->fd, (struct sockaddr *)&source, sizeof source) != 0)) ||
	    connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0) {
		sp_close(c, true);
		return false;
	}
	return true;
}

bool sp_tls_begin(struct sp_client *c, gnutls_certificate_credentials_t credentials, const char *priority)
{
	int rv = gnutls_init(&c->session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL);
	if (rv < 0)
		return false;
	rv = priority ? gnutls_priority_set_direct(c->session, priority, NULL) : gnutls_set_default_priority(c->session);
	if (rv >= 0)
		rv = gnutls_credentials_set(c->session, GNUTLS_CRD_CERTIFICATE, credentials);
	if (rv < 0)
		return false;
	gnutls_session_set_verify_cert(c->session, NULL, 0);
	gnutls_transport_set_int(c->session, c->fd);
	gnutls_handshake_set_timeout(c->session, PATIENCE_S * 1000);
	return true;
}

bool sp_tls_finish(struct sp_client *c)
{
	/* GNUTLS_E_AGAIN comes also where a part of a message has come, and the rest is there or will be. */
	const time_t until = time(NULL) + PATIENCE_S;
	int rv;
	do
		rv = gnutls_handshake(c->session);
	while (rv < 0 && !gnutls_error_is_fatal(rv) && time(NULL) <= until);
	return rv == 0;
}

bool sp_handshake(struct sp_client *c, gnutls_certificate_credentials_t credentials)
{
	return sp_tls_begin(c, credentials, NULL) && sp_tls_finish(c);
}

bool sp_write(struct sp_client *c, const void *data, size_t len)
{
	const uint8_t *bytes = data;
	while (len > 0) {
		ssize_t n = c->session ? gnutls_record_send(c->session, bytes, len) : send(c->fd, bytes, len, MSG_NOSIGNAL);
		if (n == GNUTLS_E_INTERRUPTED && c->session)
			continue;
		if (n <= 0)
			return false;
		bytes += n;
		len -= (size_t)n;
	}
	return true;
}

bool sp_read(struct sp_client *c, void *data, size_t len)
{
	uint8_t *bytes = data;
	while (len > 0) {
		ssize_t n = c->session ? gnutls_record_recv(c->session, bytes, len) : recv(c->fd, bytes, len, 0);
		if (n == GNUTLS_E_INTERRUPTED && c->session)
			continue;
		if (n <= 0)
			return false;
		bytes += n;
		len -= (size_t)n;
	}
	return true;
}

bool sp_hello_as(struct sp_client *c, uint8_t ours, uint8_t theirs)
{
	const uint8_t we[8] = { 0, 'S', 'P', 0, 0, ours, 0, 0 }, they[8] = { 0, 'S', 'P', 0, 0, theirs, 0, 0 };
	uint8_t hello[8];
	return sp_write(c, we, sizeof we) && sp_read(c, hello, sizeof hello) && memcmp(hello, they, sizeof hello) == 0;
}

bool sp_hello(struct sp_client *c)
{
	return sp_hello_as(c, 0x30, 0x31);
}

bool sp_open(struct sp_client *c, const char *from, const char *address, gnutls_certificate_credentials_t credentials)
{
	if (!sp_connect(c, from, address))
		return false;
	if (sp_handshake(c, credentials) && sp_hello(c))
		return true;
	sp_close(c, true);
	return false;
}

bool sp_send(struct sp_client *c, const void *payload, size_t len)
{
	uint8_t head[12];
	uint64_t length = htobe64(len + 4);
	uint32_t id = htobe32(++c->next_id | 0x80000000u);
	memcpy(head, &length, 8);
	memcpy(head + 8, &id, 4);
	return sp_write(c, head, sizeof head) && sp_write(c, payload, len);
}

bool sp_request(struct sp_client *c, const void *payload, size_t len, uint8_t *answer, size_t size, size_t *ret_len)
{
	uint8_t head[12];
	uint64_t length;
	uint32_t id;
	if (!sp_send(c, payload, len) || !sp_read(c, head, sizeof head))
		return false;
	memcpy(&length, head, 8);
	memcpy(&id, head + 8, 4);
	length = be64toh(length);
	if (be32toh(id) != (c->next_id | 0x80000000u) || length < 4 || length - 4 > size)
		return false;
	if (!sp_read(c, answer, length - 4))
		return false;
	*ret_len = length - 4;
	return true;
}

bool sp_wait_closed(struct sp_client *c)
{
	uint8_t dropped[4096];
	for (;;) {
		ssize_t n = recv(c->fd, dropped, sizeof dropped, 0);
		if (n == 0)
			return true;
		if (n < 0)
			return errno == ECONNRESET || errno == EPIPE;
	}
}

void sp_close(struct sp_client *c, bool reset)
{
	const struct linger at_once = { .l_onoff = 1 };
	if (c->session)
		gnutls_deinit(c->session);
	if (c->fd >= 0) {
		if (reset)
			(void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
		close(c->fd);
	}
	*c = (struct sp_client){ .fd = -1 };
}
