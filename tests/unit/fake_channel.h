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

struct rpc_channel {
	ProtobufCService service;
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct fake_call *first, **last;
	unsigned total;               /* calls made so far */
};

static void fake_invoke(ProtobufCService *service, unsigned method, const ProtobufCMessage *input,
			ProtobufCClosure closure, void *closure_data)
{
	(void)closure;
	struct rpc_channel *ch = (struct rpc_channel *)(void *)service;
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
	ch->service.descriptor = descriptor;
	return &ch->service;
}

void rpc_closure(const ProtobufCMessage *message, void *closure_data)
{
	(void)message;
	(void)closure_data;
}

static inline void fake_channel_init(struct rpc_channel *ch)
{
	*ch = (struct rpc_channel){ .service = { .invoke = fake_invoke } };
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
	c->done(c->arg, &(struct rpc_result){ .status = { .code = STATUS_OK }, .field = "", .message = answer });
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
