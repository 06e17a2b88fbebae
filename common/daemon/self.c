#include "common/daemon/self.h"

#include <stdlib.h>
#include <string.h>

#include "common/x509/cert.h"

#define CHAIN_MAX 64 /* as many as x509_load_list() gives */

/* The identity that a peer will make of the file's chain. */
static enum status_code identify(const struct daemon_options *o, struct trust *trust, struct status *st,
				 struct identity **ret_identity)
{
	gnutls_x509_crt_t *list;
	gnutls_datum_t chain[CHAIN_MAX] = { { NULL, 0 } };
	unsigned n = 0;
	enum status_code rc = x509_load_list(o->certificate, st, &list, &n);
	if (rc != STATUS_OK)
		return rc;
	for (unsigned i = 0; i < n && rc == STATUS_OK; i++) {
		int rv = gnutls_x509_crt_export2(list[i], GNUTLS_X509_FMT_DER, &chain[i]);
		if (rv < 0)
			rc = status_set(st, STATUS_INTERNAL, "%s: %s", o->certificate, gnutls_strerror(rv));
	}
	if (rc == STATUS_OK)
		rc = trust_verify(trust, chain, n, TRUST_SERVER, st, ret_identity);
	for (unsigned i = 0; i < n; i++)
		gnutls_free(chain[i].data);
	x509_list_free(list, n);
	return rc;
}

enum status_code self_check(const struct daemon_options *o, struct trust *trust, struct status *st)
{
	const char *kind = strncmp(o->program, "kds-", 4) == 0 ? o->program + 4 : o->program;
	unsigned role = peer_role_parse(kind, strlen(kind));
	struct identity *self = NULL;
	struct status why = { 0 };
	if (identify(o, trust, &why, &self) != STATUS_OK)
		return status_set(st, STATUS_FAILED_PRECONDITION,
				  "option 'certificate': no peer would accept %.80s: %s", o->certificate, why.message);
	enum status_code rc = STATUS_OK;
	if (!self->infrastructure || (role && !(self->roles & role)) || strcmp(self->role_name, o->name) != 0)
		rc = status_set(st, STATUS_FAILED_PRECONDITION,
				"option 'certificate': %.80s is for kds-%s '%.40s', not for %s '%.40s'; set 'name' to match, "
				"or use the certificate that was made for this process",
				o->certificate, peer_role_name(self->roles & PEER_SERVICES), self->role_name, o->program,
				o->name);
	identity_unref(self);
	return rc;
}
