/* Error codes shared by every folder: 0 is success, everything else is negative.
 *
 * One X-macro yields the enum, the symbolic name that goes over the wire (ERROR messages) and the
 * text that a person reads. A function that can fail for a reason worth explaining also takes
 * `char errmsg[SEISMO_ERRMSG]` as its last parameter and writes what, where and what to do. */
#ifndef SEISMO_PROTO_ERR_H
#define SEISMO_PROTO_ERR_H

#define SEISMO_ERRMSG 256

/*  X(constant, value, wire name, text) */
#define SEISMO_ERR_MAP(X)                                                       \
    X(SEISMO_EMALFORMED, -1, "malformed", "malformed data")                     \
    X(SEISMO_ETOOBIG, -2, "too_big", "a stated limit is exceeded")              \
    X(SEISMO_ENOMEM, -3, "no_memory", "out of memory")                          \
    X(SEISMO_EINTERNAL, -4, "internal", "internal error")                       \
    X(SEISMO_EVERSION, -5, "version", "protocol or file version not supported") \
    X(SEISMO_EFIELD, -6, "unknown_field", "field name not known")               \
    X(SEISMO_EHELLO, -7, "hello_required", "no session: send HELLO first")      \
    X(SEISMO_EORDER, -8, "out_of_order", "batch number out of order")           \
    X(SEISMO_EBUSY, -9, "busy", "try again later")                              \
    X(SEISMO_EIO, -10, "io", "input or output failed")                          \
    X(SEISMO_ECORRUPT, -11, "corrupt", "stored data is damaged")                \
    X(SEISMO_ENOTFOUND, -12, "not_found", "no such thing")                      \
    X(SEISMO_EINVAL, -13, "invalid", "invalid argument")                        \
    X(SEISMO_ECONFIG, -14, "config", "bad configuration")                       \
    X(SEISMO_EUNREACHABLE, -15, "unreachable", "daemon not reachable")          \
    X(SEISMO_EEOF, -16, "end", "end of data")                                   \
    X(SEISMO_EDENIED, -17, "denied", "not allowed with this key")

enum seismo_err {
#define X(constant, value, name, text) constant = value,
    SEISMO_ERR_MAP(X)
#undef X
};

/* Error texts quote what stands in files; a file's control characters (C0, DEL, and C1 in UTF-8)
 * become '?', so that no terminal or log acts upon them. */
static inline void seismo_errmsg_plain(char errmsg[SEISMO_ERRMSG])
{
    for (unsigned char *p = (unsigned char *)errmsg; *p != '\0'; p++) {
        if (*p < 0x20 || *p == 0x7f)
            *p = '?';
        else if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
            p[0] = p[1] = '?';
    }
}

/* Text for a person; never NULL. */
const char *seismo_strerror(int err);

/* Name as it goes over the wire ("malformed"); never NULL. */
const char *seismo_errname(int err);

#endif
