/* Looking into the JSON documents that the daemon and the detector hand out. Nothing here fails:
 * what is missing or of another type reads as nothing. */
#ifndef SEISMO_CLIENT_CLI_BODY_H
#define SEISMO_CLIENT_CLI_BODY_H

#include <jansson.h>
#include <stdbool.h>

/* How all JSON is printed: one line; floats as short as the daemon wrote them; ASCII, so that no
 * control character of a peer's string reaches a terminal. */
#define BODY_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(15) | JSON_ENSURE_ASCII)

/* Borrowed from the document; "" when there is no such string. */
const char *body_string(const json_t *object, const char *key);

/* Numbers and the words "nan", "inf", "-inf"; NaN when there is neither. */
double body_number(const json_t *object, const char *key);

json_int_t body_integer(const json_t *object, const char *key, json_int_t otherwise);

/* True for a key that is absent or null. */
bool body_is_null(const json_t *object, const char *key);

/* A document on a line of its own on stdout. */
void body_print(const json_t *document);

#endif
