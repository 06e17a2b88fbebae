#include "tests/support/matrix.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/support.h"

static const struct {
	char letter;
	unsigned roles;
} callers[] = {
	{ 's', PEER_SERIAL }, { 'c', PEER_CA }, { 'k', PEER_KEYDIST },    { 'a', PEER_ADMIN },
	{ 'n', PEER_NODE },   { 'l', PEER_KDS_CLIENT }, { 'o', 0 }, { '-', 0 },
};
#define N_CALLERS (sizeof callers / sizeof *callers)
#define N_WITH_CERTIFICATE (N_CALLERS - 1)

static struct identity *make(unsigned roles, const char *name)
{
	struct identity *id = identity_new();
	assert_non_null(id);
	free(id->common_name);
	free(id->role_name);
	id->common_name = strdup(name);
	id->role_name = strdup(roles & PEER_SERVICES ? name : "");
	assert_true(id->common_name && id->role_name);
	id->roles = roles;
	id->infrastructure = roles & PEER_SERVICES;
	return id;
}

static bool is_member(void *arg, const struct identity *peer)
{
	(void)arg;
	return strcmp(peer->role_name, "member") == 0;
}

static char answer_of(const struct rpc_server *s, const char *method, const struct identity *peer,
		      const struct identity *behalf, char letter)
{
	struct status st;
	switch (rpc_server_judge(s, method, peer, behalf, &st)) {
	case STATUS_OK:
		return letter;
	case STATUS_PERMISSION_DENIED:
		return '.';
	case STATUS_UNAVAILABLE:
		return 'u';
	default:
		fail_msg("%s: %s", method, st.message);
		return '?';
	}
}

static void check_row(const struct rpc_server *s, const struct matrix_row *row)
{
	char direct[N_CALLERS + 1] = "", passed[N_WITH_CERTIFICATE + 1] = "";
	struct identity *member = make(PEER_SERIAL, "member");
	for (size_t i = 0; i < N_CALLERS; i++) {
		struct identity *id = callers[i].letter == '-' ? NULL : make(callers[i].roles, "caller");
		direct[i] = answer_of(s, row->method, id, NULL, callers[i].letter);
		if (id)
			passed[i] = answer_of(s, row->method, member, id, callers[i].letter);
		/* Nobody else passes anything on, in nobody's name: not a replica that is none any more, and not the caller
		 * itself in its own. */
		for (size_t j = 0; id && j < N_CALLERS; j++) {
			struct identity *behalf = make(callers[j].roles, "behalf");
			if (answer_of(s, row->method, id, behalf, '!') != '.')
				fail_msg("%s: '%c' passes on a call for '%c'", row->method, callers[i].letter,
					 callers[j].letter);
			identity_unref(behalf);
		}
		identity_unref(id);
	}
	identity_unref(member);
	if (strcmp(direct, row->direct) != 0 || strcmp(passed, row->passed) != 0)
		fail_msg("%s is for \"%s\", passed on for \"%s\"; expected is \"%s\", \"%s\"", row->method, direct,
			 passed, row->direct, row->passed);
}

struct walk {
	const struct matrix *matrix;
	size_t n;
};

static void check_listed(void *arg, const char *name)
{
	struct walk *w = arg;
	if (w->n >= w->matrix->n_rows || strcmp(w->matrix->rows[w->n].method, name) != 0)
		fail_msg("%s: the table has no row for it at this place (by length, then name)", name);
	w->n++;
}

/* As listener.h has it. */
static void check_port(const struct matrix *m)
{
	for (size_t i = 0; i < N_CALLERS; i++) {
		bool let_in = callers[i].letter != '-' && (m->port_roles == 0 || callers[i].roles & m->port_roles);
		if (m->port[i] != (let_in ? callers[i].letter : '.'))
			fail_msg("the port lets '%c' %s", callers[i].letter, let_in ? "in" : "stand outside");
	}
}

void matrix_check(struct rpc_server *server, const struct matrix *m)
{
	struct walk w = { .matrix = m };
	if (m->forwards)
		rpc_server_set_may_forward(server, is_member, NULL);
	check_port(m);
	rpc_server_each_method(server, check_listed, &w);
	assert_int_equal(w.n, m->n_rows);
	for (size_t i = 0; i < m->n_rows; i++)
		check_row(server, &m->rows[i]);
}
