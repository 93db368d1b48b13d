#include "daemon/argv.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Copies the word at *text to `out` and moves *text behind it. False when a quote is not closed. */
static bool next_word(const char **text, char *out)
{
    char quote = 0;
    const char *p = *text;
    for (; *p && (quote || !strchr(" \t", *p)); p++) {
        if (quote == '\'' || !strchr("'\"\\", *p)) {
            if (*p == quote)
                quote = 0;
            else
                *out++ = *p;
        } else if (*p == '\\') {
            if (quote == '"' && p[1] != '"' && p[1] != '\\')
                *out++ = *p;
            else if (p[1])
                *out++ = *++p;
            else
                return false;
        } else if (quote == 0) {
            quote = *p;
        } else if (*p == quote) {
            quote = 0;
        } else {
            *out++ = *p;
        }
    }
    *out = 0;
    *text = p;
    return quote == 0;
}

int argv_split(const char *text, char **ret_argv, int max, char errmsg[SEISMO_ERRMSG])
{
    char **argv = calloc((size_t)max + 1, sizeof(*argv));
    char *word = malloc(strlen(text) + 1);
    int n = 0, rc = SEISMO_ENOMEM;
    snprintf(errmsg, SEISMO_ERRMSG, "no memory for a command line");
    if (!argv || !word)
        goto out;
    for (;;) {
        text += strspn(text, " \t");
        if (!*text)
            break;
        if (n == max) {
            snprintf(errmsg, SEISMO_ERRMSG, "more than %d words in a command; use a script", max);
            rc = SEISMO_ECONFIG;
            goto out;
        }
        if (!next_word(&text, word)) {
            snprintf(errmsg, SEISMO_ERRMSG, "a quote is not closed, or a backslash ends the line");
            rc = SEISMO_ECONFIG;
            goto out;
        }
        argv[n] = strdup(word);
        if (!argv[n])
            goto out;
        n++;
    }
    memcpy(ret_argv, argv, ((size_t)n + 1) * sizeof(*argv));
    argv[0] = NULL; /* the words are the caller's now */
    errmsg[0] = 0;
    rc = 0;
out:
    if (argv)
        argv_free(argv);
    free(argv);
    free(word);
    return rc;
}

void argv_free(char **argv)
{
    for (; *argv; argv++) {
        free(*argv);
        *argv = NULL;
    }
}

static bool plain(const char *word)
{
    return *word && !strpbrk(word, " \t'\"\\;#");
}

void argv_print(char *const *argv, FILE *out)
{
    for (int i = 0; argv[i]; i++) {
        if (i)
            putc(' ', out);
        if (plain(argv[i])) {
            fputs(argv[i], out);
            continue;
        }
        putc('"', out);
        for (const char *p = argv[i]; *p; p++) {
            if (*p == '"' || *p == '\\')
                putc('\\', out);
            putc(*p, out);
        }
        putc('"', out);
    }
}
