/* Certificates with a key that costs: nothing may be computed with it before a known CA vouches for it. */
#include <stdio.h>

#include "tests/fault/hostile/hostile.h"
#include "tests/support/huge_key.h"

#define TLS12 "NORMAL:-VERS-ALL:+VERS-TLS1.2"
#define CPU_MAX_MS 50 /* of the daemon's, a handshake, with what the good clients take meanwhile */

static gnutls_certificate_credentials_t chains[HUGE_CHAINS];
static const char *const chain_names[HUGE_CHAINS] = { "leaf", "leaf and issuer", "issuer" };

/* Variants: each chain in each version. */
#define VARIANTS (2 * HUGE_CHAINS)

static bool present_huge(unsigned i, const char **why)
{
	struct sp_client c;
	*why = "cannot connect";
	bool ok = connect_from(&c, i);
	if (ok && sp_tls_begin(&c, chains[i % HUGE_CHAINS], i / HUGE_CHAINS % 2 ? TLS12 : NULL) && sp_tls_finish(&c) &&
	    say_hello(&c)) {
		*why = "was let in";
		ok = false;
	}
	sp_close(&c, true);
	return ok;
}

/* One of each first: where it costs seconds, hundreds would take hours. */
static bool one_each(char *seen, size_t size)
{
	unsigned long worst = 0;
	bool ok = true;
	for (unsigned i = 0; i < VARIANTS; i++) {
		const char *why;
		unsigned long before = cpu_ms(), signed_before = huge_key_signed();
		if (!present_huge(i, &why))
			return complain("huge key: %s", why);
		if (huge_key_signed() == signed_before && !(target.port == PORT_PEER && i >= HUGE_CHAINS))
			return complain("huge key (%s): the handshake did not get as far as the key", chain_names[i % HUGE_CHAINS]);
		wait_calm();
		unsigned long used = cpu_ms() - before;
		worst = used > worst ? used : worst;
		if (used > 20UL * CPU_MAX_MS * target.patience)
			ok = complain("huge key (%s, TLS 1.%u): one handshake took the daemon %lu ms of CPU",
				      chain_names[i % HUGE_CHAINS], i / HUGE_CHAINS % 2 ? 2 : 3, used);
	}
	snprintf(seen, size, "dearest first %lu ms of CPU", worst);
	return ok;
}

static bool huge_keys(unsigned count, char *seen, size_t size)
{
	if (!chains[0])
		for (unsigned i = 0; i < HUGE_CHAINS; i++)
			chains[i] = huge_key_credentials(target.ca, (enum huge_key_chain)i);
	if (!one_each(seen, size))
		return false;
	unsigned long before = cpu_ms();
	if (!run_lanes("huge key", present_huge, count, LANES))
		return false;
	wait_calm();
	unsigned long each = (cpu_ms() - before) / count;
	snprintf(seen, size, "%lu ms of CPU each", each);
	return each <= CPU_MAX_MS * target.patience || complain("huge key: a handshake takes the daemon %lu ms of CPU", each);
}

const struct kind keys[] = {
	{ .name = "RSA key of 49,152 bits", .ports = PORT_ANY, .all = huge_keys },
	{ 0 },
};
