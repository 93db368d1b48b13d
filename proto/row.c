#include <stddef.h>
#include <string.h>

#include "proto/row.h"

_Static_assert(SEISMO_N_VALUES <= 32, "the presence mask of a row has 32 bits");

static const char *const field_names[SEISMO_N_FIELDS] = {
#define SEISMO_KEY(constant, name, type, unit, meaning) [SEISMO_FIELD_##constant] = #name,
#define SEISMO_VALUE(constant, name, unit, meaning) \
    [SEISMO_FIELD_VALUE0 + SEISMO_##constant] = #name,
#include "proto/fields.def"
};

const char *seismo_field_name(int position)
{
    return position >= 0 && position < SEISMO_N_FIELDS ? field_names[position] : NULL;
}

int seismo_field_find(const char *name, uint32_t n)
{
    for (int i = 0; i < SEISMO_N_FIELDS; i++) {
        if (strlen(field_names[i]) == n && memcmp(field_names[i], name, n) == 0)
            return i;
    }
    return -1;
}
