/* Connecting: NNG resolves the name and connects without blocking; then the connection begins (conn_io.c). */
#include <string.h>

#include "common/net/address.h"
#include "common/net/conn_internal.h"

static const char *advice(int rv)
{
	switch (rv) {
	case NNG_ECONNREFUSED:
		return "; is the server running?";
	case NNG_EADDRINVAL:
		return "; is the name right?";
	default:
		return "";
	}
}

static void connected(struct conn *c)
{
	int rv = nng_aio_result(c->dialing);
	if (rv == 0)
		c->stream = nng_aio_get_output(c->dialing, 0);
	if (c->state == CONN_DEAD) {
		/* Closed while it connected: conn_destroy() frees the stream, on which nothing has started. */
		if (c->stream)
			nng_stream_close(c->stream);
		return;
	}
	if (rv != 0) {
		conn_blame(c, STATUS_UNAVAILABLE, "connect: %s%s", nng_strerror(rv), advice(rv));
		conn_kill(c);
		return;
	}
	conn_tune(c->stream);
	conn_begin(c);
}

static void on_dialed(void *conn)
{
	struct conn *c = conn;
	pthread_mutex_lock(&c->mutex);
	connected(c);
	conn_leave(c);
}

static enum status_code prepare(struct conn *c, const struct conn_dial *o, const char *url, struct status *st)
{
	int rv = nng_stream_dialer_alloc(&c->dialer, url);
	if (rv == 0)
		rv = nng_aio_alloc(&c->dialing, on_dialed, c);
	if (rv != 0)
		return status_set(st, rv == NNG_ENOMEM ? STATUS_RESOURCE_EXHAUSTED : STATUS_INVALID_ARGUMENT,
				  "address '%s': %s", o->address, nng_strerror(rv));
	if (o->server_name) {
		int error = gnutls_server_name_set(c->session, GNUTLS_NAME_DNS, o->server_name, strlen(o->server_name));
		if (error < 0)
			return status_set(st, STATUS_INVALID_ARGUMENT, "server name '%s': %s", o->server_name,
					  gnutls_strerror(error));
	}
	return STATUS_OK;
}

enum status_code conn_dial(const struct conn_dial *o, struct status *st, struct conn **ret_conn)
{
	char url[ADDRESS_URL_MAX];
	enum status_code rc = address_to_url(o->address, false, st, url);
	if (rc != STATUS_OK)
		return rc;
	struct conn *c;
	rc = conn_new(o->address, o->credentials, false, st, &c);
	if (rc != STATUS_OK)
		return rc;
	rc = prepare(c, o, url, st);
	if (rc != STATUS_OK) {
		conn_destroy(c);
		return rc;
	}
	c->handlers = o->handlers;
	c->limits = o->limits;
	c->self = o->self;
	c->trust = o->trust;
	c->roles = o->expect_roles;
	/* Set before anything can call back, so that handlers which share it with the caller find it. */
	*ret_conn = conn_ref(c);
	pthread_mutex_lock(&c->mutex);
	conn_set_deadline(c, c->limits.handshake_ms);
	c->busy++;
	nng_stream_dialer_dial(c->dialer, c->dialing);
	pthread_mutex_unlock(&c->mutex);
	return STATUS_OK;
}
