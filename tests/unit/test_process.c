// links: common_daemon
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "common/base/log.h"
#include "common/daemon/process.h"

#define BLOCKS 10000
#define BLOCK_SIZE 4096

static unsigned long status_kib(const char *field)
{
	char line[256];
	unsigned long kib = 0;
	FILE *f = fopen("/proc/self/status", "re");
	assert_non_null(f);
	while (fgets(line, sizeof line, f))
		if (strncmp(line, field, strlen(field)) == 0)
			kib = strtoul(line + strlen(field), NULL, 10);
	fclose(f);
	return kib;
}

/* What is free between blocks in use goes back although all is locked, and is locked again afterwards. */
static void test_process_gives_locked_memory_back(void **state)
{
	(void)state;
	static char *blocks[BLOCKS];
	if (getenv("KDS_TEST_SANITIZE"))
		skip(); /* its malloc keeps what was freed, and does not lock */
	log_init("test", LOG_LEVEL_ERROR);
	process_protect();
	if (status_kib("VmLck:") < 1024)
		skip(); /* not allowed here */
	for (size_t i = 0; i < BLOCKS; i++) {
		blocks[i] = malloc(BLOCK_SIZE);
		assert_non_null(blocks[i]);
		memset(blocks[i], 1, BLOCK_SIZE);
	}
	for (size_t i = 0; i < BLOCKS; i++)
		if (i % 100 != 99)
			free(blocks[i]);
	unsigned long before = status_kib("VmRSS:");
	process_give_memory_back();
	unsigned long after = status_kib("VmRSS:");
	assert_true(before - after > BLOCKS * (BLOCK_SIZE / 1024) / 2);
	assert_true(status_kib("VmLck:") >= after);
	for (size_t i = 99; i < BLOCKS; i += 100)
		free(blocks[i]);
}

static void test_process_refuses_dumps(void **state)
{
	(void)state;
	struct rlimit limit;
	process_refuse_dumps();
	assert_int_equal(getrlimit(RLIMIT_CORE, &limit), 0);
	assert_true(limit.rlim_cur == 0 && limit.rlim_max == 0);
	if (!getenv("KDS_TEST_SANITIZE"))
		assert_int_equal(prctl(PR_GET_DUMPABLE), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_process_gives_locked_memory_back),
		cmocka_unit_test(test_process_refuses_dumps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
