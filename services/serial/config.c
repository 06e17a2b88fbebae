#include "services/serial/config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/daemon/config_file.h"
#include "common/net/address.h"

static cfg_opt_t replica_options[] = {
	CFG_INT("id", 0, CFGF_NONE),
	CFG_STR("address", NULL, CFGF_NONE),
	CFG_END(),
};

const cfg_opt_t serial_options[] = {
	CFG_INT("id", 0, CFGF_NONE),
	CFG_BOOL("join", cfg_false, CFGF_NONE),
	CFG_STR("peer-listen", NULL, CFGF_NONE),
	CFG_STR("rpc-address", NULL, CFGF_NONE),
	CFG_STR("data-dir", NULL, CFGF_NONE),
	CFG_STR("restore", NULL, CFGF_NONE),
	CFG_INT("election-timeout", 1000, CFGF_NONE),
	CFG_INT("heartbeat", 100, CFGF_NONE),
	CFG_INT("log-tail", LOG_TAIL_DEFAULT, CFGF_NONE),
	CFG_SEC("replica", replica_options, CFGF_MULTI | CFGF_TITLE | CFGF_NO_TITLE_DUPES),
	CFG_END(),
};

static enum status_code out_of_memory(struct status *st)
{
	return status_set(st, STATUS_RESOURCE_EXHAUSTED, "read the configuration: out of memory");
}

/* An id is what replicas are told apart by for ever, so it must be there; 0 is libraft's "none". */
static bool valid_id(long id)
{
	return id > 0;
}

/* Read as the port and the streams will read it later, so that --check-config finds a mistake. */
static enum status_code check_address(const struct daemon_options *o, const char *what, const char *address,
				      bool listening, struct status *st)
{
	char url[ADDRESS_URL_MAX];
	if (address_to_url(address, listening, st, url) == STATUS_OK)
		return STATUS_OK;
	return status_prefix(st, "%s: %s", o->config_file, what);
}

static enum status_code read_member(const struct daemon_options *o, cfg_t *section, struct status *st,
				    struct engine_member *ret_member)
{
	const char *name = cfg_title(section), *address = cfg_getstr(section, "address");
	long id = cfg_getint(section, "id");
	if (!valid_id(id))
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: replica %s: option 'id' is missing or not positive",
				  o->config_file, name);
	if (!address || !*address)
		return status_set(
		    st, STATUS_INVALID_ARGUMENT,
		    "%s: replica %s: option 'address' is missing; it is the host and port where that replica"
		    " listens for the others",
		    o->config_file, name);
	struct engine_member m = { .id = (uint64_t)id, .name = strdup(name) };
	m.address = config_file_address(address, SERIAL_PEER_PORT);
	*ret_member = m; /* the config's, whatever comes of it */
	if (!m.name || !m.address)
		return out_of_memory(st);
	return check_address(o, "option 'address' of a replica", m.address, false, st);
}

static int compare_members(const void *a, const void *b)
{
	uint64_t x = ((const struct engine_member *)a)->id, y = ((const struct engine_member *)b)->id;
	return x < y ? -1 : x > y;
}

static enum status_code read_members(const struct daemon_options *o, struct serial_config *c, struct status *st)
{
	unsigned n = cfg_size(o->cfg, "replica");
	unsigned max = c->join ? SERIAL_REPLICAS_MAX : SERIAL_FIRST_REPLICAS_MAX;
	if (n == 0 || n > max)
		return status_set(
		    st, STATUS_INVALID_ARGUMENT,
		    "%s: %u sections 'replica NAME { id = N address = \"host:port\" }'; there must be one for each"
		    " replica, this one too, at most %u",
		    o->config_file, n, max);
	for (unsigned i = 0; i < n; i++) {
		enum status_code rc =
		    read_member(o, cfg_getnsec(o->cfg, "replica", i), st, &c->members[c->n_members++]);
		if (rc != STATUS_OK)
			return rc;
	}
	/* The order in the file must not matter: every replica derives the first log entries from it. */
	qsort(c->members, c->n_members, sizeof *c->members, compare_members);
	for (size_t i = 1; i < c->n_members; i++)
		if (c->members[i - 1].id == c->members[i].id)
			return status_set(st, STATUS_INVALID_ARGUMENT,
					  "%s: replicas %s and %s have the same id %" PRIu64, o->config_file,
					  c->members[i - 1].name, c->members[i].name, c->members[i].id);
	return STATUS_OK;
}

static enum status_code find_self(const struct daemon_options *o, struct serial_config *c, struct status *st,
				  const struct engine_member **ret_self)
{
	long id = cfg_getint(o->cfg, "id");
	if (!valid_id(id))
		return status_set(
		    st, STATUS_INVALID_ARGUMENT,
		    "%s: option 'id' is missing or not positive; it is this replica's number, as in its section"
		    " 'replica %s'",
		    o->config_file, o->name);
	c->id = (uint64_t)id;
	for (size_t i = 0; i < c->n_members; i++)
		if (c->members[i].id == c->id && strcmp(c->members[i].name, o->name) == 0) {
			*ret_self = &c->members[i];
			return STATUS_OK;
		}
	return status_set(st, STATUS_INVALID_ARGUMENT,
			  "%s: no section 'replica %s { id = %ld ... }' agrees with the options 'name' and 'id'",
			  o->config_file, o->name, id);
}

static bool names_a_host(const char *address)
{
	return address[0] != ':' && strncmp(address, "0.0.0.0:", 8) != 0 && strncmp(address, "[::]:", 5) != 0 &&
	       address[0] != '*';
}

static enum status_code read_addresses(const struct daemon_options *o, const struct engine_member *self,
				       struct serial_config *c, struct status *st)
{
	const char *peer = cfg_getstr(o->cfg, "peer-listen"), *rpc = cfg_getstr(o->cfg, "rpc-address");
	c->peer_listen = config_file_address(peer && *peer ? peer : self->address, SERIAL_PEER_PORT);
	c->rpc_address = config_file_address(rpc && *rpc ? rpc : o->listen, 7400);
	c->data_dir = daemon_options_path(o, "data-dir");
	c->restore = daemon_options_path(o, "restore");
	if (!c->peer_listen || !c->rpc_address)
		return out_of_memory(st);
	if (!c->data_dir)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: option 'data-dir' is missing; it names a directory",
				  o->config_file);
	if (!names_a_host(c->rpc_address))
		return status_set(
		    st, STATUS_INVALID_ARGUMENT,
		    "%s: option 'rpc-address' is missing: other replicas cannot dial '%s'; give the host and port"
		    " under which they reach this one",
		    o->config_file, c->rpc_address);
	enum status_code rc = check_address(o, "option 'rpc-address'", c->rpc_address, false, st);
	return rc == STATUS_OK ? check_address(o, "option 'peer-listen'", c->peer_listen, true, st) : rc;
}

static enum status_code read_times(const struct daemon_options *o, struct serial_config *c, struct status *st)
{
	enum status_code rc = daemon_options_number(o, "election-timeout", 50, 60000, st, &c->election_ms);
	if (rc == STATUS_OK)
		rc = daemon_options_number(o, "heartbeat", 5, 20000, st, &c->heartbeat_ms);
	/* Two words of a leader may be lost without an election. */
	if (rc == STATUS_OK && c->heartbeat_ms * 3 > c->election_ms)
		rc = status_set(st, STATUS_INVALID_ARGUMENT,
				"%s: option 'heartbeat' is %u; with an election-timeout of %u it can be at most %u",
				o->config_file, c->heartbeat_ms, c->election_ms, c->election_ms / 3);
	return rc;
}

static enum status_code read_log_tail(const struct daemon_options *o, struct serial_config *c, struct status *st)
{
	return daemon_options_number(o, "log-tail", LOG_TAIL_MIN, LOG_TAIL_MAX, st, &c->log_tail);
}

enum status_code serial_config_read(const struct daemon_options *o, struct status *st, struct serial_config *ret_config)
{
	struct serial_config c = { 0 };
	const struct engine_member *self = NULL;
	c.join = cfg_getbool(o->cfg, "join");
	enum status_code rc = read_members(o, &c, st);
	if (rc == STATUS_OK)
		rc = find_self(o, &c, st, &self);
	if (rc == STATUS_OK)
		rc = read_addresses(o, self, &c, st);
	if (rc == STATUS_OK)
		rc = read_times(o, &c, st);
	if (rc == STATUS_OK)
		rc = read_log_tail(o, &c, st);
	if (rc == STATUS_OK)
		*ret_config = c;
	else
		serial_config_fini(&c);
	return rc;
}

void serial_config_fini(struct serial_config *c)
{
	for (size_t i = 0; i < c->n_members; i++) {
		free((char *)c->members[i].name);
		free((char *)c->members[i].address);
	}
	free(c->peer_listen);
	free(c->rpc_address);
	free(c->data_dir);
	free(c->restore);
	*c = (struct serial_config){ 0 };
}
