/*
 * simulation [--seeds N] [--first N] [--steps N] [--mutant NAME]    many seeds, a process for each, one on each CPU
 * simulation --seed N [--verbose] [--steps N] [--mutant NAME]       one of them again; it goes as it went
 *
 * Exit status: 0 everything held, 1 something did not (the seed is named), 2 wrong arguments.
 */
#include "tests/fault/simulation/simulation.h"

#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/log.h"
#include "tests/fault/simulation/disk.h"

#define SEEDS 300
#define STEPS 6000
#define JOBS_MAX 64

struct arguments {
	uint64_t first, seeds, steps;
	enum mutant mutant;
	bool verbose;
};

static const char *const mutants[MUTANT_COUNT] = {
	[MUTANT_NONE] = "none",
	[MUTANT_KEPT_TAIL] = "kept-tail",
	[MUTANT_LYING_DISK] = "lying-disk",
	[MUTANT_OLD_DATABASE] = "old-database",
	[MUTANT_FORGOTTEN_REQUESTS] = "forgotten-requests",
	[MUTANT_NO_REQUEST_IDS] = "no-request-ids",
	[MUTANT_FORGOTTEN_VOTE] = "forgotten-vote",
	[MUTANT_LOCAL_READS] = "local-reads",
	[MUTANT_OLD_CONFIRMATIONS] = "old-confirmations",
	[MUTANT_CHANGED_ENTRY] = "changed-entry",
	[MUTANT_OWN_CLOCK] = "own-clock",
	[MUTANT_FORGED_ACKNOWLEDGEMENT] = "forged-acknowledgement",
	[MUTANT_CHANGED_PART] = "changed-part",
	[MUTANT_MOVED_SNAPSHOT] = "moved-snapshot",
	[MUTANT_IGNORED_ERROR] = "ignored-error",
	[MUTANT_WIPED_REPLICA] = "wiped-replica",
	[MUTANT_NO_COMPARE] = "no-compare",
	[MUTANT_CHANGED_ROW] = "changed-row",
	[MUTANT_CHANGED_DIGEST] = "changed-digest",
};

static _Noreturn void usage(void)
{
	fputs("usage: simulation [--seeds N] [--first N] [--seed N] [--steps N] [--verbose] [--mutant NAME]\n"
	      "mutants:",
	      stderr);
	for (int i = 1; i < MUTANT_COUNT; i++)
		fprintf(stderr, " %s", mutants[i]);
	fputc('\n', stderr);
	exit(2);
}

static uint64_t number(const char *text)
{
	char *end;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0')
		usage();
	return n;
}

static enum mutant find_mutant(const char *name)
{
	for (int i = 0; i < MUTANT_COUNT; i++)
		if (strcmp(mutants[i], name) == 0)
			return (enum mutant)i;
	usage();
}

static struct arguments parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seeds", required_argument, NULL, 'n' }, { "first", required_argument, NULL, 'f' },
		{ "seed", required_argument, NULL, 's' },  { "steps", required_argument, NULL, 't' },
		{ "verbose", no_argument, NULL, 'v' },     { "mutant", required_argument, NULL, 'm' },
		{ 0 },
	};
	struct arguments a = { .first = 1, .seeds = SEEDS, .steps = STEPS };
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'n') {
			a.seeds = number(optarg);
		} else if (c == 'f') {
			a.first = number(optarg);
		} else if (c == 's') {
			a.first = number(optarg);
			a.seeds = 1;
		} else if (c == 't') {
			a.steps = number(optarg);
		} else if (c == 'v') {
			a.verbose = true;
		} else if (c == 'm') {
			a.mutant = find_mutant(optarg);
		} else {
			usage();
		}
	}
	if (optind != argc)
		usage();
	return a;
}

static int remove_one(const char *path, const struct stat *sb, int type, struct FTW *ftw)
{
	(void)sb;
	(void)type;
	(void)ftw;
	return remove(path);
}

struct job {
	pid_t pid; /* 0: none runs */
	uint64_t seed;
	char dir[64];
};

/* Databases are in memory (disk.c), but for a few bytes beside them. */
static void make_dir(char *dir, size_t size)
{
	snprintf(dir, size, "%s/kds-simulation.XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (!mkdtemp(dir)) {
		perror(dir);
		exit(2);
	}
}

static void complaints_path(const struct job *job, char path[128])
{
	snprintf(path, 128, "%s/complaints", job->dir);
}

/* Replicas whose disks fail say so: it is of interest when the seed fails. */
static void keep_complaints(const struct job *job)
{
	char path[128];
	complaints_path(job, path);
	if (!freopen(path, "w", stderr))
		exit(2);
	setvbuf(stderr, NULL, _IONBF, 0); /* _exit() leaves buffers as they are */
}

static void show_complaints(const struct job *job)
{
	char path[128], line[1024];
	complaints_path(job, path);
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		fputs(line, stdout);
	if (f)
		fclose(f);
}

/* A process for each: a replica that gives up ends its process, and a crash should name its seed, too. */
static void start(const struct arguments *a, uint64_t seed, struct job *job)
{
	job->seed = seed;
	make_dir(job->dir, sizeof job->dir);
	fflush(stdout);
	job->pid = fork();
	if (job->pid == 0) {
		if (!a->verbose)
			keep_complaints(job);
		sim_run(seed, a->steps, a->mutant, a->verbose, job->dir);
		exit(0);
	}
	if (job->pid < 0) {
		perror("run a seed");
		exit(2);
	}
}

/* True: everything held. */
static bool end(const struct arguments *a, struct job *job, int status)
{
	if (status != 0 && !a->verbose)
		show_complaints(job);
	nftw(job->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	job->pid = 0;
	if (status == 0)
		return true;
	if (!WIFEXITED(status))
		printf("seed %" PRIu64 ": ended by signal %d\n", job->seed, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	else if (WEXITSTATUS(status) != 1)
		printf("seed %" PRIu64 ": a replica gave up, or a sanitizer complains: status %d\n", job->seed,
		       WEXITSTATUS(status));
	printf("again: simulation --seed %" PRIu64 " --steps %" PRIu64 "%s%s --verbose\n", job->seed, a->steps,
	       a->mutant ? " --mutant " : "", a->mutant ? mutants[a->mutant] : "");
	return false;
}

static struct job *find_job(struct job *jobs, pid_t pid)
{
	for (unsigned i = 0; i < JOBS_MAX; i++)
		if (jobs[i].pid == pid)
			return &jobs[i];
	return NULL;
}

int main(int argc, char **argv)
{
	struct arguments a = parse(argc, argv);
	log_init("simulation", a.verbose ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR);
	disk_install();
	struct job jobs[JOBS_MAX] = { 0 };
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned at_once = cpus < 1 ? 1 : cpus < JOBS_MAX ? (unsigned)cpus : JOBS_MAX, running = 0;
	uint64_t failed = 0, i = 0;
	/* A mutant needs to be caught once. */
	while (running > 0 || (i < a.seeds && (a.mutant == MUTANT_NONE || failed == 0))) {
		if (running < at_once && i < a.seeds && (a.mutant == MUTANT_NONE || failed == 0)) {
			start(&a, a.first + i++, find_job(jobs, 0));
			running++;
			continue;
		}
		int status = 0;
		struct job *job = find_job(jobs, waitpid(-1, &status, 0));
		if (!job)
			continue;
		failed += !end(&a, job, status);
		running--;
	}
	printf("%" PRIu64 " seeds, %" PRIu64 " failed\n", i, failed);
	return failed > 0;
}
