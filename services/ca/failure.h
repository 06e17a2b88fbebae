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

/* What mends the refusal of a record. */
enum failure_remedy {
	FAILURE_FINAL,         /* nothing that kds-ca could do */
	FAILURE_OTHER_SERIAL,
	FAILURE_OTHER_BLOCK,   /* a serial, of a block that is fetched from now on */
};
/* A version of kds-serial that does not say why (NONE) refuses for the serial, as a rule. */
enum failure_remedy failure_remedy(Kds__V1__RecordRefusal refusal);

/* What it means that a record was refused for good. `why`: in kds-serial's words. */
enum status_code failure_of_record(const char *what, Kds__V1__RecordRefusal refusal, const char *why, struct status *st);

#endif
