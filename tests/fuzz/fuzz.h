/* What the fuzz targets share. A target defines LLVMFuzzerTestOneInput (and perhaps
 * LLVMFuzzerInitialize); with -Dfuzz=true libFuzzer calls it, otherwise corpus_main.c does, with
 * every file of the committed corpus. */
#ifndef SEISMO_TESTS_FUZZ_H
#define SEISMO_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* An invariant: not an assert, because it must hold in every kind of build. */
#define FUZZ_CHECK(condition, ...)                                          \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                   \
            fputc('\n', stderr);                                            \
            abort();                                                        \
        }                                                                   \
    } while (0)

/* An error text is never empty, and holds nothing that a terminal or a log would act upon. */
static inline void fuzz_check_errmsg(const char *errmsg, size_t size)
{
    size_t n = 0;
    while (n < size && errmsg[n] != '\0') {
        unsigned char c = (unsigned char)errmsg[n];
        FUZZ_CHECK(c >= 0x20 && c != 0x7f, "byte 0x%02x in the error text %s", c, errmsg);
        FUZZ_CHECK(c != 0xc2 || (unsigned char)errmsg[n + 1] - 0x80u >= 0x20,
                   "a control character of two bytes in the error text %s", errmsg);
        n++;
    }
    FUZZ_CHECK(n > 0 && n < size, "an error text of %zu bytes", n);
}

#endif
