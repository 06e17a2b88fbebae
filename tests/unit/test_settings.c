// links: common_base
#include "tests/support/support.h"

#include <string.h>

#include "common/base/settings.h"

static enum status_code check(const char *name, const char *value, struct status *st, bool *ret_name_wrong)
{
	*st = (struct status){ .code = STATUS_OK };
	return setting_check(name, value, st, ret_name_wrong);
}

static void refused(const char *name, const char *value, const char *why)
{
	struct status st;
	bool name_wrong;
	assert_int_equal(check(name, value, &st, &name_wrong), STATUS_INVALID_ARGUMENT);
	assert_false(name_wrong);
	if (!strstr(st.message, why))
		fail_msg("%s = %s: '%s' does not say '%s'", name, value, st.message, why);
}

static void allowed(const char *name, const char *value)
{
	struct status st;
	bool name_wrong;
	if (check(name, value, &st, &name_wrong) != STATUS_OK)
		fail_msg("%s = %s: %s", name, value, st.message);
}

static void test_settings_table_agrees_with_itself(void **state)
{
	(void)state;
	struct settings s;
	settings_init(&s);
	for (unsigned i = 0; i < SETTING_COUNT; i++) {
		const struct setting_info *info = setting_info((enum setting)i);
		enum setting found;
		assert_true(setting_find(info->name, &found));
		assert_int_equal(found, i);
		allowed(info->name, info->standard);
		uint64_t value = settings_get(&s, found);
		assert_true(value == SETTING_OFF ? info->may_be_off : value >= info->min && value <= info->max);
		assert_true(info->allowed[0] && info->used_by[0] && info->description[0]);
		assert_true(strlen(info->name) <= 64);
		assert_true(i == 0 || strcmp(setting_info((enum setting)(i - 1))->name, info->name) < 0);
	}
}

static void test_settings_durations(void **state)
{
	(void)state;
	const char *name = "certificate.node.lifetime";
	allowed(name, "300s");
	allowed(name, "5m");
	allowed(name, "167h");
	allowed(name, "6d");
	refused(name, "299s", "5m to 167h");
	refused(name, "601201s", "5m to 167h");
	refused(name, "168h", "5m to 167h");
	refused(name, "7d", "5m to 167h");
	static const char *const malformed[] = { "", "72", "h", "72 h", " 72h", "72h ", "-72h", "+72h", "1.5h", "72H",
						 "1h30m", "0x10h", "off", "99999999999999999999h" };
	for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++)
		refused(name, malformed[i], "is a time");
	/* Times its unit it would be a small number again. */
	refused(name, "213503982335d", "out of bounds");
	allowed("masterkey.publish-ahead", "0s");
}

static void test_settings_integers_and_off(void **state)
{
	(void)state;
	allowed("history.length", "100");
	allowed("history.length", "100000");
	refused("history.length", "99", "100 to 100000");
	refused("history.length", "100001", "100 to 100000");
	refused("history.length", "100s", "whole number");
	refused("history.length", "", "whole number");
	refused("history.length", "off", "whole number");
	allowed("limit.sign-rate", "off");
	refused("limit.sign-rate", "0", "1 to 1000000, or off");
	allowed("replica.replace-after", "off");
	allowed("replica.replace-after", "10m");
	refused("replica.replace-after", "Off", "or off");
	refused("replica.replace-after", "59s", "1m to 30d");
}

static void test_settings_names(void **state)
{
	(void)state;
	struct status st;
	bool name_wrong;
	static const char *const unknown[] = { "", "lifetime", "certificate.node.lifetim", "certificate.node.lifetime2",
					       "site", "site." };
	for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
		assert_int_equal(check(unknown[i], "1h", &st, &name_wrong), STATUS_INVALID_ARGUMENT);
		assert_true(name_wrong);
		assert_non_null(strstr(st.message, "config list"));
	}
	char long_text[SETTING_SITE_VALUE_MAX + 2];
	memset(long_text, 'x', sizeof long_text);
	long_text[SETTING_SITE_VALUE_MAX] = '\0';
	allowed("site.contact", "");
	allowed("site.contact", long_text);
	long_text[SETTING_SITE_VALUE_MAX] = 'x';
	long_text[SETTING_SITE_VALUE_MAX + 1] = '\0';
	refused("site.contact", long_text, "4096");
}

static void test_settings_values_come_and_go(void **state)
{
	(void)state;
	struct settings s;
	struct status st;
	settings_init(&s);
	assert_true(settings_get(&s, SETTING_CERTIFICATE_NODE_LIFETIME) == UINT64_C(72) * 3600 * 1000);
	assert_true(settings_get(&s, SETTING_REPLICA_REPLACE_AFTER) == SETTING_OFF);
	assert_int_equal(settings_set(&s, "certificate.node.lifetime", "90m", &st), STATUS_OK);
	assert_int_equal(settings_set(&s, "replica.replace-after", "1m", &st), STATUS_OK);
	assert_int_equal(settings_set(&s, "history.length", "123", &st), STATUS_OK);
	assert_int_equal(settings_rate(&s, SETTING_LIMIT_SIGN_RATE), 20);
	assert_int_equal(settings_set(&s, "limit.sign-rate", "off", &st), STATUS_OK);
	assert_int_equal(settings_rate(&s, SETTING_LIMIT_SIGN_RATE), 0);
	assert_true(settings_get(&s, SETTING_CERTIFICATE_NODE_LIFETIME) == 90 * 60 * 1000);
	assert_true(settings_get(&s, SETTING_REPLICA_REPLACE_AFTER) == 60000);
	assert_true(settings_get(&s, SETTING_HISTORY_LENGTH) == 123);
	/* Of a newer version: what we do not know is passed over, what we do not understand is the default. */
	assert_int_equal(settings_set(&s, "of.tomorrow", "1", &st), STATUS_OK);
	assert_int_equal(settings_set(&s, "replica.replace-after", "never", &st), STATUS_INVALID_ARGUMENT);
	assert_true(settings_get(&s, SETTING_REPLICA_REPLACE_AFTER) == SETTING_OFF);
	assert_int_equal(settings_set(&s, "certificate.node.lifetime", NULL, &st), STATUS_OK);
	assert_true(settings_get(&s, SETTING_CERTIFICATE_NODE_LIFETIME) == UINT64_C(72) * 3600 * 1000);
	assert_true(settings_get(&s, SETTING_HISTORY_LENGTH) == 123);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_settings_table_agrees_with_itself),
		cmocka_unit_test(test_settings_durations),
		cmocka_unit_test(test_settings_integers_and_off),
		cmocka_unit_test(test_settings_names),
		cmocka_unit_test(test_settings_values_come_and_go),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
