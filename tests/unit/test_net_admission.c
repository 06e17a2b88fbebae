// links: common_net common_x509 common_base
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/net/admission.h"

/* Advances with each stranger: they come slowly, unless a test says otherwise. */
static uint64_t now, pace;

static int slowly(void **state)
{
	(void)state;
	now = 1000000;
	pace = 1000;
	return 0;
}

static void v4(uint32_t n, uint8_t ret_host[16])
{
	memset(ret_host, 0, 16);
	ret_host[10] = ret_host[11] = 0xff;
	for (int i = 0; i < 4; i++)
		ret_host[12 + i] = (uint8_t)(n >> (24 - 8 * i));
}

static struct slots *slots_of(struct slot_limits limits)
{
	struct slots *s = slots_new(&limits, 7);
	assert_non_null(s);
	return s;
}

/* Who had to go. */
static struct slot *enter(struct slots *s, struct slot *slot, uint32_t address)
{
	uint8_t host[16];
	struct slot *victim = NULL;
	v4(address, host);
	now += pace;
	*slot = (struct slot){ 0 };
	assert_true(slots_enter(s, slot, host, now, &victim));
	assert_int_equal(slot->state, SLOT_SILENT);
	if (victim)
		assert_int_equal(victim->state, SLOT_NONE);
	return victim;
}

static struct identity *identity(unsigned roles, const char *name, const char *issuer)
{
	struct identity *id = identity_new();
	assert_non_null(id);
	free(id->common_name);
	free(id->role_name);
	id->common_name = strdup(name);
	id->role_name = strdup(name);
	id->roles = roles;
	id->issuer_key_id_len = strlen(issuer);
	memcpy(id->issuer_key_id, issuer, id->issuer_key_id_len);
	return id;
}

static enum slot_verdict authenticate_as(struct slots *s, struct slot *slot, const struct identity *id)
{
	uint8_t host[16];
	v4(1, host);
	(void)enter(s, slot, 1);
	return slots_authenticated(s, slot, id, host);
}

static enum slot_verdict authenticate(struct slots *s, struct slot *slot, unsigned roles, const char *name)
{
	struct identity *id = identity(roles, name, "issuer");
	enum slot_verdict verdict = authenticate_as(s, slot, id);
	identity_unref(id);
	return verdict;
}

static void leave_all(struct slots *s, struct slot *slots, size_t n)
{
	for (size_t i = 0; i < n; i++)
		slots_leave(s, &slots[i]);
	assert_int_equal(slots_count(s).strangers, 0);
	assert_int_equal(slots_count(s).authenticated, 0);
	slots_free(s);
}

static void test_net_admission_oldest_of_an_address_goes(void **state)
{
	(void)state;
	struct slots *s = slots_of((struct slot_limits){ .max_strangers = 100, .max_strangers_address = 3 });
	struct slot slots[6];
	for (int i = 0; i < 3; i++)
		assert_null(enter(s, &slots[i], 1));
	assert_null(enter(s, &slots[3], 2)); /* another address has places of its own */
	assert_ptr_equal(enter(s, &slots[4], 1), &slots[0]);
	assert_ptr_equal(enter(s, &slots[5], 1), &slots[1]);
	assert_int_equal(slots_count(s).strangers, 4);
	leave_all(s, slots, 6);
}

/* Whoever floods from one address displaces himself, not who came from another, however long ago. */
static void test_net_admission_largest_address_goes(void **state)
{
	(void)state;
	struct slots *s = slots_of((struct slot_limits){ .max_strangers = 8, .max_strangers_address = 8 });
	struct slot honest, flood[100];
	assert_null(enter(s, &honest, 7));
	for (int i = 0; i < 7; i++)
		assert_null(enter(s, &flood[i], 1));
	for (int i = 7; i < 100; i++)
		assert_ptr_equal(enter(s, &flood[i], 1), &flood[i - 7]);
	assert_int_equal(honest.state, SLOT_SILENT);
	/* And from many addresses: the one that was there first. */
	slots_leave(s, &honest);
	for (int i = 0; i < 100; i++)
		slots_leave(s, &flood[i]);
	struct slot many[20];
	for (uint32_t i = 0; i < 20; i++)
		assert_ptr_equal(enter(s, &many[i], i), i < 8 ? NULL : &many[i - 8]);
	leave_all(s, many, 20);
}

/* An IPv6 host has 2^64 addresses; an IPv4 one has one. */
static void test_net_admission_networks(void **state)
{
	(void)state;
	struct slots *s = slots_of((struct slot_limits){ .max_strangers = 100, .max_strangers_address = 1 });
	struct slot slots[4], *victim;
	memset(slots, 0, sizeof slots);
	uint8_t host[16] = { 0x20, 0x01, 0x0d, 0xb8 };
	assert_true(slots_enter(s, &slots[0], host, now, &victim));
	assert_null(victim);
	host[15] = 9;
	assert_true(slots_enter(s, &slots[1], host, now, &victim));
	assert_ptr_equal(victim, &slots[0]);
	host[7] = 9;
	assert_true(slots_enter(s, &slots[2], host, now, &victim));
	assert_null(victim);
	memset(host, 0, sizeof host); /* ::1 and the like are not the mapped addresses */
	assert_true(slots_enter(s, &slots[3], host, now, &victim));
	assert_null(victim);
	leave_all(s, slots, 4);
}

/* One that speaks TLS and needs some round trips, among any number that only connect, all from one address. */
static void test_net_admission_silent_flood_displaces_nobody_who_speaks(void **state)
{
	(void)state;
	struct slots *s = slots_of((struct slot_limits){ .max_strangers = 64, .max_strangers_address = 64 });
	struct slot honest, *flood = calloc(10000, sizeof *flood);
	assert_non_null(flood);
	for (int i = 0; i < 100; i++)
		(void)enter(s, &flood[i], 1);
	assert_non_null(enter(s, &honest, 1));
	slots_spoke(s, &honest, now);
	for (int i = 100; i < 10000; i++)
		assert_ptr_not_equal(enter(s, &flood[i], 1), &honest);
	assert_int_equal(honest.state, SLOT_SPOKE);
	struct identity *id = identity(PEER_SERIAL, "serial2", "issuer");
	uint8_t host[16];
	v4(1, host);
	assert_int_equal(slots_authenticated(s, &honest, id, host), SLOT_ADMITTED);
	identity_unref(id);
	slots_leave(s, &honest);
	leave_all(s, flood, 10000);
	free(flood);
}

/* The same from so many addresses that each has one: those of an IPv6 /48, say. */
static void test_net_admission_silent_flood_from_everywhere(void **state)
{
	(void)state;
	struct slots *s = slots_of((struct slot_limits){ .max_strangers = 64, .max_strangers_address = 64 });
	struct slot honest, *flood = calloc(1000, sizeof *flood);
	assert_non_null(flood);
	assert_null(enter(s, &honest, 7));
	slots_spoke(s, &honest, now);
	for (uint32_t i = 0; i < 1000; i++)
		assert_ptr_not_equal(enter(s, &flood[i], 1000 + i), &honest);
	slots_leave(s, &honest);
	leave_all(s, flood, 1000);
	free(flood);
}

/* Those that begin TLS and stop keep no newcomer out either, and newcomers alone do not displace each other at once. */
static void test_net_admission_stalled_handshakes_make_room(void **state)
{
	(void)state;
	struct slots *s = slots_of((struct slot_limits){ .max_strangers = 8, .max_strangers_address = 8 });
	struct slot stalled[8], fresh[3];
	for (int i = 0; i < 8; i++) {
		assert_null(enter(s, &stalled[i], 1));
		slots_spoke(s, &stalled[i], now);
	}
	assert_ptr_equal(enter(s, &fresh[0], 1), &stalled[0]);
	assert_ptr_equal(enter(s, &fresh[1], 1), &stalled[1]);
	assert_ptr_equal(enter(s, &fresh[2], 1), &fresh[0]); /* a quarter says nothing: theirs is the place */
	for (int i = 0; i < 3; i++)
		slots_leave(s, &fresh[i]);
	leave_all(s, stalled, 8);
}

/* Of an honest one, and as many others as there are places until it speaks: 1/e survive, or nobody if the oldest went. */
static void fast_flood(uint32_t addresses)
{
	enum { TRIES = 1000, PLACES = 64 };
	struct slots *s = slots_of((struct slot_limits){ .max_strangers = PLACES, .max_strangers_address = PLACES });
	struct slot *slots = calloc(TRIES * PLACES, sizeof *slots);
	assert_non_null(slots);
	unsigned survived = 0;
	uint32_t n = 0;
	pace = 0;
	for (int i = 0; i < PLACES; i++)
		assert_null(enter(s, &slots[i], n++ % addresses));
	for (int try = 1; try < TRIES; try++) {
		struct slot *honest = &slots[try * PLACES];
		for (int i = 0; i < PLACES; i++)
			assert_non_null(enter(s, &honest[i], n++ % addresses));
		survived += honest->state != SLOT_NONE;
	}
	assert_in_range(survived, TRIES / 4, TRIES / 2);
	leave_all(s, slots, TRIES * PLACES);
	free(slots);
}

/* Many in each millisecond: nobody's place is certain, and nobody's loss either, be they from its own address or each from
 * another. */
static void test_net_admission_fast_flood_leaves_a_chance(void **state)
{
	(void)state;
	fast_flood(1);
	fast_flood(UINT32_MAX);
}

static void test_net_admission_per_identity(void **state)
{
	(void)state;
	const struct slot_limits limits = { .max_connections = 100, .max_per_node = 2, .max_per_service = 3 };
	struct slots *s = slots_of(limits);
	struct slot slots[32];
	size_t n = 0;
	memset(slots, 0, sizeof slots);
	for (int i = 0; i < 2; i++)
		assert_int_equal(authenticate(s, &slots[n++], i ? PEER_NODE : PEER_KDS_CLIENT, "n1"), SLOT_ADMITTED);
	assert_int_equal(authenticate(s, &slots[n++], PEER_NODE, "n1"), SLOT_FULL_IDENTITY);
	assert_int_equal(authenticate(s, &slots[n++], PEER_NODE, "n2"), SLOT_ADMITTED);
	for (int i = 0; i < 3; i++)
		assert_int_equal(authenticate(s, &slots[n++], PEER_CA, "n1"), SLOT_ADMITTED); /* a name is not a kind */
	assert_int_equal(authenticate(s, &slots[n++], PEER_CA, "n1"), SLOT_FULL_IDENTITY);
	/* Another CA's n1 is another. */
	struct identity *other = identity(PEER_NODE, "n1", "other");
	assert_int_equal(authenticate_as(s, &slots[n++], other), SLOT_ADMITTED);
	identity_unref(other);
	assert_int_equal(slots_count(s).authenticated, 7);
	slots_leave(s, &slots[0]);
	assert_int_equal(authenticate(s, &slots[n++], PEER_NODE, "n1"), SLOT_ADMITTED);
	leave_all(s, slots, n);
}

/* Who has no certificate is counted by where it comes from, for good. */
static void test_net_admission_anonymous(void **state)
{
	(void)state;
	struct slots *s = slots_of((struct slot_limits){ .max_per_node = 2 });
	struct slot slots[5];
	uint8_t host[16];
	for (uint32_t i = 0; i < 5; i++) {
		v4(i / 3, host);
		(void)enter(s, &slots[i], i / 3);
		assert_int_equal(slots_authenticated(s, &slots[i], NULL, host), i == 2 ? SLOT_FULL_IDENTITY : SLOT_ADMITTED);
	}
	leave_all(s, slots, 5);
}

/* Nodes fill their part, and services and the administrator still come in; then services theirs. */
static void test_net_admission_reserve(void **state)
{
	(void)state;
	struct slots *s = slots_of((struct slot_limits){ .max_connections = 32, .max_per_node = 1, .max_per_service = 100 });
	struct slot slots[100];
	char name[16];
	size_t n = 0;
	unsigned nodes = 0, services = 0, admins = 0;
	for (; n < 50; n++) {
		snprintf(name, sizeof name, "n%zu", n);
		nodes += authenticate(s, &slots[n], PEER_NODE, name) == SLOT_ADMITTED;
	}
	assert_int_equal(nodes, 24);
	for (; n < 60; n++)
		services += authenticate(s, &slots[n], PEER_SERIAL, "serial1") == SLOT_ADMITTED;
	assert_int_equal(services, 6);
	for (; n < 70; n++)
		admins += authenticate(s, &slots[n], PEER_ADMIN, "admin") == SLOT_ADMITTED;
	assert_int_equal(admins, 2);
	slots_leave(s, &slots[0]);
	assert_int_equal(authenticate(s, &slots[n++], PEER_NODE, "another"), SLOT_ADMITTED);
	leave_all(s, slots, n);
}

static void test_net_admission_displaced_before_it_was_authenticated(void **state)
{
	(void)state;
	struct slots *s = slots_of((struct slot_limits){ .max_strangers = 1 });
	struct slot slots[2];
	uint8_t host[16];
	v4(1, host);
	assert_null(enter(s, &slots[0], 1));
	assert_ptr_equal(enter(s, &slots[1], 1), &slots[0]);
	assert_int_equal(slots_authenticated(s, &slots[0], NULL, host), SLOT_FULL);
	slots_spoke(s, &slots[0], now);
	assert_int_equal(slots[0].state, SLOT_NONE);
	leave_all(s, slots, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_net_admission_oldest_of_an_address_goes, slowly),
		cmocka_unit_test_setup(test_net_admission_largest_address_goes, slowly),
		cmocka_unit_test_setup(test_net_admission_networks, slowly),
		cmocka_unit_test_setup(test_net_admission_silent_flood_displaces_nobody_who_speaks, slowly),
		cmocka_unit_test_setup(test_net_admission_silent_flood_from_everywhere, slowly),
		cmocka_unit_test_setup(test_net_admission_stalled_handshakes_make_room, slowly),
		cmocka_unit_test_setup(test_net_admission_fast_flood_leaves_a_chance, slowly),
		cmocka_unit_test_setup(test_net_admission_per_identity, slowly),
		cmocka_unit_test_setup(test_net_admission_anonymous, slowly),
		cmocka_unit_test_setup(test_net_admission_reserve, slowly),
		cmocka_unit_test_setup(test_net_admission_displaced_before_it_was_authenticated, slowly),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
