#include "services/serial/agreement.h"

#include <string.h>

/* By how rare they are; the last is for wherever a replica stands still. */
static const uint64_t steps[AGREEMENT_TOLD] = { 262144, 16384, 1024, 1 };

bool agreement_due(uint64_t index)
{
	return index % steps[AGREEMENT_TOLD - 2] == 0;
}

void agreement_keep(struct agreement_samples *s, const struct agreement_sample *sample)
{
	if (agreement_find(s, sample->index))
		return;
	for (unsigned i = 0; i < AGREEMENT_TOLD; i++)
		if (sample->index % steps[i] == 0)
			s->kept[i][s->next[i]++ % AGREEMENT_KEPT] = *sample;
}

const struct agreement_sample *agreement_find(const struct agreement_samples *s, uint64_t index)
{
	for (unsigned i = 0; i < AGREEMENT_TOLD; i++)
		for (unsigned k = 0; k < AGREEMENT_KEPT; k++)
			if (s->kept[i][k].index == index && index != 0)
				return &s->kept[i][k];
	return NULL;
}

size_t agreement_tell(const struct agreement_samples *s, const struct agreement_sample *ret_told[AGREEMENT_TOLD])
{
	size_t n = 0;
	for (unsigned i = 0; i < AGREEMENT_TOLD; i++) {
		const struct agreement_sample *newest = &s->kept[i][(s->next[i] - 1) % AGREEMENT_KEPT];
		if (s->next[i] > 0 && (n == 0 || ret_told[n - 1]->index != newest->index))
			ret_told[n++] = newest;
	}
	return n;
}

static bool equal(const struct agreement_sample *a, const struct agreement_sample *b)
{
	return a->index == b->index && memcmp(a->digest, b->digest, sizeof a->digest) == 0;
}

/* Voters that told this very sample. */
static size_t count_voters(const struct agreement_report *reports, size_t n, const struct agreement_sample *sample)
{
	size_t voters = 0;
	for (size_t i = 0; i < n; i++) {
		bool told = false;
		for (size_t k = 0; k < reports[i].n; k++)
			told = told || equal(&reports[i].samples[k], sample);
		voters += reports[i].voter && told;
	}
	return voters;
}

enum agreement agreement_judge(const struct agreement_samples *own, bool leads, uint64_t leader, bool voter,
			       const struct agreement_report *reports, size_t n, uint64_t *ret_index, uint64_t *ret_other)
{
	enum agreement verdict = AGREEMENT_NONE_DIFFERS;
	size_t voters = voter;
	for (size_t i = 0; i < n; i++)
		voters += reports[i].voter;
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; k < reports[i].n; k++) {
			const struct agreement_sample *theirs = &reports[i].samples[k];
			const struct agreement_sample *ours = agreement_find(own, theirs->index);
			if (!ours || equal(ours, theirs) || verdict == AGREEMENT_WRONG)
				continue;
			bool majority = count_voters(reports, n, theirs) > voters / 2;
			bool follower = voters == 2 && !leads && reports[i].id == leader;
			verdict = majority || follower ? AGREEMENT_WRONG : AGREEMENT_OPEN;
			*ret_index = theirs->index;
			*ret_other = reports[i].id;
		}
	}
	return verdict;
}
