/*
 * simulation [--seeds N] [--first N] [--steps N] [--mutant NAME]    many seeds, a process for each
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
	[MUTANT_CHANGED_ENTRY] = "changed-entry",
	[MUTANT_OWN_CLOCK] = "own-clock",
	[MUTANT_FORGED_ACKNOWLEDGEMENT] = "forged-acknowledgement",
	[MUTANT_CHANGED_PART] = "changed-part",
	[MUTANT_MOVED_SNAPSHOT] = "moved-snapshot",
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

/* A process for each: a replica that gives up ends its process, and a crash should name its seed, too. */
static bool run_seed(const struct arguments *a, uint64_t seed)
{
	/* Databases are in memory (disk.c), but for a few bytes beside them. */
	char dir[64];
	snprintf(dir, sizeof dir, "%s/kds-simulation.XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (!mkdtemp(dir)) {
		perror(dir);
		exit(2);
	}
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		sim_run(seed, a->steps, a->mutant, a->verbose, dir);
		exit(0);
	}
	int status = -1;
	if (child < 0 || waitpid(child, &status, 0) != child)
		perror("run a seed");
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	if (status == 0)
		return true;
	if (!WIFEXITED(status))
		printf("seed %" PRIu64 ": ended by signal %d\n", seed, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	else if (WEXITSTATUS(status) != 1)
		printf("seed %" PRIu64 ": a replica gave up, or a sanitizer complains: status %d\n", seed,
		       WEXITSTATUS(status));
	printf("again: simulation --seed %" PRIu64 " --steps %" PRIu64 "%s%s --verbose\n", seed, a->steps,
	       a->mutant ? " --mutant " : "", a->mutant ? mutants[a->mutant] : "");
	return false;
}

int main(int argc, char **argv)
{
	struct arguments a = parse(argc, argv);
	log_init("simulation", a.verbose ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR);
	disk_install();
	uint64_t failed = 0, i = 0;
	/* A mutant needs to be caught once. */
	for (; i < a.seeds && (a.mutant == MUTANT_NONE || failed == 0); i++)
		failed += !run_seed(&a, a.first + i);
	printf("%" PRIu64 " seeds, %" PRIu64 " failed\n", i, failed);
	return failed > 0;
}
