/* kds-cli cert verify: would the cluster accept this certificate now? */
#include "clients/cli/cert.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/cli/objects.h"
#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/base/file_trust.h"
#include "common/x509/cert.h"

#define CHAIN_MAX 8

/* Accepted or not, and what people want to know of it. */
struct verdict {
	bool accepted;
	char roles[128]; /* "admin, node": what its holder may be */
	char text[STATUS_MESSAGE_MAX];
};

static void reject(struct verdict *v, const char *format, ...) PRINTF_LIKE(2, 3);

static void reject(struct verdict *v, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	vsnprintf(v->text, sizeof v->text, format, ap);
	va_end(ap);
	v->accepted = false;
}

/* What the cluster's trust is made of, gathered from its objects. */
struct cluster_state {
	struct buffer cas[64]; /* DER */
	size_t n_cas;
	char *removed[1024];
	size_t n_removed;
	uint64_t min_serial;
	struct trust *trust; /* has the nodes; the rest is put into it at the end */
};

static enum status_code take_object(void *arg, const Kds__V1__Object *o, struct status *st)
{
	struct cluster_state *c = arg;
	bool ok = true;
	if (o->value_case == KDS__V1__OBJECT__VALUE_CERTIFICATE_AUTHORITY) {
		const ProtobufCBinaryData *der = &o->certificate_authority->certificate;
		ok = c->n_cas < sizeof c->cas / sizeof c->cas[0] &&
		     buffer_append(&c->cas[c->n_cas], der->data, der->len);
		c->n_cas += ok;
	} else if (o->value_case == KDS__V1__OBJECT__VALUE_SERVICE && o->service->removed) {
		ok = c->n_removed < sizeof c->removed / sizeof c->removed[0];
		if (ok) {
			c->removed[c->n_removed] = strdup(o->service->name);
			ok = c->removed[c->n_removed] != NULL;
			c->n_removed += ok;
		}
	} else if (o->value_case == KDS__V1__OBJECT__VALUE_MIN_SERIAL) {
		c->min_serial = o->min_serial->value;
	} else if (o->value_case == KDS__V1__OBJECT__VALUE_NODE) {
		return trust_add_node(c->trust, o->node->name, st);
	}
	return ok ? STATUS_OK
		  : status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory, or more objects than expected");
}

static void cluster_state_fini(struct cluster_state *c)
{
	for (size_t i = 0; i < c->n_cas; i++)
		buffer_free(&c->cas[i]);
	for (size_t i = 0; i < c->n_removed; i++)
		free(c->removed[i]);
	trust_free(c->trust);
}

static enum status_code make_trust(const struct session *session, struct status *st, struct trust **ret_trust)
{
	struct buffer pem = { 0 };
	enum status_code rc = file_trust_read(session_ca_file(session), CLI_INPUT_MAX, st, &pem);
	if (rc == STATUS_OK) {
		const struct slice slice = { .data = pem.data, .len = pem.len };
		rc = trust_new(session_cluster(session), session_kds_name(session), &slice, st, ret_trust);
	}
	buffer_free(&pem);
	return rc;
}

static enum status_code complete_trust(const struct cluster_state *c, struct status *st)
{
	struct slice cas[sizeof c->cas / sizeof c->cas[0]];
	for (size_t i = 0; i < c->n_cas; i++)
		cas[i] = (struct slice){ .data = c->cas[i].data, .len = c->cas[i].len };
	enum status_code rc = trust_follow_cluster_cas(c->trust, cas, c->n_cas, st); /* as the daemons do */
	if (rc == STATUS_OK)
		rc = trust_set_removed_services(c->trust, (const char *const *)c->removed, c->n_removed, st);
	if (rc != STATUS_OK)
		return rc;
	trust_set_min_serial(c->trust, c->min_serial);
	trust_set_nodes_known(c->trust);
	return STATUS_OK;
}

/* Its holder is somebody to the cluster. */
static void accept(struct verdict *v, const struct identity *id)
{
	v->accepted = true;
	snprintf(v->text, sizeof v->text, "%.100s", id->common_name);
	(void)peer_roles_describe(id->roles, v->roles, sizeof v->roles);
}

static enum status_code judge_by_trust(struct trust *trust, gnutls_x509_crt_t *list, unsigned n, struct verdict *v,
				       struct status *st)
{
	gnutls_datum_t chain[CHAIN_MAX];
	unsigned n_chain = 0;
	enum status_code rc = STATUS_OK;
	for (; n_chain < n && rc == STATUS_OK; n_chain++) {
		int rv = gnutls_x509_crt_export2(list[n_chain], GNUTLS_X509_FMT_DER, &chain[n_chain]);
		if (rv < 0) {
			rc = status_set(st, STATUS_INTERNAL, "export a certificate: %s", gnutls_strerror(rv));
			break;
		}
	}
	struct identity *id = NULL;
	/* Either end of TLS will do; the second try says why it would not. */
	if (rc == STATUS_OK && trust_verify(trust, chain, n_chain, TRUST_SERVER, NULL, &id) != STATUS_OK)
		rc = trust_verify(trust, chain, n_chain, TRUST_CLIENT, st, &id);
	if (rc == STATUS_OK)
		accept(v, id);
	if (rc == STATUS_UNAUTHENTICATED || rc == STATUS_PERMISSION_DENIED) {
		reject(v, "%s", st->message);
		rc = STATUS_OK;
	}
	identity_unref(id);
	while (n_chain > 0)
		gnutls_free(chain[--n_chain].data);
	return rc;
}

/* As the daemons judge: with the same code, on what the cluster says now. */
static enum status_code judge_with_cluster(struct cli *cli, gnutls_x509_crt_t *list, unsigned n, struct verdict *v,
					   struct status *st)
{
	static const char *const prefixes[] = { "ca/", "service/", "serial/", "node/" };
	struct cluster_state *c = calloc(1, sizeof *c);
	if (!c)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	enum status_code rc = session_open(cli, st);
	if (rc == STATUS_OK)
		rc = make_trust(cli->session, st, &c->trust);
	for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0] && rc == STATUS_OK; i++)
		rc = objects_each(cli, prefixes[i], take_object, c, st);
	if (rc == STATUS_OK)
		rc = cli_number(cli, OPT_MIN_SERIAL, 0, UINT64_MAX, c->min_serial, st, &c->min_serial);
	if (rc == STATUS_OK)
		rc = complete_trust(c, st);
	if (rc == STATUS_OK)
		rc = judge_by_trust(c->trust, list, n, v, st);
	cluster_state_fini(c);
	free(c);
	return rc;
}

/* Why not, in GnuTLS's words, on one line. */
static void reject_by_gnutls(struct verdict *v, unsigned found)
{
	gnutls_datum_t text;
	if (gnutls_certificate_verification_status_print(found, GNUTLS_CRT_X509, &text, 0) < 0) {
		reject(v, "it does not verify");
		return;
	}
	size_t len = text.size;
	while (len > 0 && (text.data[len - 1] == ' ' || text.data[len - 1] == '\n' || text.data[len - 1] == '\0'))
		len--;
	reject(v, "%.*s", (int)len, (const char *)text.data);
	gnutls_free(text.data);
}

/* RFC 5280 §6 against the CAs of a file, no server asked. */
static enum status_code judge_with_file(const struct cli *cli, const char *ca_file, gnutls_x509_crt_t *list, unsigned n,
					struct verdict *v, struct status *st)
{
	gnutls_x509_crt_t *cas = NULL;
	gnutls_x509_trust_list_t trusted;
	struct x509_info info = { 0 };
	unsigned n_cas = 0, found = 0;
	uint64_t min_serial;
	if (cli_number(cli, OPT_MIN_SERIAL, 0, UINT64_MAX, 0, st, &min_serial) != STATUS_OK ||
	    cert_read(ca_file, st, &cas, &n_cas) != STATUS_OK)
		return st->code;
	int rv = gnutls_x509_trust_list_init(&trusted, 0);
	if (rv >= 0) {
		rv = gnutls_x509_trust_list_add_cas(trusted, cas, n_cas, 0);
		if (rv >= 0)
			rv = gnutls_x509_trust_list_verify_crt2(
			    trusted, list, n, NULL, 0, GNUTLS_PROFILE_TO_VFLAGS(GNUTLS_PROFILE_MEDIUM), &found, NULL);
		gnutls_x509_trust_list_deinit(trusted, 0); /* the list keeps the certificates borrowed */
	}
	x509_list_free(cas, n_cas);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "verify: %s", gnutls_strerror(rv));
	if (x509_info_read(list[0], st, &info) != STATUS_OK)
		return st->code;
	v->accepted = found == 0;
	snprintf(v->text, sizeof v->text, "%.200s", info.common_name);
	if (found != 0)
		reject_by_gnutls(v, found);
	else if (x509_info_serial(&info) < min_serial)
		reject(v, "serial %" PRIu64 " is below the minimum %" PRIu64, x509_info_serial(&info), min_serial);
	x509_info_free(&info);
	return STATUS_OK;
}

enum status_code cert_run_verify(struct cli *cli, struct status *st)
{
	gnutls_x509_crt_t *list;
	unsigned n;
	struct verdict v = { 0 };
	/* --ca is part of the identity when it comes with --cert. */
	const char *ca_file = cli_has(cli, OPT_CERT) ? NULL : cli_value(cli, OPT_CA);
	if (cert_read(cli->args[0], st, &list, &n) != STATUS_OK)
		return st->code;
	enum status_code rc;
	if (n > CHAIN_MAX)
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "%s: a chain of %u certificates; at most %d are taken",
				cli->args[0], n, CHAIN_MAX);
	else
		rc =
		    ca_file ? judge_with_file(cli, ca_file, list, n, &v, st) : judge_with_cluster(cli, list, n, &v, st);
	x509_list_free(list, n);
	if (rc != STATUS_OK)
		return rc;
	cli->no = !v.accepted;
	output_sanitize(v.text);
	if (cli->json)
		return output_json(json_pack("{sb,ss,ss*}", "accepted", v.accepted, v.accepted ? "subject" : "reason",
					     v.text, "roles", v.roles[0] ? v.roles : NULL),
				   st);
	if (v.roles[0])
		printf("accepted: %s (%s)\n", v.text, v.roles);
	else
		printf("%s: %s\n", v.accepted ? "accepted" : "not accepted", v.text);
	return STATUS_OK;
}
