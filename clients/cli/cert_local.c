/* What can be done with a certificate, a key or a request on the node itself. */
#include "clients/cli/cert.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clients/cli/output.h"
#include "clients/cli/passphrase.h"
#include "common/base/clock.h"
#include "common/x509/cert.h"
#include "common/x509/key.h"
#include "common/x509/name.h"

#define LIST_MAX 64

enum status_code cert_read(const char *path, struct status *st, gnutls_x509_crt_t **ret_list, unsigned *ret_n)
{
	struct buffer data = { 0 };
	gnutls_x509_crt_t *list = NULL;
	unsigned n = 0;
	enum status_code rc = cli_read_input(path, st, &data);
	if (rc == STATUS_OK) {
		/* DER starts with SEQUENCE; anything else can only be PEM. */
		gnutls_x509_crt_fmt_t format =
		    data.len > 0 && data.data[0] == 0x30 ? GNUTLS_X509_FMT_DER : GNUTLS_X509_FMT_PEM;
		gnutls_datum_t datum = { .data = data.data, .size = (unsigned)data.len };
		int rv = data.len > 0 ? gnutls_x509_crt_list_import2(&list, &n, &datum, format, 0)
				      : GNUTLS_E_NO_CERTIFICATE_FOUND;
		if (rv < 0)
			rc = status_set(st, STATUS_INVALID_ARGUMENT, "%s: no certificate in PEM or DER: %s", path,
					gnutls_strerror(rv));
	}
	buffer_free(&data);
	if (rc == STATUS_OK && n > LIST_MAX) {
		x509_list_free(list, n);
		rc = status_set(st, STATUS_INVALID_ARGUMENT, "%s: more than %d certificates", path, LIST_MAX);
	}
	if (rc == STATUS_OK) {
		*ret_list = list;
		*ret_n = n;
	}
	return rc;
}

enum status_code cert_have_key(const struct cli *cli, const char *path, struct status *st,
			       gnutls_x509_privkey_t *ret_key)
{
	gnutls_x509_privkey_t key = NULL;
	if (access(path, F_OK) == 0) {
		if (x509_key_load(path, NULL, st, &key) != STATUS_OK)
			return cli_bad_input(st);
		cli_notice(cli, "using the key in %s", path);
		*ret_key = key;
		return STATUS_OK;
	}
	if (x509_key_generate(st, &key) != STATUS_OK)
		return st->code;
	if (x509_key_save(key, NULL, path, st) != STATUS_OK) {
		gnutls_x509_privkey_deinit(key);
		return st->code;
	}
	cli_notice(cli, "made a key: %s", path);
	*ret_key = key;
	return STATUS_OK;
}

enum status_code cert_run_request(struct cli *cli, struct status *st)
{
	const char *name = cli_value(cli, OPT_NAME);
	char default_path[300];
	if (!name)
		return status_set(st, STATUS_INVALID_ARGUMENT, "give --name NODE, the node's DNS name");
	if (x509_check_dns_name(name, "--name", st) != STATUS_OK)
		return st->code;
	snprintf(default_path, sizeof default_path, "%s.key", name);
	const char *key_path = cli_has(cli, OPT_KEY) ? cli_value(cli, OPT_KEY) : default_path;
	gnutls_x509_privkey_t key = NULL;
	struct buffer pem = { 0 };
	if (cert_have_key(cli, key_path, st, &key) != STATUS_OK)
		return st->code;
	enum status_code rc = x509_request_make(key, name, st, &pem);
	if (rc == STATUS_OK && cli->json)
		rc =
		    output_json(json_pack("{ss%,ss}", "request", (const char *)pem.data, pem.len, "key", key_path), st);
	if (rc == STATUS_OK && (!cli->json || cli_has(cli, OPT_OUT)))
		rc = cli_write_output(cli, (struct slice){ .data = pem.data, .len = pem.len }, st);
	buffer_free(&pem);
	gnutls_x509_privkey_deinit(key);
	return rc;
}

static enum status_code load_key(const struct cli *cli, const char *path, struct status *st,
				 gnutls_x509_privkey_t *ret_key)
{
	const char *file = cli_value(cli, OPT_PASSPHRASE_FILE);
	char *passphrase = NULL;
	enum status_code rc = file ? passphrase_read(file, false, st, &passphrase) : STATUS_OK;
	if (rc == STATUS_OK && x509_key_load(path, passphrase, st, ret_key) != STATUS_OK)
		rc = cli_bad_input(st);
	passphrase_free(passphrase);
	return rc;
}

enum status_code cert_run_match(struct cli *cli, struct status *st)
{
	gnutls_x509_crt_t *list;
	gnutls_x509_privkey_t key = NULL;
	unsigned n;
	int match = 0;
	if (cert_read(cli->args[0], st, &list, &n) != STATUS_OK)
		return st->code;
	enum status_code rc = load_key(cli, cli->args[1], st, &key);
	if (rc == STATUS_OK) {
		rc = x509_key_matches(key, list[0], st, &match);
		gnutls_x509_privkey_deinit(key);
	}
	x509_list_free(list, n);
	if (rc != STATUS_OK)
		return rc;
	cli->no = !match;
	if (cli->json)
		return output_json(json_pack("{sb}", "match", match), st);
	printf("%s\n", match ? "yes: key and certificate belong together" : "no: the certificate is for another key");
	return STATUS_OK;
}

/* Due when a third of its life is left: two more tries a third of that later still find it valid. */
enum status_code cert_run_needs_renewal(struct cli *cli, struct status *st)
{
	gnutls_x509_crt_t *list = NULL;
	unsigned n = 0;
	uint64_t hours = 0;
	if (cli_number(cli, OPT_BEFORE, 1, 24 * 365, 0, st, &hours) != STATUS_OK ||
	    cert_read(cli->args[0], st, &list, &n) != STATUS_OK)
		return st->code;
	int64_t begin = gnutls_x509_crt_get_activation_time(list[0]),
		end = gnutls_x509_crt_get_expiration_time(list[0]);
	x509_list_free(list, n);
	int64_t before = hours ? (int64_t)hours * 3600 : (end - begin) / 3;
	bool due = (int64_t)(clock_unix_ms() / 1000) >= end - before;
	char at[OUTPUT_TIME_SIZE], until[OUTPUT_TIME_SIZE];
	output_time(end - before, at);
	output_time(end, until);
	cli->no = !due;
	if (cli->json)
		return output_json(json_pack("{sb,ss,ss}", "needsRenewal", due, "due", at, "notAfter", until), st);
	printf("%s: due from %s, valid until %s\n", due ? "yes" : "no", at, until);
	return STATUS_OK;
}
