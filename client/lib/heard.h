/* Verdict documents as the daemon sends them, turned into what seismo.h shows. */
#ifndef SEISMO_CLIENT_LIB_HEARD_H
#define SEISMO_CLIENT_LIB_HEARD_H

#include <stddef.h>

#include "client/lib/seismo.h"

/* Reads a verdict document of `n` bytes. SEISMO_EMALFORMED when it is not one; *ret is written on
 * success only, but for `count`, which stays as it is. */
int heard_verdict(const char *text, size_t n, struct seismo_verdict *ret);

#endif
