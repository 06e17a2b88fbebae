/* kds-ca: signs certificates that live less than 168 hours, each with a serial that a quorum has committed. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/plain_name.h"
#include "common/daemon/daemon.h"
#include "common/daemon/follower.h"
#include "services/ca/api.h"

#define BLOCK_MAX 65536
#define WORKERS_MAX 256

static const cfg_opt_t own_options[] = {
	CFG_STR("seal", NULL, CFGF_NONE),
	CFG_STR("authority", "default", CFGF_NONE),
	CFG_INT("block-size", 1000, CFGF_NONE),
	CFG_INT("workers", 0, CFGF_NONE),
	CFG_END(),
};

static const struct daemon_program program = {
	.name = "kds-ca",
	.purpose = "Signs the certificates of a cluster's nodes.",
	.own = own_options,
	.default_port = 7410,
	.max_frame = 128 << 10, /* certificate requests and names have tens of KiB at most */
	.needs_serial = true,
};

struct ca {
	struct daemon_options options;
	const char *authority;
	struct settings settings;
	unsigned block_size, workers;
	struct seal *seal;
	struct daemon *daemon;
	struct rpc_channel *channel;
	struct serials *serials;
	struct keeper *keeper;
	struct follower *follower;
	struct nodes *nodes;
	struct issuing *issuing;
	struct maker *maker;
	struct ca_api *api;
};

static enum status_code read_own_options(struct ca *ca, struct status *st)
{
	const struct daemon_options *o = &ca->options;
	enum status_code rc = daemon_options_number(o, "block-size", 1, BLOCK_MAX, st, &ca->block_size);
	if (rc == STATUS_OK)
		rc = daemon_options_number(o, "workers", 0, WORKERS_MAX, st, &ca->workers);
	if (rc != STATUS_OK)
		return rc;
	ca->authority = cfg_getstr(o->cfg, "authority");
	if (plain_name_check(ca->authority, "CA", st) != STATUS_OK)
		return status_prefix(st, "%s: option 'authority'", o->config_file);
	return STATUS_OK;
}

static enum status_code load_seal(struct ca *ca, struct status *st)
{
	char *path = daemon_options_path(&ca->options, "seal");
	if (!path)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "%s: option 'seal' is missing; name the file that kds-cli init made: seal = \"ca.seal\"",
				  ca->options.config_file);
	enum status_code rc = seal_load(path, st, &ca->seal);
	if (rc != STATUS_OK)
		(void)status_prefix(st, "option 'seal' in %s", ca->options.config_file);
	free(path);
	return rc;
}

static enum status_code open_channel(struct ca *ca, struct status *st)
{
	const struct rpc_channel_options options = {
		.addresses = (const char *const *)ca->options.serial_addresses,
		.n_addresses = ca->options.n_serial_addresses,
		.server_name = ca->options.kds_name,
		.credentials = daemon_credentials(ca->daemon),
		.trust = daemon_trust(ca->daemon),
		.expect_roles = PEER_SERIAL,
		.limits = CONN_LIMITS_DEFAULT,
	};
	return rpc_channel_new(&options, st, &ca->channel);
}

static void take_limits(struct ca *ca)
{
	rpc_server_set_rate(daemon_server(ca->daemon), CA_RATE_SIGN,
			    settings_rate(&ca->settings, SETTING_LIMIT_SIGN_RATE));
}

static void object_changed(void *arg, const Kds__V1__Object *object)
{
	struct ca *ca = arg;
	if (follower_take_setting(&ca->settings, object)) {
		take_limits(ca);
		return;
	}
	keeper_changed(ca->keeper, object);
	if (object->value_case == KDS__V1__OBJECT__VALUE_MIN_SERIAL)
		serials_set_min(ca->serials, object->min_serial->value);
}

static void all_known(void *arg, uint64_t revision)
{
	struct ca *ca = arg;
	(void)revision;
	keeper_synced(ca->keeper);
}

static enum status_code start_follower(struct ca *ca, struct status *st)
{
	static const char *const prefixes[] = { "setting/certificate.", "setting/limit." };
	const struct follower_options options = {
		.daemon = ca->daemon,
		.channel = ca->channel,
		.prefixes = prefixes,
		.n_prefixes = sizeof prefixes / sizeof *prefixes,
		.nodes = true,
		.change = object_changed,
		.synced = all_known,
		.arg = ca,
	};
	return follower_start(&options, st, &ca->follower);
}

static enum status_code start_keeper(struct ca *ca, struct status *st)
{
	enum status_code rc = keeper_new(ca->authority, ca->seal, st, &ca->keeper);
	/* The follower tells the keeper and the keeper asks the follower: both are there before either runs on. */
	if (rc == STATUS_OK)
		rc = start_follower(ca, st);
	if (rc == STATUS_OK)
		rc = keeper_start(ca->keeper, ca->follower, st);
	return rc;
}

static enum status_code start_issuing(struct ca *ca, struct status *st)
{
	const struct issuing_options options = {
		.keeper = ca->keeper,
		.nodes = ca->nodes,
		.serials = ca->serials,
		.channel = ca->channel,
		.trust = daemon_trust(ca->daemon),
		.kds_name = ca->options.kds_name,
		.settings = &ca->settings,
		.workers = ca->workers,
	};
	return issuing_start(&options, st, &ca->issuing);
}

static enum status_code add_service(struct ca *ca, struct status *st)
{
	const struct ca_api_options options = {
		.keeper = ca->keeper,
		.issuing = ca->issuing,
		.maker = ca->maker,
		.authority = ca->authority,
		.cluster = ca->options.cluster,
		.kds_name = ca->options.kds_name,
	};
	return ca_api_new(&options, daemon_server(ca->daemon), st, &ca->api);
}

static bool is_ready(void *arg, char *reason, size_t size)
{
	struct ca *ca = arg;
	struct status st;
	struct authority *a = NULL;
	if (keeper_authority(ca->keeper, &st, &a) != STATUS_OK) {
		snprintf(reason, size, "%s", st.message);
		return false;
	}
	authority_unref(a);
	if (issuing_health(ca->issuing, &st) != STATUS_OK) {
		snprintf(reason, size, "%s", st.message);
		return false;
	}
	return true;
}

static void reloaded(void *arg, struct tls_credentials *credentials)
{
	struct ca *ca = arg;
	rpc_channel_set_credentials(ca->channel, credentials);
}

static enum status_code start(struct ca *ca, struct status *st)
{
	take_limits(ca);
	enum status_code rc = open_channel(ca, st);
	if (rc == STATUS_OK)
		rc = serials_start(ca->channel, ca->block_size, st, &ca->serials);
	if (rc == STATUS_OK)
		rc = start_keeper(ca, st);
	if (rc == STATUS_OK)
		rc = nodes_new(ca->channel, ca->follower, st, &ca->nodes);
	if (rc == STATUS_OK)
		rc = start_issuing(ca, st);
	if (rc == STATUS_OK)
		rc = maker_start(ca->channel, ca->serials, ca->seal, daemon_trust(ca->daemon), st, &ca->maker);
	if (rc == STATUS_OK)
		rc = add_service(ca, st);
	if (rc != STATUS_OK)
		return rc;
	daemon_set_ready(ca->daemon, is_ready, ca);
	daemon_set_reload(ca->daemon, reloaded, ca);
	rc = daemon_listen(ca->daemon, st);
	if (rc == STATUS_OK)
		log_info("ready listen=%s authority=%s", ca->options.listen, ca->authority);
	return rc;
}

/* Those who use go before what they use. The RPC port is closed. */
static void stop(struct ca *ca)
{
	issuing_stop(ca->issuing);
	maker_stop(ca->maker);
	nodes_free(ca->nodes);
	keeper_stop(ca->keeper);
	follower_stop(ca->follower);
	serials_stop(ca->serials);
	rpc_channel_free(ca->channel);
	daemon_free(ca->daemon);
	ca_api_free(ca->api);
	keeper_free(ca->keeper);
	seal_free(ca->seal);
	daemon_options_free(&ca->options);
}

int main(int argc, char **argv)
{
	struct ca ca = { .options = { .program = program.name } };
	struct status st;
	int exit_status = 0;

	settings_init(&ca.settings);
	enum status_code rc = daemon_options_parse(&program, argc, argv, &st, &ca.options);
	if (rc == STATUS_OK)
		rc = read_own_options(&ca, &st);
	if (rc == STATUS_OK)
		rc = daemon_new(&ca.options, &st, &ca.daemon);
	if (rc == STATUS_OK)
		rc = load_seal(&ca, &st);
	if (rc == STATUS_OK && !ca.options.check_only)
		rc = start(&ca, &st);
	if (rc != STATUS_OK)
		exit_status = daemon_start_failed(&ca.options, &st);
	else if (ca.options.check_only)
		daemon_checked(&ca.options);
	else
		daemon_run(ca.daemon);
	stop(&ca);
	return exit_status;
}
