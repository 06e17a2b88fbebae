/* Health.Echo, which every daemon answers, over sp_client.h. */
#ifndef TESTS_ECHO_H
#define TESTS_ECHO_H

#include "tests/support/sp_client.h"

#define ECHO_MAX (96u << 10)

/* A packed Request; the caller frees. Running out of memory ends the program. */
uint8_t *echo_request(const uint8_t *data, size_t len, size_t *ret_len);

/* Asks, and compares: did exactly these bytes (at most ECHO_MAX) come back? */
bool echo(struct sp_client *c, const uint8_t *data, size_t len);

#endif
