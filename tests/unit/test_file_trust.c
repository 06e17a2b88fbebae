// links: common_base
#include "tests/support/support.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/file_trust.h"

#define STRANGER 64321 /* a user, and a group of many */

static char *directory;
static bool crowded; /* each group has more members than any buffer takes */

int getgrgid_r(gid_t group, struct group *entry, char *names, size_t size, struct group **ret_group)
{
	int (*real)(gid_t, struct group *, char *, size_t, struct group **);
	*(void **)&real = dlsym(RTLD_NEXT, "getgrgid_r");
	*ret_group = NULL;
	return crowded ? ERANGE : real(group, entry, names, size, ret_group);
}

static int setup(void **state)
{
	(void)state;
	directory = support_make_directory();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	support_remove_directory(directory);
	return 0;
}

static const char *at(const char *name)
{
	static char paths[4][4096];
	static unsigned next;
	char *path = paths[next++ % 4];
	snprintf(path, 4096, "%s/%s", directory, name);
	return path;
}

/* A file in a directory in a directory, which others cannot change. */
static void make(void)
{
	struct status st;
	assert_int_equal(mkdir(at("way"), 0755), 0);
	assert_int_equal(mkdir(at("way/here"), 0755), 0);
	assert_int_equal(file_write(at("way/here/file"), (struct slice){ "text", 4 }, 0644, false, &st), STATUS_OK);
}

static enum status_code read_it(const char *name, struct status *st)
{
	struct buffer text = { 0 };
	enum status_code rc = file_trust_read(at(name), 100, st, &text);
	assert_int_equal(text.len, rc == STATUS_OK ? 4 : 0);
	buffer_free(&text);
	return rc;
}

static void passes(const char *name)
{
	struct status st;
	if (read_it(name, &st) != STATUS_OK)
		fail_msg("%s", st.message);
}

static void refused(const char *name, const char *because)
{
	struct status st;
	assert_int_equal(read_it(name, &st), STATUS_FAILED_PRECONDITION);
	if (!strstr(st.message, because))
		fail_msg("'%s' does not say '%s'", st.message, because);
}

static void test_file_trust_refuses_what_others_may_write(void **state)
{
	(void)state;
	make();
	passes("way/here/file");
	const char *const names[] = { "way/here/file", "way/here", "way" };
	for (size_t i = 0; i < 3; i++) {
		char advice[4200];
		struct stat sb;
		assert_int_equal(stat(at(names[i]), &sb), 0);
		snprintf(advice, sizeof advice, "chmod go-w %s", at(names[i]));
		assert_int_equal(chmod(at(names[i]), sb.st_mode | S_IWOTH), 0);
		refused("way/here/file", advice);
		assert_int_equal(chmod(at(names[i]), sb.st_mode), 0);
		passes("way/here/file");
	}
	struct status st;
	assert_int_equal(read_it("way/here/none", &st), STATUS_NOT_FOUND);
}

static void test_file_trust_knows_sticky_directories_and_own_groups(void **state)
{
	(void)state;
	make();
	assert_int_equal(chmod(at("way"), 01777), 0);
	assert_int_equal(chmod(at("way/here"), 01777), 0);
	passes("way/here/file");
	assert_int_equal(chmod(at("way/here"), 0755), 0);
	if (geteuid() != 0)
		return;
	/* Root's own group has root alone. */
	assert_int_equal(chmod(at("way/here/file"), 0664), 0);
	assert_int_equal(chmod(at("way/here"), 0775), 0);
	passes("way/here/file");
	assert_int_equal(chown(at("way/here/file"), 0, STRANGER), 0);
	refused("way/here/file", "chmod go-w");
	assert_int_equal(chown(at("way/here/file"), 0, 0), 0);
	assert_int_equal(chown(at("way"), STRANGER, STRANGER), 0);
	assert_int_equal(chmod(at("way"), 0775), 0);
	passes("way/here/file"); /* of a group by its owner's number, with nobody else in it */
	assert_int_equal(chown(at("way"), STRANGER, STRANGER + 1), 0);
	refused("way/here/file", "chmod go-w");
}

static void test_file_trust_refuses_groups_too_large_to_look_at(void **state)
{
	(void)state;
	make();
	if (geteuid() != getegid())
		return; /* then the number does not tell */
	assert_int_equal(chmod(at("way/here/file"), 0664), 0);
	crowded = true;
	refused("way/here/file", "chmod go-w");
	crowded = false;
}

static void test_file_trust_refuses_other_owners(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	make();
	assert_int_equal(chown(at("way/here/file"), STRANGER, 0), 0);
	refused("way/here/file", "chown 0 ");
	assert_int_equal(chown(at("way/here/file"), 0, 0), 0);
	assert_int_equal(chown(at("way/here"), STRANGER, 0), 0);
	refused("way/here/file", "chown 0 ");
}

static void test_file_trust_goes_along_links(void **state)
{
	(void)state;
	make();
	assert_int_equal(mkdir(at("links"), 0755), 0);
	assert_int_equal(symlink("../way/here", at("links/relative")), 0);
	assert_int_equal(symlink(at("links/relative/file"), at("absolute")), 0);
	assert_int_equal(symlink("loop", at("loop")), 0);
	passes("absolute");
	passes("links/relative/file");
	/* Neither where it is asked for nor where it lies: who could change a link on the way is who decides. */
	assert_int_equal(chmod(at("links"), 0777), 0);
	refused("absolute", at("links"));
	assert_int_equal(chmod(at("links"), 01777), 0);
	passes("absolute");
	if (geteuid() == 0) {
		assert_int_equal(lchown(at("links/relative"), STRANGER, STRANGER), 0);
		refused("absolute", at("links/relative"));
	}
	struct status st;
	assert_int_equal(read_it("loop", &st), STATUS_FAILED_PRECONDITION);
}

static void test_file_trust_of_a_directory(void **state)
{
	(void)state;
	struct status st;
	make();
	assert_int_equal(file_trust_check_directory(at("way/here"), &st), STATUS_OK);
	assert_int_equal(file_trust_check_directory(at("way/none"), &st), STATUS_NOT_FOUND);
	assert_int_equal(file_trust_check_directory(at("way/here/file"), &st), STATUS_FAILED_PRECONDITION);
	assert_int_equal(chmod(at("way/here"), 0777), 0);
	assert_int_equal(file_trust_check_directory(at("way/here"), &st), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "chmod go-w"));
}

static void test_file_trust_lets_pipes_pass(void **state)
{
	(void)state;
	int ends[2];
	char path[64];
	struct status st;
	struct buffer text = { 0 };
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(write(ends[1], "text", 4), 4);
	close(ends[1]);
	snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
	assert_int_equal(file_trust_read(path, 100, &st, &text), STATUS_OK);
	assert_int_equal(text.len, 4);
	buffer_free(&text);
	close(ends[0]);
}

/* What anybody can make in a directory like /tmp, and then write into what he likes. */
static void test_file_trust_refuses_others_named_pipes(void **state)
{
	(void)state;
	struct status st;
	make();
	assert_int_equal(mkfifo(at("way/here/fifo"), 0600), 0);
	int fd = open(at("way/here/fifo"), O_RDWR | O_NONBLOCK | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(file_trust_check(fd, at("way/here/fifo"), &st), STATUS_OK);
	assert_int_equal(fchmod(fd, 0622), 0);
	assert_int_equal(file_trust_check(fd, at("way/here/fifo"), &st), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "chmod go-w"));
	if (geteuid() == 0) {
		assert_int_equal(fchmod(fd, 0600), 0);
		assert_int_equal(fchown(fd, STRANGER, STRANGER), 0);
		assert_int_equal(file_trust_check(fd, at("way/here/fifo"), &st), STATUS_FAILED_PRECONDITION);
		assert_non_null(strstr(st.message, "chown 0"));
	}
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_file_trust_refuses_what_others_may_write, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_trust_knows_sticky_directories_and_own_groups, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_trust_refuses_groups_too_large_to_look_at, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_trust_refuses_other_owners, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_trust_goes_along_links, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_trust_of_a_directory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_trust_lets_pipes_pass, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_trust_refuses_others_named_pipes, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
