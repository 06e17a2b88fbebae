/* A good certificate, and more requests than anybody needs: others must get their answers all the same. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "ca.pb-c.h"
#include "config.pb-c.h"
#include "rpc.pb-c.h"
#include "tests/fault/hostile/hostile.h"

#define NO_ANSWER (-1)
#define ANSWER_SIZE ((size_t)1 << 20)

/* --- one request ----------------------------------------------------------------------------------------------------------- */

static bool ask(struct sp_client *c, const char *method, const ProtobufCMessage *in, unsigned timeout_ms)
{
	uint8_t payload[8192], id[16], packed[9216];
	Kds__V1__Request request = KDS__V1__REQUEST__INIT;
	if (protobuf_c_message_get_packed_size(in) > sizeof payload || getrandom(id, sizeof id, 0) != (ssize_t)sizeof id)
		die("a request too large");
	request.method = (char *)(uintptr_t)method;
	request.timeout_ms = timeout_ms;
	request.request_id = (ProtobufCBinaryData){ .len = sizeof id, .data = id };
	request.payload = (ProtobufCBinaryData){ .len = protobuf_c_message_pack(in, payload), .data = payload };
	return sp_send(c, packed, kds__v1__request__pack(&request, packed));
}

/* The next answer, to whichever request: its code, and where `descriptor` is not NULL its message, which is the caller's. */
static int take_answer(struct sp_client *c, const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **ret)
{
	uint8_t head[12];
	int code = NO_ANSWER;
	if (!sp_read(c, head, sizeof head))
		return code;
	size_t len = ((size_t)head[4] << 24 | (size_t)head[5] << 16 | (size_t)head[6] << 8 | head[7]) - 4;
	uint8_t *packed = len <= ANSWER_SIZE ? malloc(len + 1) : NULL;
	if (!packed)
		die("an answer too large");
	Kds__V1__Response *response = sp_read(c, packed, len) ? kds__v1__response__unpack(NULL, len, packed) : NULL;
	if (response) {
		code = (int)response->code;
		if (descriptor && code == KDS__V1__CODE__OK)
			*ret = protobuf_c_message_unpack(descriptor, NULL, response->payload.len, response->payload.data);
		kds__v1__response__free_unpacked(response, NULL);
	}
	free(packed);
	return code;
}

/* How often which code came. */
struct codes {
	atomic_ulong ok, exhausted, other;
	atomic_int last_other;
};

static void count_code(struct codes *codes, int code)
{
	if (code == KDS__V1__CODE__OK)
		atomic_fetch_add(&codes->ok, 1);
	else if (code == KDS__V1__CODE__RESOURCE_EXHAUSTED)
		atomic_fetch_add(&codes->exhausted, 1);
	else {
		atomic_fetch_add(&codes->other, 1);
		atomic_store(&codes->last_other, code);
	}
}

/* --- Ca.Sign ---------------------------------------------------------------------------------------------------------------- */

#define FLOODERS 8
#define IN_FLIGHT 512 /* of one flooder */
#define FLOOD_MS 6000
#define REFUSED_PAUSE_US 4000 /* 2000 refusals a second: more would take the processors of this very machine */
#define SIGN_MAX_MS 2000 /* for another node */

static ProtobufCBinaryData read_request(const char *name)
{
	char path[4096];
	gnutls_datum_t der;
	snprintf(path, sizeof path, "%s/%s.der", target.directory, name);
	if (gnutls_load_file(path, &der) < 0)
		die(path);
	return (ProtobufCBinaryData){ .len = der.size, .data = der.data };
}

struct flood {
	ProtobufCBinaryData csr;
	struct codes codes;
	atomic_bool stopping;
};

static void *flood_sign(void *arg)
{
	struct flood *f = arg;
	struct sp_client c;
	Kds__V1__SignRequest in = KDS__V1__SIGN_REQUEST__INIT;
	in.csr = f->csr;
	unsigned in_flight = 0;
	bool ok = open_from(&c, (unsigned)rand());
	while (ok && !atomic_load(&f->stopping)) {
		for (; ok && in_flight < IN_FLIGHT; in_flight++)
			ok = ask(&c, "Ca.Sign", (const ProtobufCMessage *)&in, 10000);
		int code = ok ? take_answer(&c, NULL, NULL) : NO_ANSWER;
		if (code != NO_ANSWER)
			count_code(&f->codes, code);
		ok = code != NO_ANSWER;
		in_flight--;
		if (code == KDS__V1__CODE__RESOURCE_EXHAUSTED)
			usleep(REFUSED_PAUSE_US);
	}
	sp_close(&c, true);
	return NULL;
}

/* Another node's certificate, every 300 ms while the flood is on. */
static bool sign_meanwhile(struct flood *f, unsigned *signed_, unsigned long *slowest)
{
	struct sp_client c = { .fd = -1 };
	Kds__V1__SignRequest in = KDS__V1__SIGN_REQUEST__INIT;
	in.csr = f->csr;
	for (unsigned long started = now_ms(); now_ms() - started < FLOOD_MS; usleep(300000)) {
		unsigned long asked = now_ms();
		int code = NO_ANSWER;
		if ((c.fd >= 0 || open_good(&c)) && ask(&c, "Ca.Sign", (const ProtobufCMessage *)&in, 15000))
			code = take_answer(&c, NULL, NULL);
		unsigned long took = now_ms() - asked;
		*slowest = took > *slowest ? took : *slowest;
		if (code != KDS__V1__CODE__OK || took > SIGN_MAX_MS * target.patience) {
			sp_close(&c, true);
			return complain("while one node floods Ca.Sign another gets code %d after %lu ms", code, took);
		}
		++*signed_;
	}
	sp_close(&c, false);
	return true;
}

static bool flood_with_requests(unsigned count, char *seen, size_t size)
{
	static struct flood f;
	pthread_t threads[FLOODERS];
	unsigned others = 0;
	unsigned long slowest = 0;
	(void)count;
	f = (struct flood){ .csr = read_request("request") };
	for (unsigned i = 0; i < FLOODERS; i++)
		if (pthread_create(&threads[i], NULL, flood_sign, &f) != 0)
			die("no thread");
	bool ok = sign_meanwhile(&f, &others, &slowest);
	atomic_store(&f.stopping, true);
	for (unsigned i = 0; i < FLOODERS; i++)
		pthread_join(threads[i], NULL);
	gnutls_free(f.csr.data);
	snprintf(seen, size, "flood: %lu signed, %lu RESOURCE_EXHAUSTED, %lu other (code %d); another node: %u, slowest %lu ms",
		 atomic_load(&f.codes.ok), atomic_load(&f.codes.exhausted), atomic_load(&f.codes.other),
		 atomic_load(&f.codes.last_other), others, slowest);
	if (atomic_load(&f.codes.other) > 0)
		ok = complain("the flood's requests are refused otherwise than by RESOURCE_EXHAUSTED (code %d)",
			      atomic_load(&f.codes.last_other));
	if (atomic_load(&f.codes.exhausted) == 0)
		ok = complain("one node had %lu certificates in %d ms, and none was refused", atomic_load(&f.codes.ok), FLOOD_MS);
	return ok;
}

/* A request signed with SHA-1 proves nothing. */
static bool request_with_sha1(unsigned count, char *seen, size_t size)
{
	struct sp_client c;
	Kds__V1__SignRequest in = KDS__V1__SIGN_REQUEST__INIT;
	unsigned refused = 0, limited = 0, other = 0;
	in.csr = read_request("sha1");
	bool ok = open_from(&c, 0);
	for (unsigned i = 0; ok && i < count; i++) {
		int code = ask(&c, "Ca.Sign", (const ProtobufCMessage *)&in, 10000) ? take_answer(&c, NULL, NULL) : NO_ANSWER;
		refused += code == KDS__V1__CODE__INVALID_ARGUMENT;
		limited += code == KDS__V1__CODE__RESOURCE_EXHAUSTED;
		other += code != KDS__V1__CODE__INVALID_ARGUMENT && code != KDS__V1__CODE__RESOURCE_EXHAUSTED;
		ok = code != NO_ANSWER;
	}
	sp_close(&c, false);
	gnutls_free(in.csr.data);
	snprintf(seen, size, "%u refused, %u over the rate, %u otherwise", refused, limited, other);
	return ok && ((refused > 0 && other == 0) || complain("of %u requests signed with SHA-1 %u were not refused", count, other));
}

/* --- Config.Watch ----------------------------------------------------------------------------------------------------------- */

#define WATCHERS 8
#define WATCHES 2000 /* of one watcher */
#define WATCH_MS 1500

/* A watch that has news only when something changes. */
static Kds__V1__WatchRequest caught_up(void)
{
	struct sp_client c;
	Kds__V1__WatchRequest in = KDS__V1__WATCH_REQUEST__INIT;
	bool more = open_good(&c);
	while (more) {
		ProtobufCMessage *message = NULL;
		if (!ask(&c, "Config.Watch", (const ProtobufCMessage *)&in, 5000) ||
		    take_answer(&c, &kds__v1__watch_response__descriptor, &message) != KDS__V1__CODE__OK || !message)
			die("cannot read the configuration");
		const Kds__V1__WatchResponse *answer = (const Kds__V1__WatchResponse *)message;
		in.since_revision = answer->revision;
		in.began = answer->began;
		more = answer->more;
		protobuf_c_message_free_unpacked(message, NULL);
	}
	sp_close(&c, false);
	return in;
}

static void *watch_much(void *arg)
{
	const Kds__V1__WatchRequest *in = arg;
	struct sp_client *c = calloc(1, sizeof *c);
	if (!c)
		die("out of memory");
	bool ok = open_from(c, (unsigned)rand());
	for (unsigned i = 0; ok && i < WATCHES; i++)
		ok = ask(c, "Config.Watch", (const ProtobufCMessage *)in, 20000);
	return c;
}

static bool flood_with_watches(unsigned count, char *seen, size_t size)
{
	Kds__V1__WatchRequest in = caught_up();
	pthread_t threads[WATCHERS];
	void *watchers[WATCHERS];
	struct sp_client c = { .fd = -1 };
	unsigned begun = 0, wanted = count < 3 ? count : 3;
	int code = NO_ANSWER;
	for (unsigned i = 0; i < WATCHERS; i++)
		if (pthread_create(&threads[i], NULL, watch_much, &in) != 0)
			die("no thread");
	for (unsigned i = 0; i < WATCHERS; i++)
		pthread_join(threads[i], &watchers[i]);
	usleep(300000);
	bool ok = open_good(&c);
	for (unsigned i = 0; ok && i < wanted; i++) {
		code = ask(&c, "Config.Watch", (const ProtobufCMessage *)&in, WATCH_MS) ? take_answer(&c, NULL, NULL) : NO_ANSWER;
		/* It waited, and nothing came: told shortly before its deadline, or at it where the machine is busy. */
		ok = code == KDS__V1__CODE__OK || code == KDS__V1__CODE__DEADLINE_EXCEEDED;
		begun += ok;
	}
	sp_close(&c, !ok);
	for (unsigned i = 0; i < WATCHERS; i++) {
		sp_close(watchers[i], true);
		free(watchers[i]);
	}
	snprintf(seen, size, "%d watches of one service; %u of the administrator's meanwhile", WATCHERS * WATCHES, begun);
	return ok || complain("while one service watches %d times the administrator's watch ends with code %d",
			      WATCHERS * WATCHES, code);
}

#define POLLS 8
#define POLL_MS 10000

/* The daemon's idle-timeout is far less than the time that a watch takes: who waits for an answer is not idle. */
static bool poll_long(unsigned count, char *seen, size_t size)
{
	Kds__V1__WatchRequest in = caught_up();
	struct sp_client clients[POLLS], silent;
	unsigned n = count < POLLS ? count : POLLS, answered = 0;
	bool ok = open_good(&silent);
	for (unsigned i = 0; i < n; i++)
		ok = open_good(&clients[i]) && ask(&clients[i], "Config.Watch", (const ProtobufCMessage *)&in, POLL_MS) && ok;
	bool dropped = ok && sp_wait_closed(&silent);
	unsigned long started = now_ms();
	for (unsigned i = 0; i < n; i++) {
		answered += ok && take_answer(&clients[i], NULL, NULL) == KDS__V1__CODE__OK;
		sp_close(&clients[i], true);
	}
	sp_close(&silent, false);
	snprintf(seen, size, "%u of %u watches of %d s answered, the last %lu ms after an idle connection was dropped", answered, n,
		 POLL_MS / 1000, now_ms() - started);
	if (!dropped)
		ok = complain("a connection without a call is not dropped when idle");
	return (answered == n || complain("%u of %u watches were cut by the idle timer", n - answered, n)) && ok;
}

const struct kind insiders[] = {
	{ .name = "request with SHA-1", .ports = PORT_CA, .all = request_with_sha1, .divisor = 25 },
	{ .name = "flood of Ca.Sign", .ports = PORT_CA, .all = flood_with_requests },
	{ .name = "flood of Config.Watch", .ports = PORT_SERIAL, .all = flood_with_watches },
	{ .name = "watch longer than idle", .ports = PORT_IDLE, .all = poll_long },
	{ 0 },
};
