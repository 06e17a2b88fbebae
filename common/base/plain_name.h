/* Names of settings, CAs and services: part of the configuration's keys, of file names and URIs, hence this narrow. */
#ifndef BASE_PLAIN_NAME_H
#define BASE_PLAIN_NAME_H

#include "common/base/status.h"

#define PLAIN_NAME_MAX 64

/* 1 to PLAIN_NAME_MAX letters, digits, '.', '_' or '-', the first of them no '.' or '-'. `what` ("setting") says in the
 * error whose name it is. INVALID_ARGUMENT. */
enum status_code plain_name_check(const char *name, const char *what, struct status *st) MUST_CHECK;

#endif
