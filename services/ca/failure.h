/* What it means for whoever asked this kds-ca that a call to kds-serial failed. */
#ifndef CA_FAILURE_H
#define CA_FAILURE_H

#include "common/base/status.h"

/*
 * Sets *st and returns its code: UNAVAILABLE where no quorum answered in time, INTERNAL where kds-serial found fault with
 * the call (this kds-ca made it, not the caller), else the code that kds-serial gave. `what` begins the message.
 */
enum status_code failure_of_call(const char *what, const struct status *cause, struct status *st);

#endif
