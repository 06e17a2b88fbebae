/*
 * Base64 (RFC 4648 §4) out, and in also its URL alphabet (§5) and without padding, as protobuf's JSON mapping wants. Keeps no
 * copies, so secrets take this way: GnuTLS's decoder leaves them in the heap.
 */
#ifndef BASE_BASE64_H
#define BASE_BASE64_H

#include "common/base/buffer.h"

/* The length of the text, without a NUL. */
size_t base64_encoded_length(size_t len);
/* Writes that much, and a NUL behind it. */
void base64_encode(struct slice bytes, char *out);

/* Room that base64_decode() may fill for a text of this length. */
size_t base64_decoded_max(size_t len);
/* `out` may be where the text is. False: not base64 (a foreign character, a length that none has, bits behind the end). */
bool base64_decode(struct slice text, uint8_t *out, size_t *ret_len) MUST_CHECK;

#endif
