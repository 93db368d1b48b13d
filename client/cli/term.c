#include "client/cli/term.h"

#include <langinfo.h>
#include <locale.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include "proto/text.h"

/* The next character of a text that ends in NUL. */
static uint32_t next_char(const char *text, size_t *ret_n)
{
    return text_char(text, strnlen(text, 4), ret_n);
}

/* In this thread, since term_init. */
static _Thread_local bool no_memory;

void term_no_memory(void)
{
    no_memory = true;
}

bool term_had_no_memory(void)
{
    return no_memory;
}

void term_put(const char *text, FILE *f)
{
    size_t n;

    for (; *text != '\0'; text += n) {
        char shown[TEXT_ESCAPED];

        fwrite(shown, 1, text_escape_char(shown, text, strnlen(text, 4), &n), f);
    }
}

char *term_escape(const char *text)
{
    char *escaped = NULL;
    size_t size;
    FILE *f = open_memstream(&escaped, &size);
    bool whole = f != NULL;

    if (f != NULL) {
        term_put(text, f);
        whole = !ferror(f);
        whole = fclose(f) == 0 && whole;
    }
    if (!whole || escaped == NULL) {
        term_no_memory();
        free(escaped);
        return NULL;
    }
    return escaped;
}

static int columns_of(uint32_t c)
{
    int width = c == TEXT_INVALID ? 1 : wcwidth((wchar_t)c);

    return width >= 0 ? width : 1; /* a terminal shows something for what libc does not know */
}

size_t term_fit(const char *text, int columns)
{
    size_t at = 0, n;

    while (text[at] != '\0') {
        columns -= columns_of(next_char(text + at, &n));
        if (columns < 0) {
            break;
        }
        at += n;
    }
    return at;
}

int term_columns(const char *text)
{
    int columns = 0;
    size_t n;

    for (; *text != '\0'; text += n) {
        columns += columns_of(next_char(text, &n));
    }
    return columns;
}

static int from_environment(const char *name)
{
    const char *text = getenv(name);
    long value = text != NULL ? strtol(text, NULL, 10) : 0;

    return value > 0 && value < 10000 ? (int)value : 0;
}

void term_measure(struct term *t, FILE *stream)
{
    struct winsize size = {0};
    int columns = from_environment("COLUMNS"), lines = from_environment("LINES");

    if (ioctl(fileno(stream), TIOCGWINSZ, &size) != 0) {
        size = (struct winsize){0};
    }
    t->width = columns > 0 ? columns : size.ws_col > 0 ? size.ws_col : 80;
    t->height = lines > 0 ? lines : size.ws_row > 0 ? size.ws_row : 24;
}

void term_init(struct term *ret, FILE *stream)
{
    const char *no_color = getenv("NO_COLOR"), *kind = getenv("TERM");

    no_memory = false;
    setlocale(LC_CTYPE, "");
    ret->utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    if (!ret->utf8) {
        setlocale(LC_CTYPE, "C.UTF-8"); /* so that wcwidth knows characters all the same */
    }
    ret->tty = isatty(fileno(stream)) == 1;
    ret->colour = ret->tty && (no_color == NULL || *no_color == '\0') &&
                  (kind == NULL || strcmp(kind, "dumb") != 0);
    term_measure(ret, stream);
}

const char *term_on(const struct term *t, enum colour colour)
{
    static const char *const sequences[] = {
        [COLOUR_NONE] = "",           [COLOUR_RED] = "\033[31m",     [COLOUR_GREEN] = "\033[32m",
        [COLOUR_YELLOW] = "\033[33m", [COLOUR_MAGENTA] = "\033[35m", [COLOUR_CYAN] = "\033[36m",
        [COLOUR_DIM] = "\033[2m",     [COLOUR_BOLD] = "\033[1m",
    };

    return t->colour ? sequences[colour] : "";
}

const char *term_off(const struct term *t, enum colour colour)
{
    return t->colour && colour != COLOUR_NONE ? "\033[0m" : "";
}
