#include "common/rpc/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/tally.h"

_Static_assert(RPC_RATES == QUOTA_RATES, "each rate of a server has a bucket in every account");
_Static_assert(RPC_PAYLOAD_MAX == (1 << 20) - ENVELOPE_ROOM, "one largest payload");

/* What any call takes besides its frame: the number of calls bounds that. */
#define CALL_BYTES 4096
/* The sweeper looks no more often than this; deadlines are met this late. */
#define SWEEP_MS 20

/*
 * Methods
 */

static int compare_names(const char *a, size_t a_len, const char *b, size_t b_len)
{
	if (a_len != b_len)
		return a_len < b_len ? -1 : 1;
	return memcmp(a, b, a_len);
}

static int compare_methods(const void *a, const void *b)
{
	const struct method *x = a, *y = b;
	return compare_names(x->name, x->name_len, y->name, y->name_len);
}

const struct method *server_find(const struct rpc_server *s, struct slice name)
{
	size_t low = 0, high = s->n_methods;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct method *m = &s->methods[middle];
		int order = compare_names(name.data, name.len, m->name, m->name_len);
		if (order == 0)
			return m;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

static const struct rpc_access *find_row(const struct rpc_access *table, size_t n, const char *method)
{
	for (size_t i = 0; i < n; i++) {
		if (strcmp(table[i].method, method) == 0)
			return &table[i];
	}
	return NULL;
}

/* protobuf-c's invoke calls whatever stands in the vtable, NULL too; where it stands is protobuf-c's own layout. */
static bool has_function(const ProtobufCService *service, unsigned method)
{
	typedef void (*generic_fn)(void);
	const void *vtable = service + 1;
	return ((const generic_fn *)vtable)[method] != NULL;
}

static enum status_code add_method(struct rpc_server *s, ProtobufCService *service, unsigned index,
				   const struct rpc_access *row, struct status *st)
{
	const ProtobufCServiceDescriptor *d = service->descriptor;
	struct method m = {
		.service = service,
		.index = index,
		.descriptor = &d->methods[index],
		.allow = row->allow,
		.flags = row->flags,
		.rate = row->rate,
	};
	if (m.rate >= RPC_RATES)
		return status_set(st, STATUS_INTERNAL, "%s.%s draws from no rate that there is", d->short_name,
				  m.descriptor->name);
	int len = snprintf(m.name, sizeof m.name, "%s.%s", d->short_name, d->methods[index].name);
	if (len >= (int)sizeof m.name)
		return status_set(st, STATUS_INTERNAL, "%s: the name is too long", m.name);
	m.name_len = (size_t)len;
	if (server_find(s, (struct slice){ .data = m.name, .len = m.name_len }))
		return status_set(st, STATUS_INTERNAL, "%s is registered twice", m.name);
	s->methods[s->n_methods++] = m;
	qsort(s->methods, s->n_methods, sizeof *s->methods, compare_methods);
	return STATUS_OK;
}

enum status_code rpc_server_add(struct rpc_server *s, ProtobufCService *service, const struct rpc_access *table,
				size_t n, struct status *st)
{
	const ProtobufCServiceDescriptor *d = service->descriptor;
	struct method *methods = realloc(s->methods, (s->n_methods + d->n_methods) * sizeof *methods);
	if (!methods)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "registering %s: out of memory", d->short_name);
	s->methods = methods;
	for (size_t i = 0; i < n; i++) {
		if (!protobuf_c_service_descriptor_get_method_by_name(d, table[i].method))
			return status_set(st, STATUS_INTERNAL, "%s has no method %s, but an access row for it",
					  d->short_name, table[i].method);
	}
	for (unsigned i = 0; i < d->n_methods; i++) {
		const struct rpc_access *row = find_row(table, n, d->methods[i].name);
		if (!row || !has_function(service, i))
			return status_set(st, STATUS_INTERNAL, "%s.%s has no %s", d->short_name, d->methods[i].name,
					  row ? "function" : "access row");
		enum status_code rc = add_method(s, service, i, row, st);
		if (rc != STATUS_OK)
			return rc;
	}
	return STATUS_OK;
}

void rpc_server_set_route(struct rpc_server *s, rpc_route_fn route, void *arg)
{
	s->route = route;
	s->route_arg = arg;
}

void rpc_server_set_may_forward(struct rpc_server *s, rpc_may_forward_fn may_forward, void *arg)
{
	s->may_forward = may_forward;
	s->may_forward_arg = arg;
}

void rpc_server_set_rate(struct rpc_server *s, unsigned rate, uint32_t per_second)
{
	pthread_mutex_lock(&s->mutex);
	quota_set_rate(s->quota, rate, per_second);
	pthread_mutex_unlock(&s->mutex);
}

void rpc_server_each_method(const struct rpc_server *s, void (*visit)(void *arg, const char *name), void *arg)
{
	for (size_t i = 0; i < s->n_methods; i++)
		visit(arg, s->methods[i].name);
}

/*
 * Lists of calls, all under the mutex
 */

static struct call_list *bucket_of(struct rpc_server *s, const struct session *session, const uint8_t *header,
				   size_t header_len)
{
	uint64_t hash = (uint64_t)(uintptr_t)session;
	for (size_t i = 0; i < header_len; i += 4)
		hash = (hash ^ sp_id(header + i)) * UINT64_C(0x9E3779B97F4A7C15);
	return &s->buckets[(hash >> 32) & (s->n_buckets - 1)];
}

static bool running_already(const struct call_list *bucket, const struct rpc_call *call)
{
	const struct rpc_call *c;
	LIST_FOREACH (c, bucket, in_bucket) {
		if (c->session == call->session && c->header_len == call->header_len &&
		    memcmp(c->header, call->header, call->header_len) == 0)
			return true;
	}
	return false;
}

/* The list's reference becomes the caller's. */
static void unlist(struct rpc_call *call)
{
	call->listed = false;
	LIST_REMOVE(call, in_server);
	LIST_REMOVE(call, in_session);
	LIST_REMOVE(call, in_bucket);
}

/*
 * Limits, all under the mutex
 */

static enum status_code shed(struct rpc_server *s, const struct rpc_call *call, enum tally reason, const char *why,
			     struct status *st)
{
	s->stats.shed++;
	tally_add(reason);
	return status_set(st, STATUS_RESOURCE_EXHAUSTED, "%s: %s; try again later", call->method->name, why);
}

static enum status_code take_bytes(struct rpc_server *s, struct rpc_call *call, size_t bytes, struct status *st)
{
	switch (quota_take(s->quota, call->account, call->through, QUOTA_BYTES, bytes)) {
	case QUOTA_OK:
		return STATUS_OK;
	case QUOTA_IDENTITY:
		return shed(s, call, TALLY_REQUEST_MEMORY, "your requests at hand take too much memory", st);
	default:
		return shed(s, call, TALLY_REQUEST_MEMORY, "the requests at hand take too much memory", st);
	}
}

static enum quota_kind kind_of(const struct rpc_call *call)
{
	return call->method->flags & RPC_LONG_POLL ? QUOTA_WAITING : QUOTA_CALLS;
}

static enum status_code take_place(struct rpc_server *s, struct rpc_call *call, struct status *st)
{
	enum quota_kind kind = kind_of(call);
	if (call->session->running >= s->limits.max_calls_connection)
		return shed(s, call, TALLY_REQUESTS_IDENTITY, "this connection has too many requests at hand", st);
	switch (quota_take(s->quota, call->account, call->through, kind, 1)) {
	case QUOTA_OK:
		break;
	case QUOTA_IDENTITY:
		return shed(s, call, kind == QUOTA_WAITING ? TALLY_WAITING_IDENTITY : TALLY_REQUESTS_IDENTITY,
			    "you have too many requests at hand", st);
	default:
		return shed(s, call, TALLY_REQUESTS_FULL, "this server has too many requests at hand", st);
	}
	enum status_code rc = take_bytes(s, call, call->request_bytes, st);
	if (rc != STATUS_OK)
		quota_give(s->quota, call->account, call->through, kind, 1);
	return rc;
}

static enum status_code check_rate(struct rpc_server *s, const struct rpc_call *call, struct status *st,
				   struct rpc_detail *ret_detail)
{
	unsigned rate = call->method->rate;
	if (rate == 0)
		return STATUS_OK;
	uint32_t wait_ms = quota_ask(s->quota, call->account, rate, clock_monotonic_us());
	if (wait_ms == 0)
		return STATUS_OK;
	s->stats.shed++;
	tally_add(TALLY_REQUEST_RATE);
	ret_detail->retry_after_ms = wait_ms;
	return status_set(st, STATUS_RESOURCE_EXHAUSTED,
			  "%s: %s has asked more often than %u times a second; try again in %u ms", call->method->name,
			  call->identity ? call->identity->common_name : "an unknown peer",
			  (unsigned)quota_rate(s->quota, rate), (unsigned)wait_ms);
}

static void open_accounts(struct rpc_server *s, struct rpc_call *call)
{
	struct quota_account *peer = quota_reopen(call->session->account);
	if (call->forwarded) {
		call->account = quota_open(s->quota, call->identity, clock_monotonic_us());
		call->through = peer;
	} else {
		call->account = peer;
	}
}

static void close_accounts(struct rpc_server *s, struct rpc_call *call)
{
	quota_close(s->quota, call->account);
	if (call->through)
		quota_close(s->quota, call->through);
}

static void list(struct rpc_server *s, struct rpc_call *call, struct call_list *bucket)
{
	atomic_fetch_add(&call->refs, 1);
	call->listed = true;
	LIST_INSERT_HEAD(&s->calls, call, in_server);
	LIST_INSERT_HEAD(&call->session->calls, call, in_session);
	LIST_INSERT_HEAD(bucket, call, in_bucket);
	call->session->running++;
	conn_set_busy(call->session->conn, 1);
	if (kind_of(call) == QUOTA_WAITING)
		s->stats.waiting++;
	else
		s->stats.running++;
	if (call->deadline < s->earliest) {
		s->earliest = call->deadline;
		pthread_cond_signal(&s->wake);
	}
}

enum status_code server_admit(struct rpc_server *s, struct rpc_call *call, struct status *st,
			      struct rpc_detail *ret_detail)
{
	struct call_list *bucket = bucket_of(s, call->session, call->header, call->header_len);
	enum status_code rc = STATUS_OK;
	pthread_mutex_lock(&s->mutex);
	open_accounts(s, call);
	if (running_already(bucket, call))
		rc = STATUS_ALREADY_EXISTS;
	else if (s->draining)
		rc = status_set(st, STATUS_UNAVAILABLE, "%s: this server is stopping; ask another", call->method->name);
	else
		rc = check_rate(s, call, st, ret_detail);
	if (rc == STATUS_OK)
		rc = take_place(s, call, st);
	if (rc == STATUS_OK)
		list(s, call, bucket);
	else
		close_accounts(s, call);
	pthread_mutex_unlock(&s->mutex);
	return rc;
}

enum status_code server_charge(struct rpc_server *s, struct rpc_call *call, size_t bytes, struct status *st)
{
	if (bytes <= call->request_bytes + CALL_BYTES)
		return STATUS_OK;
	size_t more = bytes - call->request_bytes;
	pthread_mutex_lock(&s->mutex);
	enum status_code rc = take_bytes(s, call, more, st);
	if (rc == STATUS_OK)
		call->request_bytes += more;
	pthread_mutex_unlock(&s->mutex);
	return rc;
}

bool server_finish(struct rpc_server *s, struct rpc_call *call, bool failed)
{
	pthread_mutex_lock(&s->mutex);
	bool wanted = call->listed;
	if (wanted) {
		unlist(call);
		s->stats.failed += failed;
	} /* else the sweeper or the connection's end has counted it */
	s->stats.calls++;
	quota_give(s->quota, call->account, call->through, QUOTA_BYTES, call->request_bytes);
	quota_give(s->quota, call->account, call->through, kind_of(call), 1);
	close_accounts(s, call);
	call->session->running--;
	conn_set_busy(call->session->conn, -1);
	if (call->method->flags & RPC_LONG_POLL)
		s->stats.waiting--;
	else
		s->stats.running--;
	if (s->stats.running + s->stats.waiting == 0 || (s->draining && s->stats.running == 0))
		pthread_cond_broadcast(&s->empty);
	pthread_mutex_unlock(&s->mutex);
	if (wanted)
		call_unref(call); /* the list's; the handler's own keeps it alive */
	return wanted;
}

void server_count_refused(struct rpc_server *s)
{
	pthread_mutex_lock(&s->mutex);
	s->stats.calls++;
	s->stats.failed++;
	pthread_mutex_unlock(&s->mutex);
}

/* Puts a call that nobody waits for any more on a list of those; the reference of the server's lists goes along. */
static void take_expired(struct rpc_server *s, struct rpc_call *call, struct rpc_call **taken)
{
	unlist(call);
	atomic_store(&call->expired, true);
	s->stats.expired++;
	tally_add(TALLY_REQUEST_EXPIRED);
	call->taken = *taken;
	*taken = call;
}

/*
 * Deadlines
 */

static struct rpc_call *sweep(struct rpc_server *s, uint64_t now)
{
	struct rpc_call *taken = NULL;
	uint64_t earliest = UINT64_MAX;
	for (struct rpc_call *call = LIST_FIRST(&s->calls), *next; call; call = next) {
		next = LIST_NEXT(call, in_server);
		if (call->deadline <= now)
			take_expired(s, call, &taken);
		else if (call->deadline < earliest)
			earliest = call->deadline;
	}
	s->earliest = earliest;
	return taken;
}

static struct timespec timespec_of(uint64_t ms)
{
	return (struct timespec){ .tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000 };
}

static void *sweeper_main(void *arg)
{
	struct rpc_server *s = arg;
	uint64_t not_before = 0;
	pthread_mutex_lock(&s->mutex);
	while (!s->stopping) {
		uint64_t now = clock_monotonic_ms();
		uint64_t due = s->earliest > not_before ? s->earliest : not_before;
		if (s->earliest == UINT64_MAX) {
			pthread_cond_wait(&s->wake, &s->mutex);
			continue;
		}
		if (now < due) {
			struct timespec until = timespec_of(due);
			pthread_cond_timedwait(&s->wake, &s->mutex, &until);
			continue;
		}
		struct rpc_call *taken = sweep(s, now);
		not_before = now + SWEEP_MS;
		pthread_mutex_unlock(&s->mutex);
		while (taken) {
			struct rpc_call *next = taken->taken;
			call_expire(taken);
			taken = next;
		}
		pthread_mutex_lock(&s->mutex);
	}
	pthread_mutex_unlock(&s->mutex);
	return NULL;
}

/*
 * Connections
 */

void session_unref(struct session *session)
{
	if (atomic_fetch_sub(&session->refs, 1) > 1)
		return;
	conn_unref(session->conn);
	free(session);
}

static void on_up(void *arg, struct conn *c)
{
	struct rpc_server *s = arg;
	struct session *session = calloc(1, sizeof *session);
	if (!session) {
		log_warning("out of memory, closing connection peer=%s", conn_peer_address(c));
		conn_close(c);
		return;
	}
	session->conn = conn_ref(c);
	atomic_init(&session->refs, 1);
	pthread_mutex_lock(&s->mutex);
	session->account = quota_open(s->quota, conn_identity(c), clock_monotonic_us());
	pthread_mutex_unlock(&s->mutex);
	conn_set_data(c, session);
}

static void on_frame(void *arg, struct conn *c, const uint8_t *data, size_t len)
{
	struct session *session = conn_data(c);
	if (!session)
		return;
	struct slice frame = { .data = data, .len = len };
	size_t header_len = sp_header_length(frame);
	if (header_len == SIZE_MAX) {
		log_debug("frame without a request id, closing connection peer=%s", conn_peer_address(c));
		conn_close(c);
	} else if (header_len > 0) {
		call_receive(arg, session, frame, header_len);
	}
}

static void on_down(void *arg, struct conn *c, const struct status *why)
{
	(void)why;
	struct rpc_server *s = arg;
	struct session *session = conn_data(c);
	if (!session)
		return;
	struct rpc_call *taken = NULL;
	pthread_mutex_lock(&s->mutex);
	while (!LIST_EMPTY(&session->calls))
		take_expired(s, LIST_FIRST(&session->calls), &taken);
	quota_close(s->quota, session->account);
	pthread_mutex_unlock(&s->mutex);
	while (taken) {
		struct rpc_call *next = taken->taken;
		call_unref(taken);
		taken = next;
	}
	conn_set_data(c, NULL);
	session_unref(session);
}

struct conn_handlers rpc_server_handlers(struct rpc_server *s)
{
	return (struct conn_handlers){ .up = on_up, .frame = on_frame, .down = on_down, .arg = s };
}

/*
 * Life
 */

static struct quota *new_quota(const struct rpc_server_limits *l)
{
	const struct quota_limits limits = {
		.all = { [QUOTA_CALLS] = l->max_calls, [QUOTA_WAITING] = l->max_waiting,
			 [QUOTA_BYTES] = l->max_request_bytes },
		.identity = {
			[QUOTA_NODES] = { l->node.calls, l->node.waiting, l->node.bytes },
			[QUOTA_SERVICES] = { l->service.calls, l->service.waiting, l->service.bytes },
			[QUOTA_ADMINS] = { l->service.calls, l->service.waiting, l->service.bytes },
		},
	};
	return quota_new(&limits);
}

enum status_code rpc_server_new(const struct rpc_server_limits *limits, struct status *st,
				struct rpc_server **ret_server)
{
	struct rpc_server *s = calloc(1, sizeof *s);
	if (!s)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "rpc server: out of memory");
	s->limits = limits ? *limits : RPC_SERVER_LIMITS_DEFAULT;
	s->earliest = UINT64_MAX;
	s->n_buckets = 64;
	while (s->n_buckets < (size_t)s->limits.max_calls + s->limits.max_waiting && s->n_buckets < 1 << 16)
		s->n_buckets *= 2;
	s->buckets = calloc(s->n_buckets, sizeof *s->buckets);
	s->quota = new_quota(&s->limits);
	pthread_mutex_init(&s->mutex, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&s->wake, &monotonic);
	pthread_cond_init(&s->empty, &monotonic);
	pthread_condattr_destroy(&monotonic);
	if (!s->buckets || !s->quota || pthread_create(&s->sweeper, NULL, sweeper_main, s) != 0) {
		free(s->buckets);
		quota_free(s->quota);
		pthread_cond_destroy(&s->wake);
		pthread_cond_destroy(&s->empty);
		pthread_mutex_destroy(&s->mutex);
		free(s);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "rpc server: no memory or no thread to be had");
	}
	*ret_server = s;
	return STATUS_OK;
}

void rpc_server_drain(struct rpc_server *s, unsigned max_ms)
{
	const struct timespec until = timespec_of(clock_monotonic_ms() + max_ms);
	int rv = 0;
	pthread_mutex_lock(&s->mutex);
	s->draining = true;
	while (s->stats.running > 0 && rv == 0)
		rv = pthread_cond_timedwait(&s->empty, &s->mutex, &until);
	pthread_mutex_unlock(&s->mutex);
}

void rpc_server_free(struct rpc_server *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->mutex);
	while (s->stats.running + s->stats.waiting > 0)
		pthread_cond_wait(&s->empty, &s->mutex);
	s->stopping = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->mutex);
	pthread_join(s->sweeper, NULL);
	pthread_cond_destroy(&s->wake);
	pthread_cond_destroy(&s->empty);
	pthread_mutex_destroy(&s->mutex);
	free(s->buckets);
	quota_free(s->quota);
	free(s->methods);
	free(s);
}

void rpc_server_stats(struct rpc_server *s, struct rpc_server_stats *ret_stats)
{
	pthread_mutex_lock(&s->mutex);
	*ret_stats = s->stats;
	pthread_mutex_unlock(&s->mutex);
}
