#include "clients/libkds/settings.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/daemon/config_file.h"

#define KEYDIST_PORT 7420
#define TIMEOUT_S 10
#define TIMEOUT_S_MAX 3600

/* The whole of cli.conf, so that the command's own file serves. */
static const cfg_opt_t file_options[] = {
	CFG_STR("cluster", NULL, CFGF_NONE),
	CFG_STR("kds-name", NULL, CFGF_NONE),
	CFG_STR_LIST("serial-addresses", NULL, CFGF_NONE),
	CFG_STR_LIST("ca-addresses", NULL, CFGF_NONE),
	CFG_STR_LIST("keydist-addresses", NULL, CFGF_NONE),
	CFG_STR("certificate", NULL, CFGF_NONE),
	CFG_STR("key", NULL, CFGF_NONE),
	CFG_STR("ca", NULL, CFGF_NONE),
	CFG_INT("timeout", TIMEOUT_S, CFGF_NONE),
	CFG_END(),
};

static enum status_code out_of_memory(struct status *st)
{
	return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read the settings: out of memory");
}

/* False: no file is named and none is there, which is no error yet. */
static bool find_file(const struct kds_options *o, char path[PATH_MAX])
{
	const char *named = o->config_file ? o->config_file : getenv("KDS_CONFIG");
	if (named && *named) {
		snprintf(path, PATH_MAX, "%s", named);
		return true;
	}
	const char *home = getenv("HOME");
	snprintf(path, PATH_MAX, "%s/.config/kds/cli.conf", home ? home : "");
	if (home && access(path, F_OK) == 0)
		return true;
	snprintf(path, PATH_MAX, "/etc/kds/cli.conf");
	return access(path, F_OK) == 0;
}

static enum status_code missing(cfg_t *cfg, const char *option, struct status *st)
{
	if (cfg)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: option '%s' is missing", cfg->filename, option);
	return status_set(st, STATUS_INVALID_ARGUMENT,
			  "no configuration file; name one with KDS_CONFIG, or give '%s' to kds_allocator_new()", option);
}

/* `given`, a path as the program sees it, over the file's option, a path as the file sees it. */
static enum status_code take(const char *given, cfg_t *cfg, const char *option, bool path, struct status *st,
			     char **ret)
{
	const char *value = given ? given : cfg ? cfg_getstr(cfg, option) : NULL;
	if (!value || !*value)
		return missing(cfg, option, st);
	char *copy = path && !given ? config_file_path(cfg->filename, value) : strdup(value);
	if (!copy)
		return out_of_memory(st);
	*ret = copy;
	return STATUS_OK;
}

/* "host:port,host:port" */
static enum status_code split_addresses(const char *text, struct status *st, struct settings *s)
{
	char *copy = strdup(text);
	char **list = copy ? calloc(strlen(text) + 1, sizeof *list) : NULL; /* more than commas can make */
	size_t n = 0;
	bool failed = !list;
	char *rest = copy;
	for (char *word; !failed && (word = strtok_r(rest, ", ", &rest));) {
		list[n] = config_file_address(word, KEYDIST_PORT);
		failed = !list[n++];
	}
	free(copy);
	if (failed) {
		config_file_free_list(list, n);
		return out_of_memory(st);
	}
	s->addresses = list;
	s->n_addresses = n;
	return STATUS_OK;
}

static enum status_code take_addresses(const struct kds_options *o, cfg_t *cfg, struct status *st, struct settings *s)
{
	enum status_code rc = STATUS_OK;
	if (o->addresses) {
		rc = split_addresses(o->addresses, st, s);
	} else if (cfg) {
		s->addresses = config_file_addresses(cfg, "keydist-addresses", KEYDIST_PORT, &s->n_addresses);
		rc = s->addresses ? STATUS_OK : out_of_memory(st);
	}
	if (rc == STATUS_OK && s->n_addresses == 0)
		rc = missing(cfg, "keydist-addresses", st);
	return rc;
}

static enum status_code take_timeout(const struct kds_options *o, cfg_t *cfg, struct status *st, struct settings *s)
{
	long seconds = cfg ? cfg_getint(cfg, "timeout") : TIMEOUT_S;
	if (seconds < 1 || seconds > TIMEOUT_S_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: option 'timeout' is %ld; it takes 1 to %d",
				  cfg->filename, seconds, TIMEOUT_S_MAX);
	s->timeout_ms = o->timeout_ms ? o->timeout_ms : (unsigned)seconds * 1000;
	return STATUS_OK;
}

static enum status_code take_all(const struct kds_options *o, cfg_t *cfg, struct status *st, struct settings *s)
{
	if (!o->certificate_file != !o->key_file)
		return status_set(st, STATUS_INVALID_ARGUMENT, "give certificate_file and key_file together");
	enum status_code rc = take(o->cluster, cfg, "cluster", false, st, &s->cluster);
	if (rc == STATUS_OK)
		rc = take(o->certificate_file, cfg, "certificate", true, st, &s->certificate);
	if (rc == STATUS_OK)
		rc = take(o->key_file, cfg, "key", true, st, &s->key);
	if (rc == STATUS_OK)
		rc = take(o->ca_file, cfg, "ca", true, st, &s->ca);
	if (rc == STATUS_OK)
		rc = take_addresses(o, cfg, st, s);
	if (rc == STATUS_OK)
		rc = take_timeout(o, cfg, st, s);
	if (rc != STATUS_OK)
		return rc;
	const char *kds_name = cfg ? cfg_getstr(cfg, "kds-name") : NULL;
	s->kds_name = strdup(kds_name ? kds_name : "");
	return s->kds_name ? STATUS_OK : out_of_memory(st);
}

enum status_code settings_read(const struct kds_options *options, struct status *st, struct settings *ret_settings)
{
	static const struct kds_options none;
	const struct kds_options *o = options ? options : &none;
	struct settings s = { 0 };
	cfg_t *cfg = NULL;
	char path[PATH_MAX];
	enum status_code rc = STATUS_OK;

	if (find_file(o, path))
		rc = config_file_parse(path, file_options, st, &cfg);
	if (rc == STATUS_OK)
		rc = take_all(o, cfg, st, &s);
	if (cfg)
		cfg_free(cfg);
	if (rc == STATUS_OK)
		*ret_settings = s;
	else
		settings_free(&s);
	return rc;
}

void settings_free(struct settings *s)
{
	free(s->cluster);
	free(s->kds_name);
	free(s->certificate);
	free(s->key);
	free(s->ca);
	config_file_free_list(s->addresses, s->n_addresses);
	*s = (struct settings){ 0 };
}
