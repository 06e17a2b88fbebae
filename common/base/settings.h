/*
 * The settings that a cluster has: what is configured once for all hosts, in the replicated configuration, and followed
 * by every daemon without a restart. What belongs to one host (addresses, files, threads) stays in its configuration file.
 *
 * One table (settings.c) says each setting's type, bounds, default and purpose. kds-serial refuses what does not fit,
 * daemons read values from it, and kds-cli prints it.
 *
 * Replicas of different versions may run together, with different tables. So a value is checked once, by the leader,
 * before it is proposed; state_apply() takes any. Who reads a value that its own table does not allow uses the default.
 * What state_apply() itself reads (`applied` in the table) must be the same in all versions that run together: to add
 * one, or to change its bounds, default or meaning, takes a new level of the replicas (services/serial/level.h).
 */
#ifndef BASE_SETTINGS_H
#define BASE_SETTINGS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/status.h"

enum setting {
	SETTING_CERTIFICATE_KDS_CLIENT_LIFETIME,
	SETTING_CERTIFICATE_MAX_LIFETIME,
	SETTING_CERTIFICATE_NODE_LIFETIME,
	SETTING_HISTORY_LENGTH,
	SETTING_LIMIT_KEY_RATE,
	SETTING_LIMIT_LIVE_CERTIFICATES,
	SETTING_LIMIT_SIGN_RATE,
	SETTING_MASTERKEY_INTERVAL,
	SETTING_MASTERKEY_LIFESPAN,
	SETTING_MASTERKEY_PUBLISH_AHEAD,
	SETTING_RECORDS_RETENTION,
	SETTING_REPLICA_REPLACE_AFTER,
	SETTING_COUNT,
};

enum setting_type {
	SETTING_DURATION, /* a number with its unit: "90s", "15m", "72h", "30d"; its value is in ms */
	SETTING_INTEGER,
};

#define SETTING_OFF UINT64_MAX /* the value of a setting that is switched off */

struct setting_info {
	const char *name;
	enum setting_type type;
	uint64_t min, max;
	bool may_be_off;  /* "off" is allowed */
	bool applied;     /* part of how commands are applied */
	const char *standard;    /* the default, in text */
	const char *allowed;     /* "5m to 167h", for people */
	const char *used_by;
	const char *description;
};

const struct setting_info *setting_info(enum setting which);
/* False: no such setting. */
bool setting_find(const char *name, enum setting *ret_which) MUST_CHECK;

/* Names under this belong to the cluster's own programs: any text, which no daemon reads. */
#define SETTING_SITE_PREFIX "site."
#define SETTING_SITE_VALUE_MAX 4096

/* May this be set? INVALID_ARGUMENT says what is allowed. *ret_name_wrong: it is the name that is wrong. */
enum status_code setting_check(const char *name, const char *value, struct status *st,
			       bool *ret_name_wrong) MUST_CHECK;

/* All values as one process knows them: written by one thread, read by any. */
struct settings {
	_Atomic uint64_t values[SETTING_COUNT];
};
void settings_init(struct settings *s); /* the defaults */
/* value NULL: not set (any more). Names that this version does not know are passed over. INVALID_ARGUMENT: not a value
 * that this version allows; the default is in force. */
enum status_code settings_set(struct settings *s, const char *name, const char *value, struct status *st) MUST_CHECK;
/* ms of a duration, the number of an integer, or SETTING_OFF. */
uint64_t settings_get(const struct settings *s, enum setting which);

/* A rate a second: 0 where it is off. */
uint32_t settings_rate(const struct settings *s, enum setting which);

#endif
