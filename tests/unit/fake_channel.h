/*
 * A stand-in for common/rpc/channel.c, for one test program: calls made are kept until the test answers them. As the test
 * defines the functions itself, the linker leaves the real channel out.
 */
#ifndef TESTS_FAKE_CHANNEL_H
#define TESTS_FAKE_CHANNEL_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/rpc/channel.h"

struct fake_call {
	struct fake_call *next;
	const char *method;           /* "Allocate" */
	ProtobufCMessage *input;      /* a copy */
	rpc_done_fn done;
	void *arg;
	unsigned timeout_ms;
	uint8_t request_id[32];
	size_t request_id_len;
};

struct fake_service {
	ProtobufCService base;
	struct rpc_channel *channel;
};

#define FAKE_SERVICES 4

struct rpc_channel {
	struct fake_service services[FAKE_SERVICES];
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct fake_call *first, **last;
	unsigned total;               /* calls made so far */
};

static void fake_invoke(ProtobufCService *service, unsigned method, const ProtobufCMessage *input,
			ProtobufCClosure closure, void *closure_data)
{
	(void)closure;
	struct rpc_channel *ch = ((struct fake_service *)(void *)service)->channel;
	const struct rpc_call_options *options = closure_data;
	struct fake_call *c = calloc(1, sizeof *c);
	uint8_t *packed = malloc(protobuf_c_message_get_packed_size(input) + 1);
	assert_true(c && packed);
	size_t len = protobuf_c_message_pack(input, packed);
	c->input = protobuf_c_message_unpack(input->descriptor, NULL, len, packed);
	free(packed);
	c->method = service->descriptor->methods[method].name;
	c->done = options->done;
	c->arg = options->arg;
	c->timeout_ms = options->timeout_ms;
	c->request_id_len = options->request_id.len;
	if (options->request_id.len > 0)
		memcpy(c->request_id, options->request_id.data, options->request_id.len);
	pthread_mutex_lock(&ch->lock);
	*ch->last = c;
	ch->last = &c->next;
	ch->total++;
	pthread_cond_broadcast(&ch->more);
	pthread_mutex_unlock(&ch->lock);
}

ProtobufCService *rpc_channel_service(struct rpc_channel *ch, const ProtobufCServiceDescriptor *descriptor)
{
	ProtobufCService *found = NULL;
	pthread_mutex_lock(&ch->lock);
	for (size_t i = 0; i < FAKE_SERVICES && !found; i++) {
		struct fake_service *s = &ch->services[i];
		if (s->base.descriptor && s->base.descriptor != descriptor)
			continue;
		/* Once: who got it before reads it without the lock. */
		if (!s->base.descriptor)
			*s = (struct fake_service){ { .descriptor = descriptor, .invoke = fake_invoke }, ch };
		found = &s->base;
	}
	pthread_mutex_unlock(&ch->lock);
	return found;
}

void rpc_closure(const ProtobufCMessage *message, void *closure_data)
{
	(void)message;
	(void)closure_data;
}

/* The blocking form: waits until the test has answered. */
struct fake_wait {
	pthread_mutex_t lock;
	pthread_cond_t answered;
	bool is_answered;
	struct status status;
	ProtobufCMessage *answer;
};

static void fake_wait_done(void *arg, const struct rpc_result *result)
{
	struct fake_wait *w = arg;
	pthread_mutex_lock(&w->lock);
	w->status = result->status;
	if (result->message) {
		uint8_t *packed = malloc(protobuf_c_message_get_packed_size(result->message) + 1);
		size_t len = protobuf_c_message_pack(result->message, packed);
		w->answer = protobuf_c_message_unpack(result->message->descriptor, NULL, len, packed);
		free(packed);
	}
	w->is_answered = true;
	pthread_cond_signal(&w->answered);
	pthread_mutex_unlock(&w->lock);
}

enum status_code rpc_channel_wait(struct rpc_channel *ch, const ProtobufCServiceDescriptor *service, const char *method,
				  const ProtobufCMessage *input, const struct rpc_call_options *options, struct status *st,
				  ProtobufCMessage **ret_answer)
{
	struct fake_wait w = { .lock = PTHREAD_MUTEX_INITIALIZER, .answered = PTHREAD_COND_INITIALIZER };
	struct rpc_call_options copy = *options;
	copy.done = fake_wait_done;
	copy.arg = &w;
	const ProtobufCMethodDescriptor *m = protobuf_c_service_descriptor_get_method_by_name(service, method);
	fake_invoke(rpc_channel_service(ch, service), (unsigned)(m - service->methods), input, NULL, &copy);
	pthread_mutex_lock(&w.lock);
	while (!w.is_answered)
		pthread_cond_wait(&w.answered, &w.lock);
	pthread_mutex_unlock(&w.lock);
	if (w.status.code == STATUS_OK)
		*ret_answer = w.answer;
	else
		*st = w.status;
	return w.status.code;
}

static inline void fake_channel_init(struct rpc_channel *ch)
{
	*ch = (struct rpc_channel){ 0 };
	ch->last = &ch->first;
	pthread_mutex_init(&ch->lock, NULL);
	pthread_cond_init(&ch->more, NULL);
}

static inline void fake_channel_fini(struct rpc_channel *ch)
{
	assert_null(ch->first); /* every call was answered */
	pthread_mutex_destroy(&ch->lock);
	pthread_cond_destroy(&ch->more);
}

/* The oldest call that was not taken yet; waits for it, NULL after `ms`. */
static inline struct fake_call *fake_channel_take(struct rpc_channel *ch, unsigned ms)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&ch->lock);
	while (!ch->first && pthread_cond_timedwait(&ch->more, &ch->lock, &until) == 0)
		;
	struct fake_call *c = ch->first;
	if (c) {
		ch->first = c->next;
		if (!ch->first)
			ch->last = &ch->first;
	}
	pthread_mutex_unlock(&ch->lock);
	return c;
}

/* Both answer the call and free it. */
static inline void fake_call_answer(struct fake_call *c, const ProtobufCMessage *answer)
{
	size_t len = protobuf_c_message_get_packed_size(answer);
	uint8_t *packed = malloc(len + 1);
	protobuf_c_message_pack(answer, packed);
	c->done(c->arg, &(struct rpc_result){ .status = { .code = STATUS_OK }, .field = "", .message = answer,
					      .payload = { packed, len } });
	free(packed);
	protobuf_c_message_free_unpacked(c->input, NULL);
	free(c);
}

static inline void fake_call_fail(struct fake_call *c, enum status_code code)
{
	struct rpc_result result = { .field = "" };
	status_set(&result.status, code, "the test says so");
	c->done(c->arg, &result);
	protobuf_c_message_free_unpacked(c->input, NULL);
	free(c);
}

#endif
