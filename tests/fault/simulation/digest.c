#include "tests/fault/simulation/digest.h"

#include "services/serial/state_internal.h"

#define REQUEST_HEADER 20 /* services/serial/state_requests.c */

uint64_t digest_bytes(uint64_t digest, const void *data, size_t len)
{
	const uint8_t *p = data;
	for (size_t i = 0; i < len; i++)
		digest = (digest ^ p[i]) * 1099511628211u;
	return digest;
}

static uint64_t digest_number(uint64_t digest, uint64_t number)
{
	return digest_bytes(digest, &number, sizeof number);
}

static uint64_t digest_row(uint64_t digest, sqlite3_stmt *sql)
{
	for (int i = 0; i < sqlite3_column_count(sql); i++) {
		if (sqlite3_column_type(sql, i) == SQLITE_INTEGER) {
			digest = digest_number(digest, (uint64_t)sqlite3_column_int64(sql, i));
			continue;
		}
		const void *data = sqlite3_column_blob(sql, i);
		size_t len = (size_t)sqlite3_column_bytes(sql, i);
		digest = digest_number(digest, len);
		if (data)
			digest = digest_bytes(digest, data, len);
	}
	return digest;
}

/* The entries of a row, from number `oldest` on; `last` is the number of its last one. */
static uint64_t digest_requests(uint64_t digest, const uint8_t *data, size_t len, uint64_t last, uint64_t oldest)
{
	uint64_t n = 0;
	for (size_t at = 0; at + REQUEST_HEADER <= len; n++)
		at += REQUEST_HEADER + state_get_be(data + at + 12, 4) + state_get_be(data + at + 16, 4);
	uint64_t number = last + 1 - n;
	for (size_t at = 0; at + REQUEST_HEADER <= len; number++) {
		size_t size = REQUEST_HEADER + state_get_be(data + at + 12, 4) + state_get_be(data + at + 16, 4);
		if (number >= oldest && size <= len - at)
			digest = digest_bytes(digest_number(digest, number), data + at, size);
		at += size;
	}
	return digest;
}

static bool digest_all_requests(sqlite3 *db, uint64_t *digest)
{
	static const char query[] =
		"SELECT last, (SELECT oldest_request FROM numbers), entries FROM requests ORDER BY last";
	sqlite3_stmt *sql = NULL;
	int rv = sqlite3_prepare_v2(db, query, -1, &sql, NULL);
	if (rv == SQLITE_OK)
		while ((rv = sqlite3_step(sql)) == SQLITE_ROW) {
			uint64_t last = (uint64_t)sqlite3_column_int64(sql, 0);
			uint64_t oldest = (uint64_t)sqlite3_column_int64(sql, 1);
			const uint8_t *data = sqlite3_column_blob(sql, 2);
			*digest = digest_requests(*digest, data, (size_t)sqlite3_column_bytes(sql, 2), last, oldest);
		}
	sqlite3_finalize(sql);
	return rv == SQLITE_DONE;
}

static bool digest_query(sqlite3 *db, const char *query, uint64_t *digest)
{
	sqlite3_stmt *sql = NULL;
	int rv = sqlite3_prepare_v2(db, query, -1, &sql, NULL);
	if (rv == SQLITE_OK)
		while ((rv = sqlite3_step(sql)) == SQLITE_ROW)
			*digest = digest_row(*digest, sql);
	sqlite3_finalize(sql);
	return rv == SQLITE_DONE;
}

bool digest_state(sqlite3 *db, uint64_t *ret_digest)
{
	static const char *const queries[] = {
		/* without the digest that it keeps itself */
		"SELECT applied, time_ms, revision, last_serial, min_serial, highest_issued, issued, oldest_request, level,"
		" tombstones, compacted FROM numbers",
		"SELECT holder, ranges FROM blocks ORDER BY holder",
		"SELECT * FROM issued ORDER BY serial",
		"SELECT * FROM asked ORDER BY serial",
		"SELECT key, revision, deleted, value FROM objects ORDER BY key",
		"SELECT * FROM history ORDER BY revision",
	};
	uint64_t digest = DIGEST_START;
	for (size_t i = 0; i < sizeof queries / sizeof *queries; i++)
		if (!digest_query(db, queries[i], &digest))
			return false;
	if (!digest_all_requests(db, &digest))
		return false;
	*ret_digest = digest;
	return true;
}
