/*
 * How long a certificate is, and of how many parts, before anything parses it. GnuTLS takes time with the square of the
 * parts: one of 60 KiB whose subject has 4,600 of them holds a processor for most of a second, and anybody can make it.
 */
#ifndef X509_SHAPE_H
#define X509_SHAPE_H

#include "common/base/buffer.h"
#include "common/x509/name.h"

/* What a certificate holds besides its names: key and signature (1.1 KiB with RSA of 4096 bits), issuer, extensions. */
#define X509_BESIDES_NAMES 2560
#define X509_CERTIFICATE_MAX (X509_NAMES_MAX + X509_BESIDES_NAMES)

/* Looks at each byte of `der` once, at most. INVALID_ARGUMENT: longer or of more parts than any of ours, or not DER. Not a
 * parser: what passes may still be no certificate. */
enum status_code x509_check_shape(struct slice der, struct status *st) MUST_CHECK;

#endif
