#include "services/serial/publish.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/x509/cert.h"

#define MIRROR_INTERVAL_MS 1000
/* Answers of state_list(), 16 MiB in all. */
#define PAGES_MAX 32

/* All objects of one kind. */
struct pages {
	Kds__V1__ListResponse *page[PAGES_MAX];
	size_t n;
};

/* What the engine's thread takes from the state, for ours to work with. */
struct snapshot {
	struct status status;
	uint64_t known; /* in: the revision whose objects we have */
	Kds__V1__SerialStatus serial;
	struct pages authorities, services; /* when the revision is another than `known` */
};

struct publish {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool started, stopping;
	bool news, read_done;
	uint64_t revision;

	/* The thread's own. */
	struct engine *engine;
	struct daemon *daemon;
	char *serial_file, *cert_file;
	struct buffer certificates;           /* PEM, as the trust has them */
	struct buffer serial_text, cert_text; /* as written last */
	uint64_t published;
	bool mirror_failed;
};

enum status_code publish_new(struct status *st, struct publish **ret_publish)
{
	struct publish *p = calloc(1, sizeof *p);
	if (!p)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start publishing: out of memory");
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&p->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	*ret_publish = p;
	return STATUS_OK;
}

void publish_free(struct publish *p)
{
	if (!p)
		return;
	free(p->serial_file);
	free(p->cert_file);
	buffer_free(&p->certificates);
	buffer_free(&p->serial_text);
	buffer_free(&p->cert_text);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void publish_changed(struct publish *p, uint64_t revision)
{
	pthread_mutex_lock(&p->lock);
	if (revision > p->revision) {
		p->revision = revision;
		p->news = true;
		pthread_cond_signal(&p->wake);
	}
	pthread_mutex_unlock(&p->lock);
}

/* Reading, on the engine's thread. */

static enum status_code read_page(struct state *s, const char *prefix, struct pages *pages, struct status *st)
{
	Kds__V1__ListRequest in = KDS__V1__LIST_REQUEST__INIT;
	in.prefix = (char *)prefix;
	if (pages->n > 0) {
		const Kds__V1__ListResponse *last = pages->page[pages->n - 1];
		in.after = last->objects[last->n_objects - 1]->key;
	}
	struct buffer packed = { 0 };
	enum status_code rc = state_list(s, &in, 0, st, &packed);
	if (rc == STATUS_OK) {
		pages->page[pages->n] = kds__v1__list_response__unpack(NULL, packed.len, packed.data);
		if (pages->page[pages->n])
			pages->n++;
		else
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	}
	buffer_free(&packed);
	return rc;
}

static enum status_code read_pages(struct state *s, const char *prefix, struct pages *pages, struct status *st)
{
	bool more = true;
	while (more && pages->n < PAGES_MAX) {
		enum status_code rc = read_page(s, prefix, pages, st);
		if (rc != STATUS_OK)
			return rc;
		more = pages->page[pages->n - 1]->more;
	}
	if (more)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "too many objects under %s: delete what is not needed",
				  prefix);
	return STATUS_OK;
}

struct reading {
	struct publish *publish;
	struct snapshot *snapshot;
};

static void take_snapshot(void *arg, struct state *state, const struct status *st)
{
	const struct reading *r = arg;
	struct snapshot *n = r->snapshot;
	if (!state) {
		n->status = *st;
	} else {
		n->status.code = STATUS_OK;
		state_serial_status(state, &n->serial);
		if (n->serial.revision != n->known &&
		    read_pages(state, "ca/", &n->authorities, &n->status) == STATUS_OK)
			(void)read_pages(state, "service/", &n->services, &n->status);
	}
	struct publish *p = r->publish;
	pthread_mutex_lock(&p->lock);
	p->read_done = true;
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

static void read_state(struct publish *p, struct snapshot *ret_snapshot)
{
	*ret_snapshot = (struct snapshot){ .known = p->published };
	struct reading r = { p, ret_snapshot };
	p->read_done = false;
	engine_read(p->engine, false, take_snapshot, &r);
	pthread_mutex_lock(&p->lock);
	while (!p->read_done)
		pthread_cond_wait(&p->wake, &p->lock);
	pthread_mutex_unlock(&p->lock);
}

static void free_pages(struct pages *pages)
{
	for (size_t i = 0; i < pages->n; i++)
		kds__v1__list_response__free_unpacked(pages->page[i], NULL);
}

static size_t count_objects(const struct pages *pages)
{
	size_t n = 0;
	for (size_t i = 0; i < pages->n; i++)
		n += pages->page[i]->n_objects;
	return n;
}

/* Trust. */

/* To the trust, and in PEM for the mirror. One that cannot be read is left out: it must not take the others with it. */
static enum status_code trust_authorities(struct publish *p, const struct pages *pages, struct status *st)
{
	struct slice *cas = calloc(count_objects(pages) + 1, sizeof *cas);
	if (!cas)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	size_t n = 0;
	enum status_code rc = STATUS_OK;
	p->certificates.len = 0;
	for (size_t i = 0; i < pages->n; i++)
		for (size_t k = 0; rc == STATUS_OK && k < pages->page[i]->n_objects; k++) {
			const Kds__V1__Object *o = pages->page[i]->objects[k];
			if (o->value_case != KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY)
				continue;
			const ProtobufCBinaryData *der = &o->certificate_authority->certificate;
			gnutls_x509_crt_t crt;
			if (x509_import((struct slice){ der->data, der->len }, st, &crt) != STATUS_OK) {
				log_error("trust %s: %s; put it again", o->key, st->message);
				continue;
			}
			cas[n++] = (struct slice){ der->data, der->len };
			rc = x509_to_pem(crt, st, &p->certificates);
			gnutls_x509_crt_deinit(crt);
		}
	if (rc == STATUS_OK)
		rc = trust_follow_cluster_cas(daemon_trust(p->daemon), cas, n, st);
	free(cas);
	return rc;
}

static enum status_code trust_services(struct publish *p, const struct pages *pages, struct status *st)
{
	const char **names = calloc(count_objects(pages) + 1, sizeof *names);
	if (!names)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	size_t n = 0;
	for (size_t i = 0; i < pages->n; i++)
		for (size_t k = 0; k < pages->page[i]->n_objects; k++) {
			const Kds__V1__Object *o = pages->page[i]->objects[k];
			if (o->value_case == KDS__V1__OBJECT__VALUE_SERVICE && o->service->removed)
				names[n++] = o->service->name;
		}
	enum status_code rc = trust_set_removed_services(daemon_trust(p->daemon), names, n, st);
	free(names);
	return rc;
}

static enum status_code publish_trust(struct publish *p, const struct snapshot *n, struct status *st)
{
	trust_set_min_serial(daemon_trust(p->daemon), n->serial.min_serial);
	enum status_code rc = trust_services(p, &n->services, st);
	if (rc == STATUS_OK)
		rc = trust_authorities(p, &n->authorities, st);
	daemon_trust_changed(p->daemon);
	engine_recheck(p->engine);
	return rc;
}

/* Mirror. */

/* Writes `text` unless it is what was written last. */
static enum status_code write_mirror(const char *path, const struct buffer *text, struct buffer *last,
				     struct status *st)
{
	if (last->data && text->len == last->len && (text->len == 0 || memcmp(text->data, last->data, text->len) == 0))
		return STATUS_OK;
	enum status_code rc = file_write(path, (struct slice){ text->data, text->len }, 0644, true, st);
	if (rc != STATUS_OK)
		return rc;
	/* Without memory for it the same is written again next time. */
	buffer_free(last);
	(void)(buffer_reserve(last, 1) && buffer_append(last, text->data, text->len));
	return STATUS_OK;
}

static enum status_code mirror(struct publish *p, const Kds__V1__SerialStatus *s, struct status *st)
{
	char line[128];
	int len =
	    snprintf(line, sizeof line, "last_serial %" PRIu64 "\nmin_serial %" PRIu64 "\nhighest_issued %" PRIu64 "\n",
		     s->last_serial, s->min_serial, s->highest_issued);
	const struct buffer numbers = { .data = (uint8_t *)line, .len = (size_t)len };
	enum status_code rc = write_mirror(p->serial_file, &numbers, &p->serial_text, st);
	return rc == STATUS_OK ? write_mirror(p->cert_file, &p->certificates, &p->cert_text, st) : rc;
}

/* A full disk must not stop the replica for a copy; say it once, and once when it is over. */
static void report_mirror(struct publish *p, enum status_code rc, const struct status *st)
{
	if (rc != STATUS_OK && !p->mirror_failed)
		log_warning("mirror of the serial numbers: %s; it is tried again every second", st->message);
	else if (rc == STATUS_OK && p->mirror_failed)
		log_info("mirror of the serial numbers: written again");
	p->mirror_failed = rc != STATUS_OK;
}

/* One round: the trust, and the mirror if its time has come. */
static enum status_code publish_once(struct publish *p, bool with_mirror, struct status *st)
{
	struct snapshot n;
	read_state(p, &n);
	enum status_code rc = n.status.code;
	if (rc != STATUS_OK)
		*st = n.status;
	else if (n.serial.revision != p->published)
		rc = publish_trust(p, &n, st);
	if (rc == STATUS_OK) {
		p->published = n.serial.revision;
		if (with_mirror) {
			struct status mirror_st;
			enum status_code mirror_rc = mirror(p, &n.serial, &mirror_st);
			report_mirror(p, mirror_rc, &mirror_st);
		}
	}
	free_pages(&n.authorities);
	free_pages(&n.services);
	return rc;
}

static void publish_and_log(struct publish *p, bool with_mirror)
{
	struct status st;
	if (publish_once(p, with_mirror, &st) != STATUS_OK)
		log_error("follow the replicated trust: %s; what was known stays in force", st.message);
}

static void wait_for_news(struct publish *p, uint64_t until_ms)
{
	const struct timespec until = { .tv_sec = (time_t)(until_ms / 1000),
					.tv_nsec = (long)(until_ms % 1000) * 1000000 };
	while (!p->news && !p->stopping)
		if (pthread_cond_timedwait(&p->wake, &p->lock, &until) != 0)
			return;
}

static void *run(void *arg)
{
	struct publish *p = arg;
	uint64_t mirror_due = clock_monotonic_ms() + MIRROR_INTERVAL_MS;
	pthread_mutex_lock(&p->lock);
	for (;;) {
		wait_for_news(p, mirror_due);
		if (p->stopping)
			break;
		p->news = false;
		pthread_mutex_unlock(&p->lock);
		bool with_mirror = clock_monotonic_ms() >= mirror_due;
		publish_and_log(p, with_mirror);
		if (with_mirror)
			mirror_due = clock_monotonic_ms() + MIRROR_INTERVAL_MS;
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	publish_and_log(p, true);
	return NULL;
}

static enum status_code make_files(struct publish *p, const char *data_dir, struct status *st)
{
	char *dir = NULL;
	if (asprintf(&dir, "%s/ca", data_dir) < 0)
		dir = NULL;
	if (!dir || asprintf(&p->serial_file, "%s/serial", dir) < 0)
		p->serial_file = NULL;
	if (!dir || asprintf(&p->cert_file, "%s/cert.pem", dir) < 0)
		p->cert_file = NULL;
	enum status_code rc = STATUS_OK;
	if (!dir || !p->serial_file || !p->cert_file)
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "start publishing: out of memory");
	else if (mkdir(dir, 0755) != 0 && errno != EEXIST)
		rc = status_set(st, STATUS_FAILED_PRECONDITION, "make the directory %s: %s; see to its owner and space",
				dir, strerror(errno));
	free(dir);
	return rc;
}

enum status_code publish_start(struct publish *p, struct engine *engine, struct daemon *daemon, const char *data_dir,
			       struct status *st)
{
	p->engine = engine;
	p->daemon = daemon;
	enum status_code rc = make_files(p, data_dir, st);
	if (rc == STATUS_OK)
		rc = publish_once(p, false, st);
	if (rc != STATUS_OK)
		return rc;
	int rv = pthread_create(&p->thread, NULL, run, p);
	if (rv != 0)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start publishing: %s", strerror(rv));
	p->started = true;
	return STATUS_OK;
}

void publish_stop(struct publish *p)
{
	if (!p || !p->started)
		return;
	pthread_mutex_lock(&p->lock);
	p->stopping = true;
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	p->started = false;
}
