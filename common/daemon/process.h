/*
 * What a process that holds secrets asks of the system, before it reads the first.
 *
 * The secrets that we hold ourselves lie in memory of their own (common/base/secret.h). What GnuTLS makes of a key lies in
 * the ordinary heap, and nobody but GnuTLS can say where: so all of the process is kept from the swap, and no core is made.
 */
#ifndef DAEMON_PROCESS_H
#define DAEMON_PROCESS_H

/*
 * No core, whoever asks for one, and no look into the process's memory by others of the same user (RLIMIT_CORE 0,
 * PR_SET_DUMPABLE 0; in a sanitized build the first alone: LeakSanitizer looks into its own process as a debugger does).
 */
void process_refuse_dumps(void);

/*
 * The same, and all memory locked against swapping, page by page as it comes into use, so that nothing grows by it. Only
 * where no limit counts (CAP_IPC_LOCK, or RLIMIT_MEMLOCK unlimited): within a limit, threads and buffers could not be had
 * once it is reached, and a daemon under load would fail where it now works. Otherwise only secret_alloc()'s pages are
 * locked. The log says which. While there is one thread.
 */
void process_protect(void);

/* Gives memory that malloc() keeps free back to the system. Locked pages cannot be given back one by one, so for these
 * some milliseconds nothing is locked; what was in use a moment ago is not what the system swaps first. */
void process_give_memory_back(void);

#endif
