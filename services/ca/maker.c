#include "services/ca/maker.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/plain_name.h"
#include "common/base/secret.h"
#include "services/ca/authority.h"
#include "services/ca/digest.h"
#include "services/ca/failure.h"

#define QUEUE_MAX 16
#define STEP_MAX_MS 3000
#define MARGIN_MS 500    /* the answer leaves so long before the caller's deadline */
#define SERIALS_MAX 3    /* tried for one CA */
#define ID_SIZE 16

struct maker {
	struct rpc_channel *channel;
	struct serials *serials;
	const struct seal *seal;
	struct trust *trust;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stopping;
	struct maker_request queue[QUEUE_MAX];
	size_t head, n;
};

/* One request while it is carried out. */
struct making {
	struct maker *m;
	const struct maker_request *in;
	char whose[IDENTITY_LABEL_MAX];
	uint8_t digest[DIGEST_SIZE];
	const char *field;
	struct buffer certificate; /* DER, of what is made or was there */
};

static bool time_left(struct making *g)
{
	pthread_mutex_lock(&g->m->lock);
	bool stopping = g->m->stopping;
	pthread_mutex_unlock(&g->m->lock);
	return !stopping && clock_monotonic_ms() + MARGIN_MS < g->in->deadline_ms;
}

/* One step. While its answer is missing it is asked for again with the same id; the channel pauses in between, longer each
 * time. The caller frees the answer. */
static enum status_code step(struct making *g, const ProtobufCServiceDescriptor *service, const char *method,
			     const ProtobufCMessage *input, struct status *st, ProtobufCMessage **ret_answer)
{
	uint8_t id[ID_SIZE];
	enum status_code rc = secret_random(id, sizeof id, st);
	if (rc != STATUS_OK)
		return rc;
	do {
		uint64_t now = clock_monotonic_ms() + MARGIN_MS;
		uint64_t left = g->in->deadline_ms > now ? g->in->deadline_ms - now : 1;
		const struct rpc_call_options options = {
			.timeout_ms = left < STEP_MAX_MS ? (unsigned)left : STEP_MAX_MS,
			.request_id = { id, sizeof id },
		};
		rc = rpc_channel_wait(g->m->channel, service, method, input, &options, st, ret_answer);
	} while ((rc == STATUS_UNAVAILABLE || rc == STATUS_DEADLINE_EXCEEDED) && time_left(g));
	return rc;
}

/* Somebody who waits for a serial on his own thread. */
struct wait {
	struct serials_waiter waiter;
	pthread_mutex_t lock;
	pthread_cond_t came;
	bool is_there;
	struct status status;
	uint64_t serial;
};

static void serial_came(struct serials_waiter *waiter, const struct status *st, uint64_t serial)
{
	struct wait *w = (struct wait *)(void *)((char *)waiter - offsetof(struct wait, waiter));
	pthread_mutex_lock(&w->lock);
	w->status = *st;
	w->serial = serial;
	w->is_there = true;
	pthread_cond_signal(&w->came);
	pthread_mutex_unlock(&w->lock);
}

/* Of the blocks that the nodes' certificates take theirs from: the highest serial issued stays near theirs. */
static enum status_code take_serial(struct making *g, struct status *st, uint64_t *ret_serial)
{
	struct wait w = { .waiter = { .turn.whose = g->whose, .done = serial_came }, .lock = PTHREAD_MUTEX_INITIALIZER,
			  .came = PTHREAD_COND_INITIALIZER };
	do {
		w.is_there = false;
		w.status.code = STATUS_OK;
		if (serials_take(g->m->serials, &w.waiter, &w.serial))
			break;
		pthread_mutex_lock(&w.lock);
		while (!w.is_there)
			pthread_cond_wait(&w.came, &w.lock);
		pthread_mutex_unlock(&w.lock);
	} while (w.status.code == STATUS_UNAVAILABLE && time_left(g));
	pthread_cond_destroy(&w.came);
	pthread_mutex_destroy(&w.lock);
	if (w.status.code != STATUS_OK) {
		*st = w.status;
		return st->code;
	}
	*ret_serial = w.serial;
	return STATUS_OK;
}

static void fill_requester(struct making *g, Kds__V1__IssuedCertificate *record)
{
	struct slice id = g->in->request_id;
	record->requester = g->whose;
	if (id.len == 0)
		return;
	record->request_id = (ProtobufCBinaryData){ .data = (uint8_t *)(uintptr_t)id.data, .len = id.len };
	record->request_digest = (ProtobufCBinaryData){ .data = g->digest, .len = sizeof g->digest };
}

/* *ret_again: only the serial was refused. */
static enum status_code record(struct making *g, struct authority_draft *draft, struct status *st, bool *ret_again)
{
	Kds__V1__RecordRequest request = KDS__V1__RECORD_REQUEST__INIT;
	Kds__V1__IssuedCertificate *list[] = { &draft->record };
	ProtobufCMessage *answer = NULL;
	struct status why;
	fill_requester(g, &draft->record);
	request.n_certificates = 1;
	request.certificates = list;
	*ret_again = false;
	if (step(g, &kds__v1__serial__descriptor, "Record", &request.base, &why, &answer) != STATUS_OK)
		return failure_of_call("record", &why, st);
	const Kds__V1__RecordResponse *response = (const Kds__V1__RecordResponse *)answer;
	const Kds__V1__RecordResult *result = response->n_results == 1 ? response->results[0] : NULL;
	enum status_code rc = STATUS_OK;
	if (!result) {
		rc = status_set(st, STATUS_INTERNAL, "record: kds-serial answered without a result");
	} else if (result->code != STATUS_OK && result->refusal == KDS__V1__RECORD_REFUSAL__RECORD_REFUSAL_REPEATED) {
		rc = status_set(st, STATUS_ABORTED,
				"an earlier try with this request id was recorded and came to nothing; use a new request id");
	} else if (result->code != STATUS_OK) {
		enum failure_remedy remedy = failure_remedy(result->refusal);
		*ret_again = remedy != FAILURE_FINAL;
		if (remedy == FAILURE_OTHER_BLOCK)
			serials_drop(g->m->serials, draft->record.serial);
		rc = failure_of_record("record", result->refusal, result->message, st);
	}
	protobuf_c_message_free_unpacked(answer, NULL);
	return rc;
}

/* Compare and set: ABORTED or ALREADY_EXISTS when another was first. */
static enum status_code put(struct making *g, struct authority_draft *draft, struct status *st)
{
	Kds__V1__Object object = KDS__V1__OBJECT__INIT;
	Kds__V1__PutRequest request = KDS__V1__PUT_REQUEST__INIT;
	ProtobufCMessage *answer = NULL;
	struct status why;
	object.value_case = KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY;
	object.certificate_authority = &draft->object;
	request.object = &object;
	request.check_revision = true;
	request.expected_revision = 0;
	enum status_code rc = step(g, &kds__v1__config__descriptor, "Put", &request.base, &why, &answer);
	if (rc == STATUS_OK) {
		protobuf_c_message_free_unpacked(answer, NULL);
		return rc;
	}
	if (rc == STATUS_ABORTED || rc == STATUS_ALREADY_EXISTS)
		return status_set(st, STATUS_ALREADY_EXISTS, "another administrator made it at the same moment");
	return failure_of_call("put it", &why, st);
}

/* Is the CA that is there the one that this very request made, in an earlier try? Its record says so. */
static enum status_code check_made_by(struct making *g, uint64_t serial, struct status *st)
{
	Kds__V1__ListCertificatesRequest request = KDS__V1__LIST_CERTIFICATES_REQUEST__INIT;
	ProtobufCMessage *answer = NULL;
	struct status why;
	request.after_serial = serial - 1;
	request.limit = 1;
	if (step(g, &kds__v1__serial__descriptor, "ListCertificates", &request.base, &why, &answer) != STATUS_OK)
		return failure_of_call("look for its record", &why, st);
	const Kds__V1__ListCertificatesResponse *list = (const Kds__V1__ListCertificatesResponse *)answer;
	const Kds__V1__IssuedCertificate *r = list->n_certificates == 1 ? list->certificates[0] : NULL;
	struct slice id = g->in->request_id;
	enum status_code rc = STATUS_OK;
	if (!r || r->serial != serial || id.len == 0 || r->request_id.len != id.len ||
	    memcmp(r->request_id.data, id.data, id.len) != 0 || strcmp(r->requester, g->whose) != 0)
		rc = status_set(st, STATUS_ALREADY_EXISTS, "there is one of this name; see kds-cli ca list");
	else if (r->request_digest.len != sizeof g->digest ||
		 memcmp(r->request_digest.data, g->digest, sizeof g->digest) != 0)
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "this request id asked for another CA before; use a new one");
	protobuf_c_message_free_unpacked(answer, NULL);
	return rc;
}

static enum status_code read_authority(const Kds__V1__CertificateAuthority *ca, struct status *st,
				       struct x509_info *ret_info)
{
	gnutls_x509_crt_t crt = NULL;
	enum status_code rc = x509_import((struct slice){ ca->certificate.data, ca->certificate.len }, st, &crt);
	if (rc != STATUS_OK)
		return rc;
	rc = x509_info_read(crt, st, ret_info);
	gnutls_x509_crt_deinit(crt);
	return rc;
}

/*
 * Holds one CA of the configuration against the new one. *ret_found: it is the one asked for, made before. Two anchors of
 * one name could not be told apart by whoever verifies.
 */
static enum status_code compare(struct making *g, const Kds__V1__CertificateAuthority *ca, struct status *st,
				bool *ret_found)
{
	struct x509_info info;
	bool same_name = strcmp(ca->name, g->in->name) == 0;
	if (read_authority(ca, st, &info) != STATUS_OK)
		return same_name ? status_set(st, STATUS_ALREADY_EXISTS, "there is one of this name, which is damaged") :
				   STATUS_OK;
	uint64_t serial = x509_info_serial(&info);
	bool same_subject = strcmp(info.common_name, g->in->common_name) == 0;
	x509_info_free(&info);
	if (same_name) {
		enum status_code rc = check_made_by(g, serial, st);
		if (rc == STATUS_OK && !buffer_append(&g->certificate, ca->certificate.data, ca->certificate.len))
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory; try again later");
		*ret_found = rc == STATUS_OK;
		return rc;
	}
	if (!same_subject)
		return STATUS_OK;
	g->field = "common_name";
	return status_set(st, STATUS_INVALID_ARGUMENT, "CA %s has the common name '%s' already; give another", ca->name,
			  g->in->common_name);
}

static enum status_code look_at_others(struct making *g, struct status *st, bool *ret_found)
{
	Kds__V1__ListRequest request = KDS__V1__LIST_REQUEST__INIT;
	ProtobufCMessage *answer = NULL;
	struct status why;
	enum status_code rc = STATUS_OK;
	char after[PLAIN_NAME_MAX + 8] = "";
	bool more = true;
	request.prefix = (char *)"ca/";
	request.after = after;
	while (rc == STATUS_OK && more && !*ret_found) {
		if (step(g, &kds__v1__config__descriptor, "List", &request.base, &why, &answer) != STATUS_OK)
			return failure_of_call("look at the other CAs", &why, st);
		const Kds__V1__ListResponse *list = (const Kds__V1__ListResponse *)answer;
		for (size_t i = 0; i < list->n_objects && rc == STATUS_OK && !*ret_found; i++) {
			if (list->objects[i]->value_case == KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY)
				rc = compare(g, list->objects[i]->certificate_authority, st, ret_found);
		}
		more = list->more && list->n_objects > 0;
		if (more)
			snprintf(after, sizeof after, "%s", list->objects[list->n_objects - 1]->key);
		protobuf_c_message_free_unpacked(answer, NULL);
	}
	return rc;
}

/* With one that bears the infrastructure CA's name, no process would take any of the cluster's CAs any more. */
static enum status_code check_draft(struct making *g, const struct authority_draft *draft, struct status *st)
{
	const struct slice der = { draft->object.certificate.data, draft->object.certificate.len };
	enum status_code rc = trust_check_cluster_ca(g->m->trust, der, st);
	if (rc == STATUS_INVALID_ARGUMENT)
		g->field = "common_name";
	return rc;
}

/* From a serial to the CA. The draft lives as long as the request. */
static enum status_code make(struct making *g, struct status *st)
{
	struct authority_draft draft;
	uint64_t serial = 0;
	enum status_code rc;
	bool again = true;
	for (int i = 0; i < SERIALS_MAX && again; i++) {
		again = false;
		rc = take_serial(g, st, &serial);
		if (rc != STATUS_OK)
			return rc;
		rc = authority_draft_make(g->in->name, g->in->common_name, serial, (int64_t)(clock_unix_ms() / 1000), g->m->seal,
					  st, &draft);
		if (rc != STATUS_OK)
			return rc;
		rc = check_draft(g, &draft, st);
		if (rc == STATUS_OK)
			rc = record(g, &draft, st, &again);
		if (rc == STATUS_OK)
			rc = put(g, &draft, st);
		if (rc == STATUS_OK && !buffer_append(&g->certificate, draft.object.certificate.data,
						      draft.object.certificate.len))
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "it is made, but there is no memory to answer with");
		authority_draft_fini(&draft);
	}
	if (rc == STATUS_OK)
		log_info("made CA name=%s common-name=%s serial=%" PRIu64 " requester=%s", g->in->name, g->in->common_name, serial,
			 g->whose);
	return rc;
}

static enum status_code carry_out(struct making *g, struct status *st)
{
	const struct maker_request *in = g->in;
	const struct slice fields[] = { { in->name, strlen(in->name) }, { in->common_name, strlen(in->common_name) } };
	bool found = false;
	enum status_code rc = digest_of("Ca.Create", fields, sizeof fields / sizeof *fields, st, g->digest);
	if (rc == STATUS_OK)
		rc = look_at_others(g, st, &found);
	if (rc == STATUS_OK && !found)
		rc = make(g, st);
	return rc;
}

static void serve(struct maker *m, const struct maker_request *in)
{
	struct making g = { .m = m, .in = in, .field = "" };
	struct maker_result result = { .status.code = STATUS_OK };
	(void)identity_label(in->caller, g.whose);
	if (carry_out(&g, &result.status) != STATUS_OK) {
		(void)status_prefix(&result.status, "create CA %s", in->name);
		log_warning("%s", result.status.message);
	}
	result.field = g.field;
	result.certificate = (struct slice){ g.certificate.data, g.certificate.len };
	in->done(in->arg, &result);
	buffer_free(&g.certificate);
}

static void refuse(const struct maker_request *in, enum status_code code, const char *why)
{
	struct maker_result result = { .field = "" };
	status_set(&result.status, code, "create CA %s: %s", in->name, why);
	in->done(in->arg, &result);
}

static void *run(void *arg)
{
	struct maker *m = arg;
	pthread_setname_np(pthread_self(), "maker");
	pthread_mutex_lock(&m->lock);
	for (;;) {
		while (m->n == 0 && !m->stopping)
			pthread_cond_wait(&m->wake, &m->lock);
		if (m->n == 0)
			break;
		const struct maker_request request = m->queue[m->head];
		bool stopping = m->stopping;
		m->head = (m->head + 1) % QUEUE_MAX;
		m->n--;
		pthread_mutex_unlock(&m->lock);
		if (stopping)
			refuse(&request, STATUS_UNAVAILABLE, "this kds-ca is stopping; ask another");
		else
			serve(m, &request);
		pthread_mutex_lock(&m->lock);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

enum status_code maker_start(struct rpc_channel *channel, struct serials *serials, const struct seal *seal,
			     struct trust *trust, struct status *st, struct maker **ret_maker)
{
	struct maker *m = calloc(1, sizeof *m);
	if (!m)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "CA: out of memory");
	m->channel = channel;
	m->serials = serials;
	m->seal = seal;
	m->trust = trust;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->wake, NULL);
	int rv = pthread_create(&m->thread, NULL, run, m);
	if (rv != 0) {
		pthread_cond_destroy(&m->wake);
		pthread_mutex_destroy(&m->lock);
		free(m);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "CA: start a thread: %s", strerror(rv));
	}
	*ret_maker = m;
	return STATUS_OK;
}

void maker_stop(struct maker *m)
{
	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	m->stopping = true;
	pthread_cond_signal(&m->wake);
	pthread_mutex_unlock(&m->lock);
	pthread_join(m->thread, NULL);
	pthread_cond_destroy(&m->wake);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

void maker_submit(struct maker *m, const struct maker_request *request)
{
	pthread_mutex_lock(&m->lock);
	bool stopping = m->stopping, full = m->n == QUEUE_MAX;
	if (!stopping && !full) {
		m->queue[(m->head + m->n) % QUEUE_MAX] = *request;
		m->n++;
		pthread_cond_signal(&m->wake);
	}
	pthread_mutex_unlock(&m->lock);
	if (stopping)
		refuse(request, STATUS_UNAVAILABLE, "this kds-ca is stopping; ask another");
	else if (full)
		refuse(request, STATUS_RESOURCE_EXHAUSTED, "others are being made; try again later");
}
