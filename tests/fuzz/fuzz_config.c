/* The configuration file.
 *
 * What is accepted is printed, and what was printed must be accepted and print the same again:
 * nothing is lost, misread or left out by either side. */
#include <string.h>

#include "daemon/config.h"
#include "tests/fuzz/memory_file.h"

static struct memory_file file;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    /* The rest of the environment must not decide what is tested. */
    setenv("STATE_DIRECTORY", "/var/lib/seismo", 1);
    memory_file_open(&file, "seismod.conf");
    return 0;
}

static int parse(const void *data, size_t n, struct config **ret, char errmsg[SEISMO_ERRMSG])
{
    memory_file_write(&file, data, n);
    int err = config_new(file.path, ret, errmsg);
    if (err == 0)
        err = config_finish(*ret, errmsg);
    return err;
}

static char *print(const struct config *c, size_t *ret_n)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, ret_n);
    config_print(c, out);
    fclose(out);
    return text;
}

#define SAME(member)                                                                   \
    FUZZ_CHECK(a->member == b->member, #member ": %.17g and %.17g", (double)a->member, \
               (double)b->member)

/* Numbers, which a text that is the same twice may still have lost something of. */
static void same_numbers(const struct config *a, const struct config *b)
{
    SAME(log_level);
    SAME(budget);
    SAME(probe_every);
    SAME(commit_interval);
    SAME(commit_rows);
    SAME(synchronous_full);
    SAME(retain);
    SAME(retain_size);
    SAME(lost_after);
    SAME(silent_factor);
    SAME(silent_min);
    SAME(n_hooks);
    for (uint32_t i = 0; i < a->n_hooks; i++) {
        SAME(hook[i].min_severity);
        SAME(hook[i].states);
        SAME(hook[i].timeout);
    }
#define X(name, fallback, least, most, fixed, help) SAME(limits.name);
    LIMITS_MAP(X)
#undef X
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char errmsg[SEISMO_ERRMSG];
    struct config *c = NULL, *again = NULL;
    int err = parse(data, n, &c, errmsg);
    if (err != 0) {
        FUZZ_CHECK(err == SEISMO_ECONFIG, "error %d", err);
        fuzz_check_errmsg(errmsg, sizeof errmsg);
        config_free(&c);
        return 0;
    }
    size_t text_n, text_again_n;
    char *text = print(c, &text_n);
    err = parse(text, text_n, &again, errmsg);
    FUZZ_CHECK(err == 0, "%s\nof what was printed:\n%s", errmsg, text);
    char *text_again = print(again, &text_again_n);
    FUZZ_CHECK(strcmp(text, text_again) == 0, "printed again:\n%s\nand before:\n%s", text_again,
               text);
    same_numbers(c, again);
    unsigned at = 0;
    const char *changed = config_fixed_change(c, again, &at);
    FUZZ_CHECK(changed == NULL, "%s differs", changed);
    free(text_again);
    free(text);
    config_free(&again);
    config_free(&c);
    return 0;
}
