#include "tests/support/holding.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Noreturn void gone(const char *pid)
{
	fprintf(stderr, "process %s is gone\n", pid);
	exit(1);
}

static unsigned count_descriptors(const char *pid)
{
	char path[64];
	unsigned n = 0;
	snprintf(path, sizeof path, "/proc/%s/fd", pid);
	DIR *dir = opendir(path);
	if (!dir)
		gone(pid);
	for (struct dirent *e = readdir(dir); e; e = readdir(dir))
		n += e->d_name[0] != '.';
	closedir(dir);
	return n;
}

struct holding holding_of(const char *pid)
{
	struct holding h = { .descriptors = count_descriptors(pid) };
	char path[64], line[256];
	snprintf(path, sizeof path, "/proc/%s/status", pid);
	FILE *f = fopen(path, "re");
	if (!f)
		gone(pid);
	while (fgets(line, sizeof line, f)) {
		(void)sscanf(line, "Threads: %u", &h.threads);
		(void)sscanf(line, "VmRSS: %u", &h.rss_kib);
		(void)sscanf(line, "VmHWM: %u", &h.peak_kib);
	}
	fclose(f);
	return h;
}

unsigned long holding_cpu_ms(const char *pid)
{
	char path[64], text[1024];
	unsigned long user = 0, system = 0;
	snprintf(path, sizeof path, "/proc/%s/stat", pid);
	FILE *f = fopen(path, "re");
	if (!f)
		gone(pid);
	size_t n = fread(text, 1, sizeof text - 1, f);
	fclose(f);
	text[n] = '\0';
	/* The name, in parentheses, may hold anything. */
	const char *rest = strrchr(text, ')');
	if (!rest || sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
		gone(pid);
	return (user + system) * 1000 / (unsigned long)sysconf(_SC_CLK_TCK);
}

struct holding holding_settle(const char *pid, const struct holding *before)
{
	struct holding h = holding_of(pid);
	for (int i = 0; i < 300 && (h.descriptors > before->descriptors || h.threads > before->threads); i++) {
		usleep(100000);
		h = holding_of(pid);
	}
	return h;
}
