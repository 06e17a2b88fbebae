/* What was asked for under a request id, as records keep it (IssuedCertificate.request_digest). */
#ifndef CA_DIGEST_H
#define CA_DIGEST_H

#include "common/base/buffer.h"

#define DIGEST_SIZE 32

/*
 * SHA-256 of `label` and the fields, each behind its length (4 bytes, big-endian): no two lists of fields look alike.
 * INTERNAL: GnuTLS cannot.
 */
enum status_code digest_of(const char *label, const struct slice *fields, size_t n, struct status *st,
			   uint8_t ret_digest[DIGEST_SIZE]) MUST_CHECK;

#endif
