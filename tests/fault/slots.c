/*
 * links: test_support
 *
 * Takes what a daemon has to give to connections, and keeps it.
 *
 *   slots silent ADDRESS COUNT [SOURCE]               COUNT connections that say nothing, each opened anew when it is dropped
 *   slots frames PID ADDRESS COUNT SIZE MAX CA CERTIFICATE KEY
 *                                                     COUNT connections with all but the end of a frame of SIZE KiB; the daemon
 *                                                     may grow by MAX KiB (0: by any), and must be smaller again in 60 s
 *
 * The first says "ready" and goes on until it is ended, for HOLD_S at most.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/holding.h"
#include "tests/support/sp_client.h"

#define HOLD_S 120

static bool was_dropped(const struct sp_client *c)
{
	char byte;
	return c->fd < 0 || recv(c->fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}

static int hold_silent(const char *address, unsigned count, const char *source)
{
	struct sp_client *clients = calloc(count, sizeof *clients);
	const time_t until = time(NULL) + HOLD_S;
	bool ready = false;
	if (!clients)
		return 2;
	for (unsigned i = 0; i < count; i++)
		clients[i].fd = -1;
	do {
		for (unsigned i = 0; i < count; i++) {
			if (!was_dropped(&clients[i]))
				continue;
			sp_close(&clients[i], false);
			if (!sp_connect(&clients[i], source, address))
				clients[i].fd = -1;
		}
		if (!ready) {
			puts("ready");
			fflush(stdout);
		}
		ready = true;
		usleep(1000);
	} while (time(NULL) < until);
	free(clients);
	return 0;
}

/* All but the last byte. Who is cut off meanwhile is no failure. */
static void begin_frame(struct sp_client *c, const uint8_t *data, size_t size)
{
	uint8_t head[8];
	for (int i = 0; i < 8; i++)
		head[i] = (uint8_t)((uint64_t)size >> (56 - 8 * i));
	(void)(sp_write(c, head, sizeof head) && sp_write(c, data, size - 1));
}

static int hold_frames(char **argv)
{
	const char *pid = argv[0], *address = argv[1];
	const unsigned count = (unsigned)atoi(argv[2]), max_kib = (unsigned)atoi(argv[4]);
	const size_t size = (size_t)atoi(argv[3]) << 10;
	gnutls_certificate_credentials_t credentials = sp_credentials(argv[5], argv[6], argv[7]);
	struct sp_client *clients = calloc(count, sizeof *clients);
	uint8_t *data = calloc(1, size);
	if (!clients || !data)
		return 2;
	struct holding before = holding_of(pid);
	unsigned served = 0, peak = 0;
	for (unsigned i = 0; i < count; i++) {
		if (sp_open(&clients[i], NULL, address, credentials)) {
			begin_frame(&clients[i], data, size);
			served++;
		}
		unsigned now = holding_of(pid).rss_kib;
		peak = now > peak ? now : peak;
	}
	printf("  %u of %u connections with a frame of %zu KiB begun: from %u to %u KiB resident\n", served, count, size >> 10,
	       before.rss_kib, peak);
	int rv = 0;
	if (max_kib && peak > before.rss_kib + max_kib) {
		fprintf(stderr, "slots: it grew by more than %u KiB\n", max_kib);
		rv = 1;
	}
	/* They stay: it is for the daemon to be rid of them. */
	unsigned after = peak;
	for (int i = 0; i < 60 && after > before.rss_kib + (peak - before.rss_kib) / 4; i++) {
		sleep(1);
		after = holding_of(pid).rss_kib;
	}
	printf("  and left alone: %u KiB\n", after);
	if (max_kib && after > before.rss_kib + (peak - before.rss_kib) / 4) {
		fprintf(stderr, "slots: frames that never end are held\n");
		rv = 1;
	}
	for (unsigned i = 0; i < count; i++)
		sp_close(&clients[i], true);
	free(data);
	free(clients);
	gnutls_certificate_free_credentials(credentials);
	return rv;
}

int main(int argc, char **argv)
{
	if ((argc == 4 || argc == 5) && strcmp(argv[1], "silent") == 0)
		return hold_silent(argv[2], (unsigned)atoi(argv[3]), argc == 5 ? argv[4] : NULL);
	if (argc == 10 && strcmp(argv[1], "frames") == 0)
		return hold_frames(argv + 2);
	fprintf(stderr, "usage: slots silent ADDRESS COUNT [SOURCE] | "
			"slots frames PID ADDRESS COUNT SIZE MAX CA CERTIFICATE KEY\n");
	return 2;
}
