/* What client.c (who asks whom, and when), op.c (what is asked, what an answer must be like) and objects.c (likewise for
 * configuration objects) share. */
#ifndef SIMULATION_CLIENT_INTERNAL_H
#define SIMULATION_CLIENT_INTERNAL_H

#include "tests/fault/simulation/node.h"

#define KEYS 4 /* settings that clients write */
#define ASKED 40 /* request ids that records are made for */

enum op_kind { OP_ALLOCATE, OP_RECORD, OP_SET_MIN, OP_PUT, OP_DELETE, OP_RAISE, OP_READ };

/* The highest that any answer has shown. */
struct numbers_seen {
	uint64_t last_serial, min_serial, revision;
	uint64_t keys[KEYS]; /* revisions */
	bool deleted[KEYS];  /* by that one */
	bool raised;         /* the level of commands (services/serial/level.h) */
};

struct serial_range {
	uint64_t first, last;
	unsigned client;
};

/* A put or a deletion that was done. */
struct change {
	unsigned key;
	bool deleted;
	uint64_t expected; /* revision that was compared; UINT64_MAX: none */
	uint64_t revision;
};

struct known {
	struct numbers_seen seen;
	struct serial_range *ranges; /* that were handed out */
	size_t n_ranges, cap_ranges;
	struct change *changes;
	size_t n_changes, cap_changes;
	bool asked[ASKED]; /* has a record that does not expire */
	uint64_t *recorded; /* serials with a record that does not expire */
	size_t n_recorded, cap_recorded;
};

struct op {
	enum op_kind kind;
	uint64_t number;
	unsigned key;
	uint32_t count;            /* serials asked for */
	uint64_t min_serial;       /* asked for; 0: latest or all */
	uint64_t serial;           /* recorded */
	bool expires;              /* that record, soon */
	unsigned asked;            /* the request id that it is made for, from 1; 0: none */
	bool check;                /* compare and set */
	uint64_t expected;         /* revision; 0: there is none */
	unsigned client;
	struct numbers_seen begun; /* what was known when it was first sent */
	struct buffer command;     /* packed */
	bool answered;
	uint64_t answered_ms;
	enum status_code code;
	char message[STATUS_MESSAGE_MAX];
	struct buffer answer;
};

struct op *op_new(struct sim *s, const struct known *known, uint64_t number, unsigned client);
void op_free(struct op *op);
/* The first answer: takes note of it. */
void op_check_answer(struct sim *s, struct known *known, struct op *op, const struct state_result *r);
void op_check_same(struct sim *s, const struct op *op, const struct state_result *r);
void op_check_read(struct sim *s, struct known *known, const struct op *op, struct state *state);
void ops_check_end(struct sim *s, const struct known *known, struct op *const *ops, size_t n, unsigned index);

/* For both */
void op_pack(struct sim *s, struct op *op, Kds__V1__Command *command);
void op_raise(uint64_t *number, uint64_t seen);
/* A value that an answer shows, against what was known when the request began. */
void op_check_number(struct sim *s, const struct op *op, const char *what, uint64_t value, uint64_t known);

/* objects.c */
void op_make_put(struct sim *s, struct op *op);
void op_make_delete(struct sim *s, struct op *op);
void op_take_put(struct sim *s, struct known *known, struct op *op, struct slice answer);
void op_take_delete(struct sim *s, struct known *known, struct op *op, struct slice answer);
/* A read of the operation's key: the object and its history fit each other and what was known. */
void op_check_object(struct sim *s, struct known *known, const struct op *op, struct state *state);
/* In the end the history holds the changes that were answered, no others, and each found what it had compared. */
void op_check_history(struct sim *s, const struct known *known, unsigned key, struct state *state);
void known_fini(struct known *known);

#endif
