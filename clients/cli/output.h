/*
 * What goes to standard output: tables for people, one JSON document for programs.
 * Text that came from elsewhere is stripped of control characters: no answer can drive the reader's terminal.
 */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

#include "clients/cli/cli.h"

struct table;

/* `headings` are borrowed; NULL: a record, two columns "name:" and value, without a heading. NULL: no memory. */
struct table *table_new(const char *const *headings, size_t n_columns) MUST_CHECK;
void table_free(struct table *t);
/* Adds the next cell, row by row. A lack of memory is reported by table_print(). */
void table_add(struct table *t, const char *format, ...) PRINTF_LIKE(2, 3);
/* Both cells of a record's line. */
void table_field(struct table *t, const char *name, const char *format, ...) PRINTF_LIKE(3, 4);
/* Columns as wide as their widest cell, the last one as it comes. */
enum status_code table_print(const struct table *t, struct status *st) MUST_CHECK;

/* One document, indented, a newline behind it. Takes the reference. */
enum status_code output_json(json_t *json, struct status *st) MUST_CHECK;
/* A message in protobuf's JSON mapping, with all its fields. */
enum status_code output_message(const ProtobufCMessage *message, struct status *st) MUST_CHECK;

/* A file name or message with control characters replaced by "?", in place. */
void output_sanitize(char *text);

/* "2026-03-01T12:00:00Z" of Unix seconds, into buf; "-" for 0. Returns buf. */
#define OUTPUT_TIME_SIZE 32
const char *output_time(int64_t unix_s, char buf[OUTPUT_TIME_SIZE]);
/* "0a1b" of bytes; cut to fit. Returns buf. */
const char *output_hex(const uint8_t *data, size_t len, char *buf, size_t size);
/* NULL: no memory. */
json_t *output_json_strings(char *const *strings, size_t n);

#endif
