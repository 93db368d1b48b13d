#include "daemon/nearest.h"

#include <string.h>

unsigned nearest_distance(const char *a, const char *b)
{
    unsigned row[NEAREST_MAX + 1];
    size_t m = strnlen(a, NEAREST_MAX), n = strnlen(b, NEAREST_MAX);
    for (size_t j = 0; j <= n; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= m; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= n; j++) {
            unsigned replaced = diagonal + (a[i - 1] != b[j - 1]);
            unsigned best = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best < replaced ? best : replaced;
        }
    }
    return row[n];
}
