#include "services/ca/issue.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <gnutls/crypto.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/daemon/workers.h"
#include "common/x509/key.h"
#include "services/ca/digest.h"
#include "services/ca/failure.h"
#include "services/ca/recorder.h"

#define QUEUE_MAX 8192        /* requests that wait for a worker: a second or two of work */
#define QUEUE_MAX_ONE 2048    /* of one identity */
#define SERIALS_MAX 3         /* tried for one certificate */
#define CHANGES_MAX 3         /* of a node while its certificate is being made */
#define CALL_MAX_MS 2000
#define MARGIN_MAX_MS 500     /* the answer leaves so long before the caller's deadline, or a tenth of the time */

struct issuing {
	struct keeper *keeper;
	struct nodes *nodes;
	struct serials *serials;
	struct recorder *recorder;
	struct trust *trust;
	struct workers *workers;
	char *kds_name;
	const struct settings *settings;
	pthread_mutex_t lock;
	pthread_cond_t idle;
	unsigned jobs;
	bool stopping;
};

/* One request on its way. Owned by whatever step it is in. */
struct job {
	struct issuing *p;
	struct issue_request in;
	char whose[IDENTITY_LABEL_MAX];
	uint8_t digest[DIGEST_SIZE]; /* of what is asked for */
	uint64_t give_up_ms;
	struct workers_job step;
	struct nodes_query query;
	Kds__V1__Object *node;
	uint64_t node_as_of;     /* revision at which `node` held */
	struct authority *authority;
	struct profile profile;
	gnutls_pubkey_t key;
	struct serials_waiter waiter;
	struct recorder_entry entry;
	unsigned refused;        /* serials */
	unsigned changes;        /* of the node while its certificate was being made */
	bool recorded;           /* a certificate that was thrown away since has the request id in its record */
	bool repeated;           /* made again of the record of an earlier try, which has the fingerprint `known` */
	uint8_t fingerprint[32], known[32];
	struct buffer pem;
};

static void leave(struct issuing *p)
{
	pthread_mutex_lock(&p->lock);
	if (--p->jobs == 0)
		pthread_cond_broadcast(&p->idle);
	pthread_mutex_unlock(&p->lock);
}

static void release(struct job *j)
{
	struct issuing *p = j->p;
	if (j->key)
		gnutls_pubkey_deinit(j->key);
	authority_unref(j->authority);
	kds__v1__object__free_unpacked(j->node, NULL);
	buffer_free(&j->pem);
	free(j);
	leave(p);
}

static void fail(struct job *j, const struct status *st, const char *field)
{
	struct issue_result result = { .status = *st, .field = field };
	j->in.done(j->in.arg, &result);
	release(j);
}

static void succeed(struct job *j)
{
	const struct x509_template *t = &j->profile.template;
	struct issue_result result = {
		.field = "",
		.certificate = (const char *)j->pem.data,
		.serial = t->serial,
		.not_before = t->not_before,
		.not_after = t->not_after,
	};
	log_debug("issued serial=%" PRIu64 " node=%s profile=%s requester=%s", t->serial, t->common_name,
		  profile_name(j->in.profile), j->whose);
	j->in.done(j->in.arg, &result);
	release(j);
}

/* Work for nobody is not begun; a serial that it had is lost. */
static bool dropped(struct job *j)
{
	if (!j->in.expired(j->in.arg))
		return false;
	struct status st;
	status_set(&st, STATUS_DEADLINE_EXCEEDED, "sign: the caller does not wait any more");
	fail(j, &st, "");
	return true;
}

/* Is there the time, and a process that goes on, to try something again? */
static bool time_left(struct job *j)
{
	pthread_mutex_lock(&j->p->lock);
	bool stopping = j->p->stopping;
	pthread_mutex_unlock(&j->p->lock);
	return !stopping && clock_monotonic_ms() < j->give_up_ms;
}

/* For a call that the request waits for. Not longer than a stopping process should wait. */
static unsigned patience(const struct job *j)
{
	uint64_t now = clock_monotonic_ms();
	uint64_t left = j->give_up_ms > now ? j->give_up_ms - now : 1;
	return left < CALL_MAX_MS ? (unsigned)left : CALL_MAX_MS;
}

static void sign_work(void *arg);
static void record_came(struct recorder_entry *e, const struct status *verdict);

static void submit_work(struct job *j, void (*work)(void *))
{
	struct status st;
	j->step.work = work;
	if (workers_submit(j->p->workers, &j->step, &st) == STATUS_OK)
		return;
	(void)status_prefix(&st, "sign");
	fail(j, &st, "");
}

static struct job *job_of_waiter(struct serials_waiter *w)
{
	return (struct job *)(void *)((char *)w - offsetof(struct job, waiter));
}

/* On a worker. */
static void take_serial_work(void *arg)
{
	struct job *j = arg;
	if (serials_take(j->p->serials, &j->waiter, &j->profile.template.serial))
		sign_work(j);
}

static void serial_came(struct serials_waiter *w, const struct status *st, uint64_t serial)
{
	struct job *j = job_of_waiter(w);
	if (st->code == STATUS_OK) {
		j->profile.template.serial = serial;
		submit_work(j, sign_work);
	} else if (st->code == STATUS_UNAVAILABLE && time_left(j)) {
		submit_work(j, take_serial_work);
	} else {
		fail(j, st, "");
	}
}

static enum status_code check_request(struct job *j, struct status *st, const char **ret_field)
{
	struct issuing *p = j->p;
	authority_unref(j->authority); /* of a first round that the node's change made void */
	j->authority = NULL;
	enum status_code rc = keeper_authority(p->keeper, st, &j->authority);
	if (rc != STATUS_OK)
		return rc;
	*ret_field = "profile";
	rc = profile_fill(j->in.profile, j->node->node, p->kds_name, st, &j->profile);
	if (rc != STATUS_OK)
		return rc;
	*ret_field = "lifetime_s";
	const struct profile_lifetimes lifetimes = profile_lifetimes(j->in.profile, p->settings);
	rc = profile_validity(&lifetimes, j->in.lifetime_s, (int64_t)(clock_unix_ms() / 1000),
			      authority_not_after(j->authority), st, &j->profile.template);
	if (rc != STATUS_OK)
		return rc;
	*ret_field = "csr";
	return j->key ? STATUS_OK : x509_request_verify(j->in.csr, st, &j->key);
}

static enum status_code digest_request(struct job *j, struct status *st)
{
	const struct issue_request *in = &j->in;
	const uint8_t numbers[] = { (uint8_t)in->profile, (uint8_t)(in->lifetime_s >> 24), (uint8_t)(in->lifetime_s >> 16),
				    (uint8_t)(in->lifetime_s >> 8), (uint8_t)in->lifetime_s };
	const struct slice fields[] = { in->csr, { in->node, strlen(in->node) }, { numbers, sizeof numbers } };
	return digest_of("Ca.Sign", fields, sizeof fields / sizeof *fields, st, j->digest);
}

static void begin_work(void *arg)
{
	struct job *j = arg;
	struct status st;
	const char *field = "";
	if (dropped(j))
		return;
	if (check_request(j, &st, &field) != STATUS_OK || digest_request(j, &st) != STATUS_OK) {
		fail(j, &st, st.code == STATUS_INVALID_ARGUMENT ? field : "");
		return;
	}
	take_serial_work(j);
}

static enum status_code append_pem(struct job *j, const gnutls_datum_t *der, struct status *st)
{
	gnutls_datum_t pem = { 0 };
	int rv = gnutls_pem_base64_encode2("CERTIFICATE", der, &pem);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "sign: %s", gnutls_strerror(rv));
	struct slice chain = authority_chain(j->authority);
	j->pem.len = 0;
	bool fits = buffer_append(&j->pem, pem.data, pem.size) && buffer_append(&j->pem, chain.data, chain.len) &&
		    buffer_append(&j->pem, "", 1);
	gnutls_free(pem.data);
	return fits ? STATUS_OK : status_set(st, STATUS_RESOURCE_EXHAUSTED, "sign: out of memory");
}

/* Encoded once: the record's fingerprint and the answer come of the same bytes. */
static enum status_code encode(struct job *j, gnutls_x509_crt_t crt, struct status *st)
{
	gnutls_datum_t der = { 0 };
	int rv = gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_DER, &der);
	if (rv >= 0)
		rv = gnutls_hash_fast(GNUTLS_DIG_SHA256, der.data, der.size, j->fingerprint);
	enum status_code rc;
	if (rv < 0)
		rc = status_set(st, STATUS_INTERNAL, "sign: %s", gnutls_strerror(rv));
	else
		rc = append_pem(j, &der, st);
	gnutls_free(der.data);
	return rc;
}

/* Who asks, as the state machine checks it: a node by the certificate that it asks with. */
static void fill_requester(struct job *j, Kds__V1__IssuedCertificate *c)
{
	const struct identity *caller = j->in.caller;
	c->requester = j->whose;
	if (caller->roles & (PEER_NODE | PEER_KDS_CLIENT)) {
		c->requester_serial = identity_serial(caller);
		c->requester_issuer = (ProtobufCBinaryData){ .data = (uint8_t *)(uintptr_t)caller->issuer_key_id,
							     .len = caller->issuer_key_id_len };
	}
	if (j->in.request_id.len > 0 && !j->recorded) {
		c->request_id = (ProtobufCBinaryData){ .data = (uint8_t *)(uintptr_t)j->in.request_id.data,
						       .len = j->in.request_id.len };
		c->request_digest = (ProtobufCBinaryData){ .data = j->digest, .len = sizeof j->digest };
	}
}

static void fill_entry(struct job *j)
{
	const struct x509_template *t = &j->profile.template;
	struct slice key_id = authority_key_id(j->authority);
	Kds__V1__IssuedCertificate *c = &j->entry.certificate;
	kds__v1__issued_certificate__init(c);
	c->serial = t->serial;
	c->fingerprint = (ProtobufCBinaryData){ .data = j->fingerprint, .len = sizeof j->fingerprint };
	c->subject = (char *)t->common_name;
	c->issuer_key_id = (ProtobufCBinaryData){ .data = (uint8_t *)key_id.data, .len = key_id.len };
	c->not_before = t->not_before;
	c->not_after = t->not_after;
	c->profile = (char *)profile_name(j->in.profile);
	fill_requester(j, c);
	j->entry.refusal = KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_NONE;
	j->entry.known = NULL;
	j->entry.turn.whose = j->whose;
	j->entry.give_up_ms = j->give_up_ms;
	j->entry.done = record_came;
}

static enum status_code build(struct job *j, struct status *st)
{
	gnutls_x509_crt_t crt = NULL;
	enum status_code rc = x509_build(&j->profile.template, j->key, authority_issuer(j->authority), st, &crt);
	if (rc == STATUS_OK)
		rc = encode(j, crt, st);
	if (crt)
		gnutls_x509_crt_deinit(crt);
	return rc;
}

static void sign_work(void *arg)
{
	struct job *j = arg;
	struct status st;
	if (dropped(j))
		return;
	if (build(j, &st) != STATUS_OK) {
		fail(j, &st, "");
		return;
	}
	fill_entry(j);
	recorder_submit(j->p->recorder, &j->entry);
}

/* Another serial for a certificate whose own is refused, `why`. */
static void try_another_serial(struct job *j, const char *why)
{
	struct status st;
	if (++j->refused < SERIALS_MAX) {
		submit_work(j, take_serial_work);
		return;
	}
	status_set(&st, STATUS_ABORTED, "sign: the serials of %d certificates were refused; try again: %s", SERIALS_MAX, why);
	fail(j, &st, "");
}

static void fail_repeated(struct job *j, const char *why)
{
	struct status st;
	status_set(&st, STATUS_ABORTED, "sign: this request was answered before, and %s; use a new request id", why);
	fail(j, &st, "");
}

/* The last look before a certificate leaves: are its caller and its serial still good? */
static void hand_out(struct job *j)
{
	struct status st;
	uint64_t min_serial = trust_min_serial(j->p->trust);
	if (trust_recheck(j->p->trust, j->in.caller, &st) != STATUS_OK) {
		(void)status_prefix(&st, "sign");
		fail(j, &st, "");
	} else if (j->profile.template.serial >= min_serial) {
		succeed(j);
	} else if (j->repeated) {
		fail_repeated(j, "its certificate is below min_serial by now");
	} else {
		j->recorded = true;
		try_another_serial(j, "min_serial was raised");
	}
}

/* Takes the object over. */
static void set_node(struct job *j, Kds__V1__Object *object, uint64_t as_of)
{
	kds__v1__object__free_unpacked(j->node, NULL);
	j->node = object;
	j->node_as_of = as_of;
}

static struct job *job_of_query(struct nodes_query *q)
{
	return (struct job *)(void *)((char *)q - offsetof(struct job, query));
}

static void node_came(struct nodes_query *q, const struct status *st, Kds__V1__Object *object, uint64_t as_of)
{
	struct job *j = job_of_query(q);
	if (!object) {
		fail(j, st, "");
		return;
	}
	set_node(j, object, as_of);
	submit_work(j, begin_work);
}

static void fail_changing(struct job *j)
{
	struct status st;
	status_set(&st, STATUS_ABORTED, "node %.100s: it is being changed all the time; try again", j->in.node);
	fail(j, &st, "");
}

/* The node as it is after the certificate's commit. */
static void node_confirmed(struct nodes_query *q, const struct status *st, Kds__V1__Object *object, uint64_t as_of)
{
	struct job *j = job_of_query(q);
	if (!object) {
		fail(j, st, "");
		return;
	}
	bool same = object->revision == j->node->revision;
	if (same || j->repeated || ++j->changes > CHANGES_MAX) {
		kds__v1__object__free_unpacked(object, NULL);
		if (same)
			hand_out(j);
		else if (j->repeated)
			fail_repeated(j, "the node was changed since");
		else
			fail_changing(j);
		return;
	}
	j->recorded = true;
	set_node(j, object, as_of);
	submit_work(j, begin_work);
}

/* The gate: nothing signed gets to a caller but from here. Its record is committed; is the node still what it was? */
static void deliver(struct job *j)
{
	if (j->entry.revision <= j->node_as_of) {
		hand_out(j);
		return;
	}
	j->query.done = node_confirmed;
	j->query.timeout_ms = patience(j);
	nodes_ask(j->p->nodes, &j->query);
}

static void repeat_work(void *arg)
{
	struct job *j = arg;
	struct status st;
	if (dropped(j))
		return;
	if (build(j, &st) != STATUS_OK)
		fail(j, &st, "");
	else if (memcmp(j->fingerprint, j->known, sizeof j->known) != 0)
		fail_repeated(j, "what it would get by now is another certificate");
	else
		deliver(j);
}

/* An earlier try is on record: the same certificate again. */
static void repeat(struct job *j, const Kds__V1__IssuedCertificate *known)
{
	if (!known || known->fingerprint.len != sizeof j->known || known->serial == 0) {
		fail_repeated(j, "kds-serial does not say with what");
		return;
	}
	memcpy(j->known, known->fingerprint.data, sizeof j->known);
	j->profile.template.serial = known->serial;
	j->profile.template.not_before = known->not_before;
	j->profile.template.not_after = known->not_after;
	j->repeated = true;
	submit_work(j, repeat_work);
}

static void record_came(struct recorder_entry *e, const struct status *verdict)
{
	struct job *j = (struct job *)(void *)((char *)e - offsetof(struct job, entry));
	if (verdict->code == STATUS_OK) {
		deliver(j);
		return;
	}
	if (verdict->code != STATUS_ABORTED) {
		fail(j, verdict, "");
		return;
	}
	if (e->refusal == KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REPEATED) {
		repeat(j, e->known);
		return;
	}
	struct status st;
	switch (failure_remedy(e->refusal)) {
	case FAILURE_OTHER_BLOCK:
		serials_drop(j->p->serials, e->certificate.serial);
		try_another_serial(j, verdict->message);
		break;
	case FAILURE_OTHER_SERIAL:
		try_another_serial(j, verdict->message);
		break;
	case FAILURE_FINAL:
		(void)failure_of_record("sign", e->refusal, verdict->message, &st);
		fail(j, &st, "");
		break;
	}
}

enum status_code issuing_start(const struct issuing_options *options, struct status *st, struct issuing **ret_issuing)
{
	struct issuing *p = calloc(1, sizeof *p);
	if (!p)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "issuing: out of memory");
	p->keeper = options->keeper;
	p->nodes = options->nodes;
	p->serials = options->serials;
	p->settings = options->settings;
	p->trust = options->trust;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->idle, NULL);
	const struct workers_limits limits = { .threads = options->workers, .max_queued = QUEUE_MAX,
					       .max_queued_one = QUEUE_MAX_ONE };
	enum status_code rc = STATUS_OK;
	p->kds_name = strdup(options->kds_name);
	if (!p->kds_name)
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "issuing: out of memory");
	if (rc == STATUS_OK)
		rc = recorder_new(options->channel, st, &p->recorder);
	if (rc == STATUS_OK)
		rc = workers_start(&limits, st, &p->workers);
	if (rc != STATUS_OK) {
		issuing_stop(p);
		return rc;
	}
	*ret_issuing = p;
	return STATUS_OK;
}

void issuing_stop(struct issuing *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stopping = true;
	pthread_mutex_unlock(&p->lock);
	if (p->recorder)
		recorder_hurry(p->recorder);
	pthread_mutex_lock(&p->lock);
	while (p->jobs > 0)
		pthread_cond_wait(&p->idle, &p->lock);
	pthread_mutex_unlock(&p->lock);
	workers_stop(p->workers);
	recorder_free(p->recorder);
	pthread_cond_destroy(&p->idle);
	pthread_mutex_destroy(&p->lock);
	free(p->kds_name);
	free(p);
}

static bool enter(struct issuing *p)
{
	pthread_mutex_lock(&p->lock);
	bool open = !p->stopping;
	if (open)
		p->jobs++;
	pthread_mutex_unlock(&p->lock);
	return open;
}

/* When to give up, so that "unavailable" still gets there in time. */
static uint64_t give_up_at(uint64_t deadline_ms)
{
	uint64_t now = clock_monotonic_ms();
	if (deadline_ms <= now)
		return now;
	uint64_t margin = (deadline_ms - now) / 10;
	return deadline_ms - (margin < MARGIN_MAX_MS ? margin : MARGIN_MAX_MS);
}

void issuing_submit(struct issuing *p, const struct issue_request *request)
{
	struct issue_result result = { .field = "" };
	if (!enter(p)) {
		status_set(&result.status, STATUS_UNAVAILABLE, "sign: this kds-ca is stopping; ask another");
		request->done(request->arg, &result);
		return;
	}
	struct job *j = calloc(1, sizeof *j);
	if (!j) {
		status_set(&result.status, STATUS_RESOURCE_EXHAUSTED, "sign: out of memory; try again later");
		request->done(request->arg, &result);
		leave(p);
		return;
	}
	j->p = p;
	j->in = *request;
	j->give_up_ms = give_up_at(request->deadline_ms);
	(void)identity_label(request->caller, j->whose);
	j->step = (struct workers_job){ .turn.whose = j->whose, .arg = j };
	j->waiter = (struct serials_waiter){ .turn.whose = j->whose, .done = serial_came };
	j->query = (struct nodes_query){ .name = j->in.node, .timeout_ms = patience(j), .done = node_came };
	nodes_find(p->nodes, &j->query);
}

enum status_code issuing_health(struct issuing *p, struct status *st)
{
	return recorder_health(p->recorder, st);
}
