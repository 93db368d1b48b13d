/* JSON from text, telling faults of the text from a lack of memory.
 *
 * jansson calls an allocation that fails a fault of the text, or even leaves out the character that
 * found no room in its buffer and goes on, so that a name silently loses a letter. */
#ifndef SEISMO_PROTO_JSON_TEXT_H
#define SEISMO_PROTO_JSON_TEXT_H

#include <jansson.h>
#include <stdbool.h>

/* Once at the start of a program, before jansson is used: has its allocations watched. A library
 * leaves that to the program that it is in, and without it json_text only knows of the failures
 * that end in no value. */
void json_text_init(void);

/* Whether an allocation of jansson's has failed in this thread since then, so that what was made
 * of JSON may lack something. */
bool json_text_lost(void);

/* json_loadb. NULL, and *ret_no_memory true, when memory was out. `ret_no_memory` may be NULL. */
json_t *json_text(const char *text, size_t n, size_t flags, json_error_t *error,
                  bool *ret_no_memory);

#endif
