/*
 * Who may call what: every method of a server, for each kind of caller, in its own name and passed on by a replica, held
 * against a table that is written by hand. A row of a method table that changes, and a method that is new, is noticed.
 *
 * Callers are columns, by a letter:
 *
 *   s serial   c ca   k keydist   a admin   n node   l a KDS client   o a certificate without a role   - no certificate
 *
 * In a row the letter stands where the call is let through, '.' where it is PERMISSION_DENIED, and 'u' where it is
 * UNAVAILABLE: an administrator's write, which no replica passes on.
 */
#ifndef TESTS_MATRIX_H
#define TESTS_MATRIX_H

#include "common/rpc/server.h"

struct matrix_row {
	const char *method;
	const char *direct; /* "sckanlo-" */
	const char *passed; /* "sckanlo": by a replica that is a member */
};

struct matrix {
	const char *port; /* who is let in at the port at all: "sckanlo." */
	unsigned port_roles; /* what the daemon gives its listener; 0: whoever has a certificate */
	const struct matrix_row *rows; /* one for each method, in the order of rpc_server_each_method() */
	size_t n_rows;
	bool forwards; /* calls that members pass on are taken */
};

/* Ends the test where they differ. Puts a membership of its own in the server's. */
void matrix_check(struct rpc_server *server, const struct matrix *m);

#endif
