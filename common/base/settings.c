#include "common/base/settings.h"

#include <inttypes.h>
#include <string.h>

#define SECOND UINT64_C(1000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

/* By name. */
static const struct setting_info table[SETTING_COUNT] = {
	[SETTING_CERTIFICATE_KDS_CLIENT_LIFETIME] = {
		.name = "certificate.kds-client.lifetime",
		.type = SETTING_DURATION, .min = 5 * MINUTE, .max = 167 * HOUR, .allowed = "5m to 167h",
		.standard = "72h", .used_by = "kds-ca",
		.description = "validity of a key distribution client's certificate whose request names none",
	},
	[SETTING_CERTIFICATE_MAX_LIFETIME] = {
		.name = "certificate.max-lifetime",
		.type = SETTING_DURATION, .min = 5 * MINUTE, .max = 167 * HOUR, .allowed = "5m to 167h",
		.standard = "167h", .used_by = "kds-ca",
		.description = "the longest validity that a request may ask for; cuts the other two as well",
	},
	[SETTING_CERTIFICATE_NODE_LIFETIME] = {
		.name = "certificate.node.lifetime",
		.type = SETTING_DURATION, .min = 5 * MINUTE, .max = 167 * HOUR, .allowed = "5m to 167h",
		.standard = "72h", .used_by = "kds-ca",
		.description = "validity of a node's certificate whose request names none",
	},
	[SETTING_HISTORY_LENGTH] = {
		.name = "history.length",
		.type = SETTING_INTEGER, .min = 100, .max = 100000, .allowed = "100 to 100000",
		.applied = true,
		.standard = "10000", .used_by = "kds-serial",
		.description = "changes of the configuration that `config history' remembers",
	},
	[SETTING_LIMIT_KEY_RATE] = {
		.name = "limit.key-rate",
		.type = SETTING_INTEGER, .min = 1, .max = 1000000, .allowed = "1 to 1000000, or off",
		.may_be_off = true,
		.standard = "10000", .used_by = "kds-keydist",
		.description = "keys a second that one node may have of one kds-keydist; ten times as many at once",
	},
	[SETTING_LIMIT_LIVE_CERTIFICATES] = {
		.name = "limit.live-certificates",
		.type = SETTING_INTEGER, .min = 1, .max = 10000, .allowed = "1 to 10000",
		.applied = true,
		.standard = "1000", .used_by = "kds-serial",
		.description = "certificates of one node and profile that have not expired and are not refused",
	},
	[SETTING_LIMIT_SIGN_RATE] = {
		.name = "limit.sign-rate",
		.type = SETTING_INTEGER, .min = 1, .max = 1000000, .allowed = "1 to 1000000, or off",
		.may_be_off = true,
		.standard = "20", .used_by = "kds-ca",
		.description = "certificates a second that one node may have of one kds-ca; ten times as many at once",
	},
	[SETTING_MASTERKEY_INTERVAL] = {
		.name = "masterkey.interval",
		.type = SETTING_DURATION, .min = MINUTE, .max = 365 * DAY, .allowed = "1m to 365d",
		.standard = "24h", .used_by = "kds-keydist",
		.description = "time between two masterKeys; at least a 500th of the lifespan",
	},
	[SETTING_MASTERKEY_LIFESPAN] = {
		.name = "masterkey.lifespan",
		.type = SETTING_DURATION, .min = HOUR, .max = 3650 * DAY, .allowed = "1h to 3650d",
		.standard = "168h", .used_by = "kds-keydist",
		.description = "how long a key can be restored; at least an hour more than the interval",
	},
	[SETTING_MASTERKEY_PUBLISH_AHEAD] = {
		.name = "masterkey.publish-ahead",
		.type = SETTING_DURATION, .min = 0, .max = HOUR, .allowed = "0s to 1h",
		.standard = "10s", .used_by = "kds-keydist",
		.description = "time from the publication of a masterKey to its use, so that every distributor has it",
	},
	[SETTING_RECORDS_RETENTION] = {
		.name = "records.retention",
		.type = SETTING_DURATION, .min = 0, .max = 365 * DAY, .allowed = "0s to 365d",
		.applied = true,
		.standard = "0s", .used_by = "kds-serial",
		.description = "how long the record of a certificate stays after the certificate has expired",
	},
	[SETTING_REPLICA_REPLACE_AFTER] = {
		.name = "replica.replace-after",
		.type = SETTING_DURATION, .min = MINUTE, .max = 30 * DAY, .allowed = "1m to 30d, or off",
		.may_be_off = true,
		.standard = "off", .used_by = "kds-serial",
		.description = "a voter that stays away longer is replaced by a standby",
	},
};

const struct setting_info *setting_info(enum setting which)
{
	return &table[which];
}

bool setting_find(const char *name, enum setting *ret_which)
{
	for (unsigned i = 0; i < SETTING_COUNT; i++)
		if (strcmp(table[i].name, name) == 0) {
			*ret_which = (enum setting)i;
			return true;
		}
	return false;
}

/* Digits at the start of `text`; false: none, or too many. */
static bool parse_digits(const char *text, uint64_t *ret_value, const char **ret_rest)
{
	uint64_t value = 0;
	const char *p = text;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(value, UINT64_C(10), &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
			return false;
	*ret_value = value;
	*ret_rest = p;
	return p > text;
}

static bool parse_unit(const char *unit, uint64_t *ret_ms)
{
	static const struct {
		const char *name;
		uint64_t ms;
	} units[] = { { "s", SECOND }, { "m", MINUTE }, { "h", HOUR }, { "d", DAY } };
	for (size_t i = 0; i < sizeof units / sizeof *units; i++)
		if (strcmp(unit, units[i].name) == 0) {
			*ret_ms = units[i].ms;
			return true;
		}
	return false;
}

static enum status_code parse(const struct setting_info *info, const char *text, struct status *st, uint64_t *ret_value)
{
	uint64_t value = 0, unit = 1;
	const char *rest = "";
	if (info->may_be_off && strcmp(text, "off") == 0) {
		*ret_value = SETTING_OFF;
		return STATUS_OK;
	}
	bool number = parse_digits(text, &value, &rest);
	bool well_formed = number && (info->type == SETTING_DURATION ? parse_unit(rest, &unit) : *rest == '\0');
	if (!well_formed && info->type == SETTING_DURATION)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "%s is a time, as 90s, 15m, 72h or 30d: %s; '%.40s' is none", info->name, info->allowed,
				  text);
	if (!well_formed)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s is a whole number, %s; '%.40s' is none", info->name,
				  info->allowed, text);
	if (__builtin_mul_overflow(value, unit, &value) || value < info->min || value > info->max)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: '%.40s' is out of bounds; allowed is %s", info->name,
				  text, info->allowed);
	*ret_value = value;
	return STATUS_OK;
}

static bool is_site(const char *name)
{
	size_t prefix = strlen(SETTING_SITE_PREFIX);
	return strncmp(name, SETTING_SITE_PREFIX, prefix) == 0 && name[prefix] != '\0';
}

enum status_code setting_check(const char *name, const char *value, struct status *st, bool *ret_name_wrong)
{
	enum setting which;
	uint64_t ignored;
	*ret_name_wrong = false;
	if (setting_find(name, &which))
		return parse(&table[which], value, st, &ignored);
	if (!is_site(name)) {
		*ret_name_wrong = true;
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "there is no setting '%.80s': `kds-cli config list' shows those there are; names of"
				  " your own begin with '%s'",
				  name, SETTING_SITE_PREFIX);
	}
	if (strlen(value) > SETTING_SITE_VALUE_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%.80s: a value has at most %d bytes", name,
				  SETTING_SITE_VALUE_MAX);
	return STATUS_OK;
}

static void set_standard(struct settings *s, enum setting which)
{
	struct status ignored;
	uint64_t value = 0;
	(void)parse(&table[which], table[which].standard, &ignored, &value);
	atomic_store(&s->values[which], value);
}

void settings_init(struct settings *s)
{
	for (unsigned i = 0; i < SETTING_COUNT; i++)
		set_standard(s, (enum setting)i);
}

enum status_code settings_set(struct settings *s, const char *name, const char *value, struct status *st)
{
	enum setting which;
	uint64_t parsed;
	if (!setting_find(name, &which))
		return STATUS_OK;
	if (value && parse(&table[which], value, st, &parsed) == STATUS_OK) {
		atomic_store(&s->values[which], parsed);
		return STATUS_OK;
	}
	set_standard(s, which);
	return value ? STATUS_INVALID_ARGUMENT : STATUS_OK;
}

uint64_t settings_get(const struct settings *s, enum setting which)
{
	return atomic_load(&s->values[which]);
}

uint32_t settings_rate(const struct settings *s, enum setting which)
{
	uint64_t value = settings_get(s, which);
	return value == SETTING_OFF ? 0 : (uint32_t)value;
}
