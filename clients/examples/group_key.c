/*
 * A group's key with libkds. Sender and receiver:
 *
 *     group_key create urn:example:prjA      prints the ident, which the sender sends along, and the key
 *     group_key restore IDENT                prints the same key, if the certificate names the group
 *
 * A third and fourth argument are certificate and key files of the key distribution client, where they are not those of
 * the configuration file ($KDS_CONFIG, ~/.config/kds/cli.conf, /etc/kds/cli.conf). A real program keeps the key to itself.
 *
 * Build: cc group_key.c $(pkg-config --cflags --libs libkds)
 */
#include <stdio.h>
#include <string.h>

#include <kds/kds.h>

static void print_hex(const char *name, const uint8_t *bytes, size_t len)
{
	printf("%s ", name);
	for (size_t i = 0; i < len; i++)
		printf("%02x", bytes[i]);
	printf("\n");
}

/* Returns the length; 0: not hex, or too long. */
static size_t parse_hex(const char *text, uint8_t *bytes, size_t max)
{
	size_t n = strlen(text) / 2;
	if (strlen(text) % 2 != 0 || n > max)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (sscanf(text + 2 * i, "%2hhx", &bytes[i]) != 1)
			return 0;
	return n;
}

int main(int argc, char **argv)
{
	if ((argc != 3 && argc != 5) || (strcmp(argv[1], "create") != 0 && strcmp(argv[1], "restore") != 0)) {
		fprintf(stderr, "usage: %s create URI|restore IDENT [CERTIFICATE KEY]\n", argv[0]);
		return 2;
	}
	struct kds_options options = { 0 };
	if (argc == 5) {
		options.certificate_file = argv[3];
		options.key_file = argv[4];
	}
	struct kds_error error;
	struct kds_key key;
	kds_allocator *allocator = NULL;
	int rc = kds_allocator_new(&options, &allocator, &error);
	if (rc == KDS_OK && strcmp(argv[1], "create") == 0) {
		rc = kds_key_create(allocator, argv[2], &key, &error);
	} else if (rc == KDS_OK) {
		uint8_t ident[KDS_IDENT_MAX];
		rc = kds_key_restore(allocator, ident, parse_hex(argv[2], ident, sizeof ident), &key, &error);
	}
	kds_allocator_free(allocator);
	if (rc != KDS_OK) {
		fprintf(stderr, "%s: %s\n", argv[0], error.message);
		return 1;
	}
	print_hex("ident", key.ident, key.ident_len);
	print_hex("key", key.key, key.key_len);
	kds_key_wipe(&key);
	return 0;
}
