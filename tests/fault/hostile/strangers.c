/* Peers without a certificate that counts, and those who leave or stop before it comes to that. */
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fault/hostile/hostile.h"

static bool leave_with_reset(unsigned i, const char **why)
{
	struct sp_client c;
	*why = "cannot connect";
	bool ok = connect_from(&c, i);
	sp_close(&c, true);
	return ok;
}

static bool leave_half_closed(unsigned i, const char **why)
{
	struct sp_client c;
	*why = "cannot connect";
	bool ok = connect_from(&c, i);
	if (ok) {
		(void)shutdown(c.fd, SHUT_WR);
		if (i % 2 == 0)
			usleep(1000); /* half of them give the daemon time to see the end before the reset */
	}
	sp_close(&c, true);
	return ok;
}

/* The handshake may end well on our side (TLS 1.3); but nothing of the daemon's must ever come. */
static bool refused(unsigned i, gnutls_certificate_credentials_t credentials, const char **why)
{
	struct sp_client c;
	*why = "cannot connect";
	bool ok = connect_from(&c, i);
	if (ok && sp_handshake(&c, credentials) && say_hello(&c)) {
		*why = "was let in";
		ok = false;
	}
	sp_close(&c, i % 2 == 0);
	return ok;
}

static bool no_certificate(unsigned i, const char **why)
{
	return refused(i, target.nobody, why);
}

static bool expired(unsigned i, const char **why)
{
	return refused(i, target.expired, why);
}

static bool of_another_ca(unsigned i, const char **why)
{
	return refused(i, target.stranger, why);
}

static bool below_min_serial(unsigned i, const char **why)
{
	return refused(i, target.below, why);
}

/* The first bytes of a record that says it holds a ClientHello of 512. */
static const uint8_t client_hello[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

static bool stop_mid_handshake(struct sp_client *c, unsigned i)
{
	return connect_from(c, i) && sp_write(c, client_hello, 1 + i % (sizeof client_hello - 1));
}

static bool send_garbage(struct sp_client *c, unsigned i)
{
	uint8_t garbage[1024];
	if (!connect_from(c, i) || getrandom(garbage, sizeof garbage, 0) != (ssize_t)sizeof garbage)
		return false;
	if (i % 2 == 0)
		memcpy(garbage, client_hello, sizeof client_hello - 1); /* starts like TLS */
	/* The daemon may have closed already: more of them than it keeps were there. */
	(void)sp_write(c, garbage, sizeof garbage);
	return true;
}

const struct kind strangers[] = {
	{ .name = "connect, reset", .ports = PORT_ANY, .once = leave_with_reset },
	{ .name = "half-close, reset", .ports = PORT_ANY, .once = leave_half_closed },
	{ .name = "garbage", .ports = PORT_ANY, .start = send_garbage },
	{ .name = "stops mid-handshake", .ports = PORT_ANY, .start = stop_mid_handshake },
	{ .name = "no certificate", .ports = PORT_ANY, .once = no_certificate },
	{ .name = "expired certificate", .ports = PORT_ANY, .once = expired },
	{ .name = "certificate of another CA", .ports = PORT_ANY, .once = of_another_ca },
	{ .name = "certificate below min_serial", .ports = PORT_ANY, .once = below_min_serial },
	{ 0 },
};
