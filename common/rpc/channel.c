#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gnutls/crypto.h>

#include "common/base/clock.h"
#include "common/rpc/channel_internal.h"
#include "common/rpc/message.h"

#define DEFAULT_TIMEOUT_MS 10000
#define DEFAULT_MAX_PENDING 8192
#define REQUEST_ID_LEN 16

/*
 * Callbacks and the timer thread
 */

void channel_unlock(struct rpc_channel *ch)
{
	struct pending *p = TAILQ_FIRST(&ch->ended);
	if (!p) {
		pthread_mutex_unlock(&ch->mutex);
		return;
	}
	ch->delivering++;
	while ((p = TAILQ_FIRST(&ch->ended))) {
		TAILQ_REMOVE(&ch->ended, p, entry);
		pthread_mutex_unlock(&ch->mutex);
		pending_finish(p);
		pthread_mutex_lock(&ch->mutex);
	}
	ch->delivering--;
	pthread_cond_broadcast(&ch->quiet);
	pthread_mutex_unlock(&ch->mutex);
}

void channel_wake_at(struct rpc_channel *ch, uint64_t when)
{
	if (when >= ch->wake_at)
		return;
	ch->wake_at = when;
	pthread_cond_signal(&ch->wake);
}

static void wait_until(struct rpc_channel *ch, uint64_t when)
{
	if (when == UINT64_MAX) {
		pthread_cond_wait(&ch->wake, &ch->mutex);
		return;
	}
	struct timespec t = { .tv_sec = (time_t)(when / 1000), .tv_nsec = (long)(when % 1000) * 1000000 };
	pthread_cond_timedwait(&ch->wake, &ch->mutex, &t);
}

static void *timer_main(void *arg)
{
	struct rpc_channel *ch = arg;
	pthread_mutex_lock(&ch->mutex);
	while (!ch->stopping) {
		uint64_t now = clock_monotonic_ms();
		if (TAILQ_EMPTY(&ch->ended) && now < ch->wake_at) {
			wait_until(ch, ch->wake_at);
			continue;
		}
		/* What happens during the tick may ask for an earlier look. */
		ch->wake_at = UINT64_MAX;
		uint64_t again = link_tick(ch, now);
		if (again < ch->wake_at)
			ch->wake_at = again;
		channel_unlock(ch);
		pthread_mutex_lock(&ch->mutex);
	}
	pthread_mutex_unlock(&ch->mutex);
	return NULL;
}

/* On the caller's thread, which may hold a lock that a callback needs: the timer thread runs what has ended at once. */
static void leave_call(struct rpc_channel *ch)
{
	if (!TAILQ_EMPTY(&ch->ended))
		pthread_cond_signal(&ch->wake);
	pthread_mutex_unlock(&ch->mutex);
}

/*
 * Life
 */

static void free_addresses(struct address *addresses, size_t n)
{
	for (size_t i = 0; addresses && i < n; i++)
		free(addresses[i].text);
	free(addresses);
}

static enum status_code copy_addresses(const char *const *from, size_t n, struct status *st,
				       struct address **ret_addresses)
{
	if (n == 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "no server address; configure at least one host:port");
	struct address *to = calloc(n, sizeof *to);
	for (size_t i = 0; to && i < n; i++) {
		to[i].text = strdup(from[i]);
		if (!to[i].text) {
			free_addresses(to, n);
			to = NULL;
		}
	}
	if (!to)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "server addresses: out of memory");
	*ret_addresses = to;
	return STATUS_OK;
}

static void free_parts(struct rpc_channel *ch)
{
	pthread_cond_destroy(&ch->wake);
	pthread_cond_destroy(&ch->quiet);
	pthread_mutex_destroy(&ch->mutex);
	tls_credentials_unref(ch->credentials);
	free_addresses(ch->addresses, ch->n_addresses);
	free(ch->server_name);
	free(ch->slots);
	free(ch);
}

enum status_code rpc_channel_new(const struct rpc_channel_options *options, struct status *st,
				 struct rpc_channel **ret_channel)
{
	struct address *addresses;
	enum status_code rc = copy_addresses(options->addresses, options->n_addresses, st, &addresses);
	if (rc != STATUS_OK)
		return rc;
	struct rpc_channel *ch = calloc(1, sizeof *ch);
	if (!ch) {
		free_addresses(addresses, options->n_addresses);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "rpc channel: out of memory");
	}
	*ch = (struct rpc_channel){
		.trust = options->trust,
		.expect_roles = options->expect_roles,
		.default_timeout_ms = options->default_timeout_ms ? options->default_timeout_ms : DEFAULT_TIMEOUT_MS,
		.max_pending = options->max_pending ? options->max_pending : DEFAULT_MAX_PENDING,
		.limits = options->limits.max_frame > 0 ? options->limits : CONN_LIMITS_DEFAULT,
		.wake_at = UINT64_MAX,
		.credentials = tls_credentials_ref(options->credentials),
		.addresses = addresses,
		.n_addresses = options->n_addresses,
		.server_name = options->server_name ? strdup(options->server_name) : NULL,
	};
	TAILQ_INIT(&ch->pending);
	TAILQ_INIT(&ch->ended);
	uint32_t slots = 64;
	while (slots < 2 * (uint64_t)ch->max_pending && slots < SP_ID_BIT)
		slots *= 2;
	ch->slot_mask = slots - 1;
	ch->slots = calloc(slots, sizeof(struct pending *));
	pthread_mutex_init(&ch->mutex, NULL);
	pthread_cond_init(&ch->quiet, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&ch->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	if (!ch->slots || (options->server_name && !ch->server_name) ||
	    gnutls_rnd(GNUTLS_RND_NONCE, &ch->next_id, sizeof ch->next_id) < 0 ||
	    pthread_create(&ch->timer, NULL, timer_main, ch) != 0) {
		free_parts(ch);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "rpc channel: no memory or no thread to be had");
	}
	*ret_channel = ch;
	return STATUS_OK;
}

/* Ends all that is pending, and what its callbacks begin anew. With the mutex held. */
static void cancel_all(struct rpc_channel *ch)
{
	struct status cancelled;
	(void)status_set(&cancelled, STATUS_CANCELLED, "the channel is being closed");
	while (!TAILQ_EMPTY(&ch->pending) || !TAILQ_EMPTY(&ch->ended)) {
		while (!TAILQ_EMPTY(&ch->pending))
			pending_end(ch, TAILQ_FIRST(&ch->pending), &cancelled);
		channel_unlock(ch);
		pthread_mutex_lock(&ch->mutex);
	}
}

void rpc_channel_free(struct rpc_channel *ch)
{
	if (!ch)
		return;
	pthread_mutex_lock(&ch->mutex);
	ch->stopping = true;
	link_drop(ch);
	pthread_cond_signal(&ch->wake);
	cancel_all(ch);
	while (ch->open_conns > 0 || ch->delivering > 0)
		pthread_cond_wait(&ch->quiet, &ch->mutex);
	pthread_mutex_unlock(&ch->mutex);
	pthread_join(ch->timer, NULL);
	pthread_mutex_lock(&ch->mutex);
	cancel_all(ch);
	pthread_mutex_unlock(&ch->mutex);
	free_parts(ch);
}

void rpc_channel_set_credentials(struct rpc_channel *ch, struct tls_credentials *credentials)
{
	pthread_mutex_lock(&ch->mutex);
	struct tls_credentials *old = ch->credentials;
	ch->credentials = tls_credentials_ref(credentials);
	pthread_mutex_unlock(&ch->mutex);
	tls_credentials_unref(old);
}

enum status_code rpc_channel_set_addresses(struct rpc_channel *ch, const char *const *addresses, size_t n,
					   struct status *st)
{
	struct address *fresh = NULL;
	enum status_code rc = copy_addresses(addresses, n, st, &fresh);
	if (rc != STATUS_OK)
		return rc;
	pthread_mutex_lock(&ch->mutex);
	struct address *old = ch->addresses;
	size_t old_n = ch->n_addresses;
	size_t current = 0;
	bool kept = false;
	for (size_t i = 0; i < n && !kept; i++) {
		kept = strcmp(fresh[i].text, old[ch->current].text) == 0;
		current = kept ? i : 0;
	}
	ch->addresses = fresh;
	ch->n_addresses = n;
	ch->current = current;
	if (!kept)
		link_redial(ch);
	leave_call(ch);
	free_addresses(old, old_n);
	return STATUS_OK;
}

void rpc_channel_leave(struct rpc_channel *ch)
{
	pthread_mutex_lock(&ch->mutex);
	link_leave(ch);
	leave_call(ch);
}

void rpc_channel_drop(struct rpc_channel *ch)
{
	pthread_mutex_lock(&ch->mutex);
	link_give_up(ch);
	leave_call(ch);
}

/*
 * Calls
 */

static void fail_here(const struct rpc_call_options *options, enum status_code code, const char *method,
		      const char *message)
{
	struct rpc_result result = { .field = "" };
	(void)status_set(&result.status, code, "%s: %s", method, message);
	options->done(options->arg, &result);
}

/* The envelope but its timeout. False: no memory. */
static bool pack(struct pending *p, struct slice payload, const struct rpc_call_options *options)
{
	uint8_t made_id[REQUEST_ID_LEN];
	struct buffer caller = { .len = 0 };
	struct request_envelope request = {
		.method = { .data = p->method, .len = strlen(p->method) },
		.payload = payload,
		.request_id = options->request_id,
	};
	if (options->trace_id)
		request.trace_id = (struct slice){ .data = options->trace_id, .len = strlen(options->trace_id) };
	if (request.request_id.len == 0 && !options->no_retry) {
		if (gnutls_rnd(GNUTLS_RND_NONCE, made_id, sizeof made_id) < 0)
			return false;
		request.request_id = (struct slice){ .data = made_id, .len = sizeof made_id };
	}
	if (options->on_behalf_of) {
		if (!caller_pack(options->on_behalf_of, &caller))
			return false;
		request.on_behalf_of = (struct slice){ .data = caller.data, .len = caller.len };
	}
	bool ok = request_pack(&request, &p->wire);
	buffer_free(&caller);
	return ok;
}

static struct pending *pending_new(struct rpc_channel *ch, const char *method, const struct rpc_call_options *options)
{
	struct pending *p = calloc(1, sizeof *p);
	if (!p)
		return NULL;
	unsigned timeout_ms = options->timeout_ms ? options->timeout_ms : ch->default_timeout_ms;
	uint64_t now = clock_monotonic_ms();
	*p = (struct pending){
		.done = options->done,
		.arg = options->arg,
		.timeout_ms = timeout_ms,
		.started = now,
		.deadline = now + timeout_ms,
		.no_retry = options->no_retry,
		.long_poll = options->long_poll,
		.secret = options->secret,
	};
	(void)snprintf(p->method, sizeof p->method, "%s", method);
	return p;
}

/* What may be wrong with a request before it is sent. */
static enum status_code check(const struct rpc_channel *ch, const struct pending *p, size_t payload, struct status *st)
{
	if (ch->stopping)
		return status_set(st, STATUS_CANCELLED, "%s: the channel is being closed", p->method);
	size_t most = ch->limits.max_frame > ENVELOPE_ROOM ? ch->limits.max_frame - ENVELOPE_ROOM : 0;
	return payload > most ? request_too_large(p->method, payload, most, st) : STATUS_OK;
}

static void start(struct rpc_channel *ch, const char *method, const ProtobufCMessageDescriptor *output,
		  struct slice payload, const struct rpc_call_options *options)
{
	struct pending *p = pending_new(ch, method, options);
	if (!p || !pack(p, payload, options)) {
		if (p)
			pending_free(p);
		fail_here(options, STATUS_RESOURCE_EXHAUSTED, method, "out of memory");
		return;
	}
	p->output = output;
	pthread_mutex_lock(&ch->mutex);
	struct status st;
	link_recheck(ch);
	if (check(ch, p, payload.len, &st) == STATUS_OK && pending_add(ch, p, &st) == STATUS_OK) {
		link_send(ch, p);
	} else {
		p->outcome = st;
		TAILQ_INSERT_TAIL(&ch->ended, p, entry);
	}
	leave_call(ch);
}

void rpc_channel_call_raw(struct rpc_channel *ch, const char *method, struct slice payload,
			  const struct rpc_call_options *options)
{
	start(ch, method, NULL, payload, options);
}

void rpc_channel_call(struct rpc_channel *ch, const ProtobufCServiceDescriptor *service, unsigned method,
		      const ProtobufCMessage *input, const struct rpc_call_options *options)
{
	char name[METHOD_MAX + 1];
	struct buffer packed = { .len = 0 };
	(void)snprintf(name, sizeof name, "%s.%s", service->short_name, service->methods[method].name);
	if (message_pack(input, &packed, NULL) != STATUS_OK) {
		fail_here(options, STATUS_RESOURCE_EXHAUSTED, name, "out of memory");
		return;
	}
	struct slice payload = { .data = packed.data, .len = packed.len };
	start(ch, name, service->methods[method].output, payload, options);
	if (options->secret)
		buffer_wipe(&packed);
	else
		buffer_free(&packed);
}

/*
 * Generated stubs
 */

void rpc_closure(const ProtobufCMessage *message, void *closure_data)
{
	(void)message;
	(void)closure_data;
}

static void invoke(ProtobufCService *service, unsigned method, const ProtobufCMessage *input, ProtobufCClosure closure,
		   void *closure_data)
{
	(void)closure;
	const struct channel_service *s = (const struct channel_service *)service;
	rpc_channel_call(s->channel, service->descriptor, method, input, closure_data);
}

ProtobufCService *rpc_channel_service(struct rpc_channel *ch, const ProtobufCServiceDescriptor *descriptor)
{
	ProtobufCService *found = NULL;
	pthread_mutex_lock(&ch->mutex);
	for (size_t i = 0; i < CHANNEL_SERVICES && !found; i++) {
		struct channel_service *s = &ch->services[i];
		if (!s->channel)
			*s = (struct channel_service){
				.base = { .descriptor = descriptor, .invoke = invoke },
				.channel = ch,
			};
		if (s->base.descriptor == descriptor)
			found = &s->base;
	}
	pthread_mutex_unlock(&ch->mutex);
	return found;
}
