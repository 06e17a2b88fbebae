/* kds-cli cert show */
#include "clients/cli/cert.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/cli/output.h"
#include "common/base/clock.h"
#include "common/x509/cert.h"

static void add_list(struct table *t, const char *name, char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		table_field(t, name, "%s", list[i]);
}

/* "in 71 h", "2 h ago": how far from now. */
static const char *distance(int64_t unix_s, char *buf, size_t size)
{
	int64_t away = unix_s - (int64_t)(clock_unix_ms() / 1000);
	int64_t amount = away < 0 ? -away : away;
	const char *unit = "s";
	if (amount >= 3 * 24 * 3600) {
		amount /= 24 * 3600;
		unit = "days";
	} else if (amount >= 2 * 3600) {
		amount /= 3600;
		unit = "h";
	} else if (amount >= 120) {
		amount /= 60;
		unit = "min";
	}
	snprintf(buf, size, away < 0 ? "%" PRId64 " %s ago" : "in %" PRId64 " %s", amount, unit);
	return buf;
}

static const char *usage_text(const struct x509_info *info)
{
	if (info->ca)
		return "CA";
	switch (info->usage & (X509_USAGE_SERVER | X509_USAGE_CLIENT)) {
	case X509_USAGE_SERVER | X509_USAGE_CLIENT:
		return "TLS server and client";
	case X509_USAGE_SERVER:
		return "TLS server";
	case X509_USAGE_CLIENT:
		return "TLS client";
	default:
		return "none";
	}
}

static enum status_code print_text(const struct x509_info *info, struct status *st)
{
	char time[OUTPUT_TIME_SIZE], away[40], hex[80];
	uint64_t serial = x509_info_serial(info);
	struct table *t = table_new(NULL, 2);
	if (!t)
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
	table_field(t, "subject", "%s", info->common_name);
	table_field(t, "issuer", "%s", info->issuer_name);
	if (serial != UINT64_MAX)
		table_field(t, "serial", "%" PRIu64, serial);
	else
		table_field(t, "serial", "0x%s", output_hex(info->serial, info->serial_len, hex, sizeof hex));
	table_field(t, "valid from", "%s", output_time(info->not_before, time));
	table_field(t, "valid until", "%s (%s)", output_time(info->not_after, time),
		    distance(info->not_after, away, sizeof away));
	table_field(t, "usage", "%s", usage_text(info));
	add_list(t, "DNS name", info->dns_names, info->n_dns_names);
	add_list(t, "address", info->addresses, info->n_addresses);
	add_list(t, "URI", info->uris, info->n_uris);
	table_field(t, "key id", "%s", output_hex(info->key_id, info->key_id_len, hex, sizeof hex));
	table_field(t, "issuer's key id", "%s",
		    info->issuer_key_id_len ? output_hex(info->issuer_key_id, info->issuer_key_id_len, hex, sizeof hex)
					    : "-");
	table_field(t, "SHA-256", "%s", output_hex(info->fingerprint, sizeof info->fingerprint, hex, sizeof hex));
	enum status_code rc = table_print(t, st);
	table_free(t);
	return rc;
}

static json_t *to_json(const struct x509_info *info)
{
	char hex[80], from[OUTPUT_TIME_SIZE], until[OUTPUT_TIME_SIZE], key_id[80], issuer_key_id[80], serial_hex[48],
	    serial[24];
	output_hex(info->serial, info->serial_len, serial_hex, sizeof serial_hex);
	snprintf(serial, sizeof serial, "%" PRIu64, x509_info_serial(info));
	bool fits = x509_info_serial(info) != UINT64_MAX; /* the infrastructure's are 128 random bits */
	return json_pack("{ss,ss,ss?,ss,ss,ss,sb,sb,sb,so,so,so,ss,ss,ss}", "subject", info->common_name, "issuer",
			 info->issuer_name, "serial", fits ? serial : NULL, "serialHex", serial_hex, "notBefore",
			 output_time(info->not_before, from), "notAfter", output_time(info->not_after, until), "ca",
			 info->ca, "server", !info->ca && info->usage & X509_USAGE_SERVER, "client",
			 !info->ca && info->usage & X509_USAGE_CLIENT, "dnsNames",
			 output_json_strings(info->dns_names, info->n_dns_names), "addresses",
			 output_json_strings(info->addresses, info->n_addresses), "uris",
			 output_json_strings(info->uris, info->n_uris), "keyId",
			 output_hex(info->key_id, info->key_id_len, key_id, sizeof key_id), "issuerKeyId",
			 output_hex(info->issuer_key_id, info->issuer_key_id_len, issuer_key_id, sizeof issuer_key_id),
			 "fingerprint", output_hex(info->fingerprint, sizeof info->fingerprint, hex, sizeof hex));
}

enum status_code cert_run_show(struct cli *cli, struct status *st)
{
	gnutls_x509_crt_t *list;
	unsigned n;
	if (cert_read(cli->args[0], st, &list, &n) != STATUS_OK)
		return st->code;
	enum status_code rc = STATUS_OK;
	json_t *array = json_array();
	for (unsigned i = 0; i < n && rc == STATUS_OK; i++) {
		struct x509_info info;
		rc = x509_info_read(list[i], st, &info);
		if (rc != STATUS_OK)
			break;
		if (!cli->json && i > 0)
			putchar('\n');
		if (!cli->json)
			rc = print_text(&info, st);
		else if (json_array_append_new(array, to_json(&info)) < 0)
			rc = status_set(st, STATUS_RESOURCE_EXHAUSTED, "print the answer: out of memory");
		x509_info_free(&info);
	}
	x509_list_free(list, n);
	if (rc == STATUS_OK && cli->json)
		return output_json(json_pack("{so}", "certificates", array), st);
	json_decref(array);
	return rc;
}
