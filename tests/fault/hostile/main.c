/*
 * Peers that do what no honest client does, many times each, against one port of a running daemon, while good clients go on
 * asking at its RPC port.
 *
 *   hostile PORT PID ADDRESS ASKS SOURCES COUNT CA DIRECTORY [KIND]
 *   hostile hold PORT PID ADDRESS ASKS SOURCES COUNT CA DIRECTORY
 *
 * PORT: serial, peer, ca, keydist; idle (kds-serial's with an idle-timeout of 3 s). SOURCES: "127.1.2" connects from
 * 127.1.2.150 to .189. DIRECTORY holds certificates and keys, NAME.crt and NAME.key: good, whom the RPC port lets in; insider,
 * another, whom the attacked port lets in; chain, the insider's with certificates that nobody needs, 8 in all; expired (of the
 * right CA), stranger (of another CA), below (of the right cluster CA, below min_serial). And requests in DER, for kds-ca:
 * request.der and sha1.der, signed with SHA-1.
 * KIND: that kind alone. "hold": only silent connections, COUNT of them, until SIGTERM.
 * Fails when a good client waits too long for an answer, when the daemon lets a peer in that it must refuse or holds on to one
 * that it must drop, or when its descriptors, threads or memory are not back afterwards.
 */
#include <gnutls/abstract.h>
#include <gnutls/x509.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/fault/hostile/hostile.h"
#include "tests/support/holding.h"

#define GROWTH_MAX_KIB (10u << 10) /* what the allocator keeps; a leak by one kind of peer would be 500 x 30 KiB and more */
#define PEAK_MAX_KIB (256u << 10)  /* what the buffers of all connections may take (option buffer-memory) */
#define ANSWER_MAX_MS 10000        /* for a good client, connection and all */

struct target target;

_Noreturn void die(const char *what)
{
	fprintf(stderr, "hostile: %s\n", what);
	exit(1);
}

bool complain(const char *format, ...)
{
	char line[512];
	va_list args;
	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	fprintf(stderr, "hostile: %s\n", line);
	return false;
}

bool connect_from(struct sp_client *c, unsigned i)
{
	char from[32];
	snprintf(from, sizeof from, "%s.%u", target.sources, 150 + i % 40);
	return sp_connect(c, from, target.address);
}

bool say_hello(struct sp_client *c)
{
	return target.port == PORT_PEER ? sp_hello_as(c, 0x50, 0x51) : sp_hello(c);
}

static bool try_open(struct sp_client *c, unsigned i)
{
	if (connect_from(c, i) && sp_handshake(c, target.insider) && say_hello(c))
		return true;
	sp_close(c, true);
	return false;
}

bool open_from(struct sp_client *c, unsigned i)
{
	unsigned long started = now_ms();
	while (!try_open(c, i)) {
		/* A replica has few connections there, and those that the daemon is closing count for a moment. */
		if (target.port != PORT_PEER || now_ms() - started > 20000)
			return false;
		usleep(50000);
	}
	return true;
}

bool open_good(struct sp_client *c)
{
	return sp_connect(c, NULL, target.address) && sp_handshake(c, target.port == PORT_PEER ? target.insider : target.good) &&
	       say_hello(c);
}

unsigned long now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (unsigned long)t.tv_sec * 1000 + (unsigned long)t.tv_nsec / 1000000;
}

unsigned long cpu_ms(void)
{
	return holding_cpu_ms(target.pid);
}

void wait_calm(void)
{
	const unsigned step = 100;
	for (unsigned waited = 0; waited < 30000; waited += step) {
		unsigned long before = cpu_ms();
		usleep(step * 1000);
		if (cpu_ms() - before < step * 3 / 4)
			return;
	}
}

unsigned rss_kib(void)
{
	return holding_of(target.pid).rss_kib;
}

/* --- kinds ------------------------------------------------------------------------------------------------------------------- */

/* Peers that stay until the daemon closes them, at the latest when its timer ends: many at once. */
static bool run_silent(const struct kind *k, unsigned count)
{
	static struct sp_client clients[SILENT_MAX];
	bool ok = true;
	for (unsigned done = 0; done < count && ok; done += SILENT_MAX) {
		unsigned n = count - done < SILENT_MAX ? count - done : SILENT_MAX;
		for (unsigned i = 0; i < n; i++)
			ok = (k->start(&clients[i], done + i) || complain("%s %u: cannot get as far", k->name, done + i)) && ok;
		for (unsigned i = 0; i < n; i++) {
			if (ok && !sp_wait_closed(&clients[i]))
				ok = complain("%s %u: the daemon did not give up on it", k->name, done + i);
			sp_close(&clients[i], false);
		}
	}
	return ok;
}

/* One of the threads that share the times. */
struct lane {
	const char *name;
	bool (*once)(unsigned i, const char **why);
	unsigned first, step, count;
	atomic_bool *failed;
};

static void *run_lane(void *arg)
{
	struct lane *lane = arg;
	const char *why = "";
	for (unsigned i = lane->first; i < lane->count && !atomic_load(lane->failed); i += lane->step)
		if (!lane->once(i, &why) && !atomic_exchange(lane->failed, true))
			complain("%s %u: %s", lane->name, i, why);
	return NULL;
}

bool run_lanes(const char *name, bool (*once)(unsigned i, const char **why), unsigned count, unsigned n)
{
	struct lane lanes[LANES_MAX];
	pthread_t threads[LANES_MAX];
	atomic_bool failed = false;
	for (unsigned i = 0; i < n; i++) {
		lanes[i] = (struct lane){ .name = name, .once = once, .first = i, .step = n, .count = count, .failed = &failed };
		if (pthread_create(&threads[i], NULL, run_lane, &lanes[i]) != 0)
			die("no thread");
	}
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	return !atomic_load(&failed);
}

/* True: it went well, and the good clients as well. */
static bool run_kind(const struct kind *k, unsigned count, bool tell)
{
	char seen[256] = "";
	unsigned long started = now_ms(), cpu = cpu_ms();
	if (k->divisor)
		count = count / k->divisor ? count / k->divisor : 1;
	/* One replica has few connections there. */
	unsigned lanes = k->lanes && target.port != PORT_PEER ? k->lanes : LANES;
	(void)good_take();
	bool ok = k->all ? k->all(count, seen, sizeof seen)
		  : k->start ? run_silent(k, count) : run_lanes(k->name, k->once, count, lanes);
	struct good good = good_take();
	if (good.missed)
		ok = complain("%s: good clients missed %lu answers", k->name, good.missed);
	if (good.slowest_ms > ANSWER_MAX_MS * target.patience)
		ok = complain("%s: a good client waited %lu ms for an answer", k->name, good.slowest_ms);
	if (tell || !ok)
		printf("  %-28s %s %4u times, %4.1f s, %4.1f s CPU, %5lu good answers (slowest %lu ms), %u KiB%s%s\n", k->name,
		       ok ? "ok    " : "FAILED", count, (double)(now_ms() - started) / 1000, (double)(cpu_ms() - cpu) / 1000,
		       good.answers, good.slowest_ms, rss_kib(), seen[0] ? "; " : "", seen);
	fflush(stdout);
	return ok;
}

/* Every kind of this port; goes on after one that failed. */
static bool run_all(const char *only, unsigned count, bool tell)
{
	static const struct kind *const lists[] = { strangers, keys, slots, records, frames, insiders };
	bool ok = true;
	good_start();
	for (size_t l = 0; l < sizeof lists / sizeof *lists; l++)
		for (const struct kind *k = lists[l]; k->name; k++)
			if ((k->ports & target.port) && (!only || strcmp(only, k->name) == 0))
				ok = run_kind(k, count, tell) && ok;
	good_stop();
	return ok;
}

/* --- what the daemon holds ------------------------------------------------------------------------------------------------ */

static bool has_grown(const struct holding *before, const struct holding *after)
{
	return after->rss_kib > before->rss_kib + GROWTH_MAX_KIB;
}

static bool back_where_it_was(const struct holding *before, const struct holding *after)
{
	const bool sanitized = target.patience > 1; /* a sanitizer keeps freed memory: no bound on RSS */
	bool ok = true;
	printf("  before: %u descriptors, %u threads, %u KiB; after: %u, %u, %u KiB (peak %u)\n", before->descriptors,
	       before->threads, before->rss_kib, after->descriptors, after->threads, after->rss_kib, after->peak_kib);
	if (after->descriptors > before->descriptors || after->threads > before->threads)
		ok = complain("descriptors or threads are not back where they were");
	if (!sanitized && has_grown(before, after))
		ok = complain("memory grew by more than %u KiB", GROWTH_MAX_KIB);
	if (!sanitized && after->peak_kib > PEAK_MAX_KIB)
		ok = complain("memory reached more than %u KiB", PEAK_MAX_KIB);
	return ok;
}

static gnutls_certificate_credentials_t load(const char *name)
{
	char certificate[4096], key[4096];
	snprintf(certificate, sizeof certificate, "%s/%s.crt", target.directory, name);
	snprintf(key, sizeof key, "%s/%s.key", target.directory, name);
	return sp_credentials(target.ca, certificate, key);
}

/* With a chain as it stands in the file: other functions of GnuTLS's leave out what does not belong to it. */
static gnutls_certificate_credentials_t load_as_it_is(const char *name)
{
	char certificate[4096], key_file[4096];
	gnutls_datum_t pem = { 0 };
	gnutls_x509_crt_t *crts = NULL;
	gnutls_privkey_t key = NULL;
	unsigned n = 0;
	snprintf(certificate, sizeof certificate, "%s/%s.crt", target.directory, name);
	snprintf(key_file, sizeof key_file, "%s/%s.key", target.directory, name);
	gnutls_certificate_credentials_t credentials = sp_credentials(target.ca, NULL, NULL);
	if (gnutls_load_file(certificate, &pem) < 0 || gnutls_x509_crt_list_import2(&crts, &n, &pem, GNUTLS_X509_FMT_PEM, 0) < 0)
		die(certificate);
	gnutls_free(pem.data);
	gnutls_pcert_st *chain = gnutls_calloc(n, sizeof *chain); /* its contents and the key become the credentials' */
	if (!chain || gnutls_pcert_import_x509_list(chain, crts, &n, 0) < 0 || gnutls_load_file(key_file, &pem) < 0 ||
	    gnutls_privkey_init(&key) < 0 || gnutls_privkey_import_x509_raw(key, &pem, GNUTLS_X509_FMT_PEM, NULL, 0) < 0 ||
	    gnutls_certificate_set_key(credentials, NULL, 0, chain, (int)n, key) < 0)
		die(key_file);
	for (unsigned i = 0; i < n; i++)
		gnutls_x509_crt_deinit(crts[i]);
	gnutls_free(crts);
	gnutls_free(chain);
	gnutls_free(pem.data);
	return credentials;
}

static enum port port_named(const char *name)
{
	static const struct {
		const char *name;
		enum port port;
	} ports[] = { { "serial", PORT_SERIAL }, { "peer", PORT_PEER }, { "ca", PORT_CA }, { "keydist", PORT_KEYDIST },
		    { "idle", PORT_IDLE } };
	for (size_t i = 0; i < sizeof ports / sizeof *ports; i++)
		if (strcmp(name, ports[i].name) == 0)
			return ports[i].port;
	die("PORT is one of serial, peer, ca, keydist and idle");
}

static void aim(char **argv)
{
	/* The least frame that must be refused: kds-ca and kds-keydist need tens of KiB. */
	target = (struct target){ .port = port_named(argv[0]), .pid = argv[1], .address = argv[2], .asks = argv[3],
				  .sources = argv[4], .ca = argv[6], .directory = argv[7] };
	target.frame_refused = target.port == PORT_PEER		      ? ((size_t)4 << 20) + 1
			       : target.port & (PORT_CA | PORT_KEYDIST) ? ((size_t)128 << 10) + 1
									: ((size_t)1 << 20) + 1;
	target.patience = getenv("KDS_TEST_SANITIZE") ? 8 : 1;
	target.good = load("good");
	target.insider = load("insider");
	target.chain = load_as_it_is("chain");
	target.expired = load("expired");
	target.stranger = load("stranger");
	target.below = load("below");
	target.nobody = sp_credentials(target.ca, NULL, NULL);
}

static void let_go(void)
{
	gnutls_certificate_credentials_t all[] = { target.good, target.insider, target.chain, target.expired,
						   target.stranger, target.below, target.nobody };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		gnutls_certificate_free_credentials(all[i]);
}

int main(int argc, char **argv)
{
	if (argc == 10 && strcmp(argv[1], "hold") == 0) {
		aim(argv + 2);
		hold_for_ever((unsigned)atoi(argv[7]));
	}
	if (argc != 9 && argc != 10) {
		fprintf(stderr, "usage: hostile [hold] PORT PID ADDRESS ASKS SOURCES COUNT CA DIRECTORY [KIND]\n");
		return 2;
	}
	const char *only = argc == 10 ? argv[9] : NULL;
	const unsigned count = (unsigned)atoi(argv[6]);
	aim(argv + 1);

	/* A first round brings buffers, arenas and lazily started threads to their size. */
	struct holding idle = holding_of(target.pid);
	bool ok = run_all(only, count < 64 ? count : 64, false);
	struct holding before = holding_settle(target.pid, &idle);
	if (ok)
		ok = run_all(only, count, true);
	struct holding after = holding_settle(target.pid, &before);
	/* How the heap is cut up differs from run to run, once; a leak comes again with the same peers. */
	if (ok && has_grown(&before, &after)) {
		printf("  grew from %u to %u KiB: the same once more\n", before.rss_kib, after.rss_kib);
		before.rss_kib = after.rss_kib;
		ok = run_all(only, count, true);
		after = holding_settle(target.pid, &before);
	}
	ok = back_where_it_was(&before, &after) && ok;
	let_go();
	return ok ? 0 : 1;
}
