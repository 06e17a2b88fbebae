/* The verbs of `cert`, by what they need. */
#ifndef CLI_CERT_H
#define CLI_CERT_H

#include <gnutls/x509.h>

#include "clients/cli/cli.h"

/* Every certificate of a file ("-": standard input), PEM or DER, at most 64; freed with x509_list_free(). */
enum status_code cert_read(const char *path, struct status *st, gnutls_x509_crt_t **ret_list,
			   unsigned *ret_n) MUST_CHECK;

/* The private key in a file, or a new one that is saved there. cert_local.c */
enum status_code cert_have_key(const struct cli *cli, const char *path, struct status *st,
			       gnutls_x509_privkey_t *ret_key) MUST_CHECK;

/* cert_local.c: files alone. */
enum status_code cert_run_request(struct cli *cli, struct status *st) MUST_CHECK;
enum status_code cert_run_needs_renewal(struct cli *cli, struct status *st) MUST_CHECK;
enum status_code cert_run_match(struct cli *cli, struct status *st) MUST_CHECK;
/* cert_show.c */
enum status_code cert_run_show(struct cli *cli, struct status *st) MUST_CHECK;
/* cert_verify.c */
enum status_code cert_run_verify(struct cli *cli, struct status *st) MUST_CHECK;
/* cert_sign.c: with the cluster. */
enum status_code cert_run_sign(struct cli *cli, struct status *st) MUST_CHECK;
enum status_code cert_run_list(struct cli *cli, struct status *st) MUST_CHECK;

#endif
