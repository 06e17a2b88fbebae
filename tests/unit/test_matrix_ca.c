// links: service_ca common_daemon common_rpc common_net common_base kds_proto
/* Who may call what at the RPC port of kds-ca (tests/support/matrix.h). */
#include "tests/support/support.h"

#include "common/daemon/health.h"
#include "services/ca/api.h"
#include "tests/support/matrix.h"

/* By length, then name: as the server sorts them. No replica passes anything on here. */
static const struct matrix_row rows[] = {
	{ "Ca.Sign", "...an...", "......." },
	{ "Ca.Bundle", "sckanlo.", "......." },
	{ "Ca.Create", "...a....", "......." },
	{ "Health.Echo", "sckanlo.", "......." },
	{ "Health.Check", "sckanlo.", "......." },
};

static void test_matrix_of_kds_ca(void **state)
{
	(void)state;
	struct rpc_server *server = NULL;
	struct health *health = NULL;
	struct ca_api *api = NULL;
	struct status st;
	const struct ca_api_options options = { .authority = "default", .cluster = "cluster.example.com",
						.kds_name = "key.example.com" };
	assert_int_equal(rpc_server_new(NULL, &st, &server), STATUS_OK);
	assert_int_equal(health_new("kds-ca", "ca1", &st, &health), STATUS_OK);
	assert_int_equal(ca_api_new(&options, server, &st, &api), STATUS_OK);
	assert_int_equal(health_serve(health, server, &st), STATUS_OK);
	const struct matrix m = { .port = "sckanlo.", .rows = rows, .n_rows = sizeof rows / sizeof *rows };
	matrix_check(server, &m);
	rpc_server_free(server);
	ca_api_free(api);
	health_free(health);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_matrix_of_kds_ca) };
	return cmocka_run_group_tests_name("matrix_ca", tests, NULL, NULL);
}
