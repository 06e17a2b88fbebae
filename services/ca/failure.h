/* What it means for whoever asked this kds-ca that kds-serial failed it, or refused a record. */
#ifndef CA_FAILURE_H
#define CA_FAILURE_H

#include "common/base/status.h"
#include "serial.pb-c.h"

/*
 * Sets *st and returns its code: UNAVAILABLE where no quorum answered in time, INTERNAL where kds-serial found fault with
 * the call (this kds-ca made it, not the caller), else the code that kds-serial gave. `what` begins the message.
 */
enum status_code failure_of_call(const char *what, const struct status *cause, struct status *st);

/* The same for a record that was refused for what no other serial mends. `why`: in kds-serial's words. */
enum status_code failure_of_record(const char *what, Kds__V1__RecordRefusal refusal, const char *why, struct status *st);

#endif
