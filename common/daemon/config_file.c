#include "common/daemon/config_file.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file_trust.h"

/* libconfuse's scanner keeps its state in globals, and its error function has no argument of ours. */
static pthread_mutex_t parser_lock = PTHREAD_MUTEX_INITIALIZER;
static struct status *parser_status;
static bool parser_failed;

static void capture_error(cfg_t *cfg, const char *format, va_list ap)
{
	if (parser_failed) /* the first error is the cause, what follows its consequences */
		return;
	parser_failed = true;
	status_vset(parser_status, STATUS_INVALID_ARGUMENT, format, ap);
	if (cfg && cfg->filename)
		status_prefix(parser_status, "%s:%d", cfg->filename, cfg->line);
}

static enum status_code open_failed(const char *path, int error, struct status *st)
{
	enum status_code code = error == ENOENT ? STATUS_NOT_FOUND : STATUS_PERMISSION_DENIED;
	return status_set(st, code, "read the configuration %s: %s", path, strerror(error));
}

static enum status_code parse_locked(cfg_t *cfg, const char *path, struct status *st)
{
	FILE *file = fopen(path, "re");
	if (!file)
		return open_failed(path, errno, st);
	if (file_trust_check(fileno(file), path, st) != STATUS_OK) {
		fclose(file);
		return status_prefix(st, "read the configuration");
	}
	parser_status = st;
	parser_failed = false;
	cfg_set_error_function(cfg, capture_error);
	cfg->filename = strdup(path); /* cfg_free() frees it */
	errno = 0;                    /* libconfuse takes an old ERANGE for its own */
	int rv = cfg_parse_fp(cfg, file);
	parser_status = NULL;
	fclose(file);
	if (rv == CFG_SUCCESS)
		return STATUS_OK;
	if (parser_failed)
		return STATUS_INVALID_ARGUMENT;
	return status_set(st, STATUS_INVALID_ARGUMENT, "%s:%d: not a configuration file", path, cfg->line);
}

enum status_code config_file_parse(const char *path, const cfg_opt_t *options, struct status *st, cfg_t **ret_cfg)
{
	pthread_mutex_lock(&parser_lock);
	enum status_code rc;
	cfg_t *cfg = cfg_init((cfg_opt_t *)options, CFGF_NONE); /* copies them */
	if (!cfg)
		rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "read the configuration %s: out of memory", path);
	else
		rc = parse_locked(cfg, path, st);
	if (rc == STATUS_OK)
		*ret_cfg = cfg;
	else
		cfg_free(cfg);
	pthread_mutex_unlock(&parser_lock);
	return rc;
}

char *config_file_path(const char *config_file, const char *value)
{
	if (value[0] == '/')
		return strdup(value);
	char *copy = strdup(config_file);
	if (!copy)
		return NULL;
	char directory[PATH_MAX];
	char *path = NULL;
	if (realpath(dirname(copy), directory) && asprintf(&path, "%s/%s", directory, value) < 0)
		path = NULL;
	free(copy);
	return path;
}

char *config_file_address(const char *text, unsigned default_port)
{
	const char *first = strchr(text, ':');
	bool bracketed = text[0] == '[';
	bool bare_v6 = !bracketed && first && strchr(first + 1, ':');
	bool has_port = bracketed ? strstr(text, "]:") != NULL : first && !bare_v6;
	if (has_port)
		return strdup(text);
	char *address;
	if (asprintf(&address, bare_v6 ? "[%s]:%u" : "%s:%u", text, default_port) < 0)
		return NULL;
	return address;
}

char **config_file_addresses(cfg_t *cfg, const char *option, unsigned default_port, size_t *ret_n)
{
	unsigned n = cfg_size(cfg, option);
	char **list = calloc(n + 1, sizeof *list);
	if (!list)
		return NULL;
	for (unsigned i = 0; i < n; i++) {
		list[i] = config_file_address(cfg_getnstr(cfg, option, i), default_port);
		if (!list[i]) {
			config_file_free_list(list, n);
			return NULL;
		}
	}
	*ret_n = n;
	return list;
}

void config_file_free_list(char **list, size_t n)
{
	for (size_t i = 0; list && i < n; i++)
		free(list[i]);
	free(list);
}
