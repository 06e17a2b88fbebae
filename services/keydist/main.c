/* kds-keydist: hands out symmetric keys for groups. */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/file_trust.h"
#include "common/base/secret.h"
#include "common/daemon/daemon.h"
#include "common/daemon/follower.h"
#include "services/keydist/api.h"
#include "services/keydist/masterkeys.h"
#include "services/keydist/rotation.h"

#define RESTORE_MIN_MS UINT64_C(3600000) /* an older key answers so long after the next was made, at least */
#define LIFESPAN_INTERVALS_MAX 500 /* so many masterKeys are held at most, and some more */
#define SETTING_OBJECT_PREFIX "setting/masterkey."

static const cfg_opt_t own_options[] = {
	CFG_STR("seal", NULL, CFGF_NONE),
	CFG_STR("data-dir", NULL, CFGF_NONE),
	CFG_END(),
};

static const struct daemon_program program = {
	.name = "kds-keydist",
	.purpose = "Hands out symmetric keys for the groups that a client's certificate names.",
	.own = own_options,
	.default_port = 7420,
	.max_frame = 128 << 10, /* what is asked here has tens of KiB at most */
	.needs_serial = true,
};

struct keydist {
	struct daemon_options options;
	struct settings settings;
	struct masterkeys_times times; /* those in force; the follower's thread alone */
	char *seal_file;
	char *cache_file;
	struct daemon *daemon;
	struct seal *seal;
	struct masterkeys *keys;
	struct rpc_channel *channel;
	struct follower *follower;
	struct rotation *rotation;
	struct api *api;
	atomic_bool listening;
	atomic_bool announced;
};

static enum status_code read_paths(struct keydist *k, struct status *st)
{
	const struct daemon_options *o = &k->options;
	k->seal_file = daemon_options_path(o, "seal");
	if (!k->seal_file)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "%s: option 'seal' is missing; it names the file of sealing keys", o->config_file);
	char *directory = daemon_options_path(o, "data-dir");
	if (!directory)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: option 'data-dir' is missing; it names a directory",
				  o->config_file);
	enum status_code rc = file_trust_check_directory(directory, st);
	if (rc == STATUS_OK && access(directory, W_OK | X_OK) != 0)
		rc = status_set(st, STATUS_FAILED_PRECONDITION, "%s: %s", directory, strerror(errno));
	if (rc != STATUS_OK)
		status_prefix(st, "option 'data-dir' in %s", o->config_file);
	else if (asprintf(&k->cache_file, "%s/objects.cache", directory) < 0)
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "read the configuration: out of memory");
	free(directory);
	return rc;
}

static bool has_key(struct keydist *k)
{
	struct masterkey master;
	bool found = masterkeys_current(k->keys, clock_unix_ms(), &master);
	secret_wipe(&master, sizeof master);
	return found;
}

static bool is_ready(void *arg, char *reason, size_t size)
{
	if (has_key(arg))
		return true;
	struct keydist *k = arg;
	if (masterkeys_newest(k->keys) > 0)
		snprintf(reason, size,
			 "no masterKey can be unsealed; copy the sealing keys of another kds-keydist to %s",
			 k->seal_file);
	else
		snprintf(reason, size, "no masterKey is known yet; it needs a quorum of kds-serial once");
	return false;
}

static void add_alarms(void *arg, struct daemon_alarms *alarms)
{
	struct keydist *k = arg;
	char newest_key[MASTERKEY_OBJECT_KEY_MAX];
	uint64_t newest;
	size_t n = masterkeys_count_sealed(k->keys, &newest);
	if (n > 0)
		daemon_alarm(alarms,
			     "%zu of the masterKeys cannot be unsealed, the newest is %s; add the sealing key of the "
			     "kds-keydist that made it to %.80s and restart",
			     n, masterkey_object_key(newest, newest_key), k->seal_file);
}

/* The first moment at which a key can be had, whichever of the two threads brings it about. */
static void announce(struct keydist *k)
{
	if (atomic_load(&k->listening) && has_key(k) && !atomic_exchange(&k->announced, true))
		log_info("ready listen=%s", k->options.listen);
}

static void take_limits(struct keydist *k)
{
	rpc_server_set_rate(daemon_server(k->daemon), KEYDIST_RATE_KEYS,
			    settings_rate(&k->settings, SETTING_LIMIT_KEY_RATE));
}

static void take_change(void *arg, const Kds__V1__Object *object)
{
	struct keydist *k = arg;
	struct status st;
	uint64_t published_ms;
	bool setting = follower_take_setting(&k->settings, object);
	if (setting)
		take_limits(k);
	if (setting || !masterkey_parse_object_key(object->key, &published_ms))
		return;
	if (object->deleted) {
		masterkeys_remove(k->keys, published_ms);
		log_info("masterKeys: destroyed %s", object->key);
	} else if (object->value_case != KDS__V1__OBJECT__VALUE_MASTER_KEY ||
		   object->master_key->published_ms != published_ms) {
		log_error("masterKeys: %s is none", object->key);
	} else if (masterkeys_put(k->keys, object->master_key, &st) != STATUS_OK) {
		log_error("masterKeys: %s; is %s the same on every host of kds-keydist?", st.message, k->seal_file);
	} else {
		log_info("masterKeys: have %s use_from_ms=%" PRIu64, object->key, object->master_key->use_from_ms);
	}
}

/* Each setting is allowed by itself; together they may ask for what cannot be. Then a key lives longer, or new ones come
 * less often, than was asked for: what would be destroyed too early could never be brought back. */
static void take_times(struct keydist *k)
{
	struct masterkeys_times t = {
		.interval_ms = settings_get(&k->settings, SETTING_MASTERKEY_INTERVAL),
		.lifespan_ms = settings_get(&k->settings, SETTING_MASTERKEY_LIFESPAN),
		.publish_ahead_ms = settings_get(&k->settings, SETTING_MASTERKEY_PUBLISH_AHEAD),
	};
	uint64_t shortest = t.lifespan_ms / LIFESPAN_INTERVALS_MAX;
	bool too_short = t.interval_ms < shortest;
	if (too_short)
		t.interval_ms = shortest;
	if (t.lifespan_ms < t.interval_ms + RESTORE_MIN_MS)
		t.lifespan_ms = t.interval_ms + RESTORE_MIN_MS;
	if (memcmp(&t, &k->times, sizeof t) == 0)
		return;
	k->times = t;
	masterkeys_set_times(k->keys, &t);
	if (too_short)
		log_warning("masterKeys: masterkey.interval is too short for masterkey.lifespan: %d of them are kept at most, so "
			    "they come less often; change one of the two settings",
			    LIFESPAN_INTERVALS_MAX);
	log_info("masterKeys: interval_s=%" PRIu64 " lifespan_s=%" PRIu64 " publish_ahead_s=%" PRIu64,
		 t.interval_ms / 1000, t.lifespan_ms / 1000, t.publish_ahead_ms / 1000);
}

/* Only now: a key must not be taken for outlived because the setting that says otherwise comes behind it. */
static void take_synced(void *arg, uint64_t revision)
{
	(void)revision;
	take_times(arg);
	announce(arg);
}

static void take_reload(void *arg, struct tls_credentials *credentials)
{
	struct keydist *k = arg;
	rpc_channel_set_credentials(k->channel, credentials);
}

static enum status_code open_channel(struct keydist *k, struct status *st)
{
	const struct rpc_channel_options options = {
		.addresses = (const char *const *)k->options.serial_addresses,
		.n_addresses = k->options.n_serial_addresses,
		.credentials = daemon_credentials(k->daemon),
		.trust = daemon_trust(k->daemon),
		.expect_roles = PEER_SERIAL,
		.limits = CONN_LIMITS_DEFAULT,
	};
	return rpc_channel_new(&options, st, &k->channel);
}

static enum status_code start_following(struct keydist *k, struct status *st)
{
	static const char *const prefixes[] = { MASTERKEY_OBJECT_PREFIX, SETTING_OBJECT_PREFIX };
	const struct follower_options follower = {
		.daemon = k->daemon,
		.channel = k->channel,
		.prefixes = prefixes,
		.n_prefixes = sizeof prefixes / sizeof *prefixes,
		.nodes = true,
		.change = take_change,
		.synced = take_synced,
		.arg = k,
		.cache_file = k->cache_file,
	};
	enum status_code rc = follower_start(&follower, st, &k->follower);
	if (rc != STATUS_OK)
		return rc;
	const struct rotation_options rotation = {
		.keys = k->keys,
		.follower = k->follower,
		.channel = k->channel,
		.seal = k->seal,
	};
	return rotation_start(&rotation, st, &k->rotation);
}

static enum status_code serve(struct keydist *k, struct status *st)
{
	const struct api_options options = {
		.kds_name = k->options.kds_name,
		.trust = daemon_trust(k->daemon),
		.keys = k->keys,
		.follower = k->follower,
	};
	enum status_code rc = api_new(&options, st, &k->api);
	if (rc == STATUS_OK)
		rc = api_serve(k->api, daemon_server(k->daemon), st);
	if (rc == STATUS_OK)
		rc = daemon_listen(k->daemon, st);
	if (rc != STATUS_OK)
		return rc;
	atomic_store(&k->listening, true);
	announce(k);
	return STATUS_OK;
}

static enum status_code start(struct keydist *k, struct status *st)
{
	enum status_code rc = read_paths(k, st);
	if (rc == STATUS_OK)
		rc = daemon_new(&k->options, st, &k->daemon);
	if (rc == STATUS_OK)
		rc = seal_load(k->seal_file, st, &k->seal);
	if (rc != STATUS_OK || k->options.check_only)
		return rc;
	settings_init(&k->settings);
	take_limits(k);
	rc = masterkeys_new(k->seal, st, &k->keys);
	if (rc != STATUS_OK)
		return rc;
	daemon_set_ready(k->daemon, is_ready, k);
	daemon_set_alarms(k->daemon, add_alarms, k);
	daemon_set_reload(k->daemon, take_reload, k);
	rc = open_channel(k, st);
	if (rc == STATUS_OK)
		rc = start_following(k, st);
	if (rc == STATUS_OK)
		rc = serve(k, st);
	return rc;
}

static void stop(struct keydist *k)
{
	rotation_stop(k->rotation);
	follower_stop(k->follower);
	rpc_channel_free(k->channel);
	daemon_free(k->daemon);
	api_free(k->api);
	masterkeys_free(k->keys);
	seal_free(k->seal);
	free(k->cache_file);
	free(k->seal_file);
	daemon_options_free(&k->options);
}

int main(int argc, char **argv)
{
	struct keydist k = { 0 };
	struct status st;
	int exit_code = 0;
	enum status_code rc = daemon_options_parse(&program, argc, argv, &st, &k.options);
	if (rc == STATUS_OK)
		rc = start(&k, &st);
	if (rc != STATUS_OK)
		exit_code = daemon_start_failed(&k.options, &st);
	else if (k.options.check_only)
		daemon_checked(&k.options);
	else
		daemon_run(k.daemon);
	stop(&k);
	return exit_code;
}
