#include "clients/cli/host.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/x509/name.h"

#define PORT_MAX 65534 /* a replica's peers use the port behind its own */

static enum status_code parse_port(const char *text, size_t len, const char *what, struct status *st,
				   unsigned *ret_port)
{
	unsigned port = 0;
	for (size_t i = 0; i < len && i < 6; i++)
		port = text[i] >= '0' && text[i] <= '9' ? port * 10 + (unsigned)(text[i] - '0') : PORT_MAX + 1;
	if (len == 0 || len > 5 || port == 0 || port > PORT_MAX)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: port '%.*s': give 1 to %d", what, (int)len, text,
				  PORT_MAX);
	*ret_port = port;
	return STATUS_OK;
}

/* Where the name ends and, behind a colon, the port begins; *ret_port NULL: none. */
static void split(const char *text, size_t len, const char **ret_name, size_t *ret_name_len, const char **ret_port)
{
	const char *end = text + len;
	const char *colon = memchr(text, ':', len);
	*ret_name = text;
	*ret_name_len = len;
	*ret_port = NULL;
	if (len > 0 && text[0] == '[') {
		const char *close = memchr(text, ']', len);
		if (!close || (close + 1 < end && close[1] != ':'))
			return; /* the bracket in the name is refused later */
		*ret_name = text + 1;
		*ret_name_len = (size_t)(close - text) - 1;
		*ret_port = close + 1 < end ? close + 2 : NULL;
	} else if (colon && !memchr(colon + 1, ':', (size_t)(end - colon) - 1)) {
		*ret_name_len = (size_t)(colon - text);
		*ret_port = colon + 1;
	}
}

enum status_code host_parse(const char *text, size_t len, unsigned default_port, const char *what, struct status *st,
			    struct host *ret_host)
{
	const char *name, *port;
	size_t name_len;
	struct host h = { .port = default_port };
	uint8_t bytes[16];
	unsigned bytes_len;
	split(text, len, &name, &name_len, &port);
	if (name_len == 0 || name_len >= sizeof h.name)
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: '%.*s' names no host", what,
				  (int)(len < 64 ? len : 64), text);
	memcpy(h.name, name, name_len);
	if (port && parse_port(port, (size_t)(text + len - port), what, st, &h.port) != STATUS_OK)
		return st->code;
	h.numeric = x509_parse_address(h.name, NULL, bytes, &bytes_len) == STATUS_OK;
	if (!h.numeric && (strchr(h.name, ':') || name > text))
		return status_set(st, STATUS_INVALID_ARGUMENT, "%s: '%s' is no IPv6 address", what, h.name);
	if (!h.numeric && x509_check_dns_name(h.name, what, st) != STATUS_OK)
		return st->code;
	*ret_host = h;
	return STATUS_OK;
}

enum status_code host_parse_list(const char *text, unsigned default_port, const char *what, size_t max,
				 struct status *st, struct host *ret_hosts, size_t *ret_n)
{
	size_t n = 0;
	for (const char *p = text;; p++) {
		size_t len = strcspn(p, ",");
		if (n == max)
			return status_set(st, STATUS_INVALID_ARGUMENT, "%s: more than %zu hosts", what, max);
		if (host_parse(p, len, default_port, what, st, &ret_hosts[n]) != STATUS_OK)
			return st->code;
		n++;
		p += len;
		if (!*p)
			break;
	}
	*ret_n = n;
	return STATUS_OK;
}

const char *host_format(const struct host *h, unsigned port, char buf[HOST_TEXT_SIZE])
{
	snprintf(buf, HOST_TEXT_SIZE, strchr(h->name, ':') ? "[%s]:%u" : "%s:%u", h->name, port);
	return buf;
}
