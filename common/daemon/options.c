#include "common/daemon/options.h"

#include <argp.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/daemon/config_file.h"
#include "common/net/address.h"

#define SERIAL_PORT 7400

/* What a common option may be. Bounds of numbers are checked in read_numbers(). */
static const cfg_opt_t common_options[] = {
	CFG_STR("cluster", NULL, CFGF_NONE),
	CFG_STR("kds-name", NULL, CFGF_NONE),
	CFG_STR("cluster-id", NULL, CFGF_NONE),
	CFG_STR("name", NULL, CFGF_NONE),
	CFG_STR("listen", NULL, CFGF_NONE),
	CFG_STR("certificate", NULL, CFGF_NONE),
	CFG_STR("key", NULL, CFGF_NONE),
	CFG_STR("ca", NULL, CFGF_NONE),
	CFG_STR_LIST("serial-addresses", NULL, CFGF_NONE),
	CFG_STR("tls-min", "1.2", CFGF_NONE),
	CFG_INT("max-connections", 10000, CFGF_NONE),
	CFG_INT("max-connections-per-node", 512, CFGF_NONE),
	CFG_INT("max-connections-per-service", 2048, CFGF_NONE),
	CFG_INT("max-unauthenticated", 1024, CFGF_NONE),
	CFG_INT("max-unauthenticated-per-address", 256, CFGF_NONE),
	CFG_INT("buffer-memory", BUDGET_DEFAULT >> 20, CFGF_NONE),
	CFG_INT("idle-timeout", 600, CFGF_NONE),
	CFG_STR("log-level", "info", CFGF_NONE),
	CFG_INT("max-connections-per-address", 0, CFGF_NONE), /* of version 0.2; what it was for has other limits now */
};
#define N_COMMON (sizeof common_options / sizeof common_options[0])

struct command_line {
	const char *config_file;
	bool check_only;
	const char *log_level; /* NULL: as the file says */
	void *own;             /* input of the daemon's own parser */
};

static error_t parse_argument(int key, char *arg, struct argp_state *state)
{
	struct command_line *line = state->input;
	struct status st;
	enum log_level level;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = line->own;
		return 0;
	case 'c':
		line->config_file = arg;
		return 0;
	case 't':
		line->check_only = true;
		return 0;
	case 'l':
		if (log_level_parse(arg, &st, &level) != STATUS_OK)
			argp_error(state, "%s", st.message);
		line->log_level = arg;
		return 0;
	default: /* words that belong to no option, too: argp complains of them itself */
		return ARGP_ERR_UNKNOWN;
	}
}

/* "cluster, kds-name, ..." for --help. NULL: no memory. */
static char *option_names(const cfg_opt_t *options)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	if (!out)
		return NULL;
	for (const cfg_opt_t *o = options; o->name; o++)
		fprintf(out, "%s%s", o == options ? "" : ", ", o->name);
	if (fclose(out) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static enum status_code parse_command_line(const struct daemon_program *program, const cfg_opt_t *options, int argc,
					   char **argv, struct status *st, struct command_line *ret_line)
{
	static const struct argp_option arguments[] = {
		{ .name = "config", .key = 'c', .arg = "FILE", .doc = "Configuration file" },
		{ .name = "check-config", .key = 't',
		  .doc = "Check the configuration and the files it names, then exit" },
		{ .name = "log-level", .key = 'l', .arg = "LEVEL",
		  .doc = "error, warning, info or debug; overrides the file" },
		{ 0 },
	};
	static char version[96];

	snprintf(version, sizeof version, "%s " KDS_VERSION, program->name);
	argp_program_version = version;
	argp_err_exit_status = 2;
	char *names = option_names(options);
	char *doc = NULL;
	if (!names || asprintf(&doc,
			       "%s\vThe configuration file has lines `name = value`. Options: %s.\n\nSIGHUP reloads "
			       "the certificate and key; SIGTERM ends in good order.\n\nExample: %s --config "
			       "/etc/kds/%s.conf",
			       program->purpose, names, program->name, program->name) < 0)
		doc = NULL;
	free(names);
	if (!doc)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read the command line: out of memory");
	const struct argp_child children[] = { { .argp = program->arguments }, { 0 } };
	const struct argp parser = {
		.options = arguments,
		.parser = parse_argument,
		.doc = doc,
		.children = children, /* none when the first has no argp */
	};
	struct command_line line = { .own = program->arguments_input };
	error_t rv = argp_parse(&parser, argc, argv, 0, NULL, &line);
	free(doc);
	if (rv != 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "read the command line: %s", strerror(rv));
	if (!line.config_file)
		return status_set(st, STATUS_INVALID_ARGUMENT, "no configuration file given; use --config FILE");
	*ret_line = line;
	return STATUS_OK;
}

/* Common options, then the daemon's own, then the end mark. The caller frees. NULL: no memory. */
static cfg_opt_t *merge_options(const cfg_opt_t *own)
{
	static const cfg_opt_t end = CFG_END();
	size_t n = 0;
	while (own && own[n].name)
		n++;
	cfg_opt_t *all = calloc(N_COMMON + n + 1, sizeof *all);
	if (!all)
		return NULL;
	memcpy(all, common_options, sizeof common_options);
	if (n > 0)
		memcpy(all + N_COMMON, own, n * sizeof *all);
	all[N_COMMON + n] = end;
	return all;
}

static enum status_code out_of_memory(const char *config_file, struct status *st)
{
	return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read the configuration %s: out of memory", config_file);
}

static enum status_code read_string(const struct daemon_options *o, const char *option, struct status *st, char **ret)
{
	const char *value = cfg_getstr(o->cfg, option);
	if (!value || !*value)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: option '%s' is missing", o->config_file, option);
	char *copy = strdup(value);
	if (!copy)
		return out_of_memory(o->config_file, st);
	*ret = copy;
	return STATUS_OK;
}

static enum status_code read_path(const struct daemon_options *o, const char *option, struct status *st, char **ret)
{
	const char *value = cfg_getstr(o->cfg, option);
	if (!value || !*value)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: option '%s' is missing; it names a file",
				  o->config_file, option);
	char *path = config_file_path(o->config_file, value);
	if (!path)
		return out_of_memory(o->config_file, st);
	*ret = path;
	return STATUS_OK;
}

enum status_code daemon_options_number(const struct daemon_options *o, const char *option, unsigned min, unsigned max,
				       struct status *st, unsigned *ret)
{
	long value = cfg_getint(o->cfg, option);
	if (value < (long)min || value > (long)max)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: option '%s' is %ld; it takes %u to %u",
				  o->config_file, option, value, min, max);
	*ret = (unsigned)value;
	return STATUS_OK;
}

/* So that --check-config finds what the port or the channel would refuse later. */
static enum status_code check_address(const struct daemon_options *o, const char *option, const char *address,
				      bool listening, struct status *st)
{
	char url[ADDRESS_URL_MAX];
	if (address_to_url(address, listening, st, url) == STATUS_OK)
		return STATUS_OK;
	return status_prefix(st, "%s: option '%s'", o->config_file, option);
}

static enum status_code read_strings(const struct daemon_program *program, struct daemon_options *o, struct status *st)
{
	const struct {
		const char *option;
		char **field;
		enum status_code (*read)(const struct daemon_options *, const char *, struct status *, char **);
	} fields[] = {
		{ "cluster", &o->cluster, read_string },
		{ "kds-name", &o->kds_name, read_string },
		{ "cluster-id", &o->cluster_id, read_string },
		{ "name", &o->name, read_string },
		{ "listen", &o->listen, read_string },
		{ "certificate", &o->certificate, read_path },
		{ "key", &o->key, read_path },
		{ "ca", &o->ca, read_path },
	};

	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
		enum status_code rc = fields[i].read(o, fields[i].option, st, fields[i].field);
		if (rc != STATUS_OK)
			return rc;
	}
	char *address = config_file_address(o->listen, program->default_port);
	if (!address)
		return out_of_memory(o->config_file, st);
	free(o->listen);
	o->listen = address;
	return check_address(o, "listen", address, true, st);
}

static enum status_code read_serial_addresses(bool needed, struct daemon_options *o, struct status *st)
{
	if (needed && cfg_size(o->cfg, "serial-addresses") == 0)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "%s: option 'serial-addresses' is missing; it lists the replicas' RPC ports, for "
				  "example { \"127.0.1.1:7400\" }",
				  o->config_file);
	o->serial_addresses = config_file_addresses(o->cfg, "serial-addresses", SERIAL_PORT, &o->n_serial_addresses);
	if (!o->serial_addresses)
		return out_of_memory(o->config_file, st);
	enum status_code rc = STATUS_OK;
	for (size_t i = 0; i < o->n_serial_addresses && rc == STATUS_OK; i++)
		rc = check_address(o, "serial-addresses", o->serial_addresses[i], false, st);
	return rc;
}

static enum status_code read_levels(const struct command_line *line, struct daemon_options *o, struct status *st)
{
	const char *minimum = cfg_getstr(o->cfg, "tls-min");
	if (strcmp(minimum, "1.2") == 0)
		o->tls_minimum = TLS_MINIMUM_1_2;
	else if (strcmp(minimum, "1.3") == 0)
		o->tls_minimum = TLS_MINIMUM_1_3;
	else
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "%s: option 'tls-min' is '%s'; it takes \"1.2\" or \"1.3\"", o->config_file, minimum);
	const char *level = line->log_level ? line->log_level : cfg_getstr(o->cfg, "log-level");
	enum status_code rc = log_level_parse(level, st, &o->log_level);
	if (rc != STATUS_OK)
		status_prefix(st, "%s: option 'log-level'", o->config_file);
	return rc;
}

static enum status_code read_numbers(struct daemon_options *o, struct status *st)
{
	const struct {
		const char *option;
		unsigned min, max, *field;
	} fields[] = {
		{ "max-connections", 1, 1000000, &o->slots.max_connections },
		{ "max-connections-per-node", 1, 1000000, &o->slots.max_per_node },
		{ "max-connections-per-service", 1, 1000000, &o->slots.max_per_service },
		{ "max-unauthenticated", 1, 100000, &o->slots.max_strangers },
		{ "max-unauthenticated-per-address", 1, 100000, &o->slots.max_strangers_address },
		{ "buffer-memory", 16, 1 << 20, &o->buffer_mib },
		{ "idle-timeout", 0, 7 * 24 * 3600, &o->idle_s },
	};

	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
		enum status_code rc = daemon_options_number(o, fields[i].option, fields[i].min, fields[i].max, st,
							    fields[i].field);
		if (rc != STATUS_OK)
			return rc;
	}
	return STATUS_OK;
}

static enum status_code read_file(const struct daemon_program *program, const struct command_line *line,
				  const cfg_opt_t *options, struct daemon_options *o, struct status *st)
{
	enum status_code rc = config_file_parse(o->config_file, options, st, &o->cfg);
	if (rc == STATUS_OK)
		rc = read_strings(program, o, st);
	if (rc == STATUS_OK)
		rc = read_serial_addresses(program->needs_serial, o, st);
	if (rc == STATUS_OK)
		rc = read_levels(line, o, st);
	if (rc == STATUS_OK)
		rc = read_numbers(o, st);
	return rc;
}

enum status_code daemon_options_parse(const struct daemon_program *program, int argc, char **argv, struct status *st,
				      struct daemon_options *ret_options)
{
	struct daemon_options o = { .program = program->name, .max_frame = program->max_frame };
	struct command_line line = { 0 };
	enum status_code rc;
	cfg_opt_t *options = merge_options(program->own);

	if (!options) {
		rc = out_of_memory(program->name, st);
		goto out;
	}
	rc = parse_command_line(program, options, argc, argv, st, &line);
	if (rc != STATUS_OK)
		goto out;
	o.check_only = line.check_only;
	o.config_file = strdup(line.config_file);
	rc = o.config_file ? read_file(program, &line, options, &o, st) : out_of_memory(line.config_file, st);
	if (rc != STATUS_OK)
		goto out;

	char who[96];
	snprintf(who, sizeof who, "%s/%s", o.program, o.name);
	log_init(who, o.log_level);
	if (cfg_getint(o.cfg, "max-connections-per-address") != 0)
		log_warning("%s: option 'max-connections-per-address' is not used any more; see "
			    "max-unauthenticated-per-address and max-connections-per-node", o.config_file);
	*ret_options = o;
out:
	if (rc != STATUS_OK)
		daemon_options_free(&o);
	free(options);
	return rc;
}

void daemon_options_free(struct daemon_options *o)
{
	free(o->config_file);
	free(o->cluster);
	free(o->kds_name);
	free(o->cluster_id);
	free(o->name);
	free(o->listen);
	free(o->certificate);
	free(o->key);
	free(o->ca);
	config_file_free_list(o->serial_addresses, o->n_serial_addresses);
	if (o->cfg)
		cfg_free(o->cfg);
	*o = (struct daemon_options){ .program = o->program };
}

char *daemon_options_path(const struct daemon_options *o, const char *option)
{
	const char *value = cfg_getstr(o->cfg, option);
	return value && *value ? config_file_path(o->config_file, value) : NULL;
}
