/* What several tests share. */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

/* cmocka wants these first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* A fresh directory under $TMPDIR, removed with everything in it by support_remove_directory(). The caller frees. */
char *support_make_directory(void);
void support_remove_directory(char *path);

/* "127.A.B": a net of loopback addresses for this process, so that tests of several build directories run side by side.
 * For ports that must be known before they are listened on; others take port 0. */
const char *support_net(void);

#endif
