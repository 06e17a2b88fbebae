#include "services/serial/admission.h"

static struct admission_other *find(const struct admission *a, uint64_t id)
{
	for (size_t i = 0; i < a->n; i++)
		if (a->others[i].id == id)
			return (struct admission_other *)&a->others[i];
	return NULL;
}

void admission_init(struct admission *a, uint64_t self, uint64_t incarnation, const uint64_t *ids, size_t n)
{
	*a = (struct admission){ .incarnation = incarnation, .takes_part = n == 0 };
	for (size_t i = 0; i < n && a->n < ADMISSION_MAX; i++)
		if (ids[i] != self)
			a->others[a->n++].id = ids[i];
}

void admission_recall(struct admission *a, uint64_t id, uint64_t incarnation)
{
	struct admission_other *o = find(a, id);
	if (o)
		o->incarnation = incarnation;
}

bool admission_told(struct admission *a, uint64_t id, uint64_t incarnation, bool takes_part, uint64_t knows_us)
{
	if (knows_us != 0 && knows_us != a->incarnation && takes_part)
		return false;
	struct admission_other *o = find(a, id);
	if (a->takes_part || !o)
		return true;
	o->incarnation = incarnation;
	o->lets = !takes_part || knows_us == a->incarnation;
	return true;
}

bool admission_ready(const struct admission *a)
{
	for (size_t i = 0; i < a->n; i++)
		if (!a->others[i].lets || a->others[i].incarnation == 0)
			return false;
	return !a->takes_part;
}

uint64_t admission_record(const struct admission *a, uint64_t id)
{
	const struct admission_other *o = a->takes_part ? find(a, id) : NULL;
	return o ? o->incarnation : 0;
}
