/* What load.c sends to Serial.Record: certificates that nobody has signed, under serials taken from kds-serial. */
#ifndef BENCH_LOAD_RECORDS_H
#define BENCH_LOAD_RECORDS_H

#include "common/rpc/channel.h"
#include "serial.pb-c.h"

/* Takes `total` serials for requests of `batch` each. Ends the program when that fails. Blocks. */
void load_records_init(struct rpc_channel *channel, unsigned batch, uint64_t total);

/* The next request, to be freed with load_records_free(). NULL: all serials are used. Any thread. */
Kds__V1__RecordRequest *load_records_next(void);
void load_records_free(Kds__V1__RecordRequest *request);

/* Were all of them taken? */
bool load_records_ok(const ProtobufCMessage *answer);

#endif
