// links: common_backup common_base
/* The file of a backup: whole, or refused; and what is whole must make sense. */
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/backup/check.h"
#include "common/backup/rows.h"
#include "common/rpc/message.h"

static char *dir;
static char path[600];
static struct status st;

static int set_up(void **arg)
{
	(void)arg;
	dir = support_make_directory();
	snprintf(path, sizeof path, "%s/kds.backup", dir);
	return 0;
}

static int tear_down(void **arg)
{
	(void)arg;
	support_remove_directory(dir);
	return 0;
}

static void ok(enum status_code rc)
{
	if (rc != STATUS_OK)
		fail_msg("%s", st.message);
}

/* A state, as rows, whose parts a test can spoil. */
struct content {
	int64_t revision, last_serial, min_serial, highest_issued, issued;
	uint64_t block[4]; /* ca1's range, ca2's range */
	int64_t serials[2];
	uint64_t min_object;
	int64_t setting_revision;
	const char *cluster;
	int64_t asked[2]; /* who asked, of states that say so; 0: one that does not */
};

static const struct content good = { 3, 200, 2, 6, 2, { 1, 100, 101, 200 }, { 5, 6 }, 2, 3, "cluster.example.com", { 0, 0 } };

static struct row_value integer(int64_t value)
{
	return (struct row_value){ .type = ROW_INTEGER, .integer = value };
}

static struct row_value text(const char *value)
{
	return (struct row_value){ .type = ROW_TEXT, .bytes = { value, strlen(value) } };
}

static void put_block(struct buffer *out, const char *holder, const uint64_t range[2])
{
	uint8_t bytes[16];
	for (int i = 0; i < 16; i++)
		bytes[i] = (uint8_t)(range[i / 8] >> (56 - 8 * (i % 8)));
	const struct row_value values[] = { text(holder), { .type = ROW_BLOB, .bytes = { bytes, 16 } } };
	assert_true(rows_put(out, values, 2));
}

static void put_object(struct buffer *out, const char *key, int64_t revision, Kds__V1__Object *o)
{
	struct buffer packed = { 0 };
	o->key = (char *)key;
	o->revision = (uint64_t)revision;
	ok(message_pack(&o->base, &packed, &st));
	const struct row_value values[] = { text(key), integer(revision), integer(0),
					    { .type = ROW_BLOB, .bytes = { packed.data, packed.len } } };
	assert_true(rows_put(out, values, 4));
	buffer_free(&packed);
}

static void put_objects(struct buffer *out, const struct content *c)
{
	Kds__V1__Cluster cluster = KDS__V1__CLUSTER__INIT;
	cluster.name = (char *)c->cluster;
	cluster.kds_name = "key.example.com";
	cluster.cluster_id = "4fd2";
	Kds__V1__MinSerial min = KDS__V1__MIN_SERIAL__INIT;
	min.value = c->min_object;
	Kds__V1__Setting setting = KDS__V1__SETTING__INIT;
	setting.name = "a";
	Kds__V1__Object o = KDS__V1__OBJECT__INIT;
	assert_true(rows_put_table(out, "objects", "key,revision,deleted,value"));
	o.value_case = KDS__V1__OBJECT__VALUE_CLUSTER;
	o.cluster = &cluster;
	put_object(out, "cluster", 1, &o);
	o.value_case = KDS__V1__OBJECT__VALUE_MIN_SERIAL;
	o.min_serial = &min;
	put_object(out, "serial/min", 2, &o);
	o.value_case = KDS__V1__OBJECT__VALUE_SETTING;
	o.setting = &setting;
	put_object(out, "setting/a", c->setting_revision, &o);
}

static void make_rows(const struct content *c, struct buffer *out)
{
	static const uint8_t fingerprint[32] = { 1 };
	assert_true(rows_put_table(out, "numbers", "id,revision,last_serial,min_serial,highest_issued,issued"));
	const struct row_value numbers[] = { integer(1), integer(c->revision), integer(c->last_serial),
					     integer(c->min_serial), integer(c->highest_issued), integer(c->issued) };
	assert_true(rows_put(out, numbers, 6));
	assert_true(rows_put_table(out, "blocks", "holder,ranges"));
	put_block(out, "ca1", c->block);
	put_block(out, "ca2", c->block + 2);
	assert_true(rows_put_table(out, "issued", "serial,fingerprint,subject"));
	for (int i = 0; i < 2; i++) {
		const struct row_value values[] = { integer(c->serials[i]),
						    { .type = ROW_BLOB, .bytes = { fingerprint, 32 } },
						    text("node1.example.com") };
		assert_true(rows_put(out, values, 3));
	}
	if (c->asked[0])
		assert_true(rows_put_table(out, "asked", "serial,request_id,request_digest"));
	for (int i = 0; c->asked[0] && i < 2; i++) {
		const struct row_value id = { .type = ROW_BLOB, .bytes = { fingerprint, 32 } };
		const struct row_value values[] = { integer(c->asked[i]), id, id };
		assert_true(rows_put(out, values, 3));
	}
	put_objects(out, c);
	/* One that the check does not know. */
	assert_true(rows_put_table(out, "history", "id"));
	const struct row_value one[] = { integer(1) };
	assert_true(rows_put(out, one, 1));
}

static void make_header(const struct content *c, Kds__V1__Cluster *cluster, Kds__V1__BackupHeader *h)
{
	kds__v1__cluster__init(cluster);
	kds__v1__backup_header__init(h);
	cluster->name = "cluster.example.com";
	cluster->kds_name = "key.example.com";
	cluster->cluster_id = "4fd2";
	h->cluster = cluster;
	h->revision = (uint64_t)c->revision;
	h->last_serial = (uint64_t)c->last_serial;
	h->min_serial = (uint64_t)c->min_serial;
	h->highest_issued = (uint64_t)c->highest_issued;
	h->issued = (uint64_t)c->issued;
}

static void make_file(const struct content *c, const Kds__V1__BackupRestore *restore)
{
	struct buffer rows = { 0 };
	Kds__V1__Cluster cluster;
	Kds__V1__BackupHeader header;
	struct backup_writer *w = NULL;
	uint8_t digest[BACKUP_DIGEST_SIZE];
	make_rows(c, &rows);
	make_header(c, &cluster, &header);
	ok(backup_writer_new(path, true, &st, &w));
	ok(backup_writer_header(w, &header, &st));
	for (size_t at = 0; at < rows.len; at += 100)
		ok(backup_writer_rows(w, (struct slice){ rows.data + at, rows.len - at < 100 ? rows.len - at : 100 }, &st));
	if (restore)
		ok(backup_writer_restore(w, restore, &st));
	ok(backup_writer_end(w, &st, digest));
	backup_writer_free(w);
	buffer_free(&rows);
}

static enum status_code verify(void)
{
	struct backup_summary s = { 0 };
	enum status_code rc = backup_verify(path, &st, &s);
	backup_summary_fini(&s);
	return rc;
}

static void write_bytes(const void *data, size_t len)
{
	ok(file_write(path, (struct slice){ data, len }, 0600, true, &st));
}

static void test_backup_file_holds_what_was_put_in(void **arg)
{
	(void)arg;
	uint8_t id[16] = { 7 };
	Kds__V1__BackupRestore restore = KDS__V1__BACKUP_RESTORE__INIT;
	restore.id = (ProtobufCBinaryData){ sizeof id, id };
	restore.skip = BACKUP_SKIP_MIN;
	restore.min_serial = 2;
	struct backup_summary s = { 0 }, prepared = { 0 };
	struct stat sb;
	make_file(&good, NULL);
	ok(backup_verify(path, &st, &s));
	assert_int_equal(stat(path, &sb), 0);
	assert_int_equal(sb.st_mode & 0777, 0600);
	assert_int_equal(s.bytes, sb.st_size);
	assert_int_equal(s.header->last_serial, 200);
	assert_null(s.restore);
	make_file(&good, &restore);
	ok(backup_verify(path, &st, &prepared));
	assert_int_equal(prepared.restore->skip, BACKUP_SKIP_MIN);
	assert_memory_not_equal(prepared.digest, s.digest, BACKUP_DIGEST_SIZE);
	backup_summary_fini(&s);
	backup_summary_fini(&prepared);
}

static void test_backup_file_every_flipped_byte_is_found(void **arg)
{
	(void)arg;
	struct buffer file = { 0 };
	make_file(&good, NULL);
	ok(file_read(path, 1 << 20, &st, &file));
	for (size_t i = 0; i < file.len; i++) {
		file.data[i] ^= (uint8_t)(1u << i % 8);
		write_bytes(file.data, file.len);
		enum status_code rc = verify();
		if (rc != STATUS_DATA_LOSS && !(i == 11 && rc == STATUS_FAILED_PRECONDITION)) /* the format's number */
			fail_msg("byte %zu of %zu: %s", i, file.len, status_name(rc));
		file.data[i] ^= (uint8_t)(1u << i % 8);
	}
	for (size_t len = 0; len < file.len; len++) {
		write_bytes(file.data, len);
		if (verify() != STATUS_DATA_LOSS)
			fail_msg("%zu of %zu bytes pass", len, file.len);
	}
	assert_true(buffer_append(&file, "\n", 1));
	write_bytes(file.data, file.len);
	assert_int_equal(verify(), STATUS_DATA_LOSS);
	buffer_free(&file);
}

/* Whole parts that were taken out, repeated or exchanged: each has its checksum, and only the end tells. */
static void test_backup_file_parts_stay_where_they_are(void **arg)
{
	(void)arg;
	struct buffer file = { 0 }, other = { 0 };
	size_t starts[64], n = 0;
	make_file(&good, NULL);
	ok(file_read(path, 1 << 20, &st, &file));
	for (size_t at = 13; at < file.len; n++) {
		starts[n] = at;
		at += 36 + ((size_t)file.data[at + 2] << 8) + file.data[at + 3];
	}
	starts[n] = file.len;
	assert_true(n > 4);
	for (size_t i = 0; i < n; i++) {
		size_t len = starts[i + 1] - starts[i];
		other.len = 0;
		assert_true(buffer_append(&other, file.data, starts[i]));
		assert_true(buffer_append(&other, file.data + starts[i + 1], file.len - starts[i + 1]));
		write_bytes(other.data, other.len); /* without it */
		assert_int_equal(verify(), STATUS_DATA_LOSS);
		other.len = 0;
		assert_true(buffer_append(&other, file.data, starts[i + 1]));
		assert_true(buffer_append(&other, file.data + starts[i], len));
		assert_true(buffer_append(&other, file.data + starts[i + 1], file.len - starts[i + 1]));
		write_bytes(other.data, other.len); /* twice */
		assert_int_equal(verify(), STATUS_DATA_LOSS);
	}
	buffer_free(&file);
	buffer_free(&other);
}

/* A fixed sequence, so that a failure comes again. */
static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

/* Whatever is done to the rows, with right checksums around them: nothing but an answer. */
static void test_backup_check_survives_any_rows(void **arg)
{
	(void)arg;
	struct buffer rows = { 0 };
	Kds__V1__Cluster cluster;
	Kds__V1__BackupHeader header;
	uint32_t seed = 42;
	unsigned passed = 0;
	make_rows(&good, &rows);
	make_header(&good, &cluster, &header);
	for (int round = 0; round < 20000; round++) {
		struct buffer copy = { 0 };
		assert_true(buffer_append(&copy, rows.data, rows.len));
		for (uint32_t n = 1 + next_random(&seed) % 3; n > 0; n--)
			copy.data[next_random(&seed) % copy.len] = (uint8_t)next_random(&seed);
		if (next_random(&seed) % 4 == 0)
			copy.len = next_random(&seed) % copy.len;
		struct backup_check *c = backup_check_new();
		assert_non_null(c);
		size_t half = next_random(&seed) % (copy.len + 1);
		enum status_code rc = backup_check_feed(c, (struct slice){ copy.data, half }, &st);
		if (rc == STATUS_OK)
			rc = backup_check_feed(c, (struct slice){ copy.data + half, copy.len - half }, &st);
		if (rc == STATUS_OK)
			rc = backup_check_end(c, &header, &st);
		passed += rc == STATUS_OK;
		backup_check_free(c);
		buffer_free(&copy);
	}
	/* Names and fingerprints may be any; most of the rest is noticed. */
	if (passed > 10000)
		fail_msg("%u of 20000 pass", passed);
	buffer_free(&rows);
}

static void test_backup_check_compares(void **arg)
{
	(void)arg;
	static const struct {
		const char *words;
		struct content content;
	} bad[] = {
		{ "min_serial", { 3, 200, 202, 6, 2, { 1, 100, 101, 200 }, { 5, 6 }, 202, 3, "cluster.example.com", { 0, 0 } } },
		{ "highest_issued", { 3, 200, 2, 201, 2, { 1, 100, 101, 200 }, { 5, 6 }, 2, 3, "cluster.example.com", { 0, 0 } } },
		{ "in two blocks", { 3, 200, 2, 6, 2, { 1, 101, 101, 200 }, { 5, 6 }, 2, 3, "cluster.example.com", { 0, 0 } } },
		{ "a block goes", { 3, 200, 2, 6, 2, { 1, 100, 101, 201 }, { 5, 6 }, 2, 3, "cluster.example.com", { 0, 0 } } },
		{ "a block goes", { 3, 200, 2, 6, 2, { 9, 8, 101, 200 }, { 5, 6 }, 2, 3, "cluster.example.com", { 0, 0 } } },
		{ "record of serial 5", { 3, 200, 2, 6, 2, { 1, 100, 101, 200 }, { 5, 5 }, 2, 3, "cluster.example.com", { 0, 0 } } },
		{ "record of serial 7", { 3, 200, 2, 6, 2, { 1, 100, 101, 200 }, { 5, 7 }, 2, 3, "cluster.example.com", { 0, 0 } } },
		{ "2 records", { 3, 200, 2, 6, 3, { 1, 100, 101, 200 }, { 5, 6 }, 2, 3, "cluster.example.com", { 0, 0 } } },
		{ "serial/min says 3", { 3, 200, 2, 6, 2, { 1, 100, 101, 200 }, { 5, 6 }, 3, 3, "cluster.example.com", { 0, 0 } } },
		{ "revision 2", { 3, 200, 2, 6, 2, { 1, 100, 101, 200 }, { 5, 6 }, 2, 2, "cluster.example.com", { 0, 0 } } },
		{ "revision 4", { 3, 200, 2, 6, 2, { 1, 100, 101, 200 }, { 5, 6 }, 2, 4, "cluster.example.com", { 0, 0 } } },
		{ "header is of the cluster", { 3, 200, 2, 6, 2, { 1, 100, 101, 200 }, { 5, 6 }, 2, 3, "other.example.com", { 0, 0 } } },
		{ "who asked for serial 5", { 3, 200, 2, 6, 2, { 1, 100, 101, 200 }, { 5, 6 }, 2, 3, "cluster.example.com", { 5, 5 } } },
		{ "who asked for serial 7", { 3, 200, 2, 6, 2, { 1, 100, 101, 200 }, { 5, 6 }, 2, 3, "cluster.example.com", { 5, 7 } } },
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		make_file(&bad[i].content, NULL);
		if (verify() != STATUS_DATA_LOSS || !strstr(st.message, bad[i].words))
			fail_msg("%zu: '%s' does not say '%s'", i, st.message, bad[i].words);
	}
	make_file(&good, NULL);
	ok(verify());
	struct content asked = good;
	asked.asked[0] = 5;
	asked.asked[1] = 6;
	make_file(&asked, NULL);
	ok(verify());
}

static void test_backup_restore_is_bounded(void **arg)
{
	(void)arg;
	Kds__V1__Cluster cluster;
	Kds__V1__BackupHeader header;
	uint8_t id[16] = { 0 };
	Kds__V1__BackupRestore r = KDS__V1__BACKUP_RESTORE__INIT;
	make_header(&good, &cluster, &header);
	r.id = (ProtobufCBinaryData){ sizeof id, id };
	r.skip = BACKUP_SKIP_MIN;
	r.min_serial = 2;
	ok(backup_check_restore(&header, &r, &st));
	r.min_serial = 200 + BACKUP_SKIP_MIN + 1;
	ok(backup_check_restore(&header, &r, &st));
	r.min_serial++;
	assert_int_equal(backup_check_restore(&header, &r, &st), STATUS_INVALID_ARGUMENT);
	r.min_serial = 1;
	assert_int_equal(backup_check_restore(&header, &r, &st), STATUS_INVALID_ARGUMENT);
	r.min_serial = 2;
	r.skip = BACKUP_SKIP_MIN - 1;
	assert_int_equal(backup_check_restore(&header, &r, &st), STATUS_INVALID_ARGUMENT);
	r.skip = INT64_MAX - 200;
	assert_int_equal(backup_check_restore(&header, &r, &st), STATUS_INVALID_ARGUMENT);
	r.skip = BACKUP_SKIP_MIN;
	r.id.len = 0;
	assert_int_equal(backup_check_restore(&header, &r, &st), STATUS_INVALID_ARGUMENT);
	/* In a file it is damage. */
	make_file(&good, &r);
	assert_int_equal(verify(), STATUS_DATA_LOSS);
}

static void test_backup_writer_leaves_nothing_half_made(void **arg)
{
	(void)arg;
	struct backup_writer *w = NULL;
	char command[700];
	ok(backup_writer_new(path, false, &st, &w));
	ok(backup_writer_rows(w, (struct slice){ "x", 1 }, &st));
	backup_writer_free(w);
	snprintf(command, sizeof command, "[ -z \"$(ls -A '%s')\" ]", dir);
	assert_int_equal(system(command), 0);
	make_file(&good, NULL);
	assert_int_equal(backup_writer_new(path, false, &st, &w), STATUS_ALREADY_EXISTS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_backup_file_holds_what_was_put_in, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_backup_file_every_flipped_byte_is_found, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_backup_file_parts_stay_where_they_are, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_backup_check_survives_any_rows, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_backup_check_compares, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_backup_restore_is_bounded, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_backup_writer_leaves_nothing_half_made, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
