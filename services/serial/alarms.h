/*
 * What is wrong in a view of the cluster, each with what to do about it (docs/operations.md has a section for each). A
 * pure function of the view: whoever may see the view sees the alarms.
 */
#ifndef SERIAL_ALARMS_H
#define SERIAL_ALARMS_H

#include <stdbool.h>

#include "common/base/status.h"
#include "serial.pb-c.h"

#define ALARM_CLOCK_MS 2000
#define ALARM_LAG_ENTRIES 10000 /* a busy cluster commits that in less than a second */
#define ALARM_FREE_BYTES ((uint64_t)1 << 30)
/* Below this share too, unless that is plenty. */
#define ALARM_FREE_PERCENT 10
#define ALARM_FREE_PLENTY ((uint64_t)20 << 30)

/* Fills view->alarms, which are freed with the view. False: no memory; what is there stays valid. */
bool alarms_add(Kds__V1__ViewResponse *view) MUST_CHECK;

#endif
