/* CRC-32C (Castagnoli, RFC 3720 §12.1): finds damage to stored bytes, not forgery. */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Of what `crc` is of, followed by the bytes; begin with 0. Any thread. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
