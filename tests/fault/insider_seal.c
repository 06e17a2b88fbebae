/*
 * links: common_x509 common_base
 *
 * What the holder of a sealing key can do without a daemon: seal, and open what is sealed.
 *
 *   insider_seal close|open SEAL_FILE PURPOSE      standard input to standard output; status 1: it cannot be opened
 */
#include <stdio.h>
#include <string.h>

#include "common/x509/seal.h"

#define INPUT_MAX ((size_t)64 << 10)

int main(int argc, char **argv)
{
	if (argc != 4 || (strcmp(argv[1], "close") != 0 && strcmp(argv[1], "open") != 0)) {
		fprintf(stderr, "usage: insider_seal close|open SEAL_FILE PURPOSE\n");
		return 2;
	}
	static uint8_t input[INPUT_MAX];
	const struct slice in = { input, fread(input, 1, sizeof input, stdin) };
	struct seal *seal = NULL;
	struct buffer out = { 0 };
	struct status st;
	enum status_code rc = seal_load(argv[2], &st, &seal);
	if (rc == STATUS_OK && argv[1][0] == 'c')
		rc = seal_close(seal, argv[3], in, &st, &out);
	else if (rc == STATUS_OK)
		rc = seal_open(seal, argv[3], in, &st, &out);
	if (rc == STATUS_OK)
		fwrite(out.data, 1, out.len, stdout);
	else
		fprintf(stderr, "insider_seal: %s\n", st.message);
	buffer_wipe(&out);
	seal_free(seal);
	return rc == STATUS_OK ? 0 : 1;
}
