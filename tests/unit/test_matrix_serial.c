// links: service_serial common_daemon common_rpc common_net common_base kds_proto
/* Who may call what at the RPC port of kds-serial (tests/support/matrix.h). */
#include "tests/support/support.h"

#include "common/daemon/health.h"
#include "services/serial/api.h"
#include "tests/support/matrix.h"

/* By length, then name: as the server sorts them. */
static const struct matrix_row rows[] = {
	{ "Config.Get", "scka....", "scka..." },
	{ "Config.Put", ".cka....", ".cku..." },
	{ "Backup.Read", "...a....", "...a..." },
	{ "Config.List", "scka....", "scka..." },
	{ "Health.Echo", "sckanlo.", "sckanlo" },
	{ "Serial.Show", "scka....", "scka..." },
	{ "Config.Watch", "scka....", "scka..." },
	{ "Health.Check", "sckanlo.", "sckanlo" },
	{ "Replicas.Add", "...a....", "...u..." },
	{ "Config.Delete", ".cka....", ".cku..." },
	{ "Replicas.View", "scka....", "scka..." },
	{ "Serial.Record", ".c......", ".c....." },
	{ "Serial.SetMin", "...a....", "...u..." },
	{ "Config.History", "...a....", "...a..." },
	{ "Backup.Position", "...a....", "...a..." },
	{ "Replicas.Remove", "...a....", "...u..." },
	{ "Serial.Allocate", ".c......", ".c....." },
	{ "Replicas.Members", "scka....", "scka..." },
	{ "Replicas.SetVoter", "...a....", "...u..." },
	{ "Replicas.Transfer", "...a....", "...u..." },
	{ "Serial.ListCertificates", "scka....", "scka..." },
};

static void test_matrix_of_kds_serial(void **state)
{
	(void)state;
	struct rpc_server *server = NULL;
	struct health *health = NULL;
	struct api *api = NULL;
	struct status st;
	assert_int_equal(rpc_server_new(NULL, &st, &server), STATUS_OK);
	assert_int_equal(health_new("kds-serial", "serial1", &st, &health), STATUS_OK);
	/* Nothing is called: the tables are all there is to it. */
	assert_int_equal(api_new(server, NULL, NULL, NULL, NULL, NULL, &st, &api), STATUS_OK);
	assert_int_equal(health_serve(health, server, &st), STATUS_OK);
	const struct matrix m = {
		.port = "scka....",
		.port_roles = SERIAL_PORT_ROLES,
		.rows = rows,
		.n_rows = sizeof rows / sizeof *rows,
		.forwards = true,
	};
	matrix_check(server, &m);
	rpc_server_free(server);
	api_free(api);
	health_free(health);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_matrix_of_kds_serial) };
	return cmocka_run_group_tests_name("matrix_serial", tests, NULL, NULL);
}
