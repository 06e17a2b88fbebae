/*
 * links: test_support
 *
 * Opens many connections to a running daemon and leaves them idle: it must go on answering, on them and on new ones. Prints what
 * one idle connection costs the daemon.
 *
 *   idle PID ADDRESS SOURCES COUNT CA CERTIFICATE KEY
 *
 * SOURCES as in hostile/main.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/support/echo.h"
#include "tests/support/holding.h"
#include "tests/support/sp_client.h"

static bool open_one(struct sp_client *c, const char *sources, unsigned i, const char *address,
		     gnutls_certificate_credentials_t credentials)
{
	char from[32];
	snprintf(from, sizeof from, "%s.%u", sources, 150 + i % 40);
	return sp_open(c, from, address, credentials);
}

/* Every tenth of the idle ones, and a new one. */
static bool still_answers(struct sp_client *clients, unsigned count, const char *address,
			  gnutls_certificate_credentials_t credentials)
{
	static const uint8_t data[] = "anybody there?";
	struct sp_client one;
	for (unsigned i = 0; i < count; i += 10) {
		if (!echo(&clients[i], data, sizeof data)) {
			fprintf(stderr, "idle: connection %u got no answer\n", i);
			return false;
		}
	}
	bool ok = sp_open(&one, NULL, address, credentials) && echo(&one, data, sizeof data);
	sp_close(&one, false);
	if (!ok)
		fprintf(stderr, "idle: a new connection got no answer\n");
	return ok;
}

int main(int argc, char **argv)
{
	if (argc != 8) {
		fprintf(stderr, "usage: idle PID ADDRESS SOURCES COUNT CA CERTIFICATE KEY\n");
		return 2;
	}
	const char *pid = argv[1], *address = argv[2];
	const unsigned count = (unsigned)atoi(argv[4]);
	gnutls_certificate_credentials_t credentials = sp_credentials(argv[5], argv[6], argv[7]);
	struct sp_client *clients = calloc(count, sizeof *clients);
	if (!clients || count == 0)
		return 2;
	struct holding before = holding_of(pid);
	time_t started = time(NULL);
	unsigned n = 0;
	while (n < count && open_one(&clients[n], argv[3], n, address, credentials))
		n++;
	if (n < count)
		fprintf(stderr, "idle: connection %u of %u was not served\n", n + 1, count);
	struct holding with = holding_of(pid);
	printf("  %u idle connections, opened in %ld s: %.1f KiB each (%u to %u KiB resident), %u descriptors, %u threads\n", n,
	       (long)(time(NULL) - started), n ? ((double)with.rss_kib - (double)before.rss_kib) / n : 0.0, before.rss_kib,
	       with.rss_kib, with.descriptors, with.threads);
	bool ok = n == count && still_answers(clients, n, address, credentials);
	for (unsigned i = 0; i < n; i++)
		sp_close(&clients[i], false);
	struct holding after = holding_settle(pid, &before);
	if (after.descriptors > before.descriptors) {
		fprintf(stderr, "idle: %u descriptors are left of %u before\n", after.descriptors, before.descriptors);
		ok = false;
	}
	free(clients);
	gnutls_certificate_free_credentials(credentials);
	return ok ? 0 : 1;
}
