#include "services/serial/integrity.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/log.h"

/* The first scan is to be over soon, later ones are to cost next to nothing: 1,000 rows take about a millisecond. */
#define SCAN_EVERY_MS 100
#define SCAN_FIRST_ROWS 1000
#define SCAN_LEAST_ROWS 16
#define SCAN_STEPS_AN_HOUR (3600 * 1000 / SCAN_EVERY_MS)
#define COMPARE_EVERY_MS 500

struct integrity {
	struct integrity_options options;
	uint64_t scan_due_ms, compare_due_ms;
	uint64_t scanned_ms;
	uint64_t applied; /* when it was last compared */
	uint64_t told_open; /* the index at which a difference was logged */
};

struct integrity *integrity_new(const struct integrity_options *options)
{
	struct integrity *i = calloc(1, sizeof *i);
	if (i)
		i->options = *options;
	return i;
}

void integrity_free(struct integrity *i)
{
	free(i);
}

uint64_t integrity_scanned_ms(const struct integrity *i)
{
	return i->scanned_ms;
}

static void scan(struct integrity *i)
{
	struct status st;
	bool done = false;
	Kds__V1__SerialStatus serials;
	state_serial_status(i->options.state, &serials);
	uint64_t rows = i->scanned_ms == 0 ? SCAN_FIRST_ROWS : SCAN_LEAST_ROWS + serials.issued / SCAN_STEPS_AN_HOUR;
	enum status_code rc = state_scan_digest(i->options.state, (unsigned)rows, &st, &done);
	if (rc == STATUS_DATA_LOSS)
		store_condemn(i->options.store, st.message);
	if (rc != STATUS_OK)
		store_fatal(i->options.store, st.message);
	if (done)
		i->scanned_ms = clock_unix_ms();
}

static void compare(struct integrity *i)
{
	struct replica *r = i->options.replica;
	Kds__V1__ReplicaStatus status = KDS__V1__REPLICA_STATUS__INIT;
	struct agreement_report reports[VIEW_MEMBERS_MAX];
	uint64_t index = 0, other = 0;
	char why[160];
	replica_status(r, &status);
	/* Where it stands still, others do, too. */
	if (status.applied_index == i->applied)
		replica_sample(r);
	i->applied = status.applied_index;
	size_t n = view_reports(i->options.view, reports);
	switch (agreement_judge(replica_samples(r), replica_leads(r), status.leader_id, replica_is_voter(r, status.id),
				reports, n, &index, &other)) {
	case AGREEMENT_WRONG:
		snprintf(why, sizeof why,
			 "its state behind entry %" PRIu64 " of the log differs from that of replica %" PRIu64
			 ", which most voters agree with (or which leads the only other voter)",
			 index, other);
		store_condemn(i->options.store, why);
	case AGREEMENT_OPEN:
		if (i->told_open != index)
			log_error("the states of this replica and replica %" PRIu64 " differ behind entry %" PRIu64
				  " of the log, and no majority of the voters says who is wrong: see `kds-cli cluster view`",
				  other, index);
		i->told_open = index;
		break;
	case AGREEMENT_NONE_DIFFERS:
		break;
	}
}

uint64_t integrity_turn(struct integrity *i, uint64_t now_ms)
{
	if (i->scan_due_ms <= now_ms) {
		scan(i);
		i->scan_due_ms = now_ms + SCAN_EVERY_MS;
	}
	if (i->compare_due_ms <= now_ms) {
		compare(i);
		i->compare_due_ms = now_ms + COMPARE_EVERY_MS;
	}
	return i->scan_due_ms < i->compare_due_ms ? i->scan_due_ms : i->compare_due_ms;
}
