#include "common/daemon/process.h"

#include <errno.h>
#include <linux/capability.h>
#include <malloc.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/log.h"

#if defined __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static bool locked; /* written by process_protect() alone, before there are threads */

void process_refuse_dumps(void)
{
	(void)setrlimit(RLIMIT_CORE, &(struct rlimit){ 0 });
	if (!SANITIZED)
		(void)prctl(PR_SET_DUMPABLE, 0);
}

static bool has_capability(unsigned capability)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };
	return syscall(SYS_capget, &head, data) == 0 &&
	       (data[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability)) != 0;
}

/* Raises the soft limit as far as it goes, for secret_alloc() too. */
static bool is_unlimited(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
		return false;
	if (limit.rlim_cur != limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_MEMLOCK, &limit);
	}
	return limit.rlim_max == RLIM_INFINITY || has_capability(CAP_IPC_LOCK);
}

static bool lock_all(void)
{
	return mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0;
}

void process_protect(void)
{
	process_refuse_dumps();
	if (!is_unlimited()) {
		log_info("memory: keys alone are locked against swapping; set LimitMEMLOCK=infinity to lock all");
		return;
	}
	locked = lock_all();
	if (locked)
		log_info("memory: all is locked against swapping");
	else
		log_warning("memory: keys alone are locked against swapping: %s", strerror(errno));
}

void process_give_memory_back(void)
{
	if (locked)
		(void)munlockall();
	malloc_trim(0);
	if (locked && !lock_all())
		log_warning("memory: no longer locked against swapping: %s", strerror(errno));
}
