/* The path of a field that was refused ("objects[2].node.name"), built from the inside out while a walk unwinds. */
#ifndef RPC_PATH_H
#define RPC_PATH_H

#include <stddef.h>

#define PATH_MAX_LEN 128
#define PATH_NO_INDEX ((size_t)-1)

/* Puts "name." or "name[index]." before what stands in path; the end is cut where it does not fit. */
void path_prepend(char path[static PATH_MAX_LEN], const char *name, size_t index);

#endif
