#include "tests/bench/load_records.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BLOCK 65536 /* serials of one Allocate */
#define NODES 20000 /* different subjects */
#define LIFETIME_S (72 * 3600)

/* One request in one piece of memory. */
struct request {
	Kds__V1__RecordRequest message;
	Kds__V1__IssuedCertificate **list;
	struct certificate {
		Kds__V1__IssuedCertificate message;
		uint64_t fingerprint[4];
		char subject[32];
	} *certificates;
};

static unsigned batch;
static uint64_t end;
static atomic_ullong next;

static _Noreturn void die(const char *why)
{
	fprintf(stderr, "bench-load: records: %s\n", why);
	exit(1);
}

static void allocate(struct rpc_channel *channel, uint64_t *ret_first, uint64_t *ret_last)
{
	Kds__V1__AllocateRequest in = KDS__V1__ALLOCATE_REQUEST__INIT;
	struct status st;
	ProtobufCMessage *answer = NULL;
	in.count = BLOCK;
	if (rpc_channel_wait(channel, &kds__v1__serial__descriptor, "Allocate", &in.base, NULL, &st, &answer) != STATUS_OK)
		die(st.message);
	const Kds__V1__AllocateResponse *a = (const Kds__V1__AllocateResponse *)answer;
	*ret_first = a->first;
	*ret_last = a->last;
	protobuf_c_message_free_unpacked(answer, NULL);
}

void load_records_init(struct rpc_channel *channel, unsigned n, uint64_t total)
{
	uint64_t first = 0, last = 0;
	batch = n;
	end = 0;
	for (uint64_t taken = 0; taken < total; taken += BLOCK) {
		allocate(channel, &first, &last);
		if (taken == 0)
			atomic_store(&next, first);
		else if (first != end)
			die("somebody else takes serials meanwhile");
		end = last + 1;
	}
	end = atomic_load(&next) + total;
}

/* SplitMix64: spreads numbers, as SHA-256 and names do. */
static uint64_t spread(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static void fill(struct certificate *c, uint64_t serial, int64_t now)
{
	static uint8_t issuer[20] = { 1, 2, 3 };
	kds__v1__issued_certificate__init(&c->message);
	for (unsigned i = 0; i < 4; i++)
		c->fingerprint[i] = spread(serial * 4 + i);
	snprintf(c->subject, sizeof c->subject, "node%05u.bench.example.com", (unsigned)(spread(serial) % NODES));
	c->message.serial = serial;
	c->message.fingerprint = (ProtobufCBinaryData){ sizeof c->fingerprint, (uint8_t *)c->fingerprint };
	c->message.subject = c->subject;
	c->message.issuer_key_id = (ProtobufCBinaryData){ sizeof issuer, issuer };
	c->message.not_before = now;
	c->message.not_after = now + LIFETIME_S;
	c->message.profile = (char *)"node"; /* only read */
	c->message.requester = c->subject;
}

Kds__V1__RecordRequest *load_records_next(void)
{
	uint64_t first = atomic_fetch_add(&next, batch);
	if (first >= end)
		return NULL;
	size_t n = end - first < batch ? (size_t)(end - first) : batch;
	struct request *r = calloc(1, sizeof *r);
	if (r) {
		r->list = calloc(n, sizeof *r->list);
		r->certificates = calloc(n, sizeof *r->certificates);
	}
	if (!r || !r->list || !r->certificates)
		die("out of memory");
	int64_t now = time(NULL);
	for (size_t i = 0; i < n; i++) {
		fill(&r->certificates[i], first + i, now);
		r->list[i] = &r->certificates[i].message;
	}
	kds__v1__record_request__init(&r->message);
	r->message.n_certificates = n;
	r->message.certificates = r->list;
	return &r->message;
}

void load_records_free(Kds__V1__RecordRequest *request)
{
	struct request *r = (struct request *)request; /* its first member */
	if (!r)
		return;
	free(r->list);
	free(r->certificates);
	free(r);
}

bool load_records_ok(const ProtobufCMessage *answer)
{
	const Kds__V1__RecordResponse *a = (const Kds__V1__RecordResponse *)answer;
	for (size_t i = 0; i < a->n_results; i++)
		if (a->results[i]->code != 0)
			return false;
	return true;
}
