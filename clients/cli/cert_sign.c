/* kds-cli cert sign, list: certificates as the cluster issues and records them. */
#include "clients/cli/cert.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ca.pb-c.h"
#include "clients/cli/objects.h"
#include "clients/cli/output.h"
#include "clients/cli/session.h"
#include "common/rpc/json.h"
#include "common/x509/key.h"
#include "serial.pb-c.h"

#define NAME_SIZE 256
#define LIFETIME_MAX_HOURS 167

/* The common name in a request: the node it is for, unless --node says so. "" when it has none. */
static enum status_code request_name(const struct buffer *data, struct status *st, char name[NAME_SIZE])
{
	gnutls_x509_crq_t crq;
	gnutls_x509_crt_fmt_t format =
	    data->len > 0 && data->data[0] == 0x30 ? GNUTLS_X509_FMT_DER : GNUTLS_X509_FMT_PEM;
	gnutls_datum_t datum = { .data = data->data, .size = (unsigned)data->len };
	size_t size = NAME_SIZE;
	int rv = gnutls_x509_crq_init(&crq);
	if (rv < 0)
		return status_set(st, STATUS_INTERNAL, "read the request: %s", gnutls_strerror(rv));
	rv = gnutls_x509_crq_import(crq, &datum, format);
	if (rv >= 0 && gnutls_x509_crq_get_dn_by_oid(crq, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &size) < 0)
		name[0] = '\0';
	gnutls_x509_crq_deinit(crq);
	if (rv < 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "not a certificate request (PKCS #10): %s",
				  gnutls_strerror(rv));
	return STATUS_OK;
}

static enum status_code parse_profile(const struct cli *cli, struct status *st, Kds__V1__Profile *ret_profile)
{
	const char *text = cli_value(cli, OPT_PROFILE);
	if (!text || strcmp(text, "node") == 0)
		*ret_profile = KDS__V1__PROFILE__PROFILE_NODE;
	else if (strcmp(text, "kds-client") == 0)
		*ret_profile = KDS__V1__PROFILE__PROFILE_KDS_CLIENT;
	else
		return status_set(st, STATUS_INVALID_ARGUMENT, "--profile '%.60s': give node or kds-client", text);
	return STATUS_OK;
}

static enum status_code print_signed(const struct cli *cli, const Kds__V1__SignResponse *answer, struct status *st)
{
	char until[OUTPUT_TIME_SIZE];
	cli_detail(cli, "serial %" PRIu64 ", valid until %s", answer->serial, output_time(answer->not_after, until));
	if (cli->json && output_message(&answer->base, st) != STATUS_OK)
		return st->code;
	if (cli->json && !cli_has(cli, OPT_OUT))
		return STATUS_OK;
	return cli_write_output(cli, (struct slice){ .data = answer->certificate, .len = strlen(answer->certificate) },
				st);
}

enum status_code cert_run_sign(struct cli *cli, struct status *st)
{
	Kds__V1__SignRequest in = KDS__V1__SIGN_REQUEST__INIT;
	struct buffer csr = { 0 };
	char name[NAME_SIZE];
	uint64_t hours;
	ProtobufCMessage *answer;
	if (parse_profile(cli, st, &in.profile) != STATUS_OK ||
	    cli_number(cli, OPT_LIFETIME, 1, LIFETIME_MAX_HOURS, 0, st, &hours) != STATUS_OK)
		return st->code;
	enum status_code rc = cli_read_input(cli->args[0], st, &csr);
	if (rc == STATUS_OK && request_name(&csr, st, name) != STATUS_OK)
		rc = status_prefix(st, "%s", cli->args[0]);
	if (rc == STATUS_OK) {
		in.csr = (ProtobufCBinaryData){ .data = csr.data, .len = csr.len };
		in.node = cli_has(cli, OPT_NODE) ? (char *)(uintptr_t)cli_value(cli, OPT_NODE) : name; /* only read */
		in.lifetime_s = (uint32_t)hours * 3600;
		const struct session_request request = {
			.role = PEER_CA,
			.service = &kds__v1__ca__descriptor,
			.method = "Sign",
			.input = &in.base,
		};
		rc = session_call(cli, &request, st, &answer);
	}
	if (rc == STATUS_OK) {
		rc = print_signed(cli, (const Kds__V1__SignResponse *)answer, st);
		protobuf_c_message_free_unpacked(answer, NULL);
	}
	buffer_free(&csr);
	return rc;
}

static void add_row(struct table *t, const Kds__V1__IssuedCertificate *c)
{
	char until[OUTPUT_TIME_SIZE], issued[OUTPUT_TIME_SIZE];
	table_add(t, "%" PRIu64, c->serial);
	table_add(t, "%s", c->subject);
	table_add(t, "%s", c->profile);
	table_add(t, "%s", output_time((int64_t)(c->recorded_ms / 1000), issued));
	table_add(t, "%s", output_time(c->not_after, until));
	table_add(t, "%s", c->requester);
}

/* One answer's worth: rows, or JSON objects. */
static enum status_code take_page(const struct cli *cli, const Kds__V1__ListCertificatesResponse *page, struct table *t,
				  json_t *array, struct status *st)
{
	for (size_t i = 0; i < page->n_certificates; i++) {
		json_t *json;
		if (!cli->json) {
			add_row(t, page->certificates[i]);
			continue;
		}
		if (json_from_message(&page->certificates[i]->base, true, st, &json) != STATUS_OK)
			return st->code;
		if (json_array_append_new(array, json) < 0)
			return status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	}
	return STATUS_OK;
}

static enum status_code take_all(struct cli *cli, uint64_t after, struct table *t, json_t *array, struct status *st)
{
	bool more = true, first = true;
	enum status_code rc = STATUS_OK;
	while (more && rc == STATUS_OK) {
		Kds__V1__ListCertificatesRequest in = KDS__V1__LIST_CERTIFICATES_REQUEST__INIT;
		ProtobufCMessage *answer;
		in.after_serial = after;
		in.limit = 1000;
		in.local = cli_has(cli, OPT_LOCAL);
		if (cli_has(cli, OPT_SUBJECT))
			in.subject = (char *)(uintptr_t)cli_value(cli, OPT_SUBJECT); /* only read */
		const struct session_request request = {
			.role = PEER_SERIAL,
			.service = &kds__v1__serial__descriptor,
			.method = "ListCertificates",
			.input = &in.base,
		};
		rc = session_call(cli, &request, st, &answer);
		if (rc != STATUS_OK)
			break;
		const Kds__V1__ListCertificatesResponse *page = (const Kds__V1__ListCertificatesResponse *)answer;
		if (first)
			objects_note_age(cli, page->read_from);
		first = false;
		rc = take_page(cli, page, t, array, st);
		more = page->more && page->n_certificates > 0;
		if (more)
			after = page->certificates[page->n_certificates - 1]->serial;
		protobuf_c_message_free_unpacked(answer, NULL);
	}
	return rc;
}

enum status_code cert_run_list(struct cli *cli, struct status *st)
{
	static const char *const headings[] = {
		"SERIAL", "SUBJECT", "PROFILE", "ISSUED", "VALID UNTIL", "REQUESTED BY"
	};
	uint64_t after;
	if (cli_number(cli, OPT_SINCE, 0, UINT64_MAX, 0, st, &after) != STATUS_OK)
		return st->code;
	struct table *t = table_new(headings, 6);
	json_t *array = json_array();
	enum status_code rc = t && array ? take_all(cli, after, t, array, st)
					 : status_set(st, STATUS_RESOURCE_EXHAUSTED, "out of memory");
	if (rc == STATUS_OK && cli->json)
		rc = output_json(json_pack("{sO}", "certificates", array), st);
	else if (rc == STATUS_OK)
		rc = table_print(t, st);
	json_decref(array);
	table_free(t);
	return rc;
}
