#include "common/daemon/health.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/tally.h"
#include "health.pb-c.h"

#define ALARMS_MAX 8
#define RENEW_S (7 * 86400) /* of 30 days */

struct daemon_alarms {
	size_t n;
	char *list[ALARMS_MAX];
	char texts[ALARMS_MAX][STATUS_MESSAGE_MAX];
};

struct refusals {
	size_t n;
	Kds__V1__Refused *list[TALLY_COUNT];
	Kds__V1__Refused reasons[TALLY_COUNT];
};

struct health {
	Kds__V1__Health_Service service; /* first: handlers get a pointer to it */
	const char *service_name;
	const char *name;
	uint64_t started_ms;
	pthread_mutex_t lock;
	daemon_ready_fn ready;
	void *ready_arg;
	daemon_alarms_fn alarms;
	void *alarms_arg;
	struct listener *listener;
	int64_t not_after; /* of the certificate; 0: not known */
};

void daemon_alarm(struct daemon_alarms *alarms, const char *format, ...)
{
	if (alarms->n == ALARMS_MAX)
		return;
	va_list ap;
	va_start(ap, format);
	vsnprintf(alarms->texts[alarms->n], sizeof alarms->texts[0], format, ap);
	va_end(ap);
	alarms->list[alarms->n] = alarms->texts[alarms->n];
	alarms->n++;
}

/* Once it has expired nobody can ask any more. */
static void add_expiry(struct daemon_alarms *alarms, int64_t not_after)
{
	int64_t left = not_after - (int64_t)(clock_unix_ms() / 1000);
	if (not_after == 0 || left >= RENEW_S)
		return;
	daemon_alarm(alarms,
		     "the certificate of this process expires in %" PRId64 " hours: make a new one with kds-cli service issue, "
		     "and send the process SIGHUP",
		     left > 0 ? left / 3600 : 0);
}

static void sum_refusals(struct refusals *r)
{
	for (unsigned i = 0; i < TALLY_COUNT; i++) {
		uint64_t count = tally_sum((enum tally)i);
		if (count == 0)
			continue;
		Kds__V1__Refused *reason = &r->reasons[r->n];
		kds__v1__refused__init(reason);
		reason->reason = (char *)tally_name((enum tally)i);
		reason->count = count;
		r->list[r->n++] = reason;
	}
}

static void handle_check(Kds__V1__Health_Service *service, const Kds__V1__CheckRequest *input,
			 Kds__V1__CheckResponse_Closure closure, void *closure_data)
{
	(void)input;
	struct health *h = (struct health *)service;
	struct listener_stats stats = { 0 };
	struct daemon_alarms alarms = { .n = 0 };
	struct refusals refusals = { .n = 0 };
	char reason[STATUS_MESSAGE_MAX] = "";

	pthread_mutex_lock(&h->lock);
	daemon_ready_fn ready = h->ready;
	void *ready_arg = h->ready_arg;
	daemon_alarms_fn add_alarms = h->alarms;
	void *alarms_arg = h->alarms_arg;
	int64_t not_after = h->not_after;
	if (h->listener)
		listener_stats(h->listener, &stats);
	pthread_mutex_unlock(&h->lock);

	Kds__V1__CheckResponse answer = KDS__V1__CHECK_RESPONSE__INIT;
	answer.serving = !ready || ready(ready_arg, reason, sizeof reason);
	answer.reason = reason;
	answer.service = (char *)h->service_name;
	answer.name = (char *)h->name;
	answer.version = KDS_VERSION;
	answer.uptime_s = (clock_monotonic_ms() - h->started_ms) / 1000;
	answer.connections = stats.open;
	add_expiry(&alarms, not_after);
	if (add_alarms)
		add_alarms(alarms_arg, &alarms);
	answer.alarms = alarms.list;
	answer.n_alarms = alarms.n;
	sum_refusals(&refusals);
	answer.refused = refusals.list;
	answer.n_refused = refusals.n;
	closure(&answer, closure_data);
}

static void handle_echo(Kds__V1__Health_Service *service, const Kds__V1__EchoRequest *input,
			Kds__V1__EchoResponse_Closure closure, void *closure_data)
{
	(void)service;
	Kds__V1__EchoResponse answer = KDS__V1__ECHO_RESPONSE__INIT;
	answer.data = input->data;
	closure(&answer, closure_data);
}

enum status_code health_new(const char *service, const char *name, struct status *st, struct health **ret_health)
{
	struct health *h = calloc(1, sizeof *h);
	if (!h)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "start the Health service: out of memory");
	h->service = (Kds__V1__Health_Service)KDS__V1__HEALTH__INIT(handle_);
	h->service_name = service;
	h->name = name;
	h->started_ms = clock_monotonic_ms();
	pthread_mutex_init(&h->lock, NULL);
	*ret_health = h;
	return STATUS_OK;
}

void health_free(struct health *h)
{
	if (!h)
		return;
	pthread_mutex_destroy(&h->lock);
	free(h);
}

enum status_code health_serve(struct health *h, struct rpc_server *server, struct status *st)
{
	static const struct rpc_access table[] = {
		{ .method = "Check", .allow = PEER_ANYONE, .flags = RPC_READ },
		{ .method = "Echo", .allow = PEER_ANYONE, .flags = RPC_READ },
	};
	return rpc_server_add(server, &h->service.base, table, sizeof table / sizeof table[0], st);
}

void health_set_ready(struct health *h, daemon_ready_fn ready, void *arg)
{
	pthread_mutex_lock(&h->lock);
	h->ready = ready;
	h->ready_arg = arg;
	pthread_mutex_unlock(&h->lock);
}

void health_set_alarms(struct health *h, daemon_alarms_fn alarms, void *arg)
{
	pthread_mutex_lock(&h->lock);
	h->alarms = alarms;
	h->alarms_arg = arg;
	pthread_mutex_unlock(&h->lock);
}

void health_set_listener(struct health *h, struct listener *listener)
{
	pthread_mutex_lock(&h->lock);
	h->listener = listener;
	pthread_mutex_unlock(&h->lock);
}

void health_set_not_after(struct health *h, int64_t not_after)
{
	pthread_mutex_lock(&h->lock);
	h->not_after = not_after;
	pthread_mutex_unlock(&h->lock);
}
