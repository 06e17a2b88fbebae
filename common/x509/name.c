#include "common/x509/name.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

#define DNS_NAME_MAX 253
#define DNS_LABEL_MAX 63
#define GROUP_MAX 255
#define PRECISION_MAX_MS (7u * 24 * 3600 * 1000)

/* <ctype.h> follows the locale; names do not. */
static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_lower(char c)
{
	return c >= 'a' && c <= 'z';
}

static bool is_alpha(char c)
{
	return is_lower(c) || (c >= 'A' && c <= 'Z');
}

static bool is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* One label (RFC 1123 §2.1): letters, digits, hyphens inside. */
static bool label_ok(const char *label, size_t len)
{
	if (len == 0 || len > DNS_LABEL_MAX || label[0] == '-' || label[len - 1] == '-')
		return false;
	for (size_t i = 0; i < len; i++) {
		if (!is_lower(label[i]) && !is_digit(label[i]) && label[i] != '-')
			return false;
	}
	return true;
}

enum status_code x509_check_dns_name(const char *name, const char *what, struct status *st)
{
	size_t len = strnlen(name, DNS_NAME_MAX + 1);
	if (len == 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: empty; give a DNS name", what);
	if (len > DNS_NAME_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: longer than %d bytes", what, DNS_NAME_MAX);
	const char *label = name;
	for (;;) {
		size_t label_len = strcspn(label, ".");
		if (!label_ok(label, label_len))
			return status_set(st, STATUS_INVALID_ARGUMENT,
					  "%s: not a DNS name in lower case (letters, digits and hyphens between dots)",
					  what);
		if (label[label_len] == '\0')
			break;
		label += label_len + 1;
	}
	/* "10.0.0.1" is an address wherever a host name is read (RFC 1123 §2.1). */
	if (label[strspn(label, "0123456789")] == '\0')
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: the last label of a DNS name is not a number", what);
	return STATUS_OK;
}

enum status_code x509_parse_address(const char *text, struct status *st, uint8_t ret_bytes[16], unsigned *ret_len)
{
	uint8_t bytes[16];
	unsigned len = 0;
	if (inet_pton(AF_INET, text, bytes) == 1)
		len = 4;
	else if (inet_pton(AF_INET6, text, bytes) == 1)
		len = 16;
	else
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "not an IPv4 or IPv6 address; write it like 192.0.2.1 or 2001:db8::1");
	memcpy(ret_bytes, bytes, len);
	*ret_len = len;
	return STATUS_OK;
}

/* scheme ":" of RFC 3986 §3.1; its length without the colon, 0: none. */
static size_t scheme_length(const char *uri)
{
	if (!is_alpha(uri[0]))
		return 0;
	size_t len = 1;
	while (is_alpha(uri[len]) || is_digit(uri[len]) || (uri[len] != '\0' && strchr("+-.", uri[len])))
		len++;
	return uri[len] == ':' ? len : 0;
}

/* Every byte is one that RFC 3986 §2 lets stand in a URI; "#" is the caller's to look at. */
static bool characters_ok(const char *s)
{
	for (; *s; s++) {
		if (*s == '%') {
			if (!is_hex(s[1]) || !is_hex(s[2]))
				return false;
		} else if (!is_alpha(*s) && !is_digit(*s) && !strchr("-._~:/?#[]@!$&'()*+,;=", *s)) {
			return false;
		}
	}
	return true;
}

/* "10s" to 10000; 0: not one. */
static uint64_t parse_precision(const char *text)
{
	static const struct {
		const char *name;
		uint64_t ms;
	} units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { "d", 86400000 } };

	size_t digits = strspn(text, "0123456789");
	/* One spelling for each number; nine digits are enough for seven days in milliseconds. */
	if (digits == 0 || digits > 9 || text[0] == '0')
		return 0;
	uint64_t n = 0;
	for (size_t i = 0; i < digits; i++)
		n = n * 10 + (uint64_t)(text[i] - '0');
	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
		if (strcmp(text + digits, units[i].name) == 0)
			return n <= PRECISION_MAX_MS / units[i].ms ? n * units[i].ms : 0;
	}
	return 0;
}

enum status_code x509_parse_group(const char *uri, struct status *st, unsigned *ret_len, uint64_t *ret_precision_ms)
{
	size_t len = strnlen(uri, GROUP_MAX + 1);
	if (len > GROUP_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "group: longer than %d bytes", GROUP_MAX);
	if (!characters_ok(uri))
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "group: a character that may not stand in a URI; percent-encode it");
	size_t scheme = scheme_length(uri);
	size_t before_fragment = strcspn(uri, "#");
	if (scheme == 0 || before_fragment <= scheme + 1)
		return status_set(st, STATUS_INVALID_ARGUMENT,
				  "group: not an absolute URI; write it like urn:example:project or urn:example:project#10s");
	if (scheme == 3 && strncasecmp(uri, "kds", 3) == 0)
		return status_set(st, STATUS_INVALID_ARGUMENT, "group: the scheme \"kds\" is kept for roles; use another");
	uint64_t precision = 1;
	if (uri[before_fragment] == '#') {
		precision = parse_precision(uri + before_fragment + 1);
		if (precision == 0)
			return status_set(st, STATUS_INVALID_ARGUMENT,
					  "group: the part behind \"#\" is the nonce's precision, 1ms to 7d, like #10s");
	}
	if (ret_len)
		*ret_len = (unsigned)before_fragment;
	if (ret_precision_ms)
		*ret_precision_ms = precision;
	return STATUS_OK;
}

bool x509_group_matches(const char *uri, const char *group)
{
	size_t len = strcspn(uri, "#");
	return strlen(group) == len && memcmp(uri, group, len) == 0;
}
