// links: service_ca
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

#include "services/ca/profiles.h"

#define NODE KDS__V1__PROFILE__PROFILE_NODE
#define CLIENT KDS__V1__PROFILE__PROFILE_KDS_CLIENT
#define KDS_NAME "key.example.com"

static char *addresses[] = { "192.0.2.1", "2001:db8::1" };
static char *groups[] = { "urn:example:prjA#10s", "urn:example:prjB" };

static Kds__V1__Node some_node(void)
{
	Kds__V1__Node node = KDS__V1__NODE__INIT;
	node.name = "node1.example.com";
	node.addresses = addresses;
	node.n_addresses = 2;
	node.groups = groups;
	node.n_groups = 2;
	return node;
}

static void test_profiles_node_has_its_names_and_both_usages(void **state)
{
	(void)state;
	Kds__V1__Node node = some_node();
	struct profile p;
	assert_int_equal(profile_fill(NODE, &node, KDS_NAME, NULL, &p), STATUS_OK);
	assert_string_equal(p.template.common_name, "node1.example.com");
	assert_int_equal(p.template.n_dns_names, 1);
	assert_string_equal(p.template.dns_names[0], "node1.example.com");
	assert_int_equal(p.template.n_addresses, 2);
	assert_string_equal(p.template.addresses[1], "2001:db8::1");
	assert_int_equal(p.template.n_uris, 0);
	assert_int_equal(p.template.usage, X509_USAGE_SERVER | X509_USAGE_CLIENT);
}

static void test_profiles_kds_client_names_the_service_and_its_groups(void **state)
{
	(void)state;
	Kds__V1__Node node = some_node();
	struct profile p;
	assert_int_equal(profile_fill(CLIENT, &node, KDS_NAME, NULL, &p), STATUS_OK);
	assert_string_equal(p.template.common_name, "node1.example.com");
	assert_int_equal(p.template.n_dns_names, 1);
	assert_string_equal(p.template.dns_names[0], KDS_NAME);
	assert_int_equal(p.template.n_addresses, 0);
	assert_int_equal(p.template.n_uris, 2);
	assert_string_equal(p.template.uris[0], "urn:example:prjA#10s");
	assert_string_equal(p.template.uris[1], "urn:example:prjB");
	assert_int_equal(p.template.usage, X509_USAGE_CLIENT);
}

static enum status_code fill(const Kds__V1__Node *node, Kds__V1__Profile profile, struct status *st)
{
	struct profile p;
	return profile_fill(profile, node, KDS_NAME, st, &p);
}

static void test_profiles_refuse_a_node_that_would_pose_as_the_service(void **state)
{
	(void)state;
	Kds__V1__Node node = some_node();
	struct status st;
	node.name = KDS_NAME;
	assert_int_equal(fill(&node, NODE, &st), STATUS_FAILED_PRECONDITION);
	assert_int_equal(fill(&node, CLIENT, &st), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "another"));
}

static void test_profiles_refuse_what_the_configuration_should_not_hold(void **state)
{
	(void)state;
	struct status st;
	Kds__V1__Node node = some_node();
	node.name = "a-name-of-more-than-sixty-four-bytes.in-a-rather-long.example.com";
	assert_int_equal(fill(&node, NODE, &st), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "64"));
	node.name = "*.example.com";
	assert_int_equal(fill(&node, NODE, &st), STATUS_FAILED_PRECONDITION);

	node = some_node();
	node.n_groups = 0;
	assert_int_equal(fill(&node, CLIENT, &st), STATUS_FAILED_PRECONDITION);
	assert_int_equal(fill(&node, NODE, &st), STATUS_OK);
	char *roles[] = { "urn:example:prjA", "kds://cluster.example.com/role/admin/admin" };
	node.groups = roles;
	node.n_groups = 2;
	assert_int_equal(fill(&node, CLIENT, &st), STATUS_FAILED_PRECONDITION);

	node = some_node();
	assert_int_equal(fill(&node, (Kds__V1__Profile)7, &st), STATUS_INVALID_ARGUMENT);
	assert_null(profile_name((Kds__V1__Profile)7));
	assert_string_equal(profile_name(CLIENT), "kds-client");
}

#define NOW INT64_C(1800000000)
#define HOUR 3600

static const struct profile_lifetimes lifetimes = { .standard_s = 72 * HOUR, .longest_s = 167 * HOUR };

static void test_profiles_validity_is_as_asked(void **state)
{
	(void)state;
	struct x509_template t = { 0 };
	assert_int_equal(profile_validity(&lifetimes, 0, NOW, NOW * 2, NULL, &t), STATUS_OK);
	assert_int_equal(t.not_before, NOW - PROFILE_CLOCK_SKEW_S);
	assert_int_equal(t.not_after, NOW + 72 * HOUR);
	assert_int_equal(profile_validity(&lifetimes, PROFILE_LIFETIME_MIN_S, NOW, NOW * 2, NULL, &t), STATUS_OK);
	assert_int_equal(t.not_after, NOW + PROFILE_LIFETIME_MIN_S);
	struct status st;
	assert_int_equal(profile_validity(&lifetimes, PROFILE_LIFETIME_MIN_S - 1, NOW, NOW * 2, &st, &t),
			 STATUS_INVALID_ARGUMENT);
	assert_non_null(strstr(st.message, "at least 300 s"));
	assert_int_equal(profile_validity(&lifetimes, 1, NOW, NOW * 2, &st, &t), STATUS_INVALID_ARGUMENT);
}

static void test_profiles_validity_is_always_below_168_hours(void **state)
{
	(void)state;
	struct x509_template t = { 0 };
	struct status st;
	assert_int_equal(profile_validity(&lifetimes, 167 * HOUR, NOW, NOW * 2, NULL, &t), STATUS_OK);
	assert_true(t.not_after - t.not_before < X509_LEAF_SECONDS_MAX);
	assert_int_equal(profile_validity(&lifetimes, 167 * HOUR + 1, NOW, NOW * 2, &st, &t), STATUS_INVALID_ARGUMENT);
	assert_non_null(strstr(st.message, "601200")); /* what may be asked for */
	assert_int_equal(profile_validity(&lifetimes, UINT32_MAX, NOW, NOW * 2, &st, &t), STATUS_INVALID_ARGUMENT);
}

static void test_profiles_validity_ends_with_the_ca(void **state)
{
	(void)state;
	struct x509_template t = { 0 };
	struct status st;
	assert_int_equal(profile_validity(&lifetimes, 0, NOW, NOW + HOUR, NULL, &t), STATUS_OK);
	assert_int_equal(t.not_after, NOW + HOUR);
	assert_int_equal(profile_validity(&lifetimes, 0, NOW, NOW, &st, &t), STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(st.message, "expired"));
}

static void test_profiles_lifetimes_are_the_settings(void **state)
{
	(void)state;
	struct settings s;
	settings_init(&s);
	struct profile_lifetimes l = profile_lifetimes(KDS__V1__PROFILE__PROFILE_NODE, &s);
	assert_int_equal(l.standard_s, 72 * HOUR);
	assert_int_equal(l.longest_s, 167 * HOUR);
	assert_int_equal(settings_set(&s, "certificate.kds-client.lifetime", "24h", NULL), STATUS_OK);
	assert_int_equal(profile_lifetimes(KDS__V1__PROFILE__PROFILE_NODE, &s).standard_s, 72 * HOUR);
	assert_int_equal(profile_lifetimes(KDS__V1__PROFILE__PROFILE_KDS_CLIENT, &s).standard_s, 24 * HOUR);
	/* One that is longer than the longest gives way. */
	assert_int_equal(settings_set(&s, "certificate.max-lifetime", "48h", NULL), STATUS_OK);
	assert_int_equal(profile_lifetimes(KDS__V1__PROFILE__PROFILE_NODE, &s).standard_s, 48 * HOUR);
	assert_int_equal(profile_lifetimes(KDS__V1__PROFILE__PROFILE_NODE, &s).longest_s, 48 * HOUR);
	assert_int_equal(profile_lifetimes(KDS__V1__PROFILE__PROFILE_KDS_CLIENT, &s).standard_s, 24 * HOUR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_profiles_node_has_its_names_and_both_usages),
		cmocka_unit_test(test_profiles_kds_client_names_the_service_and_its_groups),
		cmocka_unit_test(test_profiles_refuse_a_node_that_would_pose_as_the_service),
		cmocka_unit_test(test_profiles_refuse_what_the_configuration_should_not_hold),
		cmocka_unit_test(test_profiles_validity_is_as_asked),
		cmocka_unit_test(test_profiles_validity_is_always_below_168_hours),
		cmocka_unit_test(test_profiles_validity_ends_with_the_ca),
		cmocka_unit_test(test_profiles_lifetimes_are_the_settings),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
