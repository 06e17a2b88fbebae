/*
 * libraft's messages to and from state.proto, with every value checked that libraft only asserts (Debian compiles its
 * asserts out). Pure functions but for the scratch memory. One thread.
 */
#ifndef SERIAL_CODEC_H
#define SERIAL_CODEC_H

#include <raft.h>

#include "services/serial/entry_cache.h"
#include "state.pb-c.h"

struct codec;

#define CODEC_APPEND_RESULT_VERSION 2 /* as in libraft 0.22.1's message.h */
#define CODEC_ENTRIES_MAX 1024 /* in one AppendEntries message, either way */

/* NULL: no memory. */
struct codec *codec_new(void) MUST_CHECK;
void codec_free(struct codec *c);

/* Appends a packed PeerMessage. False: no memory, or a message that is never sent (snapshots). Not for
 * AppendEntries. */
bool codec_pack(const struct raft_message *message, struct buffer *out) MUST_CHECK;
/* AppendEntries with `n` entries behind prev_log_index; m->entries and m->n_entries do not count. False: no memory. */
bool codec_pack_append(struct codec *c, const struct raft_append_entries *m, const struct cached_entry *entries,
		       unsigned n, struct buffer *out) MUST_CHECK;

/*
 * What a peer sent. `from` is who its certificate says. Entries lie in the codec's scratch memory and their bytes in
 * `in`, both until the next call; no entry has a batch, so libraft frees nothing. INVALID_ARGUMENT: no message of
 * raft's, or impossible.
 */
enum status_code codec_unpack(struct codec *c, const Kds__V1__PeerMessage *in, raft_id from, struct status *st,
			      struct raft_message *ret_message) MUST_CHECK;

/* Is this a membership as libraft encodes it? raft_configuration_decode() itself checks no bounds. */
bool codec_configuration_valid(struct slice data) MUST_CHECK;

#endif
