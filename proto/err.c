#include "proto/err.h"

const char *seismo_strerror(int err)
{
    switch (err) {
    case 0:
        return "success";
#define X(constant, value, name, text) \
    case constant:                     \
        return text;
        SEISMO_ERR_MAP(X)
#undef X
    default:
        return "unknown error";
    }
}

const char *seismo_errname(int err)
{
    switch (err) {
    case 0:
        return "ok";
#define X(constant, value, name, text) \
    case constant:                     \
        return name;
        SEISMO_ERR_MAP(X)
#undef X
    default:
        return "unknown";
    }
}
