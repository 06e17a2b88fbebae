#include "common/daemon/objects.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/message.h"

struct item {
	char *key;
	struct buffer packed;
	unsigned round; /* of the last confirmation */
};

struct objects {
	void *root; /* tsearch(3) */
	unsigned round;
};

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct item *)a)->key, ((const struct item *)b)->key);
}

static void item_free(void *p)
{
	struct item *e = p;
	if (!e)
		return;
	free(e->key);
	buffer_free(&e->packed);
	free(e);
}

static struct item *find(const struct objects *o, const char *key)
{
	const struct item wanted = { .key = (char *)key };
	struct item *const *node = tfind(&wanted, &o->root, compare);
	return node ? *node : NULL;
}

struct objects *objects_new(void)
{
	return calloc(1, sizeof(struct objects));
}

void objects_free(struct objects *o)
{
	if (!o)
		return;
	tdestroy(o->root, item_free);
	free(o);
}

static struct item *insert(struct objects *o, const char *key)
{
	struct item *e = calloc(1, sizeof *e);
	if (e)
		e->key = strdup(key);
	if (!e || !e->key || !tsearch(e, &o->root, compare)) {
		item_free(e);
		return NULL;
	}
	return e;
}

enum status_code objects_put(struct objects *o, const Kds__V1__Object *object, struct status *st, bool *ret_changed)
{
	struct buffer packed = { 0 };
	enum status_code rc = message_pack(&object->base, &packed, st);
	if (rc != STATUS_OK)
		return rc;
	struct item *e = find(o, object->key);
	if (!e)
		e = insert(o, object->key);
	if (!e) {
		buffer_free(&packed);
		return status_set(st, STATUS_RESOURCE_EXHAUSTED, "keep %s: out of memory", object->key);
	}
	e->round = o->round;
	*ret_changed = packed.len != e->packed.len || memcmp(packed.data, e->packed.data, packed.len) != 0;
	buffer_free(&e->packed);
	e->packed = packed;
	return STATUS_OK;
}

bool objects_remove(struct objects *o, const char *key)
{
	struct item *e = find(o, key);
	if (!e)
		return false;
	tdelete(e, &o->root, compare);
	item_free(e);
	return true;
}

Kds__V1__Object *objects_get(const struct objects *o, const char *key)
{
	const struct item *e = find(o, key);
	return e ? kds__v1__object__unpack(NULL, e->packed.len, e->packed.data) : NULL;
}

struct walk {
	objects_each_fn each;
	void *arg;
	bool unconfirmed; /* only those not of this round */
	unsigned round;
};

static void visit(const void *node, VISIT which, void *closure)
{
	const struct walk *w = closure;
	const struct item *e = *(struct item *const *)node;
	if (which != postorder && which != leaf) /* so each once, in order */
		return;
	if (w->unconfirmed && e->round == w->round)
		return;
	w->each(w->arg, e->key, (struct slice){ e->packed.data, e->packed.len });
}

void objects_walk(const struct objects *o, objects_each_fn each, void *arg)
{
	struct walk w = { .each = each, .arg = arg };
	twalk_r(o->root, visit, &w);
}

void objects_suspect_all(struct objects *o)
{
	o->round++;
}

void objects_walk_unconfirmed(const struct objects *o, objects_each_fn each, void *arg)
{
	struct walk w = { .each = each, .arg = arg, .unconfirmed = true, .round = o->round };
	twalk_r(o->root, visit, &w);
}

struct search {
	unsigned round;
	struct item *found;
};

static void visit_to_find(const void *node, VISIT which, void *closure)
{
	struct search *s = closure;
	struct item *e = *(struct item *const *)node;
	if ((which == postorder || which == leaf) && e->round != s->round)
		s->found = e;
}

void objects_sweep(struct objects *o)
{
	/* One walk a removal: a tree does not bear to be changed during a walk, and few are ever swept. */
	struct search s;
	do {
		s = (struct search){ .round = o->round };
		twalk_r(o->root, visit_to_find, &s);
		if (s.found) {
			tdelete(s.found, &o->root, compare);
			item_free(s.found);
		}
	} while (s.found);
}
