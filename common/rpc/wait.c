/* Blocking calls: a callback that wakes who waits. */
#include <pthread.h>
#include <string.h>

#include "common/rpc/channel.h"

struct waiter {
	pthread_mutex_t mutex;
	pthread_cond_t done;
	bool finished;
	const ProtobufCMessageDescriptor *output;
	struct status status;
	ProtobufCMessage *answer; /* on the heap: it outlives the callback */
};

static void on_done(void *arg, const struct rpc_result *result)
{
	struct waiter *w = arg;
	struct status st = result->status;
	ProtobufCMessage *answer = NULL;
	if (st.code == STATUS_OK) {
		/* The channel has unpacked and checked these bytes before. */
		answer = protobuf_c_message_unpack(w->output, NULL, result->payload.len, result->payload.data);
		if (!answer)
			(void)status_set(&st, STATUS_RESOURCE_EXHAUSTED, "%s: out of memory", w->output->short_name);
	}
	pthread_mutex_lock(&w->mutex);
	w->status = st;
	w->answer = answer;
	w->finished = true;
	pthread_cond_signal(&w->done);
	pthread_mutex_unlock(&w->mutex);
}

static bool find_method(const ProtobufCServiceDescriptor *service, const char *method, unsigned *ret_index)
{
	for (unsigned i = 0; i < service->n_methods; i++) {
		if (strcmp(service->methods[i].name, method) == 0) {
			*ret_index = i;
			return true;
		}
	}
	return false;
}

enum status_code rpc_channel_wait(struct rpc_channel *ch, const ProtobufCServiceDescriptor *service,
				  const char *method, const ProtobufCMessage *input,
				  const struct rpc_call_options *options, struct status *st,
				  ProtobufCMessage **ret_answer)
{
	unsigned index;
	if (!find_method(service, method, &index))
		return status_set(st, STATUS_UNIMPLEMENTED, "%s has no method \"%s\"", service->short_name, method);
	struct waiter w = {
		.mutex = PTHREAD_MUTEX_INITIALIZER,
		.done = PTHREAD_COND_INITIALIZER,
		.output = service->methods[index].output,
	};
	struct rpc_call_options own = { .timeout_ms = 0 };
	if (options)
		own = *options;
	own.done = on_done;
	own.arg = &w;
	rpc_channel_call(ch, service, index, input, &own);
	pthread_mutex_lock(&w.mutex);
	while (!w.finished)
		pthread_cond_wait(&w.done, &w.mutex);
	pthread_mutex_unlock(&w.mutex);
	pthread_cond_destroy(&w.done);
	pthread_mutex_destroy(&w.mutex);
	if (w.status.code != STATUS_OK)
		return status_set(st, w.status.code, "%s", w.status.message);
	*ret_answer = w.answer;
	return STATUS_OK;
}
