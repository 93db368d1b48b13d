/* "Did you mean …?": the known name nearest to one that is not known. */
#ifndef SEISMO_DAEMON_NEAREST_H
#define SEISMO_DAEMON_NEAREST_H

#define NEAREST_MAX 160 /* bytes that are compared; the rest of a longer name is ignored */

/* Insertions, deletions and replacements that make one name of the other (Levenshtein). */
unsigned nearest_distance(const char *a, const char *b);

#endif
