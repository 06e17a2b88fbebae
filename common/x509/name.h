/* Names that may stand in a certificate. Pure functions. */
#ifndef X509_NAME_H
#define X509_NAME_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/status.h"

/*
 * What a certificate's names may take in all: its common name, DNS names, addresses and URIs, each with so many bytes
 * besides. Checked where a node is entered; what a TLS handshake takes of a peer (common/net) follows from it, so that
 * no certificate is made that a daemon refuses.
 */
#define X509_NAMES_MAX 12288
#define X509_NAME_OVERHEAD 8

/* A host name in lower case, RFC 1123 §2.1 labels, at most 253 bytes, no wildcard, no trailing dot. `what` names it
 * in the error. INVALID_ARGUMENT. */
enum status_code x509_check_dns_name(const char *name, const char *what, struct status *st) MUST_CHECK;

/* IPv4 or IPv6 in text to 4 or 16 bytes (RFC 5280 §4.2.1.6). */
enum status_code x509_parse_address(const char *text, struct status *st, uint8_t ret_bytes[16],
				    unsigned *ret_len) MUST_CHECK;

/*
 * A group: an absolute URI (RFC 3986) of at most 255 bytes of printable ASCII, with or without a fragment that gives
 * the nonce's precision: a positive number and "ms", "s", "m", "h" or "d" ("urn:x:prjA#10s"). Without: 1 ms.
 * ret_len: bytes before the fragment. ret_precision_ms: 1 to 7 days. Either may be NULL. The scheme "kds" is refused.
 */
enum status_code x509_parse_group(const char *uri, struct status *st, unsigned *ret_len,
				  uint64_t *ret_precision_ms) MUST_CHECK;

/* Does `uri` (of a certificate, fragment and all) name `group` (no fragment)? */
bool x509_group_matches(const char *uri, const char *group);

#endif
