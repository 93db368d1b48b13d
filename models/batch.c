#include "models/batch.h"

#include "models/features.h"

size_t seismo_row_size(void)
{
    return sizeof(struct seismo_row);
}

int seismo_values_n(void)
{
    return SEISMO_N_VALUES;
}

const char *seismo_value_name(int i)
{
    static const char *const names[SEISMO_N_VALUES] = {
#define SEISMO_VALUE(constant, name, unit, meaning) [SEISMO_##constant] = #name,
#include "proto/fields.def"
    };
    return i >= 0 && i < SEISMO_N_VALUES ? names[i] : NULL;
}

int seismo_features_n(void)
{
    return FEATURES_N;
}

unsigned seismo_features_version(void)
{
    return FEATURES_VERSION;
}

static const struct feature_info *info(int i)
{
    static const struct feature_info none;
    return i >= 0 && i < FEATURES_N ? &feature_info[i] : &none;
}

const char *seismo_feature_name(int i)
{
    return info(i)->name;
}

const char *seismo_feature_group(int i)
{
    return i >= 0 && i < FEATURES_N ? feature_group_name(info(i)->group) : NULL;
}

const char *seismo_feature_unit(int i)
{
    return info(i)->unit;
}

const char *seismo_feature_meaning(int i)
{
    return info(i)->meaning;
}

void seismo_features_batch(const struct seismo_row *rows, size_t n, float *ret)
{
    struct features f;

    features_init(&f);
    for (size_t i = 0; i < n; i++)
        features_push(&f, &rows[i], ret + i * FEATURES_N);
}
