/*
 * One budget for the buffers of all connections of this process, so that no number of peers makes it grow without bound.
 *
 * With a limit alone, whoever comes first takes all of it. So each identity has an account, and the rule is: nobody may
 * hold more than is still free (dynamic thresholds, Choudhury and Hahne 1998). One that floods stops at half of the
 * budget, two at a third each, and there is always room for the next. Nothing is taken back from who holds it: what a
 * connection holds has a time to move (conn.h), and is asked for anew. A quarter is for services and the administrator
 * alone, and a service has a floor, however much the others hold: there are few, and the cluster stands on them.
 *
 * What cannot be refused (ciphertext of what was accepted, connections of our own making, peers that are not
 * authenticated, whose number and buffers are small) is counted all the same, and leaves less for the rest.
 *
 * Any thread, no locks. Threads that ask at the same moment may pass the limit by what they ask for.
 */
#ifndef NET_BUDGET_H
#define NET_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/base/status.h"

#define BUDGET_DEFAULT ((size_t)256 << 20)
#define BUDGET_SERVICE_FLOOR ((size_t)16 << 20)

/* What one identity holds. Zero-initialised is a node's, empty. */
struct budget_account {
	atomic_size_t bytes;
	bool service; /* or the administrator */
};

/* The process's limit, in bytes. */
void budget_set_limit(size_t bytes);
size_t budget_used(void);

/* False: it would hold more than its share; nothing was taken. An account of NULL is never refused. */
bool budget_take(struct budget_account *account, size_t bytes) MUST_CHECK;
/* Takes it whatever the limit. */
void budget_charge(struct budget_account *account, size_t bytes);
void budget_give(struct budget_account *account, size_t bytes);

#endif
