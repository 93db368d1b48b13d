#include "models/reason.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void number_print(char *ret, size_t size, enum feature_form form, float x)
{
    double y = form == FORM_RATIO ? exp(x) : form == FORM_SHARE ? 100.0 * x : x;

    /* Three digits, but no "1e+03" for what people write as 1000. */
    snprintf(ret, size, fabs(y) >= 1000 && fabs(y) < 1e6 ? "%.0f%s" : "%.3g%s", y,
             form == FORM_SHARE ? " %" : "");
}

void reason_feature(struct verdict_reason *ret, enum feature feature, float value, float usual,
                    int64_t since, float contribution)
{
    const struct feature_info *info = &feature_info[feature];
    char x[32], u[48] = "", s[40] = "";

    ret->feature = info->name;
    ret->value = value;
    ret->contribution = contribution;
    if (isnan(value)) {
        snprintf(ret->text, sizeof(ret->text), "%s is not known", info->name);
        return;
    }
    number_print(x, sizeof(x), info->form, value);
    if (!isnan(usual)) {
        size_t n = (size_t)snprintf(u, sizeof(u), " (usually ");
        number_print(u + n, sizeof(u) - n - 1, info->form, usual);
        strcat(u, ")");
    }
    if (since >= 0)
        snprintf(s, sizeof(s), ", since step %" PRId64, since);
    const char *hole = strstr(info->phrase, "%s");
    snprintf(ret->text, sizeof(ret->text), "%.*s%s%s%s%s", (int)(hole - info->phrase), info->phrase,
             x, hole + 2, u, s);
}

void reason_rule(struct verdict_reason *ret, const char *name, float value, const char *format, ...)
{
    va_list ap;

    ret->feature = name;
    ret->value = value;
    ret->contribution = 0;
    va_start(ap, format);
    vsnprintf(ret->text, sizeof(ret->text), format, ap);
    va_end(ap);
}
