/*
 * links: test_support
 *
 * Peers that do what no honest client does, many times each, against one running daemon, while good clients go on asking.
 *
 *   hostile PID ADDRESS SOURCES COUNT CA DIRECTORY
 *
 * SOURCES: "127.1.2" connects from 127.1.2.150 to .189. DIRECTORY holds certificates and keys, NAME.crt and NAME.key: good,
 * expired (of the right CA), stranger (of another CA), below (of the right cluster CA, below min_serial).
 * Fails when a good client misses an answer, when the daemon lets a peer in that it must refuse or holds on to one that it must
 * drop, or when its descriptors, threads or memory are not back afterwards.
 */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/echo.h"
#include "tests/support/holding.h"
#include "tests/support/sp_client.h"

#define BATCH 250                 /* connections held open at once while the daemon's timer runs */
#define LANES 16                  /* others run side by side */
#define FLOOD_PAYLOAD (64u << 10)
#define FLOOD_FRAMES 512          /* 32 MiB of answers: far over any bound on output */
#define GROWTH_MAX_KIB (6u << 10)  /* the allocator's slack; a leak by one kind of peer would be 500 x 15 KiB and more */
#define PEAK_MAX_KIB (128u << 10) /* LANES floods: 4 MiB of output each, and what is being freed; seen: 76 MiB */

static const char *address, *sources;
static gnutls_certificate_credentials_t good, nobody, expired, stranger, below;
static uint8_t *flood_request;
static size_t flood_len;
static atomic_bool stopping;
static atomic_ulong answers, missed;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "hostile: %s\n", what);
	exit(1);
}

static const char *source_address(unsigned i, char buf[32])
{
	snprintf(buf, 32, "%s.%u", sources, 150 + i % 40);
	return buf;
}

static bool connect_from(struct sp_client *c, unsigned i)
{
	char from[32];
	return sp_connect(c, source_address(i, from), address);
}

static bool open_from(struct sp_client *c, unsigned i)
{
	return connect_from(c, i) && sp_handshake(c, good) && sp_hello(c);
}

/* --- what the good clients ask --------------------------------------------------------------------------------------------- */

/* arg "new": a new connection for each request; else one for all. */
static void *good_client(void *arg)
{
	const bool anew = strcmp(arg, "new") == 0;
	uint8_t data[8192];
	struct sp_client c = { .fd = -1 };
	while (!atomic_load(&stopping)) {
		size_t len = 1 + (size_t)rand() % sizeof data;
		if (getrandom(data, len, 0) != (ssize_t)len)
			die("getrandom failed");
		if ((c.fd >= 0 || sp_open(&c, NULL, address, good)) && echo(&c, data, len)) {
			atomic_fetch_add(&answers, 1);
		} else {
			fprintf(stderr, "hostile: a good client (%s) missed an answer\n", (const char *)arg);
			atomic_fetch_add(&missed, 1);
			sp_close(&c, true);
		}
		if (anew)
			sp_close(&c, false);
		usleep(2000);
	}
	sp_close(&c, false);
	return NULL;
}

/* --- the peers: each returns false, with a word why, when the daemon did what it must not ----------------------------------- */

static bool peer_reset(unsigned i, const char **why)
{
	struct sp_client c;
	*why = "cannot connect";
	bool ok = connect_from(&c, i);
	sp_close(&c, true);
	return ok;
}

static bool peer_half_close(unsigned i, const char **why)
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

static bool peer_mid_frame(unsigned i, const char **why)
{
	struct sp_client c;
	static const uint8_t partial[20] = { 0, 0, 0, 0, 0, 0, 4, 0, 0x80, 0, 0, 1 };
	*why = "cannot open a good connection";
	bool ok = open_from(&c, i) && sp_write(&c, partial, 1 + i % sizeof partial);
	sp_close(&c, i % 2 == 0);
	return ok;
}

/* The handshake may end well on our side (TLS 1.3); but nothing of the daemon's must ever come. */
static bool refused(unsigned i, gnutls_certificate_credentials_t credentials, const char **why)
{
	struct sp_client c;
	*why = "cannot connect";
	bool ok = connect_from(&c, i);
	if (ok && sp_handshake(&c, credentials) && sp_hello(&c)) {
		*why = "was let in";
		ok = false;
	}
	sp_close(&c, i % 2 == 0);
	return ok;
}

static bool peer_no_certificate(unsigned i, const char **why)
{
	return refused(i, nobody, why);
}

static bool peer_expired(unsigned i, const char **why)
{
	return refused(i, expired, why);
}

static bool peer_stranger(unsigned i, const char **why)
{
	return refused(i, stranger, why);
}

static bool peer_below_min(unsigned i, const char **why)
{
	return refused(i, below, why);
}

static bool peer_huge_frame(unsigned i, const char **why)
{
	struct sp_client c;
	static const uint8_t huge[12] = { 0x80, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 1 };
	*why = "cannot open a good connection";
	bool ok = open_from(&c, i) && sp_write(&c, huge, sizeof huge);
	if (ok) {
		*why = "not closed after a frame of 2^63 bytes";
		ok = sp_wait_closed(&c);
	}
	sp_close(&c, false);
	return ok;
}

/* Waits, reading nothing, at most 30 s for the daemon to close. */
static bool wait_hung_up(struct sp_client *c)
{
	struct pollfd p = { .fd = c->fd, .events = POLLRDHUP };
	return poll(&p, 1, 30000) == 1;
}

/* Asks for far more than the daemon may keep for one connection, and reads nothing: it must close, or stop reading, and close
 * when its write has not got on for long (some wait for that). */
static bool peer_never_reads(unsigned i, const char **why)
{
	struct sp_client c;
	const int small = 4096;
	const struct timeval patience = { .tv_usec = 500000 };
	const bool stays = i % 50 == 0;
	unsigned frames = 0;
	*why = "cannot open a good connection";
	bool ok = open_from(&c, i);
	if (ok) {
		(void)setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
		if (!stays) /* a daemon that is only slow must not look like one that has stopped reading: this one leaves */
			(void)setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
		while (frames < FLOOD_FRAMES && sp_send(&c, flood_request, flood_len))
			frames++;
		/* It may take the rest only to drop it, on the way to closing. */
		*why = "not closed although it reads no answer";
		if (frames == FLOOD_FRAMES || stays)
			ok = wait_hung_up(&c);
	}
	sp_close(&c, true);
	return ok;
}

/* --- peers that stay until the daemon closes them, at the latest when its timer ends: many at once -------------------------- */

static bool stop_mid_handshake(struct sp_client *c, unsigned i)
{
	/* The first bytes of a record that says it holds a ClientHello of 512. */
	static const uint8_t start[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
	return connect_from(c, i) && sp_write(c, start, 1 + i % (sizeof start - 1));
}

static bool stop_mid_hello(struct sp_client *c, unsigned i)
{
	return connect_from(c, i) && sp_handshake(c, good) && sp_write(c, "\0SP", i % 4);
}

static bool send_garbage(struct sp_client *c, unsigned i)
{
	uint8_t garbage[1024];
	if (!connect_from(c, i) || getrandom(garbage, sizeof garbage, 0) != (ssize_t)sizeof garbage)
		return false;
	if (i % 2 == 0)
		memcpy(garbage, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11); /* starts like TLS */
	return sp_write(c, garbage, sizeof garbage);
}

static bool run_silent(const char *name, bool (*start)(struct sp_client *, unsigned), unsigned count)
{
	struct sp_client clients[BATCH];
	bool ok = true;
	for (unsigned done = 0; done < count && ok; done += BATCH) {
		unsigned n = count - done < BATCH ? count - done : BATCH;
		for (unsigned i = 0; i < n; i++) {
			if (!start(&clients[i], done + i)) {
				fprintf(stderr, "hostile: %s %u: cannot get as far\n", name, done + i);
				ok = false;
			}
		}
		for (unsigned i = 0; i < n; i++) {
			if (ok && !sp_wait_closed(&clients[i])) {
				fprintf(stderr, "hostile: %s %u: the daemon did not give up on it\n", name, done + i);
				ok = false;
			}
			sp_close(&clients[i], false);
		}
	}
	return ok;
}

static const struct peer {
	const char *name;
	bool (*quick)(unsigned i, const char **why);
	bool (*silent)(struct sp_client *c, unsigned i);
} peers[] = {
	{ "connect, reset", peer_reset, NULL },
	{ "half-close, reset", peer_half_close, NULL },
	{ "garbage", NULL, send_garbage },
	{ "stops mid-handshake", NULL, stop_mid_handshake },
	{ "stops mid-hello", NULL, stop_mid_hello },
	{ "leaves mid-frame", peer_mid_frame, NULL },
	{ "no certificate", peer_no_certificate, NULL },
	{ "expired certificate", peer_expired, NULL },
	{ "certificate of another CA", peer_stranger, NULL },
	{ "certificate below min_serial", peer_below_min, NULL },
	{ "frame of 2^63 bytes", peer_huge_frame, NULL },
	{ "asks, never reads", peer_never_reads, NULL },
};

/* One of LANES threads that share the times. */
struct lane {
	const struct peer *peer;
	unsigned first, count;
	bool ok;
};

static void *run_lane(void *arg)
{
	struct lane *lane = arg;
	const char *why = "";
	lane->ok = true;
	for (unsigned i = lane->first; i < lane->count && lane->ok; i += LANES) {
		lane->ok = lane->peer->quick(i, &why);
		if (!lane->ok)
			fprintf(stderr, "hostile: %s %u: %s\n", lane->peer->name, i, why);
	}
	return NULL;
}

static bool run_peer(const struct peer *p, unsigned count)
{
	struct lane lanes[LANES];
	pthread_t threads[LANES];
	bool ok = true;
	if (p->silent)
		return run_silent(p->name, p->silent, count);
	for (unsigned i = 0; i < LANES; i++) {
		lanes[i] = (struct lane){ .peer = p, .first = i, .count = count };
		if (pthread_create(&threads[i], NULL, run_lane, &lanes[i]) != 0)
			die("no thread");
	}
	for (unsigned i = 0; i < LANES; i++) {
		pthread_join(threads[i], NULL);
		ok = ok && lanes[i].ok;
	}
	return ok;
}

/* --- what the daemon holds -------------------------------------------------------------------------------------------------- */

/* `silent` times each peer that waits for the daemon, `quick` times each other. */
static bool run_all(const char *pid, unsigned silent, unsigned quick, bool tell)
{
	pthread_t threads[2];
	bool ok = true;
	atomic_store(&stopping, false);
	if (pthread_create(&threads[0], NULL, good_client, (void *)(uintptr_t) "same") != 0 ||
	    pthread_create(&threads[1], NULL, good_client, (void *)(uintptr_t) "new") != 0)
		die("no thread");
	for (size_t i = 0; i < sizeof peers / sizeof peers[0] && ok; i++) {
		unsigned long before = atomic_load(&answers);
		time_t started = time(NULL);
		unsigned count = peers[i].silent ? silent : quick;
		ok = run_peer(&peers[i], count);
		if (tell)
			printf("  %-30s %u times, %ld s, %lu good answers meanwhile, %u KiB resident\n", peers[i].name, count,
			       (long)(time(NULL) - started), atomic_load(&answers) - before, holding_of(pid).rss_kib);
		fflush(stdout);
	}
	atomic_store(&stopping, true);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	return ok;
}

static gnutls_certificate_credentials_t load(const char *ca, const char *directory, const char *name)
{
	char certificate[4096], key[4096];
	snprintf(certificate, sizeof certificate, "%s/%s.crt", directory, name);
	snprintf(key, sizeof key, "%s/%s.key", directory, name);
	return sp_credentials(ca, certificate, key);
}

int main(int argc, char **argv)
{
	if (argc != 7) {
		fprintf(stderr, "usage: hostile PID ADDRESS SOURCES COUNT CA DIRECTORY\n");
		return 2;
	}
	const char *pid = argv[1];
	const unsigned count = (unsigned)atoi(argv[4]);
	const bool sanitized = getenv("KDS_TEST_SANITIZE") != NULL; /* a sanitizer keeps freed memory: no bound on RSS */
	address = argv[2];
	sources = argv[3];
	good = load(argv[5], argv[6], "good");
	expired = load(argv[5], argv[6], "expired");
	stranger = load(argv[5], argv[6], "stranger");
	below = load(argv[5], argv[6], "below");
	nobody = sp_credentials(argv[5], NULL, NULL);
	uint8_t *payload = calloc(1, FLOOD_PAYLOAD);
	if (!payload)
		die("out of memory");
	flood_request = echo_request(payload, FLOOD_PAYLOAD, &flood_len);
	free(payload);

	/* A first round, with as many at once as ever, brings buffers, arenas and lazily started threads to their size. */
	struct holding idle = holding_of(pid);
	if (!run_all(pid, count < BATCH ? count : BATCH, count < 100 ? count : 100, false))
		return 1;
	struct holding before = holding_settle(pid, &idle);
	bool ok = run_all(pid, count, count, true);
	struct holding after = holding_settle(pid, &before);
	printf("  before: %u descriptors, %u threads, %u KiB; after: %u, %u, %u KiB (peak %u); %lu good answers, %lu missed\n",
	       before.descriptors, before.threads, before.rss_kib, after.descriptors, after.threads, after.rss_kib,
	       after.peak_kib, atomic_load(&answers), atomic_load(&missed));
	if (after.descriptors > before.descriptors || after.threads > before.threads) {
		fprintf(stderr, "hostile: descriptors or threads are not back where they were\n");
		ok = false;
	}
	if (!sanitized && after.rss_kib > before.rss_kib + GROWTH_MAX_KIB) {
		fprintf(stderr, "hostile: memory grew by more than %u KiB\n", GROWTH_MAX_KIB);
		ok = false;
	}
	if (!sanitized && after.peak_kib > PEAK_MAX_KIB) {
		fprintf(stderr, "hostile: memory reached more than %u KiB\n", PEAK_MAX_KIB);
		ok = false;
	}
	free(flood_request);
	gnutls_certificate_free_credentials(good);
	gnutls_certificate_free_credentials(expired);
	gnutls_certificate_free_credentials(stranger);
	gnutls_certificate_free_credentials(below);
	gnutls_certificate_free_credentials(nobody);
	return ok && atomic_load(&missed) == 0 && atomic_load(&answers) > 0 ? 0 : 1;
}
