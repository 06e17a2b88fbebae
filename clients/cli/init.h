/* kds-cli init: what is made, and the two halves of making it. */
#ifndef CLI_INIT_H
#define CLI_INIT_H

#include <stdio.h>

#include "clients/cli/cli.h"
#include "clients/cli/host.h"
#include "clients/cli/pki.h"

#define INIT_REPLICAS_MAX 7 /* voters */
#define INIT_OTHERS_MAX 7   /* of each other kind */
#define INIT_SERVICES_MAX (INIT_REPLICAS_MAX + 2 * INIT_OTHERS_MAX)

/* For the tables of options. */
#define INIT_LISTEN_HELP "The address on which the daemons listen instead of their hosts' own, as 0.0.0.0 in a container"

enum init_kind { INIT_SERIAL, INIT_CA, INIT_KEYDIST, INIT_KINDS };

struct init_service {
	enum init_kind kind;
	unsigned id;   /* from 1, of its kind */
	char name[65]; /* "serial1": folder, and name in the role URI */
	struct host host;
};

struct init_plan {
	const char *cluster, *kds_name;
	char cluster_id[37];    /* UUID */
	const char *passphrase; /* of the infrastructure CA's key */
	bool keep_passphrase;   /* write it to admin/passphrase: we made it up */
	struct host listen;     /* where they all listen, without port; no name: each at its own host */
	struct init_service services[INIT_SERVICES_MAX];
	size_t n_services;
	const char *root; /* the directory that is being filled */
	/* For a cluster that begins with a backup. */
	const struct pki_authority *authority; /* the old one's, which goes on; NULL: a new one is made */
	const char *restore;                   /* file in each replica's folder that it begins with; NULL: none */
	/* For a kds-ca or kds-keydist that comes later: the sealing keys of those that are there, a file to copy; NULL: those of
	 * the first are made, the others get a copy. */
	const char *seal;
};

/* Adds the services of this kind, where the command's options or the defaults say. INVALID_ARGUMENT. */
enum status_code init_plan_kind(const struct cli *cli, enum init_kind kind, struct init_plan *plan,
				struct status *st) MUST_CHECK;
/* Where they listen, if the command says so (--listen). INVALID_ARGUMENT. */
enum status_code init_plan_listen(const struct cli *cli, struct init_plan *plan, struct status *st) MUST_CHECK;
/* INVALID_ARGUMENT: two of them would use one address. */
enum status_code init_check_addresses(const struct init_plan *plan, struct status *st) MUST_CHECK;
/*
 * Makes `dir` with keys, certificates and files as planned, and what `more` adds (NULL: nothing), whole or not at all.
 * ALREADY_EXISTS: it is there and not empty.
 */
typedef enum status_code (*init_more_fn)(const struct init_plan *plan, void *arg, struct status *st);
enum status_code init_make_directory(struct init_plan *plan, const char *dir, init_more_fn more, void *arg,
				     struct status *st) MUST_CHECK;

/* The same with what `fill` makes of it alone. */
enum status_code init_make_folder(struct init_plan *plan, const char *dir, init_more_fn fill, void *arg,
				  struct status *st) MUST_CHECK;

/* "serial", "ca", "keydist"; and where it listens unless told otherwise. */
const char *init_kind_name(enum init_kind kind);
unsigned init_kind_port(enum init_kind kind);

/* ROOT/FOLDER/FILE into buf. INVALID_ARGUMENT: too long. */
enum status_code init_path(const struct init_plan *plan, const char *folder, const char *file, struct status *st,
			   char *buf, size_t size) MUST_CHECK;

/* The infrastructure CA, its encrypted key, the certificate and key of each service and of the administrator
 * (init_pki.c). */
enum status_code init_make_pki(const struct init_plan *plan, struct status *st) MUST_CHECK;
/* Each configuration file, the sealing keys, the data directories (init_files.c). */
enum status_code init_make_files(const struct init_plan *plan, struct status *st) MUST_CHECK;

/* One service's configuration file, sealing keys and data directory, in ROOT/FOLDER. */
enum status_code init_make_service(const struct init_plan *plan, const struct init_service *s, const char *folder,
				   struct status *st) MUST_CHECK;
/* A key, a certificate for it, and beside them the CA's certificate, in ROOT/FOLDER: what one service needs. */
enum status_code init_issue(const struct init_plan *plan, const struct pki_authority *a, const struct init_service *s,
			    const char *folder, struct status *st) MUST_CHECK;

/* Where a replica that joins later finds the others, itself among them. */
struct init_neighbour {
	uint64_t id;
	const char *name, *address; /* where it listens for replicas */
};
/* Its configuration file. */
void init_put_joining(FILE *f, const struct init_plan *plan, const struct init_service *self,
		      const struct init_neighbour *replicas, size_t n_replicas);

#endif
