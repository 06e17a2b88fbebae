#include "services/serial/inbox.h"

#include <pthread.h>
#include <stdlib.h>

#include "services/serial/level.h"

#define WAITING_MAX 8192                     /* proposals and reads, here and in the replica */
#define COMMAND_BYTES_MAX ((size_t)8 << 20)  /* of proposals here */
#define MESSAGE_BYTES_MAX ((size_t)32 << 20) /* of frames from peers here */
#define KEEP_BYTES ((size_t)1 << 20)         /* memory kept from one turn to the next */

/* What a proposal's command is until the inbox is taken: its bytes may still move. */
static uint8_t placeholder[1];

/* One side is filled while the engine works on the other. */
struct side {
	struct inbox_content content;
	size_t cap_proposals, cap_reads, cap_messages;
	struct buffer commands; /* proposals' bytes, in their order; it may move until it is taken */
	size_t message_bytes;
};

struct inbox {
	pthread_mutex_t mutex;
	struct side sides[2];
	int filling;
	size_t waiting;
	bool closed;
	void (*wake)(void *arg);
	void *arg;
};

struct inbox *inbox_new(void (*wake)(void *arg), void *arg)
{
	struct inbox *in = calloc(1, sizeof *in);
	if (!in)
		return NULL;
	in->wake = wake;
	in->arg = arg;
	pthread_mutex_init(&in->mutex, NULL);
	return in;
}

void inbox_free(struct inbox *in)
{
	if (!in)
		return;
	for (int i = 0; i < 2; i++) {
		struct side *s = &in->sides[i];
		free(s->content.proposals);
		free(s->content.reads);
		free(s->content.messages);
		buffer_free(&s->commands);
	}
	pthread_mutex_destroy(&in->mutex);
	free(in);
}

/* Room for one more element of `size` bytes in an array. */
static bool grow(void **array, size_t *cap, size_t n, size_t size)
{
	if (n < *cap)
		return true;
	size_t more = *cap ? *cap * 2 : 64;
	void *p = realloc(*array, more * size);
	if (!p)
		return false;
	*array = p;
	*cap = more;
	return true;
}

static bool empty(const struct inbox_content *c)
{
	return c->n_proposals + c->n_reads + c->n_messages == 0;
}

static size_t waiting(const struct inbox *in, const struct side *s)
{
	return in->waiting + s->content.n_proposals + s->content.n_reads;
}

static void unlock_and_wake(struct inbox *in, bool wake)
{
	pthread_mutex_unlock(&in->mutex);
	if (wake)
		in->wake(in->arg);
}

bool inbox_propose(struct inbox *in, Kds__V1__Command *command, engine_done_fn done, void *arg)
{
	if (command->version == 0)
		command->version = LEVEL_FIRST;
	command->time_ms = 0;
	size_t len = kds__v1__command__get_packed_size(command);
	pthread_mutex_lock(&in->mutex);
	struct side *s = &in->sides[in->filling];
	bool wake = empty(&s->content);
	bool room = waiting(in, s) < WAITING_MAX && len <= INBOX_COMMAND_MAX && s->commands.len < COMMAND_BYTES_MAX;
	void *array = s->content.proposals;
	bool ok = !in->closed && grow(&array, &s->cap_proposals, s->content.n_proposals, sizeof *s->content.proposals);
	s->content.proposals = array;
	ok = ok && (!room || buffer_reserve(&s->commands, len + PROPOSAL_STAMP_MAX));
	if (ok && room) {
		kds__v1__command__pack(command, s->commands.data + s->commands.len);
		s->commands.len += len + PROPOSAL_STAMP_MAX;
	}
	if (ok)
		s->content.proposals[s->content.n_proposals++] =
		    (struct proposal){ .command = room ? placeholder : NULL, .len = len, .done = done, .arg = arg };
	unlock_and_wake(in, wake && ok);
	return ok;
}

bool inbox_read(struct inbox *in, bool linearizable, engine_read_fn read, void *arg)
{
	pthread_mutex_lock(&in->mutex);
	struct side *s = &in->sides[in->filling];
	bool wake = empty(&s->content), refused = waiting(in, s) >= WAITING_MAX;
	void *array = s->content.reads;
	bool ok = !in->closed && grow(&array, &s->cap_reads, s->content.n_reads, sizeof *s->content.reads);
	s->content.reads = array;
	if (ok)
		s->content.reads[s->content.n_reads++] = (struct inbox_read){
			.read = read,
			.arg = arg,
			.linearizable = linearizable,
			.refused = refused,
		};
	unlock_and_wake(in, wake && ok);
	return ok;
}

void inbox_receive(struct inbox *in, const struct inbox_message *message)
{
	pthread_mutex_lock(&in->mutex);
	struct side *s = &in->sides[in->filling];
	bool wake = empty(&s->content);
	void *array = s->content.messages;
	bool ok = !in->closed && s->message_bytes < MESSAGE_BYTES_MAX &&
		  grow(&array, &s->cap_messages, s->content.n_messages, sizeof *message);
	s->content.messages = array;
	if (ok) {
		s->content.messages[s->content.n_messages++] = *message;
		s->message_bytes += message->size;
	}
	unlock_and_wake(in, wake && ok);
	if (!ok)
		arena_free(message->arena);
}

const struct inbox_content *inbox_take(struct inbox *in, size_t waiting)
{
	/* Only this thread touches the side that is not being filled. */
	struct side *done = &in->sides[!in->filling];
	done->content.n_proposals = done->content.n_reads = done->content.n_messages = 0;
	done->message_bytes = 0;
	done->commands.len = 0;
	if (done->commands.cap > KEEP_BYTES)
		buffer_free(&done->commands);
	pthread_mutex_lock(&in->mutex);
	struct side *s = &in->sides[in->filling];
	in->filling = !in->filling;
	in->waiting = waiting + s->content.n_proposals + s->content.n_reads;
	pthread_mutex_unlock(&in->mutex);
	size_t offset = 0;
	for (size_t i = 0; i < s->content.n_proposals; i++) {
		struct proposal *p = &s->content.proposals[i];
		if (!p->command)
			continue;
		p->command = s->commands.data + offset;
		offset += p->len + PROPOSAL_STAMP_MAX;
	}
	return &s->content;
}

void inbox_close(struct inbox *in)
{
	pthread_mutex_lock(&in->mutex);
	in->closed = true;
	pthread_mutex_unlock(&in->mutex);
}
