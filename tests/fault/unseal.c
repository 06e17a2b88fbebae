/*
 * links: common_x509
 *
 * Opens what a daemon sealed, so that secrets.sh knows what to look for: unseal SEAL_FILE PURPOSE SEALED_BASE64 prints it in
 * hexadecimal.
 */
#include <stdio.h>
#include <string.h>

#include <gnutls/gnutls.h>

#include "common/x509/seal.h"

int main(int argc, char **argv)
{
	struct status st;
	struct seal *seal;
	struct buffer clear = { 0 };
	gnutls_datum_t sealed = { 0 };
	if (argc != 4) {
		fprintf(stderr, "usage: unseal SEAL_FILE PURPOSE SEALED_BASE64\n");
		return 2;
	}
	const gnutls_datum_t text = { (unsigned char *)argv[3], (unsigned)strlen(argv[3]) };
	if (gnutls_base64_decode2(&text, &sealed) < 0) {
		fprintf(stderr, "unseal: not base64\n");
		return 2;
	}
	if (seal_load(argv[1], &st, &seal) != STATUS_OK ||
	    seal_open(seal, argv[2], (struct slice){ sealed.data, sealed.size }, &st, &clear) != STATUS_OK) {
		fprintf(stderr, "unseal: %s\n", st.message);
		return 1;
	}
	for (size_t i = 0; i < clear.len; i++)
		printf("%02x", clear.data[i]);
	putchar('\n');
	buffer_wipe(&clear);
	seal_free(seal);
	gnutls_free(sealed.data);
	return 0;
}
